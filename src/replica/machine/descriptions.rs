//! Owns what the members say of themselves, each in its own document, and what this node says there.
//!
//! Must not know who is let in, nor how a node is dialled. Invariants: a node says so wherever its
//! own document lacks what it has announced; a member can be dialled from when it is let in, though
//! nothing that it says has come yet.

use std::collections::BTreeSet;

use super::super::{
    command::{Refusal, Reply},
    effect::{Effects, Now, Write},
    ids::NodeId,
    record::{ADDRESSES_MAX, Description},
};
use super::{Replica, reach::is_address};
use crate::wire::{Contact, limits::CONTACTS_MAX};

impl Replica {
    /// Takes note of this node's name and addresses, and says so in its own document.
    pub(super) fn announce(
        &mut self,
        now: Now,
        name: String,
        addresses: BTreeSet<String>,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.name = name;
        self.addresses = addresses.into_iter().take(ADDRESSES_MAX).collect();
        self.reach_changed = true;
        self.is_announced = true;
        self.describe_this_node(now, fx);
        Ok(Reply::Done)
    }

    /// Writes what this node says of itself where its document says something else; level-triggered,
    /// since the document may be lost, or begun again, at any time.
    pub(super) fn describe_this_node(&mut self, now: Now, fx: &mut Effects) {
        let id = self.own_document();
        // Before it was announced, what is known is less than what was written before the start.
        if !self.is_announced || !self.documents.contains_key(&id) {
            return;
        }
        let said = Description { name: Some(self.name.clone()), addresses: self.addresses.clone() };
        if self.descriptions.get(&self.node) == Some(&said) {
            return;
        }
        let Some(document) = self.documents.get_mut(&id) else { return };
        if let Some(mut applied) = document.describe_host(now.wall_ms, &said) {
            self.absorb(now, id, &mut applied, None, fx);
        }
    }

    /// Reads again what a host says of itself; what it last said counts while its document is away.
    pub(super) fn read_description(&mut self, host: NodeId, fx: &mut Effects) {
        let Some(document) = self.newest(host) else { return };
        let said = document.description();
        if said.name.is_some() && self.contacts.remove(&host).is_some() {
            fx.writes.push(Write::Contact { node: host, addresses: BTreeSet::new() });
        }
        if self.descriptions.get(&host) != Some(&said) {
            self.descriptions.insert(host, said);
            self.reach_changed = true;
        }
    }

    /// Reads again what each host says of itself.
    pub(super) fn read_descriptions(&mut self, fx: &mut Effects) {
        let hosts: BTreeSet<NodeId> =
            self.documents.keys().filter_map(|document| document.host()).collect();
        hosts.into_iter().for_each(|host| self.read_description(host, fx));
    }

    /// Forgets what the members of a fleet that is left have said.
    pub(super) fn forget_descriptions(&mut self, fx: &mut Effects) {
        let own = self.node;
        self.descriptions.retain(|node, _| *node == own);
        for node in std::mem::take(&mut self.contacts).into_keys() {
            fx.writes.push(Write::Contact { node, addresses: BTreeSet::new() });
        }
    }

    /// Forgets what one member has said.
    pub(super) fn forget_description(&mut self, node: NodeId, fx: &mut Effects) {
        self.descriptions.remove(&node);
        if self.contacts.remove(&node).is_some() {
            fx.writes.push(Write::Contact { node, addresses: BTreeSet::new() });
        }
    }

    /// Remembers where a member can be dialled that has not said so itself yet.
    pub(super) fn note_contact(
        &mut self,
        node: NodeId,
        addresses: BTreeSet<String>,
        fx: &mut Effects,
    ) {
        let has_said = self.descriptions.get(&node).is_some_and(|said| said.name.is_some());
        if has_said || addresses.is_empty() || self.contacts.get(&node) == Some(&addresses) {
            return;
        }
        fx.writes.push(Write::Contact { node, addresses: addresses.clone() });
        self.contacts.insert(node, addresses);
        self.reach_changed = true;
    }

    /// Lists where the other members can be dialled, for one that is let in.
    pub(super) fn contacts_for(&self, joiner: NodeId) -> Vec<Contact> {
        let current = self.members.values().filter(|member| member.is_current());
        let others = current.map(|member| member.node).filter(|node| *node != joiner);
        let contacts = others.map(|node| {
            let addresses = self.addresses_of(&node).iter().filter(|it| is_address(it));
            Contact { node, addresses: addresses.take(ADDRESSES_MAX).cloned().collect() }
        });
        contacts.filter(|contact| !contact.addresses.is_empty()).take(CONTACTS_MAX).collect()
    }

    /// Returns where a member says that it can be dialled, or was said to when it was let in.
    pub(super) fn addresses_of(&self, node: &NodeId) -> &BTreeSet<String> {
        static NOWHERE: BTreeSet<String> = BTreeSet::new();
        let said = self.descriptions.get(node).filter(|said| said.name.is_some());
        said.map(|said| &said.addresses).or_else(|| self.contacts.get(node)).unwrap_or(&NOWHERE)
    }

    /// Returns what a member calls itself, or was called when it was let in.
    pub(super) fn display_name(&self, node: &NodeId) -> String {
        let said = self.descriptions.get(node).and_then(|said| said.name.clone());
        said.unwrap_or_else(|| self.name_of(node))
    }
}

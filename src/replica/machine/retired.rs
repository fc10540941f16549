//! Owns hiding the records of retired hosts, and freeing their documents after 30 days.
//!
//! Must not know who may retire whom. Invariants: once a node has learnt of a retirement it shows, writes and
//! exchanges nothing of that host. It keeps the documents for 30 days, in case the retirement ceases to count,
//! and frees them then even if it was off or restarted meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    command::Refusal,
    diff,
    effect::{Effects, Now, Write},
    ids::NodeId,
    record::Member,
    view,
};
use super::{Origin, Replica, read_all};

/// How long the documents of a retired host are kept unseen, in milliseconds: 30 days.
const KEPT_MS: i64 = 30 * 24 * 3_600 * 1_000;
/// How often it is looked whether that is over: the wall clock may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// The retired hosts, and which of them still have documents here.
#[derive(Debug, Clone, Default)]
pub struct Hiding {
    retired: BTreeSet<NodeId>,
    /// When the hosts with documents here were hidden, in milliseconds since the epoch by this node's clock: an
    /// admin's clock may be wrong.
    since: BTreeMap<NodeId, i64>,
    look_at: Option<Duration>,
}

impl Hiding {
    /// Starts with what was stored.
    pub fn new(since: BTreeMap<NodeId, i64>) -> Self {
        Self { since, ..Self::default() }
    }

    /// Reads the retired hosts from the members. A node goes on showing its own records.
    pub fn read(&mut self, own: NodeId, members: &BTreeMap<NodeId, Member>) {
        let retired = members.values().filter(|it| it.is_retired() && it.node != own);
        self.retired = retired.map(|member| member.node).collect();
    }

    /// Tells whether a host is hidden.
    pub fn hides(&self, host: &NodeId) -> bool {
        self.retired.contains(host)
    }

    /// Lists the hosts that are hidden.
    pub fn hidden(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.retired.iter().copied()
    }

    /// Returns when it is to be looked next whether something is to be freed.
    pub fn due(&self) -> Option<Duration> {
        self.look_at.filter(|_| !self.since.is_empty())
    }
}

impl Replica {
    /// Refuses what is about a retired host.
    pub(super) fn refuse_retired(&self, host: NodeId) -> Result<(), Refusal> {
        match self.hiding.hides(&host) {
            true => Err(Refusal::Retired(self.name_of(&host))),
            false => Ok(()),
        }
    }

    /// Finds the former member that is meant by a name which no present one has.
    pub(super) fn find_former(&self, name: &str) -> Result<Option<Member>, Refusal> {
        let is_named = |member: &&Member| member.name == name && !member.is_retired();
        let named: Vec<&Member> = self.members.values().filter(is_named).collect();
        if named.iter().any(|member| member.is_current()) {
            return Ok(None);
        }
        match named[..] {
            [] => Ok(None),
            [former] => Ok(Some(former.clone())),
            _ => Err(Refusal::AmbiguousNode {
                name: name.to_owned(),
                nodes: named.iter().map(|member| member.node.to_string()).collect(),
            }),
        }
    }

    /// Returns the reason for closing the link of a key that was shut out: by whom, and what helps.
    pub(super) fn shut_out_by(&self, peer: &NodeId) -> String {
        let Some(revoked) = self.members.get(peer).and_then(|it| it.revoked.as_ref()) else {
            return "this key is not a member of the fleet".to_owned();
        };
        let (what, by) = (revoked.verb(), self.name_of(&revoked.by));
        format!("this key was {what} from the fleet by {by}; a new key and a ticket are needed")
    }

    /// Hides retired hosts at a start, once the view is built.
    pub(super) fn hide_at_start(&mut self, now: Now, fx: &mut Effects) {
        self.note_hidden(now, fx);
        for host in self.hiding.retired.clone() {
            self.view.remove_host(host);
        }
    }

    /// Hides the records of hosts that are retired now, and shows those of hosts that are retired no longer.
    pub(super) fn hide_and_show(&mut self, now: Now, origin: Origin, fx: &mut Effects) {
        let mut shown = view::Touched::default();
        for host in self.note_hidden(now, fx) {
            if let Some(document) = self.host_document(host) {
                read_all(document, host, &mut shown);
            }
        }
        self.publish(now, shown, origin, BTreeSet::new(), fx);
        let (mut changes, mut authors) = (Vec::new(), BTreeSet::new());
        for host in self.hiding.retired.clone() {
            let hidden = self.view.remove_host(host);
            if !hidden.is_empty() {
                let by = self.members.get(&host).and_then(|it| it.revoked.as_ref());
                authors.extend(by.map(|revoked| revoked.by.fingerprint()));
                changes.extend(hidden);
            }
        }
        self.tell_events(now, diff::hiding(changes), origin, authors, fx);
    }

    /// Notes when hosts were hidden; returns the hosts that are hidden no longer.
    fn note_hidden(&mut self, now: Now, fx: &mut Effects) -> Vec<NodeId> {
        let hides = |host: &NodeId| self.hiding.hides(host);
        let back: Vec<NodeId> =
            self.hiding.since.keys().copied().filter(|host| !hides(host)).collect();
        for host in &back {
            self.keep_hidden_no_more(*host, fx);
        }
        for host in self.hiding.retired.clone() {
            let held = self.held_of(host);
            if held.is_empty() || self.hiding.since.contains_key(&host) {
                continue;
            }
            // What is under way with peers ends here.
            held.iter().for_each(|id| self.exchange.forget(id));
            self.hiding.since.insert(host, now.wall_ms);
            fx.writes.push(Write::Hidden { host, since: Some(now.wall_ms) });
            self.hiding.look_at = Some(now.monotonic);
        }
        back
    }

    /// Drops the note that a host is hidden.
    pub(super) fn keep_hidden_no_more(&mut self, host: NodeId, fx: &mut Effects) {
        if self.hiding.since.remove(&host).is_some() {
            fx.writes.push(Write::Hidden { host, since: None });
        }
    }

    /// Frees the documents of hosts that were hidden long enough.
    pub(super) fn free_hidden(&mut self, now: Now, fx: &mut Effects) {
        if self.hiding.since.is_empty() || self.hiding.look_at.is_some_and(|at| at > now.monotonic)
        {
            return;
        }
        self.hiding.look_at = Some(now.monotonic + LOOK_EVERY);
        let is_over = |since: &i64| now.wall_ms.saturating_sub(*since) >= KEPT_MS;
        let over = self.hiding.since.iter().filter(|(_, since)| is_over(since));
        let over: BTreeSet<NodeId> = over.map(|(host, _)| *host).collect();
        if over.is_empty() {
            return;
        }
        self.drop_documents(|id| id.host().is_some_and(|host| over.contains(&host)), fx);
        for host in over {
            self.keep_hidden_no_more(host, fx);
            self.forget_description(host, fx);
            tracing::info!(%host, name = self.name_of(&host), "freed the documents of a retired host");
        }
    }
}

//! Owns what is told of the other members and the links to them.
//!
//! Must not change anything. Invariant: it is read off what the replica knows at that moment.

use std::collections::BTreeSet;

use super::{
    super::{ids::NodeId, record::Member},
    Replica,
};

/// A member other than this node, as [`Replica::peers`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// What the statements about membership say of it.
    pub member: Member,
    /// What it calls itself: for people, not for commands.
    pub name: String,
    /// Where it says that it can be dialled, `IP:PORT`.
    pub addresses: BTreeSet<String>,
    /// Whether a link is up and both have greeted.
    pub connected: bool,
    /// Whether this node has paused syncing with it.
    pub paused: bool,
    /// Whether both are known to hold the same.
    pub in_sync: bool,
    /// Why there is no link, where that is known.
    pub problem: Option<String>,
    /// What this node has left out of what the member wrote; `None` if nothing.
    pub left_out: Option<String>,
}

/// How this node was shut out of its fleet, as [`Replica::shut_out`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutOut {
    /// The name of the admin that did it.
    pub by: String,
    /// Milliseconds since the epoch by that admin's clock; for people only.
    pub at: i64,
    /// Whether it was retired, not only revoked.
    pub is_retired: bool,
}

impl ShutOut {
    /// Returns what was done to the node, in one word.
    pub fn verb(&self) -> &'static str {
        if self.is_retired { "retired" } else { "revoked" }
    }
}

impl Replica {
    /// Tells who has shut this node out of its fleet, if it knows of that.
    pub fn shut_out(&self) -> Option<ShutOut> {
        let revoked = self.members.get(&self.node)?.revoked.as_ref()?;
        let (by, at) = (self.name_of(&revoked.by), revoked.at);
        Some(ShutOut { by, at, is_retired: revoked.retired })
    }

    /// Returns the admin that no other one can shut out for good, and what it was admitted as.
    pub fn root(&self) -> Option<(NodeId, String)> {
        let root = self.membership.root()?;
        Some((root, self.name_of(&root)))
    }

    /// Lists the members other than this node, former ones only if they are revoked and
    /// not retired.
    pub fn peers(&self) -> Vec<PeerView> {
        let frontier = self.frontier();
        self.members
            .values()
            .filter(|member| member.node != self.node && !member.left && !member.is_retired())
            .map(|member| PeerView {
                connected: self.exchange.is_greeted(&member.node),
                paused: self.paused.contains(&member.node),
                in_sync: self.exchange.is_in_sync(&member.node, &frontier),
                problem: self.problems.get(&member.node).cloned(),
                name: self.display_name(&member.node),
                addresses: self.addresses_of(&member.node).clone(),
                left_out: self.blame.of(&member.node, |id| self.documents.contains_key(id)),
                member: member.clone(),
            })
            .collect()
    }
}

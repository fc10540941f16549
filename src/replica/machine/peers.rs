//! Owns what is told of the other members and the links to them.
//!
//! Must not change anything. Invariant: it is read off what the replica knows at that moment.

use std::collections::BTreeSet;

use super::{super::record::Member, Replica};

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

impl Replica {
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
                left_out: self.blame.of(&member.node),
                member: member.clone(),
            })
            .collect()
    }
}

//! Owns the reasons for which a change is not taken for its author's work.
//!
//! Must not know how that is found out. Invariant: each has a name that never changes.

use super::{super::ids::NodeId, authority::Overreach};

/// Explains why a change is not taken for its author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Nobody vouches for it.
    #[error("nobody vouches for the last change of an actor")]
    Unvouched,
    /// Its voucher is not by the key of the node whose name it bears.
    #[error("a voucher is not by the node in whose name it is")]
    Forged,
    /// It does not stand where its author's next change does.
    #[error("a change{} does not follow its author's previous one", by_whom(by.as_ref()))]
    Unlinked {
        /// Its author, where the fault is in what that has signed.
        by: Option<NodeId>,
    },
    /// Its counters are not those that follow from what it depends on.
    #[error("a change{} does not count its operations on from those before it", by_whom(by.as_ref()))]
    Counter {
        /// Its author, where it is known here.
        by: Option<NodeId>,
    },
    /// It does what its author must not.
    #[error("a change by {} {did}", named(by.as_ref()))]
    Overreach {
        /// Its author, who need not be the peer that passed it on, where it is known here.
        by: Option<NodeId>,
        /// What it does.
        did: Overreach,
    },
}

impl Untrusted {
    /// Returns the error's name for logs and metrics; it never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unvouched => "unvouched",
            Self::Forged => "forged",
            Self::Unlinked { .. } => "unlinked",
            Self::Counter { .. } => "counter",
            Self::Overreach { .. } => "overreach",
        }
    }

    /// Returns the node that has signed what is wrong, where that is not the sender.
    pub fn author(self) -> Option<NodeId> {
        match self {
            Self::Unvouched | Self::Forged => None,
            Self::Unlinked { by } | Self::Counter { by } | Self::Overreach { by, .. } => by,
        }
    }
}

fn named(node: Option<&NodeId>) -> String {
    node.map_or_else(|| "a node that is not known here".to_owned(), ToString::to_string)
}

fn by_whom(node: Option<&NodeId>) -> String {
    node.map_or_else(String::new, |node| format!(" by {node}"))
}

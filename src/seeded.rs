//! Owns the deliberate faults that show that the tests would notice such faults.
//!
//! Must not be compiled but for those tests: it exists under the feature `seeded-bugs` alone.
//! Invariant: a fault is planted in the thread that plants it, and only there.

use std::cell::Cell;

/// A deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A node writes under the same actor at every start.
    ActorReused,
    /// A commit does not wait for the disk.
    NoFsync,
    /// A reply is given before what it tells is durable.
    ReplyBeforeCommit,
    /// A snapshot takes the place of changes without having been loaded.
    SnapshotUnverified,
    /// A workspace is ended only where the node that deleted its last session says so.
    RuleAtDelete,
    /// What came from a peer is not passed on.
    RelayDropped,
    /// Of a concurrent delete and restore, restore wins.
    RestoreBeatsDelete,
    /// An edit that the purging host had not seen brings the session back.
    PurgeUndone,
    /// A teardown starts before its seal is durable.
    SealNotDurable,
    /// A teardown begins although a session came into the workspace after it was asked for.
    SealNotLookedAt,
    /// A subscriber is not given every diff.
    CursorSkips,
    /// The digest is not brought up to a record that changed.
    DigestStale,
    /// A send queue takes whatever is put in.
    QueueUnbounded,
    /// A diff is published twice.
    DiffTwice,
    /// A statement about membership counts that its author's key did not sign.
    SignatureUnchecked,
    /// The acts of juniors are applied before those of their seniors.
    SeniorityIgnored,
    /// A removal is applied that another one excludes.
    ExcludedCounts,
    /// The last admin can be removed.
    LastAdminRemoved,
    /// What a key signs beside its step-down is applied before it.
    StepDownLate,
    /// A node whose admission is excluded stays in.
    ExcludedAdmits,
}

impl Bug {
    /// Those that the simulation of whole nodes is to notice.
    pub const ALL: [Self; 14] = [
        Self::ActorReused,
        Self::NoFsync,
        Self::ReplyBeforeCommit,
        Self::SnapshotUnverified,
        Self::RuleAtDelete,
        Self::RelayDropped,
        Self::RestoreBeatsDelete,
        Self::PurgeUndone,
        Self::SealNotDurable,
        Self::SealNotLookedAt,
        Self::CursorSkips,
        Self::DigestStale,
        Self::QueueUnbounded,
        Self::DiffTwice,
    ];

    /// Those that the tests of membership are to notice.
    pub const MEMBERSHIP: [Self; 6] = [
        Self::SignatureUnchecked,
        Self::SeniorityIgnored,
        Self::ExcludedCounts,
        Self::LastAdminRemoved,
        Self::StepDownLate,
        Self::ExcludedAdmits,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a fault in this thread, or takes it out.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Tells whether a fault is planted in this thread.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

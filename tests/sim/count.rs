//! What a life has seen: each kind of fault, and each state that is rarely reached.

use std::{fmt, ops::AddAssign};

macro_rules! kinds {
    (faults { $($fault:ident = $fault_name:literal,)* } states { $($state:ident = $state_name:literal,)* }) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Seen { $($fault,)* $($state,)* }

        impl Seen {
            pub const FAULTS: &[Self] = &[$(Self::$fault,)*];
            pub const STATES: &[Self] = &[$(Self::$state,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$fault => $fault_name,)* $(Self::$state => $state_name,)* }
            }
        }
    };
}

kinds! {
    faults {
        Dropped = "datagram lost",
        Duplicated = "datagram twice",
        Reordered = "datagram overtaken",
        Delayed = "datagram late",
        Cut = "link cut both ways",
        OneWay = "link cut one way",
        Parted = "nodes parted",
        Reset = "link reset",
        ResetInFrame = "link reset within a frame",
        CloseLost = "close lost",
        DialFailed = "dial unanswered",
        SlowLink = "slow link",
        Killed = "killed",
        PowerCut = "power cut",
        TornCommit = "power cut in a commit",
        SyncFailed = "sync failed",
        DiskFull = "disk full",
        SlowDisk = "slow disk",
        Garbled = "snapshot garbled in memory",
        Restored = "restored from an old backup",
        Restarted = "stopped and started",
        Stalled = "loop stalled",
        ClockJumped = "clock jumped",
        YearOff = "clock a year off",
        Suspended = "machine asleep",
        AgentAway = "agent away",
        TeardownFailed = "teardown failed",
        SlowSubscriber = "slow subscriber",
        VanishedSubscriber = "subscriber vanished",
        Paused = "peer paused",
        Joined = "node joined",
        Revoked = "node revoked",
        Retired = "node retired",
        Apart = "used while it is ended elsewhere",
        Straggled = "written to an epoch left behind",
        Rogue = "a member gone bad does something",
    }
    states {
        Acknowledged = "acknowledged",
        Refused = "refused",
        Overflowed = "send queue overflowed",
        SyncProtocol = "repair by sync protocol",
        Conflict = "two links at once",
        SnapshotAtCrash = "snapshot under way at a crash",
        CompactionAtCrash = "compaction at a crash",
        TeardownAtCrash = "teardown at a crash",
        LostInCrash = "writes lost in a crash",
        Compacted = "log compacted",
        Unverified = "snapshot refused by verification",
        Stranded = "session stranded",
        Failed = "workspace failed",
        PutOff = "teardown put off",
        Behind = "put back from a backup behind a restore",
        Gone = "workspace gone",
        Purged = "session purged",
        Restored2 = "session restored",
        SubscriberReset = "subscriber began anew",
        SubscriberResumed = "subscriber went on after a restart",
        Grouped = "several batches in one commit",
        Gathered = "several frames taken in as one",
        AskedTogether = "command taken in together with others",
        ReadAside = "frame read beside the loop",
        AnsweredAside = "answer put together beside the loop",
        ReadAgain = "read again: the node had gone on",
        ReadAtCrash = "frame being read at a crash",
        AgentDeleted = "deleted at the agent",
        Rewritten = "document written anew",
        Layered = "several epochs of a host held",
        CarriedOver = "carried over to a later epoch",
        RewriteAtCrash = "crash while an epoch was written",
        CarryAtCrash = "crash while it was carried over",
    }
}

const KINDS: usize = Seen::FAULTS.len() + Seen::STATES.len();

/// How often each was seen.
#[derive(Debug, Clone)]
pub struct Counts([u64; KINDS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; KINDS])
    }
}

impl Counts {
    pub fn add(&mut self, seen: Seen) {
        self.0[seen as usize] += 1;
    }

    pub fn of(&self, seen: Seen) -> u64 {
        self.0[seen as usize]
    }

    pub fn faults(&self) -> u64 {
        Seen::FAULTS.iter().map(|seen| self.of(*seen)).sum()
    }

    /// Lists what was seen less than so often.
    pub fn rarer_than(&self, times: u64) -> Vec<String> {
        let all = Seen::FAULTS.iter().chain(Seen::STATES);
        // What takes several things at once to come about is seen seldom, and played by name.
        let seldom = |seen: &Seen| matches!(seen, Seen::PutOff | Seen::Behind);
        let least = |seen: &Seen| if seldom(seen) { 1 } else { times };
        let rare = all.filter(|seen| self.of(**seen) < least(seen));
        rare.map(|seen| format!("{}: {}", seen.name(), self.of(*seen))).collect()
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, kinds) in [("fault", Seen::FAULTS), ("state", Seen::STATES)] {
            for seen in kinds {
                writeln!(f, "  {what}  {:<36} {:>9}", seen.name(), self.of(*seen))?;
            }
        }
        Ok(())
    }
}

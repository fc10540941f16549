//! Owns keeping the trash beside the loop: deleting what is due, telling the fleet what is kept, and
//! putting back what members ask for.
//!
//! Must not know how an entry lies on the disk. Invariant: it acts on what is so, not on what has
//! happened, so that a lost hint or a crash delays it and changes nothing.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    handle::{Handle, RequestError},
    machine::Machine,
    trash::HostTrash,
};
use crate::{
    clock,
    replica::{
        command::{Command, Reply},
        ids::{NodeId, OperationId},
        trash::{TrashEntry, TrashState},
    },
    teardown::trash::TrashError,
};

/// How often what is due is deleted, and what is kept is looked at without a hint.
const EVERY: Duration = Duration::from_secs(60);
/// How soon it is tried again to do what could not be done.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the trash until it is told to stop.
pub async fn run(machine: Machine, handle: Handle, node: NodeId, stop: CancellationToken) {
    let (trash, expiring) = (machine.trash().clone(), machine.trash().clone());
    let mut changes = handle.restores().subscribe();
    let expire = async {
        loop {
            let machine = machine.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || machine.look()).await {
                tracing::error!(%error, "looking at the machine has panicked");
            }
            expiring.maintain().await;
            let again = Instant::now() + EVERY;
            // What has come since may be due sooner.
            loop {
                changes.mark_unchanged();
                let due = Instant::now() + until_due(&expiring.list().await, clock::wall_ms());
                if tokio::time::timeout_at(due.min(again), changes.changed()).await.is_err() {
                    break;
                }
            }
        }
    };
    let mut hints = handle.restores().subscribe();
    let mut keeper = Keeper { trash, handle, node, told: None };
    let keep = async {
        loop {
            hints.mark_unchanged();
            let pause = if keeper.turn().await { EVERY } else { RETRY };
            // The sender is the handle's own.
            let _ = tokio::time::timeout(pause, hints.changed()).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { tokio::join!(expire, keep); } => {}
    }
}

/// Returns how long it is until the next entry is due, within the times that are waited for.
fn until_due(entries: &[TrashEntry], now_ms: i64) -> Duration {
    // One that can't be deleted is not due again at once.
    let kept = entries.iter().filter(|entry| entry.state == TrashState::Kept);
    let due = kept.map(|entry| entry.expires_at.saturating_sub(now_ms)).min();
    let due = due.map_or(EVERY, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
    due.clamp(RETRY, EVERY)
}

struct Keeper {
    trash: HostTrash,
    handle: Handle,
    node: NodeId,
    /// What the fleet was told last.
    told: Option<Vec<TrashEntry>>,
}

impl Keeper {
    /// Carries out what is asked for and tells the fleet what is kept now; false if something is left
    /// to do that can't be done at present.
    async fn turn(&mut self) -> bool {
        let (answered, is_done) = match self.put_back().await {
            Ok(put_back) => put_back,
            Err(error) => {
                tracing::debug!(%error, "can't see what is to be put back");
                return false;
            }
        };
        let entries = self.trash.list().await;
        if answered.is_empty() && self.told.as_ref() == Some(&entries) {
            return is_done;
        }
        match self.report(&entries, &answered).await {
            Ok(()) => {
                self.told = Some(entries);
                is_done
            }
            Err(error) => {
                tracing::debug!(%error, "what is kept is not told yet");
                false
            }
        }
    }

    /// Puts back what members ask for, to where it was; returns which requests that answers, and
    /// whether those are all.
    async fn put_back(&self) -> Result<(BTreeSet<OperationId>, bool), RequestError> {
        let (mut answered, mut is_done) = (BTreeSet::new(), true);
        let kept = self.handle.trash().await?.into_iter();
        let asked = kept.filter(|it| it.entry.host == self.node && !it.requests.is_empty());
        for listed in asked {
            let id = listed.entry.id.as_str();
            match self.trash.restore(id, None).await {
                Ok(restored) => {
                    tracing::info!(
                        id,
                        restored_as = restored.restored_as,
                        "put back from the trash"
                    );
                }
                Err(TrashError::Busy(_)) => {
                    is_done = false;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(id, %error, "not put back from the trash");
                    self.trash.note_refused(id, error.to_string());
                }
            }
            answered.extend(listed.requests.into_keys());
        }
        Ok((answered, is_done))
    }

    async fn report(
        &self,
        entries: &[TrashEntry],
        answered: &BTreeSet<OperationId>,
    ) -> Result<(), RequestError> {
        loop {
            let (entries, answered) = (entries.to_vec(), answered.clone());
            match self.handle.command(Command::ReportTrash { entries, answered }).await? {
                Reply::TrashReported { left: 1.. } => {}
                _ => return Ok(()),
            }
        }
    }
}

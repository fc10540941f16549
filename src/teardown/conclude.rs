//! Owns what follows once a workspace's files lie in the trash: its agent forgets it, its branch
//! stays, and it is said what was done.
//!
//! Must not move anything. Invariant: it says only what was found and done.

use std::path::Path;

use super::{
    Config,
    ledger::{Entry, Step},
    problem::Problem,
    trash::{BranchKept, Manifest},
};
use crate::{
    clock,
    replica::{effect::TeardownDue, record::TeardownAction},
};

/// Goes on with an attempt whose files lie in the trash, to its end; perhaps after a crash.
pub fn conclude(due: &TeardownDue, manifest: Manifest, config: &Config) -> Result<Entry, Problem> {
    // Nobody puts it back while its agent is asked to forget it.
    let (mut manifest, _held) = config.trash.hold(manifest)?;
    let mut entry = Entry::new(due, Step::Forgotten);
    entry.entry = Some(manifest.entry.clone());
    if let Some(own) = manifest.own() {
        entry.repository = Some(own.repository.clone());
        entry.branch.clone_from(&own.branch);
        entry.commit.clone_from(&own.commit);
    }
    config.trash.finish(&mut manifest)?;
    let mut notes = Vec::new();
    if let Some(remover) = config.remover(&due.workspace)
        && manifest.is_remembered_by_agent()
        && may_be_forgotten(due)?
    {
        let recorded = due.workspace.branch.as_deref();
        if let (Some(own), Some(branch)) = (manifest.own(), recorded) {
            config.trash.pin_branch(own, branch)?;
        }
        let removed = remover.remove(&due.workspace);
        // It may have deleted the branch before it failed.
        let (said, lost) = branches(&manifest, recorded, config);
        notes = said;
        let place = manifest.folder.as_ref().map(|folder| folder.place.clone());
        removed.map_err(|why| Problem::Remover { why, place })?;
        if let Some(lost) = lost.filter(|_| due.action != TeardownAction::Force) {
            return Err(lost);
        }
        config.ledger.add(&entry).map_err(Problem::io(config.ledger.path()))?;
    }
    config.trash.keep(&mut manifest)?;
    entry.step = Step::Gone;
    let is_kept = manifest.kept_until > manifest.ended_at;
    entry.done = Some(done(&manifest, is_kept, &notes));
    Ok(entry)
}

/// Deletes for good what is not to be kept at all, once it is noted that it has ended.
///
/// The clock is not asked: after a crash and weeks without power an entry may be concluded long after it was
/// moved, and its time counts otherwise.
pub fn expire(entry: &Entry, config: &Config) {
    let Some(name) = &entry.entry else { return };
    let is_kept_not = |kept: crate::replica::trash::TrashEntry| kept.expires_at <= kept.ended_at;
    if !config.trash.get(name).is_some_and(is_kept_not) {
        return;
    }
    match config.trash.empty(name) {
        Ok(()) => {}
        // It is named by the list and tried again.
        Err(error) => tracing::warn!(entry = name, %error, "not deleted"),
    }
}

/// Tells whether an agent may be asked to forget a workspace: it deletes what is at its place, and
/// that may have been made since.
fn may_be_forgotten(due: &TeardownDue) -> Result<bool, Problem> {
    let place = due.workspace.directory.as_deref().map(Path::new);
    match place.filter(|place| place.symlink_metadata().is_ok()) {
        None => Ok(true),
        Some(_) if due.action == TeardownAction::Force => Ok(false),
        Some(place) => {
            let why = "it was made there since".to_owned();
            Err(Problem::Another { path: place.to_owned(), why })
        }
    }
}

/// Forgets a workspace where nothing was found that could be moved.
pub fn forget(due: &TeardownDue, why: &str, config: &Config) -> Result<Entry, Problem> {
    if let Some(remover) = config.remover(&due.workspace)
        && may_be_forgotten(due)?
    {
        let removed = remover.remove(&due.workspace);
        removed.map_err(|why| Problem::Remover { why, place: None })?;
    }
    let directory = due.workspace.directory.as_deref().unwrap_or_default();
    let done = Some(format!("moved nothing and forgot it: {directory}{why}"));
    Ok(Entry { done, ..Entry::new(due, Step::Gone) })
}

/// Puts back the branches that the agent has deleted, and says what became of them: those that were
/// checked out, and the one that the workspace's record names. Returns the first that is lost, too.
fn branches(
    manifest: &Manifest,
    recorded: Option<&str>,
    config: &Config,
) -> (Vec<String>, Option<Problem>) {
    let checked_out = manifest
        .registrations
        .iter()
        .filter_map(|one| Some((one, one.branch.clone()?, one.commit.clone()?)));
    let recorded = manifest
        .own()
        .zip(recorded)
        .and_then(|(own, branch)| Some((own, branch.to_owned(), config.trash.pinned_branch(own)?)));
    let (mut notes, mut lost) = (Vec::new(), None);
    for (one, branch, commit) in recorded.into_iter().chain(checked_out) {
        match config.trash.keep_branch(one, &branch, &commit) {
            BranchKept::Stayed => {}
            BranchKept::PutBack => {
                notes.push(format!("its agent had deleted branch {branch}, which was put back"));
            }
            BranchKept::Lost(why) => {
                notes.push(format!(
                    "its agent has deleted branch {branch} and it can't be put back ({why}); run: git \
                     -C {} branch -- {branch} {commit}",
                    one.repository.display()
                ));
                let repository = one.repository.clone();
                lost.get_or_insert(Problem::BranchLost { branch, commit, repository, why });
            }
        }
    }
    (notes, lost)
}

fn done(manifest: &Manifest, is_kept: bool, notes: &[String]) -> String {
    let directory = manifest.directory.as_deref().unwrap_or_default();
    let own = manifest.own();
    let repository = own.map(|own| own.repository.display().to_string());
    let of = repository.as_ref().map(|path| format!(" of {path}")).unwrap_or_default();
    let place = |path: &Path| {
        if !is_kept {
            return "to the trash, where nothing is kept: it is deleted at once".to_owned();
        }
        format!("to the trash ({}), kept until {}", path.display(), clock::utc(manifest.kept_until))
    };
    let mut said = match (&manifest.folder, own) {
        (Some(folder), Some(_)) => {
            format!("moved the worktree {directory}{of} {}", place(&folder.place))
        }
        (Some(folder), None) => {
            format!(
                "moved {directory}, which no repository knows any more, {}",
                place(&folder.place)
            )
        }
        (None, Some(own)) => format!(
            "{directory} was not there; moved what its repository{of} knew of it {}",
            place(&own.place)
        ),
        (None, None) => format!("{directory} was not there, and nothing was moved"),
    };
    let is_lost = notes.iter().any(|note| note.contains("can't be put back"));
    match own.map(|own| (&own.branch, &own.commit)) {
        Some((Some(branch), Some(commit))) if !is_lost => {
            said.push_str(&format!("; branch {branch} stays, at {commit}"));
        }
        Some((None, Some(commit))) => said.push_str(&format!("; it was at {commit}, on no branch")),
        _ => {}
    }
    if !manifest.unpinned.is_empty() {
        said.push_str(
            "; not all of it could be read, and what only it names may go with a `git gc`: ",
        );
        said.push_str(&manifest.unpinned.join(", "));
    }
    for note in notes {
        said.push_str("; ");
        said.push_str(note);
    }
    said
}

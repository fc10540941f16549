//! Owns ending a workspace on its host.
//!
//! Must not know documents or peers. Invariant: nothing that lies on disk is removed; what can't
//! be ended without that is reported as failed, with the reason and the remedy.

use std::path::Path;

use crate::replica::{
    effect::{TeardownDue, TeardownOutcome},
    record::TeardownAction,
};

/// The kind of workspaces that are folders somebody else looks after.
const KIND_DIRECTORY: &str = "directory";

/// Ends a workspace, as far as that needs nothing removed; blocks on the file system.
pub fn end(due: &TeardownDue) -> TeardownOutcome {
    let workspace = &due.workspace;
    if workspace.kind == KIND_DIRECTORY || due.action == TeardownAction::Force {
        return TeardownOutcome::Gone;
    }
    let Some(directory) = &workspace.directory else { return TeardownOutcome::Gone };
    match Path::new(directory).try_exists() {
        Ok(false) => TeardownOutcome::Gone,
        Ok(true) => TeardownOutcome::Failed(format!(
            "{directory} still exists, and this version does not remove a workspace of kind `{}`; \
             remove it and retry, or force to forget the workspace and leave the files",
            workspace.kind
        )),
        Err(error) => TeardownOutcome::Failed(format!("{directory}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::record::{Workspace, WorkspaceState};

    fn due(kind: &str, directory: Option<&str>, action: TeardownAction) -> TeardownDue {
        let workspace = Workspace {
            id: "wrk_1".parse().unwrap(),
            host: crate::replica::ids::NodeId([1; 32]),
            name: "w".to_owned(),
            kind: kind.to_owned(),
            project_id: None,
            directory: directory.map(str::to_owned),
            branch: None,
            keep: false,
            used: true,
            created_at: 0,
            state: WorkspaceState::Sealed,
            session_count: 0,
            teardown: None,
            extra: std::collections::BTreeMap::new(),
        };
        TeardownDue { workspace, incarnation: 1, action }
    }

    #[test]
    fn a_worktree_that_is_still_there_is_not_touched_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let outcome = end(&due("worktree", Some(path), TeardownAction::Retry));
        let TeardownOutcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(path) && reason.contains("force"), "{reason}");
        assert!(folder.path().exists());
        let forced = end(&due("worktree", Some(path), TeardownAction::Force));
        assert_eq!(forced, TeardownOutcome::Gone);
        assert!(folder.path().exists(), "force forgets, it does not remove");
    }

    #[test]
    fn what_is_a_directory_or_is_not_there_is_gone() {
        for (kind, directory) in
            [("directory", Some("/")), ("worktree", None), ("worktree", Some("/no/such/folder"))]
        {
            let outcome = end(&due(kind, directory, TeardownAction::Retry));
            assert_eq!(outcome, TeardownOutcome::Gone, "{kind} {directory:?}");
        }
    }
}

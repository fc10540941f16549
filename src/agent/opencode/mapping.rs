//! Owns what an opencode session or workspace is in our vocabulary.
//!
//! Must not know HTTP. Invariant: what is mapped breaks none of our limits, and refers to nothing
//! that is not mapped with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::{
    listing::{Listing, Mapped},
    model::{Session, Workspace},
};
use crate::replica::{
    command::{Import, ImportedSession, ImportedWorkspace},
    ids::{SessionId, WorkspaceId},
    record::{
        DIRECTORY_CHARS_MAX, EXTRA_VALUE_CHARS_MAX, Extra, KIND_WORKTREE, TITLE_CHARS_MAX,
        WORD_CHARS_MAX,
    },
};

/// The kind of a workspace that sessions name and the server does not list: its host removes
/// nothing when it ends, since nobody has said what it is.
const KIND_UNLISTED: &str = "directory";
/// Where in its data folder opencode makes worktrees, by project.
const WORKTREES: &str = "opencode/worktree";
/// The name of the agent.
pub(super) const AGENT: &str = "opencode";

/// Where the worktrees lie that a server has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Folders that a person has named, below which workspaces may be removed.
    pub roots: Vec<PathBuf>,
    /// The server's own folder of worktrees, where that is known.
    pub worktrees: Option<PathBuf>,
}

impl Places {
    /// Tells whether a folder that a server calls a worktree of its own may be one: who says so may
    /// only have taken the server's port.
    ///
    /// opencode 1.18.33 makes them at `opencode/worktree/PROJECT/NAME` in its data folder.
    fn may_be_own(&self, project: Option<&str>, directory: Option<&str>) -> bool {
        let (Some(project), Some(directory)) = (project, directory) else { return false };
        let path = Path::new(directory);
        let is_plain = path.is_absolute()
            && path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !is_plain {
            return false;
        }
        let is_below = |root: &PathBuf| path.starts_with(root) && path != root;
        if self.roots.iter().any(is_below) {
            return true;
        }
        let above = path.parent().filter(|folder| folder.file_name() == Some(project.as_ref()));
        let worktrees = above.and_then(Path::parent);
        match &self.worktrees {
            Some(known) => worktrees == Some(known),
            None => worktrees.is_some_and(|folder| folder.ends_with(WORKTREES)),
        }
    }
}

impl Listing {
    /// Turns the listing into what this node takes in.
    pub fn map(&self, places: &Places) -> Mapped {
        let mut mapped = Mapped { left_out: self.left_out.clone(), ..Mapped::default() };
        let mut known = BTreeSet::new();
        for workspace in self.workspaces.values() {
            let what = || format!("workspace {}", named(&workspace.id));
            match workspace.id.parse::<WorkspaceId>() {
                Ok(id) if workspace.kind.chars().count() <= WORD_CHARS_MAX => {
                    known.insert(id.clone());
                    let mut new = map_workspace(id, workspace);
                    let (project, directory) = (&new.project_id, &new.directory);
                    if new.kind == KIND_WORKTREE
                        && !places.may_be_own(project.as_deref(), directory.as_deref())
                    {
                        new.kind = KIND_UNLISTED.to_owned();
                    }
                    mapped.import.workspaces.push(new);
                }
                Ok(_) => mapped.left_out.add(what(), "has a type that is too long".to_owned()),
                Err(_) => mapped.left_out.add(what(), "has an id that is none here".to_owned()),
            }
        }
        let mut sessions = BTreeMap::new();
        for session in self.sessions.values() {
            match session.id.parse::<SessionId>() {
                Ok(id) => {
                    sessions.insert(id.clone(), map_session(id, session));
                }
                Err(_) => {
                    let what = format!("session {}", named(&session.id));
                    mapped.left_out.add(what, "has an id that is none here".to_owned());
                }
            }
        }
        // To leave the workspace out would look like moving the session out of it, and a workspace
        // that its last session leaves is ended.
        // The oldest session speaks for it, so that a new one changes nothing.
        let mut oldest_first: Vec<_> = sessions.values().collect();
        oldest_first.sort_by_key(|session| session.created_at);
        for session in oldest_first {
            if let Some(id) = &session.workspace_id
                && known.insert(id.clone())
            {
                mapped.unlisted.insert(id.clone());
                mapped.import.workspaces.push(unlisted(id.clone(), session));
            }
        }
        mapped.import.sessions = parents_first(sessions);
        mapped
    }
}

impl Mapped {
    /// Splits the import so that no part has more than `max` records, workspaces before sessions.
    pub fn batches(&self, max: usize) -> Vec<Import> {
        let workspaces = self.import.workspaces.chunks(max);
        let sessions = self.import.sessions.chunks(max);
        let workspaces =
            workspaces.map(|part| Import { workspaces: part.to_vec(), ..Import::default() });
        let sessions = sessions.map(|part| Import { sessions: part.to_vec(), ..Import::default() });
        workspaces.chain(sessions).collect()
    }
}

fn map_session(id: SessionId, session: &Session) -> ImportedSession {
    let mut extra = Extra::new();
    for (key, value) in [("slug", &session.slug), ("version", &session.version)] {
        if let Some(value) = value {
            extra.insert(key.to_owned(), shortened(value, EXTRA_VALUE_CHARS_MAX));
        }
    }
    ImportedSession {
        id,
        workspace_id: session.workspace_id.as_ref().and_then(|id| id.parse().ok()),
        parent_id: session.parent_id.as_ref().and_then(|id| id.parse().ok()),
        project_id: word(session.project_id.as_ref()),
        directory: directory(session.directory.as_ref()),
        title: session.title.as_ref().map(|title| shortened(title, TITLE_CHARS_MAX)),
        created_at: session.time.created,
        updated_at: session.time.updated,
        archived_at: session.time.archived,
        agent: Some(AGENT.to_owned()),
        agent_server: None,
        extra,
    }
}

fn map_workspace(id: WorkspaceId, workspace: &Workspace) -> ImportedWorkspace {
    let mut extra = extra();
    if let Some(text) = &workspace.extra {
        extra.insert("extra".to_owned(), shortened(text, EXTRA_VALUE_CHARS_MAX));
    }
    ImportedWorkspace {
        created_at: created_at(&workspace.id, workspace.used),
        id,
        name: shortened(&workspace.name, TITLE_CHARS_MAX),
        kind: workspace.kind.clone(),
        project_id: word(workspace.project_id.as_ref()),
        directory: directory(workspace.directory.as_ref()),
        branch: word(workspace.branch.as_ref()),
        agent_server: None,
        extra,
    }
}

/// Makes a workspace of what a session says about it.
fn unlisted(id: WorkspaceId, session: &ImportedSession) -> ImportedWorkspace {
    let last = |path: &String| path.rsplit('/').find(|part| !part.is_empty()).map(str::to_owned);
    let name = session.directory.as_ref().and_then(last);
    ImportedWorkspace {
        name: shortened(&name.unwrap_or_else(|| id.to_string()), TITLE_CHARS_MAX),
        kind: KIND_UNLISTED.to_owned(),
        project_id: session.project_id.clone(),
        directory: session.directory.clone(),
        branch: None,
        agent_server: None,
        created_at: created_at(id.as_str(), Some(session.created_at)),
        id,
        extra: extra(),
    }
}

/// Orders sessions so that none comes before its parent; a parent that isn't there, or a ring of
/// them, counts as none.
fn parents_first(mut sessions: BTreeMap<SessionId, ImportedSession>) -> Vec<ImportedSession> {
    let ids: BTreeSet<_> = sessions.keys().cloned().collect();
    let mut children: BTreeMap<SessionId, Vec<SessionId>> = BTreeMap::new();
    let mut ready = Vec::new();
    for session in sessions.values_mut() {
        session.parent_id.take_if(|parent| !ids.contains(parent));
        match &session.parent_id {
            Some(parent) => children.entry(parent.clone()).or_default().push(session.id.clone()),
            None => ready.push(session.id.clone()),
        }
    }
    let mut ordered = Vec::with_capacity(sessions.len());
    loop {
        while let Some(id) = ready.pop() {
            ready.extend(children.remove(&id).unwrap_or_default());
            ordered.extend(sessions.remove(&id));
        }
        // What is left hangs on a ring.
        let Some(mut entry) = sessions.first_entry() else { return ordered };
        let session = entry.get_mut();
        let parent = session.parent_id.take();
        if let Some(siblings) = parent.and_then(|parent| children.get_mut(&parent)) {
            siblings.retain(|id| *id != session.id);
        }
        ready.push(session.id.clone());
    }
}

/// Returns when a workspace was made, milliseconds since the epoch.
///
/// opencode only says when it was last used, but the first nine hexadecimal digits of an id are
/// the low 36 bits of the millisecond at which it was made (seen with 1.18.33): the last such
/// moment that is not after its use is the right one for two years, and it never changes, as the
/// time of use does.
fn created_at(id: &str, used_ms: Option<i64>) -> i64 {
    const LOW_BITS: i64 = 1 << 36;
    let used = used_ms.unwrap_or(0);
    let digits = id.strip_prefix("wrk_").and_then(|rest| rest.get(..9));
    match digits.and_then(|digits| i64::from_str_radix(digits, 16).ok()) {
        Some(low) if used >= low => used - (used - low).rem_euclid(LOW_BITS),
        _ => used,
    }
}

fn extra() -> Extra {
    Extra::from([("agent".to_owned(), AGENT.to_owned())])
}

/// Leaves out a directory that is too long, or is none: a shortened one would be another.
fn directory(path: Option<&String>) -> Option<String> {
    let fits = |path: &&String| {
        path.chars().count() <= DIRECTORY_CHARS_MAX && path.starts_with('/') && !path.contains('\0')
    };
    path.filter(fits).cloned()
}

/// Leaves out a word that is too long: a shortened one would be another.
fn word(text: Option<&String>) -> Option<String> {
    text.filter(|text| text.chars().count() <= WORD_CHARS_MAX && !text.contains('\0')).cloned()
}

/// Returns an id as a person may be shown it.
fn named(id: &str) -> String {
    shortened(&id.escape_debug().to_string(), WORD_CHARS_MAX)
}

/// Returns a text as it may be written down here, which is without NUL.
fn shortened(text: &str, chars_max: usize) -> String {
    let text = text.replace('\0', "\u{fffd}");
    if text.chars().count() <= chars_max {
        return text;
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn listing(sessions: &[Value], workspaces: &[Value]) -> Listing {
        let sessions = sessions.iter().map(|v| Session::read(v).unwrap());
        let workspaces = workspaces.iter().map(|v| Workspace::read(v).unwrap());
        Listing {
            projects: 1,
            has_all_workspaces: true,
            sessions: sessions.map(|s: Session| (s.id.clone(), s)).collect(),
            workspaces: workspaces.map(|w: Workspace| (w.id.clone(), w)).collect(),
            ..Listing::default()
        }
    }

    fn map(listing: &Listing) -> Mapped {
        listing.map(&Places::default())
    }

    fn session(id: &str, parent: Option<&str>) -> Value {
        json!({ "id": id, "slug": "s", "projectID": "global", "parentID": parent, "directory": "/",
            "title": id, "version": "1.18.33", "time": { "created": 1, "updated": 2 } })
    }

    /// As recorded from opencode 1.18.33.
    fn recorded_workspace() -> Value {
        json!({
            "id": "wrk_204f140fa001aEYBgWeOZILOpE", "type": "worktree", "name": "happy-panda",
            "branch": null, "directory": "/data/opencode/worktree/941bac649176e9f08fd3d3d18648daff1a89d47b/happy-panda", "extra": null,
            "projectID": "941bac649176e9f08fd3d3d18648daff1a89d47b", "timeUsed": 1795379249406_i64
        })
    }

    /// As recorded from opencode 1.18.33, and then archived.
    fn recorded_session() -> Value {
        json!({
            "id": "ses_dfb0eb7efffe5Pxcfv7U8SB8sY", "slug": "mighty-moon",
            "projectID": "941bac649176e9f08fd3d3d18648daff1a89d47b",
            "workspaceID": "wrk_204f140fa001aEYBgWeOZILOpE",
            "directory": "/data/opencode/worktree/941bac649176e9f08fd3d3d18648daff1a89d47b/happy-panda", "path": "", "cost": 0,
            "tokens": { "input": 0, "output": 0, "reasoning": 0, "cache": { "read": 0, "write": 0 } },
            "title": "in-ws", "version": "1.18.33",
            "time": { "created": 1795379251216_i64, "updated": 1795379251217_i64,
                "archived": 1790000000000_i64 }
        })
    }

    #[test]
    fn a_session_and_its_workspace_keep_what_opencode_says_of_them() {
        let mapped = map(&listing(&[recorded_session()], &[recorded_workspace()]));
        assert_eq!(
            serde_json::to_value(&mapped.import).unwrap(),
            json!({
                "workspaces": [{
                    "id": "wrk_204f140fa001aEYBgWeOZILOpE", "name": "happy-panda",
                    "kind": "worktree", "project_id": "941bac649176e9f08fd3d3d18648daff1a89d47b",
                    "directory": "/data/opencode/worktree/941bac649176e9f08fd3d3d18648daff1a89d47b/happy-panda", "branch": null,
                    "created_at": 1795379249402_i64, "agent_server": null,
                    "extra": { "agent": "opencode" }
                }],
                "sessions": [{
                    "id": "ses_dfb0eb7efffe5Pxcfv7U8SB8sY",
                    "workspace_id": "wrk_204f140fa001aEYBgWeOZILOpE", "parent_id": null,
                    "project_id": "941bac649176e9f08fd3d3d18648daff1a89d47b",
                    "directory": "/data/opencode/worktree/941bac649176e9f08fd3d3d18648daff1a89d47b/happy-panda", "title": "in-ws",
                    "created_at": 1795379251216_i64, "updated_at": 1795379251217_i64,
                    "archived_at": 1790000000000_i64, "agent": "opencode", "agent_server": null,
                    "extra": { "slug": "mighty-moon", "version": "1.18.33" }
                }]
            })
        );
        assert!(mapped.left_out.is_empty());
    }

    #[test]
    fn using_a_workspace_again_changes_nothing_of_what_is_mapped() {
        let mut later = recorded_workspace();
        later["timeUsed"] = json!(1795379252558_i64);
        let (first, again) = (listing(&[], &[recorded_workspace()]), listing(&[], &[later]));
        assert_eq!(map(&first), map(&again));
    }

    #[test]
    fn a_workspace_that_is_not_listed_is_made_of_what_its_sessions_say() {
        let mapped = map(&listing(&[recorded_session()], &[]));
        let [workspace] = &mapped.import.workspaces[..] else { panic!("{mapped:?}") };
        assert_eq!(workspace.id.as_str(), "wrk_204f140fa001aEYBgWeOZILOpE");
        assert_eq!(
            (workspace.name.as_str(), workspace.kind.as_str()),
            ("happy-panda", "directory")
        );
        assert_eq!(mapped.import.sessions[0].workspace_id.as_ref(), Some(&workspace.id));
    }

    #[test]
    fn parents_come_before_their_children_across_batches() {
        let sessions = [
            session("ses_1", Some("ses_9")),
            session("ses_2", Some("ses_1")),
            session("ses_3", Some("ses_gone")),
            session("ses_9", None),
        ];
        let batches = map(&listing(&sessions, &[])).batches(1);
        let order: Vec<_> = batches.iter().map(|batch| batch.sessions[0].id.to_string()).collect();
        let at = |id: &str| order.iter().position(|other| other == id).unwrap();
        assert!(at("ses_9") < at("ses_1") && at("ses_1") < at("ses_2"), "{order:?}");
        assert_eq!(batches[at("ses_3")].sessions[0].parent_id, None);
    }

    #[test]
    fn sessions_that_are_each_others_parents_are_all_mapped_once() {
        let sessions = [
            session("ses_a", Some("ses_b")),
            session("ses_b", Some("ses_a")),
            session("ses_c", Some("ses_b")),
            session("ses_d", Some("ses_d")),
        ];
        let mapped = map(&listing(&sessions, &[]));
        let mut seen = BTreeSet::new();
        for session in &mapped.import.sessions {
            assert!(session.parent_id.as_ref().is_none_or(|parent| seen.contains(parent)));
            assert!(seen.insert(session.id.clone()));
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn what_breaks_a_limit_is_shortened_and_what_has_no_valid_id_is_counted() {
        let mut long = session("ses_1", None);
        long["title"] = json!("t".repeat(TITLE_CHARS_MAX + 1));
        long["directory"] = json!("/".repeat(DIRECTORY_CHARS_MAX + 1));
        let mapped = map(&listing(&[long, session("ses/1", None)], &[]));
        let [mapped_session] = &mapped.import.sessions[..] else { panic!("{mapped:?}") };
        assert_eq!(mapped_session.title.as_ref().unwrap().chars().count(), TITLE_CHARS_MAX);
        assert_eq!(mapped_session.directory, None);
        let told = mapped.left_out.told().unwrap();
        assert_eq!(told, "left out, 1: session ses/1 has an id that is none here");
    }

    #[test]
    fn a_worktree_that_lies_where_no_server_keeps_its_own_is_taken_for_a_folder_of_somebodys() {
        let kind = |places: &Places, directory: &str| {
            let mut workspace = recorded_workspace();
            workspace["directory"] = json!(directory);
            let mapped = listing(&[], &[workspace]).map(places);
            mapped.import.workspaces[0].kind.clone()
        };
        let project = "941bac649176e9f08fd3d3d18648daff1a89d47b";
        let own = format!("/data/opencode/worktree/{project}/happy-panda");
        let known = Places { worktrees: Some("/data/opencode/worktree".into()), roots: vec![] };
        let rooted = Places { worktrees: None, roots: vec!["/home/me/trees".into()] };
        for (places, directory, expected) in [
            (&Places::default(), own.as_str(), "worktree"),
            (&known, &own, "worktree"),
            (&known, &own.replace("/data", "/other"), "directory"),
            (&rooted, "/home/me/trees/mine", "worktree"),
            (&rooted, "/home/me/trees", "directory"),
            (&rooted, "/home/me/trees/../code", "directory"),
            (&Places::default(), "/home/me/code", "directory"),
            (&Places::default(), "/data/opencode/worktree/another/happy-panda", "directory"),
            (&Places::default(), &format!("{own}/sub"), "directory"),
            (&Places::default(), "relative", "directory"),
        ] {
            assert_eq!(kind(places, directory), expected, "{directory}");
        }
    }

    #[test]
    fn a_time_of_use_that_is_no_number_is_no_time() {
        let mut workspace = recorded_workspace();
        workspace["timeUsed"] = json!("NaN");
        let mapped = map(&listing(&[], &[workspace]));
        assert_eq!(mapped.import.workspaces[0].created_at, 0);
    }
}

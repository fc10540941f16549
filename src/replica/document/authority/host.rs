//! Owns who may write what in a host document.
//!
//! Must not know how records are read. Invariant: only the host purges, seals, ends and makes
//! workspaces, and lays the document out; nobody brings back what it has ended, nor what was deleted,
//! but by a restore; of what a host keeps others only ask to have it restored, each in its own name. Where two wrote a field at once and a third writes what already stands, automerge
//! deletes what does not: so who may write a field may delete it. A host too writes each field in the form in
//! which others go on from it: who writes beside anything else would be refused for that.

use automerge::ScalarValue;
use sha2::{Digest as _, Sha256};

use super::{
    super::{
        super::ids::{NodeId, OperationId, SessionId, WorkspaceId},
        host::{CARRIED, Places, REQUESTS, SELF, SUMMARY, TRASH},
    },
    Act, Action, Author, Overreach, refuse,
};

/// Judges one operation.
pub(super) fn check(places: &Places, author: &Author, act: &Act<'_>) -> Result<(), Overreach> {
    let path: Vec<&str> = act.path.iter().map(String::as_str).collect();
    let is_host = author.fingerprint == places.host();
    // What of its earlier epochs a document holds, its host counts up.
    let begins = path == ["meta"] && act.key == CARRIED && matches!(act.action, Action::Map);
    if is_host && (matches!(path[..], ["meta", CARRIED, ..]) || begins && !act.overwrites()) {
        return Ok(());
    }
    // What a host says of itself is laid out with its document, or, in one of an earlier layout, later.
    if is_host && matches!(path[..], [] if act.key == SELF) {
        return Ok(());
    }
    // The layout is written once, with the first change, which nobody takes later.
    if matches!(path[..], [] | ["meta" | "sessions", ..])
        && !matches!(path[..], ["sessions", _, ..])
    {
        return refuse("changes how the document is laid out");
    }
    if is_host {
        return by_host(&path, act);
    }
    match path[..] {
        ["workspaces"] => refuse("makes, or removes, a workspace of another host"),
        [SELF, ..] => refuse("says of a host what only that says of itself"),
        ["workspaces", TRASH, _, REQUESTS] => restore(author, act),
        ["workspaces", TRASH, ..] => refuse("says what a host keeps"),
        ["sessions", bucket] => session_made(bucket, act),
        ["sessions", _, _] => session(act),
        ["sessions", _, _, "extra"] | ["workspaces", _, "extra"] => extra(act),
        ["sessions", _, _, "deleted", ..] => deleted(act),
        ["workspaces", _] => workspace(act),
        ["workspaces", _, "keepers"] => keeper(author, act),
        ["workspaces", _, "dismissals"] => dismissal(act),
        ["workspaces", _, "requests"] => request(act),
        ["workspaces", _, "teardown", ..] => refuse("says how the end of a workspace stands"),
        ["sessions", _, _, _, ..] | ["workspaces", _, _, ..] => Ok(()),
        _ => refuse("writes to a place that is not known"),
    }
}

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Map,
    Text,
    Int,
    Truth,
    /// A record, or the grave of one.
    Record,
    /// What newer versions may add.
    Any,
}

impl Form {
    fn takes(self, action: Action<'_>) -> bool {
        match (self, action) {
            (Self::Any, _) | (_, Action::Delete) => true,
            (Self::Map | Self::Record, Action::Map) => true,
            (Self::Text | Self::Record, action) => action.text().is_some(),
            (Self::Int, action) => action.is_int(),
            (Self::Truth, Action::Value(value)) => matches!(value, ScalarValue::Boolean(_)),
            (Self::Map | Self::Truth, _) => false,
        }
    }
}

/// A host may write anything of what it hosts, in the form in which others go on from it.
fn by_host(path: &[&str], act: &Act<'_>) -> Result<(), Overreach> {
    let form = match (path, act.key) {
        (["workspaces"], TRASH) => Form::Map,
        (["workspaces"], key) if key.parse::<WorkspaceId>().is_ok() => Form::Record,
        (["sessions", _], key) if key.parse::<SessionId>().is_ok() => Form::Record,
        (["workspaces", TRASH], _) => Form::Map,
        (["workspaces", TRASH, _], SUMMARY) => Form::Text,
        (["workspaces", TRASH, _], REQUESTS) => Form::Map,
        (["workspaces", TRASH, _, REQUESTS], _) => Form::Text,
        (["workspaces", _], "name" | "kind" | "project_id" | "directory" | "branch") => Form::Text,
        (["workspaces", _], "created_at") => Form::Int,
        (["workspaces", _], "used") => Form::Truth,
        (["workspaces", _], "keepers" | "dismissals" | "requests" | "extra" | "teardown") => {
            Form::Map
        }
        (["workspaces", _, "keepers" | "requests" | "extra"], _) => Form::Text,
        (["workspaces", _, "dismissals"], _) => Form::Truth,
        (["sessions", _, _], "title" | "workspace_id" | "parent_id" | "project_id") => Form::Text,
        (["sessions", _, _], "directory" | "agent" | "agent_server") => Form::Text,
        (["sessions", _, _], "created_at" | "updated_at" | "archived_at") => Form::Int,
        (["sessions", _, _], "deleted" | "extra") => Form::Map,
        (["sessions", _, _, "extra"], _) => Form::Text,
        (["sessions", _, _, "deleted"], "by" | "operation" | "reason") => Form::Text,
        (["sessions", _, _, "deleted"], "at") => Form::Int,
        _ => Form::Any,
    };
    if form.takes(act.action) { Ok(()) } else { refuse("writes to a field what it never holds") }
}

/// A record is made where there is none, as far as its author knows: over an ended one it would
/// bring it back.
fn session_made(bucket: &str, act: &Act<'_>) -> Result<(), Overreach> {
    let is_id = act.key.parse::<SessionId>().is_ok();
    let is_there = bucket == format!("{:02x}", Sha256::digest(act.key)[0]);
    match act.action {
        Action::Map if !act.overwrites() && is_id && is_there => Ok(()),
        Action::Map => refuse("makes a session over another, or in a wrong place"),
        Action::Value(_) | Action::Delete => refuse("purges a session of another host"),
    }
}

fn session(act: &Act<'_>) -> Result<(), Overreach> {
    let fits = match (act.key, act.action) {
        ("title" | "workspace_id" | "project_id" | "directory", Action::Delete) => true,
        ("title" | "workspace_id" | "project_id" | "directory", action) => action.text().is_some(),
        ("parent_id", action) => act.fresh && action.text().is_some(),
        ("created_at", action) => act.fresh && action.is_int(),
        ("archived_at" | "updated_at", Action::Delete) => true,
        ("archived_at" | "updated_at", action) => action.is_int(),
        // Which agent has it, its host says alone: what is purged depends on it.
        ("agent" | "agent_server", _) => false,
        ("deleted", action) => matches!(action, Action::Map | Action::Delete),
        ("extra", action) => matches!(action, Action::Map) && !act.overwrites(),
        // What newer versions may add.
        _ => true,
    };
    if fits { Ok(()) } else { refuse("writes to a field of a session what it never holds") }
}

fn extra(act: &Act<'_>) -> Result<(), Overreach> {
    let fits = act.action.text().is_some() || matches!(act.action, Action::Delete);
    if fits { Ok(()) } else { refuse("writes other things than text to the free fields") }
}

fn deleted(act: &Act<'_>) -> Result<(), Overreach> {
    let fits = match (act.key, act.action) {
        _ if !act.fresh => false,
        ("by" | "operation", action) => action.text().is_some(),
        ("at", action) => action.is_int(),
        // What an agent has deleted, its host alone knows.
        ("reason", _) => false,
        _ => true,
    };
    if fits { Ok(()) } else { refuse("changes what was said of a delete") }
}

fn workspace(act: &Act<'_>) -> Result<(), Overreach> {
    let fits = match (act.key, act.action) {
        ("name" | "branch" | "used", Action::Delete) => true,
        ("name", action) => action.text().is_some(),
        ("branch", action) => action.text().is_some(),
        ("used", action) => {
            matches!(action, Action::Value(ScalarValue::Boolean(true)))
        }
        ("keepers" | "dismissals" | "requests" | "extra", action) => {
            matches!(action, Action::Map) && !act.overwrites()
        }
        // Which agent has it, its host says alone: how it is ended depends on it.
        ("kind" | "project_id" | "directory" | "created_at" | "teardown" | "agent_server", _) => {
            false
        }
        // What newer versions may add.
        _ => true,
    };
    if fits { Ok(()) } else { refuse("writes to a field of a workspace what only its host may") }
}

/// A keep is its author's own; anyone may let go.
fn keeper(author: &Author, act: &Act<'_>) -> Result<(), Overreach> {
    let by_author = names_author(author, act);
    let fits = matches!(act.action, Action::Delete) || by_author && is_operation(act);
    if fits { Ok(()) } else { refuse("keeps a workspace in another's name") }
}

/// A request is its author's own, and only the host takes it away: it says by that what came of it.
fn restore(author: &Author, act: &Act<'_>) -> Result<(), Overreach> {
    let fits = names_author(author, act) && is_operation(act) && !act.overwrites();
    if fits { Ok(()) } else { refuse("asks for a restore in another's name, or takes one back") }
}

fn names_author(author: &Author, act: &Act<'_>) -> bool {
    let named = act.action.text().and_then(|node| node.parse::<NodeId>().ok());
    named.is_some_and(|node| node.fingerprint() == author.fingerprint)
}

fn dismissal(act: &Act<'_>) -> Result<(), Overreach> {
    let noted = matches!(act.action, Action::Value(ScalarValue::Boolean(_)));
    let fits = matches!(act.action, Action::Delete) || noted && is_operation(act);
    if fits { Ok(()) } else { refuse("writes to a workspace's deletes what is none") }
}

fn request(act: &Act<'_>) -> Result<(), Overreach> {
    let asked = matches!(act.action.text(), Some("retry" | "force"));
    let fits = matches!(act.action, Action::Delete) || asked && is_operation(act);
    if fits { Ok(()) } else { refuse("asks for what a host does not know") }
}

fn is_operation(act: &Act<'_>) -> bool {
    act.key.parse::<OperationId>().is_ok()
}

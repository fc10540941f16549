//! Owns who may write what in a fleet document.
//!
//! Must not know how a member is let in. Invariants: only an admin, as what a change builds on has
//! it, makes members, changes their roles and revokes; nobody takes a revocation back; a member
//! writes of itself where it is and what it has.

use automerge::{Automerge, ChangeHash, ObjId, ObjType, ReadDoc, Value};

use super::{
    super::{
        super::{
            ids::{Fingerprint, NodeId},
            record::Role,
        },
        fleet::{Places, role_named},
    },
    Act, Action, Author, Overreach, is_by, refuse,
};

/// Judges one operation.
pub(super) fn check(
    automerge: &Automerge,
    places: &Places,
    author: &Author<'_>,
    act: &Act<'_>,
) -> Result<(), Overreach> {
    let path: Vec<&str> = act.path.iter().map(String::as_str).collect();
    // Whoever laid the document out let itself in.
    let is_admin = || {
        is_by(places.members(), &author.fingerprint)
            || role_at(automerge, places, author) == Some(Role::Admin)
    };
    // Where two wrote at once and a third writes what already stands, automerge deletes what does not.
    let resolves = || {
        let there = automerge.get_all_at(act.object, act.key, author.heads).unwrap_or_default();
        matches!(act.action, Action::Delete) && there.len() > act.overwritten
    };
    let is_own = |node: &str| {
        node.parse::<NodeId>().is_ok_and(|node| node.fingerprint() == author.fingerprint)
    };
    let (fits, what) = match path[..] {
        [] | ["meta", ..] => (false, "changes how the document is laid out"),
        ["members"] => {
            let is_node = act.key.parse::<NodeId>().is_ok();
            let makes = matches!(act.action, Action::Map) && !act.overwrites() && is_node;
            (makes && is_admin(), "makes, or removes, a member without being an admin")
        }
        ["members", node] => {
            let fits = match (act.key, act.action) {
                ("name" | "left", Action::Delete) if resolves() => is_own(node) || is_admin(),
                ("role" | "added_by" | "added_at", Action::Delete) if resolves() => is_admin(),
                ("name", action) => action.text().is_some() && (is_own(node) || is_admin()),
                ("addresses", Action::Map) => is_own(node) || is_admin(),
                ("left", Action::Value(_)) => is_own(node),
                ("left", Action::Delete) => is_admin(),
                ("role", action) => {
                    let role = action.text().map(role_named);
                    role.is_some_and(|role| keeps(automerge, act, author, role)) && is_admin()
                }
                ("added_by", action) => action.text().is_some() && is_admin(),
                ("added_at", action) => action.is_int() && is_admin(),
                ("revoked", Action::Map) => !act.overwrites() && is_admin(),
                ("addresses" | "revoked", _) | ("left", Action::Map) => false,
                // What newer versions may add.
                _ => is_own(node) || is_admin(),
            };
            (fits, "writes of a member what it may not")
        }
        ["members", node, "addresses"] => {
            let fits = !matches!(act.action, Action::Map) && (is_own(node) || is_admin());
            (fits, "writes of a member where it is")
        }
        ["members", _, "revoked", ..] => (act.fresh && is_admin(), "changes a revocation"),
        ["members", node, _, ..] => (is_own(node) || is_admin(), "writes of another member"),
        _ => (false, "writes to a place that is not known"),
    };
    if fits { Ok(()) } else { refuse(what) }
}

/// Tells whether who could write still can: what it wrote must be taken by all, for ever.
fn keeps(automerge: &Automerge, act: &Act<'_>, author: &Author<'_>, role: Role) -> bool {
    let there = automerge.get_all_at(act.object, act.key, author.heads).unwrap_or_default();
    let wrote = |name: &str| role_named(name) > Role::Reader;
    role > Role::Reader || !there.iter().any(|(value, _)| value.as_str().is_some_and(wrote))
}

/// Returns the author's role as its change builds on it.
fn role_at(automerge: &Automerge, places: &Places, author: &Author<'_>) -> Option<Role> {
    let members = places.members();
    let node = automerge
        .keys_at(members, author.heads)
        .find(|key| has_fingerprint(key, &author.fingerprint))?;
    let records = maps_at(automerge, members, &node, author.heads);
    let roles = records.iter().flat_map(|record| {
        let all = automerge.get_all_at(record, "role", author.heads).unwrap_or_default();
        all.into_iter().filter_map(|(value, _)| value.as_str().map(role_named))
    });
    roles.max()
}

fn has_fingerprint(key: &str, fingerprint: &Fingerprint) -> bool {
    key.parse::<NodeId>().is_ok_and(|node| node.fingerprint() == *fingerprint)
}

fn maps_at(automerge: &Automerge, object: &ObjId, key: &str, heads: &[ChangeHash]) -> Vec<ObjId> {
    let all = automerge.get_all_at(object, key, heads).unwrap_or_default().into_iter();
    all.filter(|(value, _)| matches!(value, Value::Object(ObjType::Map)))
        .map(|(_, id)| id)
        .collect()
}

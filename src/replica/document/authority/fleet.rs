//! Owns who may write what in a fleet document.
//!
//! Must not know how a member is let in. Invariants: only an admin, as what a change builds on has
//! it, makes members, raises their roles and revokes; nobody takes a revocation or an attestation
//! back; a member writes of itself where it is and what it has.

use automerge::{Automerge, ChangeHash, ObjId, ObjType, ReadDoc, Value};

use super::{
    super::{
        super::{
            ids::{Fingerprint, NodeId},
            record::Role,
        },
        fleet::{Places, role_named},
    },
    Act, Action, Author, LATE, Overreach, is_by, refuse,
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
    let is_own = |node: &str| {
        node.parse::<NodeId>().is_ok_and(|node| node.fingerprint() == author.fingerprint)
    };
    let (fits, what) = match path[..] {
        [] | ["meta", ..] => (false, "changes how the document is laid out"),
        ["members"] => {
            let is_node = act.key.parse::<NodeId>().is_ok();
            let makes = matches!(act.action, Action::Map) && !act.overwrites && is_node;
            (makes && is_admin(), "makes, or removes, a member without being an admin")
        }
        ["members", node] => {
            let fits = match (act.key, act.action) {
                ("name", action) => action.text().is_some() && (is_own(node) || is_admin()),
                ("addresses", Action::Map) => is_own(node) || is_admin(),
                ("left", Action::Value(_)) => is_own(node),
                ("left", Action::Delete) => is_admin(),
                ("attested", Action::Map) => is_own(node) && !act.overwrites,
                ("role", action) => {
                    let role = action.text().map(role_named);
                    role.is_some_and(|role| raises(automerge, act, author, role)) && is_admin()
                }
                ("added_by", action) => action.text().is_some() && is_admin(),
                ("added_at", action) => action.is_int() && is_admin(),
                ("revoked", Action::Map) => !act.overwrites && is_admin(),
                ("addresses" | "attested" | "revoked", _) | ("left", Action::Map) => false,
                // What newer versions may add.
                _ => is_own(node) || is_admin(),
            };
            (fits, "writes of a member what it may not")
        }
        ["members", node, "addresses"] => {
            let fits = !matches!(act.action, Action::Map) && (is_own(node) || is_admin());
            (fits, "writes of a member where it is")
        }
        ["members", node, "attested"] => {
            let fits = act.action.text().is_some() && !act.overwrites && is_own(node);
            (fits, "attests in another's name, or takes it back")
        }
        ["members", _, "revoked", ..] => (act.fresh && is_admin(), "changes a revocation"),
        ["members", node, _, ..] => (is_own(node) || is_admin(), "writes of another member"),
        _ => (false, "writes to a place that is not known"),
    };
    let lets_in = match (&path[..], act.key) {
        (["members"], _) | (["members", _], "role") => true,
        (["members", _], "left") => matches!(act.action, Action::Delete),
        _ => false,
    };
    match fits {
        true if author.late && lets_in => Err(LATE),
        true => Ok(()),
        false => refuse(what),
    }
}

/// Tells whether no role that is overwritten is greater.
fn raises(automerge: &Automerge, act: &Act<'_>, author: &Author<'_>, role: Role) -> bool {
    let there = automerge.get_all_at(act.object, act.key, author.heads).unwrap_or_default();
    there.iter().all(|(value, _)| value.as_str().is_none_or(|name| role_named(name) <= role))
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

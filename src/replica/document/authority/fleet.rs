//! Owns who may write what in a fleet document.
//!
//! Must not know who is a member. Invariants: a member attests in its own name; nobody takes an
//! attestation back.

use super::{
    super::{super::ids::NodeId, fleet::Places},
    Act, Action, Author, Overreach, refuse,
};

/// Judges one operation.
pub(super) fn check(_: &Places, author: &Author, act: &Act<'_>) -> Result<(), Overreach> {
    let path: Vec<&str> = act.path.iter().map(String::as_str).collect();
    let is_own = |node: &str| {
        node.parse::<NodeId>().is_ok_and(|node| node.fingerprint() == author.fingerprint)
    };
    let makes = || matches!(act.action, Action::Map) && !act.overwrites();
    let (fits, what) = match path[..] {
        [] | ["meta", ..] => (false, "changes how the document is laid out"),
        ["members"] => (is_own(act.key) && makes(), "attests in another's name"),
        ["members", node] => {
            let fits = act.key == "attested" && makes() && is_own(node);
            (fits, "attests in another's name, or takes it back")
        }
        ["members", node, "attested"] => {
            let fits = act.action.text().is_some() && !act.overwrites() && is_own(node);
            (fits, "attests in another's name, or takes it back")
        }
        _ => (false, "writes to a place that is not known"),
    };
    if fits { Ok(()) } else { refuse(what) }
}

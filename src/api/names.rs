//! Owns how a host that a person names is found: by its name, its key, or the key's beginning.
//!
//! Must not know what is then done on that host. Invariant: a text that may mean several hosts is
//! never taken for one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Context, list::Listed, problem::Error};
use crate::{
    daemon::handle::RequestError,
    replica::{command::Refusal, ids::NodeId},
};

/// Shortest prefix of a node's key that may stand for it, as the replica has it for commands.
const NODE_PREFIX_DIGITS_MIN: usize = 4;

/// The hosts and what people call them; `None` where that name no longer leads there.
#[derive(Debug)]
pub(super) struct Names(BTreeMap<NodeId, Option<String>>);

impl Names {
    /// Asks the loop for the members; `hosts` are those that records are on, members or not.
    pub(super) async fn load(
        context: &Context,
        hosts: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, RequestError> {
        let mut names: BTreeMap<_, _> = hosts.into_iter().map(|host| (host, None)).collect();
        let peers = context.handle.peers().await?;
        // The name of a member that was shut out may be another's by now.
        names.extend(
            peers.into_iter().map(|peer| (peer.node, (!peer.revoked).then_some(peer.name))),
        );
        names.insert(context.node, Some(context.name.clone()));
        Ok(Self(names))
    }

    /// Returns what people call a host, or the beginning of its key.
    pub(super) fn name(&self, node: NodeId) -> String {
        self.0.get(&node).cloned().flatten().unwrap_or_else(|| node.short())
    }

    /// Finds the host that a text names: a whole key, else a name, else the beginning of a key.
    pub(super) fn find(&self, text: &str) -> Result<NodeId, Refusal> {
        if let Ok(node) = text.parse::<NodeId>()
            && self.0.contains_key(&node)
        {
            return Ok(node);
        }
        let by_name =
            self.0.iter().filter(|(_, name)| name.as_deref() == Some(text)).map(|(node, _)| *node);
        let mut found: BTreeSet<_> = by_name.collect();
        if found.is_empty() && text.len() >= NODE_PREFIX_DIGITS_MIN {
            let by_key = self.0.keys().filter(|node| node.to_string().starts_with(text));
            found.extend(by_key);
        }
        match (found.len(), found.first()) {
            (1, Some(node)) => Ok(*node),
            (0, _) => Err(Refusal::NodeNotFound(text.to_owned())),
            _ => Err(Refusal::AmbiguousNode {
                name: text.to_owned(),
                nodes: found.iter().map(NodeId::to_string).collect(),
            }),
        }
    }
}

/// Chooses among the records of one id the one that is meant.
pub(super) async fn choose<R: Listed>(
    context: &Context,
    id: &str,
    host: Option<&str>,
    records: &[Arc<R>],
    absent: Refusal,
) -> Result<Arc<R>, Error> {
    let hosts = || records.iter().map(|record| record.host());
    match (host, records) {
        (None, []) => Err(absent.into()),
        (None, [record]) => Ok(record.clone()),
        (None, _) => {
            let names = Names::load(context, hosts()).await?;
            let hosts = hosts().map(|host| names.name(host)).collect();
            Err(Refusal::AmbiguousId { id: id.to_owned(), hosts }.into())
        }
        (Some(host), _) => {
            let host = Names::load(context, hosts()).await?.find(host)?;
            let record = records.iter().find(|record| record.host() == host);
            record.cloned().ok_or_else(|| absent.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_the_beginning_of_a_key_and_two_meanings_are_refused() {
        let node = |first: u8, last: u8| {
            let mut key = [0xaa; 32];
            (key[0], key[31]) = (first, last);
            NodeId(key)
        };
        let (desk, lap, twin) = (node(0xa1, 1), node(0xb3, 2), node(0xa1, 3));
        let (shut_out, unnamed) = (node(0xc4, 4), node(0xd5, 5));
        let names = Names(BTreeMap::from([
            (desk, Some("desk".to_owned())),
            (lap, Some("c4aa".to_owned())),
            (twin, Some("desk".to_owned())),
            (shut_out, None),
            (unnamed, None),
        ]));
        assert_eq!(names.find("c4aa"), Ok(lap));
        assert_eq!(names.find("c4aaa"), Ok(shut_out));
        assert_eq!(names.find("d5aa"), Ok(unnamed));
        assert_eq!(names.find(&desk.to_string()), Ok(desk));
        assert_eq!((names.name(desk), names.name(unnamed)), ("desk".to_owned(), unnamed.short()));
        for text in ["desk", "a1aa"] {
            assert_eq!(names.find(text).unwrap_err().code(), "ambiguous_node");
        }
        for text in ["", "d5a", "des", "ffff"] {
            assert_eq!(names.find(text).unwrap_err().code(), "node_not_found");
        }
    }
}

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

/// The hosts and what people call them.
#[derive(Debug)]
pub(super) struct Names(BTreeMap<NodeId, String>);

impl Names {
    /// Asks the loop for the members; `hosts` are those that records are on, members or not.
    pub(super) async fn load(
        context: &Context,
        hosts: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, RequestError> {
        let mut names: BTreeMap<_, _> =
            hosts.into_iter().map(|host| (host, host.short())).collect();
        let peers = context.handle.peers().await?;
        names.extend(peers.into_iter().map(|peer| (peer.node, peer.name)));
        names.insert(context.node, context.name.clone());
        Ok(Self(names))
    }

    /// Returns what people call a host, or the beginning of its key.
    pub(super) fn name(&self, node: NodeId) -> String {
        self.0.get(&node).cloned().unwrap_or_else(|| node.short())
    }

    /// Finds the host that a text names: a whole key, else a name, else the beginning of a key.
    pub(super) fn find(&self, text: &str) -> Result<NodeId, Refusal> {
        if let Ok(node) = text.parse::<NodeId>()
            && self.0.contains_key(&node)
        {
            return Ok(node);
        }
        let by_name = self.0.iter().filter(|(_, name)| *name == text).map(|(node, _)| *node);
        let mut found: BTreeSet<_> = by_name.collect();
        if found.is_empty() && !text.is_empty() {
            let by_key = self.0.keys().filter(|node| node.to_string().starts_with(text));
            found.extend(by_key);
        }
        match (found.len(), found.first()) {
            (1, Some(node)) => Ok(*node),
            (0, _) => Err(Refusal::NodeNotFound(text.to_owned())),
            _ => Err(Refusal::AmbiguousNode {
                name: text.to_owned(),
                nodes: found
                    .iter()
                    .map(|node| format!("{} ({})", self.name(*node), node.short()))
                    .collect(),
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
        let (desk, lap, twin) = (node(0xa1, 1), node(0xa2, 2), node(0xb3, 3));
        let names = Names(BTreeMap::from([
            (desk, "desk".to_owned()),
            (lap, "b3".to_owned()),
            (twin, "desk".to_owned()),
        ]));
        assert_eq!(names.find("b3"), Ok(lap));
        assert_eq!(names.find("b3a"), Ok(twin));
        assert_eq!(names.find(&desk.to_string()), Ok(desk));
        for text in ["desk", "a"] {
            assert_eq!(names.find(text).unwrap_err().code(), "ambiguous_node");
        }
        for text in ["", "c", "des"] {
            assert_eq!(names.find(text).unwrap_err().code(), "node_not_found");
        }
    }
}

//! Owns finding the hosts that have a record of some id, without asking each of them.
//!
//! Must not know records. Invariant: no host that has the id is left out; one that has not may be
//! among those returned, since ids and hosts are kept as short numbers, and is to be asked.

use std::collections::BTreeMap;

use crate::replica::ids::NodeId;

/// Counts the records under an id's number and the first bytes of a host's key: a third of what the
/// names themselves would take.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Named(BTreeMap<(u64, u64), u32>);

impl Named {
    /// Notes all ids of one host at once.
    pub(super) fn of<'a>(host: &NodeId, ids: impl Iterator<Item = &'a str>) -> Self {
        let mut keys: Vec<_> = ids.map(|id| (number(id), prefix(host))).collect();
        keys.sort_unstable();
        let same = keys.chunk_by(|one, other| one == other);
        Self(same.map(|same| (same[0], same.len().try_into().unwrap_or(u32::MAX))).collect())
    }

    pub(super) fn add(&mut self, host: &NodeId, id: &str) {
        *self.0.entry((number(id), prefix(host))).or_default() += 1;
    }

    pub(super) fn remove(&mut self, host: &NodeId, id: &str) {
        let key = (number(id), prefix(host));
        if let Some(count) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// Takes in what is known of other hosts.
    pub(super) fn join(&mut self, other: Self) {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }

    /// Returns the ranges of keys in which the hosts are that may have an id, ascending.
    pub(super) fn hosts(&self, id: &str) -> impl Iterator<Item = std::ops::RangeInclusive<NodeId>> {
        let number = number(id);
        self.0.range((number, 0)..=(number, u64::MAX)).map(|((_, prefix), _)| {
            let (mut first, mut last) = ([0; 32], [0xff; 32]);
            first[..8].copy_from_slice(&prefix.to_be_bytes());
            last[..8].copy_from_slice(&prefix.to_be_bytes());
            NodeId(first)..=NodeId(last)
        })
    }
}

/// FNV-1a: ids that are made to have the same number are only looked for a little longer.
fn number(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |number, byte| {
        (number ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn prefix(host: &NodeId) -> u64 {
    host.0.iter().take(8).fold(0, |prefix, byte| prefix << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_their_order_for_as_long_as_they_have_the_id() {
        let hosts = [NodeId([1; 32]), NodeId([2; 32])];
        let mut named = Named::default();
        hosts.iter().rev().for_each(|host| named.add(host, "a"));
        let found = |named: &Named| -> Vec<NodeId> {
            let range = |range: std::ops::RangeInclusive<NodeId>| {
                *hosts.iter().find(|host| range.contains(host)).unwrap()
            };
            named.hosts("a").map(range).collect()
        };
        assert_eq!(found(&named), hosts);
        assert_eq!(named.hosts("b").count(), 0);
        named.add(&hosts[0], "a");
        named.remove(&hosts[0], "a");
        assert_eq!(found(&named), hosts, "one of two is still there");
        named.remove(&hosts[0], "a");
        assert_eq!(found(&named), hosts[1..]);
        named.remove(&hosts[1], "a");
        assert_eq!(named, Named::default());
    }
}

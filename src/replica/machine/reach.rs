//! Owns which nodes are dialled, and where, and whose keys may have a link.
//!
//! Must not know how a node is dialled. Invariant: what a member says of its addresses sends packets
//! only where a peer could be, and to few places; what a person gave is dialled as it is.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{effect::DialTarget, ids::NodeId, record::ADDRESSES_MAX},
    Replica,
};

impl Replica {
    /// Lists the nodes to be dialled for as long as they are not connected, and where.
    ///
    /// A senior admin that only its juniors have shut out is among them: it may be unable to dial the others, and
    /// could then never tell them that it has shut out its juniors in turn.
    pub(super) fn dialled(&self) -> Vec<DialTarget> {
        let ticket = self.joining.as_ref().map(|joining| &joining.ticket);
        // Another daemon on this machine is reached by it; a service of another sort is not to be.
        let by_loopback =
            self.addresses.is_empty() || self.addresses.iter().any(|it| is_loopback(it));
        let members = self.members.values().filter(|member| {
            member.node != self.node
                && (member.is_current() || self.membership.may_return(&member.node))
                && !self.paused.contains(&member.node)
                && !self.offences.is_kept_off(&member.node)
                && ticket.is_none_or(|ticket| ticket.inviter != member.node)
        });
        let targets = members.map(|member| DialTarget {
            node: member.node,
            addresses: dialable(self.addresses_of(&member.node), by_loopback),
        });
        targets
            .filter(|target| !target.addresses.is_empty())
            .chain(ticket.map(|ticket| DialTarget {
                node: ticket.inviter,
                addresses: ticket.addresses.clone(),
            }))
            .collect()
    }

    /// Lists whose keys may have a link.
    pub(super) fn linkable(&self) -> BTreeSet<NodeId> {
        self.members.values().filter(|member| member.is_current()).map(|it| it.node).collect()
    }
}

/// Returns those of a member's addresses at which it may be dialled, at most [`ADDRESSES_MAX`].
fn dialable(told: &BTreeSet<String>, by_loopback: bool) -> BTreeSet<String> {
    let parsed = told.iter().take(ADDRESSES_MAX).filter_map(|address| address.parse().ok());
    parsed
        .filter(|address| is_plausible(address) && (by_loopback || !is_local(address)))
        .map(|address: SocketAddr| address.to_string())
        .collect()
}

/// Tells whether one peer can be there.
fn is_plausible(address: &SocketAddr) -> bool {
    let somewhere = match address.ip().to_canonical() {
        // 0.0.0.0/8 and 240.0.0.0/4, with the broadcast address, are nobody's.
        IpAddr::V4(ip) => !ip.is_multicast() && !matches!(ip.octets()[0], 0 | 240..),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    somewhere && address.port() != 0
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn is_loopback(address: &str) -> bool {
    address.parse().is_ok_and(|address| is_local(&address))
}

/// Tells whether a text is an address of which a node may tell others.
pub(super) fn is_address(text: &str) -> bool {
    text.parse().is_ok_and(|address| is_plausible(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled(told: &[&str], by_loopback: bool) -> Vec<String> {
        let told = told.iter().map(|address| (*address).to_owned()).collect();
        dialable(&told, by_loopback).into_iter().collect()
    }

    #[test]
    fn only_where_a_peer_could_be_is_dialled() {
        let nobody = [
            "0.0.0.0:7177",
            "0.1.2.3:7177",
            "224.0.0.251:5353",
            "239.1.1.1:7177",
            "255.255.255.255:7177",
            "10.0.0.1:0",
            "[::]:7177",
            "[::ffff:0.0.0.0]:7177",
            "[::ffff:255.255.255.255]:7177",
            "[ff02::fb]:5353",
            "example.org:7177",
            "10.0.0.1",
            "",
        ];
        assert_eq!(dialled(&nobody, true), Vec::<String>::new());
        let peers = ["10.0.0.1:7177", "192.168.1.5:7178", "203.0.113.7:9", "[2001:db8::1]:7177"];
        assert_eq!(dialled(&peers, false), peers);
    }

    #[test]
    fn loopback_is_dialled_only_by_a_node_that_can_be_reached_there_itself() {
        let told = ["10.0.0.1:7177", "127.0.0.1:7179", "[::1]:7179", "[::ffff:127.0.0.1]:53"];
        assert_eq!(dialled(&told, false), ["10.0.0.1:7177"]);
        assert_eq!(dialled(&told, true).len(), 4);
    }

    #[test]
    fn of_any_number_of_addresses_few_are_dialled() {
        let told = (0..1_000).map(|port| format!("10.0.0.1:{}", 10_000 + port)).collect();
        assert_eq!(dialable(&told, false).len(), ADDRESSES_MAX);
    }
}

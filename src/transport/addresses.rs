//! Owns under which addresses this node tells others to dial it.
//!
//! Must not know who is told. Invariant: an address that only this machine can use is told only if
//! there is no other.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::wire::limits::ADDRESSES_MAX;

/// Returns the addresses, `IP:PORT`, at which a socket that is bound to `listen` can be dialled.
///
/// If it is bound to every interface, these are the interfaces' addresses, and loopback only if
/// the machine has nothing else.
pub fn published(listen: SocketAddr) -> BTreeSet<String> {
    let interfaces = if listen.ip().is_unspecified() {
        if_addrs::get_if_addrs().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the network interfaces");
            Vec::new()
        })
    } else {
        Vec::new()
    };
    choose(listen, interfaces.iter().map(if_addrs::Interface::ip))
}

fn choose(listen: SocketAddr, interfaces: impl Iterator<Item = IpAddr>) -> BTreeSet<String> {
    if !listen.ip().is_unspecified() {
        return BTreeSet::from([listen.to_string()]);
    }
    let port = listen.port();
    // A socket on `[::]` takes both families where the operating system's default is left alone.
    let told: BTreeSet<String> = interfaces
        .filter(|ip| listen.is_ipv6() || ip.is_ipv4())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip))
        .map(|ip| SocketAddr::new(ip, port).to_string())
        .take(ADDRESSES_MAX)
        .collect();
    if told.is_empty() {
        return BTreeSet::from([SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).to_string()]);
    }
    told
}

/// Tells whether an address means something else on each wire; IPv6's need a zone besides.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACES: [&str; 6] =
        ["127.0.0.1", "::1", "192.168.1.5", "169.254.3.4", "fe80::1", "2001:db8::5"];

    fn chosen(listen: &str, interfaces: &[&str]) -> Vec<String> {
        let interfaces = interfaces.iter().map(|ip| ip.parse().unwrap());
        choose(listen.parse().unwrap(), interfaces).into_iter().collect()
    }

    #[test]
    fn a_socket_on_one_address_is_told_by_it() {
        assert_eq!(chosen("10.0.0.1:7177", &INTERFACES), ["10.0.0.1:7177"]);
        assert_eq!(chosen("127.0.0.1:7177", &INTERFACES), ["127.0.0.1:7177"]);
    }

    #[test]
    fn a_socket_on_every_address_is_told_by_those_that_others_can_use() {
        assert_eq!(chosen("0.0.0.0:7177", &INTERFACES), ["192.168.1.5:7177"]);
        assert_eq!(chosen("[::]:7177", &INTERFACES), ["192.168.1.5:7177", "[2001:db8::5]:7177"]);
    }

    #[test]
    fn a_machine_without_a_network_is_told_by_loopback() {
        assert_eq!(chosen("0.0.0.0:1", &["127.0.0.1", "::1"]), ["127.0.0.1:1"]);
        assert_eq!(chosen("[::]:1", &[]), ["127.0.0.1:1"]);
    }

    #[test]
    fn this_machine_has_an_address() {
        let told = published("0.0.0.0:7177".parse().unwrap());
        assert!(!told.is_empty());
        assert!(told.iter().all(|address| address.parse::<SocketAddr>().is_ok()));
    }
}

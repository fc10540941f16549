//! Owns the text form of tickets: what `invite` prints and `join` reads.
//!
//! Must not know whether a ticket is good, only whether it is whole. Invariant: a text that decodes
//! is the text of exactly that ticket; a mistyped one says so instead of failing later.
//!
//! The text is `smt1` and then, in lower-case base32 without padding: fleet (16 bytes), inviter
//! (32), secret (32), role (1), expiry (8, milliseconds since the epoch, little endian), the number
//! of addresses (1), each with its length (1), ascending, and the first 4 bytes of SHA-256 over `smt1`
//! and all that came before.

use std::collections::BTreeSet;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};

use crate::replica::{
    ids::{FleetId, NodeId},
    invite::Ticket,
    record::Role,
};

/// What every ticket of any version begins with.
const FAMILY: &str = "smt";
/// What a ticket of this version begins with.
const PREFIX: &str = "smt1";
/// How many addresses a ticket carries at most: more do not fit into a line that people paste.
pub const ADDRESSES_MAX: usize = 16;
/// Longest address, in bytes: an IPv6 address with a port has 47.
pub const ADDRESS_BYTES_MAX: usize = 64;
/// How much of the SHA-256 is carried: one typing error in four thousand million passes.
const CHECKSUM_BYTES: usize = 4;
/// Longest text that is looked at, in bytes: a full ticket has 1,823.
const TEXT_BYTES_MAX: usize = 4_096;

/// Explains why a text is not a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin like one.
    #[error("this is not a ticket: a ticket begins with `{PREFIX}`")]
    NotATicket,
    /// It begins like one, but its checksum does not fit.
    #[error("the ticket is cut off or mistyped: copy it whole")]
    Mistyped,
    /// A newer version has made it.
    #[error("the ticket is from a newer version of sessionmesh: upgrade this one")]
    Newer,
}

/// Returns a ticket as text; of more than [`ADDRESSES_MAX`] addresses the first in order.
pub fn encode(ticket: &Ticket) -> String {
    let mut bytes = Vec::new();
    bytes.extend(ticket.fleet.0);
    bytes.extend(ticket.inviter.0);
    bytes.extend(ticket.secret);
    bytes.push(match ticket.role {
        Role::Reader => 0,
        Role::Member => 1,
        Role::Admin => 2,
    });
    bytes.extend(ticket.expires_at.to_le_bytes());
    let addresses: Vec<&String> = ticket
        .addresses
        .iter()
        .filter(|address| address.len() <= ADDRESS_BYTES_MAX)
        .take(ADDRESSES_MAX)
        .collect();
    bytes.push(addresses.len() as u8);
    for address in addresses {
        bytes.push(address.len() as u8);
        bytes.extend(address.as_bytes());
    }
    bytes.extend(checksum(&bytes));
    format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// Reads a ticket; white space anywhere and capital letters do no harm.
pub fn decode(text: &str) -> Result<Ticket, TicketError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TicketError::NotATicket);
    }
    let text: String = text.split_whitespace().collect::<String>().to_ascii_lowercase();
    let Some(body) = text.strip_prefix(PREFIX) else {
        let newer = text
            .strip_prefix(FAMILY)
            .and_then(|rest| rest.chars().next())
            .is_some_and(|version| ('2'..='9').contains(&version));
        return Err(if newer { TicketError::Newer } else { TicketError::NotATicket });
    };
    let bytes = BASE32_NOPAD
        .decode(body.to_ascii_uppercase().as_bytes())
        .map_err(|_| TicketError::Mistyped)?;
    let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Mistyped)?;
    if checksum(content) != *sum {
        return Err(TicketError::Mistyped);
    }
    // What the checksum vouches for and this version does not understand, another has made.
    read(content).ok_or(TicketError::Newer)
}

fn read(mut rest: &[u8]) -> Option<Ticket> {
    let fleet = FleetId(take(&mut rest)?);
    let inviter = NodeId(take(&mut rest)?);
    let secret = take(&mut rest)?;
    let role = match take::<1>(&mut rest)? {
        [0] => Role::Reader,
        [1] => Role::Member,
        [2] => Role::Admin,
        _ => return None,
    };
    let expires_at = i64::from_le_bytes(take(&mut rest)?);
    let [count] = take::<1>(&mut rest)?;
    if usize::from(count) > ADDRESSES_MAX {
        return None;
    }
    let mut addresses: BTreeSet<String> = BTreeSet::new();
    for _ in 0..count {
        let [length] = take::<1>(&mut rest)?;
        let (address, after) = rest.split_at_checked(length.into())?;
        let address = str::from_utf8(address).ok().filter(|it| it.len() <= ADDRESS_BYTES_MAX)?;
        // One ticket has one text.
        if addresses.last().is_some_and(|last| last.as_str() >= address) {
            return None;
        }
        addresses.insert(address.to_owned());
        rest = after;
    }
    rest.is_empty().then_some(Ticket { fleet, inviter, addresses, secret, role, expires_at })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*head)
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new().chain_update(PREFIX).chain_update(content).finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(addresses: usize) -> Ticket {
        Ticket {
            fleet: FleetId([1; 16]),
            inviter: NodeId([2; 32]),
            addresses: (0..addresses).map(|last| format!("192.168.1.{last}:7177")).collect(),
            secret: [3; 32],
            role: Role::Member,
            expires_at: 1_795_379_110_867,
        }
    }

    #[test]
    fn a_ticket_survives_its_text_form() {
        for addresses in [0, 1, 2, ADDRESSES_MAX] {
            let ticket = ticket(addresses);
            assert_eq!(decode(&encode(&ticket)), Ok(ticket));
        }
    }

    #[test]
    fn a_ticket_may_be_wrapped_and_shouted() {
        let text = encode(&ticket(1)).to_ascii_uppercase();
        let wrapped = format!("  {}\n  {}\n", &text[..50], &text[50..]);
        assert_eq!(decode(&wrapped), Ok(ticket(1)));
    }

    #[test]
    fn every_single_wrong_character_is_noticed() {
        let text = encode(&ticket(1));
        for at in PREFIX.len()..text.len() {
            for wrong in ['a', 'z', '7', '1', '\u{e4}'] {
                if text[at..].starts_with(wrong) {
                    continue;
                }
                let mistyped = format!("{}{wrong}{}", &text[..at], &text[at + 1..]);
                assert_eq!(decode(&mistyped), Err(TicketError::Mistyped), "at {at}");
            }
        }
    }

    #[test]
    fn a_ticket_that_is_cut_off_anywhere_says_so() {
        let text = encode(&ticket(2));
        for end in PREFIX.len()..text.len() {
            assert_eq!(decode(&text[..end]), Err(TicketError::Mistyped), "at {end}");
        }
    }

    #[test]
    fn other_texts_are_told_apart_from_tickets_of_newer_versions() {
        let long = "smt1".repeat(TEXT_BYTES_MAX);
        for text in ["", "smt", "smt0abc", "https://example.org", "smtx", &long] {
            assert_eq!(decode(text), Err(TicketError::NotATicket), "{text:.20}");
        }
        assert_eq!(decode("smt2abcdef"), Err(TicketError::Newer));
    }

    #[test]
    fn a_role_that_this_version_does_not_know_is_a_newer_ticket() {
        let text = encode(&ticket(0));
        let mut bytes =
            BASE32_NOPAD.decode(text[PREFIX.len()..].to_ascii_uppercase().as_bytes()).unwrap();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        bytes[80] = 9;
        bytes.extend(checksum(&bytes));
        let newer = format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes));
        assert_eq!(decode(&newer), Err(TicketError::Newer));
    }

    /// Fuzzing found them: with more addresses than a ticket has, too long ones, or in another order,
    /// what was read was the ticket of another text.
    #[test]
    fn a_ticket_with_addresses_that_no_node_would_write_so_is_not_read() {
        let written = |addresses: &[&str]| {
            let mut bytes = vec![0; 16 + 32 + 32 + 1 + 8];
            bytes.push(addresses.len() as u8);
            for address in addresses {
                bytes.push(address.len() as u8);
                bytes.extend(address.as_bytes());
            }
            bytes.extend(checksum(&bytes));
            format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
        };
        let text = written(&["a:1", "b:1"]);
        assert_eq!(encode(&decode(&text).unwrap()), text);
        let long = "x".repeat(ADDRESS_BYTES_MAX + 1);
        let many: Vec<String> = (0..=ADDRESSES_MAX).map(|last| format!("{last:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for addresses in [&["b:1", "a:1"][..], &["a:1", "a:1"], &[&long], &many] {
            assert_eq!(decode(&written(addresses)), Err(TicketError::Newer), "{addresses:?}");
        }
    }

    #[test]
    fn addresses_beyond_the_limit_stay_behind() {
        let mut many = ticket(ADDRESSES_MAX + 5);
        many.addresses.insert("x".repeat(ADDRESS_BYTES_MAX + 1));
        let told = decode(&encode(&many)).unwrap().addresses;
        assert_eq!(told.len(), ADDRESSES_MAX);
        assert!(told.is_subset(&many.addresses));
        assert!(encode(&many).len() <= TEXT_BYTES_MAX);
    }
}

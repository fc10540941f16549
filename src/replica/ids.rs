//! Owns the names of things and the parsing of them at the border.
//!
//! Must not know what the named things look like. Invariant: a value of one of these types is
//! well formed, because there is no way to make one that is not.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// Longest session, workspace or operation id, in bytes: opencode's own are 30, and a key of an
/// automerge map is repeated in memory for each replica.
pub const ID_BYTES_MAX: usize = 64;

/// Explains why a piece of text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// A session, workspace or operation id has a length or a character that it must not have.
    #[error("`{text}` is not a valid {what}: 1 to 64 of A-Z a-z 0-9 _ -")]
    Name {
        /// What was to be parsed.
        what: &'static str,
        /// The offending text, shortened and escaped.
        text: String,
    },
    /// A node or fleet id is not lower-case hexadecimal of the right length.
    #[error("`{text}` is not a valid {what}: {digits} hexadecimal digits")]
    Hex {
        /// What was to be parsed.
        what: &'static str,
        /// How many digits it has.
        digits: usize,
        /// The offending text, shortened and escaped.
        text: String,
    },
    /// A document id has neither the fleet's nor a host's form.
    #[error("`{text}` is not a valid document id: fleet:FLEET or host:NODE/EPOCH")]
    Document {
        /// The offending text, shortened and escaped.
        text: String,
    },
}

/// The digits of hexadecimal numbers.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Shortens and escapes foreign text so that it can stand in a message.
fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let fits = (1..=ID_BYTES_MAX).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
                if fits {
                    Ok(Self(text.into()))
                } else {
                    Err(ParseIdError::Name { what: $what, text: quoted(text) })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        text_deserialize!($name);
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bad = || ParseIdError::Hex { what: $what, digits: 2 * $bytes, text: quoted(text) };
                bytes_from_hex(text).map(Self).ok_or_else(bad)
            }
        }

        impl $name {
            /// Hands its digits on, all at once: an id is written several times for each change,
            /// and digit by digit it takes as long as a record's other fields together.
            fn with_digits<T>(&self, write: impl FnOnce(&str) -> T) -> T {
                let mut digits = [0; 2 * $bytes];
                for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = HEX[usize::from(byte >> 4)];
                    pair[1] = HEX[usize::from(byte & 0xf)];
                }
                write(std::str::from_utf8(&digits).expect("hexadecimal digits are text"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.with_digits(|digits| f.write_str(digits))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.with_digits(|digits| serializer.serialize_str(digits))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().take(5).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        text_deserialize!($name);
    };
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        text_deserialize!($name);
    };
}

macro_rules! text_deserialize {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

name_id!(
    /// Names one coding-agent conversation on its host.
    SessionId,
    "session id"
);
name_id!(
    /// Names one workspace on its host.
    WorkspaceId,
    "workspace id"
);
name_id!(
    /// Names one act of deleting, restoring or keeping, so that it can be undone whole.
    OperationId,
    "operation id"
);
name_id!(
    /// Names one act so that one can ask later who has applied it.
    ReceiptId,
    "receipt"
);
name_id!(
    /// Names what a host keeps after it has ended it, by the id that it had as a workspace or session.
    TrashId,
    "trash id"
);
hex_id!(
    /// Names a node: its Ed25519 public key, written as 64 hexadecimal digits.
    NodeId,
    32,
    "node id"
);
hex_id!(
    /// Names a fleet: the first 16 bytes of its founding statement's hash, written as 32
    /// hexadecimal digits.
    FleetId,
    16,
    "fleet id"
);
hex_id!(
    /// Names one start of a daemon: 64 random bits, written as 16 hexadecimal digits.
    StartId,
    8,
    "start id"
);
hex_id!(
    /// Names one automerge change: the SHA-256 of its contents.
    ChangeHash,
    32,
    "change hash"
);

hex_id!(
    /// Names a statement about membership: the SHA-256 of what is signed.
    StatementHash,
    32,
    "statement hash"
);

/// How many bytes of SHA-256(node key) begin each of the node's actor ids.
pub const FINGERPRINT_BYTES: usize = 12;

/// The beginning of each actor id under which a node writes.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// How many bytes an actor id has: a node's fingerprint, and 8 random ones for each start.
pub const ACTOR_BYTES: usize = 20;

/// An actor id as ours are: under it one start of one node writes.
pub type ActorBytes = [u8; ACTOR_BYTES];

/// Returns the node's part of an actor id.
pub fn fingerprint(actor: &ActorBytes) -> Fingerprint {
    let mut prefix = [0; FINGERPRINT_BYTES];
    prefix.copy_from_slice(&actor[..FINGERPRINT_BYTES]);
    prefix
}

/// Returns an actor id from its hexadecimal digits.
pub fn actor_from_hex(digits: &str) -> Option<ActorBytes> {
    bytes_from_hex(digits)
}

/// Reads lower-case hexadecimal digits, two for each byte.
fn bytes_from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let nibble = |digit: u8| (digit as char).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = nibble(pair[0]).zip(nibble(pair[1]))?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

impl NodeId {
    /// Returns the beginning of each actor id under which this node writes.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut prefix = [0; FINGERPRINT_BYTES];
        prefix.copy_from_slice(&Sha256::digest(self.0)[..FINGERPRINT_BYTES]);
        prefix
    }

    /// Returns the first ten digits, enough to tell nodes apart in a log or a table.
    pub fn short(&self) -> String {
        format!("{self:?}")
    }
}

/// Names a document that every node of a fleet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentId {
    /// The members of a fleet, as version 0.1.0 kept them; it is found in old stores only.
    Fleet(FleetId),
    /// The workspaces and sessions of one host.
    Host {
        /// Whose files these are.
        host: NodeId,
        /// How often the host has rewritten its document.
        epoch: u32,
    },
}

impl DocumentId {
    /// Returns the host whose document this is, if it is a host's.
    pub fn host(&self) -> Option<NodeId> {
        match self {
            Self::Fleet(_) => None,
            Self::Host { host, .. } => Some(*host),
        }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet(fleet) => write!(f, "fleet:{fleet}"),
            Self::Host { host, epoch } => write!(f, "host:{host}/{epoch}"),
        }
    }
}

impl FromStr for DocumentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError::Document { text: quoted(text) };
        if let Some(fleet) = text.strip_prefix("fleet:") {
            return fleet.parse().map(Self::Fleet).map_err(|_| bad());
        }
        let (host, epoch) =
            text.strip_prefix("host:").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        Ok(Self::Host {
            host: host.parse().map_err(|_| bad())?,
            epoch: epoch.parse().map_err(|_| bad())?,
        })
    }
}

text_serde!(DocumentId);

/// Names a place in the stream of diffs of one daemon.
///
/// It carries the start of the daemon that issued it, because a diff leaves before it is durable:
/// after a crash its number may come to mean another diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// How many diffs this data folder had published when the cursor was issued.
    pub sequence: u64,
    /// The start of the daemon that published the last of them.
    pub start: StartId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.sequence)
    }
}

impl FromStr for Cursor {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError::Hex { what: "cursor", digits: 16, text: quoted(text) };
        let (start, sequence) = text.split_once('-').ok_or_else(bad)?;
        Ok(Self {
            start: start.parse().map_err(|_| bad())?,
            sequence: sequence.parse().map_err(|_| bad())?,
        })
    }
}

text_serde!(Cursor);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_leave_its_place_in_a_path_or_a_table_is_refused() {
        for text in ["", "a b", "../x", "ses/1", "é", &"x".repeat(65), "a\n"] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?} was accepted");
        }
        assert_eq!("ses_dfb0-A".parse::<SessionId>().unwrap().as_str(), "ses_dfb0-A");
    }

    #[test]
    fn every_id_reads_back_what_it_wrote() {
        let node = NodeId([0xab; 32]);
        assert_eq!(node.to_string().parse(), Ok(node));
        assert!(node.to_string().to_uppercase().parse::<NodeId>().is_err());
        for document in
            [DocumentId::Fleet(FleetId([7; 16])), DocumentId::Host { host: node, epoch: 3 }]
        {
            assert_eq!(document.to_string().parse(), Ok(document));
        }
        let cursor = Cursor { sequence: 12, start: StartId([1; 8]) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert!("host:ab/0".parse::<DocumentId>().is_err());
    }
}

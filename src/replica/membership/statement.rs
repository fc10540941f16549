//! Owns the statements about membership: what each says, its exact bytes, and its signature.
//!
//! Must not know which statements count. Invariant: one content has one encoding, so that a
//! statement's hash names what it says, whatever bytes its signature has.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::super::{
    ids::{FleetId, NodeId, StatementHash},
    record::Role,
    voucher::{Keyring, SIGNATURE_BYTES},
};

/// Largest statement, in bytes, its signature included.
pub const STATEMENT_BYTES_MAX: usize = 256;
/// Longest name of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Begins everything that is signed as a statement, so that no other signature of the same key is
/// taken for one.
const DOMAIN: &[u8] = b"sessionmesh statement 1\0";
/// The version of the encoding.
const VERSION: u8 = 1;
/// Fewest hexadecimal digits that a person may type for a key; a name must not look like them.
pub const KEY_PREFIX_DIGITS_MIN: usize = 4;

/// What a statement says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`node` is whom it is about and `role` what it becomes")]
pub enum Act {
    /// The author founds a fleet, as its first admin.
    Founded {
        /// Keeps two fleets of one founder apart.
        nonce: [u8; 16],
        /// What people call the founder's machine.
        name: String,
    },
    /// An admin lets a node in.
    Admitted {
        node: NodeId,
        role: Role,
        /// What people call the machine, and type to name it.
        name: String,
    },
    /// An admin gives a member a greater role.
    Promoted { node: NodeId, role: Role },
    /// An admin shuts a node out.
    Revoked {
        node: NodeId,
        /// The node's newest statement that still counts, if any does.
        last: Option<StatementHash>,
        /// The SHA-256 of the list of heads that the admin's own document holds, if the node has
        /// written to documents.
        documents: Option<[u8; 32]>,
        /// Whether the node's records are hidden.
        retire: bool,
    },
    /// The author is no admin any more.
    SteppedDown,
    /// The author ends its own admission. It names no previous statement: any member may make it.
    Left {
        /// The `Admitted` or `Founded` that it ends.
        admitted: StatementHash,
    },
}

/// A signed statement about membership.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement {
    /// The node that signed it.
    pub author: NodeId,
    /// The author's statement before it.
    pub previous: Option<StatementHash>,
    /// Milliseconds since the epoch by the author's clock, for people only; 0 where the author
    /// leaves, so that it can end an admission by one statement only.
    pub at: i64,
    /// What it says.
    pub act: Act,
    signature: [u8; SIGNATURE_BYTES],
    hash: StatementHash,
}

/// Explains why bytes are not a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// It is too long, cut short, or not encoded in the one way that it may be.
    #[error("the statement is not encoded as version {VERSION} has it")]
    Encoding,
    /// A later version of the software wrote it.
    #[error("the statement is of version {0}; this node knows version {VERSION}")]
    Version(u8),
    /// A name is empty, too long, has control characters or looks like the beginning of a key.
    #[error("the statement names a node in a way that no admin may")]
    Name,
    /// The statement says what nobody may say.
    #[error("the statement is about its own author, or names a previous one where it must not")]
    Meaningless,
    /// The author's key did not sign it.
    #[error("the statement is not signed by its author")]
    Signature,
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} by {:?}: {:?}", self.hash, self.author, self.act)
    }
}

/// Tells whether an admin may give a member this name.
///
/// What looks like the beginning of a key is refused: a verb must not find another node by it.
pub fn is_name(name: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let is_key = name.len() >= KEY_PREFIX_DIGITS_MIN && name.chars().all(is_digit);
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.trim() == name;
    fits && !is_key && !name.chars().any(char::is_control)
}

impl Statement {
    /// Signs the statement that founds a fleet; returns the fleet's name, too.
    pub fn found(
        keyring: &dyn Keyring,
        author: NodeId,
        at: i64,
        nonce: [u8; 16],
        name: String,
    ) -> (FleetId, Self) {
        let act = Act::Founded { nonce, name };
        let statement = Self::sign(keyring, FleetId([0; 16]), author, None, at, act);
        (statement.hash.fleet(), statement)
    }

    /// Signs a statement of this node's.
    pub fn sign(
        keyring: &dyn Keyring,
        fleet: FleetId,
        author: NodeId,
        previous: Option<StatementHash>,
        at: i64,
        act: Act,
    ) -> Self {
        let at = if matches!(act, Act::Left { .. }) { 0 } else { at };
        let body = body(&author, previous.as_ref(), at, &act);
        let signed = signed(fleet, &act, &body);
        let signature = keyring.sign(&signed);
        let hash = StatementHash(Sha256::digest(&signed).into());
        Self { author, previous, at, act, signature, hash }
    }

    /// Returns the statement's name.
    pub fn hash(&self) -> StatementHash {
        self.hash
    }

    /// Returns the bytes in which the statement is sent and stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = body(&self.author, self.previous.as_ref(), self.at, &self.act);
        bytes.extend(self.signature);
        bytes
    }

    /// Reads a statement of a fleet and checks its signature.
    pub fn decode(
        bytes: &[u8],
        fleet: FleetId,
        keyring: &dyn Keyring,
    ) -> Result<Self, StatementError> {
        let statement = Self::decode_unchecked(bytes, fleet)?;
        if planted!(SignatureUnchecked) {
            return Ok(statement);
        }
        let (body, _) = bytes.split_at(bytes.len() - SIGNATURE_BYTES);
        let signed = signed(fleet, &statement.act, body);
        if keyring.verify(&statement.author, &signed, &statement.signature) {
            Ok(statement)
        } else {
            Err(StatementError::Signature)
        }
    }

    /// Reads a statement that was checked before it was stored.
    pub fn decode_unchecked(bytes: &[u8], fleet: FleetId) -> Result<Self, StatementError> {
        if bytes.len() > STATEMENT_BYTES_MAX {
            return Err(StatementError::Encoding);
        }
        let body_bytes = bytes.len().checked_sub(SIGNATURE_BYTES);
        let (body, signature) = bytes.split_at(body_bytes.ok_or(StatementError::Encoding)?);
        let mut reader = Reader(body);
        let version = reader.byte()?;
        if version != VERSION {
            return Err(StatementError::Version(version));
        }
        let kind = reader.byte()?;
        let author = NodeId(reader.array()?);
        let previous = reader.optional()?.map(StatementHash);
        let at = i64::from_le_bytes(reader.array()?);
        let act = reader.act(kind)?;
        if !reader.0.is_empty() {
            return Err(StatementError::Encoding);
        }
        judge(&author, previous.as_ref(), at, &act)?;
        let mut signature_bytes = [0; SIGNATURE_BYTES];
        signature_bytes.copy_from_slice(signature);
        let hash = StatementHash(Sha256::digest(signed(fleet, &act, body)).into());
        if matches!(act, Act::Founded { .. }) && hash.fleet() != fleet {
            return Err(StatementError::Meaningless);
        }
        Ok(Self { author, previous, at, act, signature: signature_bytes, hash })
    }
}

/// Returns the fleet that a statement founds, if it is a founding.
pub fn fleet_founded(bytes: &[u8]) -> Option<FleetId> {
    let body = bytes.get(..bytes.len().checked_sub(SIGNATURE_BYTES)?)?;
    let signed = [DOMAIN, &[0; 16], body].concat();
    let fleet = StatementHash(Sha256::digest(&signed).into()).fleet();
    let founding = Statement::decode_unchecked(bytes, fleet).ok()?;
    matches!(founding.act, Act::Founded { .. }).then_some(fleet)
}

impl StatementHash {
    /// Returns the name of the fleet that the statement of this hash founds.
    pub fn fleet(&self) -> FleetId {
        let mut fleet = [0; 16];
        fleet.copy_from_slice(&self.0[..16]);
        FleetId(fleet)
    }
}

/// Judges what can be told of a statement by itself.
fn judge(
    author: &NodeId,
    previous: Option<&StatementHash>,
    at: i64,
    act: &Act,
) -> Result<(), StatementError> {
    match act {
        Act::Founded { name, .. } | Act::Admitted { name, .. } if !is_name(name) => {
            return Err(StatementError::Name);
        }
        Act::Founded { .. } | Act::Left { .. } if previous.is_some() => {
            return Err(StatementError::Meaningless);
        }
        Act::Admitted { node, .. } | Act::Promoted { node, .. } | Act::Revoked { node, .. }
            if node == author =>
        {
            return Err(StatementError::Meaningless);
        }
        Act::Promoted { role: Role::Reader, .. } => return Err(StatementError::Meaningless),
        Act::Left { .. } if at != 0 => return Err(StatementError::Meaningless),
        _ => {}
    }
    Ok(())
}

/// Returns what is signed: the domain, the fleet, and the statement.
///
/// The founding one makes the fleet's name, so it can't hold it.
fn signed(fleet: FleetId, act: &Act, body: &[u8]) -> Vec<u8> {
    let fleet = if matches!(act, Act::Founded { .. }) { [0; 16] } else { fleet.0 };
    [DOMAIN, &fleet, body].concat()
}

fn body(author: &NodeId, previous: Option<&StatementHash>, at: i64, act: &Act) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(STATEMENT_BYTES_MAX);
    let kind = match act {
        Act::Founded { .. } => 0,
        Act::Admitted { .. } => 1,
        Act::Promoted { .. } => 2,
        Act::Revoked { .. } => 3,
        Act::SteppedDown => 4,
        Act::Left { .. } => 5,
    };
    bytes.extend([VERSION, kind]);
    bytes.extend(author.0);
    put_optional(&mut bytes, previous.map(|hash| &hash.0));
    bytes.extend(at.to_le_bytes());
    match act {
        Act::Founded { nonce, name } => {
            bytes.extend(nonce);
            put_name(&mut bytes, name);
        }
        Act::Admitted { node, role, name } => {
            bytes.extend(node.0);
            bytes.push(role_byte(*role));
            put_name(&mut bytes, name);
        }
        Act::Promoted { node, role } => {
            bytes.extend(node.0);
            bytes.push(role_byte(*role));
        }
        Act::Revoked { node, last, documents, retire } => {
            bytes.extend(node.0);
            put_optional(&mut bytes, last.as_ref().map(|hash| &hash.0));
            put_optional(&mut bytes, documents.as_ref());
            bytes.push(u8::from(*retire));
        }
        Act::SteppedDown => {}
        Act::Left { admitted } => bytes.extend(admitted.0),
    }
    bytes
}

fn put_optional(bytes: &mut Vec<u8>, hash: Option<&[u8; 32]>) {
    bytes.push(u8::from(hash.is_some()));
    bytes.extend(hash.into_iter().flatten());
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name.as_bytes());
}

fn role_byte(role: Role) -> u8 {
    match role {
        Role::Reader => 0,
        Role::Member => 1,
        Role::Admin => 2,
    }
}

/// What is left to read of a statement.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], StatementError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(StatementError::Encoding)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, StatementError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StatementError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn flag(&mut self) -> Result<bool, StatementError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StatementError::Encoding),
        }
    }

    fn optional(&mut self) -> Result<Option<[u8; 32]>, StatementError> {
        if self.flag()? { self.array().map(Some) } else { Ok(None) }
    }

    fn role(&mut self) -> Result<Role, StatementError> {
        match self.byte()? {
            0 => Ok(Role::Reader),
            1 => Ok(Role::Member),
            2 => Ok(Role::Admin),
            _ => Err(StatementError::Encoding),
        }
    }

    fn name(&mut self) -> Result<String, StatementError> {
        let count = usize::from(self.byte()?);
        let name = std::str::from_utf8(self.take(count)?).map_err(|_| StatementError::Encoding)?;
        Ok(name.to_owned())
    }

    fn act(&mut self, kind: u8) -> Result<Act, StatementError> {
        Ok(match kind {
            0 => Act::Founded { nonce: self.array()?, name: self.name()? },
            1 => {
                let (node, role) = (NodeId(self.array()?), self.role()?);
                Act::Admitted { node, role, name: self.name()? }
            }
            2 => Act::Promoted { node: NodeId(self.array()?), role: self.role()? },
            3 => Act::Revoked {
                node: NodeId(self.array()?),
                last: self.optional()?.map(StatementHash),
                documents: self.optional()?,
                retire: self.flag()?,
            },
            4 => Act::SteppedDown,
            5 => Act::Left { admitted: StatementHash(self.array()?) },
            _ => return Err(StatementError::Encoding),
        })
    }
}

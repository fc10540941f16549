//! Owns what a host says of itself at the top of its own document: its name and where it is dialled.
//!
//! Must not know what follows from it. Invariants: only what the host has written counts; whatever
//! it has written there, little of it is read.

use automerge::{
    ObjId, ObjType, ROOT, ReadDoc,
    transaction::{Transactable, Transaction},
};

use super::{
    super::{
        super::record::{ADDRESSES_MAX, Description},
        Applied, Document,
    },
    Done, is_by, map_at, maps_at, text_at,
    tree::{self, Node, Tree, map_or_new},
};

/// Where it stands.
pub const SELF: &str = "self";
/// What people call the machine.
const NAME: &str = "name";
/// Where it can be dialled.
const ADDRESSES: &str = "addresses";
/// The maps in it that are laid out with the document, so that none is ever made twice at once.
const MAPS: [&str; 2] = [ADDRESSES, "agents"];
/// Longest name that counts, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Lays it out, empty.
pub(super) fn lay_out(tx: &mut Transaction<'_>) -> Done {
    let own = tx.put_object(ROOT, SELF, ObjType::Map)?;
    MAPS.into_iter().try_for_each(|key| tx.put_object(&own, key, ObjType::Map).map(drop))
}

/// One thing that a host says of itself, to be written into its next document.
pub(super) enum Said {
    Field(String, Node),
    Entry(String, String, Node),
}

impl Said {
    pub fn weight(&self) -> (usize, usize) {
        match self {
            Self::Field(_, Node::Map(tree)) | Self::Entry(_, _, Node::Map(tree)) => {
                tree::weight(tree)
            }
            Self::Field(_, Node::Scalar(_)) => (1, NAME_CHARS_MAX),
            Self::Entry(_, key, Node::Scalar(_)) => (1, key.len() + NAME_CHARS_MAX),
        }
    }

    pub fn write(&self, tx: &mut Transaction<'_>) -> Done {
        let own = map_or_new(tx, &ROOT, SELF)?;
        match self {
            Self::Field(key, node) => tree::write_node(tx, &own, key, node),
            Self::Entry(map, key, node) => {
                let map = map_or_new(tx, &own, map)?;
                tree::write_node(tx, &map, key, node)
            }
        }
    }
}

impl Document {
    /// Returns where the host says what it says of itself; a document of an earlier layout has none.
    fn description_place(&self) -> Option<ObjId> {
        let maps = maps_at(&self.automerge, &ROOT, SELF);
        maps.into_iter().rfind(|map| is_by(map, self.host()))
    }

    /// Reads what the host says of itself, as far as it counts.
    pub fn description(&self) -> Description {
        let Some(own) = self.description_place() else { return Description::default() };
        let name = text_at(&self.automerge, &own, NAME);
        let name = name.map(|name| name.chars().take(NAME_CHARS_MAX).collect::<String>());
        let addresses = map_at(&self.automerge, &own, ADDRESSES);
        // Others read however many it has written.
        let few = |map| self.automerge.keys(&map).take(ADDRESSES_MAX).collect();
        Description {
            name: name.filter(|name| !name.is_empty()),
            addresses: addresses.map(few).unwrap_or_default(),
        }
    }

    /// Writes what this host says of itself, where that differs, in one change.
    pub fn describe_host(&mut self, wall_ms: i64, said: &Description) -> Option<Applied> {
        if self.description() == *said {
            return None;
        }
        let own = self.description_place();
        self.commit(wall_ms, |tx| {
            let own = match own {
                Some(own) => own,
                None => {
                    lay_out(tx)?;
                    map_or_new(tx, &ROOT, SELF)?
                }
            };
            if let Some(name) = &said.name {
                tx.put(&own, NAME, name.as_str())?;
            }
            let addresses = map_or_new(tx, &own, ADDRESSES)?;
            for address in tx.keys(&addresses).collect::<Vec<_>>() {
                if !said.addresses.contains(&address) {
                    tx.delete(&addresses, address)?;
                }
            }
            for address in &said.addresses {
                if tx.get(&addresses, address)?.is_none() {
                    tx.put(&addresses, address, true)?;
                }
            }
            Ok(())
        })
    }

    /// Lists all that the host says of itself, to be written into its next document.
    pub(super) fn said(&self) -> Vec<Said> {
        let own = self.description_place().map(|own| tree::read(&self.automerge, &own));
        let fields = own.into_iter().flatten();
        fields
            .flat_map(|(key, node)| match node {
                Node::Map(entries) => entries
                    .into_iter()
                    .map(|(entry, node)| Said::Entry(key.clone(), entry, node))
                    .collect::<Vec<_>>(),
                node @ Node::Scalar(_) => vec![Said::Field(key, node)],
            })
            .collect()
    }

    /// Writes into this document, the host's next one, what it has said of itself in the one before
    /// since that was as `before`.
    pub fn say_again(&mut self, before: &Self, after: &Self, wall_ms: i64) -> Option<Applied> {
        let read = |document: &Self| {
            let own = document.description_place();
            own.map(|own| tree::read(&document.automerge, &own)).unwrap_or_default()
        };
        let (before, after): (Tree, Tree) = (read(before), read(after));
        if before == after {
            return None;
        }
        let own = self.description_place()?;
        self.commit(wall_ms, |tx| tree::patch(tx, &[own], &before, &after))
    }
}

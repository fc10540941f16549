//! Owns the shape of the fleet document: what each member attests to have of others' changes.
//!
//! Must not know who is a member. Invariant: an attestation, once written, stays.

use automerge::{
    Automerge, ObjId, ObjType, ROOT, ReadDoc,
    transaction::{Transactable, Transaction},
};

use super::{
    super::{
        ids::{self, ActorBytes, DocumentId, FleetId, NodeId},
        trust::{Attested, Extent},
    },
    Applied, Document, Places as AllPlaces,
    host::{Done, map_at, maps_at, only_map_at, text_at},
};

/// The version of the document's shape.
const SCHEMA: i64 = 1;

/// Where things are in a fleet document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    members: ObjId,
}

/// Writes a fleet document's first change.
pub fn genesis(tx: &mut Transaction<'_>, fleet: FleetId) -> Done {
    let meta = tx.put_object(ROOT, "meta", ObjType::Map)?;
    tx.put(&meta, "schema", SCHEMA)?;
    tx.put(&meta, "fleet", fleet.to_string())?;
    tx.put_object(ROOT, "members", ObjType::Map)?;
    Ok(())
}

impl Places {
    /// Finds them; `None` if this is not the named fleet's document.
    pub fn find(automerge: &Automerge, fleet: FleetId) -> Option<Self> {
        let meta = only_map_at(automerge, &ROOT, "meta")?;
        let named = text_at(automerge, &meta, "fleet")? == fleet.to_string();
        named.then_some(Self { members: only_map_at(automerge, &ROOT, "members")? })
    }

    /// Returns where the map of the members is, if it is this one.
    pub fn path_of(&self, object: &ObjId) -> Option<Vec<String>> {
        (*object == self.members).then(|| vec!["members".to_owned()])
    }
}

impl Document {
    fn members_place(&self) -> &ObjId {
        match &self.places {
            AllPlaces::Fleet(places) => &places.members,
            AllPlaces::Host(_) => unreachable!("a host document has no members"),
        }
    }

    /// Lists what the members attest to have of the changes of others.
    pub fn attested(&self) -> Vec<(NodeId, Attested)> {
        let nodes = self.automerge.keys(self.members_place()).filter_map(|key| key.parse().ok());
        nodes.map(|node: NodeId| (node, self.attested_by(&node))).collect()
    }

    fn attested_by(&self, node: &NodeId) -> Attested {
        let records = maps_at(&self.automerge, self.members_place(), &node.to_string());
        let maps = records.iter().flat_map(|record| maps_at(&self.automerge, record, ATTESTED));
        let mut attested = Attested::new();
        for map in maps {
            for key in self.automerge.keys(&map) {
                let hash = text_at(&self.automerge, &map, &key);
                let read = hash.and_then(|hash| read_attested(&key, &hash));
                let Some((key, extent)) = read else { continue };
                let greatest = attested.entry(key).or_insert(extent);
                *greatest = (*greatest).max(extent);
            }
        }
        attested
    }

    /// Writes what a member attests to have, in one change.
    pub fn attest(&mut self, wall_ms: i64, by: &NodeId, attested: &Attested) -> Option<Applied> {
        let members = self.members_place().clone();
        self.commit(wall_ms, |tx| {
            let mut records = maps_at(tx, &members, &by.to_string());
            if records.is_empty() {
                records.push(tx.put_object(&members, by.to_string(), ObjType::Map)?);
            }
            for record in records {
                let map = match map_at(tx, &record, ATTESTED) {
                    Some(map) => map,
                    None => tx.put_object(&record, ATTESTED, ObjType::Map)?,
                };
                for ((document, actor), extent) in attested {
                    let key = attested_key(document, actor, extent.seq);
                    tx.put(&map, key, extent.hash.to_string())?;
                }
            }
            Ok(())
        })
    }
}

/// The key in a member's record of what it attests to have.
const ATTESTED: &str = "attested";

/// Returns the key of an attestation: there is one for each extent, so that none is ever taken
/// back by a later one.
fn attested_key(document: &DocumentId, actor: &ActorBytes, seq: u64) -> String {
    let actor: String = actor.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{document} {actor} {seq}")
}

fn read_attested(key: &str, hash: &str) -> Option<((DocumentId, ActorBytes), Extent)> {
    let mut words = key.split(' ');
    let (document, actor) = (words.next()?.parse().ok()?, ids::actor_from_hex(words.next()?)?);
    let extent = Extent { seq: words.next()?.parse().ok()?, hash: hash.parse().ok()? };
    Some(((document, actor), extent))
}

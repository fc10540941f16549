//! Owns the shape of the fleet document: the members.
//!
//! Must not know how a member is let in. Invariant: a revocation, once written, stays.

use automerge::{
    Automerge, ObjId, ObjType, ROOT, ReadDoc,
    transaction::{Transactable, Transaction},
};

use super::{
    super::{
        ids::{FleetId, NodeId},
        record::{Member, Revocation, Role},
    },
    Applied, Document, Places as AllPlaces,
    host::{Done, int_at, map_at, maps_at, only_map_at, text_at, texts_at},
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

    /// Returns the map of the members.
    pub fn members(&self) -> &ObjId {
        &self.members
    }
}

impl Document {
    fn members_place(&self) -> &ObjId {
        match &self.places {
            AllPlaces::Fleet(places) => &places.members,
            AllPlaces::Host(_) => unreachable!("a host document has no members"),
        }
    }

    /// Reads a member, a revoked or former one too.
    pub fn member(&self, node: &NodeId) -> Option<Member> {
        let records = maps_at(&self.automerge, self.members_place(), &node.to_string());
        let record = records.last()?.clone();
        let text = |key| text_at(&self.automerge, &record, key);
        // Two admins may have let the node in at once: either's revocation counts.
        let revoked = records.iter().find_map(|record| map_at(&self.automerge, record, "revoked"));
        let revoked = revoked.map(|object| Revocation {
            by: text_at(&self.automerge, &object, "by")
                .and_then(|by| by.parse().ok())
                .unwrap_or(NodeId([0; 32])),
            at: int_at(&self.automerge, &object, "at").unwrap_or(0),
        });
        Some(Member {
            node: *node,
            name: text("name").unwrap_or_else(|| node.short()),
            // The greatest, where admins wrote different ones at once: what a node may do only
            // grows, so that what was taken of it once is taken everywhere.
            role: records
                .iter()
                .flat_map(|record| texts_at(&self.automerge, record, "role"))
                .map(|role| role_named(&role))
                .max()
                .unwrap_or(Role::Reader),
            added_by: text("added_by").and_then(|by| by.parse().ok()).unwrap_or(*node),
            added_at: int_at(&self.automerge, &record, "added_at").unwrap_or(0),
            revoked,
            left: self.automerge.get(&record, "left").is_ok_and(|left| left.is_some()),
        })
    }

    /// Lists all members, revoked and former ones too.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.automerge.keys(self.members_place());
        nodes.filter_map(|node| self.member(&node.parse().ok()?)).collect()
    }

    /// Writes that a member has left, in one change.
    pub fn put_left(&mut self, wall_ms: i64, node: &NodeId) -> Option<Applied> {
        let members = self.members_place().clone();
        self.commit(wall_ms, |tx| {
            let records = maps_at(tx, &members, &node.to_string());
            records.iter().try_for_each(|record| tx.put(record, "left", true))
        })
    }

    /// Writes a member's entry anew, in one change, as an admin; a revocation stays, and who may
    /// write goes on to.
    pub fn put_member(&mut self, wall_ms: i64, member: &Member) -> Option<Applied> {
        let members = self.members_place().clone();
        let key = member.node.to_string();
        self.commit(wall_ms, |tx| {
            let mut records = maps_at(tx, &members, &key);
            if records.is_empty() {
                records.push(tx.put_object(&members, key, ObjType::Map)?);
            }
            records.iter().try_for_each(|record| write_member(tx, record, member))
        })
    }
}

/// Returns the role of a name; one that is not known may do least.
pub fn role_named(name: &str) -> Role {
    match name {
        "admin" => Role::Admin,
        "member" => Role::Member,
        _ => Role::Reader,
    }
}

fn write_member(tx: &mut Transaction<'_>, record: &ObjId, member: &Member) -> Done {
    let role = match member.role {
        Role::Admin => "admin",
        Role::Member => "member",
        Role::Reader => "reader",
    };
    let known = texts_at(tx, record, "role").iter().map(|name| role_named(name)).max();
    // What a node wrote while it could must be taken by all, for ever.
    let takes_writing = known > Some(Role::Reader) && member.role == Role::Reader;
    if !takes_writing {
        tx.put(record, "role", role)?;
    }
    tx.put(record, "added_by", member.added_by.to_string())?;
    tx.put(record, "added_at", member.added_at)?;
    tx.put(record, "name", member.name.as_str())?;
    if let Some(revoked) = &member.revoked
        && map_at(tx, record, "revoked").is_none()
    {
        let object = tx.put_object(record, "revoked", ObjType::Map)?;
        tx.put(&object, "by", revoked.by.to_string())?;
        tx.put(&object, "at", revoked.at)?;
    }
    match (member.left, tx.get(record, "left")?.is_some()) {
        (false, true) => tx.delete(record, "left"),
        _ => Ok(()),
    }
}

//! A member gone bad: it holds a member's key, and beside what its daemon does it writes whatever the wire
//! format allows. What it writes of others' documents is on a copy of what its own replica has.

use automerge::{
    ActorId, AutoCommit, Change, ObjId, ObjType, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::{
    daemon::engine::Hands as _,
    replica::{
        document::{self, Document},
        effect::Outgoing,
        ids::{ActorBytes, ChangeHash, DocumentId, NodeId, SessionId, StartId},
        voucher::Voucher,
    },
    wire::Frame,
};
use sha2::{Digest as _, Sha256};

use super::{
    common::keys::key_of,
    count::Seen,
    node::{Ports, Up, key},
    world::World,
};

/// How many changes it writes beside each other at most: more than are taken.
const BRANCHES_MAX: usize = 200;

/// What it does.
#[derive(Debug, Clone, Copy)]
enum Trick {
    /// Puts something else where others write into a map.
    Trap,
    /// Writes many changes none of which knows of another.
    Branches,
    /// Makes many copies of one session.
    Copies,
    /// Purges what it does not host.
    Overreach,
    /// Begins an epoch that goes on from nothing.
    Epoch,
    /// Keeps a workspace again and again.
    Keeps,
}

const TRICKS: [Trick; 10] = [
    Trick::Branches,
    Trick::Branches,
    Trick::Branches,
    Trick::Copies,
    Trick::Copies,
    Trick::Epoch,
    Trick::Keeps,
    Trick::Keeps,
    Trick::Trap,
    Trick::Overreach,
];

impl World {
    /// Lets the node gone bad do something, if there is one.
    pub fn play_rogue(&mut self, random: &mut fastrand::Rng) {
        let Some(number) = self.fabric.rogue.filter(|number| self.nodes[*number].is_here()) else {
            return;
        };
        let trick = TRICKS[random.usize(..TRICKS.len())];
        self.fabric.counts.add(Seen::Rogue);
        self.fabric.log(|| format!("the rogue, node {number}, plays {trick:?}"));
        let own = key(number);
        if matches!(trick, Trick::Epoch) {
            return self.forge_epoch(number, random);
        }
        let Some(up) = &self.nodes[number].up else { return };
        let replica = up.engine.replica();
        let hosts = replica.document_heads().into_iter().map(|(id, ..)| id);
        let wanted = |id: &DocumentId| match trick {
            Trick::Trap => id.host() == Some(own),
            Trick::Overreach => id.host().is_some_and(|host| host != own),
            _ => id.host().is_some(),
        };
        let Some(id) = random.choice(hosts.filter(wanted).collect::<Vec<_>>()) else { return };
        let Some(copy) = replica.document_copy(&id) else { return };
        let base = AutoCommit::load(&copy.save()).expect("what is held can be read");
        let forged = forge(&base, own, trick, random);
        // Each peer is told something else, or one of them all.
        let peers: Vec<NodeId> =
            (0..self.nodes.len()).filter(|it| *it != number).map(key).collect();
        let only = random.bool().then(|| peers[random.usize(..peers.len())]);
        for peer in peers.into_iter().filter(|peer| only.is_none_or(|only| only == *peer)) {
            let told: Vec<&Change> =
                forged.iter().filter(|_| only.is_some() || random.bool()).collect();
            for some in told.chunks(random.usize(1..=BRANCHES_MAX)) {
                let changes = some.iter().map(|change| change.raw_bytes().to_vec()).collect();
                let vouchers = some.iter().map(|change| vouch(own, &id, change)).collect();
                self.forge(number, vec![peer], Frame::Changes { document: id, changes, vouchers });
            }
        }
    }

    fn forge_epoch(&mut self, number: usize, random: &mut fastrand::Rng) {
        let own = key(number);
        let epoch = random.u32(1..1_000);
        let actor = document::actor(&own, StartId(random.u64(..).to_le_bytes()));
        let (laid_out, applied) = Document::create_host(own, epoch, actor, 0);
        let (id, bytes) = (laid_out.id(), laid_out.save());
        let last = applied.changes.last().expect("it was laid out");
        let voucher = Voucher::sign(&*key_of(own), &id, last.actor, last.seq, last.hash);
        let peers = (0..self.nodes.len()).filter(|it| *it != number && random.bool()).map(key);
        let peers = peers.collect();
        self.forge(number, peers, Frame::Snapshot { document: id, bytes, vouchers: vec![voucher] });
    }

    /// Sends what its replica would not.
    fn forge(&mut self, number: usize, to: Vec<NodeId>, frame: Frame) {
        let Some(Up { out, .. }) = &mut self.nodes[number].up else { return };
        Ports { fabric: &mut self.fabric, out }.send(&Outgoing { to, frame });
    }
}

fn vouch(own: NodeId, document: &DocumentId, change: &Change) -> Voucher {
    let actor: ActorBytes = change.actor_id().to_bytes().try_into().expect("an actor of ours");
    Voucher::sign(&*key_of(own), document, actor, change.seq(), ChangeHash(change.hash().0))
}

fn map(doc: &AutoCommit, object: &ObjId, key: &str) -> Option<ObjId> {
    let (value, id) = doc.get(object, key).ok()??;
    value.is_object().then_some(id)
}

/// Lists the records of a kind: the map that each is in, its id, and it.
fn records(doc: &AutoCommit, sessions: bool) -> Vec<(ObjId, String, ObjId)> {
    let maps: Vec<ObjId> = if sessions {
        let buckets = map(doc, &ROOT, "sessions").expect("a host document has it");
        doc.keys(&buckets).filter_map(|key| map(doc, &buckets, &key)).collect()
    } else {
        map(doc, &ROOT, "workspaces").into_iter().collect()
    };
    let of = |holder: ObjId| {
        let ids: Vec<String> = doc.keys(&holder).filter(|id| id != ".trash").collect();
        ids.into_iter()
            .filter_map(move |id| Some((holder.clone(), id.clone(), map(doc, &holder, &id)?)))
    };
    maps.into_iter().flat_map(of).collect()
}

/// Writes changes, each under an actor of its own.
fn forge(base: &AutoCommit, own: NodeId, trick: Trick, random: &mut fastrand::Rng) -> Vec<Change> {
    let count = match trick {
        Trick::Branches | Trick::Copies => random.usize(1..BRANCHES_MAX),
        _ => 1,
    };
    let sessions = records(base, true);
    let workspaces = records(base, false);
    let session = random.choice(&sessions).cloned();
    let workspace = random.choice(&workspaces).cloned();
    // An id that people use, too.
    let id: SessionId = format!("s{}", random.u8(..12)).parse().expect("an id");
    let mut forged = Vec::new();
    for number in 0..count {
        let mut doc = base.clone();
        let start = StartId(random.u64(..).to_le_bytes());
        doc.set_actor(ActorId::from(document::actor(&own, start).to_bytes()));
        let written = match trick {
            Trick::Branches => session
                .as_ref()
                .map(|(.., record)| doc.put(record, "title", format!("branch {number}"))),
            Trick::Copies => {
                let bucket = format!("{:02x}", Sha256::digest(id.as_str())[0]);
                let buckets = map(&doc, &ROOT, "sessions").expect("a host document has it");
                let bucket = map(&doc, &buckets, &bucket).expect("a host document has it");
                let is_free = doc.get(&bucket, id.as_str()).is_ok_and(|it| it.is_none());
                is_free.then(|| {
                    let record = doc.put_object(&bucket, id.as_str(), ObjType::Map)?;
                    doc.put(&record, "created_at", 1)
                })
            }
            Trick::Keeps => workspace.as_ref().and_then(|(.., record)| {
                let keepers = map(&doc, record, "keepers")?;
                Some((0..20).try_for_each(|keep| {
                    doc.put(&keepers, format!("op{}x{keep}", random.u32(..)), own.to_string())
                }))
            }),
            Trick::Trap => workspace.as_ref().map(|(.., record)| {
                let keys = ["keepers", "dismissals", "requests", "extra"];
                doc.put(record, keys[random.usize(..keys.len())], "trap")
            }),
            Trick::Overreach => session.as_ref().map(|(bucket, id, _)| doc.put(bucket, id, "gone")),
            Trick::Epoch => None,
        };
        let Some(Ok(())) = written else { continue };
        if doc.commit_with(CommitOptions::default().with_time(0)).is_some() {
            forged.push(doc.get_last_local_change().expect("it was just written"));
        }
    }
    forged
}

//! Owns what the daemon is attacked with, all drawn from one seed: files, hand-made cases, and
//! mutations of what an honest member said.
//!
//! Must not know how it is sent. Invariant: the same number gives the same attack, but for documents
//! that grow meanwhile.

use std::{collections::BTreeMap, path::Path};

use automerge::{
    ActorId, Automerge, Change, ObjId, ObjType, ROOT, ReadDoc as _, ScalarValue, Value,
    sync::{State, SyncDoc as _},
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::{
    replica::ids::{
        ChangeHash, DocumentId, FINGERPRINT_BYTES, FleetId, NodeId, StartId, StatementHash,
    },
    wire::{
        self, DocumentHeads, Frame, HEADER_BYTES, Hello, Join, Lane, Links, LinksBase,
        limits::FRAME_BYTES_MAX,
    },
};

use super::{
    bombs::{bombs, dear, long_histories},
    forge::{chunk, chunk_of, contents, deflate, hash_of, mutate},
    puppet::Recording,
    rogue::Attack,
    seal::Seal,
};

/// A document that is attacked, and what is known of it.
pub struct Target {
    pub id: DocumentId,
    pub automerge: Automerge,
    pub changes: Vec<Change>,
    /// Saved without compression, so that mutations meet the columns.
    pub plain: Vec<u8>,
}

/// Everything that there is to attack with.
pub struct Arsenal {
    node: NodeId,
    targets: Vec<Target>,
    frames: Vec<Frame>,
    messages: Vec<Vec<u8>>,
    seal: Seal,
    /// What is sent once, before the mutations.
    fixed: Vec<Attack>,
    seed: u64,
}

impl Arsenal {
    /// Makes ready what a recording, and folders of hostile files, give.
    pub fn new(recording: Recording, seed: u64) -> Self {
        let targets: Vec<Target> = recording
            .documents
            .iter()
            .map(|(id, saved)| {
                let automerge = Automerge::load(saved).expect("an honest document");
                let changes = automerge.get_changes(&[]);
                Target { id: *id, plain: automerge.save_nocompress(), automerge, changes }
            })
            .collect();
        let messages = targets.iter().flat_map(conversation).collect();
        let mut arsenal = Self {
            node: recording.node,
            targets,
            frames: recording.frames,
            messages,
            seal: recording.seal,
            fixed: Vec::new(),
            seed,
        };
        arsenal.fixed = arsenal.hand_made();
        arsenal
    }

    /// Adds every file of a folder, in every form in which its bytes could come; returns how many
    /// attacks that makes.
    pub fn add_folder(&mut self, folder: &Path) -> std::io::Result<usize> {
        let mut files: Vec<_> = std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        files.retain(|file| file.is_file() && file.extension().is_none_or(|end| end != "md"));
        files.sort();
        let before = self.fixed.len();
        for file in files {
            let bytes = std::fs::read(&file)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.add_file(&name, &bytes);
        }
        Ok(self.fixed.len() - before)
    }

    /// `t0` is a document, `t1` an increment, `t2` a sync message; other names are tried as all of
    /// these, and as a frame.
    fn add_file(&mut self, name: &str, bytes: &[u8]) {
        let is = |kind: &str| name.split(['-', '.']).any(|part| part == kind);
        let unknown = !["t0", "t1", "t2"].into_iter().any(is);
        let mut fixed = Vec::new();
        let mut add = |form: &str, frame: Frame| {
            // What is longer than any frame is no attack that could be sent.
            if let Ok(encoded) = wire::encode(&frame) {
                let lane = frame.lane();
                fixed.push(Attack {
                    name: format!("{name} as {form}"),
                    lane,
                    bytes: encoded,
                    ends: lane == Lane::Snapshot,
                });
            }
        };
        for target in &self.targets {
            let id = target.id;
            if is("t0") || is("t1") || unknown {
                add("a snapshot", self.seal.snapshot(id, bytes.to_vec()));
                add("a change", self.seal.changes(id, vec![bytes.to_vec()]));
            }
            if is("t1") || unknown {
                let appended = [&target.plain[..], bytes].concat();
                add("an increment", self.seal.snapshot(id, appended));
                let parts = chunks(bytes);
                if parts.len() > 1 {
                    add("changes", self.seal.changes(id, parts));
                }
            }
            if is("t2") || unknown {
                add("a sync message", self.seal.sync(id, bytes.to_vec()));
            }
        }
        if unknown && bytes.len() <= FRAME_BYTES_MAX {
            fixed.push(Attack::payload(format!("{name} as a frame"), Lane::Link, bytes));
            fixed.push(Attack::raw(format!("{name} as a stream"), Lane::Link, bytes.to_vec()));
        }
        self.fixed.append(&mut fixed);
    }

    /// Returns how many attacks are made once.
    pub fn fixed(&self) -> usize {
        self.fixed.len()
    }

    /// Returns the one that is made once and has this name.
    pub fn named(&self, name: &str) -> &Attack {
        let mut named = self.fixed.iter().filter(|attack| attack.name == name);
        named.next().unwrap_or_else(|| panic!("there is no attack {name}"))
    }

    /// Returns the attack with this number; those that are made once come first.
    pub fn attack(&self, number: usize) -> Attack {
        if let Some(fixed) = self.fixed.get(number) {
            return fixed.clone();
        }
        let mut random = fastrand::Rng::with_seed(self.seed ^ (number as u64) << 16);
        let mut attack = match random.u8(..100) {
            0..30 => self.mutated_change(&mut random),
            30..45 => self.misplaced_changes(&mut random),
            45..60 => self.mutated_document(&mut random),
            60..72 => self.mutated_message(&mut random),
            72..84 => self.written_at_will(&mut random),
            84..98 => self.mutated_frame(&mut random),
            _ => {
                let hand = random.usize(..self.fixed.len());
                self.fixed[hand].clone()
            }
        };
        attack.name = format!("{number}: {}", attack.name);
        attack
    }

    /// Returns [long histories](long_histories) that the rogue may write into a host's document.
    pub fn long_histories(&self, host: NodeId) -> ([Attack; 3], u64) {
        let is_of_host = |target: &&Target| target.id.host() == Some(host);
        let target = self.targets.iter().find(is_of_host).expect("it is attacked");
        let mut actor = [0x10; 20];
        actor[..FINGERPRINT_BYTES].copy_from_slice(&self.node.fingerprint());
        long_histories(target, &self.seal, ActorId::from(actor))
    }

    fn target<'a>(&'a self, random: &mut fastrand::Rng) -> &'a Target {
        &self.targets[random.usize(..self.targets.len())]
    }

    /// A change with some bytes changed and its checksum right, and perhaps those after it, which
    /// name it by its new hash.
    fn mutated_change(&self, random: &mut fastrand::Rng) -> Attack {
        let target = self.target(random);
        let at = random.usize(..target.changes.len());
        let mut bytes = contents(target.changes[at].raw_bytes()).expect("a chunk").to_vec();
        mutate(&mut bytes, random);
        let mutated = if random.u8(..4) == 0 {
            chunk_of(2, &deflate(&bytes), 1, &bytes)
        } else {
            chunk(1, &bytes)
        };
        let mut chain = vec![mutated];
        if random.bool() {
            let mut renamed: BTreeMap<[u8; 32], [u8; 32]> = BTreeMap::new();
            renamed.insert(target.changes[at].hash().0, hash_of(&bytes));
            for change in target.changes.iter().skip(at + 1).take(random.usize(1..6)) {
                let old = contents(change.raw_bytes()).expect("a chunk");
                let new = replaced(old, &renamed);
                renamed.insert(change.hash().0, hash_of(&new));
                chain.push(chunk(1, &new));
            }
        }
        Attack::frame("a mutated change", &self.seal.changes(target.id, chain))
    }

    /// Honest changes reordered, cut off, repeated, or in the wrong document.
    fn misplaced_changes(&self, random: &mut fastrand::Rng) -> Attack {
        let source = self.target(random);
        let target = if random.bool() { source } else { self.target(random) };
        let from = random.usize(..source.changes.len());
        let count = random.usize(1..=(source.changes.len() - from).min(20));
        let mut changes: Vec<Vec<u8>> = source.changes[from..from + count]
            .iter()
            .map(|change| change.raw_bytes().to_vec())
            .collect();
        match random.u8(..4) {
            0 => random.shuffle(&mut changes),
            1 => {
                let at = random.usize(..changes.len());
                let cut = random.usize(..changes[at].len());
                changes[at].truncate(cut);
            }
            2 => {
                let again = changes[random.usize(..changes.len())].clone();
                changes.push(again);
            }
            _ => {}
        }
        Attack::frame("misplaced changes", &self.seal.changes(target.id, changes))
    }

    fn mutated_document(&self, random: &mut fastrand::Rng) -> Attack {
        let source = self.target(random);
        let target = if random.u8(..8) == 0 { self.target(random) } else { source };
        let mut bytes = contents(&source.plain).expect("a chunk").to_vec();
        mutate(&mut bytes, random);
        let mut saved = chunk(0, &bytes);
        if random.u8(..4) == 0 {
            let change = &source.changes[random.usize(..source.changes.len())];
            let mut appended = contents(change.raw_bytes()).expect("a chunk").to_vec();
            mutate(&mut appended, random);
            saved.extend(chunk(1, &appended));
        }
        let frame = self.seal.snapshot(target.id, saved);
        Attack::frame("a mutated document", &frame)
    }

    fn mutated_message(&self, random: &mut fastrand::Rng) -> Attack {
        let target = self.target(random);
        let mut message = self.messages[random.usize(..self.messages.len())].clone();
        mutate(&mut message, random);
        Attack::frame("a mutated sync message", &self.seal.sync(target.id, message))
    }

    /// A frame as it was said, some of its bytes changed.
    fn mutated_frame(&self, random: &mut fastrand::Rng) -> Attack {
        let frame = &self.frames[random.usize(..self.frames.len())];
        let mut bytes = wire::encode(frame).expect("it was said")[HEADER_BYTES..].to_vec();
        if random.u8(..4) == 0 {
            bytes.truncate(random.usize(..bytes.len()));
        } else {
            // Where the fields are, not where the contents are long.
            let mut front: Vec<u8> = bytes.drain(..bytes.len().min(80)).collect();
            mutate(&mut front, random);
            bytes.splice(..0, front);
        }
        if bytes.is_empty() {
            bytes.push(random.u8(..));
        }
        Attack::payload(format!("a mutated {}", frame.kind()), frame.lane(), &bytes)
    }

    /// A change that automerge itself made, of whatever a member can think of.
    fn written_at_will(&self, random: &mut fastrand::Rng) -> Attack {
        let target = self.target(random);
        let mut automerge = target.automerge.clone();
        let actor = self.actor(target, random);
        automerge.set_actor(actor);
        let before = automerge.get_heads();
        for _ in 0..random.usize(1..3) {
            scribble(&mut automerge, random);
        }
        let made = automerge.get_changes(&before);
        let mut changes: Vec<Vec<u8>> =
            made.iter().map(|change| change.raw_bytes().to_vec()).collect();
        if random.u8(..3) == 0
            && let Some(last) = changes.last_mut()
        {
            let mut bytes = contents(last).expect("a chunk").to_vec();
            mutate(&mut bytes, random);
            *last = chunk(1, &bytes);
        }
        let frame = if random.u8(..5) == 0 {
            self.seal.own(target.id, &automerge)
        } else {
            self.seal.changes(target.id, changes)
        };
        Attack::frame("written at will", &frame)
    }

    /// An actor of the rogue's own, of somebody else, or of nobody.
    fn actor(&self, target: &Target, random: &mut fastrand::Rng) -> ActorId {
        let mut bytes = [0; 20];
        random.fill(&mut bytes);
        match random.u8(..4) {
            0 => {}
            1 => {
                let other = &target.changes[random.usize(..target.changes.len())];
                return other.actor_id().clone();
            }
            _ => bytes[..FINGERPRINT_BYTES].copy_from_slice(&self.node.fingerprint()),
        }
        ActorId::from(bytes)
    }

    fn hand_made(&self) -> Vec<Attack> {
        let mut attacks = streams();
        attacks.extend(self.out_of_turn());
        for target in &self.targets {
            attacks.extend(bombs(target, &self.seal));
        }
        attacks
            .extend(self.targets.first().into_iter().flat_map(|target| dear(target, &self.seal)));
        attacks
    }

    /// Frames that are well formed and should not come.
    fn out_of_turn(&self) -> Vec<Attack> {
        let hello = |min, max, fleet, name: &str| {
            Frame::Hello(Hello {
                protocol_min: min,
                protocol_max: max,
                fleet: FleetId(fleet),
                name: name.to_owned(),
                version: "\u{1b}[31mred".to_owned(),
                features: u64::MAX,
                frontier: [0xff; 32],
                statements: [0xff; 32],
            })
        };
        let nowhere = DocumentId::Host { host: NodeId([0xee; 32]), epoch: 0 };
        let epoch = DocumentId::Host { host: self.node, epoch: u32::MAX };
        let bogus = |count: u32| -> Vec<ChangeHash> {
            let hash = |number: u32| {
                let mut hash = [0; 32];
                hash[..4].copy_from_slice(&number.to_be_bytes());
                ChangeHash(hash)
            };
            (0..count).map(hash).collect()
        };
        let links = |base| {
            let linked = bogus(4_096).into_iter().map(|hash| NodeId(hash.0)).collect();
            Frame::Links(Links {
                base,
                linked,
                unlinked: vec![self.node],
                tells: true,
                again: true,
            })
        };
        let mut frames = vec![
            ("a second open", Frame::Open { start: StartId([0; 8]) }),
            ("no common protocol", hello(9, 9, [0; 16], "x")),
            ("versions the wrong way round", hello(9, 1, [0; 16], "x")),
            ("another fleet", hello(1, 1, [3; 16], "x")),
            (
                "a join in between",
                Frame::Join(Join {
                    protocol_min: 1,
                    protocol_max: 1,
                    fleet: FleetId([0; 16]),
                    secret: [0; 32],
                    name: String::new(),
                    addresses: vec!["x".repeat(64); 32],
                }),
            ),
            ("links with everyone", links(LinksBase::Nothing)),
            (
                "links with no such members",
                links(LinksBase::Members { digest: [0xee; 8], bits: vec![0xff; 512] }),
            ),
            ("more and more links", links(LinksBase::Told)),
            ("a frontier of nothing", Frame::Check { frontier: [0; 32], statements: [0; 32] }),
            ("statements of nothing", Frame::Statements { statements: vec![Vec::new()] }),
            ("statements of noise", Frame::Statements { statements: vec![vec![1; 256]; 16_384] }),
            (
                "statements known to nobody",
                Frame::Known {
                    statements: bogus(60_000).iter().map(|hash| StatementHash(hash.0)).collect(),
                    answer: true,
                },
            ),
            ("changes of nowhere", self.seal.changes(nowhere, vec![vec![0; 100]])),
            ("changes of no epoch", self.seal.changes(epoch, vec![vec![0; 100]])),
            ("a snapshot of nowhere", self.seal.snapshot(nowhere, vec![0; 100])),
            ("a snapshot of no epoch", self.seal.snapshot(epoch, vec![0; 100])),
            (
                "heads of thousands of documents",
                Frame::Heads {
                    documents: (0..8_000_u32)
                        .map(|number| DocumentHeads {
                            document: DocumentId::Host { host: self.node, epoch: number },
                            heads: bogus(1),
                        })
                        .collect(),
                    answer: true,
                },
            ),
        ];
        for target in &self.targets {
            let document = target.id;
            let heads = DocumentHeads { document, heads: bogus(4_096) };
            frames.push(("a want that nobody can meet", Frame::Want(heads.clone())));
            frames.push(("a want of all", Frame::Want(DocumentHeads { document, heads: vec![] })));
            let documents = vec![heads];
            frames.push(("heads that nobody has", Frame::Heads { documents, answer: false }));
            frames.push(("no changes", self.seal.changes(document, vec![])));
            frames.push(("empty changes", self.seal.changes(document, vec![vec![]; 65_536])));
            frames.push(("an empty snapshot", self.seal.snapshot(document, vec![])));
            frames.push(("an empty message", self.seal.sync(document, vec![])));
            frames
                .push(("zeros as changes", self.seal.changes(document, vec![vec![0; 8_000_000]])));
            let chunks = vec![chunk(1, &vec![0; 4 << 20])];
            frames.push(("zeros in a chunk", self.seal.changes(document, chunks)));
        }
        frames.into_iter().map(|(name, frame)| Attack::frame(name, &frame)).collect()
    }
}

/// Streams that hold no frames.
fn streams() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for lane in [Lane::Link, Lane::Snapshot] {
        let mut raw = |name: &str, bytes: &[u8]| {
            attacks.push(Attack::raw(format!("{name} ({lane:?})"), lane, bytes.to_vec()));
        };
        raw("nothing", &[]);
        raw("half a header", &[1, 0]);
        raw("no length", &[0; 4]);
        raw("the greatest length", &[0xff; 4]);
        raw("a length over the limit", &[1, 0, 0x80, 0]);
        raw("a length that nothing follows", &[0, 0, 0x40, 0]);
        raw("a kind of the future", &[5, 0, 0, 0, 0xfa, 0xff, 0xff, 0, 0]);
        raw("ones", &[0xff; 4_096]);
        raw("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        for kind in 0..=11 {
            // Counts and lengths that promise more than there is.
            for filler in [0x00, 0xfb, 0xfc, 0xfd, 0xff] {
                let mut payload = vec![kind];
                payload.extend([filler; 64]);
                let name = format!("kind {kind} of {filler:#x} ({lane:?})");
                attacks.push(Attack::payload(name, lane, &payload));
            }
        }
    }
    let garbage: Vec<u8> =
        (0..4_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    attacks.push(Attack::raw("megabytes of noise", Lane::Snapshot, garbage));
    attacks
}

/// All messages of the sync protocol between a document and one that lacks half of it.
fn conversation(target: &Target) -> Vec<Vec<u8>> {
    let mut ours = target.automerge.clone();
    let half = target.changes.iter().take(target.changes.len() / 2).cloned();
    let mut theirs = Automerge::new();
    theirs.apply_changes(half).expect("honest changes");
    let (mut our_state, mut their_state) = (State::new(), State::new());
    let mut messages = Vec::new();
    for _ in 0..20 {
        let one = ours.generate_sync_message(&mut our_state);
        let back = theirs.generate_sync_message(&mut their_state);
        if one.is_none() && back.is_none() {
            break;
        }
        if let Some(message) = one {
            messages.push(message.clone().encode());
            theirs.receive_sync_message(&mut their_state, message).expect("an honest message");
        }
        if let Some(message) = back {
            messages.push(message.clone().encode());
            ours.receive_sync_message(&mut our_state, message).expect("an honest message");
        }
    }
    messages
}

/// Writes something somewhere: into what the schema has, or beside it.
fn scribble(automerge: &mut Automerge, random: &mut fastrand::Rng) {
    let mut tx = automerge.transaction();
    let mut object = ROOT;
    for _ in 0..random.usize(..5) {
        let maps: Vec<ObjId> = tx
            .map_range(&object, ..)
            .filter_map(|item| match item.value.clone().into() {
                Value::Object(ObjType::Map) => Some(item.id()),
                _ => None,
            })
            .collect();
        match random.choice(&maps) {
            Some(inner) => object = inner.clone(),
            None => break,
        }
    }
    for _ in 0..random.usize(1..6) {
        let known = [
            "meta",
            "workspaces",
            "sessions",
            "teardown",
            "deleted",
            "keepers",
            "used",
            "title",
            "revoked",
            "role",
            "members",
            "left",
            "schema",
            "host",
            "epoch",
            "00",
            "ff",
        ];
        let key = match random.u8(..4) {
            0 => "x".repeat(random.usize(1..2_000)),
            1 => format!("ses_{}", random.u32(..)),
            _ => (*random.choice(known.iter()).expect("there are some")).to_owned(),
        };
        let value: ScalarValue = match random.u8(..8) {
            0 => ScalarValue::Null,
            1 => random.bool().into(),
            2 => random.i64(..).into(),
            3 => ScalarValue::counter(random.i64(..)),
            4 => ScalarValue::Bytes(vec![random.u8(..); random.usize(..70_000)]),
            5 => "admin".into(),
            6 => "x".repeat(random.usize(..70_000)).into(),
            _ => ScalarValue::F64(f64::NAN),
        };
        let kinds = [ObjType::Map, ObjType::Map, ObjType::List, ObjType::Text];
        // A delete of nothing is refused by automerge itself.
        let _ = match random.u8(..6) {
            0 => tx.put_object(&object, key, kinds[random.usize(..4)]).map(drop),
            1 => tx.delete(&object, key),
            _ => tx.put(&object, key, value),
        };
    }
    // Beyond, automerge itself overflows; the mutations go there.
    tx.commit_with(CommitOptions::default().with_time(random.i64(-1 << 40..1 << 40)));
}

/// Cuts bytes into automerge's chunks, as far as they are chunks.
fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
    const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
    let mut starts: Vec<usize> =
        (0..bytes.len().saturating_sub(3)).filter(|at| bytes[*at..].starts_with(&MAGIC)).collect();
    starts.push(bytes.len());
    starts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

/// Renames what a change depends on.
fn replaced(change: &[u8], renamed: &BTreeMap<[u8; 32], [u8; 32]>) -> Vec<u8> {
    let mut bytes = change.to_vec();
    let mut at = 0;
    while at + 32 <= bytes.len() {
        match renamed.get(&bytes[at..at + 32]) {
            Some(new) => {
                bytes[at..at + 32].copy_from_slice(new);
                at += 32;
            }
            None => at += 1,
        }
    }
    bytes
}

//! Owns what asks for much in a few bytes.
//!
//! Must not know how it is sent. Invariant: each has the outer form of honest bytes.

use automerge::{
    ActorId, Automerge, ObjType, ROOT, ReadDoc as _, ScalarValue,
    transaction::{CommitOptions, Transactable as _},
};
use sha2::{Digest as _, Sha256};

use sessionmesh::wire::Frame;

use super::{
    forge::{Bomb, bomb, chunk, dearest, deflate},
    inputs::Target,
    rogue::Attack,
    seal::Seal,
};

/// Small bytes that ask for much.
pub fn bombs(target: &Target, seal: &Seal) -> Vec<Attack> {
    let id = target.id;
    let actor = target.changes[0].actor_id().to_bytes().to_vec();
    let mut attacks = Vec::new();
    let mut add = |name: &str, frame: Frame| {
        attacks.push(Attack::frame(name, &frame));
    };
    for (changes, ops) in
        [(1, 8_000), (1, 1_000_000), (1, 5_000_000), (1_000, 1), (1_000_000, 1), (5_000_000, 1)]
    {
        let document = bomb(&actor, changes, ops, 1);
        add("a document of runs", seal.snapshot(id, document.clone()));
        let appended = [&target.plain[..], &document].concat();
        add("a document of runs behind another", seal.snapshot(id, appended));
    }
    let zeros = deflate(&vec![0; 64 << 20]);
    add("a deflate bomb", seal.changes(id, vec![chunk(2, &zeros)]));
    add("deflate bombs", seal.changes(id, vec![chunk(2, &zeros); 100]));

    let mut deep = Automerge::new().with_actor(ActorId::from(actor.clone()));
    let mut tx = deep.transaction();
    let mut object = ROOT;
    for _ in 0..10_000 {
        object = tx.put_object(&object, "d", ObjType::Map).expect("automerge lets one");
    }
    tx.commit();
    add("a deep document", seal.snapshot(id, deep.save()));
    let changes = deep.get_changes(&[]);
    add("a deep change", seal.changes(id, vec![changes[0].raw_bytes().to_vec()]));

    // Far more changes than fit, none of which can be applied yet.
    let mut other = target.automerge.clone();
    other.set_actor(ActorId::from(actor));
    let before = other.get_heads();
    for number in 0..1_200_i64 {
        let mut tx = other.transaction();
        tx.put(ROOT, "o", number).expect("a put");
        tx.commit();
    }
    let orphans: Vec<Vec<u8>> =
        other.get_changes(&before).iter().skip(1).map(|c| c.raw_bytes().to_vec()).collect();
    add("orphans", seal.changes(id, orphans));
    attacks
}

/// Documents that cost as much as any that is let pass: once, since each takes the time that it takes.
pub fn dear(target: &Target, seal: &Seal) -> Vec<Attack> {
    let actor = target.changes[0].actor_id().to_bytes().to_vec();
    let attack = |(name, passes, _): (&str, Bomb, _)| {
        let snapshot = seal.snapshot(target.id, passes.bytes(&actor));
        Attack::frame(format!("a document dear for its {name}"), &snapshot)
    };
    dearest().into_iter().map(attack).collect()
}

/// How many changes a long history has. Two of them, with the honest work, stay below what has a host
/// write its document anew.
const LONG_CHANGES: i64 = 3_000;
/// How many there are in a third, which does not, however much honest work there is to be kept: each
/// writes all of these fields.
const TOO_MANY_CHANGES: i64 = 10_000;
const FIELDS: [&str; 6] =
    ["title", "project_id", "directory", "archived_at", "updated_at", "x-newer"];
/// The session on the attacked host that a long history is of.
const LONG_OF: &str = "ses_r1_1";

/// Long histories, one behind the other, that are all that a member may write: as a whole document, as
/// the changes of one frame, and so much as a whole document that its host writes it anew; and how
/// many changes each of the first two has.
pub fn long_histories(target: &Target, seal: &Seal, actor: ActorId) -> ([Attack; 3], u64) {
    let mut automerge = target.automerge.clone();
    automerge.set_actor(actor);
    let bucket = format!("{:02x}", Sha256::digest(LONG_OF)[0]);
    let session = ["sessions", &bucket, LONG_OF].iter().fold(ROOT, |map, key| {
        let (_, record) = automerge.get(&map, *key).expect("it is a map").expect("it is there");
        record
    });
    let write = |automerge: &mut Automerge, changes, fields: &[&str]| {
        for number in 0..changes {
            let mut tx = automerge.transaction();
            for field in fields {
                let value = match field.ends_with("_at") {
                    true => ScalarValue::from(number),
                    false => ScalarValue::from(format!("the {field} number {number}")),
                };
                tx.put(&session, *field, value).expect("a put");
            }
            tx.commit_with(CommitOptions::default().with_time(0));
        }
    };
    write(&mut automerge, LONG_CHANGES, &FIELDS[..1]);
    let whole = Attack::frame("a long history", &seal.own(target.id, &automerge));
    let before = automerge.get_heads();
    write(&mut automerge, LONG_CHANGES, &FIELDS[..1]);
    let changes = automerge.get_changes(&before);
    let changes = changes.iter().map(|change| change.raw_bytes().to_vec()).collect();
    let pushed = Attack::frame("a long history, pushed", &seal.changes(target.id, changes));
    write(&mut automerge, TOO_MANY_CHANGES, &FIELDS);
    let longest = seal.own(target.id, &automerge);
    let longest = Attack::frame("a history that has a document written anew", &longest);
    ([whole, pushed, longest], LONG_CHANGES as u64)
}

//! The wire format as an outsider would check it: against `proto/golden.json`, against another
//! implementation, and against bytes that nobody meant to send.

mod confined;

use std::{collections::BTreeSet, time::Duration};

use sessionmesh::{
    replica::{
        guard::DocumentLimits,
        ids::{ChangeHash, DocumentId, FleetId, NodeId, StartId, StatementHash},
        voucher::Voucher,
    },
    wire::{
        CloseCode, Contact, DecodeError, Decoded, DocumentHeads, EncodeError, Frame, HEADER_BYTES,
        Hello, Join, Links, LinksBase, decode, encode, frame_length, limits,
    },
};

#[path = "wire/mirror.rs"]
mod mirror;

/// One vector of `proto/golden.json`.
#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    description: String,
    hex: String,
}

fn golden() -> Vec<(Golden, Vec<u8>)> {
    let vectors: Vec<Golden> =
        serde_json::from_str(include_str!("../proto/golden.json")).expect("golden.json is JSON");
    vectors
        .into_iter()
        .map(|vector| {
            let bytes = (0..vector.hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&vector.hex[at..at + 2], 16).expect("hex"))
                .collect();
            (vector, bytes)
        })
        .collect()
}

/// `[first, first + 1, …]`, so that a swapped byte shows.
fn run<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|at| first.wrapping_add(at as u8))
}

fn host(epoch: u32) -> DocumentId {
    DocumentId::Host { host: NodeId(run(0x20)), epoch }
}

fn fleet() -> DocumentId {
    DocumentId::Fleet(FleetId(run(0xf0)))
}

fn voucher(seq: u64) -> Voucher {
    Voucher { actor: run(0x30), seq, hash: ChangeHash(run(0x90)), signature: run(0x10) }
}

/// The frames of the golden vectors, by name.
fn frames() -> Vec<(&'static str, Frame)> {
    vec![
        ("open", Frame::Open { start: StartId(run(1)) }),
        (
            "hello",
            Frame::Hello(Hello {
                protocol_min: 2,
                protocol_max: 2,
                fleet: FleetId(run(0xf0)),
                name: "laptop".into(),
                version: "0.1.0".into(),
                features: 0,
                frontier: run(0x80),
                statements: run(0xa0),
            }),
        ),
        (
            "hello_wide",
            Frame::Hello(Hello {
                protocol_min: 250,
                protocol_max: 251,
                fleet: FleetId(run(0)),
                name: "Büro-Rechner".into(),
                version: String::new(),
                features: 1 << 40,
                frontier: [0xff; 32],
                statements: [0; 32],
            }),
        ),
        (
            "join",
            Frame::Join(Join {
                protocol_min: 2,
                protocol_max: 65_535,
                fleet: FleetId(run(0xf0)),
                secret: run(0x40),
                name: "box".into(),
                addresses: vec!["192.0.2.7:7464".into(), "[2001:db8::1]:7464".into()],
            }),
        ),
        (
            "joined",
            Frame::Joined {
                contacts: vec![Contact {
                    node: NodeId(run(0x20)),
                    addresses: vec!["192.0.2.7:7464".into()],
                }],
            },
        ),
        (
            "links",
            Frame::Links(Links {
                base: LinksBase::Nothing,
                linked: vec![NodeId(run(0x20)), NodeId(run(0x60))],
                unlinked: vec![],
                tells: false,
                again: false,
            }),
        ),
        (
            "links_members",
            Frame::Links(Links {
                base: LinksBase::Members { digest: run(0xc0), bits: vec![0xfd, 0x01] },
                linked: vec![NodeId(run(0x40))],
                unlinked: vec![],
                tells: true,
                again: false,
            }),
        ),
        (
            "links_told",
            Frame::Links(Links {
                base: LinksBase::Told,
                linked: vec![NodeId(run(0x50))],
                unlinked: vec![NodeId(run(0x20))],
                tells: false,
                again: false,
            }),
        ),
        ("links_again", Frame::Links(Links { again: true, ..Links::default() })),
        (
            "heads",
            Frame::Heads {
                documents: vec![
                    DocumentHeads { document: fleet(), heads: vec![ChangeHash(run(0xa0))] },
                    DocumentHeads {
                        document: host(70_000),
                        heads: vec![ChangeHash(run(0x10)), ChangeHash(run(0xb0))],
                    },
                ],
                answer: true,
            },
        ),
        ("want", Frame::Want(DocumentHeads { document: host(3), heads: vec![] })),
        (
            "changes",
            Frame::Changes {
                document: host(251),
                changes: vec![b"first".to_vec(), vec![], vec![0xfb]],
                vouchers: vec![voucher(250), voucher(70_000)],
            },
        ),
        (
            "snapshot",
            Frame::Snapshot {
                document: fleet(),
                bytes: b"saved".to_vec(),
                vouchers: vec![voucher(2)],
            },
        ),
        (
            "sync",
            Frame::Sync {
                document: host(u32::MAX),
                message: vec![0x42, 0, 0, 0, 0],
                vouchers: vec![],
            },
        ),
        ("check", Frame::Check { frontier: run(0x80), statements: run(0xa0) }),
        (
            "known",
            Frame::Known {
                statements: vec![StatementHash(run(0x11)), StatementHash(run(0x22))],
                answer: true,
            },
        ),
        (
            "statements",
            Frame::Statements { statements: vec![run::<140>(1).to_vec(), run::<256>(7).to_vec()] },
        ),
    ]
}

#[test]
fn every_golden_vector_is_the_encoding_of_its_frame_and_reads_back() {
    let golden = golden();
    let names: Vec<&str> = golden.iter().map(|(vector, _)| vector.name.as_str()).collect();
    let expected: Vec<&str> = frames().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected);
    for ((vector, bytes), (name, frame)) in golden.iter().zip(frames()) {
        assert!(!vector.description.is_empty(), "{name} has no description");
        assert_eq!(&encode(&frame).unwrap(), bytes, "{name} is encoded otherwise");
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        assert_eq!(frame_length(*header, frame.lane()), Ok(payload.len()), "{name}");
        assert_eq!(decode(payload), Ok(Decoded::Known(frame)), "{name} is decoded otherwise");
    }
}

#[test]
fn every_frame_that_this_version_knows_has_a_golden_vector() {
    let golden: BTreeSet<u8> = golden().iter().map(|(_, bytes)| bytes[HEADER_BYTES]).collect();
    let known: BTreeSet<u8> = (0..=250)
        .filter(|kind| decode(&[*kind]) != Ok(Decoded::Unknown { kind: u32::from(*kind) }))
        .collect();
    assert_eq!(golden, known);
}

#[test]
fn other_implementations_of_bincode_read_and_write_the_same_bytes() {
    let wincode = wincode::config::Configuration::default().with_varint_encoding();
    let bincode = bincode::config::standard();
    for ((vector, bytes), (_, frame)) in golden().into_iter().zip(frames()) {
        let payload = &bytes[HEADER_BYTES..];
        let mirror = mirror::Mirror::from(frame);
        assert_eq!(
            wincode::config::deserialize_exact::<mirror::Mirror, _>(payload, wincode).unwrap(),
            mirror,
            "{} as wincode reads it",
            vector.name
        );
        assert_eq!(
            wincode::config::serialize(&mirror, wincode).unwrap(),
            payload,
            "{} as wincode writes it",
            vector.name
        );
        assert_eq!(
            bincode::encode_to_vec(&mirror, bincode).unwrap(),
            payload,
            "{} as bincode's derive writes it",
            vector.name
        );
        let (read, used) =
            bincode::decode_from_slice::<mirror::Mirror, _>(payload, bincode).unwrap();
        assert_eq!((read, used), (mirror, payload.len()), "{}", vector.name);
    }
}

#[test]
fn a_frame_of_a_newer_version_is_skipped() {
    assert_eq!(decode(&[13]), Ok(Decoded::Unknown { kind: 13 }));
    assert_eq!(decode(&[200, 1, 2, 3]), Ok(Decoded::Unknown { kind: 200 }));
    assert_eq!(decode(&[251, 0x39, 0x30, 9]), Ok(Decoded::Unknown { kind: 12_345 }));
    assert_eq!(decode(&[253, 0, 0, 0, 0, 1, 0, 0, 0]), Err(DecodeError::Invalid { field: "kind" }));
}

#[test]
fn what_a_newer_version_appends_to_a_frame_is_ignored() {
    for (_, frame) in frames() {
        let mut payload = encode(&frame).unwrap().split_off(HEADER_BYTES);
        payload.extend([1, 2, 3]);
        assert_eq!(decode(&payload), Ok(Decoded::Known(frame)));
    }
}

#[test]
fn a_frame_cut_short_anywhere_is_refused() {
    for (name, frame) in frames() {
        let payload = encode(&frame).unwrap().split_off(HEADER_BYTES);
        for length in 0..payload.len() {
            let refused = decode(&payload[..length]).unwrap_err();
            assert!(
                matches!(refused, DecodeError::Empty | DecodeError::Truncated { .. }),
                "{name} cut at {length}: {refused}"
            );
        }
    }
}

#[test]
fn a_count_over_its_limit_is_refused_by_the_fields_name() {
    // A varint of 2^62 in the place of each count.
    const HUGE: [u8; 9] = [253, 0, 0, 0, 0, 0, 0, 0, 0x40];
    let count = 1_usize << 62;
    let document = [&[0][..], &[0; 16]].concat();
    for (kind, before, field, limit) in [
        (1_u8, [&[1, 1][..], &[0; 16]].concat(), "hello.name", limits::NAME_BYTES_MAX),
        (2, [&[1, 1][..], &[0; 48], &[0]].concat(), "join.addresses", limits::ADDRESSES_MAX),
        (3, vec![], "joined.contacts", limits::CONTACTS_MAX),
        (4, vec![0], "links.linked", limits::LINKS_MAX),
        (4, vec![1, 0], "links.unlinked", limits::LINKS_MAX),
        (4, [&[2][..], &[0; 8]].concat(), "links.bits", limits::LINKS_BITS_MAX),
        (5, vec![], "heads.documents", limits::DOCUMENTS_MAX),
        (6, document.clone(), "want", limits::HEADS_MAX),
        (7, document.clone(), "changes.changes", limits::CHANGES_MAX),
        (8, document.clone(), "snapshot.bytes", limits::SNAPSHOT_BYTES_MAX),
        (9, document, "sync.message", limits::FRAME_BYTES_MAX),
        (11, vec![], "known.statements", limits::STATEMENTS_MAX),
        (12, vec![], "statements.statements", limits::STATEMENTS_AT_ONCE_MAX),
        (12, vec![1], "statements.statements", limits::STATEMENT_BYTES_MAX),
    ] {
        let payload = [&[kind][..], &before, &HUGE].concat();
        assert_eq!(decode(&payload), Err(DecodeError::FieldTooLong { field, count, limit }));
        // As many as are allowed, of which none is there.
        let mut payload = [&[kind][..], &before, &[252]].concat();
        payload.extend((limit as u32).to_le_bytes());
        assert_eq!(decode(&payload), Err(DecodeError::Truncated { field }));
    }
}

/// What is there twice would be looked up twice, and a frame holds a quarter of a million.
#[test]
fn lists_that_are_not_sorted_or_hold_an_item_twice_are_refused() {
    let heads = |heads: &[u8]| DocumentHeads {
        document: fleet(),
        heads: heads.iter().map(|byte| ChangeHash([*byte; 32])).collect(),
    };
    let nodes = |nodes: &[u8]| nodes.iter().map(|byte| NodeId([*byte; 32])).collect();
    let links = |linked: &[u8], unlinked: &[u8]| {
        Frame::Links(Links { linked: nodes(linked), unlinked: nodes(unlinked), ..Links::default() })
    };
    let told = |documents| Frame::Heads { documents, answer: false };
    for (frame, field) in [
        (Frame::Want(heads(&[2, 1])), "want"),
        (Frame::Want(heads(&[1, 1])), "want"),
        (told(vec![heads(&[1, 2, 2])]), "heads.documents"),
        (told(vec![heads(&[1]), heads(&[1])]), "heads.documents"),
        (links(&[2, 1], &[]), "links.linked"),
        (links(&[1], &[3, 3]), "links.unlinked"),
    ] {
        assert_eq!(encode(&frame), Err(EncodeError::Invalid { field }), "it is not sent");
    }
    // The same by hand, as a peer may that keeps no rule.
    let want = |heads: &[u8]| {
        let hashes = heads.iter().flat_map(|byte| [*byte; 32]);
        [&[6, 0][..], &[0; 16], &[heads.len() as u8]].concat().into_iter().chain(hashes).collect()
    };
    let sorted: Vec<u8> = want(&[1, 2]);
    assert!(matches!(decode(&sorted), Ok(Decoded::Known(Frame::Want(_)))));
    for bad in [want(&[2, 1]), want(&[1, 1])] {
        assert_eq!(decode(&bad), Err(DecodeError::Invalid { field: "want" }));
    }
}

#[test]
fn no_bytes_make_the_decoder_panic_or_allocate_much() {
    const MEMORY_KIB_MAX: u64 = 256 << 10;
    let name = "no_bytes_make_the_decoder_panic_or_allocate_much";
    confined::confined(name, MEMORY_KIB_MAX, Duration::from_secs(60), || {
        let mut random = fastrand::Rng::with_seed(0x5e55_1035);
        let payloads: Vec<Vec<u8>> = frames()
            .iter()
            .map(|(_, frame)| encode(frame).unwrap().split_off(HEADER_BYTES))
            .collect();
        let (mut known, mut refused) = (0, 0);
        for _ in 0..100_000 {
            let mut payload = random.choice(&payloads).unwrap().clone();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..payload.len());
                match random.u8(..4) {
                    0 => payload[at] = random.u8(..),
                    1 => payload[at] ^= 1 << random.u8(..8),
                    // Announces 2^16 to 2^128 of whatever is counted here.
                    2 => payload[at] = random.u8(251..),
                    _ => payload.insert(at, random.u8(..)),
                }
            }
            match decode(&payload) {
                Ok(Decoded::Known(frame)) => {
                    known += 1;
                    // What was read can be said again.
                    let again = encode(&frame).unwrap();
                    assert_eq!(decode(&again[HEADER_BYTES..]), Ok(Decoded::Known(frame)));
                }
                Ok(Decoded::Unknown { .. }) => {}
                Err(_) => refused += 1,
            }
        }
        assert!(known > 1000 && refused > 1000, "{known} read, {refused} refused");
    });
}

/// Whoever writes another node goes by the page.
#[test]
fn the_contract_names_the_limits_of_a_document() {
    let page = include_str!("../proto/wire.md").replace('\n', " ");
    let DocumentLimits { inflated_bytes, changes, ops, memory_bytes, .. } =
        DocumentLimits::SNAPSHOT;
    let inflated = inflated_bytes >> 20;
    for said in [
        format!("A saved document is inflated to at most {inflated} MiB"),
        format!("at most {changes} changes and {ops} operations"),
        format!("summed up, are at most {memory_bytes},"),
    ] {
        assert!(page.contains(&said), "{said}");
    }
}

/// Returns the rows of the table below this heading of `proto/wire.md`, cell by cell.
fn contract_table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = include_str!("../proto/wire.md")
        .split_once(&format!("\n## {heading}\n"))
        .expect("the heading is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.skip(1).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_contract_names_every_close_code() {
    let written: Vec<(String, String)> = contract_table("Close codes")
        .iter()
        .map(|row| (row[0].to_owned(), row[1].trim_matches('`').to_owned()))
        .collect();
    let known = CloseCode::ALL.map(|code| (code.as_u32().to_string(), code.name().to_owned()));
    assert_eq!(written, known);
}

#[test]
fn the_contract_states_every_limit() {
    let written: Vec<usize> =
        contract_table("Limits").iter().map(|row| row[1].parse().unwrap()).collect();
    let kept = [
        limits::FRAME_BYTES_MAX,
        limits::SNAPSHOT_BYTES_MAX,
        limits::NAME_BYTES_MAX,
        limits::VERSION_BYTES_MAX,
        limits::ADDRESSES_MAX,
        limits::ADDRESS_BYTES_MAX,
        limits::CONTACTS_MAX,
        limits::LINKS_MAX,
        limits::LINKS_BITS_MAX,
        limits::DOCUMENTS_MAX,
        limits::HEADS_MAX,
        limits::CHANGES_MAX,
        limits::VOUCHERS_MAX,
        limits::STATEMENTS_MAX,
        limits::STATEMENTS_AT_ONCE_MAX,
        limits::STATEMENT_BYTES_MAX,
    ];
    assert_eq!(written, kept);
}

#[test]
fn the_contract_names_every_frame() {
    let written: Vec<String> =
        contract_table("Frames").iter().map(|row| row[1].to_lowercase()).collect();
    let mut known: Vec<&str> = frames().iter().map(|(_, frame)| frame.kind()).collect();
    known.dedup();
    assert_eq!(written, known);
}

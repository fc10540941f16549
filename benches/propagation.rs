//! Measures how long a change takes from the command at A to the diff at B: two real daemons over
//! loopback QUIC, at 1,000, 10,000 and 100,000 sessions on 100 hosts.
//!
//! The floor is what no such daemon can do without, measured between the samples, on the same
//! state: the bare commit, one way over bare QUIC, the bare applying, and the own diff. The applying
//! comes right after the commit, and the diff after another applying. A daemon applies after a rest,
//! when what that needs has left the processor's caches: `over_rested_floor_p50` is over the same parts
//! with a rest before each.
//!
//! What the author's signature and the checking of it take is told beside the floor, and is no part of
//! it: `signing_share_p50` is one of each over the whole, of the change of which it is most. With no
//! signature a change would take the rest.
//!
//! With the feature `compare`, samod 0.16 over TCP is measured in the same run with the same
//! sessions: all in one document, as it would be used, and in the same documents as here.
//!
//! `cargo bench [--features compare] --bench propagation [-- --quick] [-- --sessions 1000,100000]`
//! prints a table and writes `target/bench/propagation.json`. It fails only if a change does not
//! arrive.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::time::{Duration, Instant};

use common::{
    floor::{Core, Kind, Quic, Taken},
    node::{Node, free_address},
    report::{Report, Samples, is_quick, rounded, say},
    state::{self, Fleet},
};
use sessionmesh::replica::{
    command::{Command, NewSession, SessionPatch, Target},
    ids::{NodeId, SessionId, WorkspaceId},
};

/// How many samples of each kind are taken at each size, after a few that are not counted.
const SAMPLES: usize = 300;
const WARM_UP: usize = 30;
/// How long both daemons are left alone between two samples: their disks have to settle, or the
/// one before would be measured along.
const PAUSE: Duration = Duration::from_millis(2);

/// What was measured of one kind of change at one size.
#[derive(Default)]
struct Measured {
    whole: Samples,
    one_way: Samples,
    /// The applying right after the commit, the diff right after another applying.
    in_a_row: Parts,
    /// With a rest before each.
    rested: Parts,
    sign: Samples,
    verify: Samples,
    bytes: usize,
}

/// What is measured of the floor at every second change.
#[derive(Default)]
struct Parts {
    commit: Samples,
    apply: Samples,
    diff: Samples,
}

impl Parts {
    fn push(&mut self, taken: &Taken) {
        self.commit.push(taken.commit);
        self.apply.push(taken.apply);
        self.diff.push(taken.diff);
    }

    fn us(&self) -> f64 {
        [&self.commit, &self.apply, &self.diff].iter().map(|part| part.us(50)).sum()
    }
}

impl Measured {
    /// One signature and one check, as a change takes that comes by itself.
    fn signature_us(&self) -> f64 {
        self.sign.us(50) + self.verify.us(50)
    }

    fn floor_us(&self) -> f64 {
        self.one_way.us(50) + self.in_a_row.us()
    }

    fn rested_floor_us(&self) -> f64 {
        self.one_way.us(50) + self.rested.us()
    }
}

fn main() {
    let mut report = Report::new("propagation");
    let named = sizes_named();
    let sizes = match &named {
        Some(sizes) => &sizes[..],
        None if is_quick() => &[1_000],
        None => &[1_000, 10_000, 100_000],
    };
    println!(
        "{:<10} {:<8} {:>9} {:>9} | {:>9} {:>8} {:>8} {:>8} {:>8} {:>6} | {:>9}",
        "sessions",
        "change",
        "p50 us",
        "p99 us",
        "floor us",
        "commit",
        "quinn",
        "apply",
        "diff",
        "over",
        "signature"
    );
    let mut medians = Vec::new();
    for &sessions in sizes {
        let measured = measure(sessions);
        #[cfg(feature = "compare")]
        compare(&mut report, sessions, &measured);
        let (mut worst, mut rested, mut signing) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (kind, it) in &measured {
            let (name, p50, p99) = (kind.name(), it.whole.us(50), it.whole.us(99));
            let over = p50 / it.floor_us();
            worst = worst.max(over);
            rested = rested.max(p50 / it.rested_floor_us());
            signing = signing.max(it.signature_us() / p50);
            println!(
                "{sessions:<10} {name:<8} {p50:>9} {p99:>9} | {:>9} {:>8} {:>8} {:>8} {:>8} {:>6} | {:>9}",
                rounded(it.floor_us()),
                it.in_a_row.commit.us(50),
                it.one_way.us(50),
                it.in_a_row.apply.us(50),
                it.in_a_row.diff.us(50),
                rounded(over),
                rounded(it.signature_us()),
            );
            report.note(format!("{name}_{sessions}_p50_us"), p50);
            report.note(format!("{name}_{sessions}_p99_us"), p99);
            report.note(format!("{name}_{sessions}_floor_p50_us"), rounded(it.floor_us()));
            let floor = rounded(it.rested_floor_us());
            report.note(format!("{name}_{sessions}_rested_floor_p50_us"), floor);
            report.note(format!("{name}_{sessions}_bytes"), it.bytes);
            let signature = rounded(it.signature_us());
            report.note(format!("{name}_{sessions}_signature_p50_us"), signature);
        }
        if sessions == sizes[0] {
            report.at_most("over_floor_p50", worst, 1.5);
            report.note("over_rested_floor_p50", rounded(rested));
            report.note("signing_share_p50", rounded(signing));
            // What it adds to what a change would take without.
            report.at_most("signing_over_unsigned_p50", signing / (1.0 - signing), 0.15);
        } else {
            report.note(format!("over_floor_p50_{sessions}"), rounded(worst));
        }
        medians.push(measured.iter().map(|(_, it)| it.whole.us(50)).collect::<Vec<_>>());
    }
    if let [small, .., large] = &medians[..] {
        let growth = small.iter().zip(large).map(|(small, large)| large / small);
        report.at_most("growth_100k_over_1k", growth.fold(0.0, f64::max), 1.3);
    }
    report.finish();
}

/// Returns the sizes that follow `--sessions`, as in `--sessions 1000,100000`.
fn sizes_named() -> Option<Vec<usize>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--sessions");
    let named = arguments.nth(1)?;
    let size = |text: &str| text.parse().expect("`--sessions` takes numbers");
    Some(named.split(',').map(size).collect())
}

fn measure(sessions: usize) -> Vec<(Kind, Measured)> {
    say(&format!("making {sessions} sessions on {} hosts", state::HOSTS));
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let folders = ["a", "b"].map(|name| folder.path().join(name));
    let keys = folders.each_ref().map(|folder| state::key(folder));
    let fleet = Fleet::make(&keys, state::HOSTS, sessions);
    let addresses = [0, 1].map(|n: usize| (keys[n].node(), free_address()));
    folders.iter().for_each(|folder| fleet.write(folder, &addresses));
    let [a, b] = [0, 1].map(|n: usize| Node::start(&folders[n], &addresses[n].1));
    a.until_in_sync(b.ready.node);
    b.until_in_sync(a.ready.node);
    let (mut core, quic) = (Core::of(&fleet), Quic::connect());
    let mut arrivals = b.follow();

    let host = a.ready.node;
    let kept = sessions / state::HOSTS;
    let count = if is_quick() { 20 } else { SAMPLES };
    let mut measured = Kind::ALL.map(|kind| (kind, Measured::default()));
    for n in 0..WARM_UP + count {
        for (kind, it) in &mut measured {
            let id = match kind {
                Kind::Title => state::session_id(&host, n % kept),
                // What was created is deleted next.
                Kind::Create | Kind::Delete => format!("ses_new_{n}"),
            };
            let id: SessionId = id.parse().expect("it is an id");
            let room: WorkspaceId = workspace_of(&host, 0);
            let command = command(*kind, &id, &room, n);
            let handle = a.handle.clone();
            let begun = a.block_on(async move {
                let begun = Instant::now();
                handle.command(command).await.expect("it is carried out");
                begun
            });
            let (arrived, body) = arrivals.blocking_recv().expect("the stream goes on");
            assert!(body.contains(id.as_str()), "it is the diff of another change: {body}");
            std::thread::sleep(PAUSE);
            let is_rested = n % 2 == 1;
            let rest = if is_rested { PAUSE } else { Duration::ZERO };
            let bare = core.take(*kind, &id, &room, rest);
            std::thread::sleep(PAUSE);
            // A frame's own bytes: its length, kind, document and the change's length.
            let one_way = quic.one_way(bare.bytes + 44);
            if n >= WARM_UP {
                it.whole.push(arrived - begun);
                it.one_way.push(one_way);
                let parts = if is_rested { &mut it.rested } else { &mut it.in_a_row };
                parts.push(&bare);
                it.sign.push(bare.sign);
                it.verify.push(bare.verify);
                it.bytes = bare.bytes;
            }
        }
    }
    measured.into()
}

/// Measures the peer; the goals are those of where all sessions are in one document.
#[cfg(feature = "compare")]
fn compare(report: &mut Report, sessions: usize, ours: &[(Kind, Measured)]) {
    use automerge::{Automerge, ROOT, ReadDoc as _};
    use common::peer::{Samod, one_document};

    let fleet = Fleet::make(&[], state::HOSTS, sessions);
    let host = fleet.hosts[0].key.node();
    let samples = if is_quick() { 5 } else { 40 };
    let rounds = |mut samod: Samod| {
        let mut taken = Kind::ALL.map(|kind| (kind, Samples::default(), Samples::default()));
        for n in 0..samples {
            for (kind, told, known) in &mut taken {
                let it =
                    samod.take(*kind, &state::session_id(&host, n % (sessions / state::HOSTS)));
                told.push(it.told);
                known.push(it.known);
                std::thread::sleep(PAUSE);
            }
        }
        taken
    };
    say(&format!("samod with {sessions} sessions in one document"));
    let (document, map) = one_document(&fleet);
    let one = rounds(Samod::share(vec![document], map));
    say(&format!("samod with {sessions} sessions in {} documents", state::HOSTS));
    let mut documents: Vec<Automerge> = fleet
        .hosts
        .iter()
        .map(|host| Automerge::load(&host.bytes).expect("it was just saved"))
        .collect();
    let buckets = documents[0].get(ROOT, "sessions").ok().flatten().expect("it is there").1;
    let bucket = documents[0].keys(&buckets).next().expect("there are buckets");
    let bucket = documents[0].get(&buckets, bucket).ok().flatten().expect("it is there").1;
    let same = rounds(Samod::share(std::mem::take(&mut documents), bucket));
    let short = format!("{}k", sessions / 1_000);
    for (what, taken) in [("", &one), ("_same_documents", &same)] {
        let mut least = f64::INFINITY;
        for ((kind, told, known), (_, ours)) in taken.iter().zip(ours) {
            let (told, known) = (told.us(50), known.us(50));
            let over = known / ours.whole.us(50);
            least = least.min(over);
            println!("samod{what} {} at {sessions}: told {told} us, known {known} us", kind.name());
            report.note(format!("samod{what}_{}_{sessions}_told_p50_us", kind.name()), told);
            report.note(format!("samod{what}_{}_{sessions}_known_p50_us", kind.name()), known);
        }
        let key = format!("samod{what}_over_ours_{short}");
        match (what, sessions) {
            ("", 1_000) => report.at_least(key, least, 3.0),
            ("", 100_000) => report.at_least(key, least, 25.0),
            _ => report.note(key, rounded(least)),
        }
    }
}

fn workspace_of(host: &NodeId, n: usize) -> WorkspaceId {
    format!("wrk_{}{n:014}", host.short()).parse().expect("it is an id")
}

fn command(kind: Kind, id: &SessionId, room: &WorkspaceId, n: usize) -> Command {
    match kind {
        Kind::Title => Command::UpdateSession(
            Target::new(id.clone()),
            SessionPatch {
                title: Some(Some(format!("title number {n} of a run"))),
                ..SessionPatch::default()
            },
        ),
        Kind::Create => Command::CreateSession(NewSession {
            id: Some(id.clone()),
            workspace_id: Some(room.to_string()),
            directory: Some("/home/dev/work/feature".to_owned()),
            title: Some(format!("session number {n}")),
            ..NewSession::default()
        }),
        Kind::Delete => Command::DeleteSession { session: Target::new(id.clone()), dry_run: false },
    }
}

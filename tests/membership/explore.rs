//! Owns the exploration of all sets of a few statements.
//!
//! Must not know how the evaluation goes about it. Invariant: a set is built once, however many
//! ways lead to it.

use std::{collections::HashSet, env, fmt::Write as _};

use sessionmesh::replica::{
    ids::{NodeId, StatementHash},
    membership::{
        evaluate::{Membership, evaluate},
        set::{Offered, StatementSet},
        statement::{Act, Statement},
    },
    record::Role,
};

use super::{ALICE, BOB, CAROL, Fleet, ROOT, admit, revoke, sign};

/// Everybody that may say something: three admins, and an outsider that one of them may let in.
const ALL: [NodeId; 4] = [ROOT, ALICE, BOB, CAROL];

/// Which statements are made beyond the founding ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    All,
    Revocations,
}

/// Two ways to have three admins: by one, or each by the one before it.
pub fn foundings() -> [Fleet; 2] {
    [ROOT, ALICE].map(|by| {
        let mut fleet = Fleet::new();
        fleet.say(ROOT, admit(ALICE, Role::Admin));
        fleet.say(by, admit(BOB, Role::Admin));
        fleet
    })
}

fn chained(set: &StatementSet, author: NodeId) -> Vec<StatementHash> {
    let of_author = set.held().iter().filter(|held| held.statement.author == author);
    of_author.map(|held| held.statement.hash()).collect()
}

/// Lists everything that could be said next, on whatever branch.
fn next(set: &StatementSet, kinds: Kinds) -> Vec<Statement> {
    let mut all = Vec::new();
    for author in ALL {
        let own = chained(set, author);
        let begins = (author != ROOT).then_some(None);
        for previous in begins.into_iter().chain(own.into_iter().map(Some)) {
            let mut say = |act| all.push(sign(set.fleet(), author, previous, act));
            for node in ALL.into_iter().filter(|node| *node != author) {
                say(revoke(node, None));
                chained(set, node).into_iter().for_each(|last| say(revoke(node, Some(last))));
            }
            if kinds == Kinds::All {
                say(Act::SteppedDown);
                if author != CAROL {
                    say(admit(CAROL, Role::Member));
                    say(admit(CAROL, Role::Admin));
                    say(Act::Promoted { node: CAROL, role: Role::Admin });
                }
            }
        }
    }
    all
}

/// Adds a statement that anybody might make.
pub fn grow(set: &mut StatementSet, kinds: Kinds, random: &mut fastrand::Rng) {
    let next = next(set, kinds);
    set.offer(next[random.usize(..next.len())].clone(), |_| false);
}

fn key(set: &StatementSet) -> Vec<u64> {
    let short = |hash: StatementHash| u64::from_le_bytes(hash.0[..8].try_into().unwrap());
    set.hashes().map(short).collect()
}

/// Checks all sets of at most so many statements beyond a founding; returns how many there are.
pub fn explore(founding: Fleet, kinds: Kinds, statements: usize) -> usize {
    let membership = evaluate(&founding.set);
    let mut level = vec![(founding.set, membership)];
    let mut count = 1;
    for depth in 1..=statements {
        let mut seen = HashSet::new();
        let mut deeper = Vec::new();
        for (set, before) in &level {
            for statement in next(set, kinds) {
                let mut grown = set.clone();
                if grown.offer(statement.clone(), |_| false) != Offered::Held {
                    continue;
                }
                let after = evaluate(&grown);
                check_step(set, before, &statement, &after);
                if seen.insert(key(&grown)) {
                    check(&grown, &after);
                    count += 1;
                    if depth < statements {
                        deeper.push((grown, after));
                    }
                }
            }
        }
        level = deeper;
    }
    count
}

fn shown(set: &StatementSet, membership: &Membership) -> String {
    let mut text = String::new();
    for held in set.held() {
        let Statement { author, previous, act, .. } = &held.statement;
        let hash = held.statement.hash();
        writeln!(text, "{hash:?} by {author:?} after {previous:?}: {act:?}").unwrap();
    }
    writeln!(text, "admins {:?} of {:?}", membership.admins, membership.seniority).unwrap();
    for (node, belonging) in &membership.nodes {
        writeln!(text, "{node:?}: {belonging:?}").unwrap();
    }
    text
}

/// What holds of every set.
fn check(set: &StatementSet, membership: &Membership) {
    let show = || shown(set, membership);
    assert!(!membership.admins.is_empty(), "without an admin: {}", show());
    for admin in &membership.admins {
        assert!(membership.nodes[admin].is_current(), "an admin is out: {}", show());
    }
    for (node, belonging) in &membership.nodes {
        for admission in &belonging.admissions {
            let author = set.get(admission).expect("it is held").statement.author;
            assert!(membership.seniority.contains(&author), "{node:?} is in by nobody: {}", show());
            if membership
                .nodes
                .get(&author)
                .is_some_and(|by| by.removal.is_some() || by.stepped_down)
                && author != *node
            {
                let newest = membership.nodes[&author].newest;
                assert!(
                    is_before(set, *admission, newest),
                    "{node:?} is in by what a removal excludes: {}",
                    show()
                );
            }
        }
    }
}

/// Tells whether a statement is among those that end with another one.
fn is_before(set: &StatementSet, sought: StatementHash, end: Option<StatementHash>) -> bool {
    let before = |hash: &StatementHash| set.get(hash).and_then(|held| held.statement.previous);
    std::iter::successors(end, before).any(|hash| hash == sought)
}

/// What holds between a set and the same with one statement more.
fn check_step(set: &StatementSet, before: &Membership, added: &Statement, after: &Membership) {
    let show = || format!("{}\nthen {added:?}\n{}", shown(set, before), shown(set, after));
    let rank = |node: &NodeId| before.seniority.iter().position(|other| other == node);
    // Whoever has no say changes nothing, so it matters to nobody whether its statements are held.
    let made_by = set.held().iter().filter(|held| match held.statement.act {
        Act::Admitted { node, .. } | Act::Promoted { node, .. } => node == added.author,
        _ => false,
    });
    let is_made_by_closed = rank(&added.author).is_none()
        && made_by.clone().all(|held| before.is_closed(&held.statement.author));
    if before.is_closed(&added.author) || is_made_by_closed {
        let mut unforked = after.clone();
        unforked.forked.clone_from(&before.forked);
        assert!(unforked == *before, "a closed key had a say: {}", show());
    }
    for (node, belonging) in &before.nodes {
        let Some(removal) = &belonging.removal else { continue };
        // Only who is at least as senior as the remover could take its removal back.
        let Some(senior) = rank(&removal.by) else { continue };
        let is_junior = rank(&added.author).is_some_and(|rank| rank > senior);
        if !is_junior && !is_made_by_closed {
            continue;
        }
        let is_in = after.nodes.get(node).is_some_and(|node| node.is_current());
        assert!(!is_in, "a junior took a removal of {node:?} back: {}", show());
    }
    let root = &before.nodes[&ROOT];
    if root.stepped_down && added.author == ROOT {
        assert!(!after.admins.contains(&ROOT), "what stepped down came back: {}", show());
        assert_eq!(before.nodes, after.nodes, "what stepped down had a say: {}", show());
    }
}

fn depth(otherwise: usize) -> usize {
    let named = env::var("MEMBERSHIP_STATEMENTS").ok();
    named.map_or(otherwise, |text| text.parse().expect("a number of statements"))
}

/// Explores both foundings.
pub fn explore_all(kinds: Kinds, statements: usize) -> usize {
    foundings().into_iter().map(|founding| explore(founding, kinds, statements)).sum()
}

#[test]
fn all_sets_of_a_few_statements_of_every_kind_keep_the_rules() {
    let sets = explore_all(Kinds::All, depth(2));
    assert!(sets > 2_000, "{sets} are too few");
}

#[test]
fn all_sets_of_a_few_revocations_keep_the_rules() {
    let sets = explore_all(Kinds::Revocations, depth(2) + 1);
    assert!(sets > 9_000, "{sets} are too few");
}

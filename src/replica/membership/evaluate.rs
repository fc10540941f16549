//! Owns what a set of statements comes to: who belongs to the fleet, as what, and under which name.
//!
//! Must not know how statements travel. Invariants: there is always an admin; a senior's removal of
//! a junior stands whatever the junior signs; nobody is in by a statement that is excluded.
//!
//! There is no trusted time: a statement that does not know of its author's removal may have been
//! made before it or long after. So admins are ordered by seniority, not statements by time.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        ids::{FleetId, NodeId, StatementHash},
        record::Role,
    },
    grants::Grants,
    set::{Held, StatementSet, admits},
    statement::Act,
};

/// A node that belongs to the fleet, or has belonged to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belonging {
    /// The name that an admin let it in under: no other current member has it.
    pub name: String,
    /// The greatest role that an admin gave it.
    pub role: Role,
    /// The admin that let it in; the founder let itself in.
    pub added_by: NodeId,
    /// Milliseconds since the epoch by that admin's clock; for people only.
    pub added_at: i64,
    /// The admissions that count and that it has not ended: what it ends by leaving.
    pub admissions: Vec<StatementHash>,
    /// Set when an admin has shut it out.
    pub removal: Option<Removal>,
    /// Whether it was an admin and has stepped down: with this key it can't be one again.
    pub stepped_down: bool,
    /// Its newest statement that counts.
    pub newest: Option<StatementHash>,
}

impl Belonging {
    /// Tells whether the node may exchange anything with the fleet now.
    pub fn is_current(&self) -> bool {
        self.removal.is_none() && !self.admissions.is_empty()
    }
}

/// How a node was shut out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The most senior admin that shut it out.
    pub by: NodeId,
    /// Milliseconds since the epoch by that admin's clock; for people only.
    pub at: i64,
    /// Whether its records are hidden.
    pub retire: bool,
    /// The lists of heads that count, by the admin whose document holds the list.
    pub documents: Vec<(NodeId, [u8; 32])>,
}

/// Who belongs to a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Everybody that was let in by a statement that counts.
    pub nodes: BTreeMap<NodeId, Belonging>,
    /// The admins, the most senior first.
    pub admins: Vec<NodeId>,
    /// Everybody whose statements count up to some point, the most senior first: the admins, and
    /// those that were.
    pub seniority: Vec<NodeId>,
    /// Whose key was used in two places at once.
    pub forked: BTreeSet<NodeId>,
    /// The keys whose further statements change nothing.
    closed: BTreeSet<NodeId>,
}

impl Membership {
    /// Tells whether no further statement of a node can count: it has stepped down, or an admin
    /// senior to it has shut it out.
    pub fn is_closed(&self, node: &NodeId) -> bool {
        self.closed.contains(node)
    }

    /// Returns whether only admins junior to it have shut a node out, so that it can undo that.
    pub fn may_return(&self, node: &NodeId) -> bool {
        let is_out = self.nodes.get(node).is_some_and(|it| it.removal.is_some());
        is_out && !self.is_closed(node) && self.seniority.contains(node)
    }

    /// Returns whether a node that juniors have shut out may shut out one of its juniors all the same: its
    /// statements come before theirs.
    pub fn may_answer(&self, node: &NodeId, junior: &NodeId) -> bool {
        let rank = |node: &NodeId| self.seniority.iter().position(|it| it == node);
        let is_senior = rank(node).zip(rank(junior)).is_some_and(|(own, other)| own < other);
        is_senior && self.may_return(node)
    }

    /// Returns the admin that nobody else can shut out for good.
    pub fn root(&self) -> Option<NodeId> {
        self.admins.first().copied()
    }
}

/// Evaluates a set of statements.
pub fn evaluate(set: &StatementSet) -> Membership {
    let Some(founder) = set.founder() else { return Membership::default() };
    let mut evaluation = Evaluation::new(set, founder);
    while let Some(admin) = evaluation.next_admin() {
        evaluation.apply_acts_of(admin);
        evaluation.done.insert(admin);
    }
    evaluation.membership(set)
}

/// A removal that is, or was to be, applied.
#[derive(Clone)]
struct Applied {
    removal: Removal,
    /// Whether the one that removed it was senior to it.
    by_senior: bool,
}

struct Evaluation<'a> {
    fleet: FleetId,
    held: &'a [Held],
    founder: NodeId,
    /// Of each author, its chained statements, as places in the list.
    chains: BTreeMap<NodeId, Vec<usize>>,
    excluded: Vec<bool>,
    grants: Grants,
    removed: BTreeMap<NodeId, Applied>,
    stepped_down: BTreeSet<NodeId>,
    /// The admins whose acts were applied.
    done: BTreeSet<NodeId>,
    /// The removals that were applied, or skipped: each is tried once.
    tried: BTreeSet<usize>,
}

impl<'a> Evaluation<'a> {
    fn new(set: &'a StatementSet, founder: NodeId) -> Self {
        let held = set.held();
        let mut chains: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (place, held) in held.iter().enumerate() {
            if !matches!(held.statement.act, Act::Left { .. }) {
                chains.entry(held.statement.author).or_default().push(place);
            }
        }
        for chain in chains.values_mut() {
            chain.sort_unstable_by_key(|place| {
                let held = &held[*place];
                (held.position, held.statement.hash())
            });
        }
        let excluded = vec![false; held.len()];
        let grants = Grants::read(held, founder, &excluded);
        Self {
            fleet: set.fleet(),
            held,
            founder,
            chains,
            excluded,
            grants,
            removed: BTreeMap::new(),
            stepped_down: BTreeSet::new(),
            done: BTreeSet::new(),
            tried: BTreeSet::new(),
        }
    }

    /// Returns the most senior admin whose acts were not applied yet. Each application may change
    /// who that is, but never makes anybody more senior.
    fn next_admin(&self) -> Option<NodeId> {
        let is_next = |node: &&NodeId| !self.done.contains(*node);
        if planted!(SeniorityIgnored) {
            return self.grants.order.iter().rev().find(is_next).copied();
        }
        self.grants.order.iter().find(is_next).copied()
    }

    /// Applies an admin's removals, up to where it steps down, if it does.
    fn apply_acts_of(&mut self, admin: NodeId) {
        let chain = self.chains.get(&admin).cloned().unwrap_or_default();
        for &place in &chain {
            let is_last_act = matches!(self.held[place].statement.act, Act::SteppedDown);
            if !is_last_act || self.excluded[place] {
                continue;
            }
            // What its key signs after it, on whatever branch, must not be applied before it.
            let kept = self.ancestors(self.held[place].parent);
            if planted!(StepDownLate) {
                self.apply_removals(admin, &chain);
            }
            let set_aside = self.exclude_beyond(admin, &kept);
            self.apply_removals(admin, &chain);
            if self.admins().any(|other| other != admin) {
                self.stepped_down.insert(admin);
                return;
            }
            // The last admin can't go.
            self.include(&set_aside);
        }
        self.apply_removals(admin, &chain);
    }

    fn apply_removals(&mut self, admin: NodeId, chain: &[usize]) {
        for &place in chain {
            // By one of its own removals an admin may lose what made it one.
            let counts = !self.excluded[place] || planted!(ExcludedCounts);
            if counts && self.grants.includes(&admin) && self.tried.insert(place) {
                self.apply_removal(place);
            }
        }
    }

    /// Applies a removal, unless no admin would be left, or its author were none without what it
    /// excludes.
    fn apply_removal(&mut self, place: usize) {
        let statement = &self.held[place].statement;
        let Act::Revoked { node, last, documents, retire } = &statement.act else { return };
        let rank = |node| self.grants.ranks.get(node).copied().unwrap_or(usize::MAX);
        let by_senior = rank(&statement.author) < rank(node);
        let known = self.removed.get(node).cloned();
        let mut applied = known.clone().unwrap_or_else(|| Applied {
            removal: Removal {
                by: statement.author,
                at: statement.at,
                retire: false,
                documents: Vec::new(),
            },
            by_senior,
        });
        applied.removal.retire |= retire;
        let documents = documents.map(|documents| (statement.author, documents));
        applied.removal.documents.extend(documents);
        let last = last.and_then(|last| self.place_of(node, &last));
        let kept = self.ancestors(last);
        self.removed.insert(*node, applied);
        let excluded = self.exclude_beyond(*node, &kept);
        let leaves_none = self.admins().next().is_none() && !planted!(LastAdminRemoved);
        if leaves_none || !self.grants.includes(&statement.author) {
            self.include(&excluded);
            match known {
                Some(known) => self.removed.insert(*node, known),
                None => self.removed.remove(node),
            };
        }
    }

    /// Lists the admins, the most senior first.
    fn admins(&self) -> impl Iterator<Item = NodeId> {
        let is_in =
            |node: &NodeId| !self.removed.contains_key(node) && !self.stepped_down.contains(node);
        self.grants.order.iter().copied().filter(is_in)
    }

    fn place_of(&self, author: &NodeId, hash: &StatementHash) -> Option<usize> {
        let is_it = |place: &&usize| self.held[**place].statement.hash() == *hash;
        self.chains.get(author)?.iter().find(is_it).copied()
    }

    /// Returns a statement and those before it in its author's chain.
    fn ancestors(&self, last: Option<usize>) -> BTreeSet<usize> {
        std::iter::successors(last, |place| self.held[*place].parent).collect()
    }

    /// Excludes an author's statements but those to keep; returns which were not excluded before.
    fn exclude_beyond(&mut self, author: NodeId, kept: &BTreeSet<usize>) -> Vec<usize> {
        let chain = self.chains.get(&author).map_or(&[][..], Vec::as_slice);
        let goes = |place: &usize| !kept.contains(place) && !self.excluded[*place];
        let excluded: Vec<usize> = chain.iter().copied().filter(goes).collect();
        self.set_excluded(&excluded, true);
        excluded
    }

    fn include(&mut self, places: &[usize]) {
        self.set_excluded(places, false);
    }

    fn set_excluded(&mut self, places: &[usize], excluded: bool) {
        for &place in places {
            self.excluded[place] = excluded;
        }
        let grants = |place: &usize| {
            matches!(self.held[*place].statement.act, Act::Admitted { .. } | Act::Promoted { .. })
        };
        if places.iter().any(grants) {
            self.grants = Grants::read(self.held, self.founder, &self.excluded);
        }
    }

    /// Returns whether a statement is by somebody that was an admin, and not excluded.
    fn counts(&self, place: usize) -> bool {
        !self.excluded[place] && self.grants.includes(&self.held[place].statement.author)
    }

    fn membership(self, set: &StatementSet) -> Membership {
        let admins: Vec<NodeId> = self.admins().collect();
        let ended = self.ended(&admins);
        let mut nodes = BTreeMap::new();
        let mut oldest_first: Vec<(usize, usize)> = Vec::new();
        for (place, held) in self.held.iter().enumerate() {
            if admits(&held.statement).is_some() && self.admission_counts(place) {
                oldest_first.push((self.grants.ranks[&held.statement.author], place));
            }
        }
        oldest_first.sort_unstable_by_key(|(rank, place)| {
            let held = &self.held[*place];
            (*rank, held.position, held.statement.hash())
        });
        let mut named = Vec::new();
        for (_, place) in oldest_first {
            let statement = &self.held[place].statement;
            let Some(node) = admits(statement) else { continue };
            let is_ended = ended.contains(&statement.hash());
            let belonging = nodes.entry(node).or_insert_with(|| self.belonging(node, place));
            if !is_ended {
                if belonging.admissions.is_empty() {
                    // Of one that came back, its present admission names it.
                    *belonging = self.belonging(node, place);
                    named.push(node);
                }
                belonging.admissions.push(statement.hash());
            }
        }
        self.raise(&mut nodes);
        keep_names_apart(&mut nodes, &named);
        let seniority = self.grants.order.clone();
        let closed_by_senior = self.removed.iter().filter(|(_, applied)| applied.by_senior);
        let closed = closed_by_senior.map(|(node, _)| *node).chain(self.stepped_down).collect();
        Membership { nodes, admins, seniority, forked: set.forked().clone(), closed }
    }

    /// Tells whether the founding, or an admission, counts. The fleet is founded, whatever else is.
    fn admission_counts(&self, place: usize) -> bool {
        let is_founding = self.held[place].statement.hash().fleet() == self.fleet;
        is_founding || self.counts(place) || planted!(ExcludedAdmits)
    }

    /// Lists the admissions that their nodes have ended; an admin must step down first.
    fn ended(&self, admins: &[NodeId]) -> BTreeSet<StatementHash> {
        let left = |held: &Held| match held.statement.act {
            Act::Left { admitted } if !admins.contains(&held.statement.author) => Some(admitted),
            _ => None,
        };
        self.held.iter().filter_map(left).collect()
    }

    fn belonging(&self, node: NodeId, place: usize) -> Belonging {
        let statement = &self.held[place].statement;
        let name = match &statement.act {
            Act::Admitted { name, .. } | Act::Founded { name, .. } => name.clone(),
            _ => String::new(),
        };
        let chain = self.chains.get(&node).into_iter().flatten();
        let newest = chain.copied().rfind(|place| self.counts(*place));
        Belonging {
            name,
            role: Role::Reader,
            added_by: statement.author,
            added_at: statement.at,
            admissions: Vec::new(),
            removal: self.removed.get(&node).map(|applied| applied.removal.clone()),
            stepped_down: self.stepped_down.contains(&node),
            newest: newest.map(|place| self.held[place].statement.hash()),
        }
    }

    /// Gives each node the greatest role that a statement gives it: what a node may write only
    /// grows, so that what one has taken of it is taken everywhere.
    fn raise(&self, nodes: &mut BTreeMap<NodeId, Belonging>) {
        for (place, held) in self.held.iter().enumerate() {
            let (node, role) = match held.statement.act {
                Act::Founded { .. } => (held.statement.author, Role::Admin),
                Act::Admitted { node, role, .. } | Act::Promoted { node, role } => (node, role),
                _ => continue,
            };
            let Some(belonging) = nodes.get_mut(&node) else { continue };
            if self.admission_counts(place) {
                let greatest = if belonging.stepped_down { Role::Member } else { Role::Admin };
                belonging.role = belonging.role.max(role).min(greatest);
            }
        }
    }
}

/// Lengthens a name that two admins gave at once: the older keeps it, the other one's is followed
/// by as much of its key as is needed.
fn keep_names_apart(nodes: &mut BTreeMap<NodeId, Belonging>, oldest_first: &[NodeId]) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for node in oldest_first {
        let Some(belonging) = nodes.get_mut(node).filter(|belonging| belonging.is_current()) else {
            continue;
        };
        let (key, given) = (node.to_string(), belonging.name.clone());
        let mut digits = 6;
        while taken.contains(&belonging.name) && digits <= key.len() {
            belonging.name = format!("{given}-{}", &key[..digits]);
            digits += 1;
        }
        taken.insert(belonging.name.clone());
    }
}

//! Owns the set of statements that a node holds, and when a statement may enter it.
//!
//! Must not know which statements count. Invariants: it is causally closed, and it lists its
//! statements so that each comes after those that it builds on; it and what waits are bounded.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::{
    super::{
        ids::{FleetId, NodeId, StatementHash},
        record::Role,
    },
    statement::{Act, Statement},
};

/// Most statements of a fleet: at 256 bytes each they take 16 MiB.
pub const STATEMENTS_MAX: usize = 65_536;
/// How many of these an admin's daemon leaves free for those that shut nodes out.
pub const STATEMENTS_RESERVED: usize = 4_096;
/// Most statements that wait for others. One that finds no room is offered again at the next
/// greeting.
pub const WAITING_MAX: usize = 1_024;

/// A statement in the set.
#[derive(Debug, Clone)]
pub struct Held {
    /// What was signed.
    pub statement: Statement,
    /// How many statements of its author's chain come before it.
    pub position: u32,
    /// Where the one before it is in the list.
    pub parent: Option<usize>,
}

/// What became of a statement that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in the set now, and maybe some that waited for it.
    Held,
    /// It was in the set.
    Known,
    /// Something that it builds on is not in the set.
    Waits,
    /// It is left out.
    Refused(LeftOut),
}

/// Why a statement is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeftOut {
    /// The set is full.
    #[error("the fleet has {STATEMENTS_MAX} statements, which is the most")]
    Full,
    /// The author can't change anything any more.
    #[error("its author has been shut out, or has stepped down")]
    Closed,
    /// The author has stepped down by another statement already.
    #[error("its author has stepped down by another statement")]
    SteppedDownOtherwise,
    /// It builds on a statement of somebody else, or of the wrong kind.
    #[error("it names a statement that is not what it says")]
    Misnamed,
}

/// The statements of one fleet.
#[derive(Debug, Clone)]
pub struct StatementSet {
    fleet: FleetId,
    held: Vec<Held>,
    places: BTreeMap<StatementHash, usize>,
    founder: Option<NodeId>,
    /// Who was ever made an admin.
    speakers: BTreeSet<NodeId>,
    /// Who signed two statements where only one can stand.
    forked: BTreeSet<NodeId>,
    /// The statements that have one after them, or the beginning of an author's chain.
    continued: BTreeSet<(NodeId, Option<StatementHash>)>,
    stepped_down: BTreeMap<NodeId, usize>,
    /// What revocations name as the last statement that counts.
    kept: BTreeSet<StatementHash>,
    waiting: BTreeMap<StatementHash, Statement>,
}

impl StatementSet {
    /// Holds nothing yet of a fleet.
    pub fn new(fleet: FleetId) -> Self {
        Self {
            fleet,
            held: Vec::new(),
            places: BTreeMap::new(),
            founder: None,
            speakers: BTreeSet::new(),
            forked: BTreeSet::new(),
            continued: BTreeSet::new(),
            stepped_down: BTreeMap::new(),
            kept: BTreeSet::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Returns the fleet that the statements are about.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// Returns the node that founded the fleet, once its statement is held.
    pub fn founder(&self) -> Option<NodeId> {
        self.founder
    }

    /// Lists the statements, each after those that it builds on.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Returns how many statements wait for others.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the statements as they are stored, each after those that it builds on.
    pub fn encoded(&self) -> impl Iterator<Item = Vec<u8>> {
        self.held.iter().map(|held| held.statement.encode())
    }

    /// Finds a statement.
    pub fn get(&self, hash: &StatementHash) -> Option<&Held> {
        self.places.get(hash).map(|place| &self.held[*place])
    }

    /// Lists the nodes that signed two statements after the same one: their key is in two places.
    pub fn forked(&self) -> &BTreeSet<NodeId> {
        &self.forked
    }

    /// Returns the newest statement of a node's chain: what its next one names.
    pub fn newest(&self, author: &NodeId) -> Option<StatementHash> {
        let is_theirs = |held: &&Held| held.statement.author == *author && is_chained(held);
        let of_author = self.held.iter().filter(is_theirs);
        of_author.map(|held| (held.position, held.statement.hash())).max().map(|(_, hash)| hash)
    }

    /// Returns a digest of what is held: equal sets have equal ones.
    pub fn digest(&self) -> [u8; 32] {
        let hash = |sum: Sha256, hash: &StatementHash| sum.chain_update(hash.0);
        self.places.keys().fold(Sha256::new(), hash).finalize().into()
    }

    /// Lists the names of the statements that are held, in order.
    pub fn hashes(&self) -> impl Iterator<Item = StatementHash> {
        self.places.keys().copied()
    }

    /// Lists the statements that are held and not among these, each after those that it builds on.
    pub fn lacked_by(&self, theirs: &BTreeSet<StatementHash>) -> impl Iterator<Item = &Statement> {
        let lacks = |statement: &&Statement| !theirs.contains(&statement.hash());
        self.held.iter().map(|held| &held.statement).filter(lacks)
    }

    /// Lists the statements that show that a node was shut out, or that the admin which let it in was, with all
    /// statements that these build on. It is empty for a node that no statement lets in.
    pub fn shown_out(&self, node: &NodeId) -> Vec<&Statement> {
        let lets_in = |held: &&Held| admits(&held.statement) == Some(*node);
        let mut whom: BTreeSet<NodeId> =
            self.held.iter().filter(lets_in).map(|held| held.statement.author).collect();
        if whom.is_empty() {
            return Vec::new();
        }
        whom.insert(*node);
        let is_about = |held: &Held| match held.statement.act {
            Act::Revoked { node, .. } => whom.contains(&node),
            _ => false,
        };
        let mut grants: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        let mut open: Vec<usize> = Vec::new();
        for (place, held) in self.held.iter().enumerate() {
            if let Some(admin) = makes_admin(&held.statement) {
                grants.entry(admin).or_default().push(place);
            }
            if is_about(held) {
                open.push(place);
            }
        }
        let mut shown = BTreeSet::new();
        while let Some(place) = open.pop() {
            if shown.insert(place) {
                let held = &self.held[place];
                open.extend(held.parent);
                open.extend(grants.remove(&held.statement.author).unwrap_or_default());
            }
        }
        shown.into_iter().map(|place| &self.held[place].statement).collect()
    }

    /// Returns the newest statement of a chain before its author shut out `removed`; `newest` if it has not.
    pub fn before_removal(
        &self,
        newest: Option<StatementHash>,
        removed: &NodeId,
    ) -> Option<StatementHash> {
        let mut kept = newest;
        let mut at = newest.and_then(|newest| self.get(&newest));
        while let Some(held) = at {
            if matches!(held.statement.act, Act::Revoked { node, .. } if node == *removed) {
                kept = held.statement.previous;
            }
            at = held.parent.map(|parent| &self.held[parent]);
        }
        kept
    }

    /// Lists the statements of an admin that somebody has tried to shut out: they may undo that. It is empty for
    /// others.
    pub fn answers(&self, node: &NodeId) -> Vec<&Statement> {
        let is_out = |held: &Held| matches!(held.statement.act, Act::Revoked { node: out, .. } if out == *node);
        if !self.held.iter().any(is_out) {
            return Vec::new();
        }
        let own =
            self.held.iter().filter(|held| held.statement.author == *node && is_chained(held));
        own.map(|held| &held.statement).collect()
    }

    /// Takes a statement in, or has it wait.
    ///
    /// `is_closed` tells whether an author's further statements can't count any more: they are left
    /// out, or a key that was shut out could go on filling the set.
    pub fn offer(&mut self, statement: Statement, is_closed: impl Fn(&NodeId) -> bool) -> Offered {
        let hash = statement.hash();
        if self.places.contains_key(&hash) {
            return Offered::Known;
        }
        match self.place_for(&statement, &is_closed) {
            Place::At { parent, position } => {
                self.waiting.remove(&hash);
                self.hold(Held { statement, position, parent });
                self.take_in_what_waited(&is_closed);
                Offered::Held
            }
            Place::Refused(why) => {
                self.waiting.remove(&hash);
                Offered::Refused(why)
            }
            Place::Unknown => {
                if self.waiting.len() < WAITING_MAX || self.waiting.contains_key(&hash) {
                    self.waiting.insert(hash, statement);
                }
                Offered::Waits
            }
        }
    }

    fn take_in_what_waited(&mut self, is_closed: &impl Fn(&NodeId) -> bool) {
        let mut again = !self.waiting.is_empty();
        while again {
            again = false;
            let waiting: Vec<StatementHash> = self.waiting.keys().copied().collect();
            for hash in waiting {
                match self.place_for(&self.waiting[&hash], is_closed) {
                    Place::Unknown => continue,
                    Place::Refused(_) => drop(self.waiting.remove(&hash)),
                    Place::At { parent, position } => {
                        if let Some(statement) = self.waiting.remove(&hash) {
                            self.hold(Held { statement, position, parent });
                            again = true;
                        }
                    }
                }
            }
        }
    }

    fn place_for(&self, statement: &Statement, is_closed: &impl Fn(&NodeId) -> bool) -> Place {
        let author = &statement.author;
        match self.judge(statement) {
            Place::At { .. } if self.held.len() >= STATEMENTS_MAX => Place::Refused(LeftOut::Full),
            Place::At { .. }
                if is_chained_act(&statement.act)
                    && is_closed(author)
                    && !self.is_kept(&statement.hash()) =>
            {
                Place::Refused(LeftOut::Closed)
            }
            place => place,
        }
    }

    /// Judges whether everything that a statement builds on is held, and is what it says.
    fn judge(&self, statement: &Statement) -> Place {
        let author = &statement.author;
        if let Act::Founded { .. } = statement.act {
            // Its hash is the fleet's name, so there is only one.
            return Place::At { parent: None, position: 0 };
        }
        if let Act::Left { admitted } = statement.act {
            return match self.get(&admitted).map(|held| &held.statement) {
                None => Place::Unknown,
                Some(admission) if admits(admission) == Some(*author) => {
                    Place::At { parent: None, position: 0 }
                }
                Some(_) => Place::Refused(LeftOut::Misnamed),
            };
        }
        if !self.speakers.contains(author) {
            return Place::Unknown;
        }
        let parent = match statement.previous {
            Some(previous) => match self.places.get(&previous) {
                None => return Place::Unknown,
                Some(place) => Some(*place),
            },
            // The founder's chain begins with the founding.
            None if self.founder == Some(*author) => return Place::Refused(LeftOut::Misnamed),
            None => None,
        };
        let before = parent.map(|place| &self.held[place]);
        if before.is_some_and(|held| held.statement.author != *author || !is_chained(held)) {
            return Place::Refused(LeftOut::Misnamed);
        }
        // Neither the node that it is about nor what a revocation keeps need be known: they may have
        // been left out with reason, and what its author says later must not wait for them.
        if let Act::SteppedDown = statement.act {
            let earlier = self.stepped_down.get(author);
            if earlier.is_some_and(|earlier| !self.is_on_chain(*earlier, parent)) {
                return Place::Refused(LeftOut::SteppedDownOtherwise);
            }
        }
        Place::At { parent, position: before.map_or(0, |held| held.position + 1) }
    }

    /// Tells whether a revocation keeps a statement, itself or as one before what it names.
    fn is_kept(&self, sought: &StatementHash) -> bool {
        let before = |hash: &StatementHash| self.waiting.get(hash).and_then(|it| it.previous);
        let missing = self.kept.iter().filter(|hash| !self.places.contains_key(hash));
        let mut chains = missing.map(|last| std::iter::successors(Some(*last), before));
        chains.any(|mut chain| chain.any(|hash| hash == *sought))
    }

    /// Tells whether a statement is among those that end with another one.
    fn is_on_chain(&self, sought: usize, end: Option<usize>) -> bool {
        let before = |place: &usize| self.held[*place].parent;
        std::iter::successors(end, before).any(|place| place == sought)
    }

    fn hold(&mut self, held: Held) {
        let place = self.held.len();
        let statement = &held.statement;
        let author = statement.author;
        self.speakers.extend(makes_admin(statement));
        match &statement.act {
            Act::Founded { .. } => self.founder = Some(author),
            Act::SteppedDown => {
                self.stepped_down.insert(author, place);
            }
            Act::Revoked { last, .. } => self.kept.extend(last),
            Act::Admitted { .. } | Act::Promoted { .. } | Act::Left { .. } => {}
        }
        if is_chained(&held) && !self.continued.insert((author, statement.previous)) {
            self.forked.insert(author);
        }
        self.places.insert(statement.hash(), place);
        self.held.push(held);
    }
}

/// Where a statement belongs.
enum Place {
    At { parent: Option<usize>, position: u32 },
    Unknown,
    Refused(LeftOut),
}

/// Returns the node that a statement lets in.
pub fn admits(statement: &Statement) -> Option<NodeId> {
    match &statement.act {
        Act::Founded { .. } => Some(statement.author),
        Act::Admitted { node, .. } => Some(*node),
        _ => None,
    }
}

/// Returns the node that a statement makes an admin.
fn makes_admin(statement: &Statement) -> Option<NodeId> {
    match &statement.act {
        Act::Founded { .. } => Some(statement.author),
        Act::Admitted { node, role: Role::Admin, .. }
        | Act::Promoted { node, role: Role::Admin } => Some(*node),
        _ => None,
    }
}

fn is_chained_act(act: &Act) -> bool {
    !matches!(act, Act::Left { .. })
}

fn is_chained(held: &Held) -> bool {
    is_chained_act(&held.statement.act)
}

//! Owns who was made an admin by what, and which admin is senior to which.
//!
//! Must not know removals, only which statements they exclude. Invariant: an admin is senior to
//! all that it, or somebody it made an admin, made one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    super::{
        ids::{NodeId, StatementHash},
        record::Role,
    },
    set::Held,
    statement::Act,
};

/// Who grants what, of the statements that are not excluded.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Who was made an admin, the most senior first.
    ///
    /// An admin's place is that of the path of chain positions that leads from the founding to the
    /// statement that made it one: the smallest path, compared element by element, a prefix first.
    pub order: Vec<NodeId>,
    /// The admins' places in that order.
    pub ranks: BTreeMap<NodeId, usize>,
}

/// A statement that makes a node an admin, if the node is let in.
struct Step {
    position: u32,
    hash: StatementHash,
    node: NodeId,
}

impl Grants {
    /// Reads the statements that are not excluded.
    pub fn read(held: &[Held], founder: NodeId, excluded: &[bool]) -> Self {
        let mut admissions: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        let mut steps: BTreeMap<NodeId, Vec<Step>> = BTreeMap::new();
        for (held, _) in held.iter().zip(excluded).filter(|(_, excluded)| !**excluded) {
            let statement = &held.statement;
            let (node, role) = match &statement.act {
                Act::Admitted { node, role, .. } => {
                    admissions.entry(statement.author).or_default().push(*node);
                    (*node, *role)
                }
                Act::Promoted { node, role } => (*node, *role),
                _ => continue,
            };
            if role == Role::Admin {
                let step = Step { position: held.position, hash: statement.hash(), node };
                steps.entry(statement.author).or_default().push(step);
            }
        }
        let admitted = reach(founder, &admissions, &steps);
        Self::rank(founder, steps, &admitted)
    }

    /// Tells whether a node was made an admin.
    pub fn includes(&self, node: &NodeId) -> bool {
        self.ranks.contains_key(node)
    }

    /// Visits the admins in the order of their smallest paths.
    ///
    /// Going into the first step first visits each node by its smallest path: a smaller one would
    /// lead over nodes that were visited before, and then this one would have been, too.
    fn rank(
        founder: NodeId,
        mut steps: BTreeMap<NodeId, Vec<Step>>,
        admitted: &BTreeSet<NodeId>,
    ) -> Self {
        let mut grants = Self::default();
        let mut stack = vec![founder];
        while let Some(node) = stack.pop() {
            if grants.ranks.contains_key(&node) {
                continue;
            }
            grants.ranks.insert(node, grants.order.len());
            grants.order.push(node);
            let mut next = steps.remove(&node).unwrap_or_default();
            next.sort_unstable_by_key(|step| Reverse((step.position, step.hash)));
            let is_in = |step: &Step| admitted.contains(&step.node);
            stack.extend(next.into_iter().filter(is_in).map(|step| step.node));
        }
        grants
    }
}

/// Finds who is let in by an admin whose own admission leads back to the founder.
fn reach(
    founder: NodeId,
    admissions: &BTreeMap<NodeId, Vec<NodeId>>,
    steps: &BTreeMap<NodeId, Vec<Step>>,
) -> BTreeSet<NodeId> {
    let mut admitted = BTreeSet::from([founder]);
    let mut promoted = BTreeSet::from([founder]);
    let mut reached = BTreeSet::new();
    let mut next = vec![founder];
    while let Some(admin) = next.pop() {
        if !reached.insert(admin) {
            continue;
        }
        let let_in = admissions.get(&admin).into_iter().flatten().copied();
        let raised = steps.get(&admin).into_iter().flatten().map(|step| step.node);
        let touched: Vec<NodeId> = let_in.clone().chain(raised.clone()).collect();
        admitted.extend(let_in);
        promoted.extend(raised);
        let is_admin = |node: &NodeId| admitted.contains(node) && promoted.contains(node);
        next.extend(touched.into_iter().filter(is_admin));
    }
    admitted
}

//! A host writes its document anew, while others write to the one that it leaves behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sessionmesh::{
    daemon::durable::{Batch, Job},
    replica::{
        command::Command,
        effect::Write,
        ids::{DocumentId, NodeId},
        machine::Replica,
    },
};

use super::{
    common::asks::Asks,
    count::Seen,
    fabric::{Event, Fabric},
    node::Asker,
    world::{Asked, World},
};

/// How long who writes to an epoch that is left behind hears of nothing.
pub const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(6));

/// What of epochs shows from outside.
#[derive(Debug, Default)]
pub struct Epochs {
    /// How many of each host are held, and the newest.
    held: BTreeMap<NodeId, (usize, u32)>,
}

impl Epochs {
    /// Counts what has become of them.
    pub fn look(&mut self, replica: &Replica, fabric: &mut Fabric) {
        let mut held: BTreeMap<NodeId, (usize, u32)> = BTreeMap::new();
        for (id, ..) in replica.document_heads() {
            if let DocumentId::Host { host, epoch } = id {
                let (count, newest) = held.entry(host).or_default();
                (*count, *newest) = (*count + 1, epoch.max(*newest));
            }
        }
        for (host, (count, newest)) in &held {
            let before = self.held.get(host);
            if *host == replica.node() && before.is_some_and(|(_, before)| before < newest) {
                fabric.counts.add(Seen::Rewritten);
            }
            if *count > 1 && before.is_none_or(|(before, _)| *before == 1) {
                fabric.counts.add(Seen::Layered);
            }
        }
        self.held = held;
    }
}

/// Tells whether a batch begins a later epoch of a node's document.
pub fn begins_epoch(batch: &Batch<Asker>, node: NodeId) -> bool {
    batch.writes.iter().any(|write| match write {
        Write::Snapshot { document, .. } => document.host() == Some(node),
        _ => false,
    })
}

/// Tells whether a batch carries something over into a node's present document: what another epoch
/// has gained is noted beside it, or that epoch is done with.
pub fn carries_over(batch: &Batch<Asker>, node: NodeId) -> bool {
    let (mut written, mut archived) = (BTreeSet::new(), false);
    for write in &batch.writes {
        match write {
            Write::Change { document, .. } if document.host() == Some(node) => {
                written.insert(*document);
            }
            Write::Archive { .. } => archived = true,
            _ => {}
        }
    }
    written.len() > 1 || archived && !written.is_empty()
}

impl World {
    /// Counts what a crash interrupts.
    pub fn count_epochs_at_crash(&mut self, node: usize) {
        let known = &self.nodes[node];
        let Some(up) = &known.up else { return };
        let batches = || {
            up.out.jobs.iter().filter_map(|job| match job {
                Job::Batch(batch) => Some(batch),
                _ => None,
            })
        };
        if up.out.epoch_works || batches().any(|batch| begins_epoch(batch, known.id)) {
            self.fabric.counts.add(Seen::RewriteAtCrash);
        }
        if batches().any(|batch| carries_over(batch, known.id)) {
            self.fabric.counts.add(Seen::CarryAtCrash);
        }
    }

    /// Has a host write its document anew while one or two others hear of nothing, and have them
    /// write to the one before.
    pub fn straggle(&mut self, host: usize, other: usize, random: &mut fastrand::Rng) {
        let mut away = vec![other];
        let third = (0..self.nodes.len()).find(|node| ![host, other].contains(node));
        away.extend(third.filter(|_| random.bool()));
        self.fabric.counts.add(Seen::Straggled);
        self.fabric.crash_in_carrying |= random.u8(..8) > 0;
        let time =
            Duration::from_millis(random.u64(AWAY.0.as_millis() as u64..AWAY.1.as_millis() as u64));
        for from in 0..self.nodes.len() {
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                if away.contains(&from) || away.contains(&to) {
                    self.fabric.cuts.insert((from, to));
                    self.fabric.after(time, Event::Mend { from, to });
                }
            }
        }
        self.ask(host, Command::Rewrite, Asked::Person);
        for node in away {
            for _ in 0..4 {
                let pick = random.u8(..6);
                self.draw_about(node, host, random, |asks| match pick {
                    0 | 1 => asks.delete_session(),
                    2 => Some(asks.create_session()),
                    3 => asks.update_workspace(),
                    _ => asks.update_session(),
                });
            }
            if let Some(operation) = random.choice(self.operations.clone()) {
                self.ask(node, Command::Restore(operation), Asked::Person);
            }
        }
    }

    /// Draws what a node is asked about what is another's, if there is anything.
    fn draw_about(
        &mut self,
        node: usize,
        host: usize,
        random: &mut fastrand::Rng,
        draw: impl Fn(&mut Asks<'_>) -> Option<Command>,
    ) {
        let host = self.nodes[host].id;
        let Some(up) = &self.nodes[node].up else { return };
        let replica = up.engine.replica();
        let mut view = replica.view().clone();
        let others: Vec<NodeId> =
            replica.document_heads().iter().filter_map(|(id, ..)| id.host()).collect();
        if view.sessions_of(&host).next().is_some() {
            others.iter().filter(|other| **other != host).for_each(|other| {
                drop(view.remove_host(*other));
            });
        }
        let command = draw(&mut Asks { random, view: &view, sessions: 12, workspaces: 6 });
        if let Some(command) = command.filter(|_| !self.nodes[node].asleep) {
            self.ask(node, command, Asked::Person);
        }
    }
}

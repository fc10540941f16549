//! What a host's teardowns do in this world, from their first step to their end.

use std::time::Duration;

use sessionmesh::replica::{
    effect::{Input, TeardownDue, TeardownOutcome},
    machine::TeardownStands,
};

use super::{count::Seen, fabric::Event, world::World};

impl World {
    /// Lets a teardown take its first step.
    pub fn teardown_begins(&mut self, node: usize, due: Box<TeardownDue>) {
        let Some(up) = &mut self.nodes[node].up else { return };
        let boot = up.out.boot;
        // As the daemon does it: the loop is asked once more.
        if up.engine.replica().teardown_stands(&due) != TeardownStands::Awaited {
            self.fabric.counts.add(Seen::PutOff);
            return self.teardown_ended(node, &due, TeardownOutcome::PutOff);
        }
        up.out.watch.teardown_begins(up.engine.replica(), &due);
        if std::mem::take(&mut self.fabric.crash_in_teardown) {
            self.fabric.after(Duration::from_millis(1), Event::Crash { node });
        }
        let time = self.fabric.between(Duration::from_millis(10), Duration::from_secs(4));
        self.fabric.after(time, Event::TeardownEnds { node, boot, due });
    }

    /// Ends a teardown, well or not.
    pub fn teardown_ends(&mut self, node: usize, due: &TeardownDue) {
        let fails = !self.healed && self.fabric.chance(0.5);
        let outcome = if fails {
            self.fabric.counts.add(Seen::TeardownFailed);
            TeardownOutcome::Failed("it holds uncommitted files".to_owned())
        } else {
            TeardownOutcome::Gone
        };
        self.teardown_ended(node, due, outcome);
    }

    fn teardown_ended(&mut self, node: usize, due: &TeardownDue, outcome: TeardownOutcome) {
        let Some(up) = &mut self.nodes[node].up else { return };
        up.out.tearing_down.remove(due.workspace.id.as_str());
        let (workspace, incarnation) = (due.workspace.key(), due.incarnation);
        up.out.inputs.push_back(Input::TeardownEnded { workspace, incarnation, outcome });
        self.wake_loop(node);
    }
}

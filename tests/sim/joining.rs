//! Whether a node that is new can still join, whatever has happened in a life.

use std::time::Duration;

use sessionmesh::replica::{command::Command, record::Role};

use super::world::{Asked, World};

/// How long it takes at most until a node that holds a ticket has joined.
const JOINED_WITHIN: Duration = Duration::from_secs(120);

impl World {
    /// Lets one more node in by an honest admin that most others still know, and checks that it comes to show
    /// the same. Without such an admin nobody can join, which is right.
    pub fn let_one_more_in(&mut self) {
        let is_admin = |node: &usize| {
            let up = self.nodes[*node].up.as_ref();
            Some(*node) != self.fabric.rogue
                && up.is_some_and(|up| up.engine.replica().role() == Role::Admin)
        };
        let Some(inviter) = self.current().into_iter().find(is_admin) else { return };
        self.forget_alive();
        let joiner = self.add(Vec::new(), 0);
        let (role, expires_in) = (Role::Reader, Duration::from_secs(3_600));
        let invite = Command::Invite { role, expires_in, secret: [255; 32] };
        self.ask(inviter, invite, Asked::Ticket { joiner });
        let until = self.fabric.now() + JOINED_WITHIN;
        while self.fleet_of(joiner) != self.fleet_of(inviter) {
            assert!(
                self.fabric.now() < until,
                "node {joiner} is let in by {inviter}, and can't join"
            );
            self.pass(Duration::from_millis(500));
        }
        self.agree();
        assert!(self.current().contains(&joiner), "node {joiner} belongs to those that agree");
        let replica = |node: usize| self.nodes[node].up.as_ref().map(|up| up.engine.replica());
        let (Some(new), Some(old)) = (replica(joiner), replica(inviter)) else {
            panic!("node {joiner} and node {inviter} are there");
        };
        assert!(self.shows(new) == self.shows(old), "node {joiner} shows what the others do");
    }

    fn fleet_of(&self, node: usize) -> Option<sessionmesh::replica::ids::FleetId> {
        self.nodes[node].up.as_ref().map(|up| up.engine.replica().fleet())
    }
}

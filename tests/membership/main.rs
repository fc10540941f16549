//! Who belongs to a fleet, as the pure function of signed statements has it: stories by name, and
//! all sets of a few statements.
//!
//! - `cargo test --test membership` explores two statements of every kind, and three revocations,
//!   beyond each founding; `MEMBERSHIP_STATEMENTS=4 cargo test --release --test membership sets`
//!   goes on to four of every kind and five revocations.
//! - `cargo test --features seeded-bugs --test membership` shows that each deliberate fault in the
//!   evaluation is noticed.

#[cfg(feature = "seeded-bugs")]
mod bugs;
mod explore;
#[path = "../common/keys.rs"]
mod keys;
mod set;
mod story;

use keys::key_of;
use sessionmesh::replica::{
    ids::{FleetId, NodeId, StatementHash},
    membership::{
        evaluate::{Membership, evaluate},
        set::{Offered, StatementSet},
        statement::{Act, Statement},
    },
    record::Role,
};

const ROOT: NodeId = NodeId([1; 32]);
const ALICE: NodeId = NodeId([2; 32]);
const BOB: NodeId = NodeId([3; 32]);
const CAROL: NodeId = NodeId([4; 32]);
const EVE: NodeId = NodeId([5; 32]);

/// Returns a fleet's founding.
fn found(nonce: u8) -> (FleetId, Statement) {
    Statement::found(&*key_of(ROOT), ROOT, 1, [nonce; 16], "root".to_owned())
}

fn sign(fleet: FleetId, author: NodeId, previous: Option<StatementHash>, act: Act) -> Statement {
    Statement::sign(&*key_of(author), fleet, author, previous, 1, act)
}

fn admit(node: NodeId, role: Role) -> Act {
    Act::Admitted { node, role, name: format!("node-{}", node.0[0]) }
}

fn revoke(node: NodeId, last: Option<StatementHash>) -> Act {
    Act::Revoked { node, last, documents: None, retire: false }
}

/// A fleet in the making: each statement follows its author's newest, unless it says otherwise.
#[derive(Clone)]
struct Fleet {
    set: StatementSet,
}

impl Fleet {
    fn new() -> Self {
        let (fleet, founding) = found(0);
        let mut set = StatementSet::new(fleet);
        assert_eq!(set.offer(founding, |_| false), Offered::Held);
        Self { set }
    }

    /// Has a node make a statement after its newest one.
    fn say(&mut self, author: NodeId, act: Act) -> StatementHash {
        let previous =
            if matches!(act, Act::Left { .. }) { None } else { self.set.newest(&author) };
        self.say_after(author, previous, act)
    }

    /// Has a node make a statement after one of its own that need not be its newest.
    fn say_after(
        &mut self,
        author: NodeId,
        previous: Option<StatementHash>,
        act: Act,
    ) -> StatementHash {
        let statement = sign(self.set.fleet(), author, previous, act);
        let hash = statement.hash();
        assert_eq!(self.set.offer(statement, |_| false), Offered::Held);
        hash
    }

    fn membership(&self) -> Membership {
        evaluate(&self.set)
    }

    fn is_in(&self, node: NodeId) -> bool {
        self.membership().nodes.get(&node).is_some_and(|belonging| belonging.is_current())
    }
}

//! Plays every path of so many steps, each up to the order of steps that don't know of each other.
//!
//! A step is a node, a set of changes that it learns first, and an act. What a state is, is settled
//! by which steps were taken and what each knew; of all orders in which those can be written down,
//! only the least by node is played: a step is left out if it could stand before a step of a
//! higher node that it does not know of. So no state is played twice and none is left out, and
//! nothing has to be remembered.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use sessionmesh::replica::{
    effect::Input,
    record::{SessionState, WorkspaceState},
};

use crate::{
    act::Act,
    world::{HOST, World},
};

/// What is to be explored.
pub struct Plan {
    pub scene: &'static str,
    /// Of what kinds the acts are.
    pub kinds: String,
    /// What has happened, known to all, before the exploration begins.
    pub before: &'static [(usize, Act)],
    pub replicas: usize,
    pub commands: usize,
    pub alphabet: Vec<Act>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Figures {
    /// Distinct states: which steps were taken, and what each knew.
    pub states: u64,
    /// Steps that were tried, some that made no sense included.
    pub tried: u64,
    /// Comparisons of what a node shows with the model.
    pub checked: u64,
    /// Distinct views that any node showed.
    pub views: HashSet<u128>,
    /// How often each rare thing was shown.
    pub reached: BTreeMap<&'static str, u64>,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.states += other.states;
        self.tried += other.tried;
        self.checked += other.checked;
        self.views.extend(other.views);
        other.reached.into_iter().for_each(|(kind, n)| *self.reached.entry(kind).or_default() += n);
    }
}

/// A state on the way, with the steps that led to it.
#[derive(Clone)]
struct Path {
    world: World,
    steps: Vec<Step>,
}

#[derive(Clone)]
struct Step {
    node: usize,
    /// The changes that it made.
    made: u64,
    act: Act,
    text: String,
}

/// How many explore at once.
const THREADS: usize = 2;

thread_local! {
    /// What is being played, to be told if it fails.
    static PLAYED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Explores as planned; with a path, plays only that.
pub fn explore(plan: &Plan, only: Option<&str>) -> Figures {
    let mut explorer = Explorer { plan, only, figures: Figures::default() };
    let mut roots = vec![Path::begin(plan)];
    // The first steps are played here, what follows from each by whoever is free.
    let first = plan.commands.saturating_sub(1).clamp(1, 2).min(plan.commands);
    for _ in 0..first {
        roots = guarded(plan, || roots.iter().flat_map(|path| explorer.visit(path)).collect());
    }
    let left = plan.commands - first;
    let next = AtomicUsize::new(0);
    let total = Mutex::new(explorer.figures);
    thread::scope(|scope| {
        let work = || {
            let mut explorer = Explorer { plan, only, figures: Figures::default() };
            let _stop = Stop(&next);
            while let Some(path) = roots.get(next.fetch_add(1, Ordering::Relaxed)) {
                guarded(plan, || explorer.explore(path, left));
            }
            total.lock().unwrap().add(explorer.figures);
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let figures = total.into_inner().unwrap();
    report(plan, &figures);
    figures
}

#[expect(clippy::print_stdout, reason = "the figures are what one explores for")]
fn report(plan: &Plan, figures: &Figures) {
    let Plan { scene, kinds, replicas, commands, .. } = plan;
    let Figures { states, tried, checked, views, reached } = figures;
    println!(
        "exhaustive: scene={scene} kinds=[{kinds}] replicas={replicas} commands={commands} states={states} \
         transitions={tried} checked={checked} views={} {reached:?}",
        views.len()
    );
}

/// Plays, and tells the path along with whatever goes wrong.
fn guarded<T>(plan: &Plan, play: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let path = PLAYED.with_borrow(String::clone);
        let Plan { scene, kinds, .. } = plan;
        panic!(
            "EXHAUSTIVE_SCENE={scene} EXHAUSTIVE_KINDS='{kinds}' EXHAUSTIVE_PATH='{path}' cargo test \
             --test exhaustive\n{message}"
        );
    })
}

/// Has all workers stop when one fails.
struct Stop<'a>(&'a AtomicUsize);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(usize::MAX / 2, Ordering::Relaxed);
        }
    }
}

struct Explorer<'a> {
    plan: &'a Plan,
    only: Option<&'a str>,
    figures: Figures,
}

impl Explorer<'_> {
    fn explore(&mut self, path: &Path, left: usize) {
        if left == 0 {
            self.end(path);
        } else {
            self.visit(path).iter().for_each(|child| self.explore(child, left - 1));
        }
    }

    /// Ends a path here and returns all that go on from it by one step.
    fn visit(&mut self, path: &Path) -> Vec<Path> {
        self.end(path);
        let mut children = Vec::new();
        for node in (0..self.plan.replicas).filter(|node| path.is_turn_of(*node)) {
            for known in path.world.knowable(node) {
                if path.is_least(node, known) {
                    self.step(path, node, known, &mut children);
                }
            }
        }
        children
    }

    /// Has a node learn something and tries everything that may happen there then.
    fn step(&mut self, path: &Path, node: usize, known: u64, children: &mut Vec<Path>) {
        let news = known & !path.world.nodes[node].knows;
        let learnt: String =
            (0..64).filter(|at| news >> at & 1 == 1).fold(String::new(), |text, at| {
                format!("{text}{}{at}", if text.is_empty() { " knowing " } else { "," })
            });
        let first = path.world.changes.len();
        let mut world = path.world.clone();
        PLAYED.set(path.script(&format!("{node}{learnt} learns")));
        // A host acts on each thing that it learns, others on all at once.
        world.learn(node, known, if node == HOST { 1 } else { usize::MAX });
        for act in &self.plan.alphabet {
            let again = path.steps.iter().any(|step| step.act == Act::Restart);
            if *act == Act::Restart && (news != 0 || again) || !act.may_play(&world, node) {
                continue;
            }
            let text = format!("{node}{learnt} {act}");
            let script = path.script(&text);
            if self.only.is_some_and(|only| !only.starts_with(&script)) {
                continue;
            }
            PLAYED.set(script);
            let mut world = world.clone();
            self.figures.tried += 1;
            let looked = *act == Act::Look && world.changes.len() > first;
            if looked || act.play(&mut world, node) {
                world.check(node);
                self.seen(&world, node);
                let made = world.all() & !((1 << first) - 1);
                let mut steps = path.steps.clone();
                steps.push(Step { node, made, act: *act, text });
                children.push(Path { world, steps });
            }
        }
    }

    fn seen(&mut self, world: &World, node: usize) {
        self.figures.checked += 1;
        let replica = &world.nodes[node].replica;
        self.figures.views.insert(replica.digest().0);
        let mut reached = |kind| *self.figures.reached.entry(kind).or_default() += 1;
        for session in replica.view().sessions() {
            if session.state == SessionState::Stranded {
                reached("stranded");
            }
            let homes = world.model(node).homes(session.id.as_str());
            if homes.len() > 1 {
                reached("moved twice at once");
            }
        }
        for entry in replica.view().workspaces() {
            match entry.record.state {
                WorkspaceState::Live => {}
                WorkspaceState::Vacated => reached("vacated"),
                WorkspaceState::Sealed => reached("sealed"),
                WorkspaceState::Failed => reached("failed"),
            }
        }
    }

    /// Lets all learn everything, each in another order, and then all windows pass.
    fn end(&mut self, path: &Path) {
        self.figures.states += 1;
        PLAYED.set(path.script("all learn everything and wait"));
        let mut world = path.world.clone();
        for node in 0..self.plan.replicas {
            let mut news: Vec<usize> = (0..path.world.changes.len()).collect();
            news.retain(|at| world.nodes[node].knows >> at & 1 == 0);
            match node {
                // As it came about, one by one or all at once; or whatever comes last first.
                HOST => world.learn_in_order(node, &news, 1),
                1 => world.learn_in_order(node, &news, usize::MAX),
                _ => world.learn_in_order(node, &latest_first(&world, node, &news), 1),
            }
        }
        self.agree(&mut world);
        self.rest(&mut world);
    }

    /// Has everyone learn what came up meanwhile, and checks that all agree.
    fn agree(&mut self, world: &mut World) {
        for node in 0..self.plan.replicas {
            let all = world.all();
            world.learn(node, all, usize::MAX);
        }
        let host = &world.nodes[HOST].replica;
        for node in 1..self.plan.replicas {
            let replica = &world.nodes[node].replica;
            assert_eq!(replica.frontier(), host.frontier(), "all hold the same");
            assert_eq!(replica.view(), host.view(), "and show the same");
        }
        world.model(HOST).check();
        self.seen(world, HOST);
    }

    /// Lets windows pass and teardowns end until nothing is left to carry out.
    fn rest(&mut self, world: &mut World) {
        let rounds = 4;
        for _ in 0..rounds {
            let before = world.changes.len();
            world.pass(HOST);
            for workspace in crate::world::WORKSPACES {
                Act::End { workspace, well: true }.play(world, HOST);
            }
            if world.changes.len() == before {
                break;
            }
        }
        let before = world.changes.len();
        world.pass(HOST);
        let fx = world.give(HOST, Input::TimePassed);
        world.take(HOST, fx, None);
        assert_eq!(world.changes.len(), before, "nothing is left to carry out");
        self.agree(world);
        let view = world.nodes[HOST].replica.view();
        for session in view.sessions() {
            assert_ne!(session.state, SessionState::Deleted, "{} was to be purged", session.id);
        }
        for entry in view.workspaces() {
            let empty = entry.record.session_count == 0 && entry.record.used;
            let may_stay = match entry.record.state {
                WorkspaceState::Live => !empty || entry.record.keep,
                WorkspaceState::Sealed => !empty,
                WorkspaceState::Failed => true,
                WorkspaceState::Vacated => false,
            };
            assert!(may_stay, "nothing is done about {:?}", entry.record);
        }
    }
}

impl Path {
    fn begin(plan: &Plan) -> Self {
        let mut world = World::new(plan.replicas);
        for (node, act) in plan.before {
            assert!(act.play(&mut world, *node), "the scene: {act}");
            for other in 0..plan.replicas {
                let all = world.all();
                world.learn(other, all, usize::MAX);
            }
        }
        Self { world, steps: Vec::new() }
    }

    /// Returns the steps as text, with one more.
    fn script(&self, next: &str) -> String {
        let steps = self.steps.iter().map(|step| step.text.as_str());
        steps.chain([next]).collect::<Vec<_>>().join("; ")
    }

    /// Tells whether a node may be the next to act: those that don't host anything are alike, so
    /// each comes in only after the one before it has.
    ///
    /// Nothing is lost: where, in the order that is played, a later one acts first, all that the
    /// earlier one does follows from that, so with the two exchanged the same is played.
    fn is_turn_of(&self, node: usize) -> bool {
        let has_acted = |node: usize| self.steps.iter().any(|step| step.node == node);
        node <= HOST + 1 || has_acted(node) || has_acted(node - 1)
    }

    /// Tells whether the next step can't be written down before one of a higher node.
    fn is_least(&self, node: usize, known: u64) -> bool {
        let apart = |step: &&Step| step.node != node && step.made & known == 0;
        !self.steps.iter().rev().take_while(apart).any(|step| step.node > node)
    }
}

/// Orders changes so that of those which can come next, the latest does.
fn latest_first(world: &World, node: usize, news: &[usize]) -> Vec<usize> {
    let mut known = world.nodes[node].knows;
    let mut left: BTreeSet<usize> = news.iter().copied().collect();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let ready = |at: &&usize| world.changes[**at].knew & !(1 << **at) & !known == 0;
        let next = *left.iter().rev().find(ready).expect("no change knows what is not there");
        left.remove(&next);
        known |= 1 << next;
        ordered.push(next);
    }
    ordered
}

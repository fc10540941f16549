//! Kills the process that ends worktrees, puts them back or deletes them, at any moment and between
//! any two steps; the next start goes on, and everything is whole in one place or the other.
//!
//! `ENDINGS_KILLS=1000 cargo test --test endings killed -- --nocapture` kills oftener;
//! `ENDINGS_SEED=7` draws the one again that failed. Where the kills fall depends on the machine.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use sessionmesh::{
    replica::{
        effect::{TeardownDue, TeardownOutcome},
        record::{TeardownAction, Workspace},
    },
    teardown::{self, trash},
};

use crate::{
    afterwards,
    draw::{self, Case, Way},
    ending::{Record, collect_garbage},
    features::{Group, Loss},
    record, scene, setting,
};

/// Tells the child process, which is this test once more, what to do.
const ORDER_VARIABLE: &str = "SESSIONMESH_TEST_ENDING";
const NAME: &str = "crash::what_is_killed_while_it_ends_or_is_put_back_is_whole_in_one_place";
/// How many kills there are where `ENDINGS_KILLS` says nothing.
const KILLS_DEFAULT: u64 = 24;

/// What the child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// By force.
    End,
    /// Without force.
    Try,
    Restore,
    Empty,
}

/// All that the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub root: PathBuf,
    pub act: Act,
    pub workspaces: Vec<Workspace>,
}

/// Carries an order out, and writes down how that went; killed, unless it is faster.
fn obey(order: &Order) {
    let mut config = scene::configure(&order.root, trash::Settings::default());
    let agent = scene::Agent::new(order.root.join("repo"), true, false);
    config.removers.push(std::sync::Arc::new(agent));
    let told = order.workspaces.iter().map(|workspace| {
        let id = workspace.id.as_str();
        match order.act {
            Act::End => end(workspace, TeardownAction::Force, &config),
            Act::Try => end(workspace, TeardownAction::Retry, &config),
            Act::Restore => config.trash.restore(id, None).map(drop).map_err(|e| e.to_string()),
            Act::Empty => config.trash.empty(id).map_err(|e| e.to_string()),
        }
    });
    let told: Vec<Result<(), String>> = told.collect();
    fs::write(told_in(&order.root), serde_json::to_string(&told).expect("data")).expect("a file");
}

/// Returns the file in which a child writes down how an order went.
fn told_in(root: &Path) -> PathBuf {
    root.join("data/told-by-the-child")
}

/// Has a child with this environment carry an order out, to the end.
pub fn in_child(order: &Order, environment: &[(&str, &OsStr)]) -> Vec<Result<(), String>> {
    let _ = fs::remove_file(told_in(&order.root));
    let mut child = command(order).envs(environment.iter().copied()).spawn().expect("it starts");
    assert!(child.wait().expect("it is ours").success(), "the child panicked: {order:?}");
    let told = fs::read(told_in(&order.root)).expect("the child told");
    serde_json::from_slice(&told).expect("data")
}

fn end(
    workspace: &Workspace,
    action: TeardownAction,
    config: &teardown::Config,
) -> Result<(), String> {
    let due =
        TeardownDue { workspace: workspace.clone(), incarnation: 1, action, kept_until: None };
    match teardown::end(&due, &[], config) {
        TeardownOutcome::Done(_) | TeardownOutcome::Gone => Ok(()),
        TeardownOutcome::Failed(why) => Err(why),
        TeardownOutcome::PutOff => Err("put off".to_owned()),
    }
}

/// Draws a case that can be ended by force, in one process after another.
fn drawn(rng: &mut Rng, parent: &Path) -> Case {
    loop {
        let mut case = draw::draw_in(rng.u64(..1 << 32), parent);
        let fits = case.drawn.iter().flatten().all(|feature| {
            // A process that stands in it would hold the filesystem, too.
            feature.loss < Loss::RefusedPerhaps
                && feature.group != Group::Missing
                && !feature.name.contains("process")
        });
        if fits && case.scene.occupants.is_empty() {
            case.way = Way::Back;
            return case;
        }
    }
}

fn command(order: &Order) -> Command {
    let mut command = Command::new(env::current_exe().expect("this test"));
    command
        .args(["--exact", NAME, "--nocapture"])
        .env(ORDER_VARIABLE, serde_json::to_string(order).expect("it is data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Starts a child that carries an order out.
pub fn start(order: &Order) -> Child {
    command(order).spawn().expect("this test starts")
}

/// Waits for a time, or until a child has ended, and tells whether it has.
pub fn ends_within(child: &mut Child, time: Duration) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if child.try_wait().expect("it is ours").is_some() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Makes sure that each tree is whole where it was, or whole in the trash.
fn in_one_place(case: &Case, before: &Record) -> Result<(), String> {
    for tree in &case.scene.trees {
        let place = case.scene.config.trash.get(&tree.id).and_then(|entry| entry.place);
        let at =
            if tree.path.exists() { Some(tree.path.clone()) } else { place.map(PathBuf::from) };
        let Some(at) = at else {
            return Err(format!("{} is in neither place", tree.path.display()));
        };
        let was = record::below(&before.files, &case.scene.relative(&tree.path));
        let is = record::files(&at, &[]);
        if let Some(difference) = record::difference(&was, &is, &|_| true, false) {
            return Err(format!("{} is not whole: {difference}", at.display()));
        }
    }
    Ok(())
}

/// Draws a case and what is done with it, and does what comes before that.
pub fn prepare(rng: &mut Rng, parent: &Path) -> Result<(Case, Record, Order), String> {
    let mut case = drawn(rng, parent);
    let before = Record::of(&case.scene);
    let act = [Act::End, Act::End, Act::Restore, Act::Restore, Act::Empty][rng.usize(..5)];
    let workspaces: Vec<_> = (0..case.scene.trees.len())
        .map(|tree| case.scene.due(tree, TeardownAction::Force, 1).workspace)
        .collect();
    case.scene.tell(&format!("stopped in the middle of: {act:?}"));
    if act != Act::End {
        end_all(&case, &workspaces)
            .map_err(|why| format!("{why}\n    drawn: {}", case.scene.story))?;
    }
    let order = Order { root: case.scene.root.clone(), act, workspaces };
    Ok((case, before, order))
}

/// Draws how long a child is left alone, by how long others took that were not stopped.
pub fn draw_time(rng: &mut Rng, longest: Duration) -> Duration {
    longest.mul_f32(rng.f32())
}

fn run(seed: u64, longest: &mut [Duration; 4]) -> Result<bool, String> {
    let mut rng = Rng::with_seed(seed);
    let (mut case, before, order) = prepare(&mut rng, &scene::quick())?;
    let longest = &mut longest[order.act as usize];
    let (after, began) = (draw_time(&mut rng, *longest), Instant::now());
    let mut child = start(&order);
    let killed = !ends_within(&mut child, after);
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    if !killed {
        *longest = began.elapsed();
    }
    go_on(&mut case, &before, &order)?;
    Ok(killed)
}

/// Starts again, as a daemon does, and makes sure that nothing is lost.
pub fn go_on(case: &mut Case, before: &Record, order: &Order) -> Result<(), String> {
    case.scene.restart(trash::Settings::default());
    let judged = judge(case, before, order);
    judged.map_err(|fault| format!("{fault}\n    drawn: {}", case.scene.story))
}

fn end_all(case: &Case, workspaces: &[Workspace]) -> Result<(), String> {
    for workspace in workspaces {
        let end = || end(workspace, TeardownAction::Force, &case.scene.config);
        let ended = match end() {
            Err(why) if why.contains(scene::NOT_THERE) => end(),
            ended => ended,
        };
        ended.map_err(|why| format!("not gone on with: {why}"))?;
    }
    Ok(())
}

fn judge(case: &Case, before: &Record, order: &Order) -> Result<(), String> {
    let all: Vec<_> = (0..case.scene.trees.len()).collect();
    if order.act == Act::Empty {
        case.scene.config.trash.maintain(sessionmesh::clock::wall_ms());
        for tree in &case.scene.trees {
            // What the kill came before is deleted now.
            let _ = case.scene.config.trash.empty(&tree.id);
        }
        return afterwards::deleted(case, before, &all);
    }
    in_one_place(case, before)?;
    collect_garbage(&case.scene, before, "after a kill")?;
    if order.act == Act::End {
        // The seal had no outcome, so the daemon goes on with the same attempt.
        end_all(case, &order.workspaces)?;
        in_one_place(case, before)?;
    }
    afterwards::restored(case, before, &all)
}

#[expect(clippy::print_stdout, reason = "how much was tried belongs to the result")]
#[test]
fn what_is_killed_while_it_ends_or_is_put_back_is_whole_in_one_place() {
    if let Ok(order) = env::var(ORDER_VARIABLE) {
        return obey(&serde_json::from_str(&order).expect("an order"));
    }
    let kills = setting("ENDINGS_KILLS").unwrap_or(KILLS_DEFAULT);
    let first = setting("ENDINGS_SEED").unwrap_or(0);
    let mut longest = [Duration::from_millis(300); 4];
    let mut killed = 0;
    for seed in first..first + kills {
        match run(seed, &mut longest) {
            Ok(one) => killed += u64::from(one),
            Err(fault) => panic!(
                "ENDINGS_SEED={seed} ENDINGS_KILLS=1 cargo test --test endings killed\n    {fault}"
            ),
        }
    }
    println!("endings: {kills} runs, {killed} killed before they were through, nothing lost");
    assert!(killed * 4 > kills, "hardly anything was killed: {killed} of {kills}");
}

/// A power cut leaves the lock of a ref that git was just writing.
#[test]
fn locks_that_a_cut_left_of_the_trash_s_own_refs_hold_nothing_up() {
    let mut scene = scene::Scene::new(crate::template::Flavour::Remote);
    scene.add_tree("w0", "origin/main");
    let own = scene.common().join("refs/sessionmesh/trash/wrk_0.1");
    fs::create_dir_all(&own).unwrap();
    for name in ["HEAD.lock", "index-0.lock", "objects-0.lock"] {
        fs::write(own.join(name), "").unwrap();
    }
    scene.end(0, TeardownAction::Force, 1).unwrap();
    fs::write(own.join("HEAD.lock"), "").unwrap();
    scene.config.trash.restore("wrk_0", None).unwrap();
    assert!(scene.trees[0].path.join("file").exists());
}

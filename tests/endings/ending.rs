//! Ends the worktrees of a drawn case, and judges it: what was drawn says what may be refused, and
//! every byte and every object that was there before has to be there or to come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex},
    thread,
};

use sessionmesh::{
    replica::{
        record::{GitState, TeardownAction},
        trash::Held,
    },
    teardown::trash,
};

use crate::{
    afterwards,
    draw::{self, Case, Way},
    features::{Group, Loss, around},
    git::{self, git},
    record::{self, Files},
    scene::{NOT_THERE, Scene},
};

/// How often each thing was drawn, refused without force, ended without it and with it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub drawn: u64,
    pub refused: u64,
    pub ended: u64,
    pub forced: u64,
}

/// All counters, by the name of what they count.
pub static COUNTS: LazyLock<Mutex<BTreeMap<&'static str, Count>>> = LazyLock::new(Mutex::default);

fn count(names: &[&'static str], add: fn(&mut Count)) {
    let mut counts = COUNTS.lock().expect("nobody panics while counting");
    for name in names {
        add(counts.entry(name).or_default());
    }
}

/// What is known of a scene at one moment.
pub struct Record {
    pub files: Files,
    refs: BTreeMap<PathBuf, BTreeMap<String, String>>,
    objects: BTreeMap<PathBuf, BTreeSet<String>>,
    /// What git says of each probe.
    pub status: BTreeMap<PathBuf, String>,
}

impl Record {
    pub fn of(scene: &Scene) -> Self {
        let mut objects = BTreeMap::<_, BTreeSet<_>>::new();
        for tree in &scene.trees {
            let at = if tree.missing.is_none() { tree.path.clone() } else { scene.repo() };
            objects.entry(scene.repo()).or_default().extend(record::objects(&at, &tree.admin));
        }
        for other in &scene.others {
            objects.insert(other.clone(), record::objects(other, &other.join(".git")));
        }
        let probes = scene.trees.iter().flat_map(|tree| &tree.probes);
        let status = probes.map(|probe| (probe.clone(), record::status(probe))).collect();
        let refs = scene.refs();
        Self { files: scene.files(), refs, objects, status }
    }
}

impl Scene {
    /// Records all files of the scene, apart from the daemon's own.
    pub fn files(&self) -> Files {
        record::files(&self.root, &[&self.path("data"), &self.path(".sessionmesh-trash")])
    }

    /// Records the refs of all its repositories.
    fn refs(&self) -> BTreeMap<PathBuf, BTreeMap<String, String>> {
        self.repositories().into_iter().map(|at| (at.clone(), record::refs(&at))).collect()
    }

    pub fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).expect("all is below the scene").to_owned()
    }
}

/// How an attempt to end a tree went.
type Ended = Result<String, String>;

/// Draws a case, ends it and judges it; says what is wrong and what was drawn.
pub fn run(seed: u64) -> Result<(), String> {
    let mut case = draw::draw(seed);
    count(&case.traits, |count| count.drawn += 1);
    for features in &case.drawn {
        let names: Vec<_> = features.iter().map(|feature| feature.name).collect();
        count(&names, |count| count.drawn += 1);
    }
    judge(&mut case).map_err(|fault| format!("{fault}\n    drawn: {}", case.scene.story))
}

fn judge(case: &mut Case) -> Result<(), String> {
    let before = Record::of(&case.scene);
    if case.looks {
        look(case)?;
        unchanged(case, &before, &[], "a look")?;
    }
    let ended = end_all(case, TeardownAction::Retry, 1, &|_| true);
    for (tree, outcome) in &ended {
        judge_without_force(case, *tree, outcome)?;
    }
    let gone: Vec<_> = ended.iter().filter(|(_, how)| how.is_ok()).map(|(tree, _)| *tree).collect();
    unchanged(case, &before, &gone, "a refusal")?;

    let refused = |tree: &usize| !gone.contains(tree);
    let forced = end_all(case, TeardownAction::Force, 3, &|tree| refused(&tree));
    let mut all = gone.clone();
    for (tree, outcome) in &forced {
        judge_with_force(case, *tree, outcome)?;
        let is_forgotten = case.drawn[*tree].iter().any(|one| one.name == around::REPLACED);
        all.extend((outcome.is_ok() && !is_forgotten).then_some(*tree));
    }
    unchanged(case, &before, &all, "a forced end")?;
    is_ended(case, &before, &all)?;
    is_kept(case, &all)?;
    collect_garbage(&case.scene, &before, "while it lay in the trash")?;
    if case.restarts {
        case.scene.restart(trash::Settings::default());
    }
    if case.way == Way::Emptied {
        return afterwards::emptied(case, &before, &all);
    }
    afterwards::restored(case, &before, &all)
}

/// Looks at every tree, which must not call anything clean that holds work.
fn look(case: &Case) -> Result<(), String> {
    for tree in 0..case.drawn.len() {
        let (seen, work) = (case.scene.look(tree), work(case, tree));
        if case.exact && !work.is_empty() && seen == Some(GitState::Clean) {
            return Err(format!("tree {tree} is called clean with {work:?}"));
        }
    }
    Ok(())
}

/// Has git delete what nothing names, and makes sure that nothing which counts went with that.
pub fn collect_garbage(scene: &Scene, before: &Record, when: &str) -> Result<(), String> {
    for repository in scene.repositories() {
        let output = git::attempt(&repository, &["gc", "-q", "--prune=now"]);
        if !output.status.success() {
            return Err(format!("{when}: {}", git::told(&repository, &["gc"], &output)));
        }
        still_has(&repository, before, when)?;
    }
    Ok(())
}

/// Has git delete what nothing names, and no more than that: it takes a fraction of the time.
pub fn prune(scene: &Scene, before: &Record, when: &str) -> Result<(), String> {
    for repository in scene.repositories() {
        git(&repository, &["repack", "-q", "-a", "-d"]);
        git(&repository, &["prune", "--expire=now"]);
        still_has(&repository, before, when)?;
    }
    Ok(())
}

fn still_has(repository: &Path, before: &Record, when: &str) -> Result<(), String> {
    let lost = record::missing(repository, &before.objects[repository]);
    if lost.is_empty() {
        return Ok(());
    }
    let place = repository.display();
    Err(format!("{} objects of {place} are lost {when}: {lost:?}", lost.len()))
}

/// Ends those trees that are asked for, one after the other or all at once.
fn end_all(
    case: &Case,
    action: TeardownAction,
    incarnation: u32,
    wanted: &dyn Fn(usize) -> bool,
) -> Vec<(usize, Ended)> {
    let wanted: Vec<_> = (0..case.drawn.len()).filter(|tree| wanted(*tree)).collect();
    let scene = &case.scene;
    let end = move |tree| {
        let mut outcome = scene.end(tree, action, incarnation);
        // An agent that was not there is asked again, as it is at each retry.
        if outcome.as_ref().is_err_and(|reason| reason.contains(NOT_THERE)) {
            outcome = scene.end(tree, action, incarnation + 1);
        }
        // A program that another thread was just starting has this thread's files open until it
        // runs; that it is somebody in the worktree is right, but not what was drawn.
        for _ in 0..20 {
            let by_chance =
                outcome.as_ref().is_err_and(|reason| reason.contains("in use by process"))
                    && !case.drawn[tree].iter().any(|feature| feature.name.contains("process"));
            if !by_chance {
                break;
            }
            thread::yield_now();
            outcome = scene.end(tree, action, incarnation + 1);
        }
        (tree, outcome)
    };
    if !case.together {
        return wanted.into_iter().map(end).collect();
    }
    thread::scope(|scope| {
        let running: Vec<_> =
            wanted.into_iter().map(|tree| scope.spawn(move || end(tree))).collect();
        running.into_iter().map(|one| one.join().expect("ending does not panic")).collect()
    })
}

fn names(case: &Case, tree: usize, of: &dyn Fn(Loss) -> bool) -> Vec<&'static str> {
    let features = case.drawn[tree].iter().filter(|feature| of(feature.loss));
    features.map(|feature| feature.name).collect()
}

/// Judges an end without force by what was drawn: nothing that had to be refused may have ended,
/// and nothing else may be in the way.
fn judge_without_force(case: &Case, tree: usize, outcome: &Ended) -> Result<(), String> {
    let loss = case.loss(tree);
    let place = case.scene.trees[tree].path.display();
    match outcome {
        Ok(done) if loss >= Loss::Refused => {
            let why = names(case, tree, &|loss| loss >= Loss::Refused);
            Err(format!("tree {tree} ({place}) ended without force, with {why:?}: {done}"))
        }
        Err(reason) if loss == Loss::Nothing => {
            Err(format!("tree {tree} ({place}) was refused, and holds nothing to lose: {reason}"))
        }
        Ok(_) => {
            count(&names(case, tree, &|_| true), |count| count.ended += 1);
            Ok(())
        }
        Err(_) => {
            // Which of several reasons it was is not judged, so only a single one is counted.
            let reasons = names(case, tree, &|loss| loss >= Loss::Refused);
            if let [reason] = reasons.as_slice() {
                count(&[*reason], |count| count.refused += 1);
            }
            Ok(())
        }
    }
}

fn judge_with_force(case: &Case, tree: usize, outcome: &Ended) -> Result<(), String> {
    let loss = case.loss(tree);
    let place = case.scene.trees[tree].path.display();
    match outcome {
        Ok(done) if loss == Loss::Always => {
            let why = names(case, tree, &|loss| loss == Loss::Always);
            Err(format!("tree {tree} ({place}) ended by force, with {why:?}: {done}"))
        }
        Err(reason) if loss < Loss::RefusedPerhaps => {
            Err(format!("tree {tree} ({place}) was refused although forced: {reason}"))
        }
        Ok(_) => {
            count(&names(case, tree, &|_| true), |count| count.forced += 1);
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

/// Makes sure that nothing has changed but what belongs to the trees that have ended, and that no
/// program which a setting names has run.
fn unchanged(case: &Case, before: &Record, ended: &[usize], after: &str) -> Result<(), String> {
    if !ended.is_empty() {
        return unchanged_but_for_refs(case, before, ended, after);
    }
    no_program_ran(&case.scene, after)?;
    match record::difference(&before.files, &case.scene.files(), &|_| true, true) {
        Some(difference) => Err(format!("after {after}: {difference}")),
        None => Ok(()),
    }
}

fn no_program_ran(scene: &Scene, after: &str) -> Result<(), String> {
    if scene.path(around::MARKER).exists() {
        return Err(format!("after {after}: a program that the settings name has run"));
    }
    Ok(())
}

/// Makes sure that nothing has changed but what belongs to the trees that have ended, and where git
/// keeps refs and objects.
pub fn unchanged_but_for_refs(
    case: &Case,
    before: &Record,
    ended: &[usize],
    after: &str,
) -> Result<(), String> {
    let scene = &case.scene;
    no_program_ran(scene, after)?;
    let commons: Vec<_> = scene.commons().iter().map(|common| scene.relative(common)).collect();
    let own = ended.iter().map(|tree| &scene.trees[*tree]);
    let own = own.flat_map(|tree| tree.inner.iter().chain([&tree.path, &tree.admin]));
    let own: Vec<_> = own.map(|path| scene.relative(path)).collect();
    let counts = |path: &Path| {
        let own = own.iter().any(|own| path.starts_with(own));
        !own && !is_git_own(path, &commons) && !path.starts_with("aliases")
    };
    match record::difference(&before.files, &scene.files(), &counts, false) {
        Some(difference) => Err(format!("after {after}: {difference}")),
        None => Ok(()),
    }
}

/// Tells whether a file is one in which git keeps objects and refs: what is in those is compared
/// by what it means.
pub fn is_git_own(path: &Path, commons: &[PathBuf]) -> bool {
    let own = ["objects", "refs", "packed-refs", "logs", "info/refs", "sessionmesh-trash"];
    commons.iter().filter_map(|common| path.strip_prefix(common).ok()).any(|inner| {
        inner == Path::new("worktrees") || own.iter().any(|name| inner.starts_with(name))
    })
}

/// Makes sure that a tree which has ended is gone for git, too, and that every ref is where it was.
fn is_ended(case: &Case, before: &Record, ended: &[usize]) -> Result<(), String> {
    let scene = &case.scene;
    let listed = git(&scene.repo(), &["worktree", "list", "--porcelain"]);
    for tree in ended.iter().map(|tree| &scene.trees[*tree]) {
        let place = format!("worktree {}", tree.path.display());
        if listed.contains(&format!("{place}\n")) || tree.admin.exists() {
            return Err(format!("{} has ended and is still registered", tree.path.display()));
        }
    }
    same_refs(case, before)
}

/// Makes sure that what held work is known to have held it: it is never deleted early.
fn is_kept(case: &Case, ended: &[usize]) -> Result<(), String> {
    for tree in ended {
        let Some(entry) = case.scene.config.trash.get(&case.scene.trees[*tree].id) else {
            continue;
        };
        let work = work(case, *tree);
        if !work.is_empty() && entry.held.as_ref().is_some_and(Held::is_replaceable) {
            return Err(format!("tree {tree} is taken for one without work: {work:?}, {entry:?}"));
        }
    }
    Ok(())
}

/// Returns what was drawn into a tree that is work which is nowhere else.
fn work(case: &Case, tree: usize) -> Vec<&'static str> {
    let work = case.drawn[tree].iter().filter(|feature| {
        feature.loss == Loss::Refused && !matches!(feature.group, Group::Around | Group::Missing)
    });
    work.map(|feature| feature.name).collect()
}

/// Makes sure that every ref points where it did.
pub fn same_refs(case: &Case, before: &Record) -> Result<(), String> {
    for (repository, after) in case.scene.refs() {
        let before = &before.refs[&repository];
        let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        if let Some(name) = names.into_iter().find(|name| before.get(*name) != after.get(*name)) {
            let (was, is) = (before.get(name), after.get(name));
            return Err(format!("{name} of {} was {was:?}, is {is:?}", repository.display()));
        }
    }
    Ok(())
}

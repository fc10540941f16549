//! Judges what comes after an end: everything is put back, or nothing of it is left.

use std::path::{Path, PathBuf};

use crate::{
    draw::{Case, Way},
    ending::{Record, is_git_own, prune, same_refs, unchanged_but_for_refs},
    git::{self, git},
    record::{self, Files},
    scene::{Scene, Tree},
};

/// Puts back what has ended, and makes sure that it is as it was.
pub fn restored(case: &Case, before: &Record, ended: &[usize]) -> Result<(), String> {
    let scene = &case.scene;
    let (mut back, mut notes) = (Vec::new(), Vec::new());
    for tree in ended.iter().map(|tree| &scene.trees[*tree]) {
        if scene.config.trash.get(&tree.id).is_none() {
            if tree.missing.is_some() {
                // There was nothing but a clean registration to put away.
                continue;
            }
            return Err(format!("{} has ended and is not in the trash", tree.path.display()));
        }
        let to = place(case, tree);
        let to = (to != tree.path).then_some(to);
        match scene.config.trash.restore(&tree.id, to.as_deref()) {
            Ok(restored) => notes.extend(restored.notes),
            Err(error) => {
                return Err(format!("{} is not put back: {error}", tree.path.display()));
            }
        }
        let again = scene.config.trash.restore(&tree.id, None);
        if let Err(error) = again {
            return Err(format!("{} is not put back twice: {error}", tree.path.display()));
        }
        back.push(tree);
    }
    is_as_before(case, before, &back).map_err(|fault| format!("{fault}\n    said: {notes:?}"))?;
    same_refs(case, before)?;
    prune(scene, before, "after it was put back")?;
    for repository in scene.repositories() {
        is_sound(&repository)?;
        let pins = git(&repository, &["for-each-ref", "--format=%(refname)", "refs/sessionmesh/"]);
        if !pins.is_empty() {
            return Err(format!("pins of what was put back stay: {pins}"));
        }
    }
    for tree in &scene.trees {
        for probe in &tree.probes {
            let moved = if back.iter().any(|one| one.id == tree.id) {
                let below = probe.strip_prefix(&tree.path).expect("below the tree");
                place(case, tree).join(below)
            } else {
                probe.clone()
            };
            let (was, is) = (&before.status[probe], record::status(&moved));
            if *was != is {
                return Err(format!("the status of {} was\n{was}and is\n{is}", moved.display()));
            }
        }
    }
    Ok(())
}

/// The ids of the empty tree, which git takes for there although it is not.
const EMPTY_TREES: [&str; 2] = [
    "missing tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "missing tree 6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
];

/// Has git check a repository.
fn is_sound(repository: &Path) -> Result<(), String> {
    let output = git::attempt(repository, &["fsck", "--no-dangling", "--no-progress"]);
    let said =
        String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    let wrong: Vec<_> = said
        .lines()
        .filter(|line| !line.starts_with("notice:") && !EMPTY_TREES.contains(line))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("git fsck in {}: {wrong:?}", repository.display()))
}

/// Returns where a tree is put back.
fn place(case: &Case, tree: &Tree) -> PathBuf {
    match case.way {
        Way::Elsewhere => case.scene.path("back").join(&tree.id),
        Way::Back | Way::Emptied => tree.path.clone(),
    }
}

/// Compares every byte, whichever place it was put back to.
fn is_as_before(case: &Case, before: &Record, back: &[&Tree]) -> Result<(), String> {
    let scene = &case.scene;
    let commons: Vec<_> = scene.commons().iter().map(|common| scene.relative(common)).collect();
    let moved = case.way == Way::Elsewhere;
    let after = if moved { as_if_in_place(case, scene.files(), back) } else { scene.files() };
    let counts = |path: &Path| {
        let named = |name: &str| path.file_name().is_some_and(|found| found == name);
        // What says where the rest is has to be another then.
        let leads = named(".git") || named("gitdir") || named("config");
        !(is_git_own(path, &commons) || path.starts_with("aliases") || moved && leads)
    };
    match record::difference(&before.files, &after, &counts, !moved) {
        Some(difference) => Err(format!("what was put back is not as it was: {difference}")),
        None => Ok(()),
    }
}

/// Renames what was put back elsewhere to where it was.
fn as_if_in_place(case: &Case, files: Files, back: &[&Tree]) -> Files {
    let scene: &Scene = &case.scene;
    let renamed = files.into_iter().map(|(path, node)| {
        let there = back.iter().find_map(|tree| {
            let below = path.strip_prefix(scene.relative(&place(case, tree))).ok()?;
            // Joining an empty path would end it with a slash.
            let was = scene.relative(&tree.path);
            Some(if below.as_os_str().is_empty() { was } else { was.join(below) })
        });
        (there.unwrap_or(path), node)
    });
    renamed.collect()
}

/// Deletes for good what has ended, and makes sure that nothing of it is left, and that everything
/// else is.
pub fn emptied(case: &Case, before: &Record, ended: &[usize]) -> Result<(), String> {
    let scene = &case.scene;
    for tree in ended.iter().map(|tree| &scene.trees[*tree]) {
        if let Err(error) = scene.config.trash.empty(&tree.id)
            && tree.missing.is_none()
        {
            return Err(format!("{} is not deleted: {error}", tree.path.display()));
        }
    }
    deleted(case, before, ended)
}

/// Makes sure that nothing is left of what was deleted for good, and that everything else is.
pub fn deleted(case: &Case, before: &Record, ended: &[usize]) -> Result<(), String> {
    let scene = &case.scene;
    let left = scene.config.trash.list();
    if !left.is_empty() {
        return Err(format!("the trash still lists {left:?}"));
    }
    for (repository, common) in scene.repositories().iter().zip(scene.commons()) {
        let pins = git(repository, &["for-each-ref", "--format=%(refname)", "refs/sessionmesh/"]);
        if !pins.is_empty() {
            return Err(format!("pins of what was deleted stay: {pins}"));
        }
        let kept = common.join("sessionmesh-trash");
        let entries = std::fs::read_dir(&kept).into_iter().flatten().count();
        if entries > 0 {
            return Err(format!("{} still holds {entries} folders", kept.display()));
        }
        git(repository, &["gc", "-q", "--prune=now"]);
        is_sound(repository)?;
    }
    same_refs(case, before)?;
    unchanged_but_for_refs(case, before, ended, "the end of its time")
}

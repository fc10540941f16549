//! Owns keeping every object that only a worktree's administrative folder reaches.
//!
//! Must not know where the folder lies. Invariants: after a pin, `git gc --prune=now` takes nothing
//! that the folder names and that was there; what is missing, or reaches what is missing, is passed
//! over, as pinning it would make every `git gc` fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{manifest::Registration, plumbing::Git};
use crate::{files, teardown::problem::Problem};

/// Longest file of an administrative folder that is searched for ids, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most parents of a commit that pins others.
const PARENTS_MAX: usize = 512;
/// Shortest abbreviation of an id that is followed.
const ABBREVIATION_MIN: usize = 7;
/// What stands in commits that pin others, in place of a person.
const NOBODY: &str = "sessionmesh <sessionmesh@localhost> 0 +0000";
/// The folders of an administrative folder that hold no ids: the submodules have their own objects.
const PASSED_OVER: &[&str] = &["modules", "reftable"];

/// What an index holds: its mode, id and path, by stage.
type Stages = BTreeMap<u8, Vec<(String, String, Vec<u8>)>>;

/// What is done about a part of an administrative folder that git can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Nothing is pinned.
    Refused,
    /// It is passed over, and named.
    PassedOver,
}

/// Pins what the administrative folder of a worktree reaches, below its pins. `scratch` is a folder for
/// unfinished files. Returns what could not be read.
///
/// # Errors
///
/// git can't read the folder, or can't write to the repository.
pub fn pin(
    one: &Registration,
    unreadable: Unreadable,
    scratch: &Path,
) -> Result<Vec<String>, Problem> {
    let Registration { repository, admin, pins, .. } = one;
    let branch = one.branch.as_deref();
    let mut passed_over = Vec::new();
    let (shared, own) = (Git::new(repository), Git::new(admin));
    let head = own.line(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], Vec::new()).ok();
    let mut named = BTreeSet::new();
    search(admin, &mut named)?;
    if let Some(branch) = branch {
        // An agent may delete the branch, and with it what its log names.
        search_file(&repository.join("logs/refs/heads").join(branch), &mut named)?;
    }
    let mut pass_over = |problem: Problem| match unreadable {
        Unreadable::Refused => Err(problem),
        Unreadable::PassedOver => {
            passed_over.push(problem.to_string());
            Ok(())
        }
    };
    match own_refs(&own) {
        Ok(found) => named.extend(found),
        Err(problem) => pass_over(problem)?,
    }
    let index = admin.join("index");
    let staged = staged(&own, head.as_deref()).or_else(|problem| match unreadable {
        Unreadable::Refused => Err(problem),
        // An index can be read where the HEAD beside it can't.
        Unreadable::PassedOver => staged(&Git { index: Some(&index), ..shared }, None),
    });
    let (stages, resolved) = match staged {
        Ok(staged) => staged,
        Err(problem) => {
            pass_over(problem)?;
            Default::default()
        }
    };
    named.extend(resolved);
    let mut refs: Vec<(String, String)> = Vec::new();
    refs.extend(head.map(|head| (format!("{pins}/HEAD"), head)));
    let kinds = kinds(&shared, &named)?;
    for (stage, entries) in stages {
        let tree = tree_of(&shared, &entries, &scratch.join(format!("index-{stage}")))?;
        refs.push((format!("{pins}/index-{stage}"), tree));
    }
    let whole = whole(&shared, kinds)?;
    for (number, id) in pinning(&shared, &whole)?.into_iter().enumerate() {
        refs.push((format!("{pins}/objects-{number}"), id));
    }
    unlock(repository, pins)?;
    let mut input = Vec::new();
    for (name, id) in &refs {
        input.extend_from_slice(format!("update {name}\0{id}\0\0").as_bytes());
    }
    shared.run(&["update-ref", "--no-deref", "-z", "--stdin"], input)?;
    sync_folders(repository, pins)?;
    shared.sync()?;
    Ok(passed_over)
}

/// Removes the pins of an entry; those that are not there are none.
///
/// # Errors
///
/// git can't write to the repository.
pub fn unpin(repository: &Path, pins: &str) -> Result<(), Problem> {
    unlock(repository, pins)?;
    let shared = Git::new(repository);
    let listed = shared.run(&["for-each-ref", "--format=%(refname)", pins], Vec::new())?;
    let mut input = Vec::new();
    for name in listed.split(|byte| *byte == b'\n').filter(|name| !name.is_empty()) {
        input.extend_from_slice(b"delete ");
        input.extend_from_slice(name);
        input.extend_from_slice(b"\0\0");
    }
    if input.is_empty() {
        return Ok(());
    }
    shared.run(&["update-ref", "--no-deref", "-z", "--stdin"], input).map(drop)
}

/// Makes durable that a file below a repository is there: git syncs the files of refs, but not the
/// folders that they are in.
///
/// # Errors
///
/// A folder can't be synced.
pub fn sync_folders(repository: &Path, below: &str) -> Result<(), Problem> {
    let folder = repository.join(below);
    let folders = folder.ancestors().take_while(|folder| *folder != repository);
    for folder in folders.filter(|folder| folder.is_dir()) {
        files::sync_folder(folder).map_err(Problem::io(folder))?;
    }
    Ok(())
}

/// Removes the locks that a git which died has left on an entry's pins: git itself never does. Nobody
/// else writes there, and one entry is in one pair of hands at a time.
///
/// # Errors
///
/// A lock can't be removed.
pub fn unlock(repository: &Path, pins: &str) -> Result<(), Problem> {
    // Where refs are no files there is no such folder.
    for entry in fs::read_dir(repository.join(pins)).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "lock") {
            fs::remove_file(&path).map_err(Problem::io(&path))?;
        }
    }
    Ok(())
}

/// Collects every word of the files of an administrative folder that looks like an id: heads of
/// unfinished merges and picks, lists of a rebase, bisections, both sides of every log.
fn search(folder: &Path, named: &mut BTreeSet<String>) -> Result<(), Problem> {
    for entry in fs::read_dir(folder).map_err(Problem::io(folder))? {
        let entry = entry.map_err(Problem::io(folder))?;
        let kind = entry.file_type().map_err(Problem::io(folder))?;
        let (name, path) = (entry.file_name(), entry.path());
        if kind.is_dir() && !PASSED_OVER.iter().any(|passed| name == *passed) {
            search(&path, named)?;
        } else if kind.is_file() && name != "index" {
            search_file(&path, named)?;
        }
    }
    Ok(())
}

fn search_file(path: &Path, named: &mut BTreeSet<String>) -> Result<(), Problem> {
    let is_short = |found: &fs::Metadata| found.is_file() && found.len() <= FILE_BYTES_MAX;
    if !path.symlink_metadata().is_ok_and(|found| is_short(&found)) {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(Problem::io(path))?;
    let words = bytes.split(|byte| !byte.is_ascii_hexdigit());
    let like_id = |word: &&[u8]| (ABBREVIATION_MIN..=64).contains(&word.len());
    let words = words.filter(like_id).filter(|word| word.iter().any(|byte| *byte != b'0'));
    named.extend(words.filter_map(|word| String::from_utf8(word.to_vec()).ok()));
    Ok(())
}

/// Returns what the refs of a worktree alone name, and their logs where those are no files.
fn own_refs(own: &Git<'_>) -> Result<Vec<String>, Problem> {
    let format = "--format=%(objectname) %(refname)";
    let listed = own
        .run(&["for-each-ref", format, "--include-root-refs"], Vec::new())
        .or_else(|_| own.run(&["for-each-ref", format], Vec::new()))?;
    let text = String::from_utf8_lossy(&listed);
    let mut found = Vec::new();
    let mut logged = vec!["HEAD"];
    for (id, name) in text.lines().filter_map(|line| line.split_once(' ')) {
        let shared = name.starts_with("refs/")
            && !["worktree", "bisect", "rewritten"]
                .iter()
                .any(|own| name.strip_prefix("refs/").is_some_and(|rest| rest.starts_with(own)));
        if !shared {
            found.push(id.to_owned());
            logged.push(name);
        }
    }
    if own.dir.join("reftable").is_dir() {
        for name in logged {
            let walk = ["rev-list", "--walk-reflogs", "--no-commit-header", "--format=%H", name];
            // A ref without a log is none to walk.
            let walked = own.run(&walk, Vec::new()).unwrap_or_default();
            let count = walked.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
            found.extend(String::from_utf8_lossy(&walked).lines().map(str::to_owned));
            // The oldest entry's other side.
            let oldest = format!("{name}@{{{count}}}");
            found.extend(own.line(&["rev-parse", "--verify", "--quiet", &oldest], Vec::new()));
        }
    }
    Ok(found)
}

/// Returns what an index holds that its commit does not, whole stages, and the ids that it keeps of
/// conflicts that are resolved.
fn staged(own: &Git<'_>, head: Option<&str>) -> Result<(Stages, Vec<String>), Problem> {
    let mut stages = Stages::new();
    let listed = own.run(&["ls-files", "--stage", "-z"], Vec::new())?;
    for line in listed.split(|byte| *byte == 0) {
        let Some((mode, id, stage, path)) = entry(line) else { continue };
        if mode != "160000" {
            stages.entry(stage).or_default().push((mode, id, path));
        }
    }
    let resolved = own.run(&["ls-files", "--resolve-undo", "-z"], Vec::new())?;
    let resolved = resolved.split(|byte| *byte == 0).filter_map(entry).map(|(_, id, ..)| id);
    let resolved = resolved.collect();
    if let (Some(head), [0]) = (head, stages.keys().copied().collect::<Vec<_>>().as_slice()) {
        let compare = ["diff-index", "--cached", "--quiet", "--no-ext-diff", head, "--"];
        if own.succeeds(&compare, Vec::new())? {
            stages.clear();
        }
    }
    Ok((stages, resolved))
}

/// Reads `MODE ID STAGE<TAB>PATH`.
fn entry(line: &[u8]) -> Option<(String, String, u8, Vec<u8>)> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let head = std::str::from_utf8(&line[..tab]).ok()?;
    let mut words = head.split(' ');
    let (mode, id) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some((mode, id, words.next()?.parse().ok()?, line[tab + 1..].to_vec()))
}

/// Writes a tree of those entries whose blobs are there.
fn tree_of(
    shared: &Git<'_>,
    entries: &[(String, String, Vec<u8>)],
    scratch: &Path,
) -> Result<String, Problem> {
    let ids = entries.iter().map(|(_, id, _)| id.clone()).collect();
    let there = kinds(shared, &ids)?;
    let mut input = Vec::new();
    for (mode, id, path) in entries.iter().filter(|(_, id, _)| there.contains_key(id)) {
        input.extend_from_slice(format!("{mode} {id} 0\t").as_bytes());
        input.extend_from_slice(path);
        input.push(0);
    }
    // One that a crash left would be added to.
    let _ = fs::remove_file(scratch);
    let git = Git { index: Some(scratch), ..*shared };
    let tree = git
        .run(&["update-index", "-z", "--index-info"], input)
        .and_then(|_| git.line(&["write-tree", "--missing-ok"], Vec::new()));
    let _ = fs::remove_file(scratch);
    tree
}

/// Returns the kinds of those objects that are there, by their whole ids, and by the ids that were
/// asked for where those are whole.
fn kinds(git: &Git<'_>, ids: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Problem> {
    let mut input = Vec::new();
    for id in ids {
        input.extend_from_slice(id.as_bytes());
        input.push(b'\n');
    }
    let arguments = ["cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer"];
    let output = git.run(&arguments, input)?;
    let text = String::from_utf8_lossy(&output);
    let found = text.lines().filter_map(|line| line.split_once(' '));
    let is_kind = |kind: &str| ["commit", "tree", "blob", "tag"].contains(&kind);
    let found = found.filter(|(_, kind)| is_kind(kind));
    Ok(found.map(|(id, kind)| (id.to_owned(), kind.to_owned())).collect())
}

/// Leaves out the objects that reach what is missing.
fn whole(
    shared: &Git<'_>,
    mut kinds: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Problem> {
    // What a partial clone has not fetched is not missing.
    let promised = ["config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$"];
    let is_partial = shared.succeeds(&promised, Vec::new())?;
    let mut left_out = BTreeSet::new();
    let ids: Vec<&String> = kinds.keys().collect();
    let mut waiting = vec![ids.as_slice()];
    // Where there is none to leave out, one look is enough; else each half is looked at by itself.
    while let Some(some) = waiting.pop() {
        match some {
            [] => {}
            some if reaches_all(shared, some, is_partial)? => {}
            [one] => drop(left_out.insert((*one).clone())),
            some => {
                let (first, second) = some.split_at(some.len() / 2);
                waiting.extend([first, second]);
            }
        }
    }
    kinds.retain(|id, _| !left_out.contains(id));
    Ok(kinds)
}

/// Tells whether nothing is missing of what some objects reach beyond the repository's own refs.
fn reaches_all(shared: &Git<'_>, ids: &[&String], is_partial: bool) -> Result<bool, Problem> {
    let mut input = Vec::new();
    for id in ids {
        input.extend_from_slice(id.as_bytes());
        input.push(b'\n');
    }
    let mut walk = vec!["rev-list", "--objects", "--quiet", "--single-worktree", "--stdin"];
    walk.extend(is_partial.then_some("--exclude-promisor-objects"));
    walk.extend(["--not", "--all"]);
    shared.succeeds(&walk, input)
}

/// Returns the bytes of a tree of these objects, each under its id; they are sorted.
fn tree(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, mode) in entries {
        bytes.extend_from_slice(format!("{mode} {id}\0").as_bytes());
        let pairs = (0..id.len() / 2).map(|at| &id[2 * at..2 * at + 2]);
        bytes.extend(pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()));
    }
    bytes
}

/// Writes commits that reach all these objects, and returns what must be named to keep them.
fn pinning(shared: &Git<'_>, kinds: &BTreeMap<String, String>) -> Result<Vec<String>, Problem> {
    let of = |wanted: &'static str| {
        kinds.iter().filter(move |(_, kind)| *kind == wanted).map(|(id, _)| id.as_str())
    };
    // A tree can't hold a tag, nor a commit follow one: each is named by a ref of its own.
    let mut named: Vec<String> = of("tag").map(str::to_owned).collect();
    let blobs = of("blob").map(|id| (id, "100644"));
    let mut entries: Vec<_> = blobs.chain(of("tree").map(|id| (id, "40000"))).collect();
    entries.sort_unstable();
    let commits: Vec<&str> = of("commit").collect();
    if commits.is_empty() && entries.is_empty() {
        return Ok(named);
    }
    // `mktree` reads no configuration, so it would not be told to sync what it writes: after a power
    // cut an empty file could be what the pin names, and git refuses to tidy such a repository.
    let tree = shared.line(&["hash-object", "-t", "tree", "-w", "--stdin"], tree(&entries))?;
    let mut before: Option<String> = None;
    let mut rest = commits.as_slice();
    loop {
        let (some, others) = rest.split_at(rest.len().min(PARENTS_MAX));
        let mut text = format!("tree {tree}\n");
        for parent in before.iter().map(String::as_str).chain(some.iter().copied()) {
            text.push_str(&format!("parent {parent}\n"));
        }
        text.push_str(&format!("author {NOBODY}\ncommitter {NOBODY}\n\nkept in the trash\n"));
        before = Some(shared.line(&["hash-object", "-t", "commit", "-w", "--stdin"], text.into())?);
        rest = others;
        if rest.is_empty() {
            break;
        }
    }
    named.extend(before);
    Ok(named)
}

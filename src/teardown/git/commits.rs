//! Owns counting the commits that would be named by nothing any more.
//!
//! Must not judge files. Invariant: a ref of the trash's own never counts as reaching a commit.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    private::Private,
    repository::{is_id, is_missing, read},
    run,
};
use crate::teardown::problem::{Problem, said};

/// As many commits are counted; more are as bad.
pub const COMMITS_COUNTED_MAX: u32 = 1_000;
/// What only a reflog has named for longer than this git itself deletes by default, so it does not
/// stop anybody: `gc.reflogExpireUnreachable`.
const REFLOG_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Steps of a rebase, which git makes and leaves in the reflog: what a person wrote is in the branch
/// before or after it.
const REFLOG_OF_GIT: &str = "rebase";
/// The refs that each worktree has for itself.
const OWN_REFS: &[&str] = &["refs/worktree/", "refs/bisect/", "refs/rewritten/"];
/// How a reflog says that a commit came from elsewhere.
const REFLOG_OF_REMOTES: &[&str] = &["clone: from", "fetch"];

/// Counts the commits of a worktree's HEAD that nothing but its own branch reaches: no other branch,
/// no tag and no remote-tracking ref.
pub fn unreached(
    private: &Private<'_>,
    commit: &str,
    own_branch: Option<&str>,
) -> Result<u32, Problem> {
    let exclude = own_branch.map(|branch| format!("--exclude={branch}"));
    let mut arguments = vec!["--not"];
    arguments.extend(exclude.as_deref());
    arguments.extend(["--branches", "--tags", "--remotes"]);
    count(private, [commit.to_owned()].into(), &BTreeSet::new(), &arguments)
}

/// Counts the commits that only the own folder of a worktree names: its refs, its HEAD's reflog, and
/// heads that a command has left, such as `ORIG_HEAD`. `commit` is what is checked out, which is
/// counted by [`unreached`].
pub fn anchored(private: &Private<'_>, commit: Option<&str>) -> Result<u32, Problem> {
    let repository = private.repository;
    let mut named = named_by_files(&repository.git_dir)?;
    named.extend(named_by_tables(&repository.git_dir, OWN_REFS)?);
    named.remove(commit.unwrap_or_default());
    if named.is_empty() {
        return Ok(0);
    }
    let arguments = ["--not", "--branches", "--tags", "--remotes", "--glob=refs/stash*"];
    let mut kept: BTreeSet<String> = commit.map(str::to_owned).into_iter().collect();
    if count(private, named.clone(), &kept, &arguments)? == 0 {
        return others(private, &repository.git_dir);
    }
    // What was amended or reset is still in the reflog of its branch, which stays.
    for name in ["logs/refs/heads", "logs/refs/stash"] {
        let entries = reflog_entries(&repository.common_dir.join(name))?;
        kept.extend(entries.into_iter().map(|entry| entry.id));
    }
    Ok(count(private, named, &kept, &arguments)? + others(private, &repository.git_dir)?)
}

/// Counts the commits of a whole repository that no remote-tracking ref reaches, stashes and reflogs
/// included.
pub fn unpushed(private: &Private<'_>) -> Result<u32, Problem> {
    if private.is_mirror {
        return Ok(0);
    }
    let repository = private.repository;
    let mut named = named_by_files(&repository.git_dir)?;
    named.extend(named_by_tables(&repository.git_dir, &["refs/"])?);
    let logs = repository.common_dir.join("logs");
    // What a remote-tracking ref was once moved to, the remote has had.
    let tracked = reflog_entries(&logs.join("refs/remotes"))?;
    let mut from_remotes: BTreeSet<String> = tracked.into_iter().map(|entry| entry.id).collect();
    for entry in reflog_entries(&logs)? {
        if REFLOG_OF_REMOTES.iter().any(|how| entry.message.starts_with(how)) {
            from_remotes.insert(entry.id);
        }
    }
    let named = named.into_iter().filter(|id| !from_remotes.contains(id)).collect();
    count(private, named, &from_remotes, &["--all", "--not", "--remotes"])
}

/// Counts the refs of a worktree's own that name something else than a commit.
fn others(private: &Private<'_>, git_dir: &Path) -> Result<u32, Problem> {
    let named = files_below(&git_dir.join("refs"))?;
    let ids: BTreeSet<String> = named.iter().flat_map(|text| ids_in(text)).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    let input = ids.iter().map(|id| format!("{id}\n")).collect::<String>().into_bytes();
    let output = private.tell(&["cat-file", "--batch-check"], input)?;
    let text = String::from_utf8_lossy(&output);
    let is_other = |line: &&str| [" blob ", " tree "].iter().any(|kind| line.contains(kind));
    Ok(u32::try_from(text.lines().filter(is_other).count()).unwrap_or(u32::MAX))
}

/// Counts the commits that some ids or options reach and others do not. What is named and is not
/// there is nothing that could be lost.
fn count(
    private: &Private<'_>,
    named: BTreeSet<String>,
    kept: &BTreeSet<String>,
    options: &[&str],
) -> Result<u32, Problem> {
    let max = format!("--max-count={COMMITS_COUNTED_MAX}");
    let arguments =
        [&["rev-list", "--count", &max, "--ignore-missing", "--stdin"], options].concat();
    let mut input: String = named.into_iter().map(|id| id + "\n").collect();
    input.extend(kept.iter().map(|id| format!("^{id}\n")));
    let output = private.tell(&arguments, input.into_bytes())?;
    let text = String::from_utf8_lossy(&output);
    let at = &private.repository.git_dir;
    text.trim()
        .parse()
        .map_err(|_| run::failed(at, &arguments, format!("said `{}`", said(&output))))
}

/// Returns the ids that the files of one git folder name: heads, refs and reflogs that are its own.
fn named_by_files(git_dir: &Path) -> Result<BTreeSet<String>, Problem> {
    let mut named = BTreeSet::new();
    for entry in fs::read_dir(git_dir).map_err(Problem::io(git_dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_head = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            && name.ends_with("_HEAD")
            // It names what was fetched from elsewhere.
            && name != "FETCH_HEAD";
        let is_recent = || {
            let modified = entry.metadata().ok().and_then(|found| found.modified().ok());
            modified.is_none_or(|at| at.elapsed().is_ok_and(|age| age < REFLOG_KEPT))
        };
        if is_head
            && is_recent()
            && let Some(text) = read(&entry.path())?
        {
            named.extend(ids_in(&text));
        }
    }
    for text in files_below(&git_dir.join("refs"))? {
        named.extend(ids_in(&text));
    }
    let oldest = SystemTime::now().checked_sub(REFLOG_KEPT);
    let oldest = oldest.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let oldest = oldest.map_or(0, |age| age.as_secs());
    for entry in reflog_entries(&git_dir.join("logs"))? {
        if entry.at >= oldest && !entry.message.starts_with(REFLOG_OF_GIT) {
            named.insert(entry.id);
        }
    }
    Ok(named)
}

/// Returns the ids that a git folder's own refs, and the reflogs of refs that begin like one of
/// these, name where they are not kept in files but in tables; none where they are in files.
fn named_by_tables(git_dir: &Path, beginnings: &[&str]) -> Result<BTreeSet<String>, Problem> {
    let mut named = BTreeSet::new();
    if !git_dir.join("reftable").is_dir() {
        return Ok(named);
    }
    let at = |arguments: &[&str]| run::ask_git_dir(git_dir, arguments);
    let listed = at(&["for-each-ref", "--format=%(objectname) %(refname)", "--include-root-refs"])?;
    let oldest = SystemTime::now().checked_sub(REFLOG_KEPT);
    let oldest = oldest.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let oldest = oldest.map_or(0, |age| age.as_secs());
    for line in String::from_utf8_lossy(&listed).lines() {
        let Some((id, name)) = line.split_once(' ') else { continue };
        let is_own = OWN_REFS.iter().any(|own| name.starts_with(own));
        if is_own || name.ends_with("_HEAD") && name != "FETCH_HEAD" {
            named.insert(id.to_owned());
        }
        if name != "HEAD" && !beginnings.iter().any(|beginning| name.starts_with(beginning)) {
            continue;
        }
        let format = "--format=%H%x09%gd%x09%gs";
        let walk =
            ["rev-list", "--walk-reflogs", "--no-commit-header", "--date=unix", format, name];
        let walked = at(&walk)?;
        for line in String::from_utf8_lossy(&walked).lines() {
            let mut fields = line.splitn(3, '\t');
            let (id, when) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let when =
                when.rsplit_once("@{").and_then(|(_, at)| at.trim_end_matches('}').parse().ok());
            let is_recent = when.is_none_or(|at: u64| at >= oldest);
            let message = fields.next().unwrap_or_default();
            if is_id(id) && is_recent && !message.starts_with(REFLOG_OF_GIT) {
                named.insert(id.to_owned());
            }
        }
    }
    Ok(named)
}

/// One line of a reflog: a commit that a ref was moved to.
struct Entry {
    id: String,
    /// Seconds since the epoch.
    at: u64,
    message: String,
}

fn reflog_entries(at: &Path) -> Result<Vec<Entry>, Problem> {
    let mut entries = Vec::new();
    for text in files_below(at)? {
        let text = String::from_utf8_lossy(&text);
        entries.extend(text.lines().filter_map(|line| {
            let (head, message) = line.split_once('\t').unwrap_or((line, ""));
            let id = head.split(' ').nth(1).filter(|id| is_id(id))?;
            // A time that can't be read is taken for a recent one.
            let at = head.rsplit(' ').nth(1).and_then(|at| at.parse().ok()).unwrap_or(u64::MAX);
            Some(Entry { id: id.to_owned(), at, message: message.to_owned() })
        }));
    }
    Ok(entries)
}

/// Returns the ids that are the first word of a line.
fn ids_in(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let words = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
    words.filter(|word| is_id(word)).map(str::to_owned).collect()
}

/// Reads all files below a folder, or the file that it is; none if there is neither.
fn files_below(path: &Path) -> Result<Vec<Vec<u8>>, Problem> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        match path.symlink_metadata() {
            Ok(kind) if kind.is_dir() => {
                for entry in fs::read_dir(&path).map_err(Problem::io(&path))? {
                    waiting.push(entry.map_err(Problem::io(&path))?.path());
                }
            }
            Ok(_) => found.extend(read(&path)?),
            Err(error) if is_missing(&error) => {}
            Err(source) => return Err(Problem::io(&path)(source)),
        }
    }
    Ok(found)
}

//! Records every byte below a folder, and what git holds, so that two moments can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use sha2::{Digest as _, Sha256};

use crate::git::{self, git};

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its kind and permissions.
    mode: u32,
    /// The digest of its content, or where a link leads.
    content: Vec<u8>,
    /// The first path that is the same file, for one with several names.
    same_as: Option<PathBuf>,
}

/// Everything below a folder, by its path from there; mounted things included.
pub type Files = BTreeMap<PathBuf, Node>;

/// Records everything below a folder, apart from what is skipped.
pub fn files(folder: &Path, skipped: &[&Path]) -> Files {
    let (mut found, mut names) = (Files::new(), BTreeMap::new());
    let mut folders = vec![PathBuf::new()];
    while let Some(at) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(folder.join(&at))
            .unwrap_or_else(|error| panic!("{}: {error}", folder.join(&at).display()))
            .map(|entry| at.join(entry.expect("it can be read").file_name()))
            .collect();
        entries.sort();
        for name in entries {
            let path = folder.join(&name);
            if skipped.contains(&path.as_path()) {
                continue;
            }
            // What is gone since it was listed was not there to be recorded.
            let Ok(seen) = path.symlink_metadata() else { continue };
            let mut node = Node { mode: seen.mode(), content: Vec::new(), same_as: None };
            if seen.is_dir() {
                folders.push(name.clone());
            } else if seen.is_symlink() {
                let target = fs::read_link(&path).expect("it is a link");
                node.content = target.into_os_string().into_encoded_bytes();
            } else if seen.is_file() {
                let bytes = fs::read(&path).expect("it can be read");
                let is_log = name.ends_with("logs/HEAD");
                node.content = Sha256::digest(if is_log { tidied(&bytes) } else { bytes }).to_vec();
                if seen.nlink() > 1 {
                    let first = names.entry((seen.dev(), seen.ino())).or_insert(name.clone());
                    node.same_as = Some(first.clone()).filter(|first| *first != name);
                }
            }
            found.insert(name, node);
        }
    }
    found
}

/// Returns a reflog as `git gc` writes it: it ends a line without a message otherwise.
fn tidied(log: &[u8]) -> Vec<u8> {
    let lines = log.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end().to_owned());
    lines.collect::<Vec<_>>().join(&b'\n')
}

/// Returns the part of a record that lies below a folder.
pub fn below(files: &Files, folder: &Path) -> Files {
    let inner = files.iter().filter_map(|(path, node)| {
        let path = path.strip_prefix(folder).ok().filter(|path| !path.as_os_str().is_empty())?;
        Some((path.to_owned(), node.clone()))
    });
    inner.collect()
}

/// Returns how two records differ, in at most ten lines; `None` if they don't. With `links`, files
/// that were one have to be one still.
pub fn difference(
    before: &Files,
    after: &Files,
    counts: &dyn Fn(&Path) -> bool,
    links: bool,
) -> Option<String> {
    let mut told = String::new();
    let mut lines = 0;
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths.into_iter().filter(|path| counts(path)) {
        let what = match (before.get(path), after.get(path)) {
            (Some(one), Some(other)) if one == other => continue,
            (Some(one), Some(other)) if one.mode != other.mode => "has another mode",
            (Some(one), Some(other)) if one.content != other.content => "has another content",
            (Some(_), Some(_)) if !links => continue,
            (Some(_), Some(_)) => "is linked otherwise",
            (Some(_), None) => "is lost",
            (None, _) => "is new",
        };
        lines += 1;
        if lines <= 10 {
            let _ = write!(told, "\n    {path:?} {what}");
        }
    }
    (lines > 0).then(|| format!("{lines} paths differ:{told}"))
}

/// Returns the refs of a repository and where each points, without those that the trash makes.
pub fn refs(repository: &Path) -> BTreeMap<String, String> {
    let format = "--format=%(refname) %(objectname)%(symref)";
    let listed = git(repository, &["for-each-ref", format]);
    let lines = listed.lines().filter_map(|line| line.split_once(' '));
    let kept = lines.filter(|(name, _)| !name.starts_with("refs/sessionmesh/"));
    kept.map(|(name, to)| (name.to_owned(), to.to_owned())).collect()
}

/// Returns every object that something in a worktree or in its repository names: refs, worktrees'
/// own refs, reflogs, indexes, and what is unfinished.
pub fn objects(worktree: &Path, git_dir: &Path) -> BTreeSet<String> {
    let mut arguments: Vec<String> = [
        "rev-list",
        "--objects",
        "--no-object-names",
        "--ignore-missing",
        "--all",
        "--reflog",
        "--indexed-objects",
    ]
    .map(str::to_owned)
    .into();
    arguments.extend(named(git_dir));
    let listed = git(worktree, &arguments);
    listed.lines().map(str::to_owned).collect()
}

/// Returns the object ids that the files at the top of a git folder name, such as `MERGE_HEAD`.
fn named(git_dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let top = fs::read_dir(git_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in top.chain([git_dir.join("rebase-merge/orig-head")]) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_HEAD"))
            || path.ends_with("orig-head")
        {
            let text = fs::read_to_string(path).unwrap_or_default();
            let ids = text.split_whitespace();
            let is_id = |id: &&str| [40, 64].contains(&id.len()) && is_hex(id);
            found.extend(ids.filter(is_id).map(str::to_owned));
        }
    }
    found
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns those of some objects that a repository does not have.
pub fn missing(repository: &Path, objects: &BTreeSet<String>) -> Vec<String> {
    use std::io::Write as _;
    let mut git = git::command(repository);
    git.args(["cat-file", "--batch-check=%(objectname) %(objecttype)"]);
    let mut child =
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let asked: String = objects.iter().map(|id| format!("{id}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(asked.as_bytes()));
    let output = child.wait_with_output().expect("it can be waited for");
    writer.join().expect("it does not panic").expect("git reads what it is asked");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lost = text.lines().filter_map(|line| line.strip_suffix(" missing"));
    lost.map(str::to_owned).collect()
}

/// Returns what git says of a folder: its branch, commit, and each file's state, ignored ones too.
pub fn status(folder: &Path) -> String {
    let arguments = [
        "status",
        "--porcelain=v2",
        "--branch",
        "--untracked-files=all",
        "--ignored",
        "--ignore-submodules=none",
    ];
    let output = git::attempt(folder, &arguments);
    git::told(Path::new(""), &arguments, &output)
}

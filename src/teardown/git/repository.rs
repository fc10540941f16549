//! Owns reading how a repository lies on the disk: its folders, its worktrees, its heads.
//!
//! Must not run git. Git's own list of worktrees ends a path at a line break unless it is newer than
//! 2.36, and refuses bare repositories where it is told to. Invariant: nothing outside the
//! repository's own folders is taken for a part of it.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use super::run;
use crate::teardown::problem::Problem;

/// Longest file of a git folder that is read whole, in bytes: the packed refs of a huge repository.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// How many symbolic refs are followed.
const SYMBOLIC_MAX: usize = 5;

/// What git leaves in its folder while something is unfinished, and what that is. `AUTO_MERGE` is not
/// among it: git leaves it behind also when a rebase has ended well.
const UNFINISHED: &[(&str, &str)] = &[
    ("rebase-merge", "rebase"),
    ("rebase-apply/applying", "series of patches (git am)"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("sequencer", "cherry-pick or revert of several commits"),
    ("BISECT_START", "bisection"),
    ("BISECT_LOG", "bisection"),
];

/// A repository, as one of its worktrees or by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The folder with the worktree's own HEAD and index.
    pub git_dir: PathBuf,
    /// The folder with what all worktrees share: objects, branches, configuration.
    pub common_dir: PathBuf,
    /// The files; `None` if only the repository itself is meant.
    pub work_tree: Option<PathBuf>,
}

/// A worktree as its repository lists it; the first of a list is the main one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Where it is, or was.
    pub path: PathBuf,
    /// The folder in which its repository keeps what it knows of it.
    pub git_dir: PathBuf,
    /// What is checked out in it; `None` before the first commit.
    pub commit: Option<String>,
    /// The branch that is checked out in it, without `refs/heads/`; `None` if it is detached.
    pub branch: Option<String>,
    /// Why it is locked, if it is.
    pub locked: Option<String>,
}

impl Repository {
    /// Finds the repository of the files in a folder, or the one that the folder is; `None` if it
    /// is neither.
    ///
    /// # Errors
    ///
    /// There is a `.git` that leads to no repository, or it can't be read.
    pub fn at(path: &Path) -> Result<Option<Self>, Problem> {
        let link = path.join(".git");
        let found = match link.metadata() {
            Ok(found) => found,
            Err(error) if is_missing(&error) && link.symlink_metadata().is_err() => {
                return Self::from_git_dir(path, None);
            }
            Err(source) => return Err(Problem::io(&link)(source)),
        };
        let git_dir = if found.is_dir() {
            link.clone()
        } else {
            let text = read(&link)?.unwrap_or_default();
            let Some(to) = text.strip_prefix(b"gitdir: ") else {
                return Err(leads_nowhere(&link));
            };
            path.join(OsStr::from_bytes(trimmed(to)))
        };
        match Self::from_git_dir(&git_dir, Some(path))? {
            Some(repository) => Ok(Some(repository)),
            None => Err(leads_nowhere(&link)),
        }
    }

    /// Takes a folder for a git folder, if it is one.
    pub fn from_git_dir(git_dir: &Path, work_tree: Option<&Path>) -> Result<Option<Self>, Problem> {
        if git_dir.join("HEAD").symlink_metadata().is_err() {
            return Ok(None);
        }
        let Ok(git_dir) = git_dir.canonicalize() else { return Ok(None) };
        let common_dir = match read(&git_dir.join("commondir"))? {
            Some(text) => git_dir.join(OsStr::from_bytes(trimmed(&text))),
            None => git_dir.clone(),
        };
        let Ok(common_dir) = common_dir.canonicalize() else { return Ok(None) };
        let is_whole = common_dir.join("objects").is_dir() && common_dir.join("refs").exists();
        let work_tree = work_tree.map(Path::to_owned);
        Ok(is_whole.then_some(Self { git_dir, common_dir, work_tree }))
    }

    /// Tells whether it is a linked worktree: its repository lies elsewhere.
    pub fn is_linked(&self) -> bool {
        self.git_dir != self.common_dir
    }

    /// Returns its worktrees, the main one first.
    ///
    /// # Errors
    ///
    /// They can't be read.
    pub fn worktrees(&self) -> Result<Vec<Listed>, Problem> {
        let main = match self.common_dir.file_name() {
            Some(name) if name == ".git" => self.common_dir.parent().unwrap_or(Path::new("/")),
            _ => &self.common_dir,
        };
        let mut found = vec![self.listed(main.to_owned(), &self.common_dir)?];
        let folder = self.common_dir.join("worktrees");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => return Ok(found),
            Err(source) => return Err(Problem::io(&folder)(source)),
        };
        let mut folders = Vec::new();
        for entry in entries {
            folders.push(entry.map_err(Problem::io(&folder))?.path());
        }
        folders.sort();
        for git_dir in folders {
            let Some(text) = read(&git_dir.join("gitdir"))? else { continue };
            let link = git_dir.join(OsStr::from_bytes(trimmed(&text)));
            let path = if link.ends_with(".git") { link.parent() } else { Some(&*link) };
            found.push(self.listed(path.unwrap_or(&link).to_owned(), &git_dir)?);
        }
        Ok(found)
    }

    fn listed(&self, path: PathBuf, git_dir: &Path) -> Result<Listed, Problem> {
        let own = Self { git_dir: git_dir.to_owned(), ..self.clone() };
        // One that can't be read is no reason to know nothing of the others; it is judged by itself.
        let (commit, branch) = own.head().unwrap_or_default();
        let locked = read(&git_dir.join("locked"))?;
        let locked = locked.map(|text| String::from_utf8_lossy(trimmed(&text)).into_owned());
        let locked = locked.filter(|_| own.is_linked());
        Ok(Listed { path, git_dir: git_dir.to_owned(), commit, branch, locked })
    }

    /// Returns what is checked out: the commit, and the branch without `refs/heads/`.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub fn head(&self) -> Result<(Option<String>, Option<String>), Problem> {
        if self.has_reftable() {
            return self.head_by_git();
        }
        let mut name = "HEAD".to_owned();
        let mut branch = None;
        for _ in 0..SYMBOLIC_MAX {
            match self.read_ref(&name)? {
                Some(Ref::Id(id)) => return Ok((Some(id), branch)),
                Some(Ref::Symbolic(to)) => {
                    if name == "HEAD" {
                        branch = Some(to.strip_prefix("refs/heads/").unwrap_or(&to).to_owned());
                    }
                    name = to;
                }
                None if name != "HEAD" => return Ok((None, branch)),
                None => {
                    let why = "its HEAD names neither a branch nor a commit".to_owned();
                    return Err(run::failed(&self.git_dir, &["rev-parse"], why));
                }
            }
        }
        let why = "its HEAD is a chain of symbolic refs".to_owned();
        Err(run::failed(&self.git_dir, &["rev-parse"], why))
    }

    /// Tells whether the refs are kept in tables and not in files.
    pub fn has_reftable(&self) -> bool {
        self.common_dir.join("reftable").is_dir()
    }

    fn head_by_git(&self) -> Result<(Option<String>, Option<String>), Problem> {
        let format = "--format=%(refname:short) %(objectname)";
        let said = |arguments: &[&str]| {
            let output = run::ask_repository(&self.git_dir, arguments)?;
            Ok(String::from_utf8_lossy(&output).trim().to_owned())
        };
        match said(&["symbolic-ref", "HEAD"]) {
            Ok(name) => {
                let branch = name.strip_prefix("refs/heads/").unwrap_or(&name).to_owned();
                let line: String = said(&["for-each-ref", format, "--", &name])?;
                let commit = line.rsplit_once(' ').map(|(_, id)| id.to_owned());
                Ok((commit, Some(branch)))
            }
            Err(Problem::Git { .. }) => Ok((Some(said(&["rev-parse", "HEAD"])?), None)),
            Err(problem) => Err(problem),
        }
    }

    fn read_ref(&self, name: &str) -> Result<Option<Ref>, Problem> {
        let parts_are_fine = !name.split('/').any(|part| part.is_empty() || part == "..");
        if !parts_are_fine || !(name == "HEAD" || name.starts_with("refs/")) {
            return Ok(None);
        }
        let own = ["HEAD", "refs/worktree/", "refs/bisect/", "refs/rewritten/"];
        let is_own = own.iter().any(|own| name.starts_with(own));
        let path = (if is_own { &self.git_dir } else { &self.common_dir }).join(name);
        if let Ok(to) = path.read_link()
            && to.starts_with("refs")
        {
            return Ok(to.to_str().map(|to| Ref::Symbolic(to.to_owned())));
        }
        if !path.is_dir()
            && let Some(text) = read(&path)?
        {
            return Ok(Ref::read(&text));
        }
        let Some(packed) = read(&self.common_dir.join("packed-refs"))? else { return Ok(None) };
        let lines = packed.split(|byte| *byte == b'\n');
        let mut found = lines.filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b' ')?;
            (line[at + 1..] == *name.as_bytes()).then(|| Ref::read(&line[..at])).flatten()
        });
        Ok(found.next())
    }

    /// Returns what is unfinished in this worktree.
    pub fn unfinished(&self) -> Option<&'static str> {
        let found = UNFINISHED.iter().find(|(name, _)| self.git_dir.join(name).exists());
        found.map(|(_, what)| *what)
    }
}

/// What a ref holds.
enum Ref {
    Id(String),
    Symbolic(String),
}

impl Ref {
    fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text.trim_ascii()).ok()?;
        if let Some(to) = text.strip_prefix("ref:") {
            return Some(Self::Symbolic(to.trim().to_owned()));
        }
        let id = text.split_ascii_whitespace().next()?;
        is_id(id).then(|| Self::Id(id.to_owned()))
    }
}

/// Tells whether a text is the id of an object that may be there.
pub fn is_id(text: &str) -> bool {
    [40, 64].contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0')
}

/// Reads a file of a git folder; `None` if there is none.
///
/// # Errors
///
/// It can't be read, is no file, or is too long to be what it should be.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(Problem::io(path)(source)),
    };
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        let source = io::Error::new(io::ErrorKind::InvalidData, "not a file of git's");
        return Err(Problem::io(path)(source));
    }
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(Problem::io(path)(source)),
    }
}

/// Tells whether an error says that there is nothing: a parent that is a file has nothing in it.
pub fn is_missing(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

fn leads_nowhere(link: &Path) -> Problem {
    let why = format!("{} leads to no repository", link.display());
    run::failed(link.parent().unwrap_or(link), &["rev-parse"], why)
}

/// Takes the line end off that git writes behind a path.
fn trimmed(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Makes a path of what git printed.
pub fn path_of(output: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(output))
}

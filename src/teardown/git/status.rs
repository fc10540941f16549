//! Owns finding the files of a worktree that are in no commit.
//!
//! Must not judge whether that matters. Invariant: neither a flag in the index nor a submodule's
//! folder hides a file, and no filter is run: a filtered file whose bytes are not those that were
//! committed counts as changed, unless it is what an LFS pointer names.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{private::Private, repository::Repository, run};
use crate::teardown::problem::Problem;

/// Most files that are looked at one by one in a folder that should hold a submodule.
const STRAY_FILES_MAX: usize = 1_000;
/// Most changed files of which it is looked whether a filter explains the change.
const FILTERED_MAX: usize = 50_000;
/// Longest LFS pointer, in bytes, as LFS itself takes it.
const POINTER_BYTES_MAX: usize = 1_024;
/// How a blob that is an LFS pointer begins.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n";

/// A file that is not as it is in the commit that is checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The two letters of `git status --porcelain=v1`.
    pub code: [u8; 2],
    /// Below the top of the worktree.
    pub path: PathBuf,
    /// A filter that might explain the change, but is not run.
    pub filter: Option<String>,
}

impl Changed {
    /// Tells whether git does not know the file.
    pub fn is_untracked(&self) -> bool {
        self.code == *b"??"
    }
}

/// How the files of a worktree differ from the commit.
#[derive(Debug, Default)]
pub struct Status {
    /// Changed, staged, conflicted and untracked files.
    pub changed: Vec<Changed>,
    /// What is ignored: folders as a whole, and single files; below the top of the worktree.
    pub ignored: Vec<PathBuf>,
    /// The tracked files called `HEAD`: their folders may be git folders that are themselves files
    /// of this repository.
    pub heads: Vec<PathBuf>,
}

/// One entry of the index.
struct Indexed<'a> {
    tag: u8,
    mode: &'a [u8],
    id: &'a [u8],
    path: &'a Path,
}

/// Returns how the files differ, in the whole worktree or in a folder of it.
///
/// # Errors
///
/// Git could not tell, or said more than can be read.
pub fn status(private: &mut Private<'_>, within: Option<&Path>) -> Result<Status, Problem> {
    let Some(top) = private.repository.work_tree.clone() else { return Ok(Status::default()) };
    let listed = private.ask(&["ls-files", "-v", "--stage", "-z"])?;
    let index: Vec<Indexed<'_>> =
        listed.split(|byte| *byte == 0).filter_map(Indexed::read).collect();
    unhide(private, &top, &index)?;
    let mut arguments = vec![
        "status",
        "--porcelain=v1",
        "-z",
        "--untracked-files=all",
        "--ignored=matching",
        "--ignore-submodules=dirty",
        "--no-renames",
    ];
    let within = within.map(|path| path.strip_prefix(&top).unwrap_or(path).to_owned());
    if let Some(within) = within.as_deref().filter(|within| !within.as_os_str().is_empty()) {
        let Some(name) = within.to_str() else {
            let why = format!("{} is not UTF-8", within.display());
            return Err(run::failed(&top, &arguments, why));
        };
        arguments.extend(["--", name]);
    }
    let mut status = read_status(&private.ask(&arguments)?);
    drop_unchanged(private, &top, &index, &mut status.changed)?;
    let is_asked = |path: &Path| within.as_ref().is_none_or(|within| path.starts_with(within));
    for entry in index.iter().filter(|entry| entry.mode == b"160000" && is_asked(entry.path)) {
        stray_files(&top, entry.path, &mut status.changed)?;
    }
    let heads = index.iter().filter(|entry| entry.path.ends_with("HEAD"));
    status.heads = heads.map(|entry| entry.path.to_owned()).collect();
    Ok(status)
}

/// Tells whether the index differs from the commit, for a worktree whose files are gone.
///
/// # Errors
///
/// Git could not tell.
pub fn staged(private: &Private<'_>, commit: Option<&str>) -> Result<Vec<Changed>, Problem> {
    let added =
        |path: &[u8]| Changed { code: *b"A ", path: OsStr::from_bytes(path).into(), filter: None };
    let Some(commit) = commit else {
        let output = private.ask(&["ls-files", "-z"])?;
        let paths = output.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        return Ok(paths.map(added).collect());
    };
    let arguments = ["diff-index", "--cached", "--name-status", "--no-renames", "-z", commit, "--"];
    let output = private.ask(&arguments)?;
    let words: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    let changed = words.chunks_exact(2).map(|pair| Changed {
        code: [pair[0].first().copied().unwrap_or(b'M'), b' '],
        ..added(pair[1])
    });
    Ok(changed.collect())
}

impl<'a> Indexed<'a> {
    /// Reads `H 100644 ID 0<tab>path`.
    fn read(line: &'a [u8]) -> Option<Self> {
        let end = line.iter().position(|byte| *byte == b'\t')?;
        let mut words = line[..end].split(|byte| *byte == b' ');
        let tag = *words.next()?.first()?;
        let (mode, id) = (words.next()?, words.next()?);
        Some(Self { tag, mode, id, path: Path::new(OsStr::from_bytes(&line[end + 1..])) })
    }

    fn is_assumed_unchanged(&self) -> bool {
        self.tag.is_ascii_lowercase()
    }

    fn is_skipped(&self) -> bool {
        self.tag.eq_ignore_ascii_case(&b'S')
    }
}

/// Takes the flags off, in a copy of the index, by which files are not looked at: all that are
/// assumed to be unchanged, and those that are left out of the worktree and are there nevertheless.
fn unhide(private: &mut Private<'_>, top: &Path, index: &[Indexed<'_>]) -> Result<(), Problem> {
    let (mut skipped, mut assumed) = (Vec::new(), Vec::new());
    for entry in index.iter().filter(|entry| entry.mode != b"160000") {
        let is_there = || top.join(entry.path).symlink_metadata().is_ok();
        let list = |paths: &mut Vec<u8>| {
            paths.extend_from_slice(entry.path.as_os_str().as_bytes());
            paths.push(0);
        };
        if entry.is_skipped() {
            if !is_there() {
                continue;
            }
            list(&mut skipped);
        }
        if entry.is_assumed_unchanged() {
            list(&mut assumed);
        }
    }
    if skipped.is_empty() && assumed.is_empty() {
        return Ok(());
    }
    private.copy_index()?;
    for (flag, paths) in [("--no-skip-worktree", skipped), ("--no-assume-unchanged", assumed)] {
        if !paths.is_empty() {
            private.tell(&["update-index", "-z", flag, "--stdin"], paths)?;
        }
    }
    Ok(())
}

fn read_status(output: &[u8]) -> Status {
    let mut status = Status::default();
    for line in output.split(|byte| *byte == 0) {
        let [first, second, b' ', path @ ..] = line else { continue };
        let path = PathBuf::from(OsStr::from_bytes(path));
        match [*first, *second] {
            [b'!', b'!'] => status.ignored.push(path),
            code => status.changed.push(Changed { code, path, filter: None }),
        }
    }
    status
}

/// Drops the files that only seem to be changed because their filter was not run, and names the
/// filter of the others.
fn drop_unchanged(
    private: &Private<'_>,
    top: &Path,
    index: &[Indexed<'_>],
    changed: &mut Vec<Changed>,
) -> Result<(), Problem> {
    let may_be_filtered = |file: &Changed| file.code[1] == b'M';
    let mut paths = Vec::new();
    for file in changed.iter().filter(|file| may_be_filtered(file)).take(FILTERED_MAX) {
        paths.extend_from_slice(file.path.as_os_str().as_bytes());
        paths.push(0);
    }
    if paths.is_empty() {
        return Ok(());
    }
    let output = private.tell(&["check-attr", "-z", "--stdin", "filter"], paths)?;
    let words: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    let filters: HashMap<&Path, &[u8]> = words
        .chunks_exact(3)
        .map(|words| (Path::new(OsStr::from_bytes(words[0])), words[2]))
        .filter(|(_, value)| ![b"unspecified".as_slice(), b"unset", b"set"].contains(value))
        .collect();
    if filters.is_empty() {
        return Ok(());
    }
    let is_filtered = |file: &Changed| may_be_filtered(file) && filters.contains_key(&*file.path);
    let asked: HashSet<&Path> =
        changed.iter().filter(|file| is_filtered(file)).map(|file| &*file.path).collect();
    let entries: Vec<&Indexed<'_>> =
        index.iter().filter(|entry| asked.contains(entry.path)).collect();
    let pointers = pointers(private, &entries)?;
    let mut as_named = HashSet::new();
    for entry in entries {
        if let Some(pointer) = pointers.get(entry.id)
            && is_what_it_names(pointer, top, entry)?
        {
            as_named.insert(entry.path.to_owned());
        }
    }
    for file in changed.iter_mut() {
        if as_named.contains(&file.path) {
            file.code[1] = b' ';
        } else if may_be_filtered(file)
            && let Some(filter) = filters.get(&*file.path)
        {
            file.filter = Some(String::from_utf8_lossy(filter).into_owned());
        }
    }
    changed.retain(|file| file.code != *b"  ");
    Ok(())
}

/// An LFS pointer: the digest, in hex, and the size of the file that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pointer {
    oid: String,
    size: u64,
}

/// Returns the LFS pointers among the blobs of some entries, by their ids. What a partial clone
/// lacks is not among them.
fn pointers<'a>(
    private: &Private<'_>,
    entries: &[&Indexed<'a>],
) -> Result<HashMap<&'a [u8], Pointer>, Problem> {
    let ask = |option: &str, ids: &[&[u8]]| {
        let input = ids.iter().flat_map(|id| [id, b"\n".as_slice()].concat()).collect();
        private.tell(&["cat-file", option], input)
    };
    let ids: Vec<&[u8]> = entries.iter().map(|entry| entry.id).collect();
    let sizes = ask("--batch-check", &ids)?;
    let size = |line: &[u8]| {
        let word = line.split(|byte| *byte == b' ').nth(2)?;
        std::str::from_utf8(word).ok()?.parse::<usize>().ok()
    };
    let lines = sizes.split(|byte| *byte == b'\n');
    let small = |line: &[u8]| size(line).is_some_and(|size| size <= POINTER_BYTES_MAX);
    let ids: Vec<&'a [u8]> = entries
        .iter()
        .zip(lines)
        .filter(|(_, line)| small(line))
        .map(|(entry, _)| entry.id)
        .collect();
    let blobs = ask("--batch", &ids)?;
    let mut rest = blobs.as_slice();
    let mut found = HashMap::new();
    for id in ids {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let Some(size) = size(&rest[..end]) else { break };
        let blob = rest.get(end + 1..end + 1 + size).unwrap_or_default();
        found.extend(Pointer::read(blob).map(|pointer| (id, pointer)));
        rest = rest.get(end + size + 2..).unwrap_or_default();
    }
    Ok(found)
}

/// Tells whether a file is the one that an LFS pointer names, with the mode that the index has.
fn is_what_it_names(pointer: &Pointer, top: &Path, entry: &Indexed<'_>) -> Result<bool, Problem> {
    let path = top.join(entry.path);
    let Ok(found) = path.symlink_metadata() else { return Ok(false) };
    let is_program = found.permissions().mode() & 0o100 != 0;
    if !found.is_file() || found.len() != pointer.size || is_program != (entry.mode == b"100755") {
        return Ok(false);
    }
    Ok(digest(&path).map_err(Problem::io(&path))? == pointer.oid)
}

impl Pointer {
    fn read(blob: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(blob).ok()?;
        let rest = text.strip_prefix(POINTER)?;
        let value = |key: &str| rest.lines().find_map(|line| line.strip_prefix(key));
        let (oid, size) = (value("oid sha256:")?, value("size ")?.parse().ok()?);
        (oid.len() == 64).then(|| Self { oid: oid.to_ascii_lowercase(), size })
    }
}

/// Returns the SHA-256 of a file, in hex.
fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Adds the files in the folder of a submodule that is not there: git shows none of them.
fn stray_files(top: &Path, gitlink: &Path, changed: &mut Vec<Changed>) -> Result<(), Problem> {
    let folder = top.join(gitlink);
    if !folder.symlink_metadata().is_ok_and(|found| found.is_dir())
        || matches!(Repository::at(&folder), Ok(Some(repository)) if repository.work_tree.is_some())
    {
        return Ok(());
    }
    let mut waiting = vec![folder];
    let mut count = 0;
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).map_err(Problem::io(&folder))? {
            let path = entry.map_err(Problem::io(&folder))?.path();
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                waiting.push(path);
                continue;
            }
            let path = path.strip_prefix(top).unwrap_or(&path).to_owned();
            changed.push(Changed { code: *b"??", path, filter: None });
            count += 1;
            if count == STRAY_FILES_MAX {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_with_what_is_ignored() {
        let status = read_status(b" D gone\0?? new file\nx\0M  staged\0!! out/\0bad\0");
        let codes: Vec<_> =
            status.changed.iter().map(|c| (&c.code, c.path.to_str().unwrap())).collect();
        assert_eq!(codes, [(b" D", "gone"), (b"??", "new file\nx"), (b"M ", "staged")]);
        assert_eq!(status.ignored, [Path::new("out/")]);
    }

    #[test]
    fn the_index_is_read_with_its_flags() {
        let lines: [&[u8]; 3] =
            [b"H 100644 aa 0\ta b", b"h 160000 bb 0\tc", b"s 100755 cc 2\td\te"];
        let read: Vec<_> = lines.iter().filter_map(|line| Indexed::read(line)).collect();
        let flags: Vec<_> =
            read.iter().map(|entry| (entry.is_assumed_unchanged(), entry.is_skipped())).collect();
        assert_eq!(flags, [(false, false), (true, false), (true, true)]);
        assert_eq!(read[2].path, Path::new("d\te"));
        assert_eq!((read[1].mode, read[1].id), (b"160000".as_slice(), b"bb".as_slice()));
    }

    #[test]
    fn a_pointer_is_told_from_a_text_that_is_none() {
        let oid = "ab".repeat(32);
        let pointer = format!("{POINTER}oid sha256:{oid}\nsize 12\n");
        assert_eq!(Pointer::read(pointer.as_bytes()), Some(Pointer { oid, size: 12 }));
        assert_eq!(Pointer::read(b"version 1\noid sha256:00\nsize 1\n"), None);
        assert_eq!(Pointer::read(format!("{POINTER}oid sha256:12\nsize 1\n").as_bytes()), None);
    }
}

//! Builds, once for each flavour, the repositories that every drawn scene begins with: a copy of
//! files takes a fraction of the time that git takes.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sha2::{Digest as _, Sha256};

use crate::git::{self, git};

/// How the repository is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// No remote: branches alone reach commits.
    Plain,
    /// With a remote.
    Remote,
    /// With a remote, all refs packed and all objects in one pack.
    Packed,
    /// A bare main repository with a remote.
    Bare,
    /// With a remote, and SHA-256 as the object format.
    Sha256,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Remote, Self::Packed, Self::Bare, Self::Sha256];

    /// Returns the name that its counter has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "repository without a remote",
            Self::Remote => "repository with a remote",
            Self::Packed => "repository with packed refs",
            Self::Bare => "bare main repository",
            Self::Sha256 => "repository with SHA-256",
        }
    }

    /// Tells whether there is a remote.
    pub fn has_remote(self) -> bool {
        self != Self::Plain
    }

    /// Copies the repositories of this flavour into an empty folder.
    pub fn copy_into(self, folder: &Path) {
        copy(&self.template().join("scene"), folder).expect("a template can be copied");
    }

    /// Copies one of the repositories that are drawn into worktrees.
    pub fn copy_nested(self, name: &str, to: &Path) {
        copy(&self.template().join("nested").join(name), to).expect("a template can be copied");
    }

    /// Returns where the template is. It is kept with what cargo builds, under a name that changes
    /// with this file.
    fn template(self) -> &'static Path {
        static TEMPLATES: [OnceLock<PathBuf>; 5] = [const { OnceLock::new() }; 5];
        TEMPLATES[self as usize].get_or_init(|| {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let version: String = hex(&Sha256::digest(include_str!("template.rs"))[..8]);
            let made = kept.join(format!("endings-{version}-{self:?}"));
            if !made.exists() {
                fs::create_dir_all(kept).expect("a folder");
                let new = tempfile::tempdir_in(kept).expect("a folder");
                build(self, new.path());
                // Another run may have been faster; its template is as good.
                let renamed = fs::rename(new.path(), &made);
                assert!(renamed.is_ok() || made.exists(), "{}: {renamed:?}", made.display());
            }
            made
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the LFS file of every scene really holds; its blob is the pointer to that.
pub const LFS_CONTENT: &[u8] = b"the content of a large file\n";

fn build(flavour: Flavour, folder: &Path) {
    let at = &folder.join("scene");
    fs::create_dir(at).expect("a folder");
    let format = if flavour == Flavour::Sha256 { "sha256" } else { "sha1" };
    let format = format!("--object-format={format}");
    let init = |name: &str| {
        git(at, &["init", "-q", "--template=", "-b", "main", &format, name]);
    };
    for name in ["home", "outside", "data"] {
        fs::create_dir(at.join(name)).expect("a folder");
    }
    fs::write(at.join("outside/precious"), "not in any worktree\n").expect("a file");

    init("lib");
    fs::write(at.join("lib/code"), "lib\n").expect("a file");
    commit(&at.join("lib"), "lib");
    init("outer");
    git(&at.join("outer"), &["submodule", "--quiet", "add", "../lib", "inner"]);
    commit(&at.join("outer"), "outer");

    init("build");
    let build = at.join("build");
    history(&build);
    git(at, &["clone", "-q", "--template=", "--bare", "build", "origin.git"]);
    git(&at.join("origin.git"), &["config", "--remove-section", "remote.origin"]);
    fs::remove_dir_all(&build).expect("it was built");
    repository(flavour, at);

    init("other");
    fs::write(at.join("other/file"), "other\n").expect("a file");
    fs::write(at.join("other/.gitignore"), "ignored/\n").expect("a file");
    commit(&at.join("other"), "other");
    for name in ["lib", "outer", "origin.git", "other", "repo"] {
        pack(&at.join(name));
    }
    git(at, &["init", "-q", "--template=", "-b", "main", &format, "../nested/unpublished"]);
    nested(folder);
}

/// Packs all objects: each loose one has a folder of its own, and folders are what copying costs.
fn pack(repository: &Path) {
    git(repository, &["repack", "-q", "-a", "-d"]);
    let objects = git::rev_parse(repository, "--git-common-dir").join("objects");
    for folder in fs::read_dir(objects).expect("a folder").flatten() {
        // Only those that are empty.
        let _ = fs::remove_dir(folder.path());
    }
}

/// Makes the branches that everything is drawn on: `main` and `side` conflict in `file`, `subs`
/// has submodules.
fn history(at: &Path) {
    for folder in ["dir", "deep/er"] {
        fs::create_dir_all(at.join(folder)).expect("a folder");
    }
    let digest = hex(&Sha256::digest(LFS_CONTENT));
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {}\n",
        LFS_CONTENT.len()
    );
    for (name, text) in [
        ("file", "one\n"),
        ("other", "first line\nsecond line\n"),
        ("third", "third\n"),
        ("dir/a", "a\n"),
        ("dir/b", "b\n"),
        ("deep/er/c", "c\n"),
        ("large.bin", pointer.as_str()),
        (".gitattributes", "*.bin filter=lfs\n"),
        (".gitignore", "ignored/\nnode_modules/\n*.log\n.env\n"),
        ("run", "#!/bin/sh\n"),
    ] {
        fs::write(at.join(name), text).expect("a file");
    }
    fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    symlink("file", at.join("link")).expect("a link");
    commit(at, "one");
    git(at, &["checkout", "-q", "-b", "side"]);
    for text in ["s1", "s2", "s3"] {
        fs::write(at.join("file"), format!("{text}\n")).expect("a file");
        commit(at, text);
    }
    git(at, &["checkout", "-q", "main"]);
    for text in ["two", "three"] {
        fs::write(at.join("file"), format!("{text}\n")).expect("a file");
        commit(at, text);
    }
    git(at, &["checkout", "-q", "-b", "subs"]);
    git(at, &["submodule", "--quiet", "add", "../lib", "lib"]);
    git(at, &["submodule", "--quiet", "add", "../outer", "outer"]);
    commit(at, "submodules");
    git(at, &["checkout", "-q", "main"]);
}

fn repository(flavour: Flavour, at: &Path) {
    let repo = at.join("repo");
    if flavour == Flavour::Bare {
        git(at, &["clone", "-q", "--template=", "--bare", "origin.git", "repo"]);
        git(&repo, &["config", "remote.origin.url", "../origin.git"]);
        git(&repo, &["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"]);
        git(&repo, &["fetch", "-q"]);
    } else {
        git(at, &["clone", "-q", "--template=", "origin.git", "repo"]);
        git(&repo, &["config", "remote.origin.url", "../origin.git"]);
    }
    if flavour == Flavour::Plain {
        for name in ["side", "subs"] {
            git(&repo, &["branch", "--no-track", name, &format!("origin/{name}")]);
        }
        git(&repo, &["remote", "remove", "origin"]);
    }
    if flavour == Flavour::Packed {
        git(&repo, &["gc", "-q"]);
    }
    // The patch that conflicts: it turns what `file` once held into something else.
    let side =
        if flavour == Flavour::Bare || !flavour.has_remote() { "side" } else { "origin/side" };
    let patch = git(&repo, &["format-patch", "--stdout", "-1", side]);
    fs::write(at.join("patch"), patch + "\n").expect("a file");
}

/// Makes the repositories that are drawn into worktrees, below `nested`.
fn nested(folder: &Path) {
    let nested = folder.join("nested");
    let unpublished = nested.join("unpublished");
    let unborn = nested.join("unborn");
    copy(&unpublished, &unborn).expect("a copy");
    fs::write(unborn.join("file"), "in no commit yet\n").expect("a file");
    fs::write(unpublished.join("file"), "nowhere else\n").expect("a file");
    commit(&unpublished, "nowhere else");
    let derive = |from: &str, to: &str| {
        copy(&nested.join(from), &nested.join(to)).expect("a copy");
        nested.join(to)
    };
    let published = derive("unpublished", "published");
    git(&published, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
    git(&published, &["config", "remote.origin.url", "https://example.invalid/x"]);
    let unpushed = derive("published", "unpushed");
    fs::write(unpushed.join("file"), "newer\n").expect("a file");
    commit(&unpushed, "newer");
    let stash = derive("published", "stash");
    fs::write(stash.join("file"), "stashed\n").expect("a file");
    git(&stash, &["stash", "-q"]);
    let dirty = derive("published", "dirty");
    fs::write(dirty.join("new"), "new\n").expect("a file");
    git(&nested, &["clone", "-q", "--template=", "--bare", "unpublished", "bare.git"]);
    git(&nested.join("bare.git"), &["config", "--remove-section", "remote.origin"]);
}

fn commit(at: &Path, message: &str) {
    git(at, &["add", "-A"]);
    git(at, &["commit", "-q", "--allow-empty", "-m", message]);
}

/// Copies a folder with all that is in it; it may exist.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&from, &to)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

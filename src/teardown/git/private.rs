//! Owns the private git folder through which a repository is read.
//!
//! Must not change the repository. A repository's configuration can name programs: filters, an
//! fsmonitor, hooks, a transport. Whoever may write to a worktree can often write the configuration,
//! and the daemon must not run their programs. So git is given a folder of the daemon's own, with
//! the real objects, refs, index and files, and a configuration of which every value is known to name
//! no program. Invariant: no configuration but that one is in force while git reads a repository's
//! files.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    repository::{Repository, path_of},
    run,
};
use crate::teardown::problem::Problem;

/// The folder in the data folder in which the private git folders are made.
const FOLDER: &str = "git.private";
/// The settings that are carried over: each changes which files count as changed, none names a
/// program. Names are in the lower case in which git prints them.
const CARRIED: &[&str] = &[
    "core.autocrlf",
    "core.eol",
    "core.safecrlf",
    "core.filemode",
    "core.symlinks",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "core.bigfilethreshold",
    "core.trustctime",
    "core.checkstat",
    "core.checkroundtripencoding",
    "core.protecthfs",
    "core.protectntfs",
    "extensions.objectformat",
];
/// The settings that name a file of patterns, and the file below the user's configuration that is
/// taken if nothing is set.
const FILES: &[(&str, &str)] =
    &[("core.excludesfile", "ignore"), ("core.attributesfile", "attributes")];
/// Extensions of a repository's format that need nothing here.
const EXTENSIONS_KNOWN: &[&str] = &[
    "extensions.noop",
    "extensions.objectformat",
    "extensions.partialclone",
    "extensions.preciousobjects",
    "extensions.refstorage",
    "extensions.relativeworktrees",
    "extensions.worktreeconfig",
];

/// A private git folder; removed with it.
#[derive(Debug)]
pub struct Private<'a> {
    /// The repository that it stands for.
    pub repository: &'a Repository,
    folder: Folder,
    index: PathBuf,
    /// Whether all its refs are kept as a remote has them.
    pub is_mirror: bool,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl<'a> Private<'a> {
    /// Makes one for a repository, below the daemon's data folder.
    ///
    /// # Errors
    ///
    /// The repository can't be read, or the folder can't be made.
    pub fn new(repository: &'a Repository, data_dir: &Path) -> Result<Self, Problem> {
        let settings = settings(repository)?;
        let folder = make_folder(data_dir)?;
        let index = repository.git_dir.join("index");
        let is_mirror = is_mirror(&settings);
        let private = Self { repository, folder, index, is_mirror };
        private.write("config", configuration(repository, &settings)?.as_bytes())?;
        let (commit, branch) = repository.head()?;
        let head = match (commit, branch) {
            (Some(commit), _) => commit,
            (None, branch) => format!("ref: refs/heads/{}", branch.unwrap_or_default()),
        };
        private.write("HEAD", format!("{head}\n").as_bytes())?;
        let Repository { git_dir, common_dir, .. } = repository;
        if repository.has_reftable() {
            private.make("refs")?;
            let format = "--format=%(objectname) %(refname)";
            private
                .write("packed-refs", &run::ask_repository(git_dir, &["for-each-ref", format])?)?;
        } else {
            private.link("refs", &common_dir.join("refs"))?;
            private.link("packed-refs", &common_dir.join("packed-refs"))?;
        }
        private.link("shallow", &common_dir.join("shallow"))?;
        private.make("info")?;
        private.link("info/exclude", &common_dir.join("info/exclude"))?;
        private.link("info/attributes", &common_dir.join("info/attributes"))?;
        private.link("info/sparse-checkout", &git_dir.join("info/sparse-checkout"))?;
        for entry in fs::read_dir(git_dir).map_err(Problem::io(git_dir))?.flatten() {
            // An index can be split; most of it is then in a file beside it.
            if let Some(name) = entry.file_name().to_str()
                && name.starts_with("sharedindex.")
            {
                private.link(name, &entry.path())?;
            }
        }
        Ok(private)
    }

    /// Asks git about the repository.
    pub fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>, Problem> {
        self.tell(arguments, Vec::new())
    }

    /// Asks git about the repository, and gives it this input.
    pub fn tell(&self, arguments: &[&str], input: Vec<u8>) -> Result<Vec<u8>, Problem> {
        let objects = self.repository.common_dir.join("objects");
        let mut environment =
            vec![("GIT_OBJECT_DIRECTORY", objects), ("GIT_INDEX_FILE", self.index.clone())];
        let at = match &self.repository.work_tree {
            Some(work_tree) if work_tree.is_dir() => {
                environment.push(("GIT_WORK_TREE", work_tree.clone()));
                work_tree
            }
            // The index alone is asked about.
            _ => &self.folder.0,
        };
        run::ask_private(&self.folder.0, &environment, at, arguments, input)
    }

    /// Goes on with a copy of the index, which may be changed.
    ///
    /// # Errors
    ///
    /// It can't be copied.
    pub fn copy_index(&mut self) -> Result<(), Problem> {
        let copy = self.folder.0.join("index");
        let copied = || {
            fs::copy(&self.index, &copy)?;
            // Files that are as new as the index are compared by what is in them, so the copy must
            // be as old as the index.
            let file = fs::File::options().write(true).open(&copy)?;
            file.set_modified(self.index.metadata()?.modified()?)
        };
        copied().map_err(Problem::io(&copy))?;
        self.index = copy;
        Ok(())
    }

    fn write(&self, name: &str, text: &[u8]) -> Result<(), Problem> {
        let path = self.folder.0.join(name);
        fs::write(&path, text).map_err(Problem::io(&path))
    }

    fn make(&self, name: &str) -> Result<(), Problem> {
        let path = self.folder.0.join(name);
        fs::create_dir(&path).map_err(Problem::io(&path))
    }

    /// Links a file or folder of the repository, if it is there.
    fn link(&self, name: &str, to: &Path) -> Result<(), Problem> {
        if to.symlink_metadata().is_err() {
            return Ok(());
        }
        let path = self.folder.0.join(name);
        symlink(to, &path).map_err(Problem::io(&path))
    }
}

/// Makes an empty folder that only this user can enter.
fn make_folder(data_dir: &Path) -> Result<Folder, Problem> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static CLEAN: Once = Once::new();
    let parent = data_dir.join(FOLDER);
    CLEAN.call_once(|| remove_old(&parent));
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).create(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Problem::io(&parent)(error));
        }
        _ => {}
    }
    let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = parent.join(name);
    builder.create(&path).map_err(Problem::io(&path))?;
    Ok(Folder(path))
}

/// Removes what a daemon that was killed has left: one daemon at a time has this data folder.
fn remove_old(parent: &Path) {
    let own = format!("{}-", std::process::id());
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(own.as_bytes()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns the settings that are in force for a repository, by their names in lower case.
fn settings(repository: &Repository) -> Result<BTreeMap<String, String>, Problem> {
    let output = run::ask_repository(&repository.git_dir, &["config", "--null", "--list"])?;
    let text = String::from_utf8_lossy(&output);
    let entries = text.split('\0').filter(|entry| !entry.is_empty());
    // A name without a value is a yes.
    let entries = entries.map(|entry| entry.split_once('\n').unwrap_or((entry, "true")));
    Ok(entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Tells whether some remote is mirrored: then all refs are as it has them.
fn is_mirror(settings: &BTreeMap<String, String>) -> bool {
    let is_set = |(name, value): (&String, &String)| {
        let yes = ["true", "yes", "on", "1"].contains(&value.to_ascii_lowercase().as_str());
        yes && name.starts_with("remote.") && name.ends_with(".mirror")
    };
    settings.iter().any(is_set)
}

/// Writes the configuration of a private git folder.
fn configuration(
    repository: &Repository,
    settings: &BTreeMap<String, String>,
) -> Result<String, Problem> {
    let unknown = |name: &&String| {
        name.starts_with("extensions.") && !EXTENSIONS_KNOWN.contains(&name.as_str())
    };
    if let Some(name) = settings.keys().find(unknown) {
        let why = format!("its format has `{name}`, which this version does not know");
        return Err(run::failed(&repository.common_dir, &["config"], why));
    }
    let version = i32::from(settings.contains_key("extensions.objectformat"));
    let mut lines = vec![
        ("core.repositoryformatversion", version.to_string()),
        ("core.bare", "false".to_owned()),
        ("core.untrackedcache", "false".to_owned()),
        ("core.splitindex", "false".to_owned()),
    ];
    for name in CARRIED {
        lines.extend(settings.get(*name).map(|value| (*name, value.clone())));
    }
    for (name, default) in FILES {
        let path = match settings.get(*name) {
            Some(value) if value.starts_with(['~', '%']) => {
                let arguments = ["config", "--type=path", "--get", name];
                let mut output = run::ask_repository(&repository.git_dir, &arguments)?;
                output.truncate(output.strip_suffix(b"\n").unwrap_or(&output).len());
                Some(path_of(output))
            }
            Some(value) => Some(value.into()),
            None => user_configuration().map(|folder| folder.join(default)),
        };
        lines.extend(path.and_then(|path| Some((*name, path.to_str()?.to_owned()))));
    }
    Ok(lines.iter().map(|(name, value)| line(name, value)).collect())
}

/// Returns the folder of the user's own configuration of git.
fn user_configuration() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_CONFIG_HOME").filter(|value| !value.is_empty());
    let folder = set.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".config")));
    folder.map(|folder| folder.join("git"))
}

/// Writes one setting so that git reads exactly this value.
fn line(name: &str, value: &str) -> String {
    let (section, key) = name.split_once('.').unwrap_or(("core", name));
    let mut quoted = String::new();
    for c in value.chars() {
        match c {
            '\\' | '"' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    format!("[{section}]\n\t{key} = \"{quoted}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teardown::testing::Repository as Fixture;

    #[test]
    fn only_settings_that_name_no_program_are_carried_over_and_each_as_it_was() {
        let fixture = Fixture::new();
        for (name, value) in [
            ("core.autocrlf", "input"),
            ("core.excludesFile", "a \"b\"\\c"),
            ("core.sshCommand", "touch ran"),
            ("filter.x.clean", "touch ran"),
            ("core.pager", "touch ran"),
        ] {
            fixture.git("repo", &["config", name, value]);
        }
        let repository = Repository::at(&fixture.path("w")).unwrap().unwrap();
        let private = Private::new(&repository, &fixture.config.data_dir).unwrap();
        let said = private.ask(&["config", "--null", "--list"]).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("core.autocrlf\ninput\0"), "{said}");
        assert!(said.contains("core.excludesfile\na \"b\"\\c\0"), "{said}");
        assert!(!said.contains("ran"), "{said}");
        let folder = private.folder.0.clone();
        assert!(folder.join("HEAD").exists());
        drop(private);
        assert!(!folder.exists());
    }

    #[test]
    fn a_format_that_is_not_known_is_not_guessed_at() {
        let settings = BTreeMap::from([("extensions.new".to_owned(), "x".to_owned())]);
        let fixture = Fixture::new();
        let repository = Repository::at(&fixture.path("repo")).unwrap().unwrap();
        let problem = configuration(&repository, &settings).unwrap_err().to_string();
        assert!(problem.contains("extensions.new"), "{problem}");
    }
}

//! Owns what is written down of an entry of the trash, and where the entry's own folder lies.
//!
//! Must not decide anything. Invariant: the manifest alone is enough to finish, undo, restore or
//! delete the entry; it is on the disk before what it announces is done.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::KeptSession;
use crate::{
    files,
    replica::{
        ids::NodeId,
        trash::{Held, TrashEntry, TrashKind, TrashState},
    },
};

/// The folder in the data folder.
const FOLDER: &str = "trash";
/// The manifest in an entry's folder.
pub const FILE_NAME: &str = "manifest.json";
/// The exported conversation in the folder of a session's entry.
pub const SESSION_FILE_NAME: &str = "session.json";

/// How far an entry has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Announced; the folder is still where it was.
    Begun,
    /// Its repositories keep every object that only the worktree reached.
    Pinned,
    /// The folder lies in the trash.
    Moved,
    /// What the repositories knew of the worktree lies in the trash, too.
    Unregistered,
    /// It lies in the trash, and nothing is left to do until its time is over.
    Kept,
    /// It is being put back.
    Restoring,
    /// It was put back; only this is left.
    Restored,
    /// It is being deleted for good.
    Expiring,
}

/// The folder that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Where it was.
    #[serde(with = "lossless")]
    pub from: PathBuf,
    /// Where it lies in the trash.
    #[serde(with = "lossless")]
    pub place: PathBuf,
    /// Where it is put back to, once that has begun.
    #[serde(with = "lossless")]
    pub to: PathBuf,
    /// The device and inode by which it is known again.
    pub identity: (u64, u64),
    /// Its mode, which may have to be changed to move it.
    pub mode: u32,
}

/// What one repository knew of one worktree: the folder itself, or a worktree below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The folder that the repository's worktrees share.
    #[serde(with = "lossless")]
    pub repository: PathBuf,
    /// The administrative folder, where it was.
    #[serde(with = "lossless")]
    pub admin: PathBuf,
    /// The administrative folder in the trash.
    #[serde(with = "lossless")]
    pub place: PathBuf,
    /// Where the administrative folder was put back to, once that has begun.
    #[serde(with = "lossless")]
    pub back: PathBuf,
    /// The device and inode of the administrative folder.
    pub identity: (u64, u64),
    /// Where the worktree was, below the folder that was moved; empty if it is that folder.
    #[serde(with = "lossless")]
    pub below: PathBuf,
    /// The refs below `refs/` that pin its objects begin with this.
    pub pins: String,
    /// The branch that was checked out.
    pub branch: Option<String>,
    /// The commit that was checked out.
    pub commit: Option<String>,
}

/// An entry, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The entry's name on the disk and in refs.
    pub entry: String,
    /// The id of the workspace or session.
    pub id: String,
    /// What it was.
    pub kind: TrashKind,
    /// Which attempt; 0 for a session.
    pub incarnation: u32,
    /// What people called it.
    pub name: String,
    /// Where it was, as its record says.
    pub directory: Option<String>,
    /// Why it was ended.
    pub reason: Option<String>,
    /// How far it has come.
    pub stage: Stage,
    /// Whether the agent that made it has been asked to forget it, where there is one.
    pub forgotten: bool,
    /// When it was moved, in milliseconds since the epoch.
    pub ended_at: i64,
    /// When it is deleted for good at the soonest, in milliseconds since the epoch.
    pub kept_until: i64,
    /// How much of that was added because nobody could look meanwhile, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub added_ms: i64,
    /// The look at the clock at which the last gap began that was added: a gap is added once, however often
    /// the daemon has to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_began: Option<i64>,
    /// How many bytes it takes.
    pub bytes: u64,
    /// What it held, where that could be read.
    pub held: Option<Held>,
    /// What is wrong, for a person.
    pub problem: Option<String>,
    /// What git could not read of it, so that nothing of that is kept from a `git gc`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpinned: Vec<String>,
    /// Where, or as which session, it was put back.
    pub restored_as: Option<String>,
    /// `None` for a session, and for a worktree whose folder was missing.
    pub folder: Option<Folder>,
    /// The folder's own first, if it is a worktree.
    pub registrations: Vec<Registration>,
    /// What is known of a session.
    pub session: Option<KeptSession>,
}

impl Manifest {
    /// Returns what was known of the folder itself, if it is a worktree.
    pub fn own(&self) -> Option<&Registration> {
        self.registrations.first().filter(|first| first.below == Path::new(""))
    }

    /// Tells whether the agent that made it, where there is one, still has to forget it.
    pub fn is_remembered_by_agent(&self) -> bool {
        self.stage == Stage::Unregistered && !self.forgotten
    }

    /// Tells whether it is in the trash, or has been: an attempt that has not come so far is none.
    pub fn is_listed(&self) -> bool {
        self.stage >= Stage::Moved
    }

    /// Returns what every node is told of it.
    pub fn listed(&self, host: NodeId, store: &Store) -> TrashEntry {
        let own = self.own();
        let place = match (&self.folder, own, &self.session) {
            (Some(folder), ..) => folder.place.clone(),
            (None, Some(own), _) => own.place.clone(),
            (None, None, Some(_)) => store.folder(&self.entry).join(SESSION_FILE_NAME),
            (None, None, None) => store.folder(&self.entry),
        };
        TrashEntry {
            id: self.id.clone(),
            kind: self.kind,
            name: self.name.clone(),
            directory: self.directory.clone(),
            branch: own.and_then(|own| own.branch.clone()),
            commit: own.and_then(|own| own.commit.clone()),
            host,
            ended_at: self.ended_at,
            expires_at: self.kept_until,
            bytes: self.bytes,
            held: self.held.clone(),
            place: (self.stage != Stage::Restored).then(|| place.to_string_lossy().into_owned()),
            state: match self.stage {
                Stage::Expiring if self.problem.is_some() => TrashState::Stuck,
                Stage::Expiring => TrashState::Expiring,
                Stage::Restored => TrashState::Restored,
                _ => TrashState::Kept,
            },
            reason: self.reason.clone(),
            problem: self.problem.clone(),
            restored_as: self.restored_as.clone(),
        }
    }
}

/// The manifests in the data folder, and who writes them.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// All manifests by entry, once they have been read.
    read: Mutex<Option<BTreeMap<String, Manifest>>>,
}

impl Store {
    /// Names the folder in a data folder; it is made when there is something to keep.
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join(FOLDER), read: Mutex::default() }
    }

    /// Returns where all entries are.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns an entry's own folder.
    pub fn folder(&self, entry: &str) -> PathBuf {
        self.folder.join(entry)
    }

    /// Writes a manifest, durably.
    pub fn write(&self, manifest: &Manifest) -> io::Result<()> {
        let mut all = self.all();
        let folder = self.folder(&manifest.entry);
        files::make_folder(&folder)?;
        files::replace(&folder.join(FILE_NAME), &serde_json::to_vec_pretty(manifest)?)?;
        all.get_or_insert_default().insert(manifest.entry.clone(), manifest.clone());
        Ok(())
    }

    /// Removes an entry's own folder with its manifest and what else is directly in it.
    pub fn remove(&self, entry: &str) -> io::Result<()> {
        let mut all = self.all();
        let folder = self.folder(entry);
        // The manifest goes last: what is left without one would never be looked at again.
        let mut names = Vec::new();
        match fs::read_dir(&folder) {
            Ok(found) => names.extend(found.flatten().map(|found| found.path())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        names.sort_by_key(|path| path.ends_with(FILE_NAME));
        for path in names {
            fs::remove_file(path)?;
        }
        match fs::remove_dir(&folder) {
            Ok(()) => files::sync_folder(&self.folder)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        all.get_or_insert_default().remove(entry);
        Ok(())
    }

    /// Removes the folders of entries whose first manifest a crash cut off: nothing was moved for
    /// them yet. To be called before anything else.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(names) = fs::read_dir(&path) else { continue };
            let names: Vec<_> = names.flatten().map(|name| name.file_name()).collect();
            let begun = [format!("{FILE_NAME}.new"), SESSION_FILE_NAME.to_owned()];
            let begun = [&begun[..], &[format!("{SESSION_FILE_NAME}.new")]].concat();
            if names.iter().all(|name| begun.iter().any(|begun| name == begun.as_str())) {
                // What can't be removed is in nobody's way.
                let _ = names.iter().try_for_each(|name| fs::remove_file(path.join(name)));
                let _ = fs::remove_dir(&path);
            }
        }
    }

    /// Returns every manifest, in the order of the entries' names.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.all().get_or_insert_default().values().cloned().collect()
    }

    /// Returns the manifest of an entry.
    pub fn manifest(&self, entry: &str) -> Option<Manifest> {
        self.all().get_or_insert_default().get(entry).cloned()
    }

    /// Reads the manifests, the first time.
    fn all(&self) -> MutexGuard<'_, Option<BTreeMap<String, Manifest>>> {
        let mut all = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_or_insert_with(|| read(&self.folder));
        all
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn read(folder: &Path) -> BTreeMap<String, Manifest> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::error!(path = %folder.display(), %error, "the trash can't be read");
            return BTreeMap::new();
        }
    };
    let mut found = BTreeMap::new();
    for entry in entries.flatten() {
        let path = entry.path().join(FILE_NAME);
        let manifest = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match manifest {
            Ok(manifest) => {
                let manifest: Manifest = manifest;
                found.insert(manifest.entry.clone(), manifest);
            }
            // An entry whose first manifest a crash cut off: nothing had been moved yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "an entry of the trash can't be read");
            }
        }
    }
    found
}

/// Paths as JSON: text where that is possible, their bytes where it is not.
mod lossless {
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt as _, OsStringExt as _},
        path::{Path, PathBuf},
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match path.to_str() {
            Some(text) => Form::Text(text.to_owned()),
            None => Form::Bytes(path.as_os_str().as_bytes().to_vec()),
        };
        form.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Form::deserialize(from)? {
            Form::Text(text) => text.into(),
            Form::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    use super::*;

    #[test]
    fn a_path_that_is_no_text_comes_back_as_it_was() {
        for bytes in [b"/a/plain one".as_slice(), b"/a/\xff\xfe\n", b""] {
            let path = PathBuf::from(OsStr::from_bytes(bytes));
            let mut folder = Folder {
                from: path.clone(),
                place: PathBuf::new(),
                to: PathBuf::new(),
                identity: (1, u64::MAX),
                mode: 0o755,
            };
            let json = serde_json::to_vec(&folder).unwrap();
            folder = serde_json::from_slice(&json).unwrap();
            assert_eq!(folder.from, path);
        }
    }

    #[test]
    fn an_entry_that_can_not_be_read_hides_no_other() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::new(data.path());
        for entry in ["cut", "empty", "odd"] {
            files::make_folder(&store.folder(entry)).unwrap();
        }
        fs::write(store.folder("cut").join(FILE_NAME), "{\"entry\":").unwrap();
        fs::write(store.path().join("a-file"), "").unwrap();
        let manifest = super::super::testing::manifest("wrk_1.1");
        store.write(&manifest).unwrap();
        fs::write(store.folder("odd").join(SESSION_FILE_NAME), "{").unwrap();
        store.sweep();
        assert!(!store.folder("odd").exists() && !store.folder("empty").exists());
        assert!(store.folder("cut").exists(), "nobody knows what it is");
        assert_eq!(Store::new(data.path()).manifests(), std::slice::from_ref(&manifest));
        store.remove("wrk_1.1").unwrap();
        store.remove("wrk_1.1").unwrap();
        assert_eq!(Store::new(data.path()).manifests(), []);
        assert!(!store.folder("wrk_1.1").exists());
    }
}

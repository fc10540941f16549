//! Owns what is kept of inputs on which automerge panicked, and how such a panic is told.
//!
//! Must not know why it panicked. Invariant: what a peer can make this node keep is bounded, in
//! files and in bytes, and is for its owner's eyes alone.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    panic,
    path::{Path, PathBuf},
    sync::{Mutex, Once, PoisonError},
};

use crate::replica::{
    effect::{Evidence, EvidenceKind},
    guard,
};

/// The folder, in the data folder.
pub const FOLDER: &str = "panics";
/// How many inputs are kept: the oldest make room, since a peer that sends one sends more like it.
pub const FILES_MAX: usize = 16;
/// How many bytes they have together; one that has more by itself is only told of.
pub const BYTES_MAX: u64 = 32 << 20;

/// Where such inputs are kept.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// One at a time: each makes room for itself.
    turn: Mutex<()>,
}

impl Folder {
    /// Names the folder; it is made once there is something to keep.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FOLDER), turn: Mutex::new(()) }
    }

    /// Keeps an input; returns in which file, `None` if it is too large to be kept.
    ///
    /// The names end as the hostile suite wants them, so that the folder can be given to it.
    ///
    /// # Errors
    ///
    /// The folder can't be written.
    pub fn keep(&self, wall_ms: i64, evidence: &Evidence) -> io::Result<Option<PathBuf>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = evidence.bytes.len() as u64;
        if bytes > BYTES_MAX {
            return Ok(None);
        }
        if !self.path.exists() {
            DirBuilder::new().mode(0o700).create(&self.path)?;
        }
        let mut kept = kept(&self.path)?;
        let mut all: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        while kept.len() >= FILES_MAX || all + bytes > BYTES_MAX {
            let (oldest, bytes) = kept.remove(0);
            fs::remove_file(oldest)?;
            all -= bytes;
        }
        let form = match evidence.kind {
            EvidenceKind::Document => "t0",
            EvidenceKind::Changes => "t1",
            EvidenceKind::Message => "t2",
        };
        let peer = evidence.peer.short();
        // Of several in one millisecond each has a name of its own; names sort by age.
        for turn in 0..=FILES_MAX {
            let path = self.path.join(format!("{wall_ms:014}-{turn:02}-{peer}-{form}.bin"));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    file.write_all(&evidence.bytes)?;
                    return Ok(Some(path));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Lists what is kept with its size, oldest first.
fn kept(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        kept.push((entry.path(), entry.metadata()?.len()));
    }
    kept.sort();
    Ok(kept)
}

/// Lists what is kept in a data folder, oldest first; nothing where there is no folder.
pub fn look(data_dir: &Path) -> Vec<PathBuf> {
    let kept = kept(&data_dir.join(FOLDER)).unwrap_or_default();
    kept.into_iter().map(|(path, _)| path).collect()
}

/// Has panics that are contained told in one line of the log, and all others as before.
///
/// What tells of a panic else goes through the debug information of the whole program when it is
/// asked for a backtrace, on the thread that panicked: the loop.
pub fn tell_in_short() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if guard::is_containing() {
                let at = panic.location().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(at, "contained a panic");
            } else {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::replica::ids::{DocumentId, FleetId, NodeId};

    fn evidence(bytes: usize) -> Evidence {
        Evidence {
            peer: NodeId([7; 32]),
            document: DocumentId::Fleet(FleetId([1; 16])),
            kind: EvidenceKind::Changes,
            bytes: vec![1; bytes],
            message: "an assertion".to_owned(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_the_newest_and_nobody_elses_to_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(look(dir.path()).is_empty());
        let folder = Folder::new(dir.path());
        let mut paths = Vec::new();
        for number in 0..FILES_MAX as i64 + 3 {
            // Two in each millisecond.
            paths.push(folder.keep(number / 2, &evidence(10)).unwrap().unwrap());
        }
        assert_eq!(look(dir.path()), paths[3..]);
        assert_eq!(mode(&paths[5]), 0o600);
        assert_eq!(mode(&dir.path().join(FOLDER)), 0o700);
        assert!(paths[3].to_str().unwrap().ends_with("-t1.bin"), "{:?}", paths[3]);
        assert_eq!(fs::read(&paths[5]).unwrap(), [1; 10]);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_too() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        let large = BYTES_MAX as usize / 2;
        for number in 0..3 {
            folder.keep(number, &evidence(large)).unwrap().unwrap();
        }
        assert_eq!(look(dir.path()).len(), 2);
        assert_eq!(folder.keep(3, &evidence(2 * large + 1)).unwrap(), None, "it is only told of");
        assert_eq!(look(dir.path()).len(), 2);
    }
}

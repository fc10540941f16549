//! Owns the files that only their owner may open, and the folder that they lie in.
//!
//! Must not know what a secret is for. Invariant: a secret file is complete or absent, whatever
//! moment the machine dies at, and a file or folder that others can open is refused, not mended:
//! what was readable may have been read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Longest secret file that is read, in bytes: an Ed25519 key in PKCS#8 has 83, a token 53.
const SECRET_BYTES_MAX: u64 = 4_096;
/// What the group and others must not have.
const FOREIGN_BITS: u32 = 0o077;

/// Explains why a secret file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Others on the machine can open a file or folder that is to be private.
    #[error(
        "{} has mode {mode:04o}, others on this machine can open it; run: chmod {wanted:o} {}",
        path.display(),
        path.display()
    )]
    TooOpen {
        /// Which file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they are to be.
        wanted: u32,
    },
    /// The operating system refused something.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not there, although what it belongs to is.
    #[error(
        "{} is missing, but the folder holds the state of the node whose key it was; put it back \
         from a backup, or move the folder away to begin as a new node",
        path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The file does not hold what its name promises.
    #[error("{} is not {what}; restore it from a backup, or remove it to have a new one made", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What it was to hold.
        what: &'static str,
    },
}

/// Makes sure that a folder exists and that nobody but its owner can open it.
pub fn private_dir(dir: &Path) -> Result<(), SecretError> {
    match fs::metadata(dir) {
        Ok(found) => refuse_open(dir, found.permissions().mode(), 0o700),
        Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io_error(dir, "create the folder")),
        Err(source) => Err(io_error(dir, "look at the folder")(source)),
    }
}

/// Returns what `name` in the folder holds, after `make` has filled it if it was not there.
///
/// If two processes create it at once, both get what the first has written.
pub(super) fn load_or_create(
    dir: &Path,
    name: &str,
    make: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, SecretError> {
    private_dir(dir)?;
    let path = dir.join(name);
    if let Some(bytes) = load(&path)? {
        return Ok(bytes);
    }
    create(dir, name, &make())?;
    load(&path)?.ok_or_else(|| io_error(&path, "read")(io::ErrorKind::NotFound.into()))
}

/// Reads a secret file; `None` if there is none.
fn load(path: &Path) -> Result<Option<Vec<u8>>, SecretError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, "open")(source)),
    };
    // The open file is judged, not the path: the path may lead elsewhere a moment later.
    let mode = file.metadata().map_err(io_error(path, "look at it"))?.permissions().mode();
    refuse_open(path, mode, 0o600)?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error(path, "read"))?;
    Ok(Some(bytes))
}

/// Writes a secret file whole, unless there is one already.
fn create(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), SecretError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        // A file left by a crash keeps the mode that it was made with.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // A link, unlike a rename, never replaces what another process has just put there.
        match fs::hard_link(&temporary, &path) {
            Ok(()) => fs::remove_file(&temporary)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
            }
            // Some filesystems have no links.
            Err(_) => fs::rename(&temporary, &path)?,
        }
        File::open(dir)?.sync_all()
    })();
    written.map_err(io_error(&path, "write"))
}

fn refuse_open(path: &Path, mode: u32, wanted: u32) -> Result<(), SecretError> {
    if mode & FOREIGN_BITS == 0 {
        return Ok(());
    }
    Err(SecretError::TooOpen { path: path.into(), mode: mode & 0o7777, wanted })
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SecretError {
    move |source| SecretError::Io { path: path.into(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a/data");
        (outer, dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_made_once_and_private() {
        let (_outer, dir) = data_dir();
        assert_eq!(load_or_create(&dir, "s", || b"first".to_vec()).unwrap(), b"first");
        assert_eq!(load_or_create(&dir, "s", || b"second".to_vec()).unwrap(), b"first");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("s")), 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_by_name_with_a_remedy() {
        let (_outer, dir) = data_dir();
        load_or_create(&dir, "s", || b"x".to_vec()).unwrap();
        let path = dir.join("s");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&dir, "s", Vec::new).unwrap_err();
        assert!(matches!(&error, SecretError::TooOpen { mode: 0o640, .. }));
        let text = error.to_string();
        assert!(text.contains("mode 0640"), "{text}");
        assert!(text.ends_with(&format!("chmod 600 {}", path.display())), "{text}");
    }

    #[test]
    fn a_folder_that_others_can_open_is_refused() {
        let (_outer, dir) = data_dir();
        private_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let text = load_or_create(&dir, "s", Vec::new).unwrap_err().to_string();
        assert!(text.contains("mode 0755") && text.contains("chmod 700"), "{text}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing was written");
    }

    #[test]
    fn what_another_process_has_put_there_meanwhile_is_kept() {
        let (_outer, dir) = data_dir();
        private_dir(&dir).unwrap();
        create(&dir, "s", b"theirs").unwrap();
        create(&dir, "s", b"ours").unwrap();
        assert_eq!(load(&dir.join("s")).unwrap().unwrap(), b"theirs");
    }

    #[test]
    fn a_temporary_file_left_by_a_crash_is_in_nobodys_way() {
        let (_outer, dir) = data_dir();
        private_dir(&dir).unwrap();
        let left = dir.join(format!(".s.{}.new", std::process::id()));
        fs::write(&left, b"half of something longer").unwrap();
        assert_eq!(load_or_create(&dir, "s", || b"whole".to_vec()).unwrap(), b"whole");
        assert!(!left.exists());
    }
}

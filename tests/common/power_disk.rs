//! A filesystem whose power can be cut.
//!
//! It is ext4 on a loop device, and the cut is ext4's own shutdown call without a flush of its
//! journal: what was not synced is gone, as after a real cut, but for the order in which a drive may
//! write. That takes root and loop devices; where they are missing there is no such filesystem,
//! unless `SESSIONMESH_REQUIRE_POWER_CUTS=1` demands it.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::ioctl::{self, Setter, opcode};

/// How long a filesystem may be busy before a test gives up: far longer than it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// A filesystem that can lose its power, mounted on a folder of its own.
pub struct Disk {
    outer: tempfile::TempDir,
}

impl Disk {
    /// Makes one; `None`, and a line that says why, where this machine can't.
    #[expect(clippy::print_stdout, reason = "what was not tested belongs to the result")]
    pub fn new(bytes: u64) -> Option<Self> {
        let outer = tempfile::tempdir().expect("a folder");
        let disk = Self { outer };
        let image = File::create(disk.image()).expect("a file");
        image.set_len(bytes).expect("a sparse file");
        fs::create_dir(disk.dir()).expect("a folder");
        let made = run("mkfs.ext4", &["-q", "-F"], &disk.image(), None).and_then(|()| disk.mount());
        if let Err(why) = made {
            let required = std::env::var_os("SESSIONMESH_REQUIRE_POWER_CUTS").is_some();
            assert!(!required, "no power can be cut here: {why}");
            println!("skipped: no power can be cut here: {why}");
            return None;
        }
        fs::remove_dir(disk.dir().join("lost+found")).expect("it is empty");
        fs::set_permissions(disk.dir(), Permissions::from_mode(0o700)).expect("it is ours");
        // Or the first cut would undo this, too.
        File::open(disk.dir()).and_then(|dir| dir.sync_all()).expect("it can be synced");
        Some(disk)
    }

    fn image(&self) -> PathBuf {
        self.outer.path().join("image")
    }

    /// Returns the folder that is all of the filesystem.
    pub fn dir(&self) -> PathBuf {
        self.outer.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop"], &self.image(), Some(&self.dir()))
    }

    /// Cuts the power: from here on nothing reaches the disk, and what was not synced never does.
    #[expect(unsafe_code, reason = "the call has no safe form")]
    pub fn cut(&self) {
        /// `EXT4_IOC_SHUTDOWN`.
        const SHUTDOWN: ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        /// `EXT4_GOING_FLAGS_NOLOGFLUSH`.
        const NO_LOG_FLUSH: u32 = 2;
        let folder = File::open(self.dir()).expect("it is mounted");
        // SAFETY: the call reads one u32, and gets one.
        unsafe { ioctl::ioctl(&folder, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
            .expect("ext4 can be shut down");
    }

    /// Gives the power back; no process may have a file on the disk open.
    pub fn power_on(&self) {
        // A process that another test is just starting holds all files of this one for a moment.
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = run("umount", &[], &self.dir(), None) {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mount().expect("the journal can be replayed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Where the test has failed half way, or could never mount it.
        let _ = run("umount", &["-q", "-l"], &self.dir(), None);
    }
}

fn run(program: &str, flags: &[&str], on: &Path, at: Option<&Path>) -> Result<(), String> {
    let out = Command::new(program).args(flags).arg(on).args(at).stdin(Stdio::null()).output();
    let out = out.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(()) } else { Err(format!("{program}: {}", said.trim())) }
}

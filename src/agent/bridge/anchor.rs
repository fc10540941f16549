//! Owns telling whether a server still stands on the database that it stood on before.
//!
//! Must not know sessions. A server is reached by its address alone, and another one that listens
//! there knows none of the sessions: each would look deleted, and each delete carried out. opencode
//! keeps with each project when its database first saw it, and no two databases agree on that.
//! Invariant: what is remembered of a server's database goes only with the file.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The file in the data folder.
pub const FILE_NAME: &str = "agents.json";
/// Most projects that are remembered of a server: one that is still there is enough.
const PROJECTS_MAX: usize = 256;

/// When a database first saw each project, milliseconds since the epoch.
pub type FirstSeen = BTreeMap<String, i64>;

/// What is remembered of the databases of all servers.
#[derive(Debug)]
pub struct Anchors {
    path: PathBuf,
    turn: Mutex<()>,
}

impl Anchors {
    /// Names the file in a data folder; it is made when there is something to remember.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE_NAME), turn: Mutex::default() }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether a server that lists these projects is the one that is remembered, and
    /// remembers what is new; a server of which nothing is remembered is.
    ///
    /// # Errors
    ///
    /// The file can't be read or written: then nothing is known.
    pub fn holds(&self, server: &str, projects: usize, listed: &FirstSeen) -> io::Result<bool> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.read()?;
        let known = all.entry(server.to_owned()).or_default();
        if !is_same(known, projects, listed) {
            return Ok(false);
        }
        let before = known.clone();
        known.extend(listed.iter().map(|(project, at)| (project.clone(), *at)));
        while known.len() > PROJECTS_MAX {
            known.pop_first();
        }
        if *known != before {
            self.write(&all)?;
        }
        Ok(true)
    }

    fn read(&self) -> io::Result<BTreeMap<String, FirstSeen>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, all: &BTreeMap<String, FirstSeen>) -> io::Result<()> {
        let beside = self.path.with_extension("json.new");
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(all)?)?;
        file.sync_data()?;
        fs::rename(&beside, &self.path)
    }
}

/// Compares what is remembered of a server with the projects that it lists, of some of which it may
/// not say when they were first seen.
fn is_same(known: &FirstSeen, projects: usize, listed: &FirstSeen) -> bool {
    let tells_nothing = projects > 0 && listed.is_empty();
    let agrees = |(project, at): (&String, &i64)| known.get(project) == Some(at);
    known.is_empty() || tells_nothing || listed.iter().any(agrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "http://localhost:4096/";

    fn seen(projects: &[(&str, i64)]) -> FirstSeen {
        projects.iter().map(|(project, at)| ((*project).to_owned(), *at)).collect()
    }

    #[test]
    fn a_server_is_known_again_by_one_project_that_it_first_saw_when_it_did() {
        let folder = tempfile::tempdir().unwrap();
        let holds = |projects: &[(&str, i64)]| {
            // Each with what is on the disk, as after a restart.
            let anchors = Anchors::new(folder.path());
            anchors.holds(SERVER, projects.len(), &seen(projects)).unwrap()
        };
        assert!(holds(&[("a", 1)]), "the first time, any is");
        assert!(holds(&[("a", 1), ("b", 2)]));
        assert!(holds(&[("b", 2), ("c", 3)]), "one that was added later is enough");
        assert!(!holds(&[("a", 9), ("c", 9)]), "the same projects in another database");
        assert!(!holds(&[("z", 1)]));
        assert!(!holds(&[]), "a database without any");
        assert!(holds(&[("c", 3)]), "what was turned down is not remembered");
        let anchors = Anchors::new(folder.path());
        assert!(anchors.holds(SERVER, 2, &FirstSeen::new()).unwrap(), "it does not say");
        assert!(anchors.holds("http://localhost:5000/", 1, &seen(&[("a", 9)])).unwrap());
    }

    #[test]
    fn a_file_that_can_not_be_read_is_no_reason_to_believe() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::new(folder.path());
        fs::write(anchors.path(), "{").unwrap();
        assert!(anchors.holds(SERVER, 1, &seen(&[("a", 1)])).is_err());
    }
}

//! Owns telling databases apart: whether a server stands on the one that it stood on before, and
//! which servers stand on the same.
//!
//! Must not know sessions. A server is reached by its address alone, and another one that listens
//! there knows none of the sessions: each would look deleted, and each delete carried out. opencode
//! keeps with each project when its database first saw it, and no two databases agree on that.
//! Invariants: what is remembered of a server's database goes only with the file; who tells nothing
//! is nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::files;

/// The file in the data folder.
pub const FILE_NAME: &str = "agents.json";
/// Most projects that are remembered of a server: one that is still there is enough.
const PROJECTS_MAX: usize = 256;

/// When a database first saw each project, milliseconds since the epoch.
pub type FirstSeen = BTreeMap<String, i64>;

/// What a server is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// It stands on the database on which it stood before, or is met for the first time.
    Same,
    /// It stands on another one.
    Another,
    /// It does not say enough to tell.
    Untold,
}

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
    /// remembers what is new. Blocks.
    ///
    /// # Errors
    ///
    /// The file can't be read or written: then nothing is known.
    pub fn recognise(
        &self,
        server: &str,
        projects: usize,
        listed: &FirstSeen,
    ) -> io::Result<Identity> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.read()?;
        let known = all.entry(server.to_owned()).or_default();
        let identity = identify(known, projects, listed);
        if identity != Identity::Same {
            return Ok(identity);
        }
        let before = known.clone();
        known.extend(listed.iter().map(|(project, at)| (project.clone(), *at)));
        while known.len() > PROJECTS_MAX {
            known.pop_first();
        }
        if *known != before {
            files::replace(&self.path, &serde_json::to_vec(&all)?)?;
        }
        Ok(identity)
    }

    /// Returns the servers that are remembered, and whether each stands on the database of this one,
    /// as it does itself. Blocks.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn relatives(&self, server: &str) -> io::Result<BTreeMap<String, bool>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.read()?;
        let nothing = FirstSeen::new();
        let own = all.get(server).unwrap_or(&nothing);
        let of = |(other, known): (&String, &FirstSeen)| {
            (other.clone(), other == server || agree(own, known))
        };
        Ok(all.iter().filter(|(_, known)| !known.is_empty()).map(of).collect())
    }

    fn read(&self) -> io::Result<BTreeMap<String, FirstSeen>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }
}

/// Compares what is remembered of a server with the projects that it lists, of some of which it may
/// not say when they were first seen.
fn identify(known: &FirstSeen, projects: usize, listed: &FirstSeen) -> Identity {
    let tells_nothing = projects > 0 && listed.is_empty();
    match () {
        () if tells_nothing => Identity::Untold,
        () if known.is_empty() || agree(known, listed) => Identity::Same,
        () => Identity::Another,
    }
}

/// Tells whether both first saw one of their projects at the same moment.
fn agree(one: &FirstSeen, other: &FirstSeen) -> bool {
    other.iter().any(|(project, at)| one.get(project) == Some(at))
}

/// Returns the servers whose sessions one may speak for: itself, and those on the same database.
pub fn spoken_for(server: &str, relatives: &BTreeMap<String, bool>) -> BTreeSet<String> {
    let same = relatives.iter().filter(|(_, is_same)| **is_same);
    same.map(|(other, _)| other.clone()).chain([server.to_owned()]).collect()
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
        let found = |projects: &[(&str, i64)]| {
            // Each with what is on the disk, as after a restart.
            let anchors = Anchors::new(folder.path());
            anchors.recognise(SERVER, projects.len(), &seen(projects)).unwrap()
        };
        assert_eq!(found(&[("a", 1)]), Identity::Same, "the first time, any is");
        assert_eq!(found(&[("a", 1), ("b", 2)]), Identity::Same);
        assert_eq!(
            found(&[("b", 2), ("c", 3)]),
            Identity::Same,
            "one that was added later will do"
        );
        assert_eq!(found(&[("a", 9), ("c", 9)]), Identity::Another, "the same in another database");
        assert_eq!(found(&[("z", 1)]), Identity::Another);
        assert_eq!(found(&[]), Identity::Another, "a database without any");
        assert_eq!(found(&[("c", 3)]), Identity::Same, "what was turned down is not remembered");
    }

    #[test]
    fn who_does_not_say_when_it_saw_its_projects_is_nobody_known_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::new(folder.path());
        let untold = || anchors.recognise(SERVER, 2, &FirstSeen::new()).unwrap();
        assert_eq!(untold(), Identity::Untold);
        anchors.recognise(SERVER, 1, &seen(&[("a", 1)])).unwrap();
        assert_eq!(untold(), Identity::Untold);
    }

    #[test]
    fn servers_on_one_database_are_known_as_such_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::new(folder.path());
        for (server, projects) in [
            (SERVER, [("a", 1), ("b", 2)]),
            ("same", [("b", 2), ("c", 3)]),
            ("other", [("a", 9), ("z", 9)]),
        ] {
            anchors.recognise(server, 2, &seen(&projects)).unwrap();
        }
        anchors.recognise("empty", 0, &FirstSeen::new()).unwrap();
        let relatives = anchors.relatives(SERVER).unwrap();
        let all = [("other", false), ("same", true), (SERVER, true)];
        assert_eq!(relatives, all.map(|(name, is_same)| (name.to_owned(), is_same)).into());
        let all = [SERVER, "same"].map(str::to_owned);
        assert_eq!(spoken_for(SERVER, &relatives), all.into());
    }

    #[test]
    fn a_file_that_can_not_be_read_is_no_reason_to_believe() {
        let folder = tempfile::tempdir().unwrap();
        let anchors = Anchors::new(folder.path());
        fs::write(anchors.path(), "{").unwrap();
        assert!(anchors.recognise(SERVER, 1, &seen(&[("a", 1)])).is_err());
    }
}

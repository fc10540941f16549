//! Owns what the tests of the trash share.
//!
//! Must not know what is tested. Invariant: nothing outside a temporary folder is touched.

use std::path::Path;

use super::manifest::{Folder, Manifest, Stage};
use crate::{
    replica::trash::TrashKind,
    teardown::{
        Config,
        testing::{Repository, config},
    },
};

/// Makes the configuration of a repository's host whose data folder lies elsewhere.
pub fn config_in(repository: &Repository, data_dir: &Path) -> Config {
    let mut config = config(data_dir.to_owned());
    config.home = Some(repository.path("home"));
    config
}

/// Makes a manifest of a workspace without a folder.
pub fn manifest(entry: &str) -> Manifest {
    Manifest {
        entry: entry.to_owned(),
        id: entry.split('.').next().unwrap().to_owned(),
        kind: TrashKind::Workspace,
        incarnation: 1,
        name: "w".to_owned(),
        directory: Some("/w".to_owned()),
        reason: None,
        stage: Stage::Kept,
        forgotten: true,
        ended_at: 1,
        kept_until: 2,
        added_ms: 0,
        gap_began: None,
        bytes: 0,
        held: None,
        problem: None,
        unpinned: Vec::new(),
        restored_as: None,
        folder: None,
        registrations: Vec::new(),
        session: None,
    }
}

/// Makes a folder that lies at a place.
pub fn folder(place: &Path) -> Folder {
    let from = Path::new("/w").to_owned();
    Folder { to: from.clone(), from, place: place.to_owned(), identity: (1, 1), mode: 0o755 }
}

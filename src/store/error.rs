//! Owns why the store can't be opened, written or compacted.
//!
//! Must not know who shows it. Invariant: each message is one line that names the file and what a
//! person can do about it.

use std::{io, path::PathBuf};

use crate::replica::ids::DocumentId;

/// What is wrong with a damaged store.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// redb found it.
    #[error(transparent)]
    Database(#[from] Box<redb::Error>),
    /// It has lost everything; a new store is never published empty.
    #[error("it is empty")]
    Empty,
    /// redb panicked at it.
    #[error("reading it fails")]
    Panicked,
    /// An entry is sound to redb, yet nothing that this program writes.
    #[error("table `{0}` holds an entry that can't be read")]
    Table(&'static str),
}

/// Why a store can't be opened; nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it open.
    #[error(
        "{path} is in use by another sessionmesh: stop that one, or choose another data folder"
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// A newer version has written it.
    #[error(
        "{path} was written by a newer sessionmesh (schema {found}, this one knows {known}): \
         start the newer one, or choose another data folder"
    )]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The schema in the file.
        found: u32,
        /// The newest schema that this version reads.
        known: u32,
    },
    /// It holds something else than was written.
    #[error(
        "{path} is damaged ({source}): run `sessionmesh repair`, which keeps what can be read and \
         has the rest back from peers, or put a copy in its place"
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What is wrong.
        source: Damage,
    },
    /// It, or its folder, can't be created or opened for writing.
    #[error("{path} can't be written ({source}): make it writable, or choose another data folder")]
    NotWritable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others on this machine may read or write it.
    #[error("{path} has mode {mode:04o}, which lets others at it: run `chmod {remedy:o} '{path}'`")]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The bits that it is to have.
        remedy: u32,
    },
    /// The disk failed while it was read or set up.
    #[error("{path} can't be opened ({source}): make room, or check the disk")]
    Io {
        /// The store's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why something could not be read from, or written to, an open store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed; whether the write took place shows at the next start.
    #[error(
        "{path} can't be written or read ({source}): make room or check the disk, then restart"
    )]
    Io {
        /// The store's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write has failed before; memory is ahead of the disk, so nothing more is accepted.
    #[error(
        "{path} takes no more writes since one failed: make room or check the disk, then restart"
    )]
    Stopped {
        /// The store's file.
        path: PathBuf,
    },
    /// It holds something else than was written.
    #[error(
        "{path} is damaged ({source}): run `sessionmesh repair`, which keeps what can be read and \
         has the rest back from peers, or put a copy in its place"
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What is wrong.
        source: Damage,
    },
    /// A document that the node can't do without can't be rebuilt from what is stored of it.
    #[error(
        "{path} is damaged ({reason}): run `sessionmesh repair`, which keeps what can be read and \
         has the rest back from peers"
    )]
    Document {
        /// The store's file.
        path: PathBuf,
        /// What is wrong, and with which document.
        reason: String,
    },
    /// redb refused for a reason that is neither the disk nor damage.
    #[error("{path} refused a request ({source}): restart")]
    Database {
        /// The store's file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// A document was replaced, compacted or forgotten since its compaction was planned.
    #[error("{document} has changed hands since its compaction was planned: plan it again")]
    Superseded {
        /// Which.
        document: DocumentId,
    },
    /// A snapshot can't be loaded, so it must not replace the changes that it was made of.
    #[error("a snapshot of {document} can't be loaded ({source}): its changes are kept")]
    Unreadable {
        /// Of what.
        document: DocumentId,
        /// What automerge said.
        source: Box<automerge::AutomergeError>,
    },
    /// What is stored of a document can't be read back, to be saved as a snapshot.
    #[error(
        "what is stored of {document} can't be read back: {reason}; stop the daemon and run \
         `sessionmesh repair`"
    )]
    NotRead {
        /// Of which document.
        document: DocumentId,
        /// Why.
        reason: String,
    },
    /// automerge panicked at a snapshot.
    #[error("a snapshot of {document} can't be loaded (automerge panicked): its changes are kept")]
    Panicked {
        /// Of what.
        document: DocumentId,
    },
    /// A snapshot loads, but as another document than it was made of.
    #[error("a snapshot of {document} has other heads than the document: its changes are kept")]
    Differs {
        /// Of what.
        document: DocumentId,
    },
}

/// What goes wrong below the border, before the file is named.
#[derive(Debug)]
pub(super) enum Fault {
    /// redb said so.
    Redb(redb::Error),
    /// An entry of this table can't be read.
    Table(&'static str),
    /// The schema is newer than the known one.
    Newer(u32),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl Fault {
    /// Names the file, for whoever opens it.
    pub(super) fn on_open(self, path: PathBuf) -> OpenError {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        match self {
            Self::Newer(found) => OpenError::Newer { path, found, known: super::tables::SCHEMA },
            Self::Table(table) => OpenError::Damaged { path, source: Damage::Table(table) },
            Self::Redb(redb::Error::DatabaseAlreadyOpen) => OpenError::InUse { path },
            // A file that is no database, and one that ends too early, come as I/O errors.
            Self::Redb(redb::Error::Io(source))
                if !matches!(source.kind(), InvalidData | UnexpectedEof) =>
            {
                OpenError::Io { path, source }
            }
            Self::Redb(error) => OpenError::Damaged { path, source: Box::new(error).into() },
        }
    }

    /// Names the file, for whoever uses it.
    pub(super) fn in_use(self, path: PathBuf) -> Error {
        use redb::Error as E;
        match self {
            Self::Table(table) => Error::Damaged { path, source: Damage::Table(table) },
            Self::Newer(_) => Error::Damaged { path, source: Damage::Table("settings") },
            Self::Redb(E::Io(source)) => Error::Io { path, source },
            Self::Redb(E::PreviousIo) => Error::Stopped { path },
            Self::Redb(
                error @ (E::Corrupted(_)
                | E::TableDoesNotExist(_)
                | E::TableTypeMismatch { .. }
                | E::TypeDefinitionChanged { .. }
                | E::TableIsMultimap(_)),
            ) => Error::Damaged { path, source: Box::new(error).into() },
            Self::Redb(error) => Error::Database { path, source: Box::new(error) },
        }
    }
}

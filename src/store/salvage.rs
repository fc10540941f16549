//! Owns reading what is left of a damaged store, and putting a sound one in its place.
//!
//! Must not know what is in a document. Invariants: the damaged file is only read, and kept under
//! another name; at every moment there is one store under the store's name, the old or the new.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, StorageBackend as _, TableDefinition, Value,
    backends::InMemoryBackend,
};

use super::{
    Store,
    error::{Damage, Error, OpenError},
    folder::Folder,
    tables::{
        self, APPLIED, ARCHIVED, CHANGES, CONTACTS, HIDDEN, INVITES, PAUSED, RECEIPTS, SCHEMA,
        SETTING_FLEET, SETTING_RECOVERING, SETTING_SCHEMA, SETTINGS, SNAPSHOTS, STATEMENTS,
        VOUCHERS,
    },
};
use crate::replica::{
    effect::{Stored, StoredDocument, Write},
    ids::{ACTOR_BYTES, DocumentId, FleetId, NodeId},
};

/// How much is read at once, in bytes: where a disk can't read, so much is taken for zeroes.
const BLOCK_BYTES: usize = 4_096;

/// What could be read of a store.
#[derive(Debug, Default)]
pub struct Left {
    /// As far as it could be read; without the journal.
    pub stored: Stored,
    /// Which of the documents are not loaded at a start.
    pub archived: BTreeSet<DocumentId>,
    /// What could not be read, a line each.
    pub problems: Vec<String>,
}

/// Explains why nothing could be looked at, or put in place.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The folder, or a file in it, can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new store can't be written.
    #[error(transparent)]
    Write(#[from] Error),
}

/// A store that no daemon has open, and that none can open as long as this is there.
#[derive(Debug)]
pub struct Suspect {
    folder: Folder,
    path: PathBuf,
    /// `None` if there is none.
    file: Option<File>,
}

impl Suspect {
    /// Takes the store of a data folder, damaged or not, or missing.
    ///
    /// # Errors
    ///
    /// A daemon has it open, or folder and file are open to others.
    pub fn take(data_dir: &Path) -> Result<Self, OpenError> {
        let folder = Folder::existing(data_dir)?;
        let path = folder.file_path();
        let file = folder.open_file()?;
        if let Some(file) = &file {
            folder.lock(file, &path)?;
        }
        Ok(Self { folder, path, file })
    }

    /// Reads all that can be read, from a copy in memory.
    ///
    /// # Errors
    ///
    /// A newer version has written it.
    pub fn look(&self) -> Result<Left, OpenError> {
        let mut left = Left::default();
        let Some(file) = &self.file else {
            left.problems.push("the store is missing".to_owned());
            return Ok(left);
        };
        let io = |source| OpenError::Io { path: self.path.clone(), source };
        let bytes = copy(file, &mut left.problems).map_err(io)?;
        let database = match open(&bytes, true) {
            Ok(database) => Some(database),
            Err(why) => {
                left.problems.push(why);
                open(&bytes, false).ok()
            }
        };
        // To be kept as long as anything is read from it.
        let transaction = database.as_ref().and_then(|database| {
            catch_unwind(AssertUnwindSafe(|| database.begin_read().ok())).ok().flatten()
        });
        if let Some(transaction) = transaction {
            self.read(&transaction, &mut left)?;
        } else {
            left.problems.push("nothing in it can be read".to_owned());
        }
        Ok(left)
    }

    fn read(&self, transaction: &ReadTransaction, left: &mut Left) -> Result<(), OpenError> {
        let Left { stored, archived, problems } = left;
        let settings = rows(transaction, SETTINGS, problems, |name: &str, value: &[u8]| {
            Some((name.to_owned(), value.to_vec()))
        });
        let settings: BTreeMap<_, _> = settings.into_iter().collect();
        if let Some(Ok(found)) = settings.get(SETTING_SCHEMA).map(|v| v.as_slice().try_into()) {
            let found = u32::from_be_bytes(found);
            if found > SCHEMA {
                return Err(OpenError::Newer { path: self.path.clone(), found, known: SCHEMA });
            }
        }
        let fleet = settings.get(SETTING_FLEET).and_then(|value| value.as_slice().try_into().ok());
        stored.fleet = fleet.map(FleetId);
        stored.recovering = settings.contains_key(SETTING_RECOVERING);
        let mut documents = BTreeMap::new();
        for (id, snapshot) in rows(transaction, SNAPSHOTS, problems, |key: &[u8], value: &[u8]| {
            Some((tables::document(key, "snapshots").ok()?, value.to_vec()))
        }) {
            documents.entry(id).or_insert_with(|| StoredDocument::nothing(id)).snapshot =
                Some(snapshot);
        }
        for (id, change) in
            rows(transaction, CHANGES, problems, |(key, _): (&[u8], u64), value: &[u8]| {
                Some((tables::document(key, "changes").ok()?, value.to_vec()))
            })
        {
            documents.entry(id).or_insert_with(|| StoredDocument::nothing(id)).changes.push(change);
        }
        type Vouching<'a> = (&'a [u8], &'a [u8; ACTOR_BYTES]);
        let vouchers =
            rows(transaction, VOUCHERS, problems, |(key, actor): Vouching<'_>, value: &[u8]| {
                let document = tables::document(key, "vouchers").ok()?;
                Some((document, tables::voucher(*actor, value).ok()?))
            });
        for (id, voucher) in vouchers {
            documents
                .entry(id)
                .or_insert_with(|| StoredDocument::nothing(id))
                .vouchers
                .push(voucher);
        }
        stored.documents = documents.into_values().collect();
        *archived = rows(transaction, ARCHIVED, problems, |key: &[u8], ()| {
            tables::document(key, "archived").ok()
        })
        .into_iter()
        .collect();
        stored.paused =
            rows(transaction, PAUSED, problems, |node: &[u8; 32], ()| Some(NodeId(*node)))
                .into_iter()
                .collect();
        stored.statements =
            rows(transaction, STATEMENTS, problems, |_: u64, bytes: &[u8]| Some(bytes.to_vec()));
        stored.contacts = rows(transaction, CONTACTS, problems, |node: &[u8; 32], value: &[u8]| {
            Some((NodeId(*node), serde_json::from_slice(value).ok()?))
        })
        .into_iter()
        .collect();
        stored.hidden = rows(transaction, HIDDEN, problems, |host: &[u8; 32], since: &[u8; 8]| {
            Some((NodeId(*host), i64::from_be_bytes(*since)))
        })
        .into_iter()
        .collect();
        stored.invites = rows(transaction, INVITES, problems, |hash: &[u8; 32], value: &[u8]| {
            Some((*hash, serde_json::from_slice(value).ok()?))
        });
        stored.receipts = rows(transaction, RECEIPTS, problems, |_: &str, value: &[u8]| {
            serde_json::from_slice(value).ok()
        });
        stored.receipts.sort_by(|a, b| a.id.cmp(&b.id));
        type Key<'a> = (&'a str, &'a [u8; 32]);
        let applied = rows(transaction, APPLIED, problems, |(receipt, member): Key<'_>, ()| {
            Some((receipt.to_owned(), NodeId(*member)))
        });
        applied.iter().for_each(|(receipt, member)| stored.applied(receipt, *member));
        Ok(())
    }

    /// Puts a store that holds all of `writes` in the place of this one; returns under which name
    /// the old one is kept, if there is one.
    ///
    /// # Errors
    ///
    /// The new store can't be written; the old one is still there.
    pub fn replace(self, writes: &[Write]) -> Result<Option<PathBuf>, SalvageError> {
        let file = self.folder.replacement_file()?;
        let store = Store::start_file(file, self.path.clone())?;
        store.commit(writes)?;
        drop(store);
        Ok(self.folder.replace_file(self.file.is_some())?)
    }
}

/// Reads a file block by block, so that what a disk can't read costs no more than that.
fn copy(file: &File, problems: &mut Vec<String>) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    let mut unread = 0;
    for (number, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        let offset = (number * BLOCK_BYTES) as u64;
        if file.read_exact_at(block, offset).is_err() {
            block.fill(0);
            unread += 1;
        }
    }
    if unread > 0 {
        problems.push(format!("the disk can't read {unread} blocks of {BLOCK_BYTES} bytes"));
    }
    Ok(bytes)
}

/// Opens a copy, with or without a look at every page.
fn open(bytes: &[u8], check: bool) -> Result<Database, String> {
    if bytes.is_empty() {
        return Err(Damage::Empty.to_string());
    }
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let backend = InMemoryBackend::new();
        backend.set_len(bytes.len() as u64)?;
        backend.write(0, bytes)?;
        Database::builder()
            .set_check_integrity_on_open(check)
            .create_with_backend(backend)
            .map_err(redb::Error::from)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(Damage::Panicked.to_string()),
    }
}

/// Reads a table from its beginning, and from its end where it breaks off.
fn rows<K: Key + 'static, V: Value + 'static, T>(
    transaction: &ReadTransaction,
    definition: TableDefinition<'_, K, V>,
    problems: &mut Vec<String>,
    read: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> Option<T>,
) -> Vec<T> {
    let name = redb::TableHandle::name(&definition).to_owned();
    let (mut first, mut last, mut unread, mut broken) = (Vec::new(), Vec::new(), 0, false);
    let mut there = None;
    // redb asserts what a damaged page may violate.
    let done = catch_unwind(AssertUnwindSafe(|| {
        let table = transaction.open_table(definition).map_err(redb::Error::from)?;
        there = table.len().ok();
        for entry in table.iter()? {
            let Ok((key, value)) = entry else {
                broken = true;
                break;
            };
            match read(key.value(), value.value()) {
                Some(row) => first.push(row),
                None => unread += 1,
            }
        }
        if broken {
            for entry in table.iter()?.rev() {
                let Ok((key, value)) = entry else { break };
                last.extend(read(key.value(), value.value()));
            }
        }
        Ok::<_, redb::Error>(())
    }));
    last.reverse();
    first.append(&mut last);
    if broken || unread > 0 || !matches!(done, Ok(Ok(()))) {
        let of = there.map_or(String::new(), |there| format!(" of {there}"));
        problems.push(format!("table `{name}`: only {}{of} entries can be read", first.len()));
    }
    first
}

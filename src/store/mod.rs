//! Owns a node's durable state: `state.redb` in the data folder.
//!
//! Must not know what is in a document, nor the other shells. Invariant: what a commit has
//! acknowledged is there at every later start, and once a write has failed none is acknowledged.

pub mod compact;
mod error;
mod folder;
mod journal;
mod ledger;
pub mod salvage;
mod tables;
#[cfg(test)]
pub mod testing;

use std::{
    collections::BTreeSet,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableHandle as _,
    WriteTransaction, backends::FileBackend,
};

use self::{
    compact::{Plan, Verified},
    error::Fault,
    folder::Folder,
    ledger::Ledger,
    tables::{
        APPLIED, ARCHIVED, CHANGES, CONTACTS, HIDDEN, INVITES, JOURNAL, PAUSED, RECEIPTS, SCHEMA,
        SETTING_FLEET, SETTING_RECOVERING, SETTING_SCHEMA, SETTINGS, SNAPSHOTS, STATEMENTS,
        VOUCHERS,
    },
};
pub use self::{
    error::{Damage, Error, OpenError},
    journal::{JOURNAL_BYTES_MAX, JOURNAL_ENTRIES_MAX, JournalEntry},
    ledger::Backlog,
};
use crate::replica::{
    effect::{Stored, StoredDocument, Write},
    ids::{ACTOR_BYTES, DocumentId, FleetId, NodeId},
};
pub use folder::{ASIDE, FILE_NAME, is_open};
pub use redb::{StorageBackend, backends::InMemoryBackend};

/// How much of the file redb may keep in memory: it is read once, at the start, and then written.
const CACHE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A node's durable state.
///
/// Every method blocks on the disk. One writes at a time; others wait for it.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
    /// The file, unless the store is kept elsewhere.
    file: Option<File>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// A write has failed, or is under way.
    stopped: bool,
}

/// What a commit has left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// How much is stored of the documents that were written to, in their order.
    pub backlogs: Vec<Backlog>,
}

impl Store {
    /// Opens the store in a data folder; makes both where there is none.
    ///
    /// Every page is verified, so that damage shows here and not later. What a crash has left is
    /// recovered.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let folder = Folder::prepare(data_dir)?;
        let path = folder.file_path();
        loop {
            if let Some(file) = folder.open_file()? {
                // redb would take it for a new one, and all that was in it for never written.
                if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                    return Err(OpenError::Damaged { path, source: Damage::Empty });
                }
                return Self::start_file(file, path);
            }
            // `None`: another daemon was faster.
            if let Some(file) = folder.claim_new_file()? {
                let store = Self::start_file(file, path)?;
                folder.publish_new_file()?;
                return Ok(store);
            }
        }
    }

    /// Opens a store that is kept elsewhere than in a file, for simulations and injected faults.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, OpenError> {
        Self::start(Ok::<_, redb::DatabaseError>(backend), PathBuf::from("simulated state.redb"))
    }

    fn start_file(file: File, path: PathBuf) -> Result<Self, OpenError> {
        let same = file.try_clone();
        let same = same.map_err(|source| OpenError::Io { path: path.clone(), source })?;
        let mut store = Self::start(FileBackend::new(file), path)?;
        store.file = Some(same);
        Ok(store)
    }

    fn start(
        backend: Result<impl StorageBackend, redb::DatabaseError>,
        path: PathBuf,
    ) -> Result<Self, OpenError> {
        let shown = path.display().to_string();
        // redb asserts what no file of its own violates; a damaged one may.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES_MAX)
                .set_check_integrity_on_open(true)
                .set_repair_callback(move |session| {
                    // redb reports every check; only past this point it gives a commit up.
                    if session.progress() == ROLLED_BACK_PROGRESS {
                        tracing::warn!(
                            path = shown,
                            "a commit was cut off before it was acknowledged; it is dropped"
                        );
                    }
                })
                .create_with_backend(backend?)?;
            set_up(&database)?;
            let ledger = Ledger::read(&database.begin_read()?)?;
            Ok::<_, Fault>((database, ledger))
        }));
        match opened {
            Ok(Ok((database, ledger))) => {
                let state = Mutex::new(State { ledger, stopped: false });
                Ok(Self { database, path, file: None, state })
            }
            Ok(Err(fault)) => Err(fault.on_open(path)),
            Err(_) => Err(OpenError::Damaged { path, source: Damage::Panicked }),
        }
    }

    /// Reads all that a replica starts from.
    pub fn load(&self) -> Result<Stored, Error> {
        self.read(|transaction| {
            let archived = archived(transaction)?;
            let documents =
                documents(transaction, |id| id.host().is_some() && !archived.contains(id))?;
            let mut stored = Stored { documents, ..Stored::default() };
            stored.fleet = fleet(transaction)?;
            for entry in transaction.open_table(STATEMENTS)?.iter()? {
                stored.statements.push(entry?.1.value().to_vec());
            }
            for entry in transaction.open_table(PAUSED)?.iter()? {
                stored.paused.insert(NodeId(*entry?.0.value()));
            }
            for entry in transaction.open_table(CONTACTS)?.iter()? {
                let (node, addresses) = entry?;
                let addresses = serde_json::from_slice(addresses.value());
                let addresses = addresses.map_err(|_| Fault::Table("contacts"))?;
                stored.contacts.insert(NodeId(*node.value()), addresses);
            }
            for entry in transaction.open_table(HIDDEN)?.iter()? {
                let (host, since) = entry?;
                stored.hidden.insert(NodeId(*host.value()), i64::from_be_bytes(*since.value()));
            }
            for entry in transaction.open_table(INVITES)?.iter()? {
                let (secret_hash, invite) = entry?;
                let invite = serde_json::from_slice(invite.value());
                let invite = invite.map_err(|_| Fault::Table("invites"))?;
                stored.invites.push((*secret_hash.value(), invite));
            }
            let recovering = transaction.open_table(SETTINGS)?.get(SETTING_RECOVERING)?;
            stored.recovering = recovering.is_some();
            for entry in transaction.open_table(RECEIPTS)?.iter()? {
                let receipt = serde_json::from_slice(entry?.1.value());
                stored.receipts.push(receipt.map_err(|_| Fault::Table("receipts"))?);
            }
            for entry in transaction.open_table(APPLIED)?.iter()? {
                let key = entry?.0;
                let (receipt, member) = key.value();
                stored.applied(receipt, NodeId(*member));
            }
            (stored.cursor, stored.digest) = journal::read_last(transaction)?;
            Ok(stored)
        })
    }

    /// Reads some documents, archived ones too; of one that is not there, that nothing is.
    pub fn reload(&self, wanted: &[DocumentId]) -> Result<Vec<StoredDocument>, Error> {
        self.read(|transaction| wanted.iter().map(|id| document(transaction, *id)).collect())
    }

    /// Reads which fleet the node belongs to; `None` before its first start has come to that.
    pub fn fleet(&self) -> Result<Option<FleetId>, Error> {
        self.read(fleet)
    }

    /// Reads the published diffs that are still kept, oldest first.
    pub fn journal(&self) -> Result<Vec<JournalEntry>, Error> {
        self.read(journal::read)
    }

    /// Makes all of `writes` durable together.
    ///
    /// After an error the store takes no more writes: whether these are durable shows only when it
    /// is opened again.
    pub fn commit(&self, writes: &[Write]) -> Result<Committed, Error> {
        let mut state = self.running()?;
        if writes.is_empty() {
            return Ok(Committed::default());
        }
        self.transact(&mut state, |transaction, ledger| {
            writes.iter().try_for_each(|write| apply(transaction, ledger, write))
        })?;
        let touched: BTreeSet<_> = writes.iter().filter_map(touched).collect();
        Ok(Committed { backlogs: state.ledger.backlogs(|document| touched.contains(document)) })
    }

    /// Tells how much is stored of every document, in their order.
    pub fn backlogs(&self) -> Result<Vec<Backlog>, Error> {
        Ok(self.running()?.ledger.backlogs(|_| true))
    }

    /// Plans to replace all changes of a document that are stored by now; `None` if there are none.
    ///
    /// To be called before the document is saved, or cloned in order to be saved.
    pub fn plan(&self, document: DocumentId) -> Result<Option<Plan>, Error> {
        Ok(Plan::of(&self.running()?.ledger, document))
    }

    /// Puts a verified snapshot in the place of the changes that it was planned for.
    ///
    /// Changes that were committed since are kept. [`Error::Superseded`] if the document was
    /// replaced, compacted or forgotten meanwhile; the store is then as before, and usable.
    pub fn replace(&self, verified: &Verified) -> Result<Committed, Error> {
        let mut state = self.running()?;
        let document = verified.plan().document();
        if !verified.plan().holds(&state.ledger) {
            return Err(Error::Superseded { document });
        }
        self.transact(&mut state, |transaction, ledger| {
            compact::replace(transaction, ledger, verified)
        })?;
        Ok(Committed { backlogs: state.ledger.backlogs(|other| *other == document) })
    }

    /// Returns where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many bytes the file has; 0 for a store that is not kept in one.
    pub fn size_bytes(&self) -> Result<u64, Error> {
        let Some(file) = &self.file else { return Ok(0) };
        let metadata = file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    /// Returns the state for writing, unless a write has failed.
    fn running(&self) -> Result<MutexGuard<'_, State>, Error> {
        let stopped = || Error::Stopped { path: self.path.clone() };
        let state = self.state.lock().map_err(|_| stopped())?;
        if state.stopped { Err(stopped()) } else { Ok(state) }
    }

    fn transact(
        &self,
        state: &mut State,
        work: impl FnOnce(&WriteTransaction, &mut Ledger) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        state.stopped = true;
        self.named(|| {
            let mut transaction = self.database.begin_write()?;
            let durable = !planted!(NoFsync);
            transaction.set_durability(if durable {
                Durability::Immediate
            } else {
                Durability::None
            })?;
            work(&transaction, &mut state.ledger)?;
            Ok(transaction.commit()?)
        })?;
        state.stopped = false;
        Ok(())
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Error> {
        self.named(|| work(&self.database.begin_read()?))
    }

    fn named<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Error> {
        work().map_err(|fault| fault.in_use(self.path.clone()))
    }
}

/// The progress that redb 4 reports when it goes back to the commit before the last.
const ROLLED_BACK_PROGRESS: f64 = 0.3;

/// Makes the tables of a new store, or checks the schema of an old one.
fn set_up(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_read()?;
    if transaction.list_tables()?.next().is_some() {
        let settings = transaction.open_table(SETTINGS)?;
        let schema = settings.get(SETTING_SCHEMA)?.ok_or(Fault::Table("settings"))?;
        let schema = schema.value().try_into().map_err(|_| Fault::Table("settings"))?;
        return match u32::from_be_bytes(schema) {
            SCHEMA => add_tables(database, &transaction),
            found if found > SCHEMA => Err(Fault::Newer(found)),
            _ => Err(Fault::Table("settings")),
        };
    }
    let transaction = database.begin_write()?;
    transaction.open_table(CHANGES)?;
    transaction.open_table(SNAPSHOTS)?;
    transaction.open_table(ARCHIVED)?;
    transaction.open_table(VOUCHERS)?;
    transaction.open_table(JOURNAL)?;
    transaction.open_table(INVITES)?;
    transaction.open_table(RECEIPTS)?;
    transaction.open_table(APPLIED)?;
    transaction.open_table(PAUSED)?;
    transaction.open_table(CONTACTS)?;
    transaction.open_table(HIDDEN)?;
    transaction.open_table(STATEMENTS)?;
    transaction.open_table(SETTINGS)?.insert(SETTING_SCHEMA, SCHEMA.to_be_bytes().as_slice())?;
    Ok(transaction.commit()?)
}

/// Makes the tables that a store of an earlier version of the same schema lacks.
fn add_tables(database: &Database, present: &ReadTransaction) -> Result<(), Fault> {
    let present: Vec<_> = present.list_tables()?.map(|table| table.name().to_owned()).collect();
    let added = [
        ARCHIVED.name(),
        RECEIPTS.name(),
        APPLIED.name(),
        CONTACTS.name(),
        HIDDEN.name(),
        STATEMENTS.name(),
    ];
    if added.iter().all(|name| present.iter().any(|is| is == name)) {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    transaction.open_table(ARCHIVED)?;
    transaction.open_table(RECEIPTS)?;
    transaction.open_table(APPLIED)?;
    transaction.open_table(CONTACTS)?;
    transaction.open_table(HIDDEN)?;
    transaction.open_table(STATEMENTS)?;
    Ok(transaction.commit()?)
}

fn archived(transaction: &ReadTransaction) -> Result<BTreeSet<DocumentId>, Fault> {
    let mut archived = BTreeSet::new();
    for entry in transaction.open_table(ARCHIVED)?.iter()? {
        archived.insert(tables::document(entry?.0.value(), "archived")?);
    }
    Ok(archived)
}

fn fleet(transaction: &ReadTransaction) -> Result<Option<FleetId>, Fault> {
    let settings = transaction.open_table(SETTINGS)?;
    let Some(fleet) = settings.get(SETTING_FLEET)? else { return Ok(None) };
    let fleet = fleet.value().try_into().map_err(|_| Fault::Table("settings"))?;
    Ok(Some(FleetId(fleet)))
}

fn documents(
    transaction: &ReadTransaction,
    wanted: impl Fn(&DocumentId) -> bool,
) -> Result<Vec<StoredDocument>, Fault> {
    let mut documents = std::collections::BTreeMap::new();
    for entry in transaction.open_table(SNAPSHOTS)?.iter()? {
        let (key, snapshot) = entry?;
        let id = tables::document(key.value(), "snapshots")?;
        if wanted(&id) {
            documents.entry(id).or_insert_with(|| StoredDocument::nothing(id)).snapshot =
                Some(snapshot.value().to_vec());
        }
    }
    for entry in transaction.open_table(CHANGES)?.iter()? {
        let (key, change) = entry?;
        let id = tables::document(key.value().0, "changes")?;
        if !wanted(&id) {
            continue;
        }
        let document = documents.entry(id).or_insert_with(|| StoredDocument::nothing(id));
        document.changes.push(change.value().to_vec());
    }
    for entry in transaction.open_table(VOUCHERS)?.iter()? {
        let (key, voucher) = entry?;
        let (key, actor) = key.value();
        let id = tables::document(key, "vouchers")?;
        if !wanted(&id) {
            continue;
        }
        let document = documents.get_mut(&id).ok_or(Fault::Table("vouchers"))?;
        document.vouchers.push(tables::voucher(*actor, voucher.value())?);
    }
    Ok(documents.into_values().collect())
}

fn document(transaction: &ReadTransaction, id: DocumentId) -> Result<StoredDocument, Fault> {
    let key = tables::document_key(&id);
    let mut document = StoredDocument::nothing(id);
    let snapshot = transaction.open_table(SNAPSHOTS)?.get(key.as_slice())?;
    document.snapshot = snapshot.map(|snapshot| snapshot.value().to_vec());
    for entry in transaction.open_table(CHANGES)?.range(all_changes(&key))? {
        document.changes.push(entry?.1.value().to_vec());
    }
    for entry in transaction.open_table(VOUCHERS)?.range(all_vouchers(&key))? {
        let (key, voucher) = entry?;
        document.vouchers.push(tables::voucher(*key.value().1, voucher.value())?);
    }
    Ok(document)
}

fn all_changes(key: &[u8]) -> std::ops::RangeInclusive<(&[u8], u64)> {
    (key, 0)..=(key, u64::MAX)
}

fn all_vouchers(key: &[u8]) -> std::ops::RangeInclusive<(&[u8], &[u8; ACTOR_BYTES])> {
    (key, &[0; ACTOR_BYTES])..=(key, &[0xff; ACTOR_BYTES])
}

/// Returns the document that a write is about, if it is about one.
fn touched(write: &Write) -> Option<DocumentId> {
    match write {
        Write::Change { document, .. }
        | Write::Snapshot { document, .. }
        | Write::Forget { document }
        | Write::Archive { document } => Some(*document),
        _ => None,
    }
}

fn apply(transaction: &WriteTransaction, ledger: &mut Ledger, write: &Write) -> Result<(), Fault> {
    match write {
        Write::Change { document, bytes } => {
            let key = tables::document_key(document);
            let account = ledger.account(*document);
            transaction
                .open_table(CHANGES)?
                .insert((key.as_slice(), account.next_sequence), bytes.as_slice())?;
            account.next_sequence += 1;
            account.changes += 1;
            account.change_bytes += bytes.len() as u64;
        }
        Write::Voucher { document, voucher } => {
            let key = tables::document_key(document);
            transaction.open_table(VOUCHERS)?.insert(
                (key.as_slice(), &voucher.actor),
                tables::voucher_value(voucher).as_slice(),
            )?;
        }
        Write::Snapshot { document, bytes } => {
            let key = tables::document_key(document);
            delete_changes(transaction, &key)?;
            transaction.open_table(SNAPSHOTS)?.insert(key.as_slice(), bytes.as_slice())?;
            ledger.replace(*document, bytes.len() as u64);
        }
        Write::Forget { document } => {
            let key = tables::document_key(document);
            delete_changes(transaction, &key)?;
            transaction.open_table(SNAPSHOTS)?.remove(key.as_slice())?;
            transaction.open_table(ARCHIVED)?.remove(key.as_slice())?;
            ledger.close(document);
        }
        Write::Archive { document } => {
            if ledger.find(document).is_some() {
                let key = tables::document_key(document);
                transaction.open_table(ARCHIVED)?.insert(key.as_slice(), ())?;
            }
        }
        Write::Journal { cursor, body } => journal::append(transaction, ledger, *cursor, body)?,
        Write::ResetJournal { cursor } => journal::reset(transaction, ledger, *cursor)?,
        Write::Fleet(fleet) => {
            transaction.open_table(SETTINGS)?.insert(SETTING_FLEET, fleet.0.as_slice())?;
            transaction.open_table(STATEMENTS)?.retain(|_, _| false)?;
        }
        Write::Statement { number, bytes } => {
            transaction.open_table(STATEMENTS)?.insert(number, bytes.as_slice())?;
        }
        Write::Paused { node, paused: true } => {
            transaction.open_table(PAUSED)?.insert(&node.0, ())?;
        }
        Write::Paused { node, paused: false } => {
            transaction.open_table(PAUSED)?.remove(&node.0)?;
        }
        Write::Contact { node, addresses } if addresses.is_empty() => {
            transaction.open_table(CONTACTS)?.remove(&node.0)?;
        }
        Write::Contact { node, addresses } => {
            let json = serde_json::to_vec(addresses).expect("texts have a JSON form");
            transaction.open_table(CONTACTS)?.insert(&node.0, json.as_slice())?;
        }
        Write::Hidden { host, since: Some(since) } => {
            transaction.open_table(HIDDEN)?.insert(&host.0, &since.to_be_bytes())?;
        }
        Write::Hidden { host, since: None } => {
            transaction.open_table(HIDDEN)?.remove(&host.0)?;
        }
        Write::Invite { secret_hash, invite: Some(invite) } => {
            let json = serde_json::to_vec(invite).expect("an invite has a JSON form");
            transaction.open_table(INVITES)?.insert(secret_hash, json.as_slice())?;
        }
        Write::Invite { secret_hash, invite: None } => {
            transaction.open_table(INVITES)?.remove(secret_hash)?;
        }
        Write::Recovering(true) => {
            transaction.open_table(SETTINGS)?.insert(SETTING_RECOVERING, [1].as_slice())?;
        }
        Write::Recovering(false) => {
            transaction.open_table(SETTINGS)?.remove(SETTING_RECOVERING)?;
        }
        Write::Receipt { id, receipt } => {
            let mut receipts = transaction.open_table(RECEIPTS)?;
            if let Some(receipt) = receipt {
                let json = serde_json::to_vec(receipt).expect("a receipt has a JSON form");
                receipts.insert(id.as_str(), json.as_slice())?;
            } else {
                receipts.remove(id.as_str())?;
            }
            let of_it = (id.as_str(), &[u8::MIN; 32])..=(id.as_str(), &[u8::MAX; 32]);
            transaction.open_table(APPLIED)?.retain_in(of_it, |_, ()| false)?;
        }
        Write::Applied { receipt, member } => {
            transaction.open_table(APPLIED)?.insert((receipt.as_str(), &member.0), ())?;
        }
    }
    Ok(())
}

/// Deletes a document's changes and the vouchers for them.
fn delete_changes(transaction: &WriteTransaction, key: &[u8]) -> Result<(), Fault> {
    transaction.open_table(CHANGES)?.retain_in(all_changes(key), |_, _| false)?;
    transaction.open_table(VOUCHERS)?.retain_in(all_vouchers(key), |_, _| false)?;
    Ok(())
}

//! Owns deleting entries for good: when their time is over, when a person says so, or early when
//! space is short.
//!
//! Must not know who asks. Invariant: an entry that held what is nowhere else is never deleted early.

use super::{
    Trash, TrashError,
    manifest::{Manifest, Stage},
    restore::io_error,
};

impl Trash {
    /// Deletes an entry for good, now. Blocks.
    ///
    /// # Errors
    ///
    /// There is no such entry, or something of it can't be deleted: that is tried again.
    pub fn empty(&self, id: &str) -> Result<(), TrashError> {
        let (manifest, _busy) = self.claim(id)?;
        self.delete(manifest)
    }

    /// Deletes what is due at this time, in milliseconds since the epoch, and tries again what could
    /// not be deleted before. Blocks; to be called from time to time.
    pub fn maintain(&self, now_ms: i64) {
        for manifest in self.store.manifests() {
            let is_due = manifest.kept_until <= now_ms || manifest.stage == Stage::Expiring;
            if !manifest.is_listed() || !is_due {
                continue;
            }
            let deleted = self.claim(&manifest.entry).and_then(|(now, _busy)| self.delete(now));
            if let Err(error) = deleted {
                tracing::warn!(entry = manifest.entry, %error, "an entry of the trash stays");
            }
        }
    }

    fn delete(&self, mut manifest: Manifest) -> Result<(), TrashError> {
        manifest.stage = Stage::Expiring;
        self.write(&manifest)?;
        let folder = self.store.folder(&manifest.entry);
        self.store.remove(&manifest.entry).map_err(io_error(&folder))
    }
}

//! Owns how single values become bytes: the only file that knows bincode.
//!
//! Must not know frames. A frame is its values one after the other, which is how bincode lays out
//! structs and enums; so the values are all that bincode is needed for. Invariant: every length
//! is compared with its limit and with the bytes that are left before anything is allocated.

use bincode::config::{Configuration, standard};

use super::codec::{DecodeError, EncodeError};

/// Variable-length little-endian integers. Frames are bounded before they are read, and lists by
/// [`Source::count`], so bincode's own limit has nothing to add.
const CONFIG: Configuration = standard();

/// Appends values to a frame.
pub(super) struct Sink {
    bytes: Vec<u8>,
}

impl Sink {
    /// Starts with these bytes, which are kept as they are.
    pub(super) fn after(prefix: &[u8], capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(prefix.len() + capacity);
        bytes.extend_from_slice(prefix);
        Self { bytes }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn value<T: bincode::Encode>(
        &mut self,
        value: T,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        bincode::encode_into_std_write(value, &mut self.bytes, CONFIG)
            .map(|_| ())
            .map_err(|_| EncodeError::Invalid { field })
    }

    pub(super) fn u16(&mut self, value: u16, field: &'static str) -> Result<(), EncodeError> {
        self.value(value, field)
    }

    pub(super) fn u32(&mut self, value: u32, field: &'static str) -> Result<(), EncodeError> {
        self.value(value, field)
    }

    pub(super) fn u64(&mut self, value: u64, field: &'static str) -> Result<(), EncodeError> {
        self.value(value, field)
    }

    pub(super) fn bool(&mut self, value: bool, field: &'static str) -> Result<(), EncodeError> {
        self.value(value, field)
    }

    /// Appends bytes whose number the reader knows.
    pub(super) fn array(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends how many items follow.
    pub(super) fn count(
        &mut self,
        count: usize,
        limit: usize,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        if count > limit {
            return Err(EncodeError::FieldTooLong { field, count, limit });
        }
        self.value(count as u64, field)
    }

    /// Appends bytes and their number.
    pub(super) fn blob(
        &mut self,
        bytes: &[u8],
        limit: usize,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        self.count(bytes.len(), limit, field)?;
        self.array(bytes);
        Ok(())
    }
}

/// Takes values from a frame.
pub(super) struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn value<T: bincode::Decode<()>>(&mut self, field: &'static str) -> Result<T, DecodeError> {
        match bincode::decode_from_slice(self.rest, CONFIG) {
            Ok((value, used)) => {
                self.rest = &self.rest[used..];
                Ok(value)
            }
            Err(bincode::error::DecodeError::UnexpectedEnd { .. }) => {
                Err(DecodeError::Truncated { field })
            }
            Err(_) => Err(DecodeError::Invalid { field }),
        }
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.value(field)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.value(field)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.value(field)
    }

    pub(super) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        self.value(field)
    }

    /// Takes as many bytes as the array has.
    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let (array, rest) =
            self.rest.split_first_chunk().ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*array)
    }

    /// Takes how many items follow, of which each has at least `item_bytes_min` bytes.
    pub(super) fn count(
        &mut self,
        limit: usize,
        item_bytes_min: usize,
        field: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u64(field)?).unwrap_or(usize::MAX);
        if count > limit {
            return Err(DecodeError::FieldTooLong { field, count, limit });
        }
        if count.saturating_mul(item_bytes_min) > self.rest.len() {
            return Err(DecodeError::Truncated { field });
        }
        Ok(count)
    }

    /// Takes bytes and their number.
    pub(super) fn blob(
        &mut self,
        limit: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let count = self.count(limit, 1, field)?;
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(bytes)
    }

    /// Takes text and its number of bytes.
    pub(super) fn text(
        &mut self,
        limit: usize,
        field: &'static str,
    ) -> Result<String, DecodeError> {
        let bytes = self.blob(limit, field)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::NotText { field })
    }
}

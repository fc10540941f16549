//! Owns the taking of single values from automerge's bytes.
//!
//! Must not know chunks nor columns. Invariant: nothing is taken that is not there.

use super::{Refused, at_most};
use crate::replica::ids::{ACTOR_BYTES, ActorBytes, ChangeHash};

/// Takes values from the front of some bytes.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns how many bytes nobody has taken yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes that nobody took.
    pub(super) fn end(&self, what: &'static str) -> Result<(), Refused> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Refused::LeftOver { what, count: self.rest.len() })
        }
    }

    pub(super) fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], Refused> {
        let count = usize::try_from(count).map_err(|_| Refused::Truncated { what })?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Refused::Truncated { what })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Refused::Truncated { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, Refused> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Takes an unsigned LEB128 number in its shortest form.
    pub(super) fn unsigned(&mut self, what: &'static str) -> Result<u64, Refused> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(Refused::Invalid { what }) };
            }
        }
        Err(Refused::Invalid { what })
    }

    /// Takes a signed LEB128 number in its shortest form.
    pub(super) fn signed(&mut self, what: &'static str) -> Result<i64, Refused> {
        let mut value = 0_i64;
        let mut previous = 0_u8;
        for shift in (0..i64::BITS).step_by(7) {
            let byte = self.byte(what)?;
            if shift == 63 && byte != 0 && byte != 0x7f {
                break;
            }
            value |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let overlong = shift > 0
                    && ((byte == 0 && previous & 0x40 == 0)
                        || (byte == 0x7f && previous & 0x40 != 0));
                if overlong {
                    return Err(Refused::Invalid { what });
                }
                if shift + 7 < i64::BITS && byte & 0x40 != 0 {
                    value |= -1_i64 << (shift + 7);
                }
                return Ok(value);
            }
            previous = byte;
        }
        Err(Refused::Invalid { what })
    }

    /// Takes how many items of at least `item_bytes_min` bytes follow.
    pub(super) fn count(
        &mut self,
        limit: u64,
        item_bytes_min: u64,
        what: &'static str,
    ) -> Result<u64, Refused> {
        let count = self.unsigned(what)?;
        at_most(what, count, limit)?;
        if count.saturating_mul(item_bytes_min) > self.rest.len() as u64 {
            return Err(Refused::Truncated { what });
        }
        Ok(count)
    }

    /// Takes a list of hashes.
    pub(super) fn hashes(
        &mut self,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<ChangeHash>, Refused> {
        let count = self.count(limit, 32, what)?;
        (0..count).map(|_| self.array(what).map(ChangeHash)).collect()
    }

    /// Takes an actor id, which must have the length of ours.
    pub(super) fn actor(&mut self, what: &'static str) -> Result<ActorBytes, Refused> {
        match self.unsigned(what)? {
            length if length == ACTOR_BYTES as u64 => self.array(what),
            _ => Err(Refused::Invalid { what }),
        }
    }

    /// Takes a list of actor ids, which must ascend.
    pub(super) fn actors(
        &mut self,
        limit: u64,
        what: &'static str,
    ) -> Result<Vec<ActorBytes>, Refused> {
        let count = self.count(limit, 1 + ACTOR_BYTES as u64, what)?;
        let actors = (0..count).map(|_| self.actor(what)).collect::<Result<Vec<_>, _>>()?;
        if actors.is_sorted_by(|one, next| one < next) {
            Ok(actors)
        } else {
            Err(Refused::Order { what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_their_shortest_form_only() {
        let unsigned = |bytes: &[u8]| Reader::new(bytes).unsigned("n");
        assert_eq!(unsigned(&[0]), Ok(0));
        assert_eq!(unsigned(&[0x81, 1]), Ok(129));
        assert_eq!(
            unsigned(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Ok(u64::MAX)
        );
        assert!(unsigned(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
        assert!(unsigned(&[0x80; 11]).is_err());
        assert!(unsigned(&[0x80, 0]).is_err());
        assert_eq!(unsigned(&[0x80]), Err(Refused::Truncated { what: "n" }));
        let signed = |bytes: &[u8]| Reader::new(bytes).signed("n");
        assert_eq!(signed(&[0x7f]), Ok(-1));
        assert_eq!(signed(&[0x40]), Ok(-64));
        assert_eq!(signed(&[0xc0, 0]), Ok(64));
        assert!(signed(&[0xff, 0x7f]).is_err());
        let least = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f];
        assert_eq!(signed(&least), Ok(i64::MIN));
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(signed(&most), Ok(i64::MAX));
        assert!(signed(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }
}

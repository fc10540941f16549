//! Owns splitting what one act writes into changes that peers take.
//!
//! Must not know what is written. Invariant: no change that this node makes breaks the limits by
//! which peers judge it, or nothing after it would reach them either.

use super::super::{
    command::Refusal,
    document::{HostWriter, Written},
    effect::{Effects, Now},
    guard,
    ids::{ChangeHash, NodeId},
};
use super::Replica;

/// Most records that one change writes to: far more than most workspaces have, and a small part of
/// the operations, 65,536, beyond which peers refuse a change.
pub(super) const RECORDS_MAX: usize = 2_000;
/// Most operations that a record takes: four for a delete, in each of the few copies that there are
/// where several nodes created the same id at once.
const RECORD_OPS_MAX: u64 = 4 * 8;
const _: () = assert!(RECORDS_MAX as u64 * RECORD_OPS_MAX <= guard::CHANGE_OPS_MAX);
/// Most bytes of text that one change writes: peers refuse a change of more than 4 MiB.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// Splits items, in their order, so that no part weighs more than `weight_max`, unless one item
/// alone does; what weighs nothing stays with what is before it. There is at least one part.
pub(super) fn split<T>(items: &[T], weight_max: usize, weight: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut begin, mut sum) = (0, 0);
    for (index, item) in items.iter().enumerate() {
        let more = weight(item);
        if more > 0 && sum > 0 && sum + more > weight_max {
            parts.push(&items[begin..index]);
            (begin, sum) = (index, 0);
        }
        sum += more;
    }
    parts.push(&items[begin..]);
    parts
}

impl Replica {
    /// Writes each record to a host's document, and in the last change what `last` writes; `None`
    /// if nothing was written.
    pub(super) fn write_records<T>(
        &mut self,
        now: Now,
        host: NodeId,
        fx: &mut Effects,
        records: &[T],
        each: impl Fn(&mut HostWriter<'_, '_>, &T) -> Written,
        last: impl Fn(&mut HostWriter<'_, '_>) -> Written,
    ) -> Result<Option<ChangeHash>, Refusal> {
        let mut parts = split(records, RECORDS_MAX, |_| 1);
        let rest = parts.pop().unwrap_or_default();
        for part in parts {
            self.write_host(now, host, fx, |tx| part.iter().try_for_each(|one| each(tx, one)))?;
        }
        self.write_host(now, host, fx, |tx| {
            rest.iter().try_for_each(|one| each(tx, one))?;
            last(tx)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_before_it_weighs_too_much_and_takes_along_what_weighs_nothing() {
        let weights = [2, 0, 2, 2, 0, 9, 0, 1];
        let parts = split(&weights, 4, |weight| *weight);
        assert_eq!(parts, [&[2, 0, 2][..], &[2, 0], &[9, 0], &[1]]);
        assert_eq!(split(&[0; 0], 4, |weight| *weight), [&[] as &[usize]]);
    }
}

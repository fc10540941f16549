//! Owns splitting what one act writes into changes that peers take.
//!
//! Must not know what is written. Invariant: of an act that can't be written whole, nothing is.

use super::super::{
    command::Refusal,
    document::{Document, HostWriter, NotWritten, Written},
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
        if records.len() <= RECORDS_MAX {
            let written = self.write_host(now, host, fx, |tx| {
                records.iter().try_for_each(|one| each(tx, one))?;
                last(tx)
            });
            match written {
                // Of each record there may be many copies; less at once may do.
                Err(Refusal::Unwritable { .. }) if records.len() > 1 => {}
                written => return written,
            }
        }
        let mut left = records;
        let (mut lengths, rest) = self.rehearse(now, host, records, &each, &last)?;
        lengths.reverse();
        while let Some(length) = lengths.pop() {
            let (part, next) = left.split_at(length);
            self.write_host(now, host, fx, |tx| part.iter().try_for_each(|one| each(tx, one)))?;
            left = next;
        }
        debug_assert_eq!(left.len(), rest);
        self.write_host(now, host, fx, |tx| {
            left.iter().try_for_each(|one| each(tx, one))?;
            last(tx)
        })
    }

    /// Writes records to a copy of a host's document, in as few changes as peers take, and tells how many
    /// go into each, and into the last: what can't be written whole is refused before any of it is.
    fn rehearse<T>(
        &self,
        now: Now,
        host: NodeId,
        records: &[T],
        each: &impl Fn(&mut HostWriter<'_, '_>, &T) -> Written,
        last: &impl Fn(&mut HostWriter<'_, '_>) -> Written,
    ) -> Result<(Vec<usize>, usize), Refusal> {
        let known = self.newest(host).ok_or(Refusal::HostNotReady(host))?;
        let mut copy = known.clone();
        let refuse = |problem| self.not_written(host, problem);
        let mut parts = split(records, RECORDS_MAX, |_| 1);
        let mut rest = parts.pop().unwrap_or_default();
        let mut lengths = Vec::new();
        for part in parts {
            lengths.extend(fit(&mut copy, now, part, each).map_err(refuse)?);
        }
        loop {
            let written = copy.write(now.wall_ms, |tx| {
                rest.iter().try_for_each(|one| each(tx, one))?;
                last(tx)
            });
            match written {
                Ok(_) => return Ok((lengths, rest.len())),
                Err(NotWritten::Refused(_)) if !rest.is_empty() => {
                    let (part, left) = rest.split_at(rest.len().div_ceil(2));
                    lengths.extend(fit(&mut copy, now, part, each).map_err(refuse)?);
                    rest = left;
                }
                Err(problem) => return Err(refuse(problem)),
            }
        }
    }

    /// Writes each record to the own document, as many in one change as peers take; returns those that they
    /// would not take, each by itself.
    pub(super) fn write_own_each<T: Clone>(
        &mut self,
        now: Now,
        fx: &mut Effects,
        records: &[T],
        each: &impl Fn(&mut HostWriter<'_, '_>, &T) -> Written,
    ) -> Vec<T> {
        let written = self
            .write_host(now, self.node, fx, |tx| records.iter().try_for_each(|one| each(tx, one)));
        match written {
            Ok(_) => Vec::new(),
            Err(Refusal::Blocked { .. } | Refusal::Unwritable { .. }) if records.len() > 1 => {
                let (first, second) = records.split_at(records.len() / 2);
                let mut refused = self.write_own_each(now, fx, first, each);
                refused.extend(self.write_own_each(now, fx, second, each));
                refused
            }
            Err(refusal @ (Refusal::Blocked { .. } | Refusal::Unwritable { .. })) => {
                tracing::error!(%refusal, "can't carry out what is due; it is tried again later");
                records.to_vec()
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "the own document is being reloaded; the work stays due");
                Vec::new()
            }
        }
    }
}

/// Writes records to a document in as few changes as peers take, and tells how many go into each.
fn fit<T>(
    document: &mut Document,
    now: Now,
    records: &[T],
    each: &impl Fn(&mut HostWriter<'_, '_>, &T) -> Written,
) -> Result<Vec<usize>, NotWritten> {
    let (mut ahead, mut lengths) = (vec![records], Vec::new());
    while let Some(part) = ahead.pop() {
        match document.write(now.wall_ms, |tx| part.iter().try_for_each(|one| each(tx, one))) {
            Ok(_) => lengths.push(part.len()),
            Err(NotWritten::Refused(_)) if part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                ahead.extend([second, first]);
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(lengths)
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

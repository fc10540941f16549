//! Owns columns: their list, and the reading of one item after the other.
//!
//! Must not know what the items mean. Invariant: a run length is compared with the number of items
//! that are due before it is believed, so reading a column takes no more steps than it has items
//! due.

use super::{Budget, Refused, chunk::inflate, reader::Reader};

/// Most columns: an automerge document has 16.
const COLUMNS_MAX: u64 = 32;

/// Set in the specification of a column whose bytes are deflated.
const DEFLATED: u64 = 0b1000;

/// A column that a chunk may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    /// Its id and type, as they stand in the chunk.
    pub(super) bits: u64,
    /// What to call it in an error.
    pub(super) name: &'static str,
}

/// The bytes of a column.
#[derive(Debug)]
pub(super) enum Data<'a> {
    Plain(&'a [u8]),
    Inflated(Vec<u8>),
}

/// The columns of a chunk, by what they are expected to be; those that are not there are empty.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    data: Vec<(u64, Data<'a>)>,
}

/// The list of columns, before their bytes were reached.
#[derive(Debug)]
pub(super) struct Listed {
    columns: Vec<(u64, u64, &'static str)>,
}

impl Listed {
    /// Takes the list of columns, of which each must be one of `known`.
    pub(super) fn take(
        reader: &mut Reader<'_>,
        known: &[Spec],
        may_deflate: bool,
    ) -> Result<Self, Refused> {
        const WHAT: &str = "columns";
        let count = reader.count(COLUMNS_MAX, 2, WHAT)?;
        let mut columns: Vec<(u64, u64, &'static str)> = Vec::new();
        let mut previous = None;
        for _ in 0..count {
            let bits = reader.unsigned(WHAT)?;
            let length = reader.unsigned(WHAT)?;
            let plain = bits & !DEFLATED;
            if previous.is_some_and(|previous| plain <= previous) {
                return Err(Refused::Order { what: WHAT });
            }
            previous = Some(plain);
            let Some(spec) = known.iter().find(|spec| spec.bits == plain) else {
                return Err(Refused::Unused { what: "a column" });
            };
            if bits != plain && !may_deflate {
                return Err(Refused::Invalid { what: "a deflated column" });
            }
            columns.push((bits, length, spec.name));
        }
        Ok(Self { columns })
    }

    /// Takes the bytes of the columns and inflates those that are deflated.
    pub(super) fn data<'a>(
        self,
        reader: &mut Reader<'a>,
        budget: &mut Budget,
    ) -> Result<Columns<'a>, Refused> {
        let mut data = Vec::with_capacity(self.columns.len());
        for (bits, length, name) in self.columns {
            let bytes = reader.take(length, name)?;
            let column = if bits & DEFLATED == 0 {
                Data::Plain(bytes)
            } else {
                Data::Inflated(inflate(bytes, budget.inflated_bytes, budget, name)?)
            };
            data.push((bits & !DEFLATED, column));
        }
        Ok(Columns { data })
    }
}

impl Columns<'_> {
    /// Returns a column's bytes.
    pub(super) fn bytes(&self, spec: Spec) -> &[u8] {
        match self.data.iter().find(|(bits, _)| *bits == spec.bits) {
            Some((_, Data::Plain(bytes))) => bytes,
            Some((_, Data::Inflated(bytes))) => bytes,
            None => &[],
        }
    }

    /// Returns a column of which `due` items are to be read.
    pub(super) fn runs<T: Item>(&self, spec: Spec, due: u64) -> Runs<'_, T> {
        Runs::new(self.bytes(spec), due, spec.name)
    }
}

/// What the items of a column can be.
pub(super) trait Item: Copy + PartialEq {
    /// What the bytes of an item stand for.
    type From<'a>: Copy + PartialEq;

    /// Takes one.
    fn take<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<Self::From<'a>, Refused>;
}

impl Item for u64 {
    type From<'a> = u64;

    fn take(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, Refused> {
        reader.unsigned(what)
    }
}

impl Item for i64 {
    type From<'a> = i64;

    fn take(reader: &mut Reader<'_>, what: &'static str) -> Result<i64, Refused> {
        reader.signed(what)
    }
}

impl Item for &'static str {
    type From<'a> = &'a str;

    fn take<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a str, Refused> {
        let length = reader.unsigned(what)?;
        let bytes = reader.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| Refused::Invalid { what })
    }
}

/// A run-length encoded column.
#[derive(Debug)]
pub(super) struct Runs<'a, T: Item> {
    reader: Reader<'a>,
    /// Items that are still to be read.
    due: u64,
    /// Whether there are any bytes: a column without any is all null.
    is_there: bool,
    /// Items that are left of the present run.
    left: u64,
    run: Run<T::From<'a>>,
    what: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Run<T> {
    Null,
    Repeated(T),
    Literal,
}

impl<'a, T: Item> Runs<'a, T> {
    pub(super) fn new(bytes: &'a [u8], due: u64, what: &'static str) -> Self {
        let is_there = !bytes.is_empty();
        Self { reader: Reader::new(bytes), due, is_there, left: 0, run: Run::Null, what }
    }

    /// Returns the next item, which may be null.
    pub(super) fn next(&mut self) -> Result<Option<T::From<'a>>, Refused> {
        let what = self.what;
        if !self.is_there {
            return Ok(None);
        }
        if self.left == 0 {
            (self.left, self.run) = match self.reader.signed(what)? {
                0 => (self.reader.unsigned(what)?, Run::Null),
                count if count < 0 => (count.unsigned_abs(), Run::Literal),
                count => (count.unsigned_abs(), Run::Repeated(T::take(&mut self.reader, what)?)),
            };
            if self.left == 0 {
                return Err(Refused::Invalid { what });
            }
            at_most_due(what, self.left, self.due)?;
        }
        self.left -= 1;
        self.due = self.due.checked_sub(1).ok_or(Refused::Invalid { what })?;
        match self.run {
            Run::Null => Ok(None),
            Run::Repeated(item) => Ok(Some(item)),
            Run::Literal => T::take(&mut self.reader, what).map(Some),
        }
    }

    /// Returns the next item, which must be there.
    pub(super) fn required(&mut self) -> Result<T::From<'a>, Refused> {
        self.next()?.ok_or(Refused::Invalid { what: self.what })
    }

    /// Refuses bytes beyond the items that were due.
    pub(super) fn end(&self) -> Result<(), Refused> {
        if self.left > 0 {
            return Err(Refused::Invalid { what: self.what });
        }
        self.reader.end(self.what)
    }
}

fn at_most_due(what: &'static str, count: u64, due: u64) -> Result<(), Refused> {
    super::at_most(what, count, due)
}

/// A column of which each item is the difference to the one before it.
#[derive(Debug)]
pub(super) struct Deltas<'a> {
    runs: Runs<'a, i64>,
    last: i64,
}

impl<'a> Deltas<'a> {
    pub(super) fn new(columns: &'a Columns<'_>, spec: Spec, due: u64) -> Self {
        Self { runs: columns.runs(spec, due), last: 0 }
    }

    /// Returns the next number, which may be null.
    pub(super) fn next(&mut self) -> Result<Option<i64>, Refused> {
        let Some(delta) = self.runs.next()? else { return Ok(None) };
        self.last =
            self.last.checked_add(delta).ok_or(Refused::Invalid { what: self.runs.what })?;
        Ok(Some(self.last))
    }

    /// Returns the next number, which must be there and fit.
    pub(super) fn required(&mut self) -> Result<u32, Refused> {
        let what = self.runs.what;
        let number = self.next()?.ok_or(Refused::Invalid { what })?;
        u32::try_from(number).map_err(|_| Refused::Invalid { what })
    }

    pub(super) fn end(&self) -> Result<(), Refused> {
        self.runs.end()
    }
}

/// Counts the items of a run-length encoded column, none of which may be null.
pub(super) fn count_items<T: Item>(
    bytes: &[u8],
    limit: u64,
    what: &'static str,
) -> Result<u64, Refused> {
    let mut reader = Reader::new(bytes);
    let mut count = 0_u64;
    while !reader.is_empty() {
        let run = reader.signed(what)?;
        if run == 0 {
            return Err(Refused::Invalid { what });
        }
        count = count.saturating_add(run.unsigned_abs());
        super::at_most(what, count, limit)?;
        let literals = if run < 0 { run.unsigned_abs() } else { 1 };
        for _ in 0..literals {
            T::take(&mut reader, what)?;
        }
    }
    Ok(count)
}

/// Refuses a column of booleans that is not `due` times false, or empty.
pub(super) fn all_false(columns: &Columns<'_>, spec: Spec, due: u64) -> Result<(), Refused> {
    let mut reader = Reader::new(columns.bytes(spec));
    if reader.is_empty() {
        return Ok(());
    }
    match reader.unsigned(spec.name)? {
        count if count == due => reader.end(spec.name),
        _ => Err(Refused::Unused { what: spec.name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_claims_more_than_is_due_is_refused_at_once() {
        // 2^40 times 1, a literal run of 2^40, a null run of 2^40.
        let bombs: [&[u8]; 3] = [
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 1],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x60, 1],
            &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20],
        ];
        for bomb in bombs {
            let refused = Runs::<u64>::new(bomb, 1000, "n").next().unwrap_err();
            assert_eq!(refused, Refused::TooMuch { what: "n", count: 1 << 40, limit: 1000 });
        }
        assert_eq!(
            count_items::<u64>(bombs[0], 9, "n"),
            Err(Refused::TooMuch { what: "n", count: 1 << 40, limit: 9 })
        );
        let least = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f];
        assert!(Runs::<u64>::new(&least, 9, "n").next().is_err());
    }

    #[test]
    fn runs_give_back_every_item_and_then_end() {
        // Twice 5, a null, then 1 and 2.
        let mut runs = Runs::<u64>::new(&[2, 5, 0, 1, 0x7e, 1, 2], 5, "n");
        let items: Vec<_> = (0..5).map(|_| runs.next().unwrap()).collect();
        assert_eq!(items, [Some(5), Some(5), None, Some(1), Some(2)]);
        assert_eq!(runs.end(), Ok(()));
        assert!(runs.next().is_err());
        let empty = Runs::<u64>::new(&[], 7, "n").next();
        assert_eq!(empty, Ok(None));
    }
}

//! Owns how foreign text, times and nodes are shown to a person.
//!
//! Must not know tables or verbs. Invariant: nothing that a peer or an agent named can move a
//! terminal's cursor or break a line.

pub use crate::clock::utc;
use std::collections::BTreeMap;

use crate::replica::ids::NodeId;

/// Escapes what a terminal would obey instead of show.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Tells whether a character turns the direction of writing, separates lines unseen, or lets two
/// texts look the same that are not. What joins letters and emoji is none of them.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Returns how long ago something was, in one unit.
pub fn ago(now_ms: i64, then_ms: i64) -> String {
    let s = now_ms.saturating_sub(then_ms) / 1_000;
    match s {
        ..0 => "in the future".to_owned(),
        0..60 => format!("{s}s ago"),
        60..3_600 => format!("{}m ago", s / 60),
        3_600..86_400 => format!("{}h ago", s / 3_600),
        86_400.. => format!("{}d ago", s / 86_400),
    }
}

/// Returns how long it is until something, in one unit.
pub fn until(now_ms: i64, then_ms: i64) -> String {
    let s = then_ms.saturating_sub(now_ms) / 1_000;
    match s {
        ..0 => "over".to_owned(),
        0..60 => format!("in {s}s"),
        60..3_600 => format!("in {}m", s / 60),
        3_600..86_400 => format!("in {}h", s / 3_600),
        86_400.. => format!("in {}d", s / 86_400),
    }
}

/// Returns a number of bytes in one unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    // In tenths, so that nothing is rounded to a whole that is not there.
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    let unit = UNITS[power - 1];
    if tenths < 1_000 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

/// Returns how long something lasts, in its two largest units; without the second where it is none.
pub fn lasting(ms: u64) -> String {
    let s = ms / 1_000;
    let (first, second, unit) = match s {
        0..60 => return format!("{s}s"),
        60..3_600 => (format!("{}m", s / 60), s % 60, 's'),
        3_600..86_400 => (format!("{}h", s / 3_600), s % 3_600 / 60, 'm'),
        86_400.. => (format!("{}d", s / 86_400), s % 86_400 / 3_600, 'h'),
    };
    if second == 0 { first } else { format!("{first} {second}{unit}") }
}

/// Returns a count with its noun.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// What people call the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<NodeId, String>);

impl Names {
    /// Takes nodes and what they are called; where two are called the same, keys tell them apart.
    pub fn new(named: impl IntoIterator<Item = (NodeId, String)>) -> Self {
        let named: BTreeMap<_, _> = named.into_iter().collect();
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for name in named.values() {
            *times.entry(name.clone()).or_default() += 1;
        }
        let distinct = named.into_iter().map(|(node, name)| {
            let name = if name.is_empty() {
                node.short()
            } else if times[&name] > 1 {
                format!("{name} ({})", node.short())
            } else {
                name
            };
            (node, name)
        });
        Self(distinct.collect())
    }

    /// Returns what a node is called; the beginning of its key, if it isn't known.
    pub fn of(&self, node: &NodeId) -> String {
        self.0.get(node).cloned().unwrap_or_else(|| node.short())
    }

    /// Tells whether a node's name is known.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.0.contains_key(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_can_not_command_the_terminal() {
        for title in [
            "\u{1b}]0;owned\u{7}",
            "a\rb",
            "a\u{202e}b",
            "\u{9b}31m",
            "a\tb\nc",
            "a\u{61c}b",
            "a\u{200b}b",
            "a\u{e0041}",
        ] {
            let shown = printable(title);
            assert!(!shown.contains(|c: char| c.is_control() || is_invisible(c)), "{shown}");
        }
        assert_eq!(printable("Naïve \"plan\" — ✓"), "Naïve \"plan\" — ✓");
    }

    #[test]
    fn times_are_shown_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_379_109_504, "2026-11-22T20:25:09Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        for (age_s, text) in
            [(0, "0s ago"), (59, "59s ago"), (60, "1m ago"), (7_300, "2h ago"), (90_000, "1d ago")]
        {
            assert_eq!(ago(age_s * 1_000, 0), text);
        }
        assert_eq!(ago(0, 5_000), "in the future");
    }

    #[test]
    fn sizes_and_what_is_to_come_have_one_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_587_000, "1.5 MiB"),
            (200 << 20, "200 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((until(0, 90_000_000).as_str(), until(5, 0).as_str()), ("in 1d", "in 0s"));
        assert_eq!(until(5_000, 0), "over");
        for (s, text) in [(59, "59s"), (60, "1m"), (3_661, "1h 1m"), (14 * 86_400, "14d")] {
            assert_eq!(lasting(s * 1_000), text);
        }
    }

    #[test]
    fn nodes_of_the_same_name_are_told_apart_by_their_keys() {
        let (a, b, c) = (NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32]));
        let named = [(a, "mac"), (b, "mac"), (c, "linux")].map(|(n, name)| (n, name.to_owned()));
        let names = Names::new(named);
        assert_eq!(names.of(&c), "linux");
        assert_ne!(names.of(&a), names.of(&b));
        assert_eq!(names.of(&NodeId([4; 32])), "0404040404");
    }
}

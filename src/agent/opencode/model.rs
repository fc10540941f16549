//! Owns what opencode's HTTP API says, as far as it matters here.
//!
//! Must not know our records, except how long their texts may be. Source: the OpenAPI document of opencode
//! 1.18.33 and a running one.
//! Invariants: a record is read by itself, so that an odd one costs no other; a field that a newer
//! server adds, and a value that is only shown, never make a record unreadable.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::replica::record::{DIRECTORY_CHARS_MAX, EXTRA_VALUE_CHARS_MAX};

/// Latest time that is believed, milliseconds since the epoch: the year 9999, which people and other
/// programs can still write down.
const TIME_MS_MAX: f64 = 253_402_300_799_000.0;
/// How many characters of a text are read.
const TEXT_CHARS_MAX: usize = 1 + if DIRECTORY_CHARS_MAX > EXTRA_VALUE_CHARS_MAX {
    DIRECTORY_CHARS_MAX
} else {
    EXTRA_VALUE_CHARS_MAX
};
/// How many odd records are named; the others are only counted.
const NAMED_MAX: usize = 3;

/// The answer of `GET /global/health`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Whether it works.
    pub healthy: bool,
    /// The server's version.
    pub version: String,
}

/// An entry of `GET /project`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The first commit of its repository, or `global` for all folders without one.
    pub id: String,
    /// The folder of the repository; `/` for `global`.
    pub worktree: String,
    /// When the server's database first saw it, milliseconds since the epoch.
    pub created: Option<i64>,
}

/// An entry of `GET /session`.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// `ses_…`
    pub id: String,
    /// A name of two words.
    pub slug: Option<String>,
    /// The project.
    pub project_id: Option<String>,
    /// The workspace; a server may name one that it does not list.
    pub workspace_id: Option<String>,
    /// The session that it was started from.
    pub parent_id: Option<String>,
    /// Where it works.
    pub directory: Option<String>,
    /// What a person calls it.
    pub title: Option<String>,
    /// The version of the server that made it.
    pub version: Option<String>,
    /// When what happened.
    pub time: SessionTime,
}

/// The times of a session, milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SessionTime {
    /// When it was made.
    pub created: i64,
    /// When it was last changed.
    pub updated: i64,
    /// When it was archived.
    pub archived: Option<i64>,
}

/// An entry of `GET /experimental/workspace`.
#[derive(Debug, Clone, PartialEq)]
pub struct Workspace {
    /// `wrk_…`
    pub id: String,
    /// `worktree`, or what a plugin calls its own.
    pub kind: String,
    /// What a person calls it.
    pub name: String,
    /// The branch checked out in it.
    pub branch: Option<String>,
    /// Where it is.
    pub directory: Option<String>,
    /// What a plugin keeps there, as JSON.
    pub extra: Option<String>,
    /// The project.
    pub project_id: Option<String>,
    /// When it was last used, milliseconds since the epoch.
    pub used: Option<i64>,
}

/// Why a record is left out.
type Odd = String;

impl Project {
    /// Reads one.
    pub fn read(record: &Value) -> Result<Self, Odd> {
        let created = record.get("time").and_then(|time| time.get("created"));
        Ok(Self {
            id: required(record, "id")?,
            worktree: required(record, "worktree")?,
            // One that can't be told exactly tells nothing apart.
            created: created.and_then(Value::as_i64),
        })
    }
}

impl Session {
    /// Reads one.
    pub fn read(record: &Value) -> Result<Self, Odd> {
        let time = record.get("time").unwrap_or(&Value::Null);
        let (created, updated) = (moment(time, "created"), moment(time, "updated"));
        // What has only one of the two has it for both.
        let (created, updated) = match (created, updated) {
            (Some(created), Some(updated)) => (created, updated),
            (Some(one), None) | (None, Some(one)) => (one, one),
            (None, None) => return Err("has no time".to_owned()),
        };
        Ok(Self {
            id: required(record, "id")?,
            slug: optional(record, "slug"),
            project_id: optional(record, "projectID"),
            workspace_id: strict(record, "workspaceID")?,
            parent_id: strict(record, "parentID")?,
            directory: optional(record, "directory"),
            title: optional(record, "title"),
            version: optional(record, "version"),
            time: SessionTime { created, updated, archived: moment(time, "archived") },
        })
    }
}

impl Workspace {
    /// Reads one.
    pub fn read(record: &Value) -> Result<Self, Odd> {
        Ok(Self {
            id: required(record, "id")?,
            kind: required(record, "type")?,
            name: optional(record, "name").unwrap_or_default(),
            branch: optional(record, "branch"),
            directory: strict(record, "directory")?,
            extra: record.get("extra").filter(|it| !it.is_null()).map(|it| cut(&it.to_string())),
            project_id: optional(record, "projectID"),
            used: moment(record, "timeUsed"),
        })
    }
}

/// The records that are left out of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Why, by what it is about.
    odd: BTreeMap<String, Odd>,
}

impl LeftOut {
    /// Notes one; the same one again is one.
    pub fn note(&mut self, kind: &str, record: &Value, why: Odd) {
        let id = record.get("id").map_or_else(|| "without an id".to_owned(), Value::to_string);
        let id: String = id.chars().take(80).collect();
        self.add(format!("{kind} {id}"), why);
    }

    /// Notes something by its name.
    pub fn add(&mut self, what: String, why: Odd) {
        self.odd.insert(what, why);
    }

    /// Takes in what was left out elsewhere.
    pub fn extend(&mut self, other: Self) {
        self.odd.extend(other.odd);
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.odd.len()
    }

    /// Tells whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.odd.is_empty()
    }

    /// Names them for a person, on one line.
    pub fn told(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let named = self.odd.iter().take(NAMED_MAX);
        let mut named: Vec<String> = named.map(|(what, why)| format!("{what} {why}")).collect();
        if self.odd.len() > NAMED_MAX {
            named.push("…".to_owned());
        }
        Some(format!("left out, {}: {}", self.odd.len(), named.join("; ")))
    }
}

fn required(record: &Value, key: &str) -> Result<String, Odd> {
    match optional(record, key) {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("has no {key}")),
    }
}

/// Reads a text without which the record would say something else; null is as good as none.
fn strict(record: &Value, key: &str) -> Result<Option<String>, Odd> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(cut(text))),
        Some(_) => Err(format!("has a {key} that is no text")),
    }
}

/// Reads a text that is only shown.
fn optional(record: &Value, key: &str) -> Option<String> {
    record.get(key).and_then(Value::as_str).map(cut)
}

/// Copies the beginning of a text: one character more than any field of ours holds, so that a text that was cut is
/// still refused as too long. A whole text of megabytes would be copied and freed on the loop's thread.
fn cut(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(at, _)| at);
    text[..end].to_owned()
}

/// Reads a time: a number of any kind, brought into what can be shown.
fn moment(record: &Value, key: &str) -> Option<i64> {
    let number = record.get(key)?.as_f64()?;
    number.is_finite().then(|| number.clamp(0.0, TIME_MS_MAX) as i64)
}

/// Replaces what no JSON reader takes: bytes that are not UTF-8, and halves of surrogate pairs, which
/// JavaScript leaves where it cuts a text inside of an emoji.
pub fn mended(bytes: &[u8]) -> String {
    const LOST: &str = "\\ufffd";
    let text = String::from_utf8_lossy(bytes);
    let mut mended = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let (take, is_lost) = match unit(rest) {
            Some(0xd800..0xdc00) if matches!(unit(&rest[6..]), Some(0xdc00..0xe000)) => (12, false),
            Some(0xd800..0xe000) => (6, true),
            // An escape of another kind is two characters, the second of which may be a backslash.
            _ => (1 + rest[1..].chars().next().map_or(0, char::len_utf8), false),
        };
        mended.push_str(if is_lost { LOST } else { &rest[..take] });
        rest = &rest[take..];
    }
    mended.push_str(rest);
    mended
}

/// Reads `\uXXXX` at the beginning.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_any_kind_are_read_as_numbers_and_brought_into_what_can_be_shown() {
        for (created, read) in [
            (json!(5), Some(5)),
            (json!(5.9), Some(5)),
            (json!(-1), Some(0)),
            (json!(1e300), Some(TIME_MS_MAX as i64)),
            (json!(null), None),
            (json!("5"), None),
        ] {
            assert_eq!(moment(&json!({ "created": created }), "created"), read, "{created}");
        }
        let one = Session::read(&json!({ "id": "s", "time": { "updated": 7 } })).unwrap();
        assert_eq!((one.time.created, one.time.updated), (7, 7));
        let none = Session::read(&json!({ "id": "s", "time": null }));
        assert_eq!(none, Err("has no time".to_owned()));
    }

    #[test]
    fn what_is_only_shown_may_be_anything_and_what_places_a_record_may_not() {
        let time = json!({ "created": 1, "updated": 1 });
        for key in ["title", "slug", "directory", "projectID", "version"] {
            let mut record = json!({ "id": "s", "time": time });
            record[key] = json!(7);
            assert!(Session::read(&record).is_ok(), "{key}");
        }
        for key in ["id", "parentID", "workspaceID"] {
            let mut record = json!({ "id": "s", "time": time });
            record[key] = json!(7);
            assert!(Session::read(&record).is_err(), "{key}");
        }
        let workspace = json!({ "id": "w", "type": null, "name": null });
        assert_eq!(Workspace::read(&workspace), Err("has no type".to_owned()));
    }

    #[test]
    fn of_a_text_no_more_is_kept_than_tells_that_it_is_too_long() {
        let long = "é".repeat(1 << 20);
        let extra = json!({ "key": long });
        let record = json!({ "id": "s", "slug": long, "parentID": long, "time": { "created": 1 } });
        let session = Session::read(&record).unwrap();
        assert_eq!(session.slug.unwrap().chars().count(), TEXT_CHARS_MAX);
        assert_eq!(session.parent_id.unwrap().chars().count(), TEXT_CHARS_MAX);
        let workspace = json!({ "id": "w", "type": "worktree", "extra": extra });
        let workspace = Workspace::read(&workspace).unwrap();
        assert_eq!(workspace.extra.unwrap().chars().count(), TEXT_CHARS_MAX);
        let whole = "é".repeat(TEXT_CHARS_MAX);
        assert_eq!(cut(&whole), whole);
    }

    #[test]
    fn a_text_that_no_json_reader_takes_is_mended_and_everything_else_is_left_as_it_is() {
        for (broken, whole) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\ude00x""#, "\u{fffd}x"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\\ud83d \" \u00e9""#, "\\ud83d \" é"),
            (r#""plain""#, "plain"),
        ] {
            assert_eq!(serde_json::from_str::<String>(&mended(broken.as_bytes())).unwrap(), whole);
        }
        assert_eq!(mended(b"\"\xff\""), "\"\u{fffd}\"");
        for cut in ["\\", "\\u", "\\ud83d", "\\ud83d\\", "\\ud83d\\ud"] {
            assert!(mended(cut.as_bytes()).len() >= cut.len(), "{cut}: it ends");
        }
    }
}

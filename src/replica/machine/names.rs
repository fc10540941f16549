//! Owns finding what a person means by a name, and judging what they would write.
//!
//! Must not write anything. Invariant: a refusal names the thing.

use super::super::{
    command::{Refusal, Target},
    ids::{NodeId, OperationId, ReceiptId, SessionId, WorkspaceId},
    record::{
        DIRECTORY_CHARS_MAX, EXTRA_ENTRIES_MAX, EXTRA_KEY_CHARS_MAX, EXTRA_VALUE_CHARS_MAX, Member,
        Role, SessionKey, TIME_MS_MAX, TITLE_CHARS_MAX, WORD_CHARS_MAX, WorkspaceKey,
    },
};
use super::Replica;

/// Shortest prefix of a node's key that may stand for it.
const NODE_PREFIX_DIGITS_MIN: usize = 4;
/// The digits and letters of made ids, in ASCII order, so that ids sort by time.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How many of the base-62 digits of an id tell the time: enough for 6,000 years of milliseconds.
const TIME_DIGITS: usize = 8;
/// How many are random: 71 bits.
const RANDOM_DIGITS: usize = 12;

impl Replica {
    /// Finds the session that is meant.
    pub(super) fn find_session(&self, target: &Target<SessionId>) -> Result<SessionKey, Refusal> {
        let mut keys: Vec<SessionKey> =
            self.view.sessions_named(&target.id).map(|session| session.key()).collect();
        if let Some(host) = &target.host {
            let host = self.find_node(host)?;
            keys.retain(|key| key.host == host);
        }
        match keys.len() {
            0 => Err(Refusal::SessionNotFound(target.id.clone())),
            1 => Ok(keys.remove(0)),
            _ => Err(Refusal::AmbiguousId {
                id: target.id.to_string(),
                hosts: keys.iter().map(|key| self.name_of(&key.host)).collect(),
            }),
        }
    }

    /// Finds the workspace that is meant.
    pub(super) fn find_workspace(
        &self,
        target: &Target<WorkspaceId>,
    ) -> Result<WorkspaceKey, Refusal> {
        let mut keys: Vec<WorkspaceKey> =
            self.view.workspaces_named(&target.id).map(|entry| entry.record.key()).collect();
        if let Some(host) = &target.host {
            let host = self.find_node(host)?;
            keys.retain(|key| key.host == host);
        }
        match keys.len() {
            0 => Err(Refusal::WorkspaceNotFound(target.id.clone())),
            1 => Ok(keys.remove(0)),
            _ => Err(Refusal::AmbiguousId {
                id: target.id.to_string(),
                hosts: keys.iter().map(|key| self.name_of(&key.host)).collect(),
            }),
        }
    }

    /// Finds the member that is meant: by its key, its name or a unique prefix of its key.
    pub(super) fn find_node(&self, name: &str) -> Result<NodeId, Refusal> {
        if let Ok(node) = name.parse::<NodeId>()
            && self.members.contains_key(&node)
        {
            return Ok(node);
        }
        let is_named = |member: &&Member| member.name == name && member.is_current();
        let mut found: Vec<&Member> = self.members.values().filter(is_named).collect();
        if found.is_empty() && name.len() >= NODE_PREFIX_DIGITS_MIN {
            let has_prefix = |member: &&Member| member.node.to_string().starts_with(name);
            found = self.members.values().filter(has_prefix).collect();
        }
        match found[..] {
            [] => Err(Refusal::NodeNotFound(name.chars().take(WORD_CHARS_MAX).collect())),
            [member] => Ok(member.node),
            _ => Err(Refusal::AmbiguousNode {
                name: name.to_owned(),
                nodes: found.iter().map(|member| member.node.to_string()).collect(),
            }),
        }
    }

    /// Returns what people call a node, or the beginning of its key.
    pub(super) fn name_of(&self, node: &NodeId) -> String {
        self.members.get(node).map_or_else(|| node.short(), |member| member.name.clone())
    }

    /// Refuses if this node is a reader.
    ///
    /// A node that is no member, because the admin that let it in was shut out, goes on with its own records.
    pub(super) fn may_write(&self) -> Result<(), Refusal> {
        let own = self.members.get(&self.node);
        let is_reader = own.is_some_and(|member| member.role == Role::Reader);
        if is_reader { Err(Refusal::ReadOnly) } else { Ok(()) }
    }

    pub(super) fn new_session_id(&mut self, wall_ms: i64) -> SessionId {
        self.new_id("ses_", wall_ms).parse().expect("made of an id's characters")
    }

    pub(super) fn new_workspace_id(&mut self, wall_ms: i64) -> WorkspaceId {
        self.new_id("wrk_", wall_ms).parse().expect("made of an id's characters")
    }

    pub(super) fn new_operation(&mut self, wall_ms: i64) -> OperationId {
        self.new_id("op_", wall_ms).parse().expect("made of an id's characters")
    }

    pub(super) fn new_receipt(&mut self, wall_ms: i64) -> ReceiptId {
        self.new_id("rcp_", wall_ms).parse().expect("made of an id's characters")
    }

    fn new_id(&mut self, prefix: &str, wall_ms: i64) -> String {
        let mut rest = u64::try_from(wall_ms).unwrap_or(0);
        let mut time = [0; TIME_DIGITS];
        for digit in time.iter_mut().rev() {
            *digit = ALPHABET[(rest % 62) as usize];
            rest /= 62;
        }
        let random = (0..RANDOM_DIGITS).map(|_| ALPHABET[self.random.usize(..ALPHABET.len())]);
        let suffix = time.into_iter().chain(random).map(char::from);
        prefix.chars().chain(suffix).collect()
    }
}

/// Refuses a text that is too long or holds control characters.
fn check_text(field: &str, text: &str, chars_max: usize) -> Result<(), Refusal> {
    let invalid = |problem: String| Refusal::InvalidField { field: field.to_owned(), problem };
    let chars = text.chars().count();
    if chars > chars_max {
        return Err(invalid(format!("has {chars} characters, at most {chars_max} are allowed")));
    }
    if text.contains('\0') {
        return Err(invalid("holds a NUL character".to_owned()));
    }
    Ok(())
}

/// Refuses a title or name that is too long.
pub fn check_title(field: &str, title: Option<&str>) -> Result<(), Refusal> {
    title.map_or(Ok(()), |title| check_text(field, title, TITLE_CHARS_MAX))
}

/// Refuses a directory that is too long.
pub fn check_directory(directory: Option<&str>) -> Result<(), Refusal> {
    directory.map_or(Ok(()), |text| check_text("directory", text, DIRECTORY_CHARS_MAX))
}

/// Refuses a directory that is too long, or that says nothing to whoever is somewhere else.
pub fn check_absolute(directory: Option<&str>) -> Result<(), Refusal> {
    check_directory(directory)?;
    if directory.is_some_and(|text| !text.starts_with('/')) {
        let problem = "is not an absolute path".to_owned();
        return Err(Refusal::InvalidField { field: "directory".to_owned(), problem });
    }
    Ok(())
}

/// Refuses a kind, project id or branch that is too long.
pub fn check_word(field: &str, word: Option<&str>) -> Result<(), Refusal> {
    word.map_or(Ok(()), |word| check_text(field, word, WORD_CHARS_MAX))
}

/// Refuses a field that must not be empty.
pub fn check_present(field: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        let problem = "is empty".to_owned();
        return Err(Refusal::InvalidField { field: field.to_owned(), problem });
    }
    Ok(())
}

/// Refuses free fields that are too many or too long; `count` is how many there would be.
pub fn check_extra<'a>(
    entries: impl Iterator<Item = (&'a String, Option<&'a String>)>,
    count: usize,
) -> Result<(), Refusal> {
    if count > EXTRA_ENTRIES_MAX {
        return Err(Refusal::InvalidField {
            field: "extra".to_owned(),
            problem: format!("has {count} entries, at most {EXTRA_ENTRIES_MAX} are allowed"),
        });
    }
    for (key, value) in entries {
        check_present("extra", key)?;
        check_text("extra", key, EXTRA_KEY_CHARS_MAX)?;
        let shown: String = key.chars().take(EXTRA_KEY_CHARS_MAX).collect();
        value.map_or(Ok(()), |value| {
            check_text(&format!("extra.{shown}"), value, EXTRA_VALUE_CHARS_MAX)
        })?;
    }
    Ok(())
}

/// Refuses a time that JSON readers would not keep exact.
pub fn check_time(field: &str, at: Option<i64>) -> Result<(), Refusal> {
    match at {
        Some(at) if !(0..=TIME_MS_MAX).contains(&at) => Err(Refusal::InvalidField {
            field: field.to_owned(),
            problem: "is not a time in milliseconds since the epoch".to_owned(),
        }),
        _ => Ok(()),
    }
}

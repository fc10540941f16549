//! Owns the number by which two views are compared.
//!
//! Must not know how a view came about. Invariant: it depends on the set of public records alone,
//! not on the order in which they were added, so that it can be kept up in step with each change.

mod canonical;

use std::{
    fmt,
    iter::Sum,
    ops::{AddAssign, SubAssign},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use super::record::{Session, Workspace};

/// The sum mod 2^128 of the first 16 bytes (big endian) of SHA-256 over each record's RFC 8785
/// canonical JSON, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Digest {
    /// Returns what a session adds to the digest of a view.
    pub fn of_session(session: &Session) -> Self {
        Self::of(&canonical::session(session))
    }

    /// Returns what a workspace adds to the digest of a view.
    pub fn of_workspace(workspace: &Workspace) -> Self {
        Self::of(&canonical::workspace(workspace))
    }

    fn of(json: &[u8]) -> Self {
        let hash = Sha256::digest(json);
        let mut head = [0; 16];
        head.copy_from_slice(&hash[..16]);
        Self(u128::from_be_bytes(head))
    }
}

/// Adds a record's part, mod 2^128.
impl AddAssign for Digest {
    fn add_assign(&mut self, part: Self) {
        self.0 = self.0.wrapping_add(part.0);
    }
}

/// Takes a record's part out, mod 2^128.
impl SubAssign for Digest {
    fn sub_assign(&mut self, part: Self) {
        self.0 = self.0.wrapping_sub(part.0);
    }
}

impl Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits =
            text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let digest = digits.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        digest.map(Self).ok_or_else(|| D::Error::custom("a digest is 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        ids::NodeId,
        record::{Deletion, SessionState},
    };

    fn session(created_at: i64) -> Session {
        Session {
            id: "ses_1".parse().unwrap(),
            host: NodeId([0xab; 32]),
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: Some("/home/é/\"x\"".into()),
            title: Some("line\nbreak".into()),
            created_at,
            updated_at: 2,
            archived_at: None,
            agent: None,
            agent_server: None,
            state: SessionState::Deleted,
            deleted: Some(Deletion {
                by: NodeId([1; 32]),
                at: 3,
                operation: "op".parse().unwrap(),
                reason: None,
            }),
            // U+10000 comes before U+FF5E in UTF-16, by which RFC 8785 sorts, and after it in UTF-8.
            extra: [("\u{ff5e}".into(), "b".into()), ("\u{10000}".into(), "a".into())].into(),
        }
    }

    #[test]
    fn a_part_is_the_head_of_the_hash_of_canonical_json_written_by_hand() {
        let (host, by) = ("ab".repeat(32), "01".repeat(32));
        let json = format!(
            r#"{{"agent":null,"agent_server":null,"archived_at":null,"created_at":1,"deleted":{{"at":3,"by":"{by}","operation":"op"}},"directory":"/home/é/\"x\"","extra":{{"{}":"a","{}":"b"}},"host":"{host}","id":"ses_1","parent_id":null,"project_id":null,"state":"deleted","title":"line\nbreak","updated_at":2,"workspace_id":null}}"#,
            '\u{10000}', '\u{ff5e}'
        );
        let hash = Sha256::digest(json.as_bytes());
        let digits: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Digest::of_session(&session(1)).to_string(), digits);
    }

    #[test]
    fn a_time_beyond_what_a_double_holds_still_has_a_digest_of_its_own_record() {
        let far = Digest::of_session(&session(i64::MAX));
        assert_eq!(far, Digest::of_session(&session(i64::MAX)));
        assert_ne!(far, Digest::of_session(&session(1)));
        assert_ne!(far, Digest::of_session(&session(i64::MIN)));
        // What an unwritable record would add: a record that is written never adds that.
        let mut head = [0; 16];
        head.copy_from_slice(&Sha256::digest([])[..16]);
        assert_ne!(far, Digest(u128::from_be_bytes(head)));
    }

    #[test]
    fn taking_out_what_was_added_leaves_the_digest_as_it_was_also_past_zero() {
        let part = Digest::of_session(&session(1));
        let mut digest = Digest(u128::MAX);
        digest += part;
        digest += Digest(1);
        digest -= part;
        assert_eq!(digest, Digest(0));
        digest -= Digest(1);
        assert_eq!(digest, Digest(u128::MAX));
        assert_eq!([Digest(u128::MAX), Digest(2)].into_iter().sum::<Digest>(), Digest(1));
    }

    #[test]
    fn a_digest_reads_back_what_it_wrote_and_nothing_else() {
        let digest = Digest(0xf0);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{:0>32}\"", "f0"));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        for bad in ["\"\"", "\"f0\"", &json.to_uppercase(), "\"+0000000000000000000000000000000\""]
        {
            assert!(serde_json::from_str::<Digest>(bad).is_err(), "{bad} was accepted");
        }
    }
}

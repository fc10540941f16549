//! Owns which versions of the protocol are spoken, and the choice among them.
//!
//! Must not know frames. Invariant: both sides choose the same version from the same two ranges.

use std::fmt;

/// The newest protocol that this version speaks.
pub const PROTOCOL: u16 = 2;
/// The oldest protocol that this version still speaks.
pub const PROTOCOL_MIN: u16 = 2;

/// The protocol versions that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

/// Says that two nodes have no protocol in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no common protocol: this node speaks {ours}, the peer speaks {theirs}")]
pub struct NoCommonProtocol {
    /// What this node speaks.
    pub ours: ProtocolRange,
    /// What the peer speaks.
    pub theirs: ProtocolRange,
}

impl ProtocolRange {
    /// What this version of the software speaks.
    pub const OURS: Self = Self { min: PROTOCOL_MIN, max: PROTOCOL };

    /// Returns the newest protocol that both ranges hold.
    ///
    /// # Errors
    ///
    /// There is none, or a range is empty.
    pub fn agree(self, theirs: Self) -> Result<u16, NoCommonProtocol> {
        let agreed = self.max.min(theirs.max);
        if agreed >= self.min && agreed >= theirs.min {
            Ok(agreed)
        } else {
            Err(NoCommonProtocol { ours: self, theirs })
        }
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "version {}", self.min)
        } else {
            write!(f, "versions {} to {}", self.min, self.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> ProtocolRange {
        ProtocolRange { min, max }
    }

    #[test]
    fn both_sides_agree_on_the_newest_common_protocol() {
        for (ours, theirs, agreed) in [
            (range(1, 1), range(1, 1), 1),
            (range(1, 2), range(2, 9), 2),
            (range(3, 7), range(1, 5), 5),
            (range(0, u16::MAX), range(4, 4), 4),
        ] {
            assert_eq!(ours.agree(theirs), Ok(agreed));
            assert_eq!(theirs.agree(ours), Ok(agreed));
        }
    }

    #[test]
    fn a_refusal_names_both_ranges() {
        let error = range(3, 4).agree(range(1, 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no common protocol: this node speaks versions 3 to 4, the peer speaks version 1"
        );
        assert!(range(1, 5).agree(range(4, 2)).is_err(), "an empty range has nothing in common");
    }
}

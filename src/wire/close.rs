//! Owns why links are closed, and the numbers and names of the reasons.
//!
//! Must not know who closes a link when. Invariant: a number, once given, keeps its meaning.

use std::fmt;

/// Why a link was closed; the number is QUIC's application error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseCode {
    /// The daemon is stopping.
    Shutdown = 0,
    /// Another link to the same peer is kept.
    Duplicate = 1,
    /// A frame could not be read.
    Malformed = 2,
    /// A frame came out of turn.
    Unexpected = 3,
    /// No protocol version is spoken by both.
    Protocol = 4,
    /// The peer belongs to another fleet.
    WrongFleet = 5,
    /// The peer's key is not a member's.
    UnknownKey = 6,
    /// The peer was revoked.
    Revoked = 7,
    /// Syncing with the peer is paused.
    Paused = 8,
    /// The ticket's secret is not known here.
    TicketUnknown = 9,
    /// The ticket was redeemed by another node.
    TicketUsed = 10,
    /// The ticket is past its time.
    TicketExpired = 11,
    /// What the peer sent would harm this node.
    Hostile = 12,
    /// The peer, or this node, has left the fleet.
    Left = 13,
    /// The peer did not say what it had to in time.
    Timeout = 14,
    /// Something broke on the sender's side.
    Internal = 15,
}

impl CloseCode {
    /// Tells whether the link was turned down for a reason that stays until someone acts.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::Protocol
            | Self::WrongFleet
            | Self::UnknownKey
            | Self::Revoked
            | Self::Paused
            | Self::TicketUnknown
            | Self::TicketUsed
            | Self::TicketExpired
            | Self::Hostile
            | Self::Left => true,
            Self::Shutdown
            | Self::Duplicate
            | Self::Malformed
            | Self::Unexpected
            | Self::Timeout
            | Self::Internal => false,
        }
    }

    /// All codes, by number.
    pub const ALL: [Self; 16] = [
        Self::Shutdown,
        Self::Duplicate,
        Self::Malformed,
        Self::Unexpected,
        Self::Protocol,
        Self::WrongFleet,
        Self::UnknownKey,
        Self::Revoked,
        Self::Paused,
        Self::TicketUnknown,
        Self::TicketUsed,
        Self::TicketExpired,
        Self::Hostile,
        Self::Left,
        Self::Timeout,
        Self::Internal,
    ];

    /// Returns the code with this number, if this version knows it.
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_u32() == number)
    }

    /// Returns the number that stands for the code on the wire.
    pub fn as_u32(self) -> u32 {
        self as u32
    }

    /// Returns the code's name for logs, metrics and the API; it never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Duplicate => "duplicate",
            Self::Malformed => "malformed",
            Self::Unexpected => "unexpected",
            Self::Protocol => "protocol",
            Self::WrongFleet => "wrong_fleet",
            Self::UnknownKey => "unknown_key",
            Self::Revoked => "revoked",
            Self::Paused => "paused",
            Self::TicketUnknown => "ticket_unknown",
            Self::TicketUsed => "ticket_used",
            Self::TicketExpired => "ticket_expired",
            Self::Hostile => "hostile",
            Self::Left => "left",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

impl From<CloseCode> for u32 {
    fn from(code: CloseCode) -> Self {
        code.as_u32()
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_reads_back_from_its_number() {
        for (number, code) in (0..).zip(CloseCode::ALL) {
            assert_eq!(code.as_u32(), number);
            assert_eq!(CloseCode::from_u32(number), Some(code));
        }
        assert_eq!(CloseCode::from_u32(CloseCode::ALL.len() as u32), None);
        assert_eq!(CloseCode::from_u32(u32::MAX), None);
    }
}

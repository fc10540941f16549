//! Owns the first exchange on a connection: one stream, and `Open` from both sides.
//!
//! Must not know which link is kept. Invariant: an opened connection has proven the peer's key and
//! told the peer's start.

use std::time::Duration;

use quinn::{Connection, ConnectionError, SendStream, VarInt};

use super::{
    link::{describe, received_code},
    read::{ReadEnd, Reader},
};
use crate::{
    identity::tls,
    replica::ids::{NodeId, StartId},
    wire::{self, CloseCode, Frame, Lane, PROTOCOL},
};

/// Where ordinary frames stand among streams: before snapshots, which have 0.
const LINK_PRIORITY: i32 = 1;

/// A connection on which the peer has said `Open`.
pub(super) struct Opened {
    pub connection: Connection,
    pub peer: NodeId,
    /// The peer's start.
    pub start: StartId,
    pub dialed: bool,
    pub send: SendStream,
    pub reader: Reader,
    /// Whether this node still has to say `Open`.
    pub owes_open: bool,
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The other side closed it.
    #[error("{reason}")]
    Closed { code: Option<CloseCode>, reason: String },
    /// This side closed it.
    #[error("{reason}")]
    Refused { code: CloseCode, reason: String },
}

/// Opens a connection that this node has dialled, or answers one that it has accepted.
///
/// With `hold`, an accepted connection is not answered yet: the peer learns from `Open` that its
/// link is kept.
pub(super) async fn open(
    connection: Connection,
    dialed: bool,
    hold: impl FnOnce(NodeId) -> bool,
    (this, start): (NodeId, StartId),
    patience: Duration,
) -> Result<Opened, OpenError> {
    let attempt = exchange(&connection, dialed, hold, this, start);
    let refusal = match tokio::time::timeout(patience, attempt).await {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(ReadEnd::Lost(error))) => return Err(closed(&error)),
        Ok(Err(ReadEnd::Malformed(error))) => {
            (CloseCode::Malformed, format!("the first frame cannot be read: {error}"))
        }
        Ok(Err(ReadEnd::Unexpected(what))) => (CloseCode::Unexpected, what.into()),
        Ok(Err(ReadEnd::Finished)) => {
            (CloseCode::Unexpected, "the stream ended before anything was said".into())
        }
        Err(_) => (CloseCode::Timeout, format!("nothing was said for {patience:?}")),
    };
    let (code, reason) = refusal;
    connection.close(VarInt::from_u32(code.as_u32()), reason.as_bytes());
    Err(OpenError::Refused { code, reason })
}

async fn exchange(
    connection: &Connection,
    dialed: bool,
    hold: impl FnOnce(NodeId) -> bool,
    this: NodeId,
    start: StartId,
) -> Result<Opened, ReadEnd> {
    let peer = tls::peer_node_id(connection).ok_or(ReadEnd::Unexpected("no key was shown"))?;
    if peer == this {
        return Err(ReadEnd::Unexpected(
            "this node's own key: is its data folder on two machines?",
        ));
    }
    let (mut send, receive) = if dialed {
        connection.open_bi().await.map_err(ReadEnd::Lost)?
    } else {
        connection.accept_bi().await.map_err(ReadEnd::Lost)?
    };
    let owes_open = !dialed && hold(peer);
    if !owes_open {
        say_open(&mut send, start).await?;
    }
    let mut reader = Reader::new(receive, Lane::Link);
    let (Frame::Open { start }, _) = reader.next().await? else {
        return Err(ReadEnd::Unexpected("the first frame is not `open`"));
    };
    if dialed {
        // It was chosen, and may have much to say at once; who has dialled may be a stranger.
        reader.trust();
    }
    let connection = connection.clone();
    Ok(Opened { connection, peer, start, dialed, send, reader, owes_open })
}

/// Says `Open`, as the first frame of a stream.
pub(super) async fn say_open(send: &mut SendStream, start: StartId) -> Result<(), ReadEnd> {
    // An error means that the connection is gone, and the reading side says why.
    let _ = send.set_priority(LINK_PRIORITY);
    let bytes = wire::encode(&Frame::Open { start }).expect("`open` has a fixed, small size");
    match send.write_all(&bytes).await {
        Ok(()) => Ok(()),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(ReadEnd::Lost(error)),
        Err(_) => Err(ReadEnd::Unexpected("the peer stopped the stream")),
    }
}

/// Says for people why nothing can be said to a node of another version.
pub(super) fn other_version() -> String {
    format!(
        "one of the two nodes speaks another version of the protocol than {PROTOCOL}; run the same \
         sessionmesh on both"
    )
}

fn closed(error: &ConnectionError) -> OpenError {
    OpenError::Closed { code: received_code(error), reason: describe(error) }
}

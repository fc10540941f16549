//! Owns one link, from the moment that it is the link to its peer until nothing of it is left.
//!
//! Must not know other links, beyond waiting for the end of the one before it. Invariant: all that
//! it tells, it tells in one task: `Connected`, frames and `Drained`, then `Lost`, nothing after.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use quinn::{Connection, ConnectionError, SendStream, VarInt, WriteError};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    conflict::Claim,
    event::{Event, Teller},
    open::{self, Opened},
    outbox::Outbox,
    places::Place,
    read::{ReadEnd, Reader},
};
use crate::{
    replica::ids::{NodeId, StartId},
    wire::{CloseCode, Frame, Lane},
};

/// How long a link that is closed may go on sending what was queued before.
pub(super) const FLUSH_MAX: Duration = Duration::from_secs(1);
/// How long a peer that has finished its stream may take to close the connection: its own flush
/// and a round trip.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// How many snapshots are on their way to a peer at once: to wait until one has arrived takes a round
/// trip, and up to 25 ms by which its acknowledgement may be put off (RFC 9000, `max_ack_delay`).
const SNAPSHOTS_ON_WAY_MAX: usize = 4;
/// Most bytes of a link that wait to be read, until it is accepted: a greeting, or what redeems a
/// ticket, is far shorter, and whoever has dialled may be a stranger.
pub(super) const STRANGER_WINDOW: u32 = 64 << 10;
/// Most bytes of one stream that wait to be read: what a fast link carries in a round trip.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;
/// Most snapshot streams that a peer may have open.
pub(super) const SNAPSHOT_STREAMS_MAX: u32 = 4;
/// Most bytes of one link that wait to be read: snapshots that wait never keep pushes out.
pub(super) const LINK_WINDOW: u32 = STREAM_WINDOW * (SNAPSHOT_STREAMS_MAX + 1);
/// Longest reason that is taken from a peer, in characters.
const REASON_CHARS_MAX: usize = 256;

/// How this node ends a link.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub code: CloseCode,
    pub reason: String,
    /// Whether what is queued is to be sent before.
    pub flush: bool,
}

/// What others hold of a link.
pub(super) struct Link {
    pub peer: NodeId,
    pub claim: Claim,
    pub opened: Instant,
    pub connection: Connection,
    pub outbox: Outbox,
    /// Cancelled once the peer is known to be who may say more than a greeting.
    accepted: CancellationToken,
    /// Taken until the link is accepted, or has ended.
    place: Mutex<Option<Place>>,
    ending: Mutex<Option<Ending>>,
    ended: CancellationToken,
}

/// The streams of a link, for the task that runs it.
pub(super) struct Streams {
    send: SendStream,
    reader: Reader,
    owes_open: bool,
}

/// What the task that runs a link needs to know of the house.
pub(super) struct Surroundings {
    pub teller: Teller,
    /// This node's start.
    pub start: StartId,
    /// Resolves when the link before this one has told its end.
    pub predecessor: Option<oneshot::Receiver<Infallible>>,
}

/// How a link has ended, for whoever dials.
#[derive(Debug)]
pub(super) struct Lost {
    pub code: Option<CloseCode>,
    pub reason: String,
}

impl Link {
    /// Makes a link of an opened connection.
    pub(super) fn new(opened: Opened, place: Option<Place>) -> (Arc<Self>, Streams) {
        let Opened { connection, peer, start, dialed, send, reader, owes_open } = opened;
        let link = Self {
            peer,
            claim: Claim { start, dialed },
            opened: Instant::now(),
            connection,
            outbox: Outbox::new(),
            accepted: CancellationToken::new(),
            place: Mutex::new(place),
            ending: Mutex::new(None),
            ended: CancellationToken::new(),
        };
        if dialed {
            // It was chosen, and its windows are wide from the start.
            link.accepted.cancel();
        }
        (Arc::new(link), Streams { send, reader, owes_open })
    }

    /// Lets the peer say all that a link is for.
    pub(super) fn accept(&self) {
        if self.accepted.is_cancelled() {
            return;
        }
        self.connection.set_receive_window(VarInt::from_u32(LINK_WINDOW));
        self.connection.set_max_concurrent_uni_streams(VarInt::from_u32(SNAPSHOT_STREAMS_MAX));
        self.accepted.cancel();
        self.leave_place();
    }

    /// Gives back the place among the strangers, if it has one.
    pub(super) fn leave_place(&self) {
        let place = self.place.lock().expect("nothing panics while it holds this lock").take();
        drop(place);
    }

    /// Ends the link, unless it is being ended already.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.lock().expect("nothing panics while it holds this lock").get_or_insert(ending);
        self.ended.cancel();
        self.outbox.close();
    }

    /// Runs the link and tells all that happens on it but its end, which is returned; `None` if
    /// it has ended before it was told of.
    pub(super) async fn run(
        self: &Arc<Self>,
        streams: Streams,
        house: Surroundings,
    ) -> Option<Lost> {
        let Surroundings { teller, start, predecessor } = house;
        let Streams { mut send, mut reader, owes_open } = streams;
        if owes_open {
            // The peer waits for it; where it can't be sent, reading says why.
            let _ = open::say_open(&mut send, start).await;
        }
        if let Some(predecessor) = predecessor {
            // Nothing is ever sent: the end of the sender is the news.
            let _ = predecessor.await;
        }
        if self.ended.is_cancelled() {
            self.close(&self.ending());
            return None;
        }
        teller.tell_connected(self).await;
        let mut writes = pin!(self.write(&mut send, &teller));
        let mut flushed = false;
        let end = tokio::select! {
            biased;
            () = self.ended.cancelled() => None,
            written = &mut writes => {
                flushed = true;
                written.err()
            }
            end = self.read(&mut reader, &teller) => Some(end),
        };
        if let Some(end) = end {
            return Some(self.judge(end).await);
        }
        let ending = self.ending();
        if ending.flush && !flushed {
            // A peer that does not take it within the time does not get it.
            let _ = timeout(FLUSH_MAX, writes).await;
        }
        self.close(&ending);
        Some(Lost { code: None, reason: ending.reason })
    }

    /// Closes the connection at once; also that of a link that never ran.
    pub(super) fn close(&self, ending: &Ending) {
        self.connection.close(VarInt::from_u32(ending.code.as_u32()), ending.reason.as_bytes());
    }

    fn ending(&self) -> Ending {
        let ending = self.ending.lock().expect("nothing panics while it holds this lock");
        ending.clone().expect("a link is ended only with an ending")
    }

    /// Turns the end of reading into the end of the link.
    async fn judge(&self, end: ReadEnd) -> Lost {
        let (code, reason) = match end {
            ReadEnd::Lost(error) => return lost(&error),
            ReadEnd::Finished => {
                if let Ok(error) = timeout(FAREWELL_MAX, self.connection.closed()).await {
                    return lost(&error);
                }
                (CloseCode::Unexpected, "the peer finished the link's stream".to_owned())
            }
            ReadEnd::Malformed(error) => {
                tracing::warn!(peer = %self.peer.short(), %error, "a frame cannot be read");
                (CloseCode::Malformed, format!("a frame cannot be read: {error}"))
            }
            ReadEnd::Unexpected(what) => {
                tracing::warn!(peer = %self.peer.short(), what, "a rule of the link was broken");
                (CloseCode::Unexpected, what.to_owned())
            }
        };
        self.close(&Ending { code, reason: reason.clone(), flush: false });
        Lost { code: None, reason }
    }

    async fn read(&self, reader: &mut Reader, teller: &Teller) -> ReadEnd {
        tokio::select! {
            biased;
            Err(end) = self.read_link(reader, teller) => end,
            Err(end) = self.read_snapshots(teller) => end,
        }
    }

    async fn read_link(&self, reader: &mut Reader, teller: &Teller) -> Result<Infallible, ReadEnd> {
        let mut waits = true;
        loop {
            let (frame, bytes) = reader.next().await?;
            match frame {
                Frame::Open { .. } => return Err(ReadEnd::Unexpected("a second `open`")),
                Frame::Snapshot { .. } => {
                    return Err(ReadEnd::Unexpected("a snapshot among the pushes"));
                }
                frame => self.tell_frame(frame, bytes, teller).await,
            }
            // One frame is enough to be judged by. What is behind it waits until it was; a connection
            // that is over by then brings no more than what has arrived.
            if std::mem::take(&mut waits) {
                tokio::select! {
                    biased;
                    () = self.accepted.cancelled() => reader.trust(),
                    _ = self.connection.closed() => {}
                }
            }
        }
    }

    /// Reads snapshots, one after the other; flow control holds the others back.
    async fn read_snapshots(&self, teller: &Teller) -> Result<Infallible, ReadEnd> {
        self.accepted.cancelled().await;
        loop {
            let Ok(stream) = self.connection.accept_uni().await else {
                // The link's own stream says why, after all that it still holds.
                std::future::pending().await
            };
            let mut reader = Reader::new(stream, Lane::Snapshot);
            match reader.next().await {
                Ok((frame @ Frame::Snapshot { .. }, bytes)) => {
                    if !reader.ends().await? {
                        return Err(ReadEnd::Unexpected("more than a snapshot on its stream"));
                    }
                    self.tell_frame(frame, bytes, teller).await;
                }
                Ok(_) => return Err(ReadEnd::Unexpected("a push on a snapshot's stream")),
                // Of a newer version, and skipped.
                Err(ReadEnd::Finished) => {}
                Err(ReadEnd::Lost(_)) => std::future::pending().await,
                Err(end) => return Err(end),
            }
        }
    }

    async fn tell_frame(&self, frame: Frame, bytes: usize, teller: &Teller) {
        tracing::trace!(peer = %self.peer.short(), kind = frame.kind(), bytes, "received");
        teller.tell_frame(self.peer, frame, bytes).await;
    }

    /// Writes what is queued until the link is ended and all of it has arrived.
    async fn write(&self, send: &mut SendStream, teller: &Teller) -> Result<(), ReadEnd> {
        let written = tokio::try_join!(self.write_link(send, teller), self.write_snapshots(teller));
        match written {
            Ok(_) => Ok(()),
            // The reading side says why, after all that the peer has said before.
            Err(WriteError::ConnectionLost(_)) => std::future::pending().await,
            Err(_) => Err(ReadEnd::Unexpected("the peer stopped a stream")),
        }
    }

    async fn write_link(&self, send: &mut SendStream, teller: &Teller) -> Result<(), WriteError> {
        let mut batch = Vec::new();
        while self.outbox.next(Lane::Link, &mut batch).await {
            let (frames, bytes) = (batch.len(), batch.iter().map(Bytes::len).sum());
            send.write_all_chunks(&mut batch).await?;
            batch.clear();
            self.written(Lane::Link, frames, bytes, teller).await;
        }
        arrived(send).await
    }

    async fn write_snapshots(&self, teller: &Teller) -> Result<(), WriteError> {
        let (mut batch, mut on_way) = (Vec::new(), FuturesUnordered::new());
        // Pushes go before snapshots, and each of these before those behind it: they would share the
        // way.
        let mut priority = 0_i32;
        let mut has_more = true;
        while has_more || !on_way.is_empty() {
            tokio::select! {
                biased;
                Some(arrived) = on_way.next() => {
                    let bytes = arrived?;
                    self.written(Lane::Snapshot, 1, bytes, teller).await;
                }
                more = self.outbox.next(Lane::Snapshot, &mut batch),
                    if has_more && on_way.len() < SNAPSHOTS_ON_WAY_MAX =>
                {
                    has_more = more;
                    for snapshot in batch.drain(..) {
                        let bytes = snapshot.len();
                        let mut send =
                            self.connection.open_uni().await.map_err(WriteError::ConnectionLost)?;
                        priority = if on_way.is_empty() { -1 } else { priority - 1 };
                        // An error means that the stream is gone, and the next line says why.
                        let _ = send.set_priority(priority);
                        send.write_chunk(snapshot).await?;
                        on_way.push(async move { arrived(&mut send).await.map(|()| bytes) });
                    }
                }
            }
        }
        Ok(())
    }

    async fn written(&self, lane: Lane, frames: usize, bytes: usize, teller: &Teller) {
        if self.outbox.written(lane, frames, bytes) {
            teller.tell(Event::Drained { peer: self.peer }).await;
        }
    }
}

/// Finishes a stream and waits until the peer has all of it.
async fn arrived(send: &mut SendStream) -> Result<(), WriteError> {
    // An error means that the stream is gone, and the next line says why.
    let _ = send.finish();
    match send.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(code)) => Err(WriteError::Stopped(code)),
        Err(quinn::StoppedError::ConnectionLost(error)) => Err(WriteError::ConnectionLost(error)),
        Err(quinn::StoppedError::ZeroRttRejected) => Err(WriteError::ZeroRttRejected),
    }
}

fn lost(error: &ConnectionError) -> Lost {
    Lost { code: received_code(error), reason: describe(error) }
}

/// Returns the code with which the other side closed a connection.
pub(super) fn received_code(error: &ConnectionError) -> Option<CloseCode> {
    let ConnectionError::ApplicationClosed(close) = error else {
        return None;
    };
    CloseCode::from_u32(u32::try_from(close.error_code.into_inner()).ok()?)
}

/// Says for people why a connection is gone.
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let said = escaped(&close.reason);
            match (said.is_empty(), received_code(error)) {
                (false, _) => said,
                (true, Some(code)) => format!("the peer closed the link: {code}"),
                (true, None) => format!("the peer closed the link: code {}", close.error_code),
            }
        }
        ConnectionError::ConnectionClosed(close) => {
            let said = escaped(&close.reason);
            format!("the peer refused: {}", if said.is_empty() { "it is busy" } else { &said })
        }
        ConnectionError::TimedOut => "no answer".into(),
        ConnectionError::Reset => "the peer has forgotten the link; it was restarted".into(),
        ConnectionError::LocallyClosed => "closed by this node".into(),
        other => escaped(other.to_string().as_bytes()),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .take(REASON_CHARS_MAX)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

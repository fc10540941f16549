//! Owns the reading of frames from a stream.
//!
//! Must not know what frames mean. Invariant: memory grows with what has arrived, up to the limit
//! of the moment, and a stream that breaks a rule is not read any further.

use bytes::Bytes;
use quinn::{ConnectionError, RecvStream};

use crate::wire::{self, DecodeError, Decoded, Frame, HEADER_BYTES, Lane, Splitter};

/// How many segments of a stream are taken at once: one lock of the connection for all of them.
const SEGMENTS: usize = 32;
/// Greatest buffer that is kept from frame to frame.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// Longest frame, with its header, until whoever has dialled has greeted: `Open` and a greeting
/// are far shorter, and a stranger is to hold no more memory than that.
const FIRST_BYTES_MAX: usize = 64 << 10;

/// Why no further frame comes.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// The stream was finished between two frames.
    Finished,
    /// The connection is gone.
    Lost(ConnectionError),
    /// Bytes are no frame.
    Malformed(DecodeError),
    /// The stream, or a frame on it, breaks a rule.
    Unexpected(&'static str),
}

/// Reads one stream.
pub(super) struct Reader {
    stream: RecvStream,
    lane: Lane,
    splitter: Splitter,
    /// Longest frame that is waited for.
    limit: usize,
    /// Bytes that were read since the last whole frame.
    partial: usize,
}

impl Reader {
    /// Makes a reader at the beginning of a stream that takes only short frames at first.
    pub(super) fn new(stream: RecvStream, lane: Lane) -> Self {
        let limit = match lane {
            Lane::Link => FIRST_BYTES_MAX,
            Lane::Snapshot => lane.bytes_max() + HEADER_BYTES,
        };
        Self { stream, lane, splitter: Splitter::new(lane), limit, partial: 0 }
    }

    /// Takes frames of any allowed length from now on.
    pub(super) fn trust(&mut self) {
        self.limit = self.lane.bytes_max() + HEADER_BYTES;
    }

    /// Returns the next frame that this version knows, and how many bytes it had.
    ///
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(Frame, usize), ReadEnd> {
        loop {
            while let Some(payload) = self.splitter.next_frame().map_err(ReadEnd::Malformed)? {
                let bytes = payload.len();
                let decoded = wire::decode(payload).map_err(ReadEnd::Malformed)?;
                self.partial = 0;
                if bytes > KEPT_BYTES_MAX && self.splitter.is_between_frames() {
                    self.splitter = Splitter::new(self.lane);
                }
                match decoded {
                    Decoded::Known(frame) => return Ok((frame, bytes)),
                    Decoded::Unknown { kind } => {
                        tracing::debug!(kind, bytes, "skipped a frame of a newer version");
                    }
                }
            }
            if self.partial > self.limit {
                return Err(ReadEnd::Unexpected("a frame is too long before the greeting"));
            }
            self.fill().await?;
        }
    }

    /// Tells whether the stream ends here; reads on until that is known.
    pub(super) async fn ends(&mut self) -> Result<bool, ReadEnd> {
        if !self.splitter.is_between_frames() {
            return Ok(false);
        }
        match self.fill().await {
            Ok(()) => Ok(false),
            Err(ReadEnd::Finished) => Ok(true),
            Err(end) => Err(end),
        }
    }

    async fn fill(&mut self) -> Result<(), ReadEnd> {
        let mut segments: [Bytes; SEGMENTS] = std::array::from_fn(|_| Bytes::new());
        match self.stream.read_chunks(&mut segments).await {
            Ok(Some(count)) => {
                for segment in &segments[..count] {
                    self.splitter.push(segment);
                    self.partial += segment.len();
                }
                Ok(())
            }
            Ok(None) if self.splitter.is_between_frames() => Err(ReadEnd::Finished),
            Ok(None) => Err(ReadEnd::Unexpected("a stream ended within a frame")),
            Err(quinn::ReadError::ConnectionLost(error)) => Err(ReadEnd::Lost(error)),
            Err(_) => Err(ReadEnd::Unexpected("a stream was broken off")),
        }
    }
}

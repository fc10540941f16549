//! Owns where a frame begins and ends in a stream of bytes.
//!
//! Must not know what is in a frame. Invariant: memory grows with the bytes that arrived, never
//! with a length that was only announced.

use super::{
    codec::DecodeError,
    limits::{FRAME_BYTES_MAX, SNAPSHOT_BYTES_MAX},
};

/// How many bytes precede each frame: its length, `u32`, little-endian.
pub const HEADER_BYTES: usize = 4;

/// The two sorts of streams that frames travel on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The one bidirectional stream of a link.
    Link,
    /// A unidirectional stream that holds one snapshot frame.
    Snapshot,
}

impl Lane {
    /// Returns the greatest length of a frame on such a stream, without its header.
    pub fn bytes_max(self) -> usize {
        match self {
            Self::Link => FRAME_BYTES_MAX,
            Self::Snapshot => SNAPSHOT_BYTES_MAX,
        }
    }
}

/// Returns the length that a header announces, for the bytes that follow it.
///
/// Whoever reads from a peer grows the buffer as bytes arrive: an announced snapshot may be long
/// and never come.
///
/// # Errors
///
/// The length is zero or more than the lane's limit.
pub fn frame_length(header: [u8; HEADER_BYTES], lane: Lane) -> Result<usize, DecodeError> {
    let length = u32::from_le_bytes(header) as usize;
    if length == 0 {
        return Err(DecodeError::Empty);
    }
    if length > lane.bytes_max() {
        return Err(DecodeError::FrameTooLong { length, limit: lane.bytes_max() });
    }
    Ok(length)
}

/// Cuts a stream of bytes into the payloads of frames.
///
/// Bytes go in with [`push`](Self::push), payloads come out of
/// [`next_frame`](Self::next_frame), to be given to [`decode`](super::decode).
#[derive(Debug)]
pub struct Splitter {
    lane: Lane,
    buffer: Vec<u8>,
    /// Bytes at the buffer's start that were given out; removed at the next `push`.
    taken: usize,
}

impl Splitter {
    /// Makes a splitter at the beginning of a stream.
    pub fn new(lane: Lane) -> Self {
        Self { lane, buffer: Vec::new(), taken: 0 }
    }

    /// Takes the next bytes of the stream, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the payload of the next frame, once all of it has arrived.
    ///
    /// # Errors
    ///
    /// The announced length is zero or over the limit; the stream can't be read any further, and
    /// each later call says so again.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let rest = &self.buffer[self.taken..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = frame_length(*header, self.lane)?;
        if body.len() < length {
            return Ok(None);
        }
        let start = self.taken + HEADER_BYTES;
        self.taken = start + length;
        Ok(Some(&self.buffer[start..self.taken]))
    }

    /// Tells whether the stream could end here: no frame has begun to arrive.
    pub fn is_between_frames(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = [&[2, 0, 0, 0, 7, 8][..], &[1, 0, 0, 0, 9], &[3, 0, 0, 0, 1, 2, 3]].concat();
        for piece in 1..=stream.len() {
            let mut splitter = Splitter::new(Lane::Link);
            let mut frames = Vec::new();
            for bytes in stream.chunks(piece) {
                splitter.push(bytes);
                while let Some(frame) = splitter.next_frame().unwrap() {
                    frames.push(frame.to_vec());
                }
            }
            assert_eq!(frames, [vec![7, 8], vec![9], vec![1, 2, 3]], "in pieces of {piece}");
            assert!(splitter.is_between_frames());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_of_it_arrived() {
        let mut splitter = Splitter::new(Lane::Link);
        splitter.push(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
        let refused =
            DecodeError::FrameTooLong { length: FRAME_BYTES_MAX + 1, limit: FRAME_BYTES_MAX };
        assert_eq!(splitter.next_frame(), Err(refused.clone()));
        assert_eq!(splitter.next_frame(), Err(refused));
        assert_eq!(frame_length([0; 4], Lane::Link), Err(DecodeError::Empty));
        let header = (SNAPSHOT_BYTES_MAX as u32).to_le_bytes();
        assert_eq!(frame_length(header, Lane::Snapshot), Ok(SNAPSHOT_BYTES_MAX));
        assert!(frame_length(header, Lane::Link).is_err());
        assert!(frame_length([0xff; 4], Lane::Snapshot).is_err());
    }
}

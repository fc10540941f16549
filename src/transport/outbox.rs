//! Owns what waits to be sent on one link.
//!
//! Must not know sockets. Invariant: it holds a bounded number of bytes, and what is sent is a
//! prefix of what was put in, until it has overflowed and emptied; then it says so, once.

use std::{collections::VecDeque, sync::Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::wire::Lane;

/// Most bytes of ordinary frames that wait for a peer: a second of a fast writer; beyond, catching
/// up by heads is cheaper than every push.
const LINK_BYTES_MAX: usize = 4 << 20;
/// Most ordinary frames that wait for a peer.
const LINK_FRAMES_MAX: usize = 4_096;
/// Most bytes of snapshots that wait for a peer: a first sync asks for every document at once.
const SNAPSHOT_BYTES_MAX: usize = 64 << 20;
/// Most snapshots that wait for a peer.
const SNAPSHOTS_MAX: usize = 1_024;
/// Most bytes that are given out to be written at once.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// How much may wait for a peer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most ordinary frames.
    pub link_frames: usize,
    /// Most bytes of ordinary frames.
    pub link_bytes: usize,
    /// Most snapshots.
    pub snapshots: usize,
    /// Most bytes of snapshots.
    pub snapshot_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            link_frames: LINK_FRAMES_MAX,
            link_bytes: LINK_BYTES_MAX,
            snapshots: SNAPSHOTS_MAX,
            snapshot_bytes: SNAPSHOT_BYTES_MAX,
        }
    }
}

/// The queues of one link, without anyone who waits; a simulation has them as the daemon does.
#[derive(Debug)]
pub struct Queues {
    limits: Limits,
    link: Queue,
    snapshots: Queue,
    overflowed: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    /// Of the frames that wait or are being written.
    frames: usize,
    bytes: usize,
}

impl Queues {
    /// Makes empty ones.
    pub fn new(limits: Limits) -> Self {
        let (link, snapshots) = (Queue::default(), Queue::default());
        Self { limits, link, snapshots, overflowed: false, closed: false }
    }

    /// Takes an encoded frame; `false` if there is no room for it and it is dropped.
    ///
    /// A frame longer than the limit is taken by an empty queue. Once one was dropped, all are,
    /// until both queues have emptied: the receiver would have to mend the gap in any case.
    pub fn push(&mut self, lane: Lane, frame: Bytes) -> bool {
        if self.closed || self.overflowed {
            return false;
        }
        let (frames_max, bytes_max) = match lane {
            Lane::Link => (self.limits.link_frames, self.limits.link_bytes),
            Lane::Snapshot => (self.limits.snapshots, self.limits.snapshot_bytes),
        };
        let queue = self.queue(lane);
        let full = queue.frames >= frames_max || queue.bytes + frame.len() > bytes_max;
        if queue.frames > 0 && full && !planted!(QueueUnbounded) {
            self.overflowed = true;
            return false;
        }
        queue.frames += 1;
        queue.bytes += frame.len();
        queue.waiting.push_back(frame);
        true
    }

    /// Moves the next frames that wait into `batch`, to be written at once.
    pub fn take(&mut self, lane: Lane, batch: &mut Vec<Bytes>) {
        let waiting = &mut self.queue(lane).waiting;
        let mut bytes = 0;
        while let Some(frame) = waiting.front() {
            let one_by_one = lane == Lane::Snapshot && !batch.is_empty();
            bytes += frame.len();
            if one_by_one || (bytes > BATCH_BYTES_MAX && !batch.is_empty()) {
                break;
            }
            batch.extend(waiting.pop_front());
        }
    }

    /// Notes that a batch was written; `true` if a queue had overflowed and both are now empty.
    pub fn written(&mut self, lane: Lane, frames: usize, bytes: usize) -> bool {
        let queue = self.queue(lane);
        queue.frames -= frames;
        queue.bytes -= bytes;
        let drained = self.overflowed && self.link.frames == 0 && self.snapshots.frames == 0;
        if drained {
            self.overflowed = false;
        }
        drained
    }

    /// Takes nothing more; what waits can still be taken out.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Returns how many frames, and bytes of them, wait or are being written.
    pub fn held(&self, lane: Lane) -> (usize, usize) {
        let queue = match lane {
            Lane::Link => &self.link,
            Lane::Snapshot => &self.snapshots,
        };
        (queue.frames, queue.bytes)
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Link => &mut self.link,
            Lane::Snapshot => &mut self.snapshots,
        }
    }
}

/// Holds the frames on their way to one peer.
#[derive(Debug)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    link_filled: Notify,
    snapshots_filled: Notify,
}

impl Outbox {
    /// Makes an empty one.
    pub(super) fn new() -> Self {
        let queues = Mutex::new(Queues::new(Limits::default()));
        Self { queues, link_filled: Notify::new(), snapshots_filled: Notify::new() }
    }

    /// Takes an encoded frame; `false` if there is no room for it and it is dropped.
    pub(super) fn push(&self, lane: Lane, frame: Bytes) -> bool {
        let taken = self.queues().push(lane, frame);
        if taken {
            self.filled(lane).notify_one();
        }
        taken
    }

    /// Moves the next frames into `batch`, once there are any; `false` if none will come any more.
    ///
    /// Cancel-safe. Only one may wait per lane.
    pub(super) async fn next(&self, lane: Lane, batch: &mut Vec<Bytes>) -> bool {
        loop {
            {
                let mut queues = self.queues();
                queues.take(lane, batch);
                if !batch.is_empty() {
                    return true;
                }
                if queues.closed {
                    return false;
                }
            }
            self.filled(lane).notified().await;
        }
    }

    /// Notes that a batch was written; `true` if the outbox had overflowed and is now empty.
    pub(super) fn written(&self, lane: Lane, frames: usize, bytes: usize) -> bool {
        self.queues().written(lane, frames, bytes)
    }

    /// Takes nothing more; what waits can still be taken out.
    pub(super) fn close(&self) {
        self.queues().close();
        self.link_filled.notify_one();
        self.snapshots_filled.notify_one();
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().expect("nothing panics while it holds this lock")
    }

    fn filled(&self, lane: Lane) -> &Notify {
        match lane {
            Lane::Link => &self.link_filled,
            Lane::Snapshot => &self.snapshots_filled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Bytes {
        Bytes::from(vec![0; bytes])
    }

    /// Writes all that waits; tells whether the outbox said that it has drained.
    async fn write_all(outbox: &Outbox, lane: Lane) -> bool {
        let mut drained = false;
        while outbox.queues().held(lane).0 > 0 {
            let mut batch = Vec::new();
            assert!(outbox.next(lane, &mut batch).await);
            drained |= outbox.written(lane, batch.len(), batch.iter().map(Bytes::len).sum());
        }
        drained
    }

    #[tokio::test]
    async fn frames_come_out_in_order_and_in_batches() {
        let outbox = Outbox::new();
        let frames: Vec<Bytes> = (0..10_u8).map(|n| Bytes::from(vec![n])).collect();
        for frame in &frames {
            assert!(outbox.push(Lane::Link, frame.clone()));
        }
        let mut batch = Vec::new();
        assert!(outbox.next(Lane::Link, &mut batch).await);
        assert_eq!(batch, frames);
        assert!(!outbox.written(Lane::Link, 10, 10), "nothing had overflowed");
    }

    #[tokio::test]
    async fn bytes_and_frames_are_bounded_and_draining_is_told_once() {
        for (size, fits) in [(1 << 20, 4), (1, LINK_FRAMES_MAX)] {
            let outbox = Outbox::new();
            for _ in 0..fits {
                assert!(outbox.push(Lane::Link, frame(size)));
            }
            assert!(!outbox.push(Lane::Link, frame(size)));
            assert!(!outbox.push(Lane::Link, frame(0)), "no gap is followed by a frame");
            assert!(write_all(&outbox, Lane::Link).await, "it tells that it has drained");
            assert!(outbox.push(Lane::Link, frame(size)));
            assert!(!write_all(&outbox, Lane::Link).await, "it tells so once");
        }
    }

    #[tokio::test]
    async fn it_has_not_drained_before_both_lanes_are_empty() {
        let outbox = Outbox::new();
        assert!(outbox.push(Lane::Snapshot, frame(10)));
        assert!(outbox.push(Lane::Link, frame(LINK_BYTES_MAX)));
        assert!(!outbox.push(Lane::Link, frame(1)));
        assert!(!write_all(&outbox, Lane::Link).await);
        assert!(write_all(&outbox, Lane::Snapshot).await);
    }

    #[tokio::test]
    async fn what_is_being_written_counts() {
        let outbox = Outbox::new();
        assert!(outbox.push(Lane::Link, frame(LINK_BYTES_MAX)));
        let mut batch = Vec::new();
        assert!(outbox.next(Lane::Link, &mut batch).await);
        assert!(!outbox.push(Lane::Link, frame(1)));
    }

    #[test]
    fn a_frame_longer_than_the_limit_finds_room_in_an_empty_queue() {
        let outbox = Outbox::new();
        assert!(outbox.push(Lane::Link, frame(LINK_BYTES_MAX * 2)));
        assert!(!outbox.push(Lane::Link, frame(1)));
    }

    #[tokio::test]
    async fn snapshots_come_out_one_by_one_and_beside_the_pushes() {
        let outbox = Outbox::new();
        assert!(outbox.push(Lane::Snapshot, frame(LINK_BYTES_MAX)));
        assert!(outbox.push(Lane::Snapshot, frame(3)));
        assert!(outbox.push(Lane::Link, frame(2)));
        let mut batch = Vec::new();
        assert!(outbox.next(Lane::Link, &mut batch).await);
        assert_eq!(batch, [frame(2)]);
        batch.clear();
        assert!(outbox.next(Lane::Snapshot, &mut batch).await);
        assert_eq!(batch.len(), 1);
    }

    #[tokio::test]
    async fn a_closed_outbox_gives_out_what_it_has_and_takes_nothing() {
        let outbox = Outbox::new();
        assert!(outbox.push(Lane::Link, frame(1)));
        outbox.close();
        assert!(!outbox.push(Lane::Link, frame(1)));
        let mut batch = Vec::new();
        assert!(outbox.next(Lane::Link, &mut batch).await);
        assert_eq!(batch.len(), 1);
        batch.clear();
        assert!(!outbox.next(Lane::Link, &mut batch).await);
    }
}

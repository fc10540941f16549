//! Owns the thread that writes log lines, so that nobody who logs waits for the log's reader.
//!
//! Must not know what a line says. Invariants: to log never blocks, never fails and never panics,
//! whether the log is a closed pipe, a full disk or a reader that has stopped reading; lines that
//! were lost are counted, and the log says how many as soon as it can be written again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Most bytes of lines that wait to be written: minutes of an ordinary log.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How often the log is tried again while lines are missing from it and nothing is logged.
const RETRY: Duration = Duration::from_secs(5);

enum Item {
    Line(Vec<u8>),
    /// Asks to be told once all lines before it are written or lost.
    Flush(Sender<()>),
}

/// Takes lines for the thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lines {
    items: Sender<Item>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread; `note` makes the line that says how many lines are missing.
    ///
    /// # Errors
    ///
    /// The system has no thread for it.
    pub fn start(
        log: impl Write + Send + 'static,
        note: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (items, receiver) = mpsc::channel();
        let lines = Self { items, waiting_bytes: Arc::default(), lost: Arc::default() };
        let (waiting_bytes, lost) = (lines.waiting_bytes.clone(), lines.lost.clone());
        let mut log = Log { log, is_mid_line: false, lost, note: Box::new(note) };
        let run = move || log.run(&receiver, &waiting_bytes);
        thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(lines)
    }

    /// Hands a line over; drops and counts it if too much waits already.
    pub fn add(&self, line: &[u8]) {
        let before = self.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if before + line.len() <= WAITING_BYTES_MAX
            && self.items.send(Item::Line(line.to_vec())).is_ok()
        {
            return;
        }
        self.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until all lines so far are written, but no longer than `within`.
    pub fn flush(&self, within: Duration) {
        let (done, is_done) = mpsc::channel();
        if self.items.send(Item::Flush(done)).is_ok() {
            // A log that nobody reads keeps nothing from ending.
            let _ = is_done.recv_timeout(within);
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

/// Hands over what is written to it: the subscriber writes a whole line at once.
#[derive(Debug)]
pub struct LineWriter<'a>(&'a Lines);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's end.
struct Log<W> {
    log: W,
    /// Whether a write has broken off in the middle of a line.
    is_mid_line: bool,
    lost: Arc<AtomicU64>,
    note: Box<dyn Fn(u64) -> String + Send>,
}

impl<W: Write> Log<W> {
    fn run(&mut self, items: &Receiver<Item>, waiting_bytes: &AtomicUsize) {
        loop {
            let item = if self.lost.load(Ordering::Relaxed) == 0 {
                items.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                items.recv_timeout(RETRY)
            };
            match item {
                Ok(Item::Line(line)) => {
                    let is_written = self.write_note() && self.write(&line);
                    if !is_written {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Ok(Item::Flush(done)) => {
                    self.write_note();
                    // Whoever asked may wait no longer.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write_note();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says how many lines are missing, if any are; tells whether the log can be written.
    fn write_note(&mut self) -> bool {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost == 0 {
            return true;
        }
        let note = (self.note)(lost);
        let is_written = self.write(note.as_bytes());
        if is_written {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        is_written
    }

    /// Writes a line whole, or tells that it could not.
    fn write(&mut self, line: &[u8]) -> bool {
        if self.is_mid_line {
            if self.write_rest(b"\n").is_err() {
                return false;
            }
            self.is_mid_line = false;
        }
        match self.write_rest(line) {
            Ok(()) => true,
            Err(written) => {
                self.is_mid_line = written > 0;
                false
            }
        }
    }

    /// Writes bytes; fails with how many of them were written.
    fn write_rest(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.log.write(&bytes[written..]) {
                Ok(0) => return Err(written),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A log whose reader does as it is told.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        read: Vec<u8>,
        is_stalled: bool,
        /// How many more bytes fit before writes fail.
        room: Option<usize>,
    }

    impl Reader {
        fn change(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().read.clone()).unwrap()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |state| state.is_stalled).unwrap();
            let fits = bytes.len().min(state.room.unwrap_or(usize::MAX));
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.read.extend_from_slice(&bytes[..fits]);
            if let Some(room) = &mut state.room {
                *room -= fits;
            }
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn started() -> (Lines, Reader) {
        let reader = Reader::default();
        let lines = Lines::start(reader.clone(), |lost| format!("{lost} lost\n")).unwrap();
        (lines, reader)
    }

    #[test]
    fn lines_that_a_full_disk_lost_are_counted_where_it_can_be_written_again() {
        let (lines, reader) = started();
        lines.add(b"one\n");
        lines.flush(LONG);
        reader.change(|state| state.room = Some(2));
        lines.add(b"two\n");
        lines.add(b"three\n");
        lines.flush(LONG);
        reader.change(|state| state.room = None);
        lines.add(b"four\n");
        lines.flush(LONG);
        assert_eq!(reader.text(), "one\ntw\n2 lost\nfour\n");
    }

    #[test]
    fn a_reader_that_stops_reading_holds_nobody_up_and_loses_only_what_does_not_fit() {
        let (lines, reader) = started();
        reader.change(|state| state.is_stalled = true);
        let line = [b'x'; 1_024];
        let fit = WAITING_BYTES_MAX / line.len();
        for _ in 0..fit + 10 {
            lines.add(&line);
        }
        reader.change(|state| state.is_stalled = false);
        lines.flush(LONG);
        let text = reader.text();
        assert_eq!(text.matches('x').count(), fit * line.len());
        assert!(text.contains("10 lost\n"), "{}", text.trim_start_matches('x'));
    }

    #[test]
    fn a_log_that_nobody_reads_does_not_keep_the_process_from_ending() {
        let (lines, reader) = started();
        reader.change(|state| state.is_stalled = true);
        lines.add(b"one\n");
        lines.flush(Duration::from_millis(1));
        assert_eq!(reader.text(), "");
        reader.change(|state| state.is_stalled = false);
    }
}

//! Owns what a verb writes to stdout.
//!
//! Must not know verbs. Invariant: a reader who has had enough (`| head`) ends the verb quietly.

use std::{
    io::{self, IsTerminal as _, Write},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{failure::Failure, table::Table};

/// How wide a terminal is taken to be that doesn't say.
const COLUMNS_DEFAULT: u16 = 80;

/// Where results go.
pub struct Output {
    writer: Box<dyn Write + Send>,
    columns: Option<u16>,
}

impl Output {
    /// Writes to stdout.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let columns = stdout.is_terminal().then(|| {
            let size = rustix::termios::tcgetwinsize(&stdout).ok();
            size.map(|size| size.ws_col).filter(|columns| *columns > 0).unwrap_or(COLUMNS_DEFAULT)
        });
        Self { writer: Box::new(stdout), columns }
    }

    /// Tells whether a person is likely to look at it right away.
    pub fn is_terminal(&self) -> bool {
        self.columns.is_some()
    }

    /// Writes a line, and out it goes.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(&format!("{text}\n"))
    }

    /// Writes a table.
    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let text = table.render(self.columns);
        self.write(&text)
    }

    /// Writes names and values, one a line.
    pub fn facts(&mut self, facts: &[(&str, String)]) -> Result<(), Failure> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for (name, value) in facts {
            text += &format!("{name:width$}  {}\n", super::printable::printable(value));
        }
        self.write(&text)
    }

    /// Writes a value as one line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|e| Failure::Output(e.into()))?;
        self.line(&text)
    }

    /// Writes text as it is.
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Output(error),
        })
    }
}

/// Waits until whoever read stdout has had enough; for ever where the system doesn't say so.
pub async fn closed() {
    let (closed, is_closed) = oneshot::channel();
    // The thread ends with the process: nothing but the end of the reader wakes it.
    let waiting = thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let stdout = io::stdout();
        let ends = PollFlags::ERR | PollFlags::HUP;
        loop {
            let mut looked = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut looked, None) {
                Ok(_) if looked[0].revents().intersects(ends) => {
                    // Whoever waited may have ended.
                    let _ = closed.send(());
                    return;
                }
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    });
    if waiting.is_err() || is_closed.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Writes a remark to stderr; who can't be told is not told.
pub fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_output_is_no_error_and_a_full_disk_is_one() {
        for (kind, exit) in [(io::ErrorKind::BrokenPipe, 0), (io::ErrorKind::StorageFull, 1)] {
            let mut output = Output { writer: Box::new(Failing(kind)), columns: None };
            assert_eq!(output.line("x").unwrap_err().exit() as u8, exit);
        }
    }
}

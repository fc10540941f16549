//! Owns the parsing of server-sent events (WHATWG HTML, section 9.2.6) as bytes come in.
//!
//! Must not know what events mean. Invariant: the same bytes give the same events, however they
//! are cut into chunks.

/// Largest event of our own stream, bytes: a snapshot of half a million sessions.
pub const SNAPSHOT_BYTES_MAX: usize = 512 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// What kind it is; `message` if the server doesn't say.
    pub kind: String,
    /// The text of its `data` lines.
    pub data: String,
    /// The last id that was told, with it or before it.
    pub id: Option<String>,
}

/// An event is longer than can be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {0} bytes")]
pub struct TooLong(pub usize);

/// Reads a stream of events.
#[derive(Debug)]
pub struct Parser {
    /// Largest event, bytes.
    bytes_max: usize,
    line: Vec<u8>,
    after_return: bool,
    begun: bool,
    kind: String,
    data: String,
    id: Option<String>,
}

impl Parser {
    /// Begins with a stream whose events have at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            after_return: false,
            begun: false,
            kind: String::new(),
            data: String::new(),
            id: None,
        }
    }

    /// Takes the next bytes and returns the events that they complete.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes);
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + self.data.len() + part.len() > self.bytes_max {
                return Err(TooLong(self.bytes_max));
            }
            self.line.extend_from_slice(part);
            bytes = rest;
            if let Some((&end, rest)) = rest.split_first() {
                self.after_return = end == b'\r';
                bytes = rest;
                events.extend(self.end_line());
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        if !std::mem::replace(&mut self.begun, true) && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment, whose field is empty, or what a newer server says.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let (mut kind, mut data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        // Each data line has ended the one before it, and only one end is too many.
        data.pop()?;
        if kind.is_empty() {
            "message".clone_into(&mut kind);
        }
        Some(Event { kind, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: &str, id: Option<&str>) -> Event {
        Event { kind: kind.to_owned(), data: data.to_owned(), id: id.map(str::to_owned) }
    }

    fn parse(text: &str) -> Vec<Event> {
        Parser::new(1 << 10).push(text.as_bytes()).unwrap()
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = "\u{feff}: ping\r\n\r\nevent: diff\r\nid: a-1\r\ndata: {\"t\":\"é✓\"}\r\n\r\n\
                    data: 1\rdata: 2\r\rid: a-2\ndata\n\n";
        let whole = parse(text);
        assert_eq!(
            whole,
            [
                event("diff", "{\"t\":\"é✓\"}", Some("a-1")),
                event("message", "1\n2", Some("a-1")),
                event("message", "", Some("a-2")),
            ]
        );
        for size in 1..text.len() {
            let mut parser = Parser::new(1 << 10);
            let chunks = text.as_bytes().chunks(size);
            let cut: Vec<_> = chunks.flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(cut, whole, "chunks of {size}");
        }
    }

    #[test]
    fn comments_and_unknown_fields_say_nothing() {
        assert_eq!(parse(": ping\n\n:\n\nretry: 5\nfoo: bar\n\n"), []);
    }

    #[test]
    fn only_the_first_space_after_the_colon_belongs_to_the_form() {
        assert_eq!(parse("data:  a: b\ndata:c\n\n"), [event("message", " a: b\nc", None)]);
    }

    #[test]
    fn an_event_that_has_not_ended_is_not_told() {
        let mut parser = Parser::new(1 << 10);
        assert_eq!(parser.push(b"event: diff\ndata: x\n").unwrap(), []);
        assert_eq!(parser.push(b"\n").unwrap(), [event("diff", "x", None)]);
    }

    #[test]
    fn an_event_without_data_leaves_no_kind_behind_but_its_id() {
        let events = parse("event: diff\nid: 7\n\ndata: x\n\n");
        assert_eq!(events, [event("message", "x", Some("7"))]);
    }

    #[test]
    fn an_event_that_is_too_long_is_refused_however_it_comes() {
        for piece in [vec![b'x'; 300], b"data: x\n".repeat(40)] {
            let mut parser = Parser::new(1 << 10);
            let refused = (0..100).find_map(|_| parser.push(&piece).err());
            assert_eq!(refused, Some(TooLong(1 << 10)));
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced_rather_than_fatal() {
        let events = Parser::new(1 << 10).push(b"data: a\xffb\n\n").unwrap();
        assert_eq!(events, [event("message", "a\u{fffd}b", None)]);
    }
}

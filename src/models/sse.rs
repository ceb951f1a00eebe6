//! Server-sent events, read piece by piece. Knows nothing about models.
//!
//! Invariants: an event is yielded only when its blank line has arrived; what is cut off is never yielded. The work is linear
//! in the number of bytes, however they are cut.

/// One event. `data` lines are joined with a line feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// The stream is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the stream is not UTF-8")]
    NotText,
    #[error("one event is larger than {0} bytes")]
    TooLarge(usize),
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct Events {
    buffer: Vec<u8>,
    /// Everything before it has been taken.
    taken: usize,
    /// No line end between `taken` and here.
    scanned: usize,
    /// The event under way.
    open: Event,
    has_data: bool,
    /// The byte order mark at the very start has been looked for.
    begun: bool,
}

/// The most bytes of one event.
const MAX_EVENT: usize = 12 * 1024 * 1024;

impl Events {
    /// Where new bytes are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.scanned -= self.taken;
            self.taken = 0;
        }
        &mut self.buffer
    }

    /// The next whole event, if it has arrived.
    pub fn take(&mut self) -> Result<Option<Event>, Fault> {
        while let Some((from, to)) = self.line() {
            let line = std::str::from_utf8(&self.buffer[from..to]).map_err(|_| Fault::NotText)?;
            let line =
                if std::mem::replace(&mut self.begun, true) { line } else { line.trim_start_matches('\u{feff}') };
            if line.is_empty() {
                let event = std::mem::take(&mut self.open);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.open.name),
                "data" => {
                    if self.has_data {
                        self.open.data.push('\n');
                    }
                    self.has_data = true;
                    self.open.data.push_str(value);
                    if self.open.data.len() > MAX_EVENT {
                        return Err(Fault::TooLarge(MAX_EVENT));
                    }
                }
                // Comments have an empty name; `id`, `retry` and whatever else comes mean nothing here.
                _ => {}
            }
        }
        if self.buffer.len() - self.taken > MAX_EVENT { Err(Fault::TooLarge(MAX_EVENT)) } else { Ok(None) }
    }

    /// The bounds of the next whole line without its end. A line ends with `\n`, `\r\n` or `\r`.
    fn line(&mut self) -> Option<(usize, usize)> {
        let rest = &self.buffer[self.scanned..];
        let Some(at) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let (from, to) = (self.taken, self.scanned + at);
        let next = match (self.buffer[to], self.buffer.get(to + 1)) {
            (b'\r', Some(b'\n')) => to + 2,
            (b'\r', None) => {
                // Whether a `\n` follows is not known yet.
                self.scanned = to;
                return None;
            }
            _ => to + 1,
        };
        (self.taken, self.scanned) = (next, next);
        Some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Event>, Fault> {
        let mut events = Events::default();
        let mut out = Vec::new();
        for piece in pieces {
            events.buffer().extend_from_slice(piece);
            while let Some(event) = events.take()? {
                out.push(event);
            }
        }
        Ok(out)
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = "\u{feff}: hi\r\nevent: a\r\ndata: {\"x\":\r\ndata:1}\r\n\r\ndata: é\n\nid: 3\nevent: none\n\nevent:b\rdata\r\rdata: z\n\ndata: cut";
        let expected = [event("a", "{\"x\":\n1}"), event("", "é"), event("b", ""), event("", "z")];
        assert_eq!(read(&[text.as_bytes()]).unwrap(), expected);
        let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes).unwrap(), expected);
        for cut in 0..text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            assert_eq!(read(&[a, b]).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_an_event_without_end_are_refused() {
        assert_eq!(read(&[b"data: \xff\n"]), Err(Fault::NotText));
        let piece = vec![b'x'; 1024 * 1024];
        let mut events = Events::default();
        let endless = (0..20).find_map(|_| {
            events.buffer().extend_from_slice(&piece);
            events.take().err()
        });
        assert_eq!(endless, Some(Fault::TooLarge(MAX_EVENT)));
    }
}

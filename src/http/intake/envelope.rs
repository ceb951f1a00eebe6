//! An envelope, read item by item from a stream: a header in JSON on a line of its own, then per item a header line and a payload
//! of `length` bytes, or up to the end of its line. Only events are held; everything else is passed over.

use std::io::{self, BufRead};

use serde_json::{Map, Value};

use super::Refused;
use super::body::MOST_DECODED;

/// One event, decoded.
pub const MOST_EVENT: usize = 1 << 20;
/// A header line.
const MOST_HEADER: usize = 64 << 10;
/// By the book an envelope holds one event.
const MOST_EVENTS: usize = 16;
/// Of all events of an envelope together.
const MOST_EVENTS_BYTES: usize = 4 << 20;

/// What an envelope says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub event_id: Option<String>,
    pub dsn: Option<String>,
}

/// What was in an envelope.
#[derive(Debug, Default, PartialEq)]
pub struct Opened {
    pub events: Vec<Value>,
    /// Items of other kinds.
    pub other: u32,
    /// Events that were no JSON, or an item's header that was none.
    pub unreadable: u32,
    pub too_large: u32,
}

/// A stream of which only so much is read.
pub struct Stream<R> {
    reader: R,
    left: u64,
}

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
enum Halt {
    /// More than may be decoded.
    Bomb,
    /// The encoding is broken.
    Broken,
}

/// A payload that was asked for.
enum Payload {
    Whole(Vec<u8>),
    TooLarge,
    /// It ended before its length was reached.
    Short,
}

impl<R: BufRead> Stream<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, left: MOST_DECODED }
    }

    fn fill(&mut self) -> Result<&[u8], Halt> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Halt::Broken),
            }
        }
        // What was filled is there at once.
        self.reader.fill_buf().map_err(|_| Halt::Broken)
    }

    fn consume(&mut self, count: usize) -> Result<(), Halt> {
        self.reader.consume(count);
        self.left = self.left.checked_sub(count as u64).ok_or(Halt::Bomb)?;
        Ok(())
    }

    /// A line without its end, `None` at the end of everything. Of a longer one than `most` nothing is held.
    fn line(&mut self, most: usize) -> Result<Option<Payload>, Halt> {
        let (mut line, mut large, mut any) = (Vec::new(), false, false);
        loop {
            let there = self.fill()?;
            if there.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', there);
            let piece = &there[..end.unwrap_or(there.len())];
            if large || line.len() + piece.len() > most {
                large = true;
                line = Vec::new();
            } else {
                line.extend_from_slice(piece);
            }
            let count = piece.len() + usize::from(end.is_some());
            self.consume(count)?;
            if end.is_some() {
                break;
            }
        }
        Ok(any.then_some(if large { Payload::TooLarge } else { Payload::Whole(line) }))
    }

    /// So many bytes, and the end of line that may follow them. Held only if `keep` and not more than `most`.
    fn exactly(&mut self, length: u64, keep: bool, most: usize) -> Result<Payload, Halt> {
        let held = keep && length <= most as u64;
        let mut payload = Vec::new();
        let mut left = length;
        while left > 0 {
            let there = self.fill()?;
            if there.is_empty() {
                return Ok(Payload::Short);
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(there.len());
            if held {
                payload.extend_from_slice(&there[..count]);
            }
            self.consume(count)?;
            left -= count as u64;
        }
        if self.fill()?.first() == Some(&b'\n') {
            self.consume(1)?;
        }
        Ok(if held { Payload::Whole(payload) } else { Payload::TooLarge })
    }

    /// The first line. Errors: 400 when it is no JSON object.
    pub fn head(&mut self) -> Result<Head, Refused> {
        let line = self.line(MOST_HEADER)?;
        let Some(Payload::Whole(line)) = line else { return Err(Refused::Bad("the envelope has no header")) };
        let map: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|_| Refused::Bad("the envelope's header is no JSON object"))?;
        let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Head { event_id: text("event_id"), dsn: text("dsn") })
    }

    /// The items, after the head. A broken item costs only itself where its end can be found.
    pub fn items(&mut self) -> Result<Opened, Refused> {
        let mut opened = Opened::default();
        let mut bytes = 0;
        loop {
            match self.item(&mut opened, &mut bytes) {
                Ok(true) => {}
                Ok(false) => return Ok(opened),
                Err(Halt::Bomb) => return Err(Refused::TooLarge),
                // What came before it is whole.
                Err(Halt::Broken) if !opened.events.is_empty() => {
                    opened.unreadable += 1;
                    return Ok(opened);
                }
                Err(Halt::Broken) => return Err(Halt::Broken.into()),
            }
        }
    }

    /// The next item. False: there is no other.
    fn item(&mut self, opened: &mut Opened, bytes: &mut usize) -> Result<bool, Halt> {
        let line = match self.line(MOST_HEADER)? {
            None => return Ok(false),
            Some(Payload::Whole(line)) if line.trim_ascii().is_empty() => return Ok(true),
            Some(Payload::Whole(line)) => line,
            Some(_) => Vec::new(),
        };
        let Ok(header) = serde_json::from_slice::<Map<String, Value>>(&line) else {
            // Where the next one begins cannot be known.
            opened.unreadable += 1;
            return Ok(false);
        };
        let is_event = header.get("type").and_then(Value::as_str) == Some("event");
        let payload = match header.get("length").and_then(Value::as_u64) {
            Some(length) => self.exactly(length, is_event, MOST_EVENT)?,
            None if is_event => self.line(MOST_EVENT)?.unwrap_or(Payload::Short),
            None => self.line(0)?.map_or(Payload::Short, |_| Payload::TooLarge),
        };
        if !is_event {
            opened.other += 1;
            return Ok(true);
        }
        match payload {
            Payload::Whole(payload) => {
                *bytes += payload.len();
                if opened.events.len() >= MOST_EVENTS || *bytes > MOST_EVENTS_BYTES {
                    opened.too_large += 1;
                    return Ok(true);
                }
                match serde_json::from_slice::<Map<String, Value>>(&payload) {
                    Ok(event) => opened.events.push(Value::Object(event)),
                    Err(_) => opened.unreadable += 1,
                }
            }
            Payload::TooLarge => opened.too_large += 1,
            Payload::Short => opened.unreadable += 1,
        }
        Ok(true)
    }

    /// A bare event, as `/store/` takes it.
    pub fn event(&mut self) -> Result<Value, Refused> {
        let mut text = Vec::new();
        loop {
            let there = self.fill()?;
            if there.is_empty() {
                break;
            }
            let count = there.len();
            if text.len() + count > MOST_EVENT {
                return Err(Refused::TooLarge);
            }
            text.extend_from_slice(there);
            self.consume(count)?;
        }
        let event: Map<String, Value> =
            serde_json::from_slice(&text).map_err(|_| Refused::Bad("the event is no JSON object"))?;
        Ok(Value::Object(event))
    }
}

impl From<Halt> for Refused {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Bomb => Self::TooLarge,
            Halt::Broken => Self::Bad("the body is not what its content-encoding says"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &[u8]) -> Result<(Head, Opened), Refused> {
        // Small buffers, so that every line crosses one.
        let mut stream = Stream::new(io::BufReader::with_capacity(7, text));
        Ok((stream.head()?, stream.items()?))
    }

    fn messages(opened: &Opened) -> Vec<&str> {
        opened.events.iter().map(|event| event["message"].as_str().unwrap()).collect()
    }

    #[test]
    fn items_are_read_by_length_or_by_line_and_others_are_passed_over() {
        let text = b"{\"event_id\":\"ab\",\"dsn\":\"http://k@h/42\"}\n\
            {\"type\":\"session\",\"length\":5}\nab\ncd\n\
            {\"type\":\"event\",\"length\":15}\n{\"message\":\"a\"}\n\
            {\"type\":\"client_report\"}\n{\"x\":1}\n\
            \n\
            {\"type\":\"event\"}\n{\"message\":\"b\"}\n\
            {\"type\":\"attachment\",\"length\":0}\n\n\
            {\"type\":\"event\",\"length\":15}\n{\"message\":\"c\"}";
        let (head, opened) = open(text).unwrap();
        assert_eq!(head, Head { event_id: Some("ab".into()), dsn: Some("http://k@h/42".into()) });
        assert_eq!((messages(&opened), opened.other, opened.unreadable), (vec!["a", "b", "c"], 3, 0));
        let (head, empty) = open(b"{}").unwrap();
        assert_eq!((head, empty), (Head::default(), Opened::default()));
    }

    #[test]
    fn a_bad_item_costs_only_itself() {
        let large = format!("{{\"message\":\"{}\"}}", "x".repeat(MOST_EVENT));
        for (bad, unreadable, too_large) in [
            ("{\"type\":\"event\",\"length\":3}\n{{{\n".to_owned(), 1, 0),
            ("{\"type\":\"event\"}\nnot json\n".to_owned(), 1, 0),
            ("{\"type\":\"event\",\"length\":2}\n[]\n".to_owned(), 1, 0),
            (format!("{{\"type\":\"event\"}}\n{large}\n"), 0, 1),
            (format!("{{\"type\":\"event\",\"length\":{}}}\n{large}\n", large.len()), 0, 1),
        ] {
            let good = "{\"type\":\"event\",\"length\":15}\n{\"message\":\"a\"}\n";
            let (_, opened) = open(format!("{{}}\n{good}{bad}{good}").as_bytes()).unwrap();
            assert_eq!(
                (messages(&opened), opened.unreadable, opened.too_large),
                (vec!["a", "a"], unreadable, too_large)
            );
        }
        // Where the next item begins is not known any more, or there is none.
        for bad in ["no header\nx\n", "{\"type\":\"event\",\"length\":99}\n{}", "{\"type\":\"event\"}"] {
            let text = format!("{{}}\n{{\"type\":\"event\"}}\n{{\"message\":\"a\"}}\n{bad}");
            let (_, opened) = open(text.as_bytes()).unwrap();
            assert_eq!((messages(&opened), opened.unreadable), (vec!["a"], 1), "{bad}");
        }
        for none in ["", "x", "[]\n", "7"] {
            assert!(matches!(open(none.as_bytes()), Err(Refused::Bad(_))), "{none}");
        }
    }

    #[test]
    fn what_never_ends_is_refused_and_not_held() {
        struct Endless;
        impl io::Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                into.fill(b'x');
                Ok(into.len())
            }
        }
        for start in ["{}\n{\"type\":\"event\"}\n{", "{}\n{\"type\":\"attachment\",\"length\":999999999999}\n", "{}\n"]
        {
            let endless = io::Read::chain(start.as_bytes(), Endless);
            let mut stream = Stream::new(io::BufReader::with_capacity(64 << 10, endless));
            stream.head().unwrap();
            assert_eq!(stream.items(), Err(Refused::TooLarge), "{start}");
        }
        let many = "{\"type\":\"event\"}\n{\"message\":\"a\"}\n".repeat(40);
        let (_, opened) = open(format!("{{}}\n{many}").as_bytes()).unwrap();
        assert_eq!((opened.events.len(), opened.too_large), (MOST_EVENTS, 40 - MOST_EVENTS as u32));
    }
}

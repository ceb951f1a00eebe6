//! As much of HTTP as is needed.

use std::io::{self, BufRead, Read, Write};

/// A request line and headers are not longer than this.
const LONGEST_HEAD: u64 = 16 * 1024;

/// A request; the body is still to be read.
pub struct Request<R> {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: R,
}

impl<R: BufRead> Request<R> {
    /// Reads up to the body. `None`: the other side has nothing to say.
    pub fn read(mut from: R) -> io::Result<Option<Self>> {
        let mut head = (&mut from).take(LONGEST_HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            head.read_line(&mut line)?;
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        Ok(Some(Self { method, path, headers, body: from }))
    }

    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub text: String,
}

impl Response {
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (status, length) = (self.status, self.text.len());
        write!(to, "HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{}", self.text)
    }
}

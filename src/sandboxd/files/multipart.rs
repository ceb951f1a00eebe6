//! `multipart/form-data` as it comes, piece by piece, with nothing of it kept.

use super::body::{Body, BodyError};

/// The head of one part, in bytes: its path is in it.
const MOST_HEAD: usize = 16 << 10;

/// A form that is being read.
pub(super) struct Multipart {
    body: Body,
    buffer: Vec<u8>,
    /// What stands between two parts, with the line break that belongs to it.
    delimiter: Vec<u8>,
    at: At,
}

#[derive(Clone, Copy, PartialEq)]
enum At {
    /// In what belongs to a part, or stands before the first.
    Content,
    Head,
    End,
}

/// What is said of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub name: Option<String>,
    pub filename: Option<String>,
}

impl Multipart {
    /// `None` if the content type names no boundary.
    pub fn new(content_type: &str, body: Body) -> Option<Self> {
        let boundary = parameters(content_type).into_iter().find(|(name, _)| name == "boundary")?.1;
        if boundary.is_empty() || boundary.len() > 200 {
            return None;
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter need have no line before it.
        Some(Self { body, buffer: b"\r\n".to_vec(), delimiter, at: At::Content })
    }

    /// The next part; what was not read of the one before is passed over.
    pub async fn part(&mut self) -> Result<Option<Part>, BodyError> {
        while self.piece().await?.is_some() {}
        if self.at == At::End {
            return Ok(None);
        }
        let head = loop {
            // A head without a line has its empty line at once.
            if self.buffer.starts_with(b"\r\n") {
                break 2;
            }
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > MOST_HEAD {
                return Err(BodyError::Form("the head of a part is too long"));
            }
            self.more().await?;
        };
        let rest = self.buffer.split_off(head);
        let head = std::mem::replace(&mut self.buffer, rest);
        self.at = At::Content;
        Ok(Some(part(&String::from_utf8_lossy(&head))))
    }

    /// The next piece of this part; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>, BodyError> {
        if self.at != At::Content {
            return Ok(None);
        }
        let mut from = 0;
        loop {
            let rest = self.buffer.get(from..).unwrap_or_default();
            let Some(found) = memchr::memmem::find(rest, &self.delimiter) else {
                // Its beginning may be here already.
                let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1).max(from);
                if sure > 0 {
                    return Ok(Some(self.buffer.drain(..sure).collect()));
                }
                self.more().await?;
                continue;
            };
            let (start, end) = (from + found, from + found + self.delimiter.len());
            let Some(next) = self.buffer.get(end..end + 2) else {
                if start > 0 {
                    return Ok(Some(self.buffer.drain(..start).collect()));
                }
                self.more().await?;
                continue;
            };
            let after = match next {
                b"--" => {
                    self.at = At::End;
                    end + 2
                }
                b"\r\n" => {
                    self.at = At::Head;
                    end + 2
                }
                // It only begins like one.
                _ => {
                    from = end;
                    continue;
                }
            };
            let content: Vec<u8> = self.buffer.drain(..after).take(start).collect();
            return Ok((!content.is_empty()).then_some(content));
        }
    }

    async fn more(&mut self) -> Result<(), BodyError> {
        let bytes = self.body.next().await?.ok_or(BodyError::Form("the form ends too early"))?;
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }

    /// What is left of the request.
    pub fn into_body(self) -> Body {
        self.body
    }
}

fn part(head: &str) -> Part {
    let said = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let disposition = said.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"));
    let mut part = Part::default();
    for (name, value) in disposition.flat_map(|(_, value)| parameters(value)) {
        match name.as_str() {
            "name" => part.name = Some(value),
            "filename" => part.filename = Some(value),
            _ => {}
        }
    }
    part
}

/// What stands behind the first `;` of a header: names in lower case, values without quotes.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = header.find(';').map_or("", |at| header.get(at + 1..).unwrap_or_default());
    while let Some(equals) = rest.find('=') {
        let (name, value) = (rest.get(..equals).unwrap_or_default(), rest.get(equals + 1..).unwrap_or_default());
        let name = name.rsplit(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let end = value.find(';').unwrap_or(value.len());
                let (value, after) = value.split_at(end);
                (value.trim().to_owned(), after)
            }
        };
        found.push((name, value));
        rest = after.trim_start().strip_prefix(';').unwrap_or("");
    }
    found
}

/// A quoted text up to its end, and what follows. As Go reads it: a backslash escapes what needs it, and else stands for itself.
fn unquoted(quoted: &str) -> (String, &str) {
    const ESCAPED: &str = "()<>@,;:\\\"/[]?=";
    let mut text = String::new();
    let mut letters = quoted.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (text, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => match letters.next_if(|(_, next)| ESCAPED.contains(*next)) {
                Some((_, next)) => text.push(next),
                None => text.push('\\'),
            },
            _ => text.push(letter),
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content_type: &str, bytes: &[u8], size: usize) -> Result<Vec<(Part, Vec<u8>)>, BodyError> {
        let pieces: Vec<_> = bytes.chunks(size.max(1)).map(<[u8]>::to_vec).collect();
        let mut form = Multipart::new(content_type, Body::of(pieces)).unwrap();
        let mut parts = Vec::new();
        while let Some(part) = form.part().await? {
            let mut content = Vec::new();
            while let Some(piece) = form.piece().await? {
                assert!(!piece.is_empty());
                content.extend(piece);
            }
            parts.push((part, content));
        }
        Ok(parts)
    }

    fn named(name: &str, filename: &str) -> Part {
        Part { name: Some(name.into()), filename: Some(filename.into()) }
    }

    #[tokio::test]
    async fn parts_come_out_whole_wherever_the_pieces_are_cut() {
        let tricky = b"\r\n--bound\r\n--boundaryX\r\n-\r\n--boundar\r\n\0\xff".to_vec();
        let mut form = b"preamble\r\n--boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/a b/\xc3\xbc.txt\"\r\n\
            Content-Type: text/plain\r\n\r\n"
            .to_vec();
        form.extend(&tricky);
        form.extend(
            b"\r\n--boundary\r\ncontent-disposition:form-data;filename=x;name=\"file\"\r\n\r\n\r\n--boundary\r\n\r\nrest\r\n",
        );
        form.extend(b"--boundary--\r\nepilogue");
        let expected = [
            (named("file", "/a b/ü.txt"), tricky),
            (named("file", "x"), Vec::new()),
            (Part::default(), b"rest".to_vec()),
        ];
        for size in 1..form.len() + 1 {
            let found = read("multipart/form-data; charset=x; boundary=\"boundary\"", &form, size).await.unwrap();
            assert_eq!(found, expected, "in pieces of {size}");
        }
        // Without a line before the first, as clients send it.
        let short = b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\n1\r\n--b--\r\n";
        assert_eq!(read("multipart/form-data; boundary=b", short, 3).await.unwrap()[0].1, b"1");
        for end in 0..short.len() - 4 {
            assert!(read("multipart/form-data; boundary=b", &short[..end], 7).await.is_err(), "{end}");
        }
        let endless = [b"--b\r\n".to_vec(), b"x: y\r\n".repeat(10_000)].concat();
        assert!(read("multipart/form-data; boundary=b", &endless, 999).await.is_err());
        assert!(Multipart::new("multipart/form-data", Body::of(Vec::new())).is_none());
    }

    #[test]
    fn names_are_read_as_go_reads_them() {
        for (value, expected) in [
            (r#"form-data; name="file"; filename="a\"b\\c""#, r#"a"b\c"#),
            (r#"form-data; name="file"; filename="C:\temp\x""#, r"C:\temp\x"),
            (r#"form-data; name="file"; filename="a;b=c""#, "a;b=c"),
            (r#"form-data; filename="x%22y"; name="file""#, "x%22y"),
            (r#"form-data; name="file"; filename="open"#, "open"),
            ("form-data; name=file; filename=plain", "plain"),
        ] {
            assert_eq!(part(&format!("Content-Disposition: {value}\r\n\r\n")), named("file", expected));
        }
    }
}

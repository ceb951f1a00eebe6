//! A small strict reader of XML, enough for result files: elements, attributes, text, CDATA, comments.
//!
//! A document type is refused, so there are no entities but the five of XML and those by number; nothing is ever looked up
//! outside. Control characters are let through, for runners write what tests print; who keeps them cleans them.

/// The longest file, in bytes.
const MOST_BYTES: usize = 64 << 20;
const MOST_DEPTH: usize = 64;
const MOST_ATTRIBUTES: usize = 64;

/// One piece of a file.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// An element begins. Its name has no prefix.
    Open {
        name: String,
        attributes: Vec<(String, String)>,
    },
    /// The innermost open element ends.
    Close,
    Text(String),
}

pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Names of open elements as they are written.
    open: Vec<&'a str>,
    /// The element that was just opened is empty.
    closes: bool,
    began: bool,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, open: Vec::new(), closes: false, began: false }
    }

    /// The next piece; `None` behind the root element.
    ///
    /// Errors: what is wrong and in which line, in words.
    pub fn next(&mut self) -> Result<Option<Event>, String> {
        if self.text.len() > MOST_BYTES {
            return Err(format!("it has more than {MOST_BYTES} bytes"));
        }
        if std::mem::take(&mut self.closes) {
            self.open.pop();
            return Ok(Some(Event::Close));
        }
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return match (self.open.last(), self.began) {
                    (Some(name), _) => Err(self.wrong(&format!("it ends within <{name}>"))),
                    (None, false) => Err(self.wrong("there is no element")),
                    (None, true) => Ok(None),
                };
            }
            if rest.starts_with("<!--") {
                self.skip_past("<!--", "-->")?;
            } else if rest.starts_with("<?") {
                self.skip_past("<?", "?>")?;
            } else if rest.starts_with("<![CDATA[") {
                let from = self.at + "<![CDATA[".len();
                self.skip_past("<![CDATA[", "]]>")?;
                if self.open.is_empty() {
                    return Err(self.wrong("text outside of the root element"));
                }
                return Ok(Some(Event::Text(self.text[from..self.at - 3].to_owned())));
            } else if rest.starts_with("<!") {
                return Err(self.wrong("a document type is not taken"));
            } else if rest.starts_with("</") {
                return self.close().map(Some);
            } else if rest.starts_with('<') {
                return self.opening().map(Some);
            } else {
                let end = rest.find('<').unwrap_or(rest.len());
                let text = &rest[..end];
                if self.open.is_empty() {
                    if !text.trim().is_empty() {
                        return Err(self.wrong("text outside of the root element"));
                    }
                    self.at += end;
                    continue;
                }
                let text = self.decode(text)?;
                self.at += end;
                return Ok(Some(Event::Text(text)));
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, what: &str) -> String {
        let line = self.text.as_bytes()[..self.at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{what} (line {line})")
    }

    fn skip_past(&mut self, start: &str, end: &str) -> Result<(), String> {
        match self.rest()[start.len()..].find(end) {
            Some(found) => {
                self.at += start.len() + found + end.len();
                Ok(())
            }
            None => Err(self.wrong(&format!("it ends within {start}"))),
        }
    }

    fn skip_blank(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let rest = self.rest();
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let name = &rest[..end];
        if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return Err(self.wrong("a name is expected"));
        }
        self.at += end;
        Ok(name)
    }

    fn take(&mut self, text: &str) -> Result<(), String> {
        if self.rest().starts_with(text) {
            self.at += text.len();
            return Ok(());
        }
        Err(self.wrong(&if self.rest().is_empty() {
            "it ends within a tag".into()
        } else {
            format!("`{text}` is expected")
        }))
    }

    fn close(&mut self) -> Result<Event, String> {
        self.at += 2;
        let name = self.name()?;
        self.skip_blank();
        self.take(">")?;
        match self.open.pop() {
            Some(open) if open == name => Ok(Event::Close),
            _ => Err(self.wrong(&format!("</{name}> closes nothing"))),
        }
    }

    fn opening(&mut self) -> Result<Event, String> {
        self.at += 1;
        let name = self.name()?;
        if self.open.is_empty() && self.began {
            return Err(self.wrong("there is more than one root element"));
        }
        if self.open.len() >= MOST_DEPTH {
            return Err(self.wrong("elements lie too deep in each other"));
        }
        self.began = true;
        self.open.push(name);
        let mut attributes: Vec<(String, String)> = Vec::new();
        loop {
            self.skip_blank();
            if self.rest().starts_with('>') {
                self.at += 1;
                break;
            }
            if self.rest().starts_with('/') {
                self.take("/>")?;
                self.closes = true;
                break;
            }
            if self.rest().is_empty() {
                return Err(self.wrong("it ends within a tag"));
            }
            let key = local(self.name()?).to_owned();
            self.skip_blank();
            self.take("=")?;
            self.skip_blank();
            let quote = match self.rest().chars().next() {
                Some(quote @ ('"' | '\'')) => quote,
                _ => return Err(self.wrong("a value in quotes is expected")),
            };
            self.at += 1;
            let Some(end) = self.rest().find(quote) else { return Err(self.wrong("it ends within a value")) };
            let value = self.decode(&self.rest()[..end])?;
            self.at += end + 1;
            if attributes.iter().any(|(known, _)| *known == key) {
                return Err(self.wrong(&format!("`{key}` stands twice")));
            }
            if attributes.len() >= MOST_ATTRIBUTES {
                return Err(self.wrong("too many attributes"));
            }
            attributes.push((key, value));
        }
        Ok(Event::Open { name: local(name).to_owned(), attributes })
    }

    fn decode(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find('&') {
            out.push_str(&rest[..start]);
            rest = &rest[start + 1..];
            let (entity, behind) = rest
                .split_once(';')
                .filter(|(entity, _)| entity.len() <= 10)
                .ok_or_else(|| self.wrong("`&` without an entity"))?;
            let c = match entity {
                "lt" => '<',
                "gt" => '>',
                "amp" => '&',
                "quot" => '"',
                "apos" => '\'',
                _ => {
                    let number = match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
                        (Some(hex), _) => u32::from_str_radix(hex, 16).ok(),
                        (None, Some(digits)) => digits.parse().ok(),
                        (None, None) => None,
                    };
                    // Half of a surrogate pair stands for itself in what Java writes; it is no character.
                    let known = number.ok_or_else(|| self.wrong(&format!("`&{entity};` is unknown")))?;
                    char::from_u32(known).unwrap_or(char::REPLACEMENT_CHARACTER)
                }
            };
            out.push(c);
            rest = behind;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// A name without its prefix.
fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Event>, String> {
        let mut reader = Reader::new(text);
        let mut events = Vec::new();
        while let Some(event) = reader.next()? {
            events.push(event);
        }
        Ok(events)
    }

    #[test]
    fn reads_elements_text_and_entities() {
        let events = all(
            "<?xml version='1.0'?><!-- a > b -->\n<a:x one=\"1 &lt; 2\" two='&#x41;&#66;'>t &amp; u<![CDATA[<b>&amp;]]><y/></a:x>\n",
        );
        let open = |name: &str, attributes: &[(&str, &str)]| Event::Open {
            name: name.into(),
            attributes: attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        };
        assert_eq!(
            events.unwrap(),
            [
                open("x", &[("one", "1 < 2"), ("two", "AB")]),
                Event::Text("t & u".into()),
                Event::Text("<b>&amp;".into()),
                open("y", &[]),
                Event::Close,
                Event::Close,
            ]
        );
    }

    #[test]
    fn refuses_what_is_not_well_formed_or_reaches_outside() {
        let deep = "<a>".repeat(80);
        for (text, why) in [
            ("", "no element"),
            ("<a>", "ends within <a>"),
            ("<a><b></a>", "closes nothing"),
            ("<a/><b/>", "more than one root"),
            ("<a x=1/>", "in quotes"),
            ("<a x='1' x='2'/>", "stands twice"),
            ("<a x='1", "within a value"),
            ("<a x", "within a tag"),
            ("<a>&nbsp;</a>", "unknown"),
            ("<a>& b</a>", "without an entity"),
            ("<a/>text", "outside"),
            ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "document type"),
            ("<!ENTITY a 'b'>", "document type"),
            ("<a><![CDATA[x</a>", "within <![CDATA["),
            ("<a><!-- x</a>", "within <!--"),
            (deep.as_str(), "too deep"),
        ] {
            let wrong = all(text).unwrap_err();
            assert!(wrong.contains(why), "{text}: {wrong}");
        }
    }

    #[test]
    fn every_cut_of_a_file_is_noticed() {
        let text = "<a b='1'><c>x &gt; y<![CDATA[z]]></c><!-- d --><e/></a>";
        assert!(all(text).is_ok());
        for end in 0..text.len() {
            assert!(all(&text[..end]).is_err(), "{}", &text[..end]);
        }
    }
}

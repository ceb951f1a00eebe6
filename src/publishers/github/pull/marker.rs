//! The hidden line at the end of a body by which we know what we wrote there. Pure.
//!
//! It is data that anybody may have edited: it says what we would otherwise have to guess, and gives nobody any right. Whether a
//! pull request is ours is decided by its author and its branch.

use serde::{Deserialize, Serialize};

const BEGIN: &str = "<!-- nightcrew ";
const END: &str = " -->";
/// Fingerprints that are written down.
const MOST_PRINTS: usize = 40;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::publishers::github) struct Marker {
    pub key: String,
    pub pipeline: String,
    /// The hash of the pipeline's definition.
    pub definition: String,
    pub run: String,
    /// Of what it is about.
    pub prints: Vec<String>,
    /// The day, `2026-12-04`, from which on it is closed if nobody has looked at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// The hash of what was proposed.
    pub content: String,
    /// The head of the branch as we left it.
    pub commit: String,
    /// What that run did: `opened`, `updated`.
    pub did: String,
    /// We closed it: `expired`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

impl Marker {
    /// As a comment that no text within can end, and in which nothing rings anybody.
    pub fn render(&self) -> String {
        let kept = Self { prints: self.prints.iter().take(MOST_PRINTS).cloned().collect(), ..self.clone() };
        // Serialising plain data to memory cannot fail; without it nothing would be found in it.
        let json = serde_json::to_string(&kept).unwrap_or_default();
        let mut out = String::from(BEGIN);
        let mut before = ' ';
        for c in json.chars() {
            match c {
                '<' | '>' | '&' | '@' | '#' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                '-' if before == '-' => out.push_str("\\u002d"),
                // What cannot be seen is not there unseen.
                c if !c.is_ascii() => {
                    let mut units = [0; 2];
                    c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                c => out.push(c),
            }
            before = c;
        }
        out + END
    }

    /// The last one in a body.
    pub fn find(body: &str) -> Option<Self> {
        let from = body.rfind(BEGIN)? + BEGIN.len();
        let rest = body.get(from..)?;
        let marker: Self = serde_json::from_str(rest.get(..rest.find(END)?)?).ok()?;
        Some(marker).filter(|marker| !marker.key.is_empty())
    }

    /// The body with another marker in its place.
    pub fn replaced(&self, body: &str) -> String {
        let Some(from) = body.rfind(BEGIN) else { return format!("{body}\n\n{}", self.render()) };
        let after = body.get(from..).and_then(|rest| rest.find(END)).map_or(body.len(), |end| from + end + END.len());
        let (before, after) = (body.get(..from).unwrap_or_default(), body.get(after..).unwrap_or_default());
        format!("{before}{}{after}", self.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_within_ends_the_comment() {
        let marker = Marker {
            key: "parse-error-0a1b2c3d".into(),
            prints: vec!["--> <img> @all #1 --- -->".into()],
            expires: Some("2026-12-04".into()),
            ..Marker::default()
        };
        let text = marker.render();
        assert_eq!((text.matches("--").count(), text.matches('>').count()), (2, 1), "{text}");
        assert!(!text.contains(['@', '#']));
        let body = format!("text\n\n{text}\n");
        assert_eq!(Marker::find(&body), Some(marker.clone()));
        let later = Marker { ended: Some("expired".into()), ..marker };
        let replaced = later.replaced(&body);
        assert_eq!((Marker::find(&replaced), replaced.matches(BEGIN).count()), (Some(later), 1));
        for bad in ["", "<!-- nightcrew -->", "<!-- nightcrew {", "<!-- nightcrew [] -->", "<!-- other {} -->"] {
            assert_eq!(Marker::find(bad), None, "{bad}");
        }
    }
}

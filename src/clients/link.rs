//! The header `Link`, by which servers name the next page of a list.
//!
//! Source: <https://www.rfc-editor.org/rfc/rfc8288#section-3>.

/// One link: its target as written, and its parameters by their lower-case names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub target: &'a str,
    params: Vec<(String, &'a str)>,
}

impl<'a> Link<'a> {
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
    }
}

/// The first link with `rel="next"`.
pub(super) fn next(header: &str) -> Option<Link<'_>> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let mut link = Link { target: target.trim(), params: Vec::new() };
        let mut at = after;
        // Parameters end at a comma that is not within quotes.
        loop {
            at = at.trim_start();
            let Some(param) = at.strip_prefix(';') else { break };
            let (name, value, left) = parameter(param);
            link.params.push((name.to_ascii_lowercase(), value));
            at = left;
        }
        let words = link.param("rel").unwrap_or_default().split_ascii_whitespace();
        if words.into_iter().any(|word| word.eq_ignore_ascii_case("next")) {
            return Some(link);
        }
        rest = at;
    }
    None
}

/// `name="value"` or `name=value` or `name`, and what follows.
fn parameter(text: &str) -> (&str, &str, &str) {
    let end = text.find(['=', ';', ',']).unwrap_or(text.len());
    let (name, rest) = (text[..end].trim(), &text[end..]);
    let Some(value) = rest.strip_prefix('=').map(str::trim_start) else { return (name, "", rest) };
    if let Some(quoted) = value.strip_prefix('"') {
        let end = quoted.find('"').unwrap_or(quoted.len());
        return (name, &quoted[..end], quoted.get(end + 1..).unwrap_or_default());
    }
    let end = value.find([';', ',']).unwrap_or(value.len());
    (name, value[..end].trim(), &value[end..])
}

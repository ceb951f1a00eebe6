//! A pull request in the project's own manner: the style of its commits, the headings of its template. Pure.
//!
//! Of a template only headings and check boxes are taken, escaped: what a person has to tick stays for a person.

use serde_json::Value;

use crate::clients::github::Identity;
use crate::domain::proposal::{Proposal, PullRequestText};
use crate::publishers::draft::{self, Draft, Sections};
use crate::render::markdown::inline;
use crate::render::text;

use super::marker::Marker;

/// Where GitHub looks for a template.
pub(super) const TEMPLATES: [&str; 6] = [
    ".github/pull_request_template.md",
    ".github/PULL_REQUEST_TEMPLATE.md",
    "pull_request_template.md",
    "PULL_REQUEST_TEMPLATE.md",
    "docs/pull_request_template.md",
    "docs/PULL_REQUEST_TEMPLATE.md",
];
/// Commits that are looked at for the style.
pub(super) const STYLED_BY: usize = 30;

const TYPES: [&str; 11] =
    ["feat", "fix", "chore", "docs", "refactor", "test", "perf", "build", "ci", "style", "revert"];
/// GitHub takes 65,536 characters.
const MOST_BODY: usize = 60_000;
const MOST_PART: usize = 9_000;

/// How the project writes its commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// `fix: …`, and whether what follows begins in lower case.
    pub conventional: Option<bool>,
    pub signed_off: bool,
}

impl Style {
    /// Of the last commits, as GitHub lists them. What at least half of them do is the style; merges do not count.
    pub fn of(commits: &[Value]) -> Self {
        let merge = |commit: &&Value| commit["parents"].as_array().is_some_and(|parents| parents.len() > 1);
        let messages: Vec<&str> = commits
            .iter()
            .filter(|commit| !merge(commit))
            .filter_map(|commit| commit["commit"]["message"].as_str())
            .collect();
        let most = |count: usize| count > 0 && count * 2 >= messages.len();
        let described: Vec<&str> = messages.iter().filter_map(|message| conventional(message)).collect();
        let lower = described.iter().filter(|rest| rest.starts_with(char::is_lowercase)).count();
        let signed = messages.iter().filter(|message| message.lines().any(|line| line.starts_with("Signed-off-by: ")));
        Self {
            conventional: most(described.len()).then_some(lower * 2 >= described.len()),
            signed_off: most(signed.count()),
        }
    }
}

/// What follows the type of a conventional commit.
fn conventional(message: &str) -> Option<&str> {
    let (head, rest) = message.lines().next()?.split_once(": ")?;
    let head = head.strip_suffix('!').unwrap_or(head);
    let word = match head.split_once('(') {
        Some((word, scope)) if scope.ends_with(')') => word,
        Some(_) => return None,
        None => head,
    };
    TYPES.contains(&word).then_some(rest)
}

/// The title in the project's style. It may become a commit's message, where nothing can be escaped.
pub(super) fn title(style: Style, pr: &PullRequestText) -> String {
    let title = draft::plain(&draft::title(pr));
    let Some(lower) = style.conventional.filter(|_| conventional(&title).is_none()) else { return title };
    let mut chars = title.chars();
    let (first, second) = (chars.next(), chars.next());
    // `HTTP` and `parse_x` stay as they are.
    let word = second.is_some_and(char::is_lowercase) || second == Some(' ');
    let begun = match first.filter(|_| lower && word) {
        Some(first) => format!("{}{}", first.to_lowercase(), title.get(first.len_utf8()..).unwrap_or_default()),
        None => title,
    };
    text::fit(&format!("fix: {begun}"), 120)
}

/// The commit's message, signed off where the project does so.
pub(super) fn message(style: Style, proposal: &Proposal, pr: &PullRequestText, me: &Identity) -> String {
    let signed = style.signed_off.then(|| format!("Signed-off-by: {} <{}>", me.login, me.email()));
    draft::commit_message(proposal, pr, &title(style, pr), &signed.into_iter().collect::<Vec<_>>())
}

/// The body, with the marker at its end.
pub(super) fn body(found: &Draft<'_>, template: Option<&str>, marker: &Marker) -> String {
    let whole = render(found, template, marker, usize::MAX);
    if whole.len() <= MOST_BODY { whole } else { render(found, template, marker, MOST_PART) }
}

fn render(found: &Draft<'_>, template: Option<&str>, marker: &Marker, most: usize) -> String {
    let Sections { cause, change, proof, review, limits } = draft::sections(found);
    let mut ours = [
        (Part::Cause, "What was wrong", cause),
        (Part::Change, "What changes", change),
        (Part::Proof, "Proof", proof),
        (Part::Review, "Review", review),
        (Part::Limits, "Limits", limits),
    ]
    .map(|(part, heading, text)| Some((part, heading, cut(text, most))));
    let mut parts = vec![format!(
        "> Draft by nightcrew · {} · nothing is merged or marked ready without a person",
        inline(&found.size())
    )];
    for heading in headings(template.unwrap_or_default()) {
        let mut texts = Vec::new();
        for slot in &mut ours {
            if slot.as_ref().is_some_and(|(part, ..)| heading.takes.contains(part))
                && let Some((_, name, text)) = slot.take()
            {
                // Under somebody else's heading each text says which of ours it is.
                texts.push(format!("**{name}**\n\n{text}"));
            }
        }
        texts.extend((!heading.boxes.is_empty()).then(|| heading.boxes.join("\n")));
        let text = if texts.is_empty() { "–".to_owned() } else { texts.join("\n\n") };
        parts.push(format!("{} {}\n\n{text}", "#".repeat(heading.level), heading.title));
    }
    parts.extend(ours.into_iter().flatten().map(|(_, heading, text)| format!("## {heading}\n\n{text}")));
    let expiry = match marker.expires.as_deref() {
        Some(day) => format!("close this pull request. If nobody looks at it, it is closed after {day}"),
        None => "close this pull request".to_owned(),
    };
    parts.push(draft::folded(found, &format!("{expiry}. It is not opened again, and this error is then left alone")));
    parts.push(marker.render());
    parts.join("\n\n") + "\n"
}

/// Whole lines up to so many bytes; a fence that is cut is ended.
fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let mut out = String::new();
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        if out.len() + line.len() > most {
            break;
        }
        let marks = line.len() - line.trim_start_matches('`').len();
        if marks >= 3 {
            fence = if fence.is_some() { None } else { line.get(..marks) };
        }
        out.push_str(line);
        out.push('\n');
    }
    if let Some(fence) = fence {
        out.push_str(fence);
        out.push('\n');
    }
    out + "\n… the rest is in the run's report"
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Cause,
    Change,
    Proof,
    Review,
    Limits,
}

/// One heading of a template.
struct Heading {
    level: usize,
    title: String,
    takes: &'static [Part],
    boxes: Vec<String>,
}

/// The first heading that a text of ours belongs under takes it.
const UNDER: [(&[&str], &[Part]); 5] = [
    (&["test", "verif", "proof", "validat"], &[Part::Proof]),
    (&["review"], &[Part::Review]),
    (&["risk", "limit", "caveat", "not covered"], &[Part::Limits]),
    (&["why", "motivation", "context", "background", "problem", "root cause", "issue"], &[Part::Cause]),
    (&["descri", "summary", "what", "change", "overview", "solution"], &[Part::Cause, Part::Change]),
];

fn headings(template: &str) -> Vec<Heading> {
    let mut found: Vec<Heading> = Vec::new();
    let (mut comment, mut fenced) = (false, false);
    for line in template.lines().take(400) {
        let line = line.trim();
        if comment || line.starts_with("<!--") {
            comment = !line.contains("-->");
            continue;
        }
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let level = line.len() - line.trim_start_matches('#').len();
        if (1..=6).contains(&level) && line.get(level..).is_some_and(|rest| rest.starts_with(' ')) && found.len() < 20 {
            let words = text::fit(&text::line(line.get(level..).unwrap_or_default()), 100);
            let lower = words.to_lowercase();
            let takes = UNDER.iter().find(|(names, _)| names.iter().any(|name| lower.contains(name)));
            let takes = takes.map_or(&[][..], |(_, takes)| *takes);
            // The largest heading of a body is the second.
            found.push(Heading { level: level.max(2), title: inline(&words), takes, boxes: Vec::new() });
            continue;
        }
        let boxed = ["- [ ]", "* [ ]", "- [x]", "* [x]", "- [X]"].iter().find_map(|mark| line.strip_prefix(mark));
        if let (Some(words), Some(heading)) = (boxed, found.last_mut()) {
            // Nothing is ticked for a person.
            heading.boxes.push(format!("- [ ] {}", inline(&text::fit(&text::line(words), 200))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publishers::sample;
    use serde_json::json;

    fn commits(messages: &[&str]) -> Vec<Value> {
        messages.iter().map(|message| json!({"commit": {"message": message}, "parents": [1]})).collect()
    }

    #[test]
    fn the_style_of_most_commits_is_the_style() {
        let conventional = commits(&["feat(api): add x", "fix!: y", "Merge stuff", "chore: z"]);
        assert_eq!(Style::of(&conventional), Style { conventional: Some(true), signed_off: false });
        let signed = commits(&["Add x\n\nSigned-off-by: A <a@b>", "Fix y\n\nSigned-off-by: A <a@b>", "z"]);
        assert_eq!(Style::of(&signed), Style { conventional: None, signed_off: true });
        assert_eq!(Style::of(&[]), Style::default());
        let mut merged = commits(&["fix: a"]);
        merged.extend((0..9).map(|_| json!({"commit": {"message": "Merge branch"}, "parents": [1, 2]})));
        assert_eq!(Style::of(&merged).conventional, Some(true), "merges do not count");
        let titled = |title: &str, lower| {
            let pr = PullRequestText { title: title.into(), ..sample::draft() };
            super::title(Style { conventional: lower, signed_off: false }, &pr)
        };
        assert_eq!(titled("Keep the sign", Some(true)), "fix: keep the sign");
        assert_eq!(titled("Keep the sign", Some(false)), "fix: Keep the sign");
        assert_eq!(titled("HTTP is closed", Some(true)), "fix: HTTP is closed");
        assert_eq!(titled("fix(time): keep it", Some(true)), "fix(time): keep it");
        assert_eq!(titled("Ping @all about #7", None), "Ping (at)all about no. 7");
        assert_eq!(titled("", Some(true)), "fix: fix an error");
    }

    #[test]
    fn a_template_gives_its_headings_and_nothing_that_acts() {
        let template = "<!-- hello\n @all -->\n# Description\nPlease ![x](https://evil.example/x) describe.\n\n## How was it tested? @team\n\
                        - [x] I ran it\n- [ ] <b>docs</b>\n```\n# no heading\n```\n## Screenshots\n![x](y)\n## Checklist\n* [ ] one\n";
        let pr = sample::draft();
        let what = crate::domain::proposal::Proposed::PullRequest(Box::new(pr.clone()));
        let proposal = sample::proposal(what, &["a"]);
        let draft = Draft::new(&proposal, &pr, "nightcrew/parse-error-1");
        let body = body(&draft, Some(template), &Marker::default());
        let heads: Vec<&str> = body.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(
            heads,
            [
                "## Description",
                "## How was it tested? `@team`",
                "## Screenshots",
                "## Checklist",
                "## Review",
                "## Limits"
            ]
        );
        assert!(body.contains("**What was wrong**\n\n`parse_duration` strips"), "{body}");
        assert!(body.contains("- [ ] I ran it\n- [ ] &lt;b&gt;docs&lt;/b&gt;"), "{body}");
        assert!(!body.contains("evil.example") && !body.contains("![") && !body.contains("@all"), "{body}");
    }

    #[test]
    fn a_body_that_is_too_long_is_cut_at_lines_and_keeps_its_marker() {
        let pr = PullRequestText { cause: "so wrong ".repeat(9_000), ..sample::draft() };
        let what = crate::domain::proposal::Proposed::PullRequest(Box::new(pr.clone()));
        let proposal = sample::proposal(what, &["a"]);
        let draft = Draft::new(&proposal, &pr, "b");
        let marker = Marker { key: "k".into(), ..Marker::default() };
        let body = body(&draft, None, &marker);
        assert!(body.len() < 65_000 && Marker::find(&body) == Some(marker), "{}", body.len());
        assert_eq!(cut("```text\na\nb\n```\nc".into(), 10), "```text\na\n```\n\n… the rest is in the run's report");
    }
}

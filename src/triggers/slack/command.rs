//! The grammar of `/nightcrew …`: fixed, small, and the same everywhere. Pure.

use crate::diag::closest;
use crate::render::text;

/// The longest command that is read, in bytes.
const MOST: usize = 2_000;
/// Days that somebody may be spared a finding: ten years.
const MOST_DAYS: u32 = 3_650;

/// What can be typed.
pub const WORDS: &[&str] = &["run", "status", "mute", "stop", "help"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Status,
    /// `params` as typed.
    Run {
        pipeline: String,
        params: Vec<(String, String)>,
    },
    /// `None`: for good.
    Mute {
        id: String,
        days: Option<u32>,
    },
    Stop {
        run: String,
    },
}

/// Reads what was typed behind the command's name. The error says what to type, for people.
pub fn parse(typed: &str) -> Result<Command, String> {
    if typed.len() > MOST {
        return Err("that is too long".into());
    }
    let words = words(&unescaped(typed))?;
    let mut words = words.iter().map(String::as_str);
    let command = match words.next() {
        None => return Ok(Command::Help),
        Some(word) => word.to_lowercase(),
    };
    let rest: Vec<&str> = words.collect();
    match (command.as_str(), rest.as_slice()) {
        ("help" | "?", _) => Ok(Command::Help),
        ("status", []) => Ok(Command::Status),
        ("run", [pipeline, params @ ..]) => {
            let params = params.iter().map(|word| param(word)).collect::<Result<_, _>>()?;
            Ok(Command::Run { pipeline: name(pipeline)?, params })
        }
        ("mute", [id]) => Ok(Command::Mute { id: name(id)?, days: None }),
        ("mute", [id, days]) => Ok(Command::Mute { id: name(id)?, days: Some(self::days(days)?) }),
        ("stop", [run]) => Ok(Command::Stop { run: name(run)? }),
        ("run", _) => Err("which pipeline? `run PIPELINE [name=value …]`".into()),
        ("status", _) => Err("`status` takes nothing more".into()),
        ("mute", _) => Err("which finding? `mute ID [days]`".into()),
        ("stop", _) => Err("which run? `stop RUN`".into()),
        (other, _) => {
            let near = closest(other, WORDS.iter().copied());
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            Err(format!("I do not know `{}`{near}", text::fit(&text::line(other).replace('`', ""), 40)))
        }
    }
}

/// Slack escapes three characters and nothing else.
fn unescaped(typed: &str) -> String {
    typed.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// Parts between white space; quotes (straight, or as phones make them) hold a part together.
fn words(typed: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut inside, mut begun) = (Vec::new(), String::new(), false, false);
    for c in text::clean(typed).chars() {
        match c {
            '"' | '\u{201c}' | '\u{201d}' | '\u{201e}' => (inside, begun) = (!inside, true),
            c if c.is_whitespace() && !inside => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if inside {
        return Err("a quote is not closed".into());
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

/// An id or a name of ours, also as we show it: `01JD…7QK`, in backticks.
fn name(word: &str) -> Result<String, String> {
    let word = word.trim_matches('`');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '…');
    if !word.is_empty() && word.chars().count() <= 100 && word.chars().all(plain) {
        return Ok(word.to_owned());
    }
    Err(format!("`{}` is no name", text::fit(&text::line(word).replace('`', ""), 40)))
}

fn param(word: &str) -> Result<(String, String), String> {
    let plain =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match word.split_once('=') {
        Some((name, value)) if plain(name) => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!(
            "parameters are written `name=value`, not `{}`",
            text::fit(&text::line(word).replace('`', ""), 40)
        )),
    }
}

fn days(word: &str) -> Result<u32, String> {
    let number = word.trim_end_matches("days").trim_end_matches(['d', ' ']);
    number.parse().ok().filter(|days| (1..=MOST_DAYS).contains(days)).ok_or_else(|| {
        format!(
            "for how many days? `{}` is none of 1 to {MOST_DAYS}",
            text::fit(&text::line(word).replace('`', ""), 40)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pipeline: &str, params: &[(&str, &str)]) -> Command {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Command::Run { pipeline: pipeline.to_owned(), params }
    }

    #[test]
    fn commands_are_read_as_people_type_them() {
        let mute = |days| Command::Mute { id: "3f9c21".into(), days };
        for (typed, command) in [
            ("", Command::Help),
            ("  help me ", Command::Help),
            ("Status", Command::Status),
            ("run brief", run("brief", &[])),
            ("run error-to-pr issue=API-4F2 n=3", run("error-to-pr", &[("issue", "API-4F2"), ("n", "3")])),
            ("run brief note=\"two words\" x=", run("brief", &[("note", "two words"), ("x", "")])),
            ("run brief note=\u{201c}a &lt;b&gt; &amp;amp;\u{201d}", run("brief", &[("note", "a <b> &amp;")])),
            ("run brief q=a=b", run("brief", &[("q", "a=b")])),
            ("mute 3f9c21", mute(None)),
            ("mute `3f9c21` 7", mute(Some(7))),
            ("mute 3f9c21 7d", mute(Some(7))),
            ("mute 3f9c21 \"7 days\"", mute(Some(7))),
            ("stop 01JD\u{2026}7QK", Command::Stop { run: "01JD\u{2026}7QK".into() }),
        ] {
            assert_eq!(parse(typed), Ok(command), "{typed}");
        }
    }

    #[test]
    fn anything_else_is_answered_with_what_to_type() {
        for (typed, help) in [
            ("rnu brief", "I do not know `rnu`; did you mean `run`?"),
            ("approve", "I do not know `approve`"),
            ("run", "which pipeline? `run PIPELINE [name=value …]`"),
            ("run ../etc/passwd", "`../etc/passwd` is no name"),
            ("run /etc/x.yaml", "`/etc/x.yaml` is no name"),
            ("run brief day", "parameters are written `name=value`, not `day`"),
            ("run brief --set=x", "parameters are written `name=value`, not `--set=x`"),
            ("run brief x=\"open", "a quote is not closed"),
            ("mute", "which finding? `mute ID [days]`"),
            ("mute 3f9c 0", "for how many days? `0` is none of 1 to 3650"),
            ("mute 3f9c forever", "for how many days? `forever` is none of 1 to 3650"),
            ("stop", "which run? `stop RUN`"),
            ("stop a b", "which run? `stop RUN`"),
            ("status now", "`status` takes nothing more"),
            ("`*<!channel>*` \u{202e}", "I do not know `*<!channel>*`"),
        ] {
            assert_eq!(parse(typed), Err(help.to_owned()), "{typed}");
        }
        assert!(parse(&"x".repeat(9_999)).is_err());
    }
}

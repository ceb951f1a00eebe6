//! What people do in Slack, understood: a button pressed, a command typed. Pure.
//!
//! Whatever way it came (Socket Mode or signed HTTP), a payload becomes a [`Word`]: who, where, and one of the few things that
//! can be done. It is read by fixed rules; no model ever sees it. Who may do it is [`Allowed::judge`]; what then happens is the
//! daemon's business.

pub mod command;
pub mod signed;

use serde_json::Value;

use crate::render::text;
use command::Command;

/// Identifiers, names and paths in a payload are at most this long.
const MOST: usize = 600;

/// What somebody did.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// Of this one press or command: the same however often it is delivered.
    pub key: String,
    pub who: Who,
    pub place: Place,
    pub act: Act,
}

/// Who did it, as Slack says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// `U024BE7LH`.
    pub user: String,
    /// For people; whoever bears it chose it.
    pub name: String,
    pub team: Option<String>,
    /// The app that it was said to.
    pub app: Option<String>,
    pub is_bot: bool,
}

impl Who {
    /// `slack:U024BE7LH (ann)`: as it is recorded.
    pub fn by(&self) -> String {
        match self.name.as_str() {
            "" => format!("slack:{}", self.user),
            name => format!("slack:{} ({name})", self.user),
        }
    }
}

/// Where an answer to it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub channel: Option<String>,
    /// Slack's own address for answers to this. Used only if it is Slack's.
    pub response_url: Option<String>,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// The answer to a question of a run.
    Decide {
        approved: bool,
        question: Asked,
    },
    /// A finding's cause is not what the report says.
    WrongCause {
        finding: String,
    },
    /// Nobody will do anything about a finding.
    WontFix {
        finding: String,
    },
    /// A run that ended badly goes on.
    Retry {
        run: String,
    },
    /// The same with more money.
    AddBudget {
        run: String,
        usd: Option<f64>,
    },
    Command(Command),
    /// A command that says nothing known; what to type instead.
    Misspelt(String),
    /// Ours, but its value is none of ours.
    Unreadable,
    /// Nothing to do with us: a link, a menu.
    Nothing,
}

/// Which question, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub run: String,
    pub path: String,
    pub hash: String,
}

/// Whose words count.
#[derive(Clone, Debug, Default)]
pub struct Allowed<'a> {
    /// `services.slack.users`.
    pub users: &'a [String],
    /// Of our token; `None`: not known.
    pub team: Option<&'a str>,
    /// Of our connection; `None`: not known.
    pub app: Option<&'a str>,
}

/// Why a word does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotListed,
    NotAPerson,
    OtherTeam,
    OtherApp,
}

impl Refused {
    /// For the record.
    pub fn why(self) -> &'static str {
        match self {
            Self::NotListed => "not on the list",
            Self::NotAPerson => "not a person",
            Self::OtherTeam => "another workspace",
            Self::OtherApp => "another app",
        }
    }
}

impl Allowed<'_> {
    /// Whether this person may do anything here.
    pub fn judge(&self, who: &Who) -> Result<(), Refused> {
        let differs = |own: Option<&str>, theirs: &Option<String>| {
            own.is_some_and(|own| theirs.as_deref().is_some_and(|theirs| theirs != own))
        };
        if differs(self.app, &who.app) {
            Err(Refused::OtherApp)
        } else if differs(self.team, &who.team) {
            Err(Refused::OtherTeam)
        } else if who.is_bot || who.user.is_empty() {
            Err(Refused::NotAPerson)
        } else if !self.users.contains(&who.user) {
            Err(Refused::NotListed)
        } else {
            Ok(())
        }
    }
}

/// A payload of this type (`interactive`, `slash_commands`, `events_api`). `None`: nothing that we take part in.
pub fn read(kind: &str, payload: &Value) -> Option<Word> {
    match kind {
        "interactive" => pressed(payload),
        "slash_commands" => typed(payload),
        "events_api" => mentioned(payload),
        _ => None,
    }
}

fn short(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty() && text.len() <= MOST).map(str::to_owned)
}

/// `U…` or `W…`; empty for anything else.
fn user(value: &Value) -> String {
    let plain = |id: &String| id.starts_with(['U', 'W']) && id.chars().all(|c| c.is_ascii_alphanumeric());
    short(value).filter(plain).unwrap_or_default()
}

fn name(value: &Value) -> String {
    text::fit(&text::line(value.as_str().unwrap_or_default()).replace(['(', ')'], ""), 40)
}

/// A button.
fn pressed(payload: &Value) -> Option<Word> {
    if payload["type"] != "block_actions" {
        return None;
    }
    let action = payload["actions"].get(0)?;
    let id = action["action_id"].as_str()?;
    let by = &payload["user"];
    let said = &payload["message"];
    let at = short(&payload["container"]["message_ts"]).or_else(|| short(&said["ts"])).unwrap_or_default();
    let pressed_at = short(&action["action_ts"]).or_else(|| short(&payload["trigger_id"]))?;
    let who = Who {
        user: user(&by["id"]),
        name: name(if by["username"].is_string() { &by["username"] } else { &by["name"] }),
        team: short(&payload["team"]["id"]).or_else(|| short(&by["team_id"])),
        app: short(&payload["api_app_id"]),
        is_bot: by["is_bot"] == true,
    };
    let place = Place {
        channel: short(&payload["channel"]["id"]).or_else(|| short(&payload["container"]["channel_id"])),
        response_url: short(&payload["response_url"]),
    };
    let key = format!("{at}/{id}/{pressed_at}/{}", who.user);
    Some(Word { key, who, place, act: button(id, action["value"].as_str().unwrap_or_default()) })
}

fn button(id: &str, value: &str) -> Act {
    let value = if value.len() <= 4 * MOST { value } else { "" };
    let told: Value = serde_json::from_str(value).unwrap_or(Value::Null);
    // An id alone, or under its name.
    let named = |key: &str| match &told {
        Value::Object(fields) => fields.get(key).and_then(short),
        _ => short(&value.into()),
    };
    let understood = match id {
        "run.approve" | "run.deny" => (|| {
            let question =
                Asked { run: short(&told["run"])?, path: short(&told["path"])?, hash: short(&told["hash"])? };
            Some(Act::Decide { approved: id == "run.approve", question })
        })(),
        "finding.wrong_cause" => named("finding").map(|finding| Act::WrongCause { finding }),
        "finding.wont_fix" => named("finding").map(|finding| Act::WontFix { finding }),
        "run.retry" => named("run").map(|run| Act::Retry { run }),
        "run.add_budget" => named("run").map(|run| Act::AddBudget { run, usd: told["usd"].as_f64() }),
        _ => Some(Act::Nothing),
    };
    understood.unwrap_or(Act::Unreadable)
}

/// A slash command.
fn typed(payload: &Value) -> Option<Word> {
    let who = Who {
        user: user(&payload["user_id"]),
        name: name(&payload["user_name"]),
        team: short(&payload["team_id"]),
        app: short(&payload["api_app_id"]),
        is_bot: false,
    };
    let place = Place { channel: short(&payload["channel_id"]), response_url: short(&payload["response_url"]) };
    let act = said(payload["text"].as_str().unwrap_or_default());
    Some(Word { key: short(&payload["trigger_id"])?, who, place, act })
}

/// The same by naming the app in a channel, or in a direct message to it.
fn mentioned(payload: &Value) -> Option<Word> {
    let event = &payload["event"];
    let to_us = match event["type"].as_str()? {
        "app_mention" => true,
        "message" => event["channel_type"] == "im",
        _ => false,
    };
    // Edits, joins, and what apps say (we among them).
    if !to_us || event["subtype"].is_string() || event["bot_id"].is_string() || event["edited"].is_object() {
        return None;
    }
    let who = Who {
        user: user(&event["user"]),
        name: String::new(),
        team: short(&payload["team_id"]),
        app: short(&payload["api_app_id"]),
        is_bot: false,
    };
    let place = Place { channel: short(&event["channel"]), response_url: None };
    let text = event["text"].as_str().unwrap_or_default().trim_start();
    let text = match text.strip_prefix("<@").and_then(|rest| rest.split_once('>')) {
        Some((_, rest)) => rest,
        None => text,
    };
    let key = format!("{}/{}", place.channel.as_deref().unwrap_or_default(), short(&event["ts"])?);
    Some(Word { key, who, place, act: said(text) })
}

fn said(text: &str) -> Act {
    match command::parse(text) {
        Ok(command) => Act::Command(command),
        Err(help) => Act::Misspelt(help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As Slack sends it, less what nobody reads.
    fn press(action: &str, value: &str) -> Value {
        json!({
            "type": "block_actions", "api_app_id": "A1", "trigger_id": "133.7.abc",
            "team": {"id": "T1", "domain": "acme"},
            "user": {"id": "U024BE7LH", "username": "ann", "name": "ann", "team_id": "T1"},
            "channel": {"id": "C1", "name": "ops"},
            "container": {"type": "message", "message_ts": "1763.0001", "channel_id": "C1"},
            "response_url": "https://hooks.slack.com/actions/T1/1/x",
            "actions": [{"type": "button", "block_id": "b", "action_id": action, "value": value, "action_ts": "1764.5"}],
        })
    }

    fn act(action: &str, value: &str) -> Act {
        read("interactive", &press(action, value)).unwrap().act
    }

    #[test]
    fn a_button_is_read_with_who_pressed_it_and_where() {
        let value = json!({"run": "01JD", "path": "gate/approve", "hash": "ab"}).to_string();
        let word = read("interactive", &press("run.approve", &value)).unwrap();
        assert_eq!(word.key, "1763.0001/run.approve/1764.5/U024BE7LH");
        assert_eq!(word.who.by(), "slack:U024BE7LH (ann)");
        assert_eq!((word.who.team.as_deref(), word.who.app.as_deref()), (Some("T1"), Some("A1")));
        assert_eq!(word.place.channel.as_deref(), Some("C1"));
        assert_eq!(word.place.response_url.as_deref(), Some("https://hooks.slack.com/actions/T1/1/x"));
        let question = Asked { run: "01JD".into(), path: "gate/approve".into(), hash: "ab".into() };
        assert_eq!(word.act, Act::Decide { approved: true, question: question.clone() });
        assert_eq!(act("run.deny", &value), Act::Decide { approved: false, question });
        assert_eq!(act("finding.wont_fix", "3f9c"), Act::WontFix { finding: "3f9c".into() });
        assert_eq!(act("finding.wrong_cause", "3f9c"), Act::WrongCause { finding: "3f9c".into() });
        assert_eq!(act("run.retry", "01JD"), Act::Retry { run: "01JD".into() });
        assert_eq!(act("run.retry", "{\"run\": \"01JD\"}"), Act::Retry { run: "01JD".into() });
        assert_eq!(
            act("run.add_budget", "{\"run\": \"01JD\", \"usd\": 5}"),
            Act::AddBudget { run: "01JD".into(), usd: Some(5.0) }
        );
        assert_eq!(act("review.pr", ""), Act::Nothing, "a link tells us that it was followed");
    }

    #[test]
    fn what_does_not_say_exactly_what_it_means_does_nothing() {
        for value in [
            "",
            "yes",
            "{}",
            "[]",
            "{\"run\": 1, \"path\": \"p\", \"hash\": \"h\"}",
            "{\"run\": \"r\", \"path\": \"p\"}",
        ] {
            assert_eq!(act("run.approve", value), Act::Unreadable, "{value}");
        }
        assert_eq!(act("run.retry", ""), Act::Unreadable);
        assert_eq!(act("run.retry", &"x".repeat(10_000)), Act::Unreadable);
        assert_eq!(
            act("run.approve", &json!({"run": "r", "path": "p".repeat(5_000), "hash": "h"}).to_string()),
            Act::Unreadable
        );
        for payload in
            [json!(null), json!({"type": "view_submission"}), json!({"type": "block_actions", "actions": []})]
        {
            assert_eq!(read("interactive", &payload), None);
        }
        assert_eq!(read("hello", &press("run.retry", "x")), None);
    }

    #[test]
    fn a_command_is_the_same_typed_mentioned_or_in_a_direct_message() {
        let command = json!({
            "command": "/nightcrew", "text": "run brief day=2026-11-19", "user_id": "U024BE7LH", "user_name": "ann",
            "team_id": "T1", "channel_id": "C1", "api_app_id": "A1", "trigger_id": "133.7.abc",
            "response_url": "https://hooks.slack.com/commands/T1/1/x",
        });
        let typed = read("slash_commands", &command).unwrap();
        assert_eq!((typed.key.as_str(), typed.who.by().as_str()), ("133.7.abc", "slack:U024BE7LH (ann)"));
        let event = |event: Value| {
            read("events_api", &json!({"type": "event_callback", "team_id": "T1", "api_app_id": "A1", "event": event}))
        };
        let mention = json!({"type": "app_mention", "user": "U024BE7LH", "channel": "C1", "ts": "17.1", "text": "<@UBOT> run brief day=2026-11-19"});
        let mentioned = event(mention).unwrap();
        assert_eq!((mentioned.key.as_str(), &mentioned.act), ("C1/17.1", &typed.act));
        let direct = json!({"type": "message", "channel_type": "im", "user": "U024BE7LH", "channel": "D1", "ts": "17.2", "text": "run brief day=2026-11-19"});
        assert_eq!(event(direct.clone()).unwrap().act, typed.act);
        for (key, value) in
            [("bot_id", json!("B1")), ("subtype", json!("message_changed")), ("channel_type", json!("channel"))]
        {
            let mut other = direct.clone();
            other[key] = value;
            assert_eq!(event(other), None, "{key}");
        }
    }

    #[test]
    fn only_people_on_the_list_of_this_workspace_and_app_count() {
        let users = ["U024BE7LH".to_owned()];
        let allowed = Allowed { users: &users, team: Some("T1"), app: Some("A1") };
        let judge = |change: &dyn Fn(&mut Value)| {
            let mut payload = press("run.retry", "x");
            change(&mut payload);
            allowed.judge(&read("interactive", &payload).unwrap().who)
        };
        assert_eq!(judge(&|_| ()), Ok(()));
        assert_eq!(judge(&|p| p["user"]["id"] = json!("U0STRANGER")), Err(Refused::NotListed));
        assert_eq!(judge(&|p| p["user"]["id"] = json!("u024be7lh")), Err(Refused::NotAPerson));
        assert_eq!(judge(&|p| p["user"]["id"] = json!("USLACKBOT ")), Err(Refused::NotAPerson));
        assert_eq!(judge(&|p| p["user"]["is_bot"] = json!(true)), Err(Refused::NotAPerson));
        assert_eq!(judge(&|p| p["user"] = json!(null)), Err(Refused::NotAPerson));
        assert_eq!(judge(&|p| p["team"]["id"] = json!("T2")), Err(Refused::OtherTeam));
        assert_eq!(judge(&|p| p["api_app_id"] = json!("A2")), Err(Refused::OtherApp));
        let nobody = Allowed::default();
        assert_eq!(nobody.judge(&read("interactive", &press("run.retry", "x")).unwrap().who), Err(Refused::NotListed));
    }

    #[test]
    fn a_name_cannot_pretend_to_be_more_than_a_name() {
        let mut payload = press("run.retry", "x");
        payload["user"]["username"] = json!("ann)\u{202e}\u{1b}[31m slack:U0BOSS (boss\n".repeat(9));
        let by = read("interactive", &payload).unwrap().who.by();
        assert!(
            by.starts_with("slack:U024BE7LH (ann") && by.ends_with("…)") && by.matches(['(', ')']).count() == 2,
            "{by}"
        );
        assert!(!by.contains(['\u{202e}', '\u{1b}', '\n']) && by.chars().count() < 70, "{by}");
    }
}

//! From an event as it arrives to what is counted and kept of it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::event::Report;
use super::group::{culprit, key, title};
use super::private::Hidden;
use crate::base::hash::Hash;
use crate::domain::error_group::{KeptEvent, SeenErrors};

/// A clock that runs ahead by more than this is wrong.
const AHEAD: Duration = Duration::from_secs(60);
/// An event that claims to be older than this happened when it came, as in Sentry.
const OLD: Duration = Duration::from_secs(30 * 86_400);
/// Characters of a release or environment.
const NAME: usize = 200;

/// One event, grouped.
#[derive(Debug)]
pub struct SeenEvent {
    pub project: String,
    pub key: String,
    pub title: String,
    pub culprit: String,
    pub level: String,
    pub platform: String,
    pub at: Timestamp,
    pub release: Option<String>,
    pub environment: Option<String>,
    /// A hash of who met it.
    pub user: Option<u64>,
    pub event: KeptEvent,
}

impl SeenEvent {
    /// Reads an event of a project. `None`: it says nothing about an error (a transaction, something empty).
    ///
    /// `event_id` stands in where the event names none, or none that can be one.
    pub fn read(
        project: &str,
        mut event: Value,
        event_id: &str,
        received: Timestamp,
        hidden: &Hidden,
    ) -> Result<Option<Self>, serde_json::Error> {
        if event.get("type").and_then(Value::as_str) == Some("transaction") || !event.is_object() {
            return Ok(None);
        }
        let own_id = event.get("event_id").and_then(Value::as_str).and_then(plain_id);
        let user = event.get("user").cloned();
        hidden.scrub(&mut event);
        let raw = serde_json::value::to_raw_value(&event)?;
        // Who it was is needed to count, and for nothing else.
        if let Some(user) = user {
            event["user"] = user;
        }
        let report = Report::read(event, received);
        let key = key(&report);
        let ahead = report.at > received.saturating_add(AHEAD).unwrap_or(Timestamp::MAX);
        let old = report.at < received.saturating_sub(OLD).unwrap_or(Timestamp::MIN);
        let clip = |name: Option<String>| name.map(|name| name.chars().take(NAME).collect::<String>());
        let user = report.user.as_deref().map(|user| {
            // Of this group alone, so that nobody can be followed from one to the other.
            Hash::of_parts([project, &key, user].map(str::as_bytes)).as_u64()
        });
        Ok(Some(Self {
            project: project.to_owned(),
            title: title(&report),
            culprit: culprit(&report),
            at: if ahead || old { received } else { report.at },
            release: clip(report.release),
            environment: clip(report.environment),
            level: report.level,
            platform: report.platform.chars().take(NAME).collect(),
            user,
            event: KeptEvent {
                event_id: own_id.or_else(|| plain_id(event_id)).unwrap_or_else(|| event_id.to_owned()),
                raw,
            },
            key,
        }))
    }
}

/// 32 hex digits in lower case, of an id with or without dashes.
pub fn plain_id(id: &str) -> Option<String> {
    let plain: String = id.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    (plain.len() == 32 && plain.chars().all(|c| c.is_ascii_hexdigit())).then_some(plain)
}

/// Events that came together as one entry per group, with at most `keep` of the newest of each. In the order of their first.
pub fn together(events: Vec<SeenEvent>, keep: usize) -> Vec<SeenErrors> {
    let mut found: Vec<SeenErrors> = Vec::new();
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in events {
        let place = *places.entry((event.project.clone(), event.key.clone())).or_insert_with(|| {
            found.push(SeenErrors {
                project: event.project.clone(),
                key: event.key.clone(),
                title: String::new(),
                culprit: String::new(),
                level: String::new(),
                platform: String::new(),
                count: 0,
                users: Default::default(),
                first: event.at,
                last: event.at,
                releases: Vec::new(),
                environments: Vec::new(),
                levels: Vec::new(),
                events: Vec::new(),
            });
            found.len() - 1
        });
        let Some(group) = found.get_mut(place) else { continue };
        group.count += 1;
        group.users.extend(event.user);
        group.first = group.first.min(event.at);
        group.last = group.last.max(event.at);
        let add = |list: &mut Vec<String>, name: Option<String>| {
            if let Some(name) = name {
                list.retain(|known| *known != name);
                list.push(name);
            }
        };
        add(&mut group.releases, event.release);
        add(&mut group.environments, event.environment);
        add(&mut group.levels, Some(event.level.clone()));
        (group.title, group.culprit) = (event.title, event.culprit);
        (group.level, group.platform) = (event.level, event.platform);
        group.events.push(event.event);
        if group.events.len() > keep {
            // The first says how it began, the newest how it is now.
            group.events.remove(1.min(keep.saturating_sub(1)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(event: Value) -> SeenEvent {
        let received = "2026-11-20T12:00:00Z".parse().unwrap();
        SeenEvent::read("api", event, &"0".repeat(32), received, &Hidden::default()).unwrap().unwrap()
    }

    #[test]
    fn a_clock_that_is_wrong_does_not_move_the_group() {
        for (said, at) in [
            ("2026-11-20T11:59:00Z", "2026-11-20T11:59:00Z"),
            ("2026-11-20T12:00:59Z", "2026-11-20T12:00:59Z"),
            ("2026-11-20T12:01:01Z", "2026-11-20T12:00:00Z"),
            ("2026-10-20T12:00:00Z", "2026-11-20T12:00:00Z"),
            ("9999-01-01T00:00:00Z", "2026-11-20T12:00:00Z"),
        ] {
            assert_eq!(read(json!({"message": "x", "timestamp": said})).at.to_string(), at);
        }
    }

    #[test]
    fn a_transaction_is_no_error_and_an_id_is_plain() {
        let none =
            SeenEvent::read("api", json!({"type": "transaction"}), "", Timestamp::UNIX_EPOCH, &Hidden::default());
        assert!(none.unwrap().is_none());
        let dashed = read(json!({"message": "x", "event_id": "0194A1F0-3b5f-7c21-9d8e-aa0011223344"}));
        assert_eq!(dashed.event.event_id, "0194a1f03b5f7c219d8eaa0011223344");
        assert_eq!(read(json!({"message": "x", "event_id": 7})).event.event_id, "0".repeat(32));
    }

    #[test]
    fn what_comes_together_is_counted_whole_and_kept_in_part() {
        let events = (0..7).map(|n| {
            read(json!({"message": "x", "user": {"id": n % 3}, "release": format!("1.{}", n / 4), "event_id": format!("{n:032}"),
                        "timestamp": format!("2026-11-20T11:00:0{}Z", 6 - n)}))
        });
        let other = std::iter::once(read(json!({"message": "y"})));
        let groups = together(events.chain(other).collect(), 3);
        assert_eq!(groups.len(), 2);
        let group = &groups[0];
        assert_eq!((group.count, group.users.len(), group.releases.join(" ")), (7, 3, "1.0 1.1".to_owned()));
        assert_eq!(
            (group.first.to_string(), group.last.to_string()),
            ("2026-11-20T11:00:00Z".into(), "2026-11-20T11:00:06Z".into())
        );
        let kept: Vec<_> = group.events.iter().map(|event| event.event_id.trim_start_matches('0')).collect();
        assert_eq!(kept, ["", "5", "6"]);
        assert!(!group.events[0].raw.get().contains("\"user\""));
    }
}

//! When the triggers are told of a group: once when it is new, again when it is worse or back. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::error_group::ErrorStanding;
use crate::domain::finding::Standing;
use crate::policy::findings::has_worsened;

/// A group that goes on is not told of more often than this.
pub const QUIET: Duration = Duration::from_secs(10 * 60);
/// One that was silent for longer than this is back.
pub const SILENT_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What the triggers are to be told of a group, if anything. `fixed`: a ledger has it as fixed.
pub fn telling(group: &ErrorStanding, fixed: bool, now: Timestamp) -> Option<Standing> {
    let Some(told) = group.told else { return Some(Standing::New) };
    let since = now.duration_since(told.at).unsigned_abs();
    if since < QUIET || group.count <= told.count {
        return None;
    }
    let silent = group.seen_before.is_some_and(|before| group.last_seen.duration_since(before) >= SILENT_FOR);
    if fixed || silent {
        return Some(Standing::Regressed);
    }
    // As the ledger weighs: by users where they are known, else by events.
    let weight = |users: u64, count: u64| if users > 0 { users as f64 } else { count as f64 };
    has_worsened(weight(told.users, told.count), weight(group.users, group.count)).then_some(Standing::Worsened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error_group::ErrorTold;

    #[test]
    fn a_group_is_told_of_once_and_again_when_it_is_worse_or_back() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let ago = |minutes: i64| now - SignedDuration::from_mins(minutes);
        const DAY: i64 = 24 * 60;
        // count and users now; count, users and minutes since it was told; seen before, minutes ago; fixed
        type Case = (u64, u64, Option<(u64, u64, i64)>, Option<i64>, bool, Option<Standing>);
        let cases: [Case; 12] = [
            (1, 0, None, None, false, Some(Standing::New)),
            (9_000, 0, None, Some(1), true, Some(Standing::New)),
            // A flood is no news before its time.
            (20_000, 0, Some((1, 0, 9)), Some(0), false, None),
            (20_000, 0, Some((1, 0, 10)), Some(0), false, Some(Standing::Worsened)),
            (20_000, 3, Some((10_001, 3, 60)), Some(0), false, None),
            // Users count where they are known.
            (20_000, 3, Some((5, 2, 60)), Some(0), false, None),
            (20_000, 8, Some((5, 2, 60)), Some(0), false, Some(Standing::Worsened)),
            (6, 1, Some((5, 1, 60)), Some(30), true, Some(Standing::Regressed)),
            (5, 1, Some((5, 1, 60)), Some(30), true, None),
            (6, 1, Some((5, 1, 7 * DAY)), Some(7 * DAY), false, Some(Standing::Regressed)),
            (6, 1, Some((5, 1, 7 * DAY)), Some(7 * DAY - 1), false, None),
            (6, 1, Some((5, 1, 9)), Some(30 * DAY), true, None),
        ];
        for (count, users, told, before, fixed, expected) in cases {
            let told = told.map(|(count, users, minutes)| ErrorTold { count, users, at: ago(minutes) });
            let (project, key, title) = ("api".into(), "k".into(), "t".into());
            let seen_before = before.map(ago);
            let group = ErrorStanding { project, key, title, count, users, last_seen: now, seen_before, told };
            assert_eq!(telling(&group, fixed, now), expected, "{group:?} {fixed}");
        }
    }
}

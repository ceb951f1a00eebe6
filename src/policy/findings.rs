//! What a finding is, compared with what the ledger knows of it.

use jiff::{SignedDuration, Timestamp};

use crate::base::hash::Hash;
use crate::domain::finding::{FindingState, Seen, Standing};

/// A finding has become worse when its weight is at least this many times what it was when it was handled…
const TIMES: f64 = 2.0;
/// …and at least so much more: from one user to two is no news.
const MORE: f64 = 5.0;
/// From the merge of a fix, or the end of a ticket, until it is out everywhere: what happens in between is still the old code.
const UNTIL_OUT: SignedDuration = SignedDuration::from_hours(24);

/// The id of a finding's line in the ledger, for commands and buttons: 12 hex digits over its place.
pub fn id(pipeline: &str, profile: &str, effects: &str, source: &str, fingerprint: &str) -> String {
    Hash::of_parts([pipeline, profile, effects, source, fingerprint].map(str::as_bytes)).short()
}

/// Whether a text can be an [`id`].
pub fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What the ledger knows of a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    pub state: FindingState,
    /// When it was handled.
    pub weight: f64,
    /// While it is muted: until when; `None`: for good.
    pub muted_until: Option<Timestamp>,
    /// A person said that what was made of it is wrong.
    pub again: bool,
    /// When a pull request or ticket ended it; `None`: it was not seen any more.
    pub fixed_at: Option<Timestamp>,
}

impl Known {
    /// A person does not want to hear of it now.
    pub fn is_muted(&self, now: Timestamp) -> bool {
        self.state == FindingState::Muted && self.muted_until.is_none_or(|until| now < until)
    }

    /// It was there when it was last looked at, and a person would want to know that it is gone.
    pub fn may_be_gone(&self, now: Timestamp) -> bool {
        self.state != FindingState::Fixed && !self.is_muted(now)
    }

    /// It happened last when the fix was not out yet.
    fn is_before_the_fix(&self, seen: &Seen) -> bool {
        let out = self.fixed_at.and_then(|at| at.checked_add(UNTIL_OUT).ok());
        out.zip(seen.last_at).is_some_and(|(out, last)| last < out)
    }
}

/// The standing of a finding that is seen now.
///
/// One whose mute has run out is new: a person wanted to hear of it again then. One that was ended by a merged pull request is
/// back only when it happened long enough after that for the fix to be out.
pub fn standing(known: Option<&Known>, seen: &Seen, now: Timestamp) -> Standing {
    let Some(known) = known else { return Standing::New };
    match known.state {
        FindingState::Muted if known.is_muted(now) => Standing::Muted,
        FindingState::Muted => Standing::New,
        FindingState::Fixed if known.is_before_the_fix(seen) => Standing::Ongoing,
        FindingState::Fixed => Standing::Regressed,
        FindingState::Handled if known.again => Standing::New,
        FindingState::Handled if has_worsened(known.weight, seen.weight) => Standing::Worsened,
        FindingState::Handled => Standing::Ongoing,
    }
}

/// Whether a weight is much more than it was.
pub fn has_worsened(before: f64, now: f64) -> bool {
    now >= before * TIMES && now - before >= MORE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(weight: f64) -> Seen {
        Seen { fingerprint: "a".into(), title: "A".into(), weight, place: "x".into(), last_at: None }
    }

    fn known(state: FindingState, weight: f64, muted_until: Option<Timestamp>) -> Known {
        Known { state, weight, muted_until, again: false, fixed_at: None }
    }

    #[test]
    fn a_finding_stands_by_what_is_known_of_it_its_weight_and_the_time() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        use FindingState::{Fixed, Handled, Muted};
        for (state, before, until, weight, expected) in [
            (Handled, 3.0, None, 3.0, Standing::Ongoing),
            // Twice as many, but few.
            (Handled, 1.0, None, 5.0, Standing::Ongoing),
            (Handled, 1.0, None, 6.0, Standing::Worsened),
            (Handled, 0.0, None, 4.0, Standing::Ongoing),
            (Handled, 0.0, None, 5.0, Standing::Worsened),
            // Many more, but not twice as many.
            (Handled, 100.0, None, 199.0, Standing::Ongoing),
            (Handled, 100.0, None, 200.0, Standing::Worsened),
            (Handled, 200.0, None, 100.0, Standing::Ongoing),
            (Fixed, 100.0, None, 1.0, Standing::Regressed),
            (Muted, 1.0, None, 1000.0, Standing::Muted),
            (Muted, 1.0, at("2026-11-20T12:00:01Z"), 1000.0, Standing::Muted),
            (Muted, 1.0, at("2026-11-20T12:00:00Z"), 1.0, Standing::New),
        ] {
            let known = known(state, before, until);
            assert_eq!(standing(Some(&known), &seen(weight), now), expected, "{known:?} now {weight}");
        }
        assert_eq!(standing(None, &seen(0.0), now), Standing::New);
        assert_eq!(standing(Some(&known(Handled, 1.0, None)), &seen(f64::NAN), now), Standing::Ongoing);
    }

    #[test]
    fn a_person_s_no_makes_it_new_again_but_ends_no_mute() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let again = |state| Known { again: true, ..known(state, 1.0, None) };
        assert_eq!(standing(Some(&again(FindingState::Handled)), &seen(1.0), now), Standing::New);
        assert_eq!(standing(Some(&again(FindingState::Muted)), &seen(1.0), now), Standing::Muted);
        assert_eq!(standing(Some(&again(FindingState::Fixed)), &seen(1.0), now), Standing::Regressed);
    }

    #[test]
    fn what_happened_before_a_fix_was_out_is_not_back() {
        let at = |text: &str| -> Option<Timestamp> { Some(text.parse().unwrap()) };
        let now = at("2026-11-25T12:00:00Z").unwrap();
        let fixed = Known { fixed_at: at("2026-11-20T12:00:00Z"), ..known(FindingState::Fixed, 1.0, None) };
        for (last_at, expected) in [
            (at("2026-11-20T11:00:00Z"), Standing::Ongoing),
            (at("2026-11-21T11:59:59Z"), Standing::Ongoing),
            (at("2026-11-21T12:00:00Z"), Standing::Regressed),
            (None, Standing::Regressed),
        ] {
            assert_eq!(standing(Some(&fixed), &Seen { last_at, ..seen(9.0) }, now), expected, "{last_at:?}");
        }
        let gone = known(FindingState::Fixed, 1.0, None);
        let seen = Seen { last_at: at("2026-11-01T00:00:00Z"), ..seen(1.0) };
        assert_eq!(standing(Some(&gone), &seen, now), Standing::Regressed, "a scanner did not see it any more");
    }

    #[test]
    fn an_id_is_told_from_other_words() {
        assert!(is_id(&id("p", "local", "live", "sentry", "a")));
        assert_ne!(id("p", "local", "live", "sentry", "a"), id("p", "local", "preview", "sentry", "a"));
        for other in ["", "abc", "0123456789AB", "0123456789abc", "../../../etc", "0123456789a'"] {
            assert!(!is_id(other), "{other}");
        }
    }

    #[test]
    fn what_is_fixed_or_muted_is_not_declared_gone() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let known = |state, muted_until| known(state, 1.0, muted_until);
        assert!(known(FindingState::Handled, None).may_be_gone(now));
        assert!(!known(FindingState::Fixed, None).may_be_gone(now));
        assert!(!known(FindingState::Muted, None).may_be_gone(now));
        assert!(known(FindingState::Muted, Some(now)).may_be_gone(now));
    }
}

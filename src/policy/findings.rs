//! What a finding is, compared with what the ledger knows of it.

use jiff::Timestamp;

use crate::domain::finding::{FindingState, Standing};

/// A finding has become worse when its weight is at least this many times what it was when it was handled…
const TIMES: f64 = 2.0;
/// …and at least so much more: from one user to two is no news.
const MORE: f64 = 5.0;

/// What the ledger knows of a finding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    pub state: FindingState,
    /// When it was handled.
    pub weight: f64,
    /// While it is muted: until when; `None`: for good.
    pub muted_until: Option<Timestamp>,
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
}

/// The standing of a finding that is seen now with this weight.
///
/// One whose mute has run out is new: a person wanted to hear of it again then.
pub fn standing(known: Option<&Known>, weight: f64, now: Timestamp) -> Standing {
    let Some(known) = known else { return Standing::New };
    match known.state {
        FindingState::Muted if known.is_muted(now) => Standing::Muted,
        FindingState::Muted => Standing::New,
        FindingState::Fixed => Standing::Regressed,
        FindingState::Handled if has_worsened(known.weight, weight) => Standing::Worsened,
        FindingState::Handled => Standing::Ongoing,
    }
}

fn has_worsened(before: f64, now: f64) -> bool {
    now >= before * TIMES && now - before >= MORE
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let known = Known { state, weight: before, muted_until: until };
            assert_eq!(standing(Some(&known), weight, now), expected, "{known:?} now {weight}");
        }
        assert_eq!(standing(None, 0.0, now), Standing::New);
        assert_eq!(
            standing(Some(&Known { state: Handled, weight: 1.0, muted_until: None }), f64::NAN, now),
            Standing::Ongoing
        );
    }

    #[test]
    fn what_is_fixed_or_muted_is_not_declared_gone() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let known = |state, muted_until| Known { state, weight: 1.0, muted_until };
        assert!(known(FindingState::Handled, None).may_be_gone(now));
        assert!(!known(FindingState::Fixed, None).may_be_gone(now));
        assert!(!known(FindingState::Muted, None).may_be_gone(now));
        assert!(known(FindingState::Muted, Some(now)).may_be_gone(now));
    }
}

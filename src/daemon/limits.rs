//! What a run may really use: the pipeline's limits, tightened by the daemon's.

use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::base::money::UsdMicros;
use crate::config::settings::DaemonLimits;
use crate::domain::definition::{From, Limits, Origin};
use crate::domain::run::RunLimits;
use crate::domain::view::CostLine;
use crate::journal::Reader;

/// Turns of a run whose pipeline names no limit: no run is without one.
pub const DEFAULT_MAX_TURNS: u32 = 100;
/// Held back for the closing report where the pipeline does not say, in thousandths of the budget.
pub const DEFAULT_KEEP_PERMILLE: u32 = 100;

/// Effective limits, each with the place it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    pub max_turns: From<u32>,
    pub max_budget: From<UsdMicros>,
    /// Of this pipeline, per day in its zone.
    pub max_per_day: From<UsdMicros>,
    pub max_duration: Option<From<Duration>>,
    pub keep_for_report_permille: From<u32>,
}

impl Effective {
    /// The stricter of what the pipeline says and what the daemon allows.
    pub fn of(pipeline: &Limits, daemon: &DaemonLimits) -> Self {
        let built_in = |value| From { value, origin: Origin::default() };
        let max_budget = stricter(pipeline.max_budget_usd.as_ref(), &daemon.max_budget);
        let keep = pipeline.keep_for_report_permille.clone();
        Self {
            max_turns: pipeline.max_turns.clone().unwrap_or_else(|| built_in(DEFAULT_MAX_TURNS)),
            max_per_day: stricter(pipeline.max_per_day_usd.as_ref(), &daemon.max_per_day),
            max_budget,
            max_duration: pipeline.max_duration.clone(),
            keep_for_report_permille: keep.unwrap_or_else(|| built_in(DEFAULT_KEEP_PERMILLE)),
        }
    }

    /// As a run carries them.
    pub fn run_limits(&self) -> RunLimits {
        RunLimits {
            max_turns: Some(self.max_turns.value),
            max_budget: Some(self.max_budget.value),
            max_per_day: Some(self.max_per_day.value),
            max_duration_s: self.max_duration.as_ref().map(|d| d.value.as_secs().max(1)),
            keep_for_report_permille: self.keep_for_report_permille.value,
        }
    }
}

/// Why no run may begin now: the daemon's own day or month is spent. `None`: nothing is in the way, as far as can be seen.
pub fn reached(daemon: &DaemonLimits, reader: &Reader, now: Timestamp) -> Option<String> {
    // A month has at most 31 days; the lines of others are left out below.
    let lines = match reader.costs(31, now) {
        Ok(lines) => lines,
        Err(error) => {
            tracing::warn!(%error, "what was spent cannot be read; the grants still hold every cap");
            return None;
        }
    };
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    let month = today.get(..7).unwrap_or_default().to_owned();
    let spent = |prefix: &str| -> UsdMicros {
        let of = |line: &CostLine| line.boss + line.intern + line.reviewer + line.sandbox + line.reserved;
        lines.iter().filter(|line| line.day.starts_with(prefix)).map(of).sum()
    };
    let caps = [("day", &today, &daemon.max_per_day), ("month", &month, &daemon.max_per_month)];
    let full = caps.into_iter().find(|(_, prefix, cap)| spent(prefix) >= cap.value)?;
    Some(format!("the daemon's {} cap of {} is reached", full.0, full.2.value))
}

fn stricter(pipeline: Option<&From<UsdMicros>>, daemon: &From<UsdMicros>) -> From<UsdMicros> {
    match pipeline {
        Some(own) if own.value <= daemon.value => own.clone(),
        _ => daemon.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<T>(value: T, file: &str) -> From<T> {
        From { value, origin: Origin { file: file.into(), line: 3 } }
    }

    #[test]
    fn a_pipeline_tightens_the_daemons_limits_and_never_loosens_them() {
        let daemon = DaemonLimits {
            max_budget: at(UsdMicros(10_000_000), "config"),
            max_per_day: at(UsdMicros(100_000_000), "config"),
            max_per_month: at(UsdMicros(1_000_000_000), "config"),
            max_concurrent_runs: at(50, "config"),
        };
        let limits = Limits {
            max_budget_usd: Some(at(UsdMicros(500_000_000), "pipeline")),
            max_per_day_usd: Some(at(UsdMicros(1_000_000), "pipeline")),
            ..Limits::default()
        };
        let effective = Effective::of(&limits, &daemon);
        assert_eq!(effective.max_budget, at(UsdMicros(10_000_000), "config"));
        assert_eq!(effective.max_per_day, at(UsdMicros(1_000_000), "pipeline"));
        assert_eq!((effective.max_turns.value, effective.max_turns.origin.line), (DEFAULT_MAX_TURNS, 0));
        assert_eq!(effective.run_limits().before_report(), Some(UsdMicros(9_000_000)));
    }
}

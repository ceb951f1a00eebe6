//! Whether the project's CI has really started on a draft. Only looks, and fails nothing.

use std::time::Duration;

use super::desk::Desk;

/// Pauses before each look. Workflows take some seconds to begin.
const LOOKS: [Duration; 6] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(12),
    Duration::from_secs(16),
    Duration::from_secs(18),
];

/// In words, for the receipt.
pub(super) async fn look(desk: &Desk<'_>, commit: &str, base: &str) -> String {
    let mut said = None;
    for (index, pause) in LOOKS.into_iter().enumerate() {
        desk.env.clock.sleep(pause).await;
        match once(desk, commit).await {
            Seen::Started(1) => return "CI has started (1 check)".into(),
            Seen::Started(checks) => return format!("CI has started ({checks} checks)"),
            Seen::Waits => said = Some("CI waits for an approval of its workflows".to_owned()),
            Seen::Nothing if index == 0 && !has_ci(desk, base).await => {
                return "no CI has started, as on the base".into();
            }
            Seen::Nothing => {}
            Seen::Unknown => return "whether CI has started could not be seen".into(),
        }
    }
    said.unwrap_or_else(|| "no CI has started".into())
}

enum Seen {
    Started(usize),
    /// Somebody has to let it run.
    Waits,
    Nothing,
    Unknown,
}

async fn once(desk: &Desk<'_>, commit: &str) -> Seen {
    let route = &desk.route;
    let checks = desk.github.list(&format!("{route}/commits/{commit}/check-runs"), &[], 100).await;
    if let Ok(checks) = &checks
        && !checks.is_empty()
    {
        return Seen::Started(checks.len());
    }
    let query = [("head_sha", commit.to_owned())];
    match (desk.github.list(&format!("{route}/actions/runs"), &query, 100).await, checks) {
        (Ok(runs), _)
            if runs.iter().any(|run| run["status"] == "action_required" || run["conclusion"] == "action_required") =>
        {
            Seen::Waits
        }
        (Ok(runs), _) if !runs.is_empty() => Seen::Started(runs.len()),
        (Ok(_), _) | (_, Ok(_)) => Seen::Nothing,
        (Err(error), Err(_)) => {
            tracing::info!(%error, "the checks of a pull request cannot be seen");
            Seen::Unknown
        }
    }
}

/// Whether anything ever ran on the base, or is there to run.
async fn has_ci(desk: &Desk<'_>, base: &str) -> bool {
    let route = &desk.route;
    let workflows = desk.github.list(&format!("{route}/actions/workflows"), &[], 1).await;
    let checks = desk.github.list(&format!("{route}/commits/{base}/check-runs"), &[], 1).await;
    // What cannot be seen may be there.
    let may = |found: Result<Vec<_>, _>| found.map_or(true, |found: Vec<serde_json::Value>| !found.is_empty());
    match (workflows, checks) {
        (Err(_), checks) => may(checks),
        (workflows, Err(_)) => may(workflows),
        (workflows, checks) => may(workflows) || may(checks),
    }
}

//! The findings ledger, as activities.

use serde_json::json;
use serde_json::value::RawValue;

use crate::domain::finding::FindingsRequest;
use crate::ports::durable::Stop;

use super::embedded::{journal_broken, raw};
use super::executor::{At, Executor};

impl Executor {
    /// Asks the ledger of this run's pipeline, profile and effects, or tells it. What it is told is on disk when this answers.
    pub(super) async fn findings(&self, at: &At, request: &FindingsRequest) -> Result<Box<RawValue>, Stop> {
        let run = &at.run;
        let answer = match request {
            FindingsRequest::Judge { source, seen, complete } => {
                let now = self.env.clock.now();
                let reader = self.journal.reader();
                raw(&reader.judge_findings(run, source, seen, *complete, now).map_err(journal_broken)?)
            }
            FindingsRequest::Handled { source, findings } => {
                let done = self.journal.findings_handled(run, source, findings.clone()).await;
                done.map_err(journal_broken)?;
                raw(&json!({}))
            }
            FindingsRequest::Gone { source, fingerprints } => {
                let done = self.journal.findings_gone(run, source, fingerprints.clone()).await;
                done.map_err(journal_broken)?;
                raw(&json!({}))
            }
            FindingsRequest::Remember { name, value } => {
                let before = self.journal.remember(run, name, *value).await.map_err(journal_broken)?;
                raw(&json!({ "before": before }))
            }
        };
        Ok(answer)
    }
}

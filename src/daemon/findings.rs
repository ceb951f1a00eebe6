//! What people say about findings.

use super::Holder;
use crate::base::clock::Timestamp;
use crate::control::Refusal;
use crate::domain::finding::FeedbackWord;
use crate::policy::findings::is_id;

impl Holder {
    /// Nobody wants to hear of this finding until then, or ever. `id` is whole.
    pub async fn mute(&self, id: &str, until: Option<Timestamp>, reason: &str, by: &str) -> Result<(), Refusal> {
        if until.is_some_and(|until| until <= self.inner.env.now()) {
            return Err(Refusal::new("E-FINDING", "that moment has passed").help("name a later one"));
        }
        let muted = self.inner.journal.mute_finding(id, until, reason, by).await;
        found(muted, || {
            Refusal::new("E-FINDING", format!("there is no finding `{id}`")).help("nightcrew findings --all")
        })
    }

    /// Takes that back.
    pub async fn unmute(&self, id: &str, by: &str) -> Result<(), Refusal> {
        let unmuted = self.inner.journal.unmute_finding(id, by).await;
        found(unmuted, || Refusal::new("E-FINDING", format!("the finding `{id}` is not muted")))
    }

    /// A click on a message about a finding: `wrong_cause`, `wont_fix`. Also of one whose run has not told the ledger yet.
    pub async fn feedback(&self, id: &str, word: &str, by: &str) -> Result<(), Refusal> {
        let known: Vec<&str> = FeedbackWord::ALL.iter().map(|word| word.as_str()).collect();
        let word: FeedbackWord = word.parse().map_err(|_| {
            Refusal::new("E-FINDING", "this is no word about a finding").help(format!("one of: {}", known.join(", ")))
        })?;
        if !is_id(id) {
            return Err(Refusal::new("E-FINDING", "this is no finding's id").help("nightcrew findings --all"));
        }
        match self.inner.journal.feedback(id, word, by).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::new("E-JOURNAL", error.to_string())),
        }
    }
}

fn found(done: Result<bool, crate::journal::Error>, missing: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing()),
        Err(error) => Err(Refusal::new("E-JOURNAL", error.to_string())),
    }
}

//! The model providers: one file each, behind `ports::model`.
//!
//! A provider turns a neutral request into its wire format, streams the answer and returns it whole or not at all. It never
//! retries, never executes, never spends unasked: grants, retries and fallback are the executor's.

use serde_json::value::RawValue;

use crate::domain::model::RawMessage;
use crate::ports::model::ModelKind;

pub mod estimate;
pub mod normalise;
mod schema;
mod sse;
mod wire;

pub mod anthropic;
pub mod openai;
pub mod tape;

/// Every provider that ships.
pub const ALL: &[ModelKind] = &[anthropic::KIND, openai::KIND, tape::KIND];

/// The same messages without thinking blocks. Thinking is bound to the model that thought it, so a request that falls back to
/// another model must leave it out. A message that held nothing else is left out whole.
pub fn without_thinking(messages: &[RawMessage]) -> Result<Vec<RawMessage>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        role: &'a RawValue,
        #[serde(borrow)]
        content: Vec<&'a RawValue>,
    }
    let mut kept = Vec::with_capacity(messages.len());
    for raw in messages {
        if !raw.get().contains("thinking\"") {
            kept.push(raw.clone());
            continue;
        }
        let parts: Parts<'_> = serde_json::from_str(raw.get())?;
        let mut blocks = Vec::new();
        for block in &parts.content {
            if !matches!(wire::block_type(block)?.as_ref(), "thinking" | "redacted_thinking") {
                blocks.push(block.get());
            }
        }
        if blocks.len() == parts.content.len() {
            kept.push(raw.clone());
        } else if !blocks.is_empty() {
            let text = format!(r#"{{"role":{},"content":[{}]}}"#, parts.role.get(), blocks.join(","));
            kept.push(RawValue::from_string(text)?.into());
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_snake_case_and_summaries_are_given() {
        let mut names: Vec<_> = ALL.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for kind in ALL {
            assert!(kind.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", kind.name);
            assert!(!kind.summary.is_empty(), "{}", kind.name);
        }
    }

    #[test]
    fn thinking_is_left_out_for_another_model_and_all_else_stays_byte_for_byte() {
        let raw = |text: &str| RawMessage::from(RawValue::from_string(text.into()).unwrap());
        let user = raw(r#"{"role":"user","content":[{"type":"text","text":"on \"thinking\""}]}"#);
        let messages = [
            user.clone(),
            raw(
                r#"{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"x"},{"type":"text","text":"a\u00e9"}]}"#,
            ),
            raw(r#"{"role":"assistant","content":[{"type":"redacted_thinking","data":"x"}]}"#),
        ];
        let kept: Vec<_> = without_thinking(&messages).unwrap().iter().map(|m| m.get().to_owned()).collect();
        assert_eq!(kept, [user.get(), r#"{"role":"assistant","content":[{"type":"text","text":"a\u00e9"}]}"#]);
    }
}

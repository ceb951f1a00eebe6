//! Upper bounds of what a request costs in tokens, before it is sent. Pure.
//!
//! The bound holds because tokenisers of both families work on bytes: a token covers at least one. What a provider adds by
//! itself (separators between messages, its own instructions for tools and for schemas) is covered by constants. The bound
//! is loose on the first call of a conversation; from the second on `known_prefix` is exact and only what was added is bounded.

use crate::domain::model::{ModelRequest, Usage};

/// Separators and the like, per message.
const PER_MESSAGE: u64 = 16;
/// What providers add for tools.
const FOR_TOOLS: u64 = 1_000;
/// What providers add for a schema, beside the schema itself.
const FOR_SCHEMA: u64 = 500;
const PER_TOOL: u64 = 32;
const PER_REQUEST: u64 = 64;

/// The most input tokens that `request` can be. See `ModelRequest::known_prefix`.
///
/// A schema counts in full also after a known prefix: the earlier request may have had none.
pub fn input_tokens(request: &ModelRequest) -> u64 {
    let (known, from) = match request.known_prefix {
        (tokens, messages) if tokens > 0 && messages <= request.messages.len() => (tokens, messages),
        _ => (fixed_part(request), 0),
    };
    let added: u64 = request.messages[from..].iter().map(|message| bytes(message.get()) + PER_MESSAGE).sum();
    known + added + for_schema(request)
}

/// For a provider that reports no usage: what the call used at most, from what was sent and what came back
/// (`answer_bytes`: text, arguments and reasoning).
pub fn without_report(request: &ModelRequest, answer_bytes: u64, max_output_tokens: u32) -> Usage {
    let whole = ModelRequest { known_prefix: (0, 0), ..request.clone() };
    Usage {
        input: input_tokens(&whole),
        output: (answer_bytes + PER_MESSAGE).min(u64::from(max_output_tokens)),
        ..Usage::default()
    }
}

/// About how many tokens this is: for display and for tapes written by hand, never for money that is granted.
pub fn likely_tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// Bytes of system text and tools with what providers add to them.
fn fixed_part(request: &ModelRequest) -> u64 {
    let tools: u64 = request
        .tools
        .iter()
        .map(|tool| {
            let schema = tool.input_schema.to_string();
            bytes(&tool.name) + bytes(&tool.description) + bytes(&schema) + PER_TOOL
        })
        .sum();
    let for_tools = if request.tools.is_empty() { 0 } else { FOR_TOOLS };
    bytes(&request.system) + tools + for_tools + PER_REQUEST
}

fn for_schema(request: &ModelRequest) -> u64 {
    // Doubled: constraints that a provider does not know are written into descriptions.
    request.output_schema.as_ref().map_or(0, |schema| 2 * bytes(&schema.to_string()) + FOR_SCHEMA)
}

fn bytes(text: &str) -> u64 {
    text.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::model::{Message, Role};

    fn request(texts: &[&str], known_prefix: (u64, usize)) -> ModelRequest {
        ModelRequest {
            role: Role::Boss,
            system: "s".repeat(1000).into(),
            tools: std::sync::Arc::new(Vec::new()),
            messages: texts.iter().map(|text| Message::user(*text).raw().unwrap()).collect(),
            output_schema: None,
            no_tools: false,
            known_prefix,
            items: Vec::new(),
            from_report_slice: false,
            counts_turn: true,
        }
    }

    #[test]
    fn what_is_known_counts_exactly_and_only_the_rest_by_its_bytes() {
        let long = "x".repeat(5000);
        let all = input_tokens(&request(&[&long, "b"], (0, 0)));
        assert!((6000..6400).contains(&all), "{all}");
        let after = input_tokens(&request(&[&long, "b"], (1400, 1)));
        assert!((1401..1500).contains(&after), "{after}");
        // A prefix of more messages than there are cannot be this request's.
        assert_eq!(input_tokens(&request(&[&long, "b"], (1400, 3))), all);
    }

    #[test]
    fn a_call_without_reported_usage_is_booked_by_its_bytes_up_to_the_grant() {
        let request = request(&["hello"], (7, 1));
        let usage = without_report(&request, 100, 4000);
        assert!(usage.input > 1000 && usage.output == 116, "{usage:?}");
        assert_eq!(without_report(&request, 100_000, 4000).output, 4000);
    }
}

//! Chat completions, always streamed: OpenAI's own API and every server that speaks it (Ollama, vLLM, OpenRouter, llama.cpp).
//!
//! Which name the output limit goes by: `max_completion_tokens` for OpenAI's own hosts, whose reasoning models refuse
//! `max_tokens`; `max_tokens` for all others, since some know only that. A server that refuses the one by name is asked again
//! at once with the other, which is remembered: a refusal answers nothing and costs nothing.
//!
//! Source: the types of the official SDK 3.51, November 2026.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::BoxFuture;
use crate::domain::model::{ModelAnswer, ModelRequest};
use crate::ports::model::{Model, ModelCall, ModelError, ModelKind, ModelSetup};

use super::estimate;
use super::wire::{self, Endpoint, KeyIn};

mod answer;
mod body;

pub use body::OutputLimit;

/// The row of this provider.
pub const KIND: ModelKind = ModelKind {
    name: "openai",
    summary: "OpenAI's chat completions, and servers that speak it: Ollama, vLLM, OpenRouter",
    default_base_url: Some(BASE_URL),
    make,
};

const BASE_URL: &str = "https://api.openai.com/v1";

fn make(setup: &ModelSetup) -> Result<Arc<dyn Model>, ModelError> {
    let own = setup.base_url.as_deref().is_none_or(is_openai);
    Ok(Arc::new(OpenAi {
        endpoint: Endpoint::new(setup, BASE_URL, "/chat/completions")?,
        completion_limit: AtomicBool::new(own),
    }))
}

fn is_openai(base_url: &str) -> bool {
    let rest = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
    let host = rest.split(['/', '?']).next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    host.ends_with(".openai.com") || host.ends_with(".openai.azure.com")
}

struct OpenAi {
    endpoint: Endpoint,
    /// The limit is called `max_completion_tokens`.
    completion_limit: AtomicBool,
}

impl Model for OpenAi {
    fn call<'a>(&'a self, call: ModelCall<'a>) -> BoxFuture<'a, Result<ModelAnswer, ModelError>> {
        Box::pin(self.answer(call))
    }
}

impl OpenAi {
    async fn answer(&self, call: ModelCall<'_>) -> Result<ModelAnswer, ModelError> {
        let own = self.completion_limit.load(Ordering::Relaxed);
        let mut response = match self.post(&call, own).await {
            Err(refusal) if names_the_limit(&refusal, own) => {
                let response = self.post(&call, !own).await.map_err(|refusal| refusal.error)?;
                self.completion_limit.store(!own, Ordering::Relaxed);
                response
            }
            other => other.map_err(|refusal| refusal.error)?,
        };
        let mut assembly = answer::Assembly::new(&call);
        let read = wire::read_events(&mut response, |event| assembly.take(event, call.live)).await;
        match read {
            Ok(()) => {}
            // Some servers end the stream without `[DONE]`. The finish reason has said that the answer is whole.
            Err(wire::Lost::Ended) if assembly.is_whole() => {}
            Err(lost) => return Err(wire::lost(lost, assembly.usage())),
        }
        assembly.finish(|answer_bytes| estimate::without_report(call.request, answer_bytes, call.max_output_tokens))
    }

    async fn post(
        &self,
        call: &ModelCall<'_>,
        completion_limit: bool,
    ) -> Result<crate::clients::http::Answer, wire::Refusal> {
        let limit = if completion_limit { OutputLimit::MaxCompletionTokens } else { OutputLimit::MaxTokens };
        let body = request_body(call.request, call.model, call.max_output_tokens, limit)
            .map_err(|error| wire::Refusal { error, text: String::new() })?;
        self.endpoint.post(&[("accept", "text/event-stream")], KeyIn::Bearer, body).await
    }
}

/// The server refused the very parameter that the limit was sent as.
fn names_the_limit(refusal: &wire::Refusal, completion_limit: bool) -> bool {
    let sent = if completion_limit { "max_completion_tokens" } else { "max_tokens" };
    let refused = matches!(refusal.error, ModelError::Rejected { status: 400 | 422, .. });
    let text = refusal.text.to_ascii_lowercase();
    let unknown =
        ["unsupported", "not supported", "unknown", "unrecognized", "extra inputs", "extra_forbidden", "not permitted"];
    refused && text.contains(sent) && unknown.iter().any(|word| text.contains(word))
}

/// The bytes that are sent.
pub fn request_body(
    request: &ModelRequest,
    model: &str,
    max_output_tokens: u32,
    limit: OutputLimit,
) -> Result<Vec<u8>, ModelError> {
    body::write(request, model, max_output_tokens, limit).map_err(|error| ModelError::Rejected {
        status: 0,
        message: format!("a message of the transcript is not valid: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_openais_own_hosts_get_the_new_name_of_the_limit() {
        for own in ["https://api.openai.com/v1", "https://eu.api.openai.com", "https://acme.openai.azure.com/openai/v1"]
        {
            assert!(is_openai(own), "{own}");
        }
        for other in
            ["http://127.0.0.1:11434/v1", "https://openrouter.ai/api/v1", "https://api.openai.com.evil.example/v1"]
        {
            assert!(!is_openai(other), "{other}");
        }
    }
}

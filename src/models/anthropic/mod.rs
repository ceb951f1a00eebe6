//! Anthropic's Messages API, always streamed. `body` writes the request, `answer` puts the events together.
//!
//! Source: <https://platform.claude.com/docs/en/api/messages-streaming> and the types of the official SDK 2.10, November 2026.

use std::sync::Arc;

use crate::base::BoxFuture;
use crate::domain::model::{ModelAnswer, ModelRequest};
use crate::ports::model::{Model, ModelCall, ModelError, ModelKind, ModelSetup};

use super::estimate;
use super::wire::{self, Endpoint, KeyIn};

mod answer;
mod body;

/// The row of this provider.
pub const KIND: ModelKind = ModelKind {
    name: "anthropic",
    summary: "Anthropic's Messages API, and servers that speak it",
    default_base_url: Some(BASE_URL),
    make,
};

const BASE_URL: &str = "https://api.anthropic.com";
const VERSION: &str = "2023-06-01";

fn make(setup: &ModelSetup) -> Result<Arc<dyn Model>, ModelError> {
    Ok(Arc::new(Anthropic { endpoint: Endpoint::new(setup, BASE_URL, "/v1/messages")? }))
}

struct Anthropic {
    endpoint: Endpoint,
}

impl Model for Anthropic {
    fn call<'a>(&'a self, call: ModelCall<'a>) -> BoxFuture<'a, Result<ModelAnswer, ModelError>> {
        Box::pin(self.answer(call))
    }
}

impl Anthropic {
    async fn answer(&self, call: ModelCall<'_>) -> Result<ModelAnswer, ModelError> {
        let body = request_body(call.request, call.model, call.max_output_tokens)?;
        let headers = [("anthropic-version", VERSION), ("accept", "text/event-stream")];
        let mut response =
            self.endpoint.post(&headers, KeyIn::Header("x-api-key"), body).await.map_err(|refusal| refusal.error)?;
        let mut assembly = answer::Assembly::new(call.model);
        let read = wire::read_events(&mut response, |event| assembly.take(event, call.live)).await;
        match read {
            Ok(()) => assembly
                .finish(|answer_bytes| estimate::without_report(call.request, answer_bytes, call.max_output_tokens)),
            Err(lost) => Err(wire::lost(lost, assembly.usage())),
        }
    }
}

/// The bytes that are sent.
pub fn request_body(request: &ModelRequest, model: &str, max_output_tokens: u32) -> Result<Vec<u8>, ModelError> {
    body::write(request, model, max_output_tokens).map_err(|error| ModelError::Rejected {
        status: 0,
        message: format!("a message of the transcript is not valid: {error}"),
    })
}

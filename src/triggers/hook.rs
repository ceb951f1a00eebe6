//! What arrives at `/hooks/…`, as those who understand it get it: raw bytes first, so that a signature can be checked over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::BoxFuture;

/// One delivery as it came.
#[derive(Clone, Debug, Default)]
pub struct HookRequest {
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: bytes::Bytes,
}

impl HookRequest {
    /// The first header of this (lower-case) name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(own, _)| own == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// What is answered: a status, and a body of JSON or plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookAnswer {
    pub status: u16,
    /// (content type, text)
    pub body: Option<(&'static str, String)>,
}

impl HookAnswer {
    pub fn status(status: u16) -> Self {
        Self { status, body: None }
    }
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, body: Some(("text/plain; charset=utf-8", text.into())) }
    }
    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self { status, body: Some(("application/json", value.to_string())) }
    }
}

/// Understands the deliveries of one name.
pub type HookHandler = Arc<dyn Fn(HookRequest) -> BoxFuture<'static, HookAnswer> + Send + Sync>;

/// Who understands what, by the last part of the path.
#[derive(Clone, Default)]
pub struct Hooks(pub BTreeMap<String, HookHandler>);

impl Hooks {
    pub fn add(&mut self, name: &str, handler: HookHandler) {
        self.0.insert(name.to_owned(), handler);
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

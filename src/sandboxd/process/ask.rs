//! What calls ask with, as generously as protobuf's JSON is read: defaults may be missing, enumerations are names or numbers.

use serde::Deserialize;
use serde_json::Value;

use super::super::error::RpcError;
use crate::clients::e2b::wire::{ProcessSelector, Pty};

pub(super) use crate::clients::e2b::wire::{ProcessInput as Input, SendInput, StartProcess};

/// A call about one process.
#[derive(Debug, Deserialize)]
pub(super) struct OnProcess {
    pub process: ProcessSelector,
}

#[derive(Debug, Deserialize)]
pub(super) struct SendSignal {
    pub process: ProcessSelector,
    #[serde(default)]
    pub signal: SignalName,
}

/// `SIGNAL_SIGTERM` or 15, `SIGNAL_SIGKILL` or 9.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct SignalName(Value);

impl SignalName {
    pub(super) fn number(&self) -> Result<i32, RpcError> {
        match (&self.0, self.0.as_i64()) {
            (_, Some(15)) => Ok(libc::SIGTERM),
            (_, Some(9)) => Ok(libc::SIGKILL),
            (Value::String(name), _) if name == "SIGNAL_SIGTERM" => Ok(libc::SIGTERM),
            (Value::String(name), _) if name == "SIGNAL_SIGKILL" => Ok(libc::SIGKILL),
            (other, _) => Err(RpcError::new("invalid_argument", format!("invalid signal: {other}"))),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Resize {
    pub process: ProcessSelector,
    #[serde(default)]
    pub pty: Option<Pty>,
}

/// One message of a stream of input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum StreamInput {
    Start(OnProcess),
    Data(InputData),
    Keepalive {},
}

#[derive(Debug, Deserialize)]
pub(super) struct InputData {
    pub input: Input,
}

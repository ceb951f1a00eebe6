//! What calls ask with, as generously as protobuf's JSON is read: defaults may be missing or `null`, numbers may be texts,
//! enumerations are names or numbers, and what is unknown is passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::error::RpcError;
use crate::base::base64;
use crate::clients::e2b::wire::{ProcessConfig, ProcessSelector};
use crate::isolation::Size;

/// `Start`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StartProcess {
    #[serde(deserialize_with = "or_default")]
    pub process: Config,
    pub pty: Option<Pty>,
    pub tag: Option<String>,
    pub stdin: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    #[serde(deserialize_with = "or_default")]
    cmd: String,
    #[serde(deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
}

impl From<Config> for ProcessConfig {
    fn from(asked: Config) -> Self {
        let Config { cmd, args, envs, cwd } = asked;
        Self { cmd, args, envs, cwd }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pty {
    #[serde(deserialize_with = "or_default")]
    size: PtySize,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct PtySize {
    #[serde(deserialize_with = "number")]
    cols: u32,
    #[serde(deserialize_with = "number")]
    rows: u32,
}

impl Pty {
    pub(super) fn size(self) -> Size {
        let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        Size { columns: characters(self.size.cols), rows: characters(self.size.rows) }
    }
}

/// `{"pid": 7}` or `{"tag": "mine"}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Selector {
    #[serde(deserialize_with = "maybe_number")]
    pid: Option<u32>,
    tag: Option<String>,
}

impl Selector {
    pub(super) fn chosen(&self) -> Result<ProcessSelector, RpcError> {
        match (self.pid, &self.tag) {
            (Some(pid), _) => Ok(ProcessSelector::Pid(pid)),
            (None, Some(tag)) => Ok(ProcessSelector::Tag(tag.clone())),
            (None, None) => Err(RpcError::new("invalid_argument", "the call names no process, by `pid` or by `tag`")),
        }
    }
}

/// A call about one process.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OnProcess {
    #[serde(deserialize_with = "or_default")]
    pub process: Selector,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SendInput {
    #[serde(deserialize_with = "or_default")]
    pub process: Selector,
    #[serde(deserialize_with = "or_default")]
    pub input: AskedInput,
}

/// Bytes in base64.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AskedInput {
    stdin: Option<String>,
    pty: Option<String>,
}

/// What is to be written, and where to.
#[derive(Debug)]
pub(super) enum Input {
    Stdin(Vec<u8>),
    Pty(Vec<u8>),
}

impl AskedInput {
    pub(super) fn decoded(self) -> Result<Input, RpcError> {
        let wrong = |message| RpcError::new("invalid_argument", message);
        let bytes = |text: String| base64::decoded(&text).ok_or_else(|| wrong("the input is no base64"));
        match (self.stdin, self.pty) {
            (Some(text), None) => bytes(text).map(Input::Stdin),
            (None, Some(text)) => bytes(text).map(Input::Pty),
            _ => Err(wrong("the input is one of `stdin` and `pty`")),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SendSignal {
    #[serde(deserialize_with = "or_default")]
    pub process: Selector,
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

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resize {
    #[serde(deserialize_with = "or_default")]
    pub process: Selector,
    pub pty: Option<Pty>,
}

/// One message of a stream of input: one of these, or none, which only shows that the caller lives.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamInput {
    pub start: Option<OnProcess>,
    pub data: Option<InputData>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InputData {
    #[serde(deserialize_with = "or_default")]
    pub input: AskedInput,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    maybe_number(from).map(Option::unwrap_or_default)
}

fn maybe_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let read = match Value::deserialize(from)? {
        Value::Null => return Ok(None),
        Value::String(text) => text.parse().ok(),
        value => value.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    read.map(Some).ok_or_else(|| serde::de::Error::custom("not a number from 0 to 4294967295"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_protobuf_reads_them() {
        let read = |text: &str| serde_json::from_str::<SendSignal>(text);
        for (text, signal) in [
            (r#"{"process": {"pid": 7}, "signal": 9}"#, 9),
            (r#"{"process": {"pid": "7", "new": {}}, "signal": "SIGNAL_SIGTERM", "more": [1]}"#, 15),
            (r#"{"signal": "SIGNAL_SIGKILL", "process": {"tag": null, "pid": 7}}"#, 9),
        ] {
            let asked = read(text).unwrap();
            assert_eq!(asked.process.chosen().unwrap(), ProcessSelector::Pid(7), "{text}");
            assert_eq!(asked.signal.number().unwrap(), signal, "{text}");
        }
        for text in ["{}", r#"{"process": null}"#, r#"{"process": {}, "signal": 0}"#] {
            let asked = read(text).unwrap();
            assert!(asked.process.chosen().is_err() && asked.signal.number().is_err(), "{text}");
        }
        for text in [r#"{"process": {"pid": -1}}"#, r#"{"process": {"pid": 4294967296}}"#, r#"{"process": 3}"#] {
            assert!(read(text).is_err(), "{text}");
        }
        let text =
            r#"{"process": {"cmd": "x", "args": null, "envs": null, "cwd": null}, "pty": {"size": {"rows": "24"}}}"#;
        let asked: StartProcess = serde_json::from_str(text).unwrap();
        assert_eq!(asked.pty.unwrap().size(), Size { columns: 0, rows: 24 });
        assert_eq!(ProcessConfig::from(asked.process), ProcessConfig { cmd: "x".into(), ..ProcessConfig::default() });
        let input = |text: &str| serde_json::from_str::<AskedInput>(text).unwrap().decoded();
        assert!(matches!(input(r#"{"stdin": "-_8"}"#), Ok(Input::Stdin(bytes)) if bytes == [251, 255]));
        assert!(matches!(input(r#"{"pty": ""}"#), Ok(Input::Pty(bytes)) if bytes.is_empty()));
        assert!(input("{}").is_err() && input(r#"{"stdin": "?"}"#).is_err());
    }
}

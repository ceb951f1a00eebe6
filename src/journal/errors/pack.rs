//! Events as they are stored: JSON, deflated where that helps.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::value::RawValue;

use crate::journal::error::Error;

/// Below this many bytes deflating saves nothing worth its time.
const SMALL: usize = 512;
/// No event is longer than this when it is taken out again.
const MOST: u64 = 16 << 20;

/// One event, ready to be written.
#[derive(Debug)]
pub(super) struct Packed {
    pub event_id: String,
    pub packed: bool,
    pub body: Vec<u8>,
}

impl Packed {
    pub(super) fn of(event_id: String, raw: &RawValue) -> Self {
        let text = raw.get().as_bytes();
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(text.len() / 3), Compression::fast());
        // Writing into memory does not fail; if it ever does, the text itself is kept.
        let deflated = if text.len() < SMALL {
            None
        } else {
            encoder.write_all(text).and_then(|()| encoder.finish()).ok().filter(|deflated| deflated.len() < text.len())
        };
        match deflated {
            Some(body) => Self { event_id, packed: true, body },
            None => Self { event_id, packed: false, body: text.to_owned() },
        }
    }
}

/// The JSON of a stored event.
pub(super) fn unpack(packed: bool, body: &[u8]) -> Result<String, Error> {
    let mut text = Vec::new();
    if packed {
        let mut decoder = DeflateDecoder::new(body).take(MOST);
        decoder.read_to_end(&mut text).map_err(|error| Error::record("an event", error))?;
    } else {
        text.extend_from_slice(body);
    }
    String::from_utf8(text).map_err(|error| Error::record("an event", error))
}

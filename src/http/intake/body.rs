//! The body of a request: read up to a bound, and taken out of its encoding piece by piece, so that no bomb is ever held.

use std::io::{self, BufReader, Read};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt as _;
use ruzstd::decoding::StreamingDecoder;
use tokio::sync::OwnedSemaphorePermit;

use super::Refused;
use super::room::Room;

/// As it comes over the wire.
pub const MOST_SENT: usize = 20 << 20;
/// Taken out of its encoding.
pub const MOST_DECODED: u64 = 100 << 20;
/// How far back an encoding may refer: what its decoder holds.
const WINDOW: u64 = 8 << 20;

/// A body with the room it takes.
pub struct Held {
    pub pieces: Vec<bytes::Bytes>,
    pub room: Vec<OwnedSemaphorePermit>,
}

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Plain,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    pub fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let Some(named) = headers.get(header::CONTENT_ENCODING) else { return Ok(Self::Plain) };
        match named.to_str().unwrap_or("?").trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Plain),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            "br" => Ok(Self::Brotli),
            "zstd" => Ok(Self::Zstd),
            _ => Err(Refused::Bad("this content-encoding is not known; known are gzip, deflate, br and zstd")),
        }
    }
}

/// Reads a body whole. What it takes is counted against `room` as it arrives. Cancel safe: nothing is kept.
pub async fn read(headers: &HeaderMap, body: Body, room: &Room) -> Result<Held, Refused> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > MOST_SENT as u64) {
        return Err(Refused::TooLarge);
    }
    let mut held = Held { pieces: Vec::new(), room: Vec::new() };
    let mut length = 0;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| Refused::Bad("the body broke off"))?;
        length += piece.len();
        if length > MOST_SENT {
            return Err(Refused::TooLarge);
        }
        held.room.push(room.take(piece.len())?);
        held.pieces.push(piece);
    }
    Ok(held)
}

/// Reads and forgets what a refused request still sends, so that its sender comes to read the answer.
pub async fn forget(body: Body) {
    let mut stream = body.into_data_stream();
    let mut left: usize = 1 << 20;
    while let Some(Ok(piece)) = stream.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

/// The decoded body, to be read once. Reading fails when it is broken.
pub fn decoded(encoding: Encoding, pieces: Vec<bytes::Bytes>) -> Result<BufReader<Box<dyn Read>>, Refused> {
    let raw = Pieces(pieces.into_iter(), bytes::Bytes::new());
    let broken = |_| Refused::Bad("the body is not what its content-encoding says");
    let reader: Box<dyn Read> = match encoding {
        Encoding::Plain => Box::new(raw),
        Encoding::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Encoding::Deflate => {
            let mut raw = BufReader::new(raw);
            // By the book it is zlib's format; some send the bare one.
            let zlib = io::BufRead::fill_buf(&mut raw).is_ok_and(|start| {
                start.len() > 1 && start[0] & 15 == 8 && (u16::from(start[0]) << 8 | u16::from(start[1])) % 31 == 0
            });
            if zlib { Box::new(ZlibDecoder::new(raw)) } else { Box::new(DeflateDecoder::new(raw)) }
        }
        Encoding::Brotli => {
            let mut raw = BufReader::new(raw);
            // A sign outside of the standard, by which the sender asks for a window of up to 1 GB.
            if io::BufRead::fill_buf(&mut raw).is_ok_and(|start| start.first().is_some_and(|b| b & 0x7f == 0x11)) {
                return Err(broken(()));
            }
            Box::new(brotli_decompressor::Decompressor::new(raw, 16 << 10))
        }
        Encoding::Zstd => {
            Box::new(StreamingDecoder::new_with_max_window_size(raw, WINDOW).map_err(|_| ()).map_err(broken)?)
        }
    };
    Ok(BufReader::with_capacity(32 << 10, reader))
}

struct Pieces(std::vec::IntoIter<bytes::Bytes>, bytes::Bytes);

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.1.is_empty() {
            match self.0.next() {
                Some(next) => self.1 = next,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.1.len());
        into[..length].copy_from_slice(&self.1.split_to(length));
        Ok(length)
    }
}

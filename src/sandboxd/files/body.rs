//! The body of a request in pieces, unpacked if it was packed.

use std::io::Write as _;
use std::time::Duration;

use axum::body::{Body as Sent, BodyDataStream, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt as _;

/// How long a client may say nothing in the middle of its request.
const SILENCE: Duration = Duration::from_secs(300);
/// How long is listened on to a client that is to be told that it failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many packed bytes at a time: what comes of them is a thousand times as much at the most.
const PACKED: usize = 2 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request ended in the middle: {0}")]
    Gone(String),
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silent,
    #[error("error decompressing request body: {0}")]
    Packed(std::io::Error),
    #[error("error reading form: {0}")]
    Form(&'static str),
}

/// A body that is being read.
pub(super) struct Body {
    from: BodyDataStream,
    unpack: Option<Unpack>,
}

struct Unpack {
    decoder: MultiGzDecoder<Vec<u8>>,
    packed: Bytes,
    ended: bool,
}

impl Body {
    /// The error names an encoding that is not known.
    pub fn new(headers: &HeaderMap, body: Sent) -> Result<Self, String> {
        let encoding = headers.get(CONTENT_ENCODING).map_or("", |value| value.to_str().unwrap_or("?"));
        let unpack = match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => None,
            "gzip" => {
                let decoder = MultiGzDecoder::new(Vec::new());
                Some(Unpack { decoder, packed: Bytes::new(), ended: false })
            }
            _ => return Err(format!("unsupported Content-Encoding: {encoding}, supported: [gzip]")),
        };
        Ok(Self { from: body.into_data_stream(), unpack })
    }

    /// The next piece, never empty; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            if let Some(unpack) = &mut self.unpack {
                let piece = unpack.next().map_err(BodyError::Packed)?;
                if !piece.is_empty() {
                    return Ok(Some(piece.into()));
                }
                if unpack.ended {
                    return Ok(None);
                }
            }
            let next = tokio::time::timeout(SILENCE, self.from.next()).await.map_err(|_| BodyError::Silent)?;
            let piece = next.transpose().map_err(|error| BodyError::Gone(error.to_string()))?;
            match (piece, &mut self.unpack) {
                (Some(piece), _) if piece.is_empty() => {}
                (Some(piece), Some(unpack)) => unpack.packed = piece,
                (None, Some(unpack)) => unpack.ended = true,
                (piece, None) => return Ok(piece),
            }
        }
    }

    /// Hears the client out, so that it hears the answer: many see only a broken connection while they still send.
    pub async fn drain(mut self) {
        let rest = async { while let Some(Ok(_)) = self.from.next().await {} };
        // Who sends for longer than that is not told.
        tokio::time::timeout(PATIENCE, rest).await.ok();
    }

    #[cfg(test)]
    pub fn of(pieces: Vec<Vec<u8>>) -> Self {
        let pieces = pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)));
        Self { from: Sent::from_stream(futures_util::stream::iter(pieces)).into_data_stream(), unpack: None }
    }
}

impl Unpack {
    /// What comes of the next few packed bytes; nothing where there are no more.
    fn next(&mut self) -> std::io::Result<Vec<u8>> {
        while !self.packed.is_empty() && self.decoder.get_ref().is_empty() {
            let some = self.packed.split_to(self.packed.len().min(PACKED));
            self.decoder.write_all(&some)?;
        }
        if self.ended && self.decoder.get_ref().is_empty() {
            self.decoder.try_finish()?;
        }
        Ok(std::mem::take(self.decoder.get_mut()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(bytes: &[u8], size: usize) -> Result<Vec<u8>, BodyError> {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, "GZip".parse().unwrap())]);
        let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let mut body = Body::new(&headers, Sent::from_stream(futures_util::stream::iter(pieces))).unwrap();
        let mut all = Vec::new();
        while let Some(piece) = body.next().await? {
            assert!(piece.len() <= 4 << 20, "{}", piece.len());
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn packed_bodies_are_unpacked_and_bombs_come_in_small_pieces() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for size in [1000, 7, 1 << 20] {
            assert!(read(&packed(&text), size).await.unwrap() == text);
        }
        assert_eq!(read(&[packed(b"ab"), packed(b"c")].concat(), 5).await.unwrap(), b"abc");
        assert_eq!(read(&packed(b""), 3).await.unwrap(), b"");
        let bomb = packed(&vec![0; 64 << 20]);
        assert_eq!(read(&bomb, bomb.len()).await.unwrap().len(), 64 << 20);

        let whole = packed(&text);
        assert!(matches!(read(&whole[..whole.len() / 2], 999).await, Err(BodyError::Packed(_))));
        assert!(matches!(read(b"no gzip at all, but long enough for a head", 9).await, Err(BodyError::Packed(_))));
        let other = HeaderMap::from_iter([(CONTENT_ENCODING, "br".parse().unwrap())]);
        assert!(Body::new(&other, Sent::empty()).is_err());
    }
}

//! The frames of a Connect stream: one byte of flags, four of length, JSON. They come split anywhere.

use super::error::Error;
use super::wire::{END_OF_STREAM, MOST_MESSAGE};

/// The flag of a compressed message, which we never ask for.
const COMPRESSED: u8 = 1;
const HEAD: usize = 5;

/// What has come of a stream and is not read yet. Holds at most one whole frame and what came with it.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Where the next piece is appended.
    pub bytes: Vec<u8>,
    /// How much of it was read already.
    read: usize,
}

impl Frames {
    /// The next whole frame and whether it is the last one, or `None` where more bytes are needed.
    ///
    /// Errors: `Protocol` where a frame is compressed, has unknown flags, or is longer than [`MOST_MESSAGE`]; nothing after that
    /// can be read.
    pub fn next(&mut self) -> Result<Option<(&[u8], bool)>, Error> {
        let Some(head) = self.bytes.get(self.read..self.read + HEAD) else {
            self.forget();
            return Ok(None);
        };
        let flag = head[0];
        let length = head[1..].iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        let wrong = |message: String| Err(Error::Protocol { message });
        if flag & COMPRESSED != 0 {
            return wrong("a compressed frame, which was not asked for".into());
        }
        if flag & !END_OF_STREAM != 0 {
            return wrong(format!("a frame with the flags {flag:#04x}"));
        }
        if length > MOST_MESSAGE {
            return wrong(format!("a frame of {length} bytes, more than {MOST_MESSAGE}"));
        }
        let (from, to) = (self.read + HEAD, self.read + HEAD + length);
        if self.bytes.len() < to {
            self.forget();
            return Ok(None);
        }
        self.read = to;
        Ok(Some((&self.bytes[from..to], flag & END_OF_STREAM != 0)))
    }

    /// Drops what was read, so that a long stream takes no more room than its longest frame.
    fn forget(&mut self) {
        self.bytes.drain(..self.read);
        self.read = 0;
    }

    /// Whether the stream stopped in the middle of a frame.
    pub fn torn(&self) -> bool {
        self.bytes.len() > self.read
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::frame;
    use super::*;

    fn all(frames: &mut Frames) -> Vec<(Vec<u8>, bool)> {
        let mut found = Vec::new();
        while let Some((json, last)) = frames.next().unwrap() {
            found.push((json.to_vec(), last));
        }
        found
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let long = vec![b'x'; 70_000];
        let stream = [frame(0, b"{}"), frame(0, &long), frame(0, b""), frame(END_OF_STREAM, b"{\"a\":1}")].concat();
        let expected = vec![(b"{}".to_vec(), false), (long, false), (Vec::new(), false), (b"{\"a\":1}".to_vec(), true)];
        for piece in [1, 2, 3, 4, 5, 6, 7, 64, 4096, 65_536, stream.len()] {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                frames.bytes.extend_from_slice(bytes);
                found.extend(all(&mut frames));
            }
            assert_eq!(found, expected, "in pieces of {piece}");
            assert!(!frames.torn());
        }
    }

    #[test]
    fn what_was_read_takes_no_room() {
        let mut frames = Frames::default();
        let one = frame(0, &[b'x'; 1000]);
        for _ in 0..10_000 {
            frames.bytes.extend_from_slice(&one);
            assert_eq!(all(&mut frames).len(), 1);
        }
        assert!(frames.bytes.capacity() < 100_000, "{}", frames.bytes.capacity());
    }

    #[test]
    fn a_frame_that_cannot_be_is_refused_before_its_bytes_are_waited_for() {
        for (head, words) in [
            ([0, 255, 255, 255, 255], "bytes, more than"),
            ([0, 1, 0, 0, 1], "bytes, more than"),
            ([1, 0, 0, 0, 2], "compressed"),
            ([4, 0, 0, 0, 2], "flags 0x04"),
        ] {
            let mut frames = Frames { bytes: head.to_vec(), read: 0 };
            let error = frames.next().unwrap_err();
            assert!(matches!(&error, Error::Protocol { message } if message.contains(words)), "{error}");
        }
        let mut half = Frames { bytes: frame(0, b"{}")[..6].to_vec(), read: 0 };
        assert!(half.next().unwrap().is_none());
        assert!(half.torn());
    }
}

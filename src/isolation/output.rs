//! Output of a command that nobody can make large: its head, its tail and a count of what lies between.

use std::collections::VecDeque;

use crate::base::hash::{Hash, Hasher};

/// What was kept of one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub head: Vec<u8>,
    /// Empty where `head` holds all of it.
    pub tail: Vec<u8>,
    /// Everything that was written, kept or not.
    pub total_bytes: u64,
    /// Of everything that was written.
    pub hash: Hash,
}

impl Captured {
    /// How many bytes between head and tail were not kept.
    pub fn left_out_bytes(&self) -> u64 {
        self.total_bytes - self.head.len() as u64 - self.tail.len() as u64
    }

    /// The text, lossily, with a line in place of what was left out.
    pub fn text(&self) -> String {
        let head = String::from_utf8_lossy(&self.head);
        match self.left_out_bytes() {
            0 if self.tail.is_empty() => head.into_owned(),
            0 => String::from_utf8_lossy(&[&self.head[..], &self.tail[..]].concat()).into_owned(),
            bytes => format!("{head}\n[… {bytes} bytes left out …]\n{}", String::from_utf8_lossy(&self.tail)),
        }
    }
}

/// Takes chunks as they come and never holds more than its cap.
#[derive(Debug)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_cap: usize,
    tail_cap: usize,
    total_bytes: u64,
    hasher: Hasher,
}

impl Capture {
    pub fn new(cap_bytes: u64) -> Self {
        let cap = usize::try_from(cap_bytes).unwrap_or(usize::MAX);
        let tail_cap = cap / 2;
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_cap: cap - tail_cap,
            tail_cap,
            total_bytes: 0,
            hasher: Hasher::default(),
        }
    }

    pub fn push(&mut self, chunk: &[u8]) {
        self.total_bytes += chunk.len() as u64;
        self.hasher.update(chunk);
        let (first, rest) = chunk.split_at(chunk.len().min(self.head_cap - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_cap)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.tail_cap);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    pub fn finish(self) -> Captured {
        Captured { head: self.head, tail: self.tail.into(), total_bytes: self.total_bytes, hash: self.hasher.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_head_and_tail_and_counts_the_rest() {
        let whole: Vec<u8> = (0..100).collect();
        for size in [1, 3, 7, 100] {
            let mut capture = Capture::new(10);
            whole.chunks(size).for_each(|chunk| capture.push(chunk));
            let kept = capture.finish();
            assert_eq!((&kept.head[..], &kept.tail[..]), (&whole[..5], &whole[95..]), "chunks of {size}");
            assert_eq!(kept.left_out_bytes(), 90);
            assert_eq!(kept.hash, Hash::of(&whole), "of all of it, in whatever pieces it came");
        }
        let mut capture = Capture::new(10);
        capture.push("grün und gut".as_bytes().split_at(3).0);
        capture.push("grün und gut".as_bytes().split_at(3).1);
        assert_eq!(capture.finish().left_out_bytes(), 3);
        let mut short = Capture::new(10);
        short.push("abc — d".as_bytes());
        assert_eq!(short.finish().text(), "abc — d");
    }
}

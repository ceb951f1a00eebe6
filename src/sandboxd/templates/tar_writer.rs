//! Archives for tests, hostile ones as well.

use std::io::Write as _;

/// Writes headers as they are given, without asking whether they make sense.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn entry(&mut self, kind: u8, name: &[u8], link: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.header(kind, name, link, mode, content.len() as u64);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn header(&mut self, kind: u8, name: &[u8], link: &str, mode: u32, size: u64) -> &mut Self {
        let mut header = [0_u8; 512];
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(format!("{:011o}", 1_000_000_000).as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self
    }

    pub fn file(&mut self, name: &str, content: &str) -> &mut Self {
        self.entry(b'0', name.as_bytes(), "", 0o644, content.as_bytes())
    }

    pub fn folder(&mut self, name: &str) -> &mut Self {
        self.entry(b'5', name.as_bytes(), "", 0o755, b"")
    }

    pub fn symlink(&mut self, name: &str, to: &str) -> &mut Self {
        self.entry(b'2', name.as_bytes(), to, 0o777, b"")
    }

    pub fn hard_link(&mut self, name: &str, to: &str) -> &mut Self {
        self.entry(b'1', name.as_bytes(), to, 0o644, b"")
    }

    /// Attributes of the entry that comes next.
    pub fn pax(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let length = (1..).find(|length| format!("{length} {key}=").len() + value.len() + 1 == *length).unwrap();
        let mut record = format!("{length} {key}=").into_bytes();
        record.extend_from_slice(value);
        record.push(b'\n');
        self.entry(b'x', b"pax", "", 0o644, &record)
    }

    pub fn plain(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 1024]].concat()
    }

    pub fn gzip(&self) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.plain()).unwrap();
        encoder.finish().unwrap()
    }
}

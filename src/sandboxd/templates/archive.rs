//! Reading tar archives that somebody else made, plain or in gzip.
//!
//! Nothing is written here and no name leads anywhere: an entry's path is a list of names without `..`, counted and bounded. What an
//! archive can do to its reader is bounded as well: entries, bytes unpacked, bytes unpacked for each byte read, names. Sparse files
//! are refused, since their size says nothing about what they bring.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::Timespec;

const BLOCK: usize = 512;
/// The most that a long name or a block of attributes may take.
const MOST_NOTES: u64 = 1 << 20;
const MOST_PATH: usize = 4096;
const MOST_NAME: usize = 255;
/// Folders in folders, as deep as copies go.
const DEEPEST: usize = 200;
/// An archive may grow to this size whatever it was in gzip.
const ANYHOW: u64 = 256 << 20;

/// The most that an archive may bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub entries: u64,
    /// Unpacked, headers included.
    pub bytes: u64,
    /// Bytes unpacked for each byte that is read.
    pub ratio: u64,
}

impl Bounds {
    pub const USUAL: Self = Self { entries: 1_000_000, bytes: 16 << 30, ratio: 200 };
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its content is read from the archive next.
    File,
    Folder,
    /// With what stands in it. It may lead anywhere, so whoever handles it does not follow it.
    Symlink(PathBuf),
    /// To an entry of the same archive.
    Hardlink(Vec<OsString>),
    /// A device or a pipe.
    Special,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its names from the archive's root on; none: the root itself.
    pub path: Vec<OsString>,
    pub kind: Kind,
    /// Permissions, without setuid and its like.
    pub mode: u32,
    pub modified: Timespec,
    pub size: u64,
}

/// An archive that is read once, from its beginning.
pub(super) struct Archive<R: Read> {
    source: Source<R>,
    bounds: Bounds,
    entries: u64,
    unpacked: u64,
    /// What is left of the content of the last entry, and of what fills its last block.
    content: u64,
    filling: u64,
}

enum Source<R: Read> {
    Plain(BufReader<Tally<R>>),
    Gzip(MultiGzDecoder<BufReader<Tally<R>>>),
}

/// Counts what is read.
struct Tally<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Tally<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// What extended headers say about the entry behind them.
#[derive(Default)]
struct Notes {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<Timespec>,
}

impl<R: Read> Archive<R> {
    /// Errors: `InvalidData` for a compression that is not known, with its name.
    pub fn new(from: R, bounds: Bounds) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(128 << 10, Tally { from, bytes: 0 });
        let head = reader.fill_buf()?;
        let source = if head.starts_with(&[0x1f, 0x8b]) {
            Source::Gzip(MultiGzDecoder::new(reader))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(wrong("it is compressed by zstd, which is not known here; gzip is"));
        } else if head.starts_with(b"BZh") || head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
            return Err(wrong("it is compressed by bzip2 or xz, which are not known here; gzip is"));
        } else {
            Source::Plain(reader)
        };
        Ok(Self { source, bounds, entries: 0, unpacked: 0, content: 0, filling: 0 })
    }

    /// The next entry; what is left of the last one's content is passed over. `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        self.pass(self.content + self.filling)?;
        (self.content, self.filling) = (0, 0);
        let mut notes = Notes::default();
        loop {
            let Some(header) = self.header()? else {
                // To its last byte: what gzip says about the whole stands there.
                let mut buffer = [0; 64 << 10];
                while self.take(&mut buffer)? > 0 {}
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.bounds.entries {
                return Err(wrong(format!("it has more than {} entries", self.bounds.entries)));
            }
            let kind = header[156];
            let size = number(&header[124..136])?;
            match kind {
                b'x' => notes.read(&self.notes(size)?)?,
                // About all entries that follow; nothing in it is of use here.
                b'g' => drop(self.notes(size)?),
                b'L' => notes.path = Some(until_nul(&self.notes(size)?).to_vec()),
                b'K' => notes.link = Some(until_nul(&self.notes(size)?).to_vec()),
                _ => return self.entry(&header, notes, size).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], notes: Notes, size: u64) -> io::Result<Entry> {
        let text = notes.path.unwrap_or_else(|| {
            let (name, prefix) = (until_nul(&header[..100]), until_nul(&header[345..500]));
            match header[257..263] == *b"ustar\0" && !prefix.is_empty() {
                true => [prefix, b"/", name].concat(),
                false => name.to_vec(),
            }
        });
        let path = names(&text)?;
        let link = || -> io::Result<Vec<u8>> {
            let link = notes.link.clone().unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
            if link.is_empty() || link.len() > MOST_PATH || link.contains(&0) {
                return Err(wrong(format!("the link {} leads to no name", shown(&text))));
            }
            Ok(link)
        };
        let kind = match header[156] {
            0 if text.ends_with(b"/") => Kind::Folder,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::Hardlink(names(&link()?)?),
            b'2' => Kind::Symlink(OsString::from_vec(link()?).into()),
            b'5' => Kind::Folder,
            b'3' | b'4' | b'6' => Kind::Special,
            b'S' => return Err(wrong(format!("{} is a sparse file", shown(&text)))),
            other => return Err(wrong(format!("{} is of an unknown kind ({other:#x})", shown(&text)))),
        };
        let size = if kind == Kind::File { notes.size.unwrap_or(size) } else { 0 };
        if path.is_empty() && kind != Kind::Folder {
            return Err(wrong("an entry has no name"));
        }
        if size > self.bounds.bytes {
            return Err(self.too_large());
        }
        self.content = size;
        self.filling = padding(size);
        let modified = match notes.modified {
            Some(at) => at,
            None => whole_seconds(number(&header[136..148])?),
        };
        let mode = u32::try_from(number(&header[100..108])? & 0o777).unwrap_or_default();
        Ok(Entry { path, kind, mode, modified, size })
    }

    /// The next header that is not a filler.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.take(&mut block[filled..])? {
                // Some writers leave out the two empty blocks.
                0 if filled == 0 => return Ok(None),
                0 => return Err(wrong("it ends in the middle of a header")),
                count => filled += count,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |field: &dyn Fn(u8) -> i64| {
            let outside = block[..148].iter().chain(&block[156..]).map(|byte| field(*byte)).sum::<i64>();
            outside + 8 * i64::from(b' ')
        };
        let said = number(&block[148..156]).ok().and_then(|said| i64::try_from(said).ok()).unwrap_or(-1);
        // Some old writers took bytes for signed numbers.
        if said != sum(&|byte| byte.into()) && said != sum(&|byte| byte.cast_signed().into()) {
            return Err(wrong("it is not a tar archive, or it is damaged"));
        }
        Ok(Some(block))
    }

    fn notes(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MOST_NOTES {
            return Err(wrong("a name or its attributes are too long"));
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut text)?;
        self.pass(padding(size))?;
        Ok(text)
    }

    fn fill(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match self.take(into)? {
                0 => return Err(wrong("it ends before its last entry does")),
                count => into = &mut into[count..],
            }
        }
        Ok(())
    }

    fn pass(&mut self, mut bytes: u64) -> io::Result<()> {
        let mut buffer = [0; 64 << 10];
        while bytes > 0 {
            let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            match self.take(&mut buffer[..most])? {
                0 => return Err(wrong("it ends before its last entry does")),
                count => bytes -= count as u64,
            }
        }
        Ok(())
    }

    /// Reads some of what is unpacked, within the bounds.
    fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (count, read) = match &mut self.source {
            Source::Plain(reader) => (reader.read(into)?, u64::MAX),
            Source::Gzip(decoder) => {
                let count = decoder.read(into).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => wrong("its gzip data is damaged"),
                    _ => error,
                })?;
                (count, decoder.get_ref().get_ref().bytes)
            }
        };
        self.unpacked += count as u64;
        if self.unpacked > self.bounds.bytes {
            return Err(self.too_large());
        }
        if self.unpacked > ANYHOW.max(read.saturating_mul(self.bounds.ratio)) {
            return Err(wrong(format!("it unpacks to more than {} times its size", self.bounds.ratio)));
        }
        Ok(count)
    }

    fn too_large(&self) -> io::Error {
        wrong(format!("it unpacks to more than {} MiB", self.bounds.bytes >> 20))
    }
}

/// The content of the last entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.take(&mut into[..most])?;
        if count == 0 {
            return Err(wrong("it ends before its last entry does"));
        }
        self.content -= count as u64;
        Ok(count)
    }
}

impl Notes {
    /// `LENGTH KEY=VALUE\n`, as often as there are attributes.
    fn read(&mut self, mut text: &[u8]) -> io::Result<()> {
        let broken = || wrong("the attributes of an entry are damaged");
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let length = decimal(&text[..space]).ok_or_else(broken)?;
            let length = usize::try_from(length).map_err(|_| broken())?;
            let record = text.get(space + 1..length).ok_or_else(broken)?.strip_suffix(b"\n").ok_or_else(broken)?;
            text = text.get(length..).ok_or_else(broken)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or_else(broken)?),
                b"mtime" => self.modified = Some(instant(value).ok_or_else(broken)?),
                _ if key.starts_with(b"GNU.sparse.") => return Err(wrong("it has a sparse file")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The names of a path, which leads nowhere but down.
pub(super) fn names(text: &[u8]) -> io::Result<Vec<OsString>> {
    if text.len() > MOST_PATH || text.contains(&0) {
        return Err(wrong(format!("{} is not a name", shown(text))));
    }
    if text.first() == Some(&b'/') {
        return Err(wrong(format!("the name {} is absolute", shown(text))));
    }
    let parts = text.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<_> = parts.map(|part| OsString::from_vec(part.to_vec())).collect();
    if parts.iter().any(|part| part == OsStr::new("..") || part.len() > MOST_NAME) {
        return Err(wrong(format!("the name {} leads out of the archive or is too long", shown(text))));
    }
    if parts.len() > DEEPEST {
        return Err(wrong(format!("its folders are nested deeper than {DEEPEST}")));
    }
    Ok(parts)
}

fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    format!("`{}`", text.chars().take(200).collect::<String>().escape_debug())
}

pub(super) fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A field of a header: digits in base 8, or the number itself where its first bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    let broken = || wrong("a number in a header is damaged");
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        // The sign and what does not fit into 64 bits.
        if field[0] != 0x80 || field[1..field.len() - field.len().min(9) + 1].iter().any(|byte| *byte != 0) {
            return if field[0] == 0xff { Ok(0) } else { Err(broken()) };
        }
        return Ok(field[1..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let digits = until_nul(field).trim_ascii();
    let mut sum = 0_u64;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err(broken());
        }
        sum = sum.checked_mul(8).and_then(|sum| sum.checked_add(u64::from(digit - b'0'))).ok_or_else(broken)?;
    }
    Ok(sum)
}

fn decimal(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// `SECONDS[.FRACTION]`; what was before 1970 becomes 1970.
fn instant(text: &[u8]) -> Option<Timespec> {
    if text.starts_with(b"-") {
        return Some(whole_seconds(0));
    }
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let mut at = whole_seconds(decimal(seconds.as_bytes())?);
    at.tv_nsec = decimal(digits.as_bytes())?.try_into().ok()?;
    Some(at)
}

fn whole_seconds(seconds: u64) -> Timespec {
    // The year 9999: no file system goes further.
    Timespec { tv_sec: seconds.min(253_402_300_799).cast_signed(), tv_nsec: 0 }
}

//! Files of trees as archives: what travels into a sandbox, in one piece.
//!
//! Names are the repository's, and bytes; what is in an archive are files, links and the folders above them. All have one old time, so
//! that equal trees are equal archives: who unpacks them says what time files get.

use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// The time of everything in an archive, in seconds: older than whatever a command makes.
const OLD: u64 = 1_000_000_000;
const BLOCK: usize = 512;
/// What fits into a header of the old format; longer names stand in an entry of their own before it, as GNU tar writes them.
const NAME: usize = 100;
/// The largest file that a header can tell of.
const MOST: u64 = (1 << 33) - 1;

/// An archive in the format of `tar` that is being made.
#[derive(Default)]
pub(super) struct Archive(Vec<u8>);

/// What an entry is, in its header.
#[derive(Clone, Copy)]
enum Kind {
    File = b'0' as isize,
    Link = b'2' as isize,
    Folder = b'5' as isize,
    LongName = b'L' as isize,
    LongLink = b'K' as isize,
}

impl Archive {
    /// One file with this content.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.header(name.as_bytes(), b"", Kind::File, 0o644, content.len() as u64)?;
        self.0.extend_from_slice(content);
        self.fill();
        Ok(())
    }

    pub(super) fn empty_folder(&mut self, name: &str) -> io::Result<()> {
        self.header(name.as_bytes(), b"", Kind::Folder, 0o755, 0)
    }

    /// Everything below a folder of the host that nobody else writes to, as `below/…`; an empty `below`: at the top.
    pub(super) fn folder(&mut self, folder: &Path, below: impl AsRef<Path>) -> io::Result<()> {
        let names = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let (path, inside) = (folder.join(&name), below.as_ref().join(&name));
            let shown = inside.as_os_str().as_bytes();
            let found = std::fs::symlink_metadata(&path)?;
            if found.is_dir() {
                self.header(shown, b"", Kind::Folder, 0o755, 0)?;
                self.folder(&path, &inside)?;
            } else if found.is_symlink() {
                let target = std::fs::read_link(&path)?;
                self.header(shown, target.as_os_str().as_bytes(), Kind::Link, 0o777, 0)?;
            } else if found.is_file() {
                let mode = if found.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
                self.header(shown, b"", Kind::File, mode, found.len())?;
                let copied = io::copy(&mut std::fs::File::open(&path)?, &mut self.0)?;
                if copied != found.len() {
                    return Err(io::Error::other(format!("{} has changed while it was read", path.display())));
                }
                self.fill();
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn header(&mut self, name: &[u8], link: &[u8], kind: Kind, mode: u32, size: u64) -> io::Result<()> {
        if size > MOST {
            return Err(io::Error::other("a file is larger than 8 GiB"));
        }
        for (long, kind) in [(name, Kind::LongName), (link, Kind::LongLink)] {
            if long.len() > NAME {
                self.header(b"././@LongLink", b"", kind, 0o644, long.len() as u64 + 1)?;
                self.0.extend_from_slice(long);
                self.0.push(0);
                self.fill();
            }
        }
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in block.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        let short = |name: &[u8]| name.get(..NAME).unwrap_or(name).to_vec();
        put(0, &short(name));
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0{size:011o}\0{OLD:011o}\0        ", 0, 0).as_bytes());
        put(156, &[kind as u8]);
        put(157, &short(link));
        put(257, b"ustar  \0");
        // Of all bytes, its own place counted as blanks.
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
            *to = from;
        }
        self.0.extend_from_slice(&block);
        Ok(())
    }

    /// Every entry begins at a block.
    fn fill(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

/// The same, packed: for a way that is longer than this machine.
pub(super) fn packed(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(archive)?;
    packer.finish()
}

/// Paths as a list that `xargs -0` reads.
pub(super) fn list<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_names_modes_and_links_and_is_the_same_for_the_same_files() {
        let root = tempfile::tempdir().unwrap();
        let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"n\xff\nm"));
        let long = "x".repeat(90);
        let deep = PathBuf::from("deep").join(&long).join(&long);
        let far = format!("/{long}/{long}");
        let make = |folder: &Path| {
            std::fs::create_dir_all(folder.join(&deep)).unwrap();
            std::fs::write(folder.join(&deep).join("file"), "far").unwrap();
            std::fs::write(folder.join(&odd), "odd").unwrap();
            std::fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
            std::fs::set_permissions(folder.join("tool"), mode).unwrap();
            std::os::unix::fs::symlink(&far, folder.join("link")).unwrap();
            let mut archive = Archive::default();
            archive.folder(folder, "tree").unwrap();
            archive.file("list", b"a\0").unwrap();
            archive.finish()
        };
        let (one, two, back) = (root.path().join("one"), root.path().join("two"), root.path().join("back"));
        let bytes = make(&one);
        assert_eq!(bytes, make(&two));
        std::fs::create_dir(&back).unwrap();
        let mut tar = std::process::Command::new("tar");
        let mut tar = tar.args(["-xpf", "-", "-C"]).arg(&back).stdin(std::process::Stdio::piped()).spawn().unwrap();
        tar.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(tar.wait().unwrap().success());
        let at = |path: &Path| {
            let found = std::fs::symlink_metadata(back.join(path)).unwrap();
            (found.mode() & 0o777, found.len(), found.mtime())
        };
        assert_eq!(at(&Path::new("tree").join(&deep).join("file")), (0o644, 3, OLD as i64));
        assert_eq!(at(&Path::new("tree").join(&odd)), (0o644, 3, OLD as i64));
        assert_eq!(at(Path::new("tree/tool")), (0o755, 10, OLD as i64));
        assert_eq!(std::fs::read_link(back.join("tree/link")).unwrap(), Path::new(&far));
        assert_eq!(std::fs::read(back.join("list")).unwrap(), b"a\0");

        let packed = packed(&bytes).unwrap();
        let mut back = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut back).unwrap();
        assert_eq!(back, bytes);
        assert_eq!(list(&[PathBuf::from("a"), odd]), b"a\0n\xff\nm\0");
    }
}

//! A patch is the difference of two trees, read from git's machine output; it is put onto another base by git, in memory.
//!
//! Invariants: paths and modes come from the raw, NUL-separated listing, never from the text of a patch; the lines of a hunk are
//! counted as its header says, so that no line of a file can pass for a header.

use crate::domain::code::{Change, CommitId, Hunk, Line, Mode, Status, TreeDiff, TreeId};

use super::Error;
use super::git::{Act, Limits, failed};
use super::objects::Kind;
use super::repository::{Repository, odd_id};
use super::tree::mode_of;

/// A difference above this is not looked at, in bytes of patch text.
const MOST_TEXT: usize = 32 * 1024 * 1024;
const MOST_CHANGES: usize = 20_000;

const WHAT: &str = "comparing two trees";

impl Repository {
    /// What changed from `base` to `new`, renames found.
    ///
    /// Errors: `TooLarge` above 32 MB of patch or 20,000 files.
    pub fn diff(&self, base: &TreeId, new: &TreeId) -> Result<TreeDiff, Error> {
        let raw = self.git.output(self.compare(base, new, &["--raw", "-z", "--no-abbrev"]))?;
        let records = parse_raw(&raw)?;
        let text = self.git.output(self.compare(base, new, &["--patch", "--unified=3", "--full-index"]))?;
        let mut sections = parse_patch(&text)?.into_iter();
        let mut changes = Vec::with_capacity(records.len());
        for record in records {
            let mut change = record.change;
            // A change of type is shown as a deletion and an addition.
            let parts = if change.status == Status::TypeChanged { 2 } else { 1 };
            for _ in 0..parts {
                let section = sections.next().ok_or_else(odd)?;
                change.binary |= section.binary;
                change.hunks.extend(section.hunks);
            }
            for line in change.hunks.iter().flat_map(|hunk| &hunk.lines) {
                match line {
                    Line::Added(_) => change.added += 1,
                    Line::Removed(_) => change.removed += 1,
                    Line::Kept(_) => {}
                }
            }
            if matches!(change.new_mode, Mode::File | Mode::Executable) {
                (change.new_bytes, change.lfs_pointer) = self.look_at(&record.new_id)?;
            }
            changes.push(change);
        }
        if sections.next().is_some() {
            return Err(odd());
        }
        Ok(TreeDiff { base: base.clone(), new: new.clone(), changes })
    }

    /// The same as text that `git apply` takes, binary files included: for people and for keeping.
    pub fn patch_text(&self, base: &TreeId, new: &TreeId) -> Result<Vec<u8>, Error> {
        self.git.output(self.compare(base, new, &["--patch", "--binary", "--full-index"]))
    }

    /// The tree that a patch text makes of `base`.
    ///
    /// Errors: `Refused` when it does not fit.
    pub fn apply(&self, base: &TreeId, patch: &[u8]) -> Result<TreeId, Error> {
        let index = self.temporary();
        let with_index = |args: &[&str]| {
            let mut act = Act::new("applying a patch", self.folder(), args);
            act.index = Some(&index.0);
            act
        };
        self.git.output(with_index(&["read-tree", base.as_str()]))?;
        if !patch.is_empty() {
            let mut act = with_index(&["apply", "--cached", "--whitespace=nowarn", "-"]);
            act.input = patch;
            let answer = self.git.run(act)?;
            match answer.code {
                Some(0) => {}
                Some(1 | 128) => {
                    let said: String = answer.complaint.trim().chars().take(400).collect();
                    return Err(Error::Refused(format!("the patch does not apply: {said}")));
                }
                code => return Err(failed("applying a patch", code, &answer.complaint)),
            }
        }
        let act = with_index(&["write-tree"]);
        self.one_id(act)?.parse().map_err(|_| odd_id())
    }

    /// Carries what changed from `base` to `new` over to `onto`, a newer state of the same code.
    ///
    /// Errors: `Refused`, with the files, when both sides changed the same lines.
    pub fn carry(&self, base: &TreeId, new: &TreeId, onto: &TreeId) -> Result<TreeId, Error> {
        if base == onto {
            return Ok(new.clone());
        }
        let root = self.commit(base, &[], "base", 0)?;
        let ours = self.commit(onto, std::slice::from_ref(&root), "onto", 0)?;
        let theirs = self.commit(new, &[root], "new", 0)?;
        self.merge(&ours, &theirs)
    }

    fn merge(&self, ours: &CommitId, theirs: &CommitId) -> Result<TreeId, Error> {
        let args = ["merge-tree", "--write-tree", "--no-messages", "--name-only", "-z", ours.as_str(), theirs.as_str()];
        let answer = self.git.run(Act::new("carrying a change over", self.folder(), args))?;
        let mut fields = answer.output.split(|b| *b == 0).map(String::from_utf8_lossy);
        match answer.code {
            Some(0) => fields.next().unwrap_or_default().trim().parse().map_err(|_| odd_id()),
            Some(1) => {
                let files: Vec<String> =
                    fields.skip(1).filter(|field| !field.is_empty()).take(10).map(|field| field.into_owned()).collect();
                Err(Error::Refused(format!("the code has changed in the same places meanwhile: {}", files.join(", "))))
            }
            code => Err(failed("carrying a change over", code, &answer.complaint)),
        }
    }

    fn compare<'a>(&'a self, base: &'a TreeId, new: &'a TreeId, how: &[&'a str]) -> Act<'a> {
        let mut args = vec![
            "diff-tree",
            "-r",
            "--find-renames=50%",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--submodule=short",
        ];
        args.extend(how);
        args.extend([base.as_str(), new.as_str()]);
        let mut act = Act::new(WHAT, self.folder(), args);
        act.limits = Limits { output: MOST_TEXT, ..Limits::QUICK };
        act
    }

    /// Size of a blob, and whether it is a pointer of Git LFS.
    fn look_at(&self, id: &str) -> Result<(u64, bool), Error> {
        let Some((Kind::Blob, size)) = self.objects.info(id)? else { return Err(odd()) };
        let is_pointer = size <= 1024 && {
            let content = self.objects.read(id, Kind::Blob, 1024)?;
            content.starts_with(b"version https://git-lfs.") || content.starts_with(b"version https://hawser.")
        };
        Ok((size, is_pointer))
    }
}

struct Record {
    change: Change,
    new_id: String,
}

/// `:<mode> <mode> <id> <id> <status>\0<path>\0[<path>\0]`, again and again.
fn parse_raw(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    let mut fields = bytes.split(|b| *b == 0);
    let mut records = Vec::new();
    while let Some(head) = fields.next().filter(|head| !head.is_empty()) {
        let head = std::str::from_utf8(head).map_err(|_| odd())?.strip_prefix(':').ok_or_else(odd)?;
        let words: Vec<&str> = head.split(' ').collect();
        let [old_mode, new_mode, _, new_id, status] = words.as_slice() else { return Err(odd()) };
        let mode = |bits: &str| u32::from_str_radix(bits, 8).map(mode_of).map_err(|_| odd());
        let (old_mode, new_mode) = (mode(old_mode)?, mode(new_mode)?);
        let mut name = || fields.next().map(|name| String::from_utf8_lossy(name).into_owned()).ok_or_else(odd);
        let first = name()?;
        let (status, path, old_path) = match status.as_bytes().first() {
            Some(b'A') => (Status::Added, first, None),
            Some(b'D') => (Status::Deleted, first, None),
            Some(b'M') => (Status::Modified, first, None),
            Some(b'T') => (Status::TypeChanged, first, None),
            Some(b'R') => (Status::Renamed, name()?, Some(first)),
            _ => return Err(odd()),
        };
        records.push(Record {
            change: Change {
                status,
                path,
                old_path,
                old_mode,
                new_mode,
                binary: false,
                lfs_pointer: false,
                new_bytes: 0,
                added: 0,
                removed: 0,
                hunks: Vec::new(),
            },
            new_id: (*new_id).to_owned(),
        });
        if records.len() > MOST_CHANGES {
            return Err(Error::TooLarge { what: "changed files".into(), cap: MOST_CHANGES as u64 });
        }
    }
    Ok(records)
}

#[derive(Default)]
struct Section {
    binary: bool,
    hunks: Vec<Hunk>,
}

/// The sections of a patch text, one per `diff --git`, in the order of the raw listing.
fn parse_patch(text: &[u8]) -> Result<Vec<Section>, Error> {
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = text.split(|b| *b == b'\n').peekable();
    while let Some(line) = lines.next() {
        if line.starts_with(b"diff --git ") {
            sections.push(Section::default());
            continue;
        }
        let Some(section) = sections.last_mut() else {
            if line.is_empty() {
                continue;
            }
            return Err(odd());
        };
        if line.starts_with(b"Binary files ") {
            section.binary = true;
        } else if line.starts_with(b"@@ ") {
            let (mut hunk, mut old, mut new) = parse_hunk_head(line)?;
            while old > 0 || new > 0 {
                let line = lines.next().ok_or_else(odd)?;
                let rest = || String::from_utf8_lossy(&line[1..]).into_owned();
                match line.first() {
                    Some(b' ') => {
                        hunk.lines.push(Line::Kept(rest()));
                        old = old.checked_sub(1).ok_or_else(odd)?;
                        new = new.checked_sub(1).ok_or_else(odd)?;
                    }
                    Some(b'-') => {
                        hunk.lines.push(Line::Removed(rest()));
                        old = old.checked_sub(1).ok_or_else(odd)?;
                    }
                    Some(b'+') => {
                        hunk.lines.push(Line::Added(rest()));
                        new = new.checked_sub(1).ok_or_else(odd)?;
                    }
                    // "No newline at end of file".
                    Some(b'\\') => {}
                    _ => return Err(odd()),
                }
            }
            if lines.peek().is_some_and(|line| line.starts_with(b"\\")) {
                lines.next();
            }
            section.hunks.push(hunk);
        }
    }
    Ok(sections)
}

/// `@@ -<start>[,<lines>] +<start>[,<lines>] @@[ <section>]`; also the numbers of lines on both sides.
fn parse_hunk_head(line: &[u8]) -> Result<(Hunk, u32, u32), Error> {
    let text = String::from_utf8_lossy(line);
    let rest = text.strip_prefix("@@ -").ok_or_else(odd)?;
    let (numbers, section) = rest.split_once(" @@").ok_or_else(odd)?;
    let (old, new) = numbers.split_once(" +").ok_or_else(odd)?;
    let range = |text: &str| -> Result<(u32, u32), Error> {
        let (start, lines) = text.split_once(',').unwrap_or((text, "1"));
        Ok((start.parse().map_err(|_| odd())?, lines.parse().map_err(|_| odd())?))
    };
    let ((old_start, old), (new_start, new)) = (range(old)?, range(new)?);
    Ok((Hunk { old_start, new_start, section: section.trim().to_owned(), lines: Vec::new() }, old, new))
}

fn odd() -> Error {
    Error::Git { what: WHAT.into(), message: "git answered something else".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_file_cannot_pass_for_a_header() {
        let text = b"diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,2 +1,3 @@ fn main() {\n diff --git a/y b/y\n\
                     -@@ -1 +1 @@\n+diff --git a/.github/x b/.github/x\n+Binary files a and b differ\n\\ No newline at end of file\n\
                     diff --git a/z b/z\nBinary files a/z and b/z differ\n";
        let sections = parse_patch(text).unwrap();
        assert_eq!(sections.len(), 2);
        assert_eq!(sections[0].hunks.len(), 1);
        assert_eq!(sections[0].hunks[0].section, "fn main() {");
        assert_eq!(sections[0].hunks[0].lines.len(), 4);
        assert!(!sections[0].binary && sections[1].binary);
        assert!(parse_patch(b"diff --git a/x b/x\n@@ -1,2 +1,2 @@\n a\n").is_err());
    }
}

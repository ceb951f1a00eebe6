//! Reads a patch text for showing it. Pure.
//!
//! The lines of a hunk are counted as its header says, so that no line of a file can pass for a header. What a patch may do was
//! judged before, over the trees; nothing is decided here.

/// One file of a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FilePatch {
    /// Its name afterwards, or before if it is deleted; as git quotes it.
    pub path: String,
    /// `new file`, `deleted`, `renamed from …`; empty: changed.
    pub what: String,
    pub hunks: Vec<HunkText>,
    pub added: u32,
    pub removed: u32,
    pub binary: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HunkText {
    pub old_start: u32,
    pub new_start: u32,
    pub section: String,
    /// Each with its sign: ` `, `+`, `-`.
    pub lines: Vec<(char, String)>,
}

/// Takes a patch apart. What is not understood is left out; the patch itself is beside the page.
pub(super) fn parse(patch: &str) -> Vec<FilePatch> {
    let mut files: Vec<FilePatch> = Vec::new();
    let (mut old_left, mut new_left) = (0u32, 0u32);
    for line in patch.split('\n') {
        if let (true, Some(file)) = (old_left + new_left > 0, files.last_mut()) {
            let Some(hunk) = file.hunks.last_mut() else { continue };
            let (sign, text) = (line.chars().next().unwrap_or(' '), line.get(1..).unwrap_or_default());
            match sign {
                '+' => (new_left, file.added) = (new_left.saturating_sub(1), file.added + 1),
                '-' => (old_left, file.removed) = (old_left.saturating_sub(1), file.removed + 1),
                ' ' => (old_left, new_left) = (old_left.saturating_sub(1), new_left.saturating_sub(1)),
                // `\ No newline at end of file`
                _ => continue,
            }
            hunk.lines.push((sign, text.to_owned()));
            continue;
        }
        if let Some(names) = line.strip_prefix("diff --git ") {
            // Until a better line names it; a name with ` b/` in it is ambiguous here.
            let path = names.rsplit_once(" b/").map_or(names, |(_, after)| after);
            files.push(FilePatch { path: path.to_owned(), ..FilePatch::default() });
            continue;
        }
        let Some(file) = files.last_mut() else { continue };
        if let Some(name) = line.strip_prefix("+++ b/").or_else(|| line.strip_prefix("rename to ")) {
            file.path = name.to_owned();
        } else if let Some(name) = line.strip_prefix("--- a/").filter(|_| file.what == "deleted") {
            file.path = name.to_owned();
        } else if let Some(from) = line.strip_prefix("rename from ") {
            file.what = format!("renamed from {from}");
        } else if line.starts_with("new file mode") {
            file.what = "new file".into();
        } else if line.starts_with("deleted file mode") {
            file.what = "deleted".into();
        } else if line.starts_with("GIT binary patch") || line.starts_with("Binary files ") {
            file.binary = true;
        } else if let Some((hunk, old, new)) = line.strip_prefix("@@ -").and_then(header) {
            (old_left, new_left) = (old, new);
            file.hunks.push(hunk);
        }
    }
    files
}

/// `12,3 +14,5 @@ section`: the hunk, and its lines on both sides.
fn header(text: &str) -> Option<(HunkText, u32, u32)> {
    let (ranges, section) = text.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let range = |text: &str| -> Option<(u32, u32)> {
        match text.split_once(',') {
            Some((start, count)) => Some((start.parse().ok()?, count.parse().ok()?)),
            None => Some((text.parse().ok()?, 1)),
        }
    };
    let ((old_start, old), (new_start, new)) = (range(old)?, range(new)?);
    Some((HunkText { old_start, new_start, section: section.trim().to_owned(), lines: Vec::new() }, old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_file_cannot_pass_for_headers() {
        let patch = "diff --git a/a.md b/a.md\nindex 1..2 100644\n--- a/a.md\n+++ b/a.md\n@@ -1,3 +1,3 @@ fn x()\n one\n--- a/evil.md\n+++ b/evil.md\n three\n\\ No newline at end of file\n\
            diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+@@ -1 +1 @@\n\
            diff --git a/o b/p\nsimilarity index 100%\nrename from o\nrename to p\n\
            diff --git a/d b/d\ndeleted file mode 100644\n--- a/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
            diff --git a/i b/i\nGIT binary patch\nliteral 1\nIcmZPo000310RR91\n\n";
        let files = parse(patch);
        let shown: Vec<_> =
            files.iter().map(|f| (f.path.as_str(), f.what.as_str(), f.added, f.removed, f.binary)).collect();
        assert_eq!(
            shown,
            [
                ("a.md", "", 1, 1, false),
                ("n", "new file", 1, 0, false),
                ("p", "renamed from o", 0, 0, false),
                ("d", "deleted", 0, 1, false),
                ("i", "", 0, 0, true),
            ]
        );
        assert_eq!(files[0].hunks[0].section, "fn x()");
        assert_eq!(files[0].hunks[0].lines[1], ('-', "-- a/evil.md".to_owned()));
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in [
            "",
            "@@ -1 +1 @@\n+x",
            "diff --git",
            "diff --git a/x b/x\n@@ -99999999999 +1 @@\n@@ -1,2\n",
            "\u{0}\n+++ b/x",
        ] {
            assert!(parse(text).iter().all(|file| file.hunks.is_empty()), "{text:?}");
        }
    }
}

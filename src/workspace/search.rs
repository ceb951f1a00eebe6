//! Searching code with ripgrep's engine, the same over a tree and over a folder.
//!
//! Two passes: every file is searched and its matching lines are counted, side by side; then the files of the page that is asked
//! for are searched again for the text to show. So the answer is complete, in the order of paths, the same each time, and takes no
//! memory for what it does not show.
//!
//! Not searched, and counted: files that are no text (a NUL at the beginning) and files above 8 MB.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};

use super::Error;
use super::directory::panicked;
use super::look::{Code, Filter, MOST_ANSWER, SearchInput, is_binary, shown_line};
use super::objects::{Batch, Kind};
use super::path::RepoPath;
use super::tree::{Entry, MOST_BYTES};

/// Matching lines of one answer.
const MOST_MATCHES: usize = 100;
/// Matching lines of one file in one answer; more are counted.
const MOST_OF_A_FILE: u64 = 30;
const MOST_AROUND: u32 = 10;
const MOST_PATTERN: usize = 1000;
/// A search must have ended after this.
const TIME: Duration = Duration::from_secs(60);
/// Files that a worker takes at a time.
const CHUNK: usize = 64;
/// Below this many files one worker is quicker than several.
const FEW: usize = 200;

/// As many as there are processors, but not all of a large machine.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(12))
}

/// A file to search.
enum File<'a> {
    Entry(&'a Entry),
    Path(RepoPath),
}

impl File<'_> {
    fn path(&self) -> &RepoPath {
        match self {
            Self::Entry(entry) => &entry.path,
            Self::Path(path) => path,
        }
    }
}

/// What the first pass found.
#[derive(Default)]
struct Count {
    /// Files with matching lines: their place in the list, and how many lines.
    files: Vec<(usize, u64)>,
    binary: u64,
    large: u64,
}

impl Code {
    /// The lines that match, by file, with their numbers.
    ///
    /// Errors: `Refused` when the pattern or glob is wrong, `Timeout`.
    pub fn search(&self, input: &SearchInput) -> Result<String, Error> {
        let matcher = matcher(input)?;
        let folder = RepoPath::parse_folder(input.path.as_deref().unwrap_or_default())?;
        let filter = Filter::new(folder.as_ref(), input.glob.as_deref())?;
        let files: Vec<File<'_>> = match self {
            Self::Tree(snapshot) => {
                snapshot.entries()?.iter().filter(|entry| filter.takes(&entry.path)).map(File::Entry).collect()
            }
            Self::Directory(directory) => {
                directory.entries()?.into_iter().filter(|path| filter.takes(path)).map(File::Path).collect()
            }
        };
        if files.is_empty() {
            return Ok("there is no such file to search in".into());
        }
        let count = self.count(&files, &matcher)?;
        self.show(input, &files, &matcher, &count)
    }

    /// The first pass.
    fn count(&self, files: &[File<'_>], matcher: &RegexMatcher) -> Result<Count, Error> {
        let next = AtomicUsize::new(0);
        let deadline = Instant::now() + TIME;
        let work = || -> Result<Count, Error> {
            self.reading(|reader| {
                let mut searcher = searcher(0, false);
                let mut count = Count::default();
                loop {
                    let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if from >= files.len() {
                        return Ok(count);
                    }
                    for (at, file) in files.iter().enumerate().skip(from).take(CHUNK) {
                        if Instant::now() > deadline {
                            next.store(files.len(), Ordering::Relaxed);
                            return Err(Error::Timeout { what: "the search".into(), after: TIME });
                        }
                        match reader.content(self, file)? {
                            Content::Gone => {}
                            Content::Large => count.large += 1,
                            Content::Text(text) if is_binary(text) => count.binary += 1,
                            Content::Text(text) => {
                                let mut lines = Lines(0);
                                searcher.search_slice(matcher, text, &mut lines).map_err(broken)?;
                                if lines.0 > 0 {
                                    count.files.push((at, lines.0));
                                }
                            }
                        }
                    }
                }
            })
        };
        let workers = if files.len() < FEW { 1 } else { threads() };
        let parts: Vec<Result<Count, Error>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let mut parts = vec![work()];
            parts.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(panicked()))));
            parts
        });
        let mut all = Count::default();
        for part in parts {
            let part = part?;
            all.files.extend(part.files);
            all.binary += part.binary;
            all.large += part.large;
        }
        all.files.sort_unstable();
        Ok(all)
    }

    /// The second pass: the text of one page.
    fn show(
        &self,
        input: &SearchInput,
        files: &[File<'_>],
        matcher: &RegexMatcher,
        count: &Count,
    ) -> Result<String, Error> {
        let around = input.around.unwrap_or(0).min(MOST_AROUND) as usize;
        let mut skip = u64::from(input.skip.unwrap_or(0));
        let mut page = Page { text: String::new(), shown: 0 };
        let mut passed = 0u64;
        let mut full = false;
        self.reading(|reader| {
            let mut searcher = searcher(around, true);
            for (at, lines) in &count.files {
                if skip >= *lines {
                    skip -= lines;
                    passed += lines;
                    continue;
                }
                if page.is_full() {
                    full = true;
                    break;
                }
                let Some(file) = files.get(*at) else { continue };
                let Content::Text(text) = reader.content(self, file)? else { continue };
                page.text.push_str(&format!("{}\n", file.path()));
                let mut sink = Shown { page: &mut page, skip, of_file: 0, last: 0 };
                searcher.search_slice(matcher, text, &mut sink).map_err(broken)?;
                let of_file = sink.of_file;
                let left = lines - skip - of_file;
                passed += skip + of_file;
                skip = 0;
                if left > 0 {
                    if of_file < MOST_OF_A_FILE {
                        full = true;
                        break;
                    }
                    page.text.push_str(&format!("  [{left} more lines of this file match]\n"));
                    passed += left;
                }
            }
            Ok(())
        })?;
        let total: u64 = count.files.iter().map(|(_, lines)| lines).sum();
        let mut out = page.text;
        out.push_str(&format!("[{total} lines match in {} of {} files", count.files.len(), files.len()));
        if full && passed < total {
            out.push_str(&format!("; go on with skip {passed}"));
        }
        if count.binary > 0 {
            out.push_str(&format!("; {} files are no text", count.binary));
        }
        if count.large > 0 {
            out.push_str(&format!(
                "; {} files are above {} MB and were not searched",
                count.large,
                MOST_BYTES / 1024 / 1024
            ));
        }
        out.push(']');
        Ok(out)
    }

    /// Hands a reader to `ask`, with a git process of its own where one is needed.
    fn reading<T>(&self, ask: impl FnOnce(&mut Reader<'_>) -> Result<T, Error>) -> Result<T, Error> {
        match self {
            Self::Tree(snapshot) => {
                snapshot.reading(|batch| ask(&mut Reader { batch: Some(batch), buffer: Vec::new() }))
            }
            Self::Directory(_) => ask(&mut Reader { batch: None, buffer: Vec::new() }),
        }
    }
}

/// Reads files one after the other into one buffer.
struct Reader<'a> {
    batch: Option<&'a mut Batch>,
    buffer: Vec<u8>,
}

enum Content<'a> {
    Text(&'a [u8]),
    Large,
    /// It went away since it was listed, or may not be read.
    Gone,
}

impl Reader<'_> {
    fn content(&mut self, code: &Code, file: &File<'_>) -> Result<Content<'_>, Error> {
        let read = match (code, file, &mut self.batch) {
            (Code::Directory(directory), file, _) => directory.read_into(file.path(), MOST_BYTES, &mut self.buffer),
            (Code::Tree(_), File::Entry(entry), Some(batch)) => {
                batch.read(&entry.id, Kind::Blob, MOST_BYTES).map(|content| self.buffer = content)
            }
            (Code::Tree(snapshot), file, _) => {
                snapshot.read(file.path(), MOST_BYTES).map(|content| self.buffer = content)
            }
        };
        match read {
            Ok(()) => Ok(Content::Text(&self.buffer)),
            Err(Error::TooLarge { .. }) => Ok(Content::Large),
            Err(Error::NotFound(_) | Error::Refused(_)) => Ok(Content::Gone),
            Err(error) => Err(error),
        }
    }
}

fn matcher(input: &SearchInput) -> Result<RegexMatcher, Error> {
    if input.pattern.is_empty() {
        return Err(Error::Refused("the pattern is empty".into()));
    }
    if input.pattern.len() > MOST_PATTERN {
        return Err(Error::TooLarge { what: "the pattern's bytes".into(), cap: MOST_PATTERN as u64 });
    }
    RegexMatcherBuilder::new()
        .case_insensitive(input.ignore_case)
        .line_terminator(Some(b'\n'))
        .size_limit(4 * 1024 * 1024)
        .dfa_size_limit(8 * 1024 * 1024)
        .nest_limit(100)
        .build(&input.pattern)
        .map_err(|error| {
            let text: String = error.to_string().chars().take(400).collect();
            Error::Refused(format!("the pattern is wrong: {text}"))
        })
}

fn searcher(around: usize, numbers: bool) -> Searcher {
    SearcherBuilder::new()
        .line_number(numbers)
        .before_context(around)
        .after_context(around)
        // What is binary was decided before, by the same rule for both bindings.
        .binary_detection(BinaryDetection::none())
        .bom_sniffing(false)
        .build()
}

fn broken(error: io::Error) -> Error {
    Error::Io { what: "searching".into(), source: error }
}

/// Counts matching lines.
struct Lines(u64);

impl Sink for Lines {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, _: &SinkMatch<'_>) -> Result<bool, io::Error> {
        self.0 += 1;
        Ok(true)
    }
}

struct Page {
    text: String,
    /// Matching lines.
    shown: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.shown >= MOST_MATCHES || self.text.len() >= MOST_ANSWER
    }
}

/// Writes the matching lines of one file to the page.
struct Shown<'a> {
    page: &'a mut Page,
    /// Matching lines of this file that were on earlier pages.
    skip: u64,
    /// Matching lines of this file that are on this page.
    of_file: u64,
    /// The number of the line written last.
    last: u64,
}

impl Shown<'_> {
    fn line(&mut self, number: u64, mark: char, bytes: &[u8]) {
        if self.last != 0 && number > self.last + 1 && mark != ':' {
            self.page.text.push_str("  --\n");
        }
        self.last = number;
        self.page.text.push_str(&format!("  {number}{mark} {}\n", shown_line(bytes)));
    }
}

impl Sink for Shown<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(true);
        }
        if self.page.is_full() || self.of_file >= MOST_OF_A_FILE {
            return Ok(false);
        }
        self.of_file += 1;
        self.page.shown += 1;
        self.line(found.line_number().unwrap_or(0), ':', found.bytes());
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> Result<bool, io::Error> {
        if self.skip == 0 && self.of_file < MOST_OF_A_FILE {
            self.line(context.line_number().unwrap_or(0), '-', context.bytes());
        }
        Ok(true)
    }
}

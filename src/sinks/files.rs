//! Files: every report as Markdown and as a page, below `out/<pipeline>/<run>/`. Also the page of a whole run and the index.
//!
//! A report is found again by the delivery's key, which stands in the front matter of its file: the same key never makes a
//! second file, a changed report (a capped run that went on) replaces its own. Files appear whole or not at all. A question to a
//! person is a file of its own, `question.md`, and no report of the run.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::page::{Page, TranscriptItem};
use super::{markdown, page, text};
use crate::base::BoxFuture;
use crate::base::files::{create, replace};
use crate::base::hash::Hash;
use crate::domain::activity::{Delivery, Receipt};
use crate::domain::view::{RunLine, RunView};
use crate::ports::sink::{Earlier, Sink, SinkError, SinkKind, SinkSetup};

pub const KIND: SinkKind =
    SinkKind { name: "files", summary: "a Markdown file and a page, on this machine", make: Some(make) };

/// Reports of one run; more are a loop.
const MOST_REPORTS: u32 = 1_000;

fn make(setup: &SinkSetup) -> Arc<dyn Sink> {
    Arc::new(Files { out: setup.out.clone() })
}

struct Files {
    out: PathBuf,
}

impl Sink for Files {
    /// Looks for the key in any case: reading a few small files is cheaper than a doubled report.
    fn deliver<'a>(&'a self, delivery: &'a Delivery, _: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let out = self.out.clone();
            let delivery = delivery.clone();
            match tokio::task::spawn_blocking(move || deliver(&out, &delivery)).await {
                Ok(receipt) => receipt,
                Err(error) => Err(SinkError::Write {
                    path: self.out.clone(),
                    source: io::Error::other(format!("interrupted: {error}")),
                }),
            }
        })
    }
}

fn deliver(out: &Path, delivery: &Delivery) -> Result<Receipt, SinkError> {
    let report = &delivery.report;
    let folder = run_folder(out, &report.pipeline, &report.run);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SinkError::Write { path, source }
    };
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let marker = marker(&delivery.key);
    let document = format!("---\n{marker}\n---\n\n{}", markdown::render(report));
    let mut found = false;
    let mut path = None;
    let stem = if report.question.is_some() { "question" } else { "report" };
    for n in 1..=MOST_REPORTS {
        let name = if n == 1 { format!("{stem}.md") } else { format!("{stem}-{n}.md") };
        let candidate = folder.join(name);
        match std::fs::read_to_string(&candidate) {
            Ok(existing) if existing.lines().nth(1) == Some(&marker) => {
                found = true;
                if existing != document {
                    replace(&candidate, document.as_bytes()).map_err(failed(&candidate))?;
                }
            }
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another report of the run may take the name at the same moment; then the next name is tried.
                if !create(&candidate, document.as_bytes()).map_err(failed(&candidate))? {
                    continue;
                }
            }
            Err(error) => return Err(failed(&candidate)(error)),
        }
        path = Some(candidate);
        break;
    }
    let path = path.ok_or_else(|| SinkError::Missing {
        message: format!("{} holds {MOST_REPORTS} reports already", folder.display()),
        help: "move that folder away".into(),
    })?;
    if report.question.is_none() {
        let index = folder.join("index.html");
        replace(&index, page::render(&Page::of_report(report)).as_bytes()).map_err(failed(&index))?;
    }
    Ok(Receipt {
        kind: "report".into(),
        destination: "files".into(),
        url_or_path: path.display().to_string(),
        key: delivery.key.clone(),
        found,
    })
}

/// The line by which a delivery is found again; JSON text is YAML too, so no key can break out of it.
fn marker(key: &str) -> String {
    format!("nightcrew: {}", serde_json::Value::from(text::line(key)))
}

/// `out/<pipeline>/<run>`: where everything of a run lies.
pub fn run_folder(out: &Path, pipeline: &str, run: &str) -> PathBuf {
    out.join(component(pipeline)).join(component(run))
}

/// Names come checked; should one ever not, it still cannot leave the folder.
fn component(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if plain && !name.is_empty() && name.len() <= 100 { name.to_owned() } else { Hash::of(name).short() }
}

/// Writes the page of a whole run in place of the report's, and gives its path. For the end of a run; repeatable.
pub fn write_page(out: &Path, run: &RunView, transcript: &[TranscriptItem]) -> io::Result<PathBuf> {
    let folder = run_folder(out, &run.start.pipeline, run.start.id.as_str());
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("index.html");
    replace(&path, page::render(&Page::of_run(run, transcript)).as_bytes())?;
    Ok(path)
}

/// Writes `out/index.html`, the list of runs, and gives its path. Repeatable.
pub fn write_index(out: &Path, runs: &[RunLine]) -> io::Result<PathBuf> {
    std::fs::create_dir_all(out)?;
    let path = out.join("index.html");
    replace(&path, page::index(runs).as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::env::Env;
    use crate::ports::service::Outside;
    use crate::sinks::sample;

    fn delivery(key: &str) -> Delivery {
        Delivery {
            sink: "slack".into(),
            channel: None,
            report: Box::new(sample::report()),
            key: key.into(),
            thread: Default::default(),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_key_has_one_file_however_often_it_is_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let sink = make(&SinkSetup::local(folder.path().join("out"), Outside::none(Env::system())));
        let first = sink.deliver(&delivery("r/post/files"), Earlier::None).await.unwrap();
        let again = sink.deliver(&delivery("r/post/files"), Earlier::Unknown).await.unwrap();
        let place = run_folder(&folder.path().join("out"), "analytics-report", sample::RUN);
        assert_eq!((first.found, again.found, &first.url_or_path), (false, true, &again.url_or_path));
        assert_eq!(names(&place), ["index.html", "report.md"]);
        let text = std::fs::read_to_string(&first.url_or_path).unwrap();
        assert!(text.starts_with("---\nnightcrew: \"r/post/files\"\n---\n\n# Sign-ups fell"), "{text}");

        let mut changed = delivery("r/post/files");
        changed.report.headline = "Now whole".into();
        let changed = sink.deliver(&changed, Earlier::None).await.unwrap();
        assert_eq!((changed.found, &changed.url_or_path), (true, &first.url_or_path));
        assert!(std::fs::read_to_string(&first.url_or_path).unwrap().contains("# Now whole"));

        let second = sink.deliver(&delivery("r/late/files"), Earlier::None).await.unwrap();
        assert!(second.url_or_path.ends_with("report-2.md"));
        assert_eq!(names(&place), ["index.html", "report-2.md", "report.md"]);
    }

    #[tokio::test]
    async fn a_question_is_a_file_of_its_own_that_says_how_it_was_answered() {
        let folder = tempfile::tempdir().unwrap();
        let sink = make(&SinkSetup::local(folder.path().join("out"), Outside::none(Env::system())));
        let mut asked = delivery("r/gate/ask");
        asked.report.question = Some(sample::question());
        let first = sink.deliver(&asked, Earlier::None).await.unwrap();
        let place = run_folder(&folder.path().join("out"), "analytics-report", sample::RUN);
        assert_eq!(names(&place), ["question.md"]);
        let text = std::fs::read_to_string(&first.url_or_path).unwrap();
        assert!(text.contains("# ✋ analytics-report asks: May I add a dependency (`chrono-tz`)?"), "{text}");
        for part in ["**change**", "+chrono-tz", "nightcrew approve", "Expires Fri 20 Nov 2026, 14:00 UTC, then: no"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let question = asked.report.question.as_mut().unwrap();
        question.answered = Some(("denied".into(), "slack:U1 (ann)".into()));
        assert_eq!(sink.deliver(&asked, Earlier::None).await.unwrap().url_or_path, first.url_or_path);
        let text = std::fs::read_to_string(&first.url_or_path).unwrap();
        assert!(text.contains("Denied by slack:U1 (ann)") && !text.contains("nightcrew approve"), "{text}");
        assert_eq!(names(&place), ["question.md"]);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out"), "a file").unwrap();
        let sink = make(&SinkSetup::local(folder.path().join("out"), Outside::none(Env::system())));
        let error = sink.deliver(&delivery("k"), Earlier::None).await.unwrap_err();
        assert!(error.to_string().contains("out/analytics-report"), "{error}");
    }

    #[test]
    fn names_cannot_leave_the_folder_and_pages_are_replaced_whole() {
        let out = Path::new("out");
        assert_eq!(run_folder(out, "a-b", "01J"), Path::new("out/a-b/01J"));
        for name in ["..", "a/b", "", "/etc"] {
            assert!(run_folder(out, name, "01J").starts_with("out") && !component(name).contains(['/', '.']));
        }
        let folder = tempfile::tempdir().unwrap();
        let page = write_page(folder.path(), &sample::run(), &[]).unwrap();
        assert_eq!(write_page(folder.path(), &sample::run(), &[]).unwrap(), page);
        assert_eq!(names(page.parent().unwrap()), ["index.html"]);
        let index = write_index(folder.path(), &[]).unwrap();
        assert!(std::fs::read_to_string(index).unwrap().contains("No run yet"));
    }
}

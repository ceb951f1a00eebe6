//! Notes: every report as a Markdown file of its own, by date, below a folder that the configuration names:
//! `sinks: {notes: {markdown: ./notes}}` → `notes/2026-11/2026-11-20-analytics-report.md`.
//!
//! A report is found again by the delivery's key in the front matter of its file, also under another name in the same month. A file
//! that a person has changed stays as it is. Files appear whole or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;

use super::{markdown, text};
use crate::base::BoxFuture;
use crate::base::files::{create, replace};
use crate::base::hash::Hash;
use crate::domain::activity::{Delivery, Receipt};
use crate::domain::report::{Report, ReportBlock};
use crate::ports::sink::{Earlier, Sink, SinkError, SinkKind, SinkSetup};

pub const KIND: SinkKind =
    SinkKind { name: "markdown", summary: "Markdown files by date, below a folder", make: Some(make) };

/// Files of one month that are looked at; more are somebody else's archive.
const MOST_FILES: usize = 10_000;
/// The front matter is within the first bytes.
const HEAD: usize = 2_048;

fn make(setup: &SinkSetup) -> Arc<dyn Sink> {
    Arc::new(Notes { folder: setup.target.as_ref().map(PathBuf::from) })
}

struct Notes {
    folder: Option<PathBuf>,
}

impl Sink for Notes {
    /// Looks for the key in any case: reading a few heads of files is cheaper than a doubled report.
    fn deliver<'a>(&'a self, delivery: &'a Delivery, _: Earlier) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let folder = self.folder.clone().ok_or_else(|| SinkError::Missing {
                message: "no folder is given for the notes".into(),
                help: "write `sinks: {notes: {markdown: FOLDER}}`".into(),
            })?;
            let (delivery, place) = (delivery.clone(), folder.clone());
            match tokio::task::spawn_blocking(move || deliver(&place, &delivery)).await {
                Ok(receipt) => receipt,
                Err(error) => {
                    let source = io::Error::other(format!("interrupted: {error}"));
                    Err(SinkError::Write { path: folder, source })
                }
            }
        })
    }
}

fn deliver(folder: &Path, delivery: &Delivery) -> Result<Receipt, SinkError> {
    let report = &delivery.report;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SinkError::Write { path, source }
    };
    let date = date(report);
    let month = date.map_or("undated".to_owned(), |date| date.strftime("%Y-%m").to_string());
    let folder = folder.join(month);
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let receipt = |path: &Path, found: bool| Receipt {
        kind: "report".into(),
        destination: "markdown".into(),
        url_or_path: path.display().to_string(),
        key: delivery.key.clone(),
        found,
    };
    let document = document(&delivery.key, report, date);
    if let Some(path) = find(&folder, &marker(&delivery.key)).map_err(failed(&folder))? {
        let existing = std::fs::read_to_string(&path).map_err(failed(&path))?;
        if existing != document && is_as_written(&existing) {
            replace(&path, document.as_bytes()).map_err(failed(&path))?;
        }
        return Ok(receipt(&path, true));
    }
    let day = date.map_or("undated".to_owned(), |date| date.to_string());
    let pipeline: String =
        report.pipeline.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(100).collect();
    for n in 1..=MOST_FILES {
        let name = if n == 1 { format!("{day}-{pipeline}.md") } else { format!("{day}-{pipeline}-{n}.md") };
        let path = folder.join(name);
        // Another report may take the name at the same moment; then the next name is tried.
        if create(&path, document.as_bytes()).map_err(failed(&path))? {
            return Ok(receipt(&path, false));
        }
    }
    Err(SinkError::Missing {
        message: format!("{} holds {MOST_FILES} reports of one day already", folder.display()),
        help: "move that folder away".into(),
    })
}

/// The report's day, which it says for people: `Thu 19 Nov 2026`.
fn date(report: &Report) -> Option<Date> {
    let (_, day) = report.date.split_once(' ')?;
    Date::strptime("%d %b %Y", day).ok()
}

fn document(key: &str, report: &Report, date: Option<Date>) -> String {
    let body = markdown::render(&elsewhere(report));
    let hash = Hash::of(&body);
    let date = date.map(|date| format!("date: {date}\n")).unwrap_or_default();
    let pipeline = serde_json::Value::from(text::line(&report.pipeline));
    format!("---\n{}\nwritten: {hash}\n{date}pipeline: {pipeline}\n---\n\n{body}", marker(key))
}

/// The report as it reads from another folder: what lies beside the run's own page is named by its path.
fn elsewhere(report: &Report) -> Report {
    let mut report = report.clone();
    for block in &mut report.blocks {
        let ReportBlock::Links { items } = block else { continue };
        for item in items {
            if markdown::own_path(&item.url_or_path, &report.pipeline, &report.run).is_some() {
                item.title = format!("{} ({})", item.title, item.url_or_path);
                item.url_or_path.clear();
            }
        }
    }
    report
}

/// Whether nobody has changed it since we wrote it.
fn is_as_written(existing: &str) -> bool {
    let Some((front, body)) = existing.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n\n")) else {
        return false;
    };
    let hash = front.lines().find_map(|line| line.strip_prefix("written: "));
    hash.is_some_and(|hash| hash == Hash::of(body).to_string())
}

fn find(folder: &Path, marker: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(folder)?.take(MOST_FILES) {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        // One that cannot be read is not ours.
        let Ok(mut file) = std::fs::File::open(&path) else { continue };
        let mut head = vec![0; HEAD];
        let Ok(length) = io::Read::read(&mut file, &mut head) else { continue };
        let head = String::from_utf8_lossy(&head[..length]);
        if head.starts_with("---\n")
            && head.lines().skip(1).take_while(|line| *line != "---").any(|line| line == marker)
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The line by which a delivery is found again; JSON text is YAML too, so no key can break out of it.
fn marker(key: &str) -> String {
    format!("nightcrew: {}", serde_json::Value::from(text::line(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::env::Env;
    use crate::domain::report::Link;
    use crate::ports::service::Outside;
    use crate::sinks::sample;

    fn delivery(key: &str) -> Delivery {
        let mut report = sample::report();
        report.date = "Fri 6 Nov 2026".into();
        let own = format!("/srv/out/{}/{}/evidence.md", report.pipeline, report.run);
        let link = Link { title: "Evidence".into(), url_or_path: own, preview: false };
        report.blocks.push(ReportBlock::Links { items: vec![link] });
        Delivery {
            sink: "notes".into(),
            channel: None,
            report: Box::new(report),
            key: key.into(),
            thread: Default::default(),
        }
    }

    #[tokio::test]
    async fn a_key_has_one_file_by_date_also_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let setup = SinkSetup {
            target: Some(folder.path().join("notes").display().to_string()),
            ..SinkSetup::local(folder.path(), Outside::none(Env::system()))
        };
        let sink = make(&setup);
        let first = sink.deliver(&delivery("r/post/notes"), Earlier::None).await.unwrap();
        let path = folder.path().join("notes/2026-11/2026-11-06-analytics-report.md");
        assert_eq!((first.url_or_path.as_str(), first.found), (path.to_str().unwrap(), false));
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written.starts_with("---\nnightcrew: \"r/post/notes\"\nwritten: "), "{written}");
        assert!(written.contains("\ndate: 2026-11-06\n") && written.contains("# Sign-ups fell"), "{written}");
        assert!(!written.contains("](<"), "no link leads to where the note is not: {written}");

        let renamed = path.with_file_name("mine.md");
        std::fs::rename(&path, &renamed).unwrap();
        let again = sink.deliver(&delivery("r/post/notes"), Earlier::Unknown).await.unwrap();
        assert_eq!((again.url_or_path.as_str(), again.found), (renamed.to_str().unwrap(), true));
        let other = sink.deliver(&delivery("r/other/notes"), Earlier::None).await.unwrap();
        assert_eq!((other.url_or_path.as_str(), other.found), (path.to_str().unwrap(), false));
        let third = sink.deliver(&delivery("r/third/notes"), Earlier::None).await.unwrap();
        assert!(third.url_or_path.ends_with("2026-11-06-analytics-report-2.md"));

        // A changed report replaces its own, but not what a person wrote.
        let mut changed = delivery("r/third/notes");
        changed.report.headline = "Now whole".into();
        sink.deliver(&changed, Earlier::None).await.unwrap();
        let third = PathBuf::from(third.url_or_path);
        assert!(std::fs::read_to_string(&third).unwrap().contains("# Now whole"));
        let noted = std::fs::read_to_string(&third).unwrap() + "\nmy own words\n";
        std::fs::write(&third, &noted).unwrap();
        assert!(sink.deliver(&delivery("r/third/notes"), Earlier::None).await.unwrap().found);
        assert_eq!(std::fs::read_to_string(&third).unwrap(), noted);
    }
}

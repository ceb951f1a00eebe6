//! The page as a document: what is in it, what can never be.

use super::*;
use crate::sinks::sample;

fn items() -> Vec<TranscriptItem> {
    let item = |speaker: &str, step: &str, text: &str| TranscriptItem {
        speaker: speaker.into(),
        step: step.into(),
        text: text.into(),
    };
    vec![
        item(
            "host",
            "why",
            "Explain only what is flagged. Say unknown where the data shows no cause.\n\n<data step=\"delta\">\n[{\"metric\":\"signups.signups\",\"value\":724,\"usual\":1021}]\n</data>",
        ),
        item("boss", "why", "I look at the errors by code first."),
        item(
            "tool checkout",
            "why",
            "{\"rows\":[{\"day\":\"2026-11-19\",\"code\":\"card_declined_by_proxy\",\"n\":118}]}",
        ),
        item(
            "boss",
            "why",
            "{\"causes\":[{\"metric\":\"checkout.errors\",\"cause\":\"A proxy refuses cards from Safari 18.\"}]}",
        ),
        item("intern", "brief", "{\"headline\":\"Sign-ups fell to 724\"}"),
    ]
}

fn line(n: i64, outcome: Option<Outcome>, headline: &str) -> RunLine {
    let run = sample::run();
    RunLine {
        id: run.start.id,
        pipeline: run.start.pipeline,
        profile: "demo".into(),
        effects: "preview".into(),
        trigger: "schedule".into(),
        started_at: run.start.started_at + jiff::SignedDuration::from_hours(-24 * n),
        finished_at: run.finished_at,
        outcome,
        cost: UsdMicros(41_710 * n),
        headline: headline.into(),
    }
}

/// Writes the pages where `NIGHTCREW_SAMPLES` says, for looking at them.
#[test]
fn a_page_says_everything_once_and_in_order() {
    let run = sample::run();
    let page = render(&Page::of_run(&run, &items()));
    let repair = sample::repair();
    let index = index(&[
        line(0, None, ""),
        line(1, Some(Outcome::Reported), "Sign-ups fell to 724"),
        line(2, Some(Outcome::Blocked), ""),
        line(3, Some(Outcome::NothingNew), ""),
    ]);
    if let Some(folder) = crate::base::env::process_variable("NIGHTCREW_SAMPLES") {
        for (name, text) in [
            ("page.html", &page),
            ("repair.html", &render(&Page::of_run(&repair, &items()))),
            ("report.html", &render(&Page::of_report(&sample::report()))),
            ("index.html", &index),
            ("chart.svg", &chart::svg(&sample::chart(56), chart::Size { width: 800.0, height: 190.0 })),
            ("few.svg", &chart::svg(&sample::chart(6), chart::Size { width: 800.0, height: 190.0 })),
        ] {
            std::fs::write(std::path::Path::new(&folder).join(name), text).unwrap();
        }
    }
    let order = [
        "Preview",
        "analytics-report",
        "Sign-ups fell to 724 (−29 %",
        "reported",
        "$0.042",
        "of $0.60",
        "≈ $0.0093",
        "The last four weeks",
        "Needs a look",
        "checkout errors by country",
        "Refused by policy",
        "Step by step",
        "Who did what",
        "Receipts",
        "report.md",
        "What went where",
        "reads no key",
        "warehouse: bundled sample",
        "Transcript",
        "card_declined_by_proxy",
        sample::RUN,
        "Made by nightcrew",
    ];
    let mut from = 0;
    for part in order {
        let at = page[from..].find(part).unwrap_or_else(|| panic!("{part} is missing or out of order"));
        from += at;
    }
    assert!(index.contains(&format!("href=\"analytics-report/{}/index.html\"", sample::RUN)));
}

#[test]
fn nothing_a_model_or_a_stranger_wrote_is_live() {
    let evil =
        "<script>alert(1)</script><img src=https://evil.example/x onerror=1>\u{202e}\u{200b}\u{1b}[2J\" style=\"x";
    // Every text of the run is replaced by the evil one.
    fn poison(value: &mut Value, evil: &str) {
        match value {
            Value::String(text) if !text.is_empty() && text.parse::<Timestamp>().is_err() && text.len() != 64 => {
                *text = evil.to_owned();
            }
            Value::Array(items) => items.iter_mut().for_each(|item| poison(item, evil)),
            Value::Object(map) => map
                .iter_mut()
                .filter(|(key, _)| {
                    !matches!(key.as_str(), "type" | "outcome" | "effects" | "kind" | "timezone" | "days")
                })
                .for_each(|(_, item)| poison(item, evil)),
            _ => {}
        }
    }
    let mut run = sample::repair();
    run.questions = vec![("a".into(), "b".into())];
    run.failure = Some(crate::domain::run::Failure::new("E", "m").help("h"));
    run.reports[0].blocks.push(ReportBlock::Links {
        items: vec![Link { title: "t".into(), url_or_path: "javascript:x".into(), preview: true }],
    });
    let mut value = serde_json::to_value(&run).unwrap();
    poison(&mut value, evil);
    let run: RunView = serde_json::from_value(value).unwrap();
    let items = [TranscriptItem { speaker: evil.into(), step: evil.into(), text: evil.into() }];
    let mut line = line(1, None, evil);
    line.pipeline = "../x".into();
    line.trigger = evil.into();
    for page in [render(&Page::of_run(&run, &items)), render(&Page::of_report(&run.reports[0])), index(&[line])] {
        assert!(!page.is_empty());
        for bad in [
            "<script",
            "<img",
            "href=\"http",
            "href=\"java",
            "href=\"..",
            "\" style=\"",
            "\" src=\"",
            "\u{202e}",
            "\u{200b}",
            "\u{1b}",
        ] {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(page.contains("default-src 'none'; style-src 'sha256-"));
    }
}

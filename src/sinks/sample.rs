//! Invented data for the tests of every renderer.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::base::env::process_variable;
use crate::base::hash::Hash;
use crate::base::ids::RunId;
use crate::base::money::UsdMicros;
use crate::domain::activity::{Complaint, Receipt};
use crate::domain::model::Usage;
use crate::domain::money::{RoleSpend, Spend};
use crate::domain::report::{Chart, Footer, InternStats, Question, Report, ReportBlock, Series};
use crate::domain::run::{Effects, Outcome, RunLimits, RunStart, Trigger, TriggerKind};
use crate::domain::view::{RunView, StepView};

/// Compares with `golden/NAME`; with `NIGHTCREW_BLESS=1` in the environment writes it instead, to be reviewed.
pub fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sinks/golden").join(name);
    if process_variable("NIGHTCREW_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap());
}

pub const RUN: &str = "01KAF3ZQ8MN5T2V9X7B4C6D7QK";

/// Open until that afternoon.
pub fn question() -> Question {
    Question {
        path: "gate/approve".into(),
        signal: "approve".into(),
        ask: "May I add a dependency (`chrono-tz`)?".into(),
        given: vec![("change".into(), "+chrono-tz = \"0.10\"".into())],
        expires_at: Some("2026-11-20T14:00:00Z".parse().unwrap()),
        on_expiry: "no".into(),
        hash: Hash::of("what is asked").to_string(),
        answered: None,
    }
}

fn at(text: &str) -> Timestamp {
    format!("2026-11-20T07:00:{text}Z").parse().unwrap()
}

fn spend() -> Spend {
    let role = |calls, usd, input, cached, output| RoleSpend {
        calls,
        usd: UsdMicros(usd),
        usage: Usage { input, cache_read: cached, cache_write_5m: 1_200, output, ..Usage::default() },
    };
    Spend {
        turns: 4,
        boss: role(4, 41_300, 6_100, 18_400, 1_450),
        intern: role(2, 410, 2_900, 0, 260),
        ..Spend::default()
    }
}

/// Days up to 20 November with weeks, gaps and a jump at the end; the last values are those of the table.
pub fn chart(days: usize) -> Chart {
    let end = jiff::civil::date(2026, 11, 20);
    let day = |i: usize| end.checked_sub(jiff::Span::new().days((days - 1 - i) as i64)).unwrap();
    let wave = |i: usize, base: f64, noise: f64| {
        let weekend = if day(i).weekday().to_monday_zero_offset() > 4 { 0.62 } else { 1.0 };
        (base * weekend * (1.0 + noise * ((i * 7919 % 13) as f64 / 13.0 - 0.5))).round()
    };
    let jump = |i: usize, by: f64| if i + 2 >= days { by } else { 1.0 };
    let mut chart = Chart {
        title: "The last four weeks".into(),
        days: (0..days).map(|i| day(i).to_string()).collect(),
        series: vec![
            Series {
                metric: "signups.signups".into(),
                values: (0..days).map(|i| Some((wave(i, 1020.0, 0.12) * jump(i, 0.71)).round())).collect(),
                usual: Some(1021.0),
                flagged: true,
            },
            Series {
                metric: "signups.activated".into(),
                values: (0..days).map(|i| (i % 17 != 9).then(|| wave(i, 640.0, 0.1))).collect(),
                usual: Some(633.0),
                flagged: false,
            },
            Series {
                metric: "checkout.errors".into(),
                values: (0..days).map(|i| Some((wave(i, 24.0, 0.5) * jump(i, 5.4)).round())).collect(),
                usual: Some(23.0),
                flagged: true,
            },
            Series {
                metric: "checkout.refund_balance_eur".into(),
                values: (0..days).map(|i| Some(wave(i, 900.0, 0.9) - 700.0)).collect(),
                usual: Some(140.0),
                flagged: false,
            },
        ],
    };
    for (series, last) in chart.series.iter_mut().zip([724.0, 641.0, 130.0, 131.5]) {
        if let Some(value) = series.values.last_mut() {
            *value = Some(last);
        }
    }
    chart
}

pub fn report() -> Report {
    Report {
        pipeline: "analytics-report".into(),
        run: RUN.into(),
        summary: "Yesterday's numbers, what moved, and why if the data says so.".into(),
        headline: "Sign-ups fell to 724 (−29 % on the usual Friday) while checkout errors rose to 130".into(),
        outcome: Some(Outcome::Reported),
        effects: Effects::Preview,
        profile: "demo".into(),
        date: "Fri 20 Nov 2026".into(),
        blocks: vec![
            ReportBlock::Bullets {
                items: vec![
                    "Sign-ups: 724 instead of the usual 1,021. The fall began on Thursday and is in every country."
                        .into(),
                    "Checkout errors: 130 instead of 23, nearly all `card_declined_by_proxy` on Safari 18.".into(),
                    "Activated accounts and refunds moved by less than 15 %.".into(),
                ],
            },
            ReportBlock::Table {
                title: "why".into(),
                columns: vec!["metric".into(), "cause".into(), "evidence".into()],
                rows: vec![
                    vec![
                        "signups.signups".into(),
                        "Unknown. The fall is alike in all countries and devices, so a campaign is an unlikely cause."
                            .into(),
                        "724 against 1,021; by country between −27 % and −31 %".into(),
                    ],
                    vec![
                        "checkout.errors".into(),
                        "A proxy in front of the payment service refuses cards from Safari 18 since Thursday.".into(),
                        "118 of 130 errors carry card_declined_by_proxy".into(),
                    ],
                ],
            },
            ReportBlock::Table {
                title: "delta".into(),
                columns: ["metric", "value", "usual", "change", "change_pct", "flagged"].map(String::from).to_vec(),
                rows: vec![
                    row(json!(["signups.signups", 724, 1021, -297, -29.09, true])),
                    row(json!(["signups.activated", 641, 633, 8, 1.26, false])),
                    row(json!(["checkout.errors", 130, 23, 107, 465.2, true])),
                    row(json!(["checkout.refund_balance_eur", 131.5, 140, -8.5, -6.07, false])),
                ],
            },
            ReportBlock::Notice { text: "One sentence was dropped: its figure does not stand in the data.".into() },
        ],
        chart: Some(chart(28)),
        findings: Vec::new(),
        question: None,
        footer: Footer {
            spend: spend(),
            budget_usd: Some(0.6),
            models: vec!["demo tape (reads no key)".into()],
            interns: InternStats { items: 2, escalated: 0, audited: 1, disagreed: 0, saved_usd: 0.0093 },
            figures_checked: 14,
            sentences_dropped: 1,
            complaints: vec![Complaint {
                kind: "data".into(),
                need: "checkout errors by country".into(),
                evidence: "the endpoint has no country column".into(),
                step: "why".into(),
            }],
            refused: vec![],
            problems: vec![],
            left_behind: 0,
            help: Vec::new(),
            code: Vec::new(),
            stand_ins: vec!["warehouse: bundled sample".into(), "shop: bundled sample".into(), "slack: files".into()],
            duration_s: 13.4,
        },
    }
}

fn row(value: Value) -> Vec<Value> {
    value.as_array().unwrap().clone()
}

#[allow(clippy::too_many_arguments)]
fn step(
    path: &str,
    depth: u32,
    kind: &str,
    outcome: &str,
    summary: &str,
    from: &str,
    to: &str,
    cost: i64,
    calls: (u32, u32),
) -> StepView {
    StepView {
        path: path.into(),
        depth,
        place: path.ends_with(']').then_some((1, 4)),
        kind: kind.into(),
        outcome: Some(outcome.into()),
        summary: summary.into(),
        reason: None,
        started_at: Some(at(from)),
        finished_at: Some(at(to)),
        cost: UsdMicros(cost),
        boss_calls: calls.0,
        intern_calls: calls.1,
    }
}

pub fn run() -> RunView {
    RunView {
        start: RunStart {
            id: RunId(RUN.into()),
            pipeline: "analytics-report".into(),
            definition: Hash::of("analytics-report"),
            profile: "demo".into(),
            effects: Effects::Preview,
            trigger: Trigger { kind: TriggerKind::Schedule, key: "2026-11-20T07:00:00Z".into(), item: None },
            params: json!({"day": "2026-11-20"}).as_object().unwrap().clone(),
            nominal_at: at("00"),
            timezone: "Europe/Berlin".into(),
            started_at: at("00.01"),
            build_id: "0.1.0+abc".into(),
            limits: RunLimits {
                max_turns: Some(12),
                max_budget: Some(UsdMicros(600_000)),
                keep_for_report_permille: 150,
                ..RunLimits::default()
            },
            until: None,
        },
        outcome: Some(Outcome::Reported),
        failure: None,
        finished_at: Some(at("13.41")),
        added: UsdMicros::ZERO,
        spend: spend(),
        activities: 14,
        counts: BTreeMap::new(),
        complaints: report().footer.complaints,
        refused: vec!["the boss asked for tool `shell`, which it was not given".into()],
        receipts: vec![Receipt {
            kind: "report".into(),
            destination: "files".into(),
            url_or_path: format!("out/analytics-report/{RUN}/report.md"),
            key: format!("{RUN}/post/slack"),
            found: false,
        }],
        steps: vec![
            step("data", 0, "fetch", "done", "2 sources, 112 rows", "00.02", "00.31", 0, (0, 0)),
            step("delta", 0, "compute", "done", "4 metrics, 2 flagged", "00.31", "00.33", 0, (0, 0)),
            step("why", 0, "boss", "done", "4 turns, 3 tool calls · 2 causes", "00.33", "10.9", 41_300, (4, 0)),
            step(
                "brief",
                0,
                "intern",
                "done",
                "1 headline, 3 bullets · 1 sentence dropped",
                "10.9",
                "13.1",
                410,
                (0, 2),
            ),
            step("post", 0, "report", "done", "files: report.md", "13.1", "13.4", 0, (0, 0)),
        ],
        models: vec!["demo tape (reads no key)".into()],
        interns: report().footer.interns,
        figures_checked: 14,
        sentences_dropped: 1,
        questions: vec![],
        reports: vec![report()],
    }
}

/// A run with children, a failure, a cap and an open step.
pub fn repair() -> RunView {
    let mut run = run();
    run.start.pipeline = "error-to-pr".into();
    run.start.effects = Effects::Live;
    run.start.limits.max_budget = Some(UsdMicros(5_000_000));
    run.outcome = Some(Outcome::Acted);
    run.counts = BTreeMap::from([("acted".to_owned(), 3), ("failed".to_owned(), 1)]);
    run.spend.boss.calls = 14;
    run.spend.boss.usd = UsdMicros(108_000);
    run.spend.intern.calls = 22;
    let receipt = |kind: &str, n: u32| Receipt {
        kind: kind.into(),
        destination: "files".into(),
        url_or_path: format!("out/error-to-pr/{RUN}/{kind}-{n}/index.html"),
        key: format!("{RUN}/{n}"),
        found: n == 2,
    };
    run.receipts = vec![
        receipt("ticket", 1),
        receipt("ticket", 2),
        receipt("ticket", 3),
        receipt("pull_request", 1),
        receipt("report", 1),
    ];
    run.interns = InternStats { items: 22, escalated: 2, audited: 1, disagreed: 0, saved_usd: 0.37 };
    run.steps = vec![
        step("errors", 0, "fetch", "done", "25 events, 4 groups", "00.02", "00.12", 0, (0, 0)),
        step(
            "triage",
            0,
            "intern",
            "done",
            "intern ×4 · 3 simple, 1 complex · 1 audited, agreed",
            "00.12",
            "01.3",
            400,
            (0, 4),
        ),
        step("repair[3f9c]", 0, "", "acted", "ParseError in parse_duration", "01.3", "12.1", 108_000, (12, 0)),
        step(
            "repair[3f9c]/cause",
            1,
            "boss",
            "done",
            "boss, 6 turns · src/duration.rs:41 drops the sign",
            "01.3",
            "05.1",
            41_000,
            (6, 0),
        ),
        step(
            "repair[3f9c]/fix",
            1,
            "fix",
            "proved",
            "red on base ✓ · green with patch ✓ · 48 tests, none worse",
            "05.1",
            "11.1",
            55_000,
            (6, 0),
        ),
        StepView {
            reason: Some("the branch could not be written: No space left on device".into()),
            ..step("repair[3f9c]/draft", 1, "pull_request", "failed", "", "11.1", "12.1", 0, (0, 0))
        },
        StepView {
            outcome: Some("skipped".into()),
            reason: Some("draft ran".into()),
            path: "repair[3f9c]/ticket".into(),
            depth: 1,
            kind: "ticket".into(),
            ..StepView::default()
        },
        StepView { outcome: None, finished_at: None, ..step("news", 0, "report", "", "", "12.1", "12.1", 0, (0, 0)) },
    ];
    run
}

//! Reports in Slack, over its stand-in: each message and file once whatever breaks, at Slack's pace, and nothing where it must not go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use nightcrew::base::BoxFuture;
use nightcrew::base::clock::Clock;
use nightcrew::base::env::Env;
use nightcrew::base::ids::SystemIds;
use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::domain::activity::{Delivery, Receipt, Thread};
use nightcrew::domain::report::{Chart, Link, Question, Report, ReportBlock, ReportFinding, Series};
use nightcrew::domain::run::{Effects, Outcome};
use nightcrew::ports::service::{HomeRepository, Outside, Service, Services, Shared};
use nightcrew::ports::sink::{Earlier, Sink, SinkError, SinkSetup};
use nightcrew::sinks::slack::KIND;
use serde_json::{Value, json};

use super::fakes::github::GitHub;
use super::fakes::service::Fault;
use super::fakes::slack::{Members, Slack, TOKEN};

/// Time that passes where somebody sleeps, and nowhere else.
#[derive(Clone, Debug, Default)]
struct JumpClock(Arc<Mutex<Duration>>);

impl Clock for JumpClock {
    fn now(&self) -> Timestamp {
        "2026-11-20T08:00:00Z".parse::<Timestamp>().unwrap() + *self.0.lock().unwrap()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        *self.0.lock().unwrap() += duration;
        Box::pin(tokio::task::yield_now())
    }
}

/// A Slack, and how our side reaches it. A new process is another `sink`.
struct Stand {
    slack: Slack,
    clock: JumpClock,
    folder: tempfile::TempDir,
}

impl Stand {
    fn new() -> Self {
        let clock = JumpClock::default();
        let slack = Slack::start_at(Arc::new(clock.clone()));
        slack.channel("api-oncall", Members::Private);
        slack.channel("general", Members::WithBot);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        Self { slack, clock, folder }
    }

    fn outside(&self) -> Outside {
        let token = SecretSource::Files(vec![self.folder.path().join("token")]);
        let slack = Service {
            settings: BTreeMap::from([("api_url".to_owned(), self.slack.api())]),
            secrets: BTreeMap::from([("bot_token".to_owned(), SecretRef { name: "SLACK".into(), source: token })]),
            ..Service::default()
        };
        let services = Services { slack: Some(slack), github: Some(Service::default()), ..Services::default() };
        let env = Env { clock: Arc::new(self.clock.clone()), ids: Arc::new(SystemIds) };
        Outside { services: Arc::new(services), shared: Shared::default(), env }
    }

    fn sink(&self) -> Arc<dyn Sink> {
        (KIND.make.unwrap())(&SinkSetup::local("out", self.outside()))
    }

    fn sink_for(&self, repository: HomeRepository) -> Arc<dyn Sink> {
        let mut setup = SinkSetup::local("out", self.outside());
        setup.repository = Some(repository);
        (KIND.make.unwrap())(&setup)
    }

    async fn deliver(&self, delivery: &Delivery) -> Result<Receipt, SinkError> {
        self.sink().deliver(delivery, Earlier::None).await
    }

    fn keys(&self, channel: &str) -> Vec<String> {
        let messages = self.slack.messages(channel);
        let key = |metadata: Value| metadata["event_payload"]["key"].as_str().unwrap_or_default().to_owned();
        messages.into_iter().filter_map(|message| message.metadata.map(key)).collect()
    }
}

fn report() -> Report {
    let days = (1..=28).map(|day| format!("2026-10-{day:02}")).collect();
    Report {
        pipeline: "analytics-report".into(),
        run: "01KAF3ZQ8MN5T2V9X7B4C6D7QK".into(),
        summary: "Yesterday's numbers.".into(),
        headline: "Sign-ups fell to 724".into(),
        outcome: Some(Outcome::Reported),
        effects: Effects::Live,
        profile: "cloud".into(),
        date: "Fri 20 Nov 2026".into(),
        blocks: vec![
            ReportBlock::Bullets { items: vec!["Sign-ups: 724 instead of 1,021.".into()] },
            ReportBlock::Table {
                title: "why".into(),
                columns: vec!["metric".into()],
                rows: vec![vec!["signups".into()]],
            },
            ReportBlock::Table { title: "delta".into(), columns: vec!["value".into()], rows: vec![vec![724.into()]] },
        ],
        chart: Some(Chart {
            title: "Four weeks".into(),
            days,
            series: vec![Series {
                metric: "signups".into(),
                values: (0..28).map(|n| Some(f64::from(n))).collect(),
                usual: Some(20.0),
                flagged: true,
            }],
        }),
        ..Report::default()
    }
}

fn delivery(report: Report, channel: &str, thread: Thread) -> Delivery {
    let key = format!("{}/post/slack", report.run);
    Delivery { sink: "slack".into(), channel: Some(channel.into()), report: Box::new(report), key, thread }
}

fn finding(name: &str, state: &str) -> ReportFinding {
    ReportFinding {
        fingerprint: name.into(),
        id: "a1b2c3d4e5f6".into(),
        title: format!("{name} drops the sign"),
        lines: vec!["seen 412 times by 37 people".into()],
        proof: Some("reproduced by a new test".into()),
        links: vec![Link {
            title: "Draft pull request".into(),
            url_or_path: "https://github.com/acme/api/pull/214".into(),
            preview: false,
        }],
        state: state.into(),
    }
}

fn findings(run: &str, found: Vec<ReportFinding>) -> Delivery {
    let report = Report {
        pipeline: "error-to-pr".into(),
        run: run.into(),
        chart: None,
        blocks: Vec::new(),
        findings: found,
        ..report()
    };
    delivery(report, "#api-oncall", Thread::PerFinding)
}

#[tokio::test]
async fn a_report_is_one_message_with_its_details_and_its_chart_in_the_thread() {
    let stand = Stand::new();
    let receipt = stand.deliver(&delivery(report(), "#api-oncall", Thread::PerRun)).await.unwrap();
    let top = stand.slack.top("api-oncall");
    assert_eq!((top.len(), top[0].text.as_str()), (1, "📊 Sign-ups fell to 724"));
    assert!(receipt.url_or_path.contains(&top[0].ts.replace('.', "")) && !receipt.found, "{receipt:?}");
    let files = stand.slack.files();
    assert!(files.len() == 1 && files[0].1.starts_with(b"\x89PNG"));
    let shared = &stand.slack.effects("file.share")[0];
    assert_eq!(
        (&shared["thread_ts"], &shared["files"][0]["title"]),
        (&json!(top[0].ts), &json!("Sign-ups fell to 724"))
    );
    let replies: Vec<_> = stand.slack.messages("api-oncall").into_iter().filter(|message| !message.is_top()).collect();
    assert_eq!(replies.len(), 3, "the chart, and a table each");
    // The same again is found, and changes nothing.
    let before = stand.slack.changed();
    let again = stand.deliver(&delivery(report(), "api-oncall", Thread::PerRun)).await.unwrap();
    assert_eq!((again.found, again.url_or_path, stand.slack.changed()), (true, receipt.url_or_path.clone(), before));
    // A run that went on edits its own message, and uploads nothing twice.
    let mut more = report();
    more.headline = "Sign-ups fell to 724, errors rose".into();
    more.blocks.push(ReportBlock::Paragraph { text: "Now whole.".into() });
    let edited = stand.deliver(&delivery(more, "api-oncall", Thread::PerRun)).await.unwrap();
    let top = stand.slack.top("api-oncall");
    assert_eq!((top.len(), top[0].text.as_str(), top[0].edited), (1, "📊 Sign-ups fell to 724, errors rose", true));
    assert_eq!((edited.url_or_path, stand.slack.files().len()), (receipt.url_or_path, 1));
}

/// Whatever was accepted without an answer, in one process or with another that goes on: everything is there once.
#[tokio::test]
async fn a_connection_that_is_cut_after_any_accepted_write_doubles_nothing() {
    let whole = Stand::new();
    let given = delivery(report(), "api-oncall", Thread::PerRun);
    whole.deliver(&given).await.unwrap();
    let (writes, wanted) = (whole.slack.changed(), whole.keys("api-oncall"));
    assert!(writes >= 5, "{writes}");
    for skip in 0..writes {
        let stand = Stand::new();
        stand.slack.lose_effect(skip);
        let mut ended = stand.deliver(&given).await;
        if ended.is_err() {
            // Another process goes on.
            ended = stand.sink().deliver(&given, Earlier::Unknown).await;
        }
        ended.unwrap();
        assert_eq!(stand.slack.faults_left(), 0);
        let keys = stand.keys("api-oncall");
        let distinct: BTreeSet<&String> = keys.iter().collect();
        assert_eq!((keys.len(), distinct.len()), (wanted.len(), wanted.len()), "after write {skip}");
        assert_eq!(stand.slack.effects("file.share").len(), 1, "after write {skip}");
    }
}

#[tokio::test]
async fn a_crash_after_any_accepted_write_is_gone_on_from() {
    let given = delivery(report(), "api-oncall", Thread::PerRun);
    for crash in 1..8 {
        let stand = Stand::new();
        let (sink, until) = (stand.sink(), stand.slack.changed() + crash);
        {
            let mut delivering = sink.deliver(&given, Earlier::None);
            // Dropped half-way, as a killed process is.
            let stopped = async {
                while stand.slack.changed() < until {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased;
                () = stopped => {}
                ended = &mut delivering => drop(ended.unwrap()),
            }
        }
        stand.sink().deliver(&given, Earlier::Unknown).await.unwrap();
        let keys = stand.keys("api-oncall");
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "after write {crash}");
        assert_eq!((stand.slack.top("api-oncall").len(), stand.slack.effects("file.share").len()), (1, 1));
    }
}

#[tokio::test]
async fn a_post_that_did_not_happen_is_sent_once_more_and_one_that_cannot_be_told_is_unknown() {
    let stand = Stand::new();
    let given = delivery(Report { chart: None, blocks: Vec::new(), ..report() }, "api-oncall", Thread::PerRun);
    stand.slack.fault("POST", "/api/chat.postMessage", Fault::Cut);
    stand.deliver(&given).await.unwrap();
    assert_eq!(stand.slack.top("api-oncall").len(), 1);

    let stand = Stand::new();
    stand.slack.fault_times("POST", "/api/chat.postMessage", Fault::Cut, 9);
    let error = stand.deliver(&given).await.unwrap_err();
    assert!(matches!(error, SinkError::Unknown { .. }), "{error:?}");
    assert_eq!(stand.slack.requests("POST", "/api/chat.postMessage").len(), 2);

    // It is there, and looking does not tell.
    let stand = Stand::new();
    stand.slack.fault("POST", "/api/chat.postMessage", Fault::Failed(503));
    stand.slack.fault_after("GET", "/api/conversations.history", Fault::status(500), 1, 99);
    let error = stand.deliver(&given).await.unwrap_err();
    assert!(matches!(error, SinkError::Unknown { .. }), "{error:?}");
    assert_eq!(stand.slack.requests("POST", "/api/chat.postMessage").len(), 1);
    stand.slack.heal();
    assert!(stand.sink().deliver(&given, Earlier::Unknown).await.unwrap().found);
    assert_eq!(stand.slack.top("api-oncall").len(), 1);
}

#[tokio::test]
async fn each_finding_has_one_message_that_is_edited_and_a_reply_rings_when_a_person_is_needed() {
    let stand = Stand::new();
    let first = findings("01RUN1", vec![finding("a", "ticket"), finding("b", "unproved")]);
    stand.deliver(&first).await.unwrap();
    assert_eq!(stand.slack.top("api-oncall").len(), 2);
    assert_eq!(stand.slack.messages("api-oncall").len(), 2, "the first messages ring by themselves");
    stand.deliver(&first).await.unwrap();
    assert_eq!(stand.slack.changed(), 2);

    let second = findings("01RUN2", vec![finding("a", "draft"), finding("c", "declined")]);
    for _ in 0..2 {
        stand.deliver(&second).await.unwrap();
    }
    let top = stand.slack.top("api-oncall");
    assert_eq!(top.len(), 3);
    assert!(top[0].edited && top[0].text.starts_with("✅ Draft PR ready for review: a drops"), "{}", top[0].text);
    let replies: Vec<_> = stand.slack.messages("api-oncall").into_iter().filter(|message| !message.is_top()).collect();
    assert_eq!((replies.len(), &replies[0].thread_ts), (1, &Some(top[0].ts.clone())));
    assert_eq!(replies[0].text, "✅ Draft PR ready for review: a drops the sign");
    let payload = &top[0].metadata.as_ref().unwrap()["event_payload"];
    assert_eq!((&payload["key"], &payload["state"]), (&json!("error-to-pr/a"), &json!("draft")));
    // As before: nothing rings.
    stand.deliver(&findings("01RUN3", vec![finding("a", "draft")])).await.unwrap();
    assert_eq!(stand.slack.messages("api-oncall").len(), 4);
    // Every write of a move may lose its answer.
    let writes = {
        let before = stand.slack.changed();
        stand.deliver(&findings("01RUN4", vec![finding("a", "failed"), finding("b", "draft")])).await.unwrap();
        stand.slack.changed() - before
    };
    for skip in 0..writes {
        let stand = Stand::new();
        stand.deliver(&first).await.unwrap();
        stand.slack.lose_effect(skip);
        let moved = findings("01RUN4", vec![finding("a", "failed"), finding("b", "draft")]);
        if stand.deliver(&moved).await.is_err() {
            stand.sink().deliver(&moved, Earlier::Unknown).await.unwrap();
        }
        assert_eq!((stand.slack.top("api-oncall").len(), stand.slack.messages("api-oncall").len()), (2, 4), "{skip}");
    }
}

#[tokio::test]
async fn what_a_preview_tells_stands_beside_what_was_done() {
    let stand = Stand::new();
    let of = |run: &str, effects, state: &str| {
        let mut delivery = findings(run, vec![finding("a", state)]);
        delivery.report.effects = effects;
        delivery
    };
    stand.deliver(&of("r1", Effects::Live, "draft")).await.unwrap();
    let done = stand.slack.top("api-oncall")[0].clone();
    stand.deliver(&of("r2", Effects::Preview, "would_draft")).await.unwrap();
    stand.deliver(&of("r3", Effects::Preview, "would_draft")).await.unwrap();
    let top = stand.slack.top("api-oncall");
    assert_eq!(top.len(), 2, "one each, however often");
    assert!(top.iter().any(|message| message.ts == done.ts && message.text == done.text), "{top:#?}");
}

#[tokio::test]
async fn problems_of_a_run_stand_beside_its_findings_and_a_report_without_any_is_one_message() {
    let stand = Stand::new();
    let mut given = findings("01RUN1", vec![finding("a", "ticket")]);
    given.report.footer.problems = vec!["repair: failed: no answer".into()];
    stand.deliver(&given).await.unwrap();
    assert_eq!(stand.slack.top("api-oncall").len(), 2);
    stand.deliver(&findings("01RUN2", Vec::new())).await.unwrap();
    assert_eq!(stand.slack.top("api-oncall").len(), 3);
}

#[tokio::test]
async fn quiet_nights_edit_one_message() {
    let stand = Stand::new();
    for run in ["01RUN1", "01RUN2", "01RUN3"] {
        let quiet = Report {
            run: run.into(),
            headline: "Nothing new".into(),
            outcome: Some(Outcome::NothingNew),
            date: format!("the night of {run}"),
            chart: None,
            blocks: Vec::new(),
            ..report()
        };
        stand.deliver(&delivery(quiet, "api-oncall", Thread::Quiet)).await.unwrap();
    }
    let all = stand.slack.messages("api-oncall");
    assert_eq!((all.len(), all[0].text.as_str()), (1, "🌙 Nothing new"));
    assert!(json!(all[0].blocks).to_string().contains("the night of 01RUN3"));
}

#[tokio::test]
async fn a_question_loses_its_buttons_when_it_is_answered() {
    let stand = Stand::new();
    let question = Question {
        path: "gate/approve".into(),
        signal: "approve".into(),
        ask: "May I?".into(),
        given: vec![("change".into(), "+chrono-tz".into())],
        expires_at: Some("2026-11-20T14:00:00Z".parse().unwrap()),
        on_expiry: "no".into(),
        hash: "9f".into(),
        answered: None,
    };
    let asks = Report { chart: None, blocks: Vec::new(), outcome: None, question: Some(question.clone()), ..report() };
    stand.deliver(&delivery(asks.clone(), "api-oncall", Thread::PerRun)).await.unwrap();
    let shown = json!(stand.slack.top("api-oncall")[0].blocks).to_string();
    assert!(shown.contains("run.approve") && shown.contains("+chrono-tz") && shown.contains("Expires "), "{shown}");
    let answered = Question { answered: Some(("denied".into(), "ada".into())), ..question };
    let said = Report { question: Some(answered), ..asks };
    stand.deliver(&delivery(said, "api-oncall", Thread::PerRun)).await.unwrap();
    let all = stand.slack.messages("api-oncall");
    let shown = json!(all[0].blocks).to_string();
    assert!(all.len() == 1 && !shown.contains("run.approve") && shown.contains("Denied by ada"), "{shown}");
}

#[tokio::test]
async fn rate_limits_are_obeyed_and_messages_of_a_channel_are_a_second_apart() {
    let stand = Stand::new();
    stand.slack.limit("chat.postMessage", Some(30), 1);
    stand.slack.limit("conversations.history", None, 1);
    let sink = stand.sink();
    let given: Vec<Delivery> = (0..6)
        .map(|n| {
            let run = format!("01RUN{n}");
            delivery(Report { run, chart: None, blocks: Vec::new(), ..report() }, "api-oncall", Thread::PerRun)
        })
        .collect();
    let all = given.iter().map(|delivery| sink.deliver(delivery, Earlier::None));
    for ended in futures_util::future::join_all(all).await {
        ended.unwrap();
    }
    let times: Vec<f64> = stand.slack.top("api-oncall").iter().map(|message| message.ts.parse().unwrap()).collect();
    assert_eq!(times.len(), 6);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 0.99), "{times:?}");
    let start: Timestamp = "2026-11-20T08:00:00Z".parse().unwrap();
    assert!(times[0] - start.as_second() as f64 >= 30.0, "{times:?}");
    // Our own pace, not Slack's patience: it never had to say so again.
    let posts = stand.slack.requests("POST", "/api/chat.postMessage").len();
    assert_eq!(posts, 1 + stand.slack.messages("api-oncall").len());
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_do() {
    let stand = Stand::new();
    stand.slack.channel("outside", Members::WithoutBot);
    let small = || Report { chart: None, blocks: Vec::new(), ..report() };
    let error = stand.deliver(&delivery(small(), "outside", Thread::PerRun)).await.unwrap_err();
    assert!(
        matches!(&error, SinkError::Missing { help, .. } if help.contains("/invite the bot in #outside")),
        "{error:?}"
    );
    let error = stand.deliver(&delivery(small(), "nowhere", Thread::PerRun)).await.unwrap_err();
    assert!(
        matches!(&error, SinkError::Missing { message, .. } if message.contains("no channel #nowhere")),
        "{error:?}"
    );
    let mut unnamed = delivery(small(), "", Thread::PerRun);
    unnamed.channel = None;
    assert!(matches!(stand.deliver(&unnamed).await.unwrap_err(), SinkError::Missing { .. }));
    stand.slack.without_scope("chat:write");
    let error = stand.deliver(&delivery(small(), "general", Thread::PerRun)).await.unwrap_err();
    assert!(matches!(&error, SinkError::Missing { message, .. } if message.contains("`chat:write`")), "{error:?}");
    stand.slack.revoke(TOKEN);
    let error = stand.deliver(&delivery(small(), "general", Thread::PerRun)).await.unwrap_err();
    assert!(matches!(&error, SinkError::Credential { secret, .. } if secret == "SLACK"), "{error:?}");
    assert!(stand.slack.all_messages().is_empty());
}

#[tokio::test]
async fn text_of_a_private_repository_reaches_no_public_channel_unless_the_yaml_says_so() {
    let stand = Stand::new();
    let small = || Report { chart: None, blocks: Vec::new(), ..report() };
    let (open, closed) =
        (delivery(small(), "general", Thread::PerRun), delivery(small(), "api-oncall", Thread::PerRun));
    // Not on GitHub, and one that GitHub tells us nothing of: both count as private.
    for github in [None, Some("acme/api".to_owned())] {
        let home = HomeRepository { github, ..HomeRepository::default() };
        let error = stand.sink_for(home.clone()).deliver(&open, Earlier::None).await.unwrap_err();
        assert!(
            matches!(&error, SinkError::Refused { help, .. } if help.contains("may_reach: [public_channels]")),
            "{error:?}"
        );
        stand.sink_for(home).deliver(&closed, Earlier::None).await.unwrap();
    }
    assert!(stand.slack.messages("general").is_empty() && stand.slack.top("api-oncall").len() == 1);
    let home = HomeRepository { may_reach: vec!["public_channels".into()], ..HomeRepository::default() };
    stand.sink_for(home).deliver(&open, Earlier::None).await.unwrap();
    // Without a repository there is no text of one.
    stand.deliver(&open).await.unwrap();
    assert_eq!(stand.slack.top("general").len(), 1);
}

#[tokio::test]
async fn text_of_a_repository_that_github_says_is_public_goes_anywhere() {
    let stand = Stand::new();
    let github = GitHub::start_at(Arc::new(stand.clock.clone()));
    std::fs::write(stand.folder.path().join("github"), super::fakes::github::TOKEN).unwrap();
    let token = SecretSource::Files(vec![stand.folder.path().join("github")]);
    let mut outside = stand.outside();
    let mut services = (*outside.services).clone();
    services.github = Some(Service {
        settings: BTreeMap::from([("api_url".to_owned(), github.url())]),
        secrets: BTreeMap::from([("token".to_owned(), SecretRef { name: "GITHUB".into(), source: token })]),
        ..Service::default()
    });
    outside.services = Arc::new(services);
    for (name, visibility, goes) in
        [("acme/open", "public", true), ("acme/inner", "internal", false), ("acme/api", "private", false)]
    {
        github.repository(name, visibility);
        let mut setup = SinkSetup::local("out", outside.clone());
        setup.repository = Some(HomeRepository { github: Some(name.into()), ..HomeRepository::default() });
        let small = Report { chart: None, blocks: Vec::new(), ..report() };
        let ended =
            (KIND.make.unwrap())(&setup).deliver(&delivery(small, "general", Thread::PerRun), Earlier::None).await;
        assert_eq!(ended.is_ok(), goes, "{name}: {ended:?}");
    }
}

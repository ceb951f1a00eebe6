//! Tickets as issues of a stand-in of GitHub: once, kept up to date, left to people, and never where more people read them.
//! What belongs here: the publisher by itself, and whole runs whose ledger hears of their tickets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightcrew::base::BoxFuture;
use nightcrew::base::clock::{Clock, Timestamp};
use nightcrew::base::env::Env;
use nightcrew::base::secret::{SecretRef, SecretSource};
use nightcrew::clients::credentials::Credentials;
use nightcrew::domain::activity::Rows;
use nightcrew::domain::finding::{FindingLine, FindingState, TieKind, TieState};
use nightcrew::domain::proposal::{Proposal, Proposed, PublishState, Published, TicketFinding, TicketText, WorkEnd};
use nightcrew::domain::run::{Effects, Outcome};
use nightcrew::journal::FindingFilter;
use nightcrew::ports::publisher::{PublishError, Publisher, PublisherSetup};
use nightcrew::ports::service::{HomeRepository, Outside, Service, Services};
use nightcrew::ports::sink::Earlier;
use nightcrew::ports::source::{SourceError, SourceQuery, SourceSetup};
use serde_json::{Map, Value, json};

use crate::fakes::github::{GitHub, LOGIN, TOKEN};
use crate::fakes::model::{ModelServer, Reply, Request};
use crate::fakes::service::Fault;
use crate::world::{REGISTRY, World};

const HOME: &str = "acme/api";

/// A clock on which sleeping takes no time: it jumps to the end of each sleep.
#[derive(Debug)]
struct Swift(Mutex<Timestamp>);

impl Clock for Swift {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add(duration).unwrap();
        Box::pin(tokio::task::yield_now())
    }
}

fn env() -> Env {
    Env { clock: Arc::new(Swift(Mutex::new("2026-11-20T08:00:00Z".parse().unwrap()))), ..Env::system() }
}

/// A stand-in with one private repository, and what reaches it.
struct Bench {
    hub: GitHub,
    folder: tempfile::TempDir,
    outside: Outside,
}

impl Bench {
    fn new() -> Self {
        let env = env();
        let hub = GitHub::start_at(env.clock.clone());
        hub.repository(HOME, "private");
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("github.token");
        std::fs::write(&token, TOKEN).unwrap();
        let secret = SecretRef { name: "GITHUB".into(), source: SecretSource::Files(vec![token]) };
        let settings = [("api_url", hub.url()), ("git_url", hub.url())];
        let github = Service {
            settings: settings.map(|(name, value)| (name.to_owned(), value)).into(),
            secrets: BTreeMap::from([("token".to_owned(), secret)]),
            ..Service::default()
        };
        let services = Services { github: Some(github), ..Services::default() };
        let outside = Outside { services: Arc::new(services), ..Outside::none(env) };
        Self { hub, folder, outside }
    }

    fn publisher_of(&self, home: Option<HomeRepository>) -> Arc<dyn Publisher> {
        let setup = PublisherSetup {
            out: self.folder.path().join("out"),
            branches: None,
            outside: self.outside.clone(),
            repository: home,
        };
        REGISTRY.publisher("github").unwrap().make.unwrap()(&setup)
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        self.publisher_of(Some(home()))
    }

    async fn send(&self, proposal: &Proposal) -> Published {
        self.publisher().publish(proposal, Earlier::None).await.unwrap()
    }

    async fn state(&self, proposal: &Proposal) -> PublishState {
        self.send(proposal).await.state
    }

    fn issues(&self) -> Vec<Value> {
        self.hub.issues(HOME)
    }

    fn body(&self, number: usize) -> String {
        self.issues()[number - 1]["body"].as_str().unwrap().to_owned()
    }

    fn comments(&self, number: u64) -> Vec<String> {
        let comments = self.hub.comments(HOME, number);
        comments.iter().map(|comment| comment["body"].as_str().unwrap().to_owned()).collect()
    }

    /// How often it was written to.
    fn writes(&self) -> usize {
        ["POST", "PATCH", "PUT", "DELETE"].map(|method| self.hub.requests(method, "/**").len()).iter().sum()
    }

    fn edit(&self, number: u64, change: impl FnOnce(&str) -> String) {
        self.hub.change(HOME, |repository| {
            let issue = repository.issues.get_mut(&number).unwrap();
            issue.body = change(&issue.body);
        });
    }
}

fn home() -> HomeRepository {
    HomeRepository { github: Some(HOME.into()), ..HomeRepository::default() }
}

fn ticket(prints: &[&str], run: &str) -> Proposal {
    ticket_of(prints, run, |_| {})
}

fn ticket_of(prints: &[&str], run: &str, change: impl FnOnce(&mut TicketText)) -> Proposal {
    let mut text = TicketText {
        title: "A restart loses queued mail".into(),
        severity: Some("high".into()),
        harm: "Mail that waits when the process ends is gone.".into(),
        sections: vec![("Root cause".into(), "The queue lives in memory only.".into())],
        findings: prints
            .iter()
            .map(|print| TicketFinding {
                fingerprint: (*print).into(),
                title: format!("about {print}"),
                file: Some("src/queue.rs".into()),
                line: Some(10),
                quote: Some("let queue = Vec::new();".into()),
            })
            .collect(),
        accept: vec!["`cargo test queue` passes after a kill -9".into()],
        labels: vec!["tech-debt".into()],
        facts: vec![("times".into(), "412".into())],
        ..TicketText::default()
    };
    change(&mut text);
    proposal(Proposed::Ticket(Box::new(text)), prints, run)
}

fn gone(prints: &[&str], run: &str) -> Proposal {
    proposal(Proposed::CloseTicket { why: "not found any more at `0123456789ab`".into() }, prints, run)
}

fn proposal(what: Proposed, prints: &[&str], run: &str) -> Proposal {
    let id = nightcrew::base::hash::Hash::of(prints.join(",")).to_string();
    Proposal {
        sink: "tickets".into(),
        key: format!("queue-{}", &id[..8]),
        fingerprints: prints.iter().map(|print| (*print).to_owned()).collect(),
        same: Vec::new(),
        at: "2026-11-20T08:00:00Z".parse().unwrap(),
        effects: Effects::Live,
        pipeline: "code-health".into(),
        definition: "0123456789abcdef".into(),
        run: run.into(),
        what,
    }
}

#[tokio::test]
async fn a_ticket_is_opened_once_and_kept_up_to_date() {
    let bench = Bench::new();
    let files =
        [("src/queue.rs", Some("let queue = Vec::new();\n")), (".github/CODEOWNERS", Some("/src/ @ada @acme/mail\n"))];
    let commit = bench.hub.push(HOME, "main", &files, "queue: begin");
    let first = ticket_of(&["a", "b"], "r1", |text| {
        text.commit = Some(commit.clone());
        text.assignees = vec!["ada".into()];
    });
    let opened = bench.send(&first).await;
    assert_eq!((opened.state, opened.receipt.found), (PublishState::Opened, false));
    assert_eq!(opened.receipt.url_or_path, format!("{}/{HOME}/issues/1", bench.hub.url()));
    let issue = &bench.issues()[0];
    assert_eq!((&issue["labels"][0]["name"], &issue["assignees"][0]["login"]), (&json!("tech-debt"), &json!("ada")));
    let body = bench.body(1);
    let link = format!("{}/{HOME}/blob/{commit}/src/queue.rs#L10", bench.hub.url());
    assert!(body.contains(&format!("[`src/queue.rs:10`]({link})")), "{body}");
    assert!(body.contains("- `src/queue.rs`: last changed by ") && body.contains("; owned by `ada`, `mail`"), "{body}");

    // The same run again, after a crash; another run; the same finding by another key.
    let writes = bench.writes();
    assert_eq!(bench.state(&first).await, PublishState::Opened);
    assert_eq!(bench.state(&Proposal { run: "r2".into(), ..first.clone() }).await, PublishState::Unchanged);
    assert_eq!(bench.writes(), writes);
    let worse = ticket_of(&["b"], "r3", |text| text.facts = vec![("times".into(), "900".into())]);
    let updated = bench.send(&worse).await;
    assert_eq!((updated.state, updated.receipt.url_or_path), (PublishState::Updated, opened.receipt.url_or_path));
    assert_eq!(bench.state(&worse).await, PublishState::Updated, "the same run again");
    let body = bench.body(1);
    assert!(body.contains("times: 900") && body.contains("about a") && body.contains("about b"), "{body}");
    assert_eq!((bench.issues().len(), bench.comments(1).len()), (1, 0));
    // A finding of its own; another pipeline.
    assert_eq!(bench.state(&ticket(&["c"], "r3")).await, PublishState::Opened);
    let other = Proposal { pipeline: "other".into(), ..ticket(&["a"], "r3") };
    assert_eq!(bench.state(&other).await, PublishState::Opened);
    assert_eq!(bench.issues().len(), 3);
    assert!(bench.hub.requests("GET", "/search/**").is_empty(), "a search lags");
}

#[tokio::test]
async fn steps_side_by_side_open_one_ticket_and_merged_findings_are_found_by_any() {
    let bench = Bench::new();
    let publisher = bench.publisher();
    let proposals: Vec<Proposal> =
        (0..6).map(|n| ticket(if n % 2 == 0 { &["a", "b"] } else { &["b", "c"] }, "r1")).collect();
    let sends = proposals.iter().map(|proposal| publisher.publish(proposal, Earlier::None));
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
    assert_eq!(bench.issues().len(), 1);
    // What the ledger knows to be the same.
    let same = Proposal { same: vec!["c".into()], ..ticket(&["z"], "r2") };
    assert_eq!(bench.state(&same).await, PublishState::Updated);
    assert_eq!(bench.state(&ticket(&["z"], "r3")).await, PublishState::Unchanged);
    assert_eq!(bench.issues().len(), 1);
}

#[tokio::test]
async fn what_is_gone_is_closed_with_a_word_and_what_is_back_is_opened_again() {
    let bench = Bench::new();
    bench.send(&ticket(&["a", "b"], "r1")).await;
    let part = bench.send(&gone(&["a"], "r2")).await;
    assert_eq!((part.state, part.note.as_str()), (PublishState::Updated, "1 of 2 are left"));
    assert!(bench.body(1).starts_with("**high** severity · 1 of 2 findings left"), "{}", bench.body(1));
    assert_eq!(bench.state(&gone(&["a"], "r3")).await, PublishState::Unchanged);
    for run in ["r3", "r3"] {
        assert_eq!(bench.state(&gone(&["b"], run)).await, PublishState::Closed);
    }
    assert_eq!(bench.state(&gone(&["b"], "r4")).await, PublishState::LeftAlone);
    assert_eq!(bench.state(&gone(&["never"], "r4")).await, PublishState::LeftAlone);
    let issue = &bench.issues()[0];
    assert_eq!((&issue["state"], &issue["state_reason"]), (&json!("closed"), &json!("completed")));
    assert_eq!(bench.comments(1).len(), 1);
    assert!(
        bench.comments(1)[0].contains("**Closed:** not found any more at `0123456789ab`"),
        "{:?}",
        bench.comments(1)
    );

    let back = ticket_of(&["b"], "r5", |text| text.facts = vec![("times".into(), "7".into())]);
    for _ in 0..2 {
        let again = bench.send(&back).await;
        assert_eq!((again.state, again.note.as_str()), (PublishState::Updated, "open again"));
    }
    assert_eq!((bench.issues().len(), &bench.issues()[0]["state"]), (1, &json!("open")));
    let comments = bench.comments(1);
    assert_eq!(comments.len(), 2, "{comments:?}");
    assert!(comments[1].contains("It was gone on 20 Nov 2026 and is back.\n\ntimes: 7"), "{}", comments[1]);

    // A person closed it as done, and it is seen again.
    bench.hub.close(HOME, 1, "ada");
    assert_eq!(bench.send(&ticket(&["b"], "r6")).await.note, "open again");
    assert!(bench.comments(1)[2].contains("It was closed on 20 Nov 2026 and is seen again."));
}

#[tokio::test]
async fn what_people_wrote_and_decided_is_left_alone() {
    let bench = Bench::new();
    bench.send(&ticket(&["a"], "r1")).await;
    bench.edit(1, |body| format!("{body}\nSeen it, **mine**. @grace\n").replace('\n', "\r\n"));
    bench.hub.change(HOME, |repository| repository.issues.get_mut(&1).unwrap().title = "Mail!".into());
    bench.hub.comment(HOME, 1, "grace", "On it.");
    assert_eq!(bench.state(&ticket_of(&["a"], "r2", |text| text.harm = "Worse.".into())).await, PublishState::Updated);
    let body = bench.body(1);
    assert!(body.ends_with("\nSeen it, **mine**. @grace\n") && body.contains("\n\nWorse.\n"), "{body}");
    assert_eq!((&bench.issues()[0]["title"], bench.comments(1).len()), (&json!("Mail!"), 1));

    bench.hub.close_as(HOME, 1, "grace", "not_planned");
    let writes = bench.writes();
    for run in ["r3", "r4"] {
        let left = bench.send(&ticket_of(&["a"], run, |text| text.harm = "Even worse.".into())).await;
        assert_eq!((left.state, left.note.as_str()), (PublishState::LeftAlone, "a person closed #1 as not planned"));
    }
    assert_eq!(bench.writes(), writes);
    let ended = bench.publisher().tend("code-health", bench.outside.env.now()).await.unwrap().ended;
    let told: Vec<_> = ended.iter().map(|work| (work.how, work.fingerprints.join(" "))).collect();
    assert_eq!(told, [(WorkEnd::NotPlanned, "a".to_owned())]);
    assert_eq!(bench.publisher().tend("other", bench.outside.env.now()).await.unwrap().ended, []);

    // What has come since is not what the person decided about; and the YAML may say that a no is not for ever.
    assert_eq!(bench.state(&ticket(&["a", "new"], "r5")).await, PublishState::Opened);
    bench.hub.close_as(HOME, 2, "grace", "duplicate");
    let reopen = |text: &mut TicketText| text.closed_as_not_planned = Some("reopen".into());
    assert_eq!(bench.send(&ticket_of(&["a"], "r6", reopen)).await.note, "open again");
    assert_eq!(bench.issues().len(), 2);
}

#[tokio::test]
async fn an_issue_that_only_looks_like_ours_is_not_touched() {
    let bench = Bench::new();
    bench.send(&ticket(&["a"], "r1")).await;
    let copy = bench.body(1).replace("\"a\"", "\"z\"");
    bench.hub.open_issue(HOME, "mallory", "A restart loses queued mail", &copy);
    assert_eq!(bench.state(&ticket(&["z"], "r2")).await, PublishState::Opened);
    assert_eq!(bench.state(&gone(&["z"], "r3")).await, PublishState::Closed);
    let states: Vec<_> = bench.issues().iter().map(|issue| issue["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["open", "open", "closed"]);
    assert_eq!(bench.issues()[1]["body"], copy);
}

#[tokio::test]
async fn a_write_whose_end_is_not_known_is_looked_for_and_sent_once_more_at_most() {
    // (what, on which, how often it goes wrong, writes, issues that are there)
    let passing: [(&str, Fault, usize); 6] = [
        ("the connection ends after it was accepted", Fault::Lost, 1),
        ("it was accepted and answered 502", Fault::Failed(502), 1),
        ("the answer is torn", Fault::Torn(20), 1),
        ("the connection ends before it was accepted", Fault::Cut, 2),
        ("500 and nothing done", Fault::status(500), 2),
        ("a secondary limit", Fault::status(429).header("retry-after", "30"), 2),
    ];
    for (what, fault, posts) in passing {
        let bench = Bench::new();
        bench.hub.fault("POST", "/repos/*/*/issues", fault);
        let opened = bench.send(&ticket(&["a"], "r1")).await;
        assert_eq!((opened.state, opened.receipt.found), (PublishState::Opened, posts == 1), "{what}");
        assert_eq!((bench.issues().len(), bench.hub.effects("issue.create").len()), (1, 1), "{what}");
        let sent = bench.hub.requests("POST", "/repos/*/*/issues").len();
        assert_eq!(sent, posts, "{what}");
    }
    // It goes wrong again and again.
    let bench = Bench::new();
    bench.hub.fault_times("POST", "/repos/*/*/issues", Fault::Cut, 9);
    let error = bench.publisher().publish(&ticket(&["a"], "r1"), Earlier::None).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown { .. }), "{error:?}");
    assert_eq!(bench.hub.requests("POST", "/repos/*/*/issues").len(), 2);
    bench.hub.heal();
    assert_eq!(bench.state(&ticket(&["a"], "r1")).await, PublishState::Opened, "resumed, it looks and then acts");
    // Looking does not tell.
    let bench = Bench::new();
    bench.hub.fault("POST", "/repos/*/*/issues", Fault::Lost);
    bench.hub.fault_after("GET", "/repos/*/*/issues", Fault::status(500), 1, 99);
    let error = bench.publisher().publish(&ticket(&["a"], "r1"), Earlier::None).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown { .. }), "{error:?}");
    bench.hub.heal();
    assert_eq!(bench.state(&ticket(&["a"], "r1")).await, PublishState::Opened);
    assert_eq!(bench.hub.effects("issue.create").len(), 1);
}

#[tokio::test]
async fn every_write_of_a_ticket_s_life_survives_a_cut_connection() {
    /// Opened, worse, gone, back, gone.
    async fn live(bench: &Bench) -> Vec<PublishState> {
        let mut states = Vec::new();
        for proposal in [
            ticket(&["a"], "r1"),
            ticket_of(&["a"], "r2", |text| text.harm = "Worse.".into()),
            gone(&["a"], "r3"),
            ticket(&["a"], "r4"),
            gone(&["a"], "r5"),
        ] {
            states.push(bench.state(&proposal).await);
        }
        states
    }
    let undisturbed = Bench::new();
    let states = live(&undisturbed).await;
    let effects = |bench: &Bench| {
        ["issue.create", "issue.close", "issue.reopen", "comment.create"].map(|name| bench.hub.effects(name).len())
    };
    assert_eq!(effects(&undisturbed), [1, 2, 1, 3]);
    let writes = undisturbed.writes();
    assert!(writes >= 8, "{writes}");
    for n in 0..writes {
        let bench = Bench::new();
        bench.hub.lose_effect(n);
        assert_eq!(
            (live(&bench).await, effects(&bench)),
            (states.clone(), effects(&undisturbed)),
            "write {n} was lost"
        );
        assert_eq!(bench.body(1), undisturbed.body(1).replace(&undisturbed.hub.url(), &bench.hub.url()), "write {n}");
    }
}

#[tokio::test]
async fn a_crash_between_two_writes_is_made_good_by_the_same_run() {
    let bench = Bench::new();
    bench.send(&ticket(&["a"], "r1")).await;
    // The issue is closed, the word about it is not said: the process died in between.
    bench.hub.fault_times("POST", "/repos/*/*/issues/*/comments", Fault::Cut, 9);
    assert!(bench.publisher().publish(&gone(&["a"], "r2"), Earlier::None).await.is_err());
    assert_eq!((&bench.issues()[0]["state"], bench.comments(1).len()), (&json!("closed"), 0));
    bench.hub.heal();
    assert_eq!(bench.state(&gone(&["a"], "r2")).await, PublishState::Closed);
    assert_eq!(bench.comments(1).len(), 1);
    bench.hub.fault_times("POST", "/repos/*/*/issues/*/comments", Fault::Cut, 9);
    assert!(bench.publisher().publish(&ticket(&["a"], "r3"), Earlier::None).await.is_err());
    bench.hub.heal();
    assert_eq!(bench.send(&ticket(&["a"], "r3")).await.note, "open again");
    assert_eq!(bench.comments(1).len(), 2);
}

#[tokio::test]
async fn a_private_repository_s_text_stays_among_those_who_may_read_it() {
    let bench = Bench::new();
    for (name, visibility) in [("acme/public", "public"), ("acme/internal", "internal"), ("acme/private", "private")] {
        bench.hub.repository(name, visibility);
    }
    let to = |name: &str| {
        let name = name.to_owned();
        ticket_of(&["a"], "r1", move |text| text.tracker = Some(name))
    };
    let send = |home: Option<HomeRepository>, tracker: &str| {
        let (publisher, proposal) = (bench.publisher_of(home), to(tracker));
        async move { publisher.publish(&proposal, Earlier::None).await }
    };
    for tracker in ["acme/public", "acme/internal"] {
        let error = send(Some(home()), tracker).await.unwrap_err();
        assert!(
            matches!(&error, PublishError::Unsafe { help, .. } if help.contains("may_reach: [public_repositories]")),
            "{error:?}"
        );
    }
    // Nobody knows whose text it is.
    assert!(matches!(send(None, "acme/public").await, Err(PublishError::Unsafe { .. })));
    assert_eq!(bench.hub.effects("issue.create").len(), 0);
    let of = |name: &str| Some(HomeRepository { github: Some(name.into()), ..HomeRepository::default() });
    for (home, tracker) in [
        (Some(HomeRepository { may_reach: vec!["public_repositories".into()], ..home() }), "acme/public"),
        (Some(home()), "acme/private"),
        (of("acme/public"), "acme/internal"),
        (None, "acme/private"),
    ] {
        assert!(send(home.clone(), tracker).await.is_ok(), "{home:?} to {tracker}");
    }
    assert_eq!((bench.hub.issues("acme/public").len(), bench.issues().len()), (1, 0));
    assert!(matches!(
        bench.publisher_of(None).publish(&ticket(&["a"], "r1"), Earlier::None).await,
        Err(PublishError::Missing { .. })
    ));
}

#[tokio::test]
async fn statistics_are_rows_that_a_pipeline_computes_over() {
    let bench = Bench::new();
    let now = bench.outside.env.now();
    bench.hub.push(HOME, "main", &[("a.txt", Some("1"))], "first");
    bench.hub.push(HOME, "work", &[("a.txt", Some("2"))], "second");
    bench.hub.open_issue(HOME, "ada", "One", "text");
    bench.hub.open_issue(HOME, "ada", "Two", "text");
    bench.hub.close(HOME, 1, "ada");
    let source = |target: Option<&str>| {
        let mut setup = SourceSetup::new("github", bench.folder.path(), bench.outside.clone());
        setup.repository = Some(HOME.into());
        setup.target = target.map(str::to_owned);
        REGISTRY.source("github").unwrap().make.unwrap()(&setup)
    };
    let fetch = |query: Option<&'static str>, args: Value| {
        let source = source(None).unwrap();
        async move {
            let args: Map<String, Value> = args.as_object().unwrap().clone();
            source.fetch(SourceQuery { query: None, filter: query, args: &args, max_rows: 100 }).await
        }
    };
    let Rows { rows, truncated, via } = fetch(None, json!({"from": "2026-11-18", "to": "2026-11-20"})).await.unwrap();
    assert_eq!((rows.len(), truncated, via.as_str()), (3, false, "github"));
    assert_eq!(Value::Object(rows[0].clone())["day"], "2026-11-18");
    let last = Value::Object(rows[2].clone());
    let expected = json!({"day": "2026-11-20", "pulls_opened": 0, "pulls_merged": 0, "pulls_closed": 0, "issues_opened": 2,
        "issues_closed": 1, "commits": 1, "ci_failures": 0});
    assert_eq!(last, expected);
    // What may not be read is no column of zeros.
    let no_right = || Fault::status(403).saying(json!({"message": "Resource not accessible by personal access token"}));
    bench.hub.fault("GET", "/repos/*/*/actions/runs", no_right());
    let rows = fetch(Some("activity"), json!({"from": "2026-11-20"})).await.unwrap().rows;
    assert_eq!((rows.len(), rows[0].get("ci_failures")), (1, None));
    assert_eq!(fetch(None, json!({})).await.unwrap().rows.len(), 30);

    let issues = fetch(Some("issues"), json!({})).await.unwrap().rows;
    let shown: Vec<_> =
        issues.iter().map(|row| (row["number"].clone(), row["state"].clone(), row["author"].clone())).collect();
    assert_eq!(shown, [(json!(2), json!("open"), json!("ada")), (json!(1), json!("closed"), json!("ada"))]);
    assert_eq!(fetch(Some("issues"), json!({"state": "open"})).await.unwrap().rows.len(), 1);
    assert_eq!(fetch(Some("pulls"), json!({})).await.unwrap().rows, []);

    for (query, args) in
        [(Some("stars"), json!({})), (None, json!({"from": "soon"})), (Some("pulls"), json!({"state": 1}))]
    {
        assert!(matches!(fetch(query, args).await, Err(SourceError::Refused { .. })));
    }
    assert!(matches!(source(Some("../x")), Err(SourceError::Missing { .. })));
    bench.hub.revoke(TOKEN);
    assert!(matches!(fetch(None, json!({})).await, Err(SourceError::Credential { .. })));
    assert!(now <= bench.outside.env.now());
}

const PIPELINE: &str = "version: 1
name: health
summary: Files what is real, once.
limits: {max_turns: 20, max_budget_usd: 2.00}
repository: {github: acme/api, ref: main}
on: {sentry: {project: api, when: [new]}}
steps:
  - id: errors
    fetch: {from: sentry}
  - id: ranked
    intern: {task: extract, ask: \"Merge what has one cause.\", given: [errors]}
    output: {groups: [{title: string(90), harm: string(300), severity: low | high, members: [key(errors)]}]}
  - id: tickets
    each: {as: group, in: ranked.groups}
    ticket: {from: group, key: group.members, tracker: github}
  - id: news
    report: {from: [tickets], to: files}
";

/// One event of the error `name`.
fn event(folder: &Path, name: &str, at: &str) {
    let event = json!({
        "event_id": format!("{:032x}", name.len() * 1000 + at.len()), "platform": "python", "level": "error", "timestamp": at,
        "exception": {"values": [{"type": name, "value": "it broke", "stacktrace": {"frames": [
            {"function": name, "module": "shop", "filename": "shop/a.py", "lineno": 9, "in_app": true}]}}]},
    });
    std::fs::create_dir_all(folder.join("events")).unwrap();
    std::fs::write(folder.join(format!("events/{name}.json")), event.to_string()).unwrap();
}

/// Every error that it is shown has one cause.
fn merging() -> ModelServer {
    ModelServer::script(|request: &Request| {
        let text = request.all_text();
        let mut members: Vec<String> = Vec::new();
        for (at, _) in text.match_indices("\\\"key\\\":\\\"").chain(text.match_indices("\"key\":\"")) {
            let rest: String = text[at..].chars().skip_while(|c| *c != ':').filter(|c| *c != '\\').skip(2).collect();
            let key: String = rest.chars().take_while(|c| c.is_ascii_hexdigit()).collect();
            if !key.is_empty() && !members.contains(&key) {
                members.push(key);
            }
        }
        let group =
            json!({"title": "Orders are lost", "harm": "Customers pay twice.", "severity": "high", "members": members});
        Reply::json(&json!({"groups": [group]}))
    })
}

#[tokio::test]
async fn the_ledger_hears_of_a_ticket_and_of_what_people_did_with_it() {
    let model = merging();
    let hub_env = env();
    let hub = GitHub::start_at(hub_env.clock.clone());
    hub.repository(HOME, "private");
    let mut world = World::new(&model);
    world.env.clock = hub_env.clock.clone();
    std::fs::write(world.path().join("github.token"), TOKEN).unwrap();
    world.config = world.config.replace(
        "secrets: {MODEL: {file: model.key}}",
        "secrets: {MODEL: {file: model.key}, GITHUB: {file: github.token}}",
    );
    world.config.push_str(&format!(
        "effects: live\nservices:\n  github: {{api_url: \"{0}\", git_url: \"{0}\", token: secret:GITHUB}}\n\
         profiles: {{local: {{sources: {{sentry: {{files: \"events/*.json\"}}}}, sinks: {{tickets: github}}}}}}\n",
        hub.url()
    ));
    event(world.path(), "Broken", "2026-11-20T07:00:00Z");
    event(world.path(), "AlsoBroken", "2026-11-20T07:00:00Z");
    let process = world.open(|_| {});
    let run = async |key: &str| {
        let start = world.claim_as(&process, PIPELINE, key, |start| start.effects = Effects::Live).await;
        let id = start.id.clone();
        let outcome = process.run(start).await;
        (outcome.unwrap(), process.view(&id))
    };
    let lines = || -> Vec<FindingLine> {
        process.journal.reader().findings(&FindingFilter { all: true, ..FindingFilter::default() }).unwrap()
    };

    let (outcome, view) = run("1").await;
    assert_eq!(outcome, Outcome::Acted, "{view:?}");
    assert_eq!(hub.issues(HOME).len(), 1);
    let url = format!("{}/{HOME}/issues/1", hub.url());
    for line in lines() {
        assert_eq!((line.state, line.ties.len(), line.same_as.len()), (FindingState::Handled, 1, 1), "{line:?}");
        let tie = &line.ties[0];
        assert_eq!(
            (tie.kind, tie.state, &tie.url, tie.destination.as_str()),
            (TieKind::Ticket, TieState::Open, &url, "github")
        );
    }
    // Nothing is new: no model is asked.
    let asked = model.requests().len();
    assert_eq!(run("2").await.0, Outcome::NothingNew);
    assert_eq!((model.requests().len(), hub.effects("issue.create").len()), (asked, 1));

    // A person does not want it: the ledger mutes both findings, with the reason.
    hub.close_as(HOME, 1, "ada", "not_planned");
    assert_eq!(run("3").await.0, Outcome::NothingNew);
    for line in lines() {
        assert_eq!((line.state, line.ties[0].state), (FindingState::Muted, TieState::NotPlanned), "{line:?}");
        assert_eq!(line.reason, Some(format!("closed as not planned: {url}")));
        // And takes it back.
        assert!(process.journal.unmute_finding(&line.id, "cli:ada").await.unwrap());
    }
    assert_eq!(run("4").await.0, Outcome::NothingNew);
    assert!(lines().iter().all(|line| line.state == FindingState::Handled), "an old no does not count twice");

    // Closed as done, then seen again when the fix must long have been out.
    hub.reopen(HOME, 1, "ada");
    hub.close(HOME, 1, "ada");
    assert_eq!(run("5").await.0, Outcome::NothingNew);
    for line in lines() {
        let by = line.fixed_by.clone().unwrap();
        assert_eq!((line.state, by.kind, by.url), (FindingState::Fixed, TieKind::Ticket, url.clone()), "{line:?}");
    }
    event(world.path(), "Broken", "2026-11-25T07:00:00Z");
    assert_eq!(run("6").await.0, Outcome::Acted);
    assert_eq!((hub.issues(HOME).len(), &hub.issues(HOME)[0]["state"]), (1, &json!("open")), "the same ticket again");
    let back =
        lines().into_iter().find(|line| line.title.contains("Broken") && line.state == FindingState::Handled).unwrap();
    assert_eq!((back.fixed_by, back.ties[0].state), (None, TieState::Open));
    process.stop().await;
}

#[tokio::test]
async fn what_keeps_a_ticket_from_being_opened_is_said_with_its_fix() {
    let bench = Bench::new();
    let fails = |proposal: Proposal| {
        let publisher = bench.publisher();
        async move { publisher.publish(&proposal, Earlier::None).await.unwrap_err() }
    };
    bench.hub.change(HOME, |repository| repository.has_issues = false);
    assert!(matches!(fails(ticket(&["a"], "r1")).await, PublishError::Missing { .. }));
    bench.hub.change(HOME, |repository| repository.has_issues = true);
    let no_right = Fault::status(403).saying(json!({"message": "Resource not accessible by personal access token"}));
    bench.hub.fault("POST", "/repos/*/*/issues", no_right);
    assert!(matches!(fails(ticket(&["a"], "r1")).await, PublishError::Missing { .. }));
    bench.hub.fault_times("POST", "/repos/*/*/issues", Fault::status(429).header("retry-after", "3600"), 1);
    assert!(matches!(fails(ticket(&["a"], "r1")).await, PublishError::Unavailable { .. }));
    assert_eq!(bench.writes(), 2, "none is sent again");
    let bench = Bench::new();
    bench.hub.revoke(TOKEN);
    let error = bench.publisher().publish(&ticket(&["b"], "r1"), Earlier::None).await.unwrap_err();
    assert!(matches!(&error, PublishError::Credential { secret, .. } if secret == "GITHUB"), "{error:?}");
    bench.hub.accept(TOKEN, LOGIN);
    // As it is it is not sent again until a person asks for that.
    let before = bench.hub.changed();
    let error = bench.publisher().publish(&ticket(&["b"], "r1"), Earlier::None).await.unwrap_err();
    assert!(matches!(&error, PublishError::Credential { .. }) && bench.hub.changed() == before, "{error:?}");
    assert!(Credentials::of(&bench.outside.shared).lift("GITHUB"));
    assert_eq!(bench.state(&ticket(&["b"], "r1")).await, PublishState::Opened);
    // Who cannot be assigned keeps nothing from being told.
    let bench = Bench::new();
    let errors = json!({"message": "Validation Failed", "errors": [{"resource": "Issue", "field": "assignees", "code": "invalid"}]});
    bench.hub.fault("POST", "/repos/*/*/issues", Fault::status(422).saying(errors));
    let opened = bench.send(&ticket_of(&["a"], "r1", |text| text.assignees = vec!["nobody-here".into()])).await;
    assert_eq!(opened.note, "nobody is assigned: GitHub does not take nobody-here");
}

//! The executor over a real repository and journal: a proof that the host saw is published, everything else is refused whole.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::bind::{Bind as _, StandardBind};
use super::embedded::{Context, RunState};
use super::executor::Executor;
use super::workshop::{Workshop, WorkshopSetup};
use crate::base::BoxFuture;
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::scope::Scope;
use crate::domain::activity::{Activity, CodeRequest, Difference, NewTree};
use crate::domain::code::TreeId;
use crate::domain::diff::DiffRules;
use crate::domain::proof::{CaseState, Evidence, Stage, StageKind};
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published, PullRequestText};
use crate::domain::run::{Effects, RunLimits, RunStart, Trigger, TriggerKind};
use crate::domain::sandbox::{CommandReceipt, Prepared, SandboxAnswer, SandboxRequest, Workspace};
use crate::journal::{Claim, Journal, OpenOptions, StoredDefinition};
use crate::policy::suite;
use crate::ports::Registry;
use crate::ports::durable::{DurableContext as _, Stop};
use crate::ports::publisher::PublisherKind;
use crate::ports::sandbox::{Job, Sandbox, SandboxError, SandboxKind, SandboxSetup};

const PIPELINE: &str = "version: 1
name: mend
summary: Mend it.
limits: {max_turns: 5, max_budget_usd: 1.00}
repository: {path: code, ref: main}
environment: environments/api.yaml
steps:
  - id: brief
    intern: {task: summarise, ask: \"Say it.\"}
";

const SANDBOXES: &[SandboxKind] = &[SandboxKind { name: "sandboxd", summary: "reads files", make: Some(sandbox) }];

/// One that reaches others, so that preview must not even make it.
const ELSEWHERE: &[PublisherKind] = &[PublisherKind {
    name: "local_branch",
    summary: "not local at all",
    takes: &["pull_request", "ticket"],
    local: false,
    make: Some(|_| unreachable!("preview made it")),
}];

const REGISTRY: Registry = Registry {
    steps: crate::steps::ALL,
    tools: crate::tools::ALL,
    sources: crate::sources::ALL,
    sinks: crate::sinks::ALL,
    models: crate::models::ALL,
    sandboxes: SANDBOXES,
    publishers: crate::publishers::ALL,
};

fn sandbox(_: &SandboxSetup) -> Arc<dyn Sandbox> {
    Arc::new(Reads)
}

/// A suite that reads the files: the test of the sign is green where the source has no `abs`.
#[derive(Debug)]
struct Reads;

impl Sandbox for Reads {
    fn prepare<'a>(&'a self, _: &'a Job, _: &'a TreeId) -> BoxFuture<'a, Result<Prepared, SandboxError>> {
        Box::pin(async { Err(SandboxError::Failed { message: "not asked for here".into() }) })
    }

    fn run<'a>(
        &'a self,
        job: &'a Job,
        request: &'a SandboxRequest,
    ) -> BoxFuture<'a, Result<SandboxAnswer, SandboxError>> {
        Box::pin(async move {
            let folder = tempfile::tempdir().unwrap();
            job.files.write(&request.tree, folder.path()).unwrap();
            let red = std::fs::read_to_string(folder.path().join("src/lib.rs")).unwrap().contains("abs");
            let test = folder.path().join("tests/sign.rs").is_file();
            let said = "<failure message=\"SignError: the sign is lost\"/>";
            let case = format!("<testcase classname=\"t\" name=\"sign\">{}</testcase>", if red { said } else { "" });
            let (tests, failures) = (1 + i32::from(test), i32::from(test && red));
            Ok(SandboxAnswer {
                receipt: CommandReceipt {
                    command: request.command.clone(),
                    tree: request.tree.clone(),
                    exit: Some(failures),
                    signal: None,
                    stopped: None,
                    duration_ms: 7,
                    output: Hash::of(&case),
                    environment: Hash::of("environment"),
                    provider: "sandboxd".into(),
                    template: String::new(),
                    sandbox: String::new(),
                    isolation: "bubblewrap".into(),
                    gaps: Vec::new(),
                    network: "none".into(),
                    fresh: request.fresh,
                    at: Timestamp::UNIX_EPOCH,
                },
                stdout: String::new(),
                stderr: String::new(),
                junit: Some(format!(
                    "<testsuite name=\"t\" tests=\"{tests}\" failures=\"{failures}\"><testcase classname=\"t\" name=\"digits\"/>{}</testsuite>",
                    if test { &case } else { "" }
                )),
                billed_ms: 0,
            })
        })
    }

    fn release<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

fn git(folder: &Path, args: &[&str]) {
    let status = std::process::Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"])
        .args(args)
        .status()
        .unwrap();
    assert!(status.success(), "git {args:?}");
}

/// A run of `PIPELINE`, asked directly.
struct Desk {
    folder: tempfile::TempDir,
    context: Context,
    journal: Journal,
}

impl Desk {
    async fn new(registry: Registry, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("code");
        std::fs::create_dir_all(code.join("src")).unwrap();
        std::fs::write(code.join("src/lib.rs"), "pub fn parse(n: i64) -> i64 {\n    n.abs()\n}\n").unwrap();
        git(&code, &["init", "-q", "-b", "main"]);
        git(&code, &["add", "-A"]);
        git(&code, &["commit", "-q", "-m", "x"]);
        let env = Env::system();
        let journal = Journal::open(&folder.path().join("state"), OpenOptions::new(env.clone(), "build")).unwrap();
        let load = move |stored: &StoredDefinition| {
            let (pipeline, report) = crate::pipeline::parse_stored(&stored.files, &registry);
            let pipeline = pipeline.unwrap_or_else(|| panic!("{}", report.render(crate::diag::Color::Off)));
            let (settings, report) = crate::config::parse_stored(&stored.settings, &registry);
            Ok((pipeline, settings.unwrap_or_else(|| panic!("{}", report.render(crate::diag::Color::Off)))))
        };
        let out = folder.path().join("out");
        let mut bind = StandardBind::new(registry, journal.reader().clone(), env.clone(), out, Box::new(load));
        let scope = Scope::new(tokio::runtime::Handle::current());
        bind.workshop = Some(Arc::new(Workshop::new(WorkshopSetup {
            env: env.clone(),
            registry,
            folder: folder.path().join("state/work"),
            pipelines: folder.path().to_owned(),
            scope: scope.clone(),
            program: None,
            path: crate::base::env::process_variable("PATH").unwrap().into(),
        })));
        let files = [("p.yaml", PIPELINE), ("environments/api.yaml", "test: \"make test\"\n")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()));
        let settings = [(folder.path().join("nightcrew.yaml").display().to_string(), configuration.to_owned())];
        let definition = Hash::of(PIPELINE);
        journal.put_definition("mend", definition, &files, &settings).await.unwrap();
        let now = env.now();
        let start = RunStart {
            id: env.ids.run_id(now),
            pipeline: "mend".into(),
            definition,
            profile: "local".into(),
            effects: Effects::Preview,
            trigger: Trigger { kind: TriggerKind::Manual, key: "k".into(), item: None },
            params: serde_json::Map::new(),
            nominal_at: now,
            timezone: "UTC".into(),
            started_at: now,
            build_id: "build".into(),
            limits: RunLimits::default(),
            until: None,
        };
        journal.claim(Claim { start: start.clone(), slot: None, max_queued: 9 }).await.unwrap();
        let bound = bind.bind(&start).unwrap();
        let (live, _) = tokio::sync::broadcast::channel(8);
        let executor = Arc::new(Executor::new(bound, journal.clone(), env.clone(), live));
        let replay = journal.reader().replay(&start.id).unwrap();
        let token = CancellationToken::new;
        let state = RunState::new(
            start,
            env,
            journal.clone(),
            executor,
            scope,
            (token(), Arc::default()),
            token(),
            replay,
            "build",
        );
        Self { folder, context: Context::root(Rc::new(state)), journal }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, activity: Activity) -> Result<T, Stop> {
        self.context.perform("ask", activity).await?.decode()
    }

    async fn tree(&self, base: &TreeId, patch: &str) -> TreeId {
        let apply = CodeRequest::Apply { base: base.clone(), patch: patch.to_owned() };
        self.ask::<NewTree>(Activity::Code(apply)).await.unwrap().tree
    }

    async fn stage(&self, kind: StageKind, base: &TreeId, tree: &TreeId) -> Stage {
        let request = SandboxRequest {
            base: base.clone(),
            tree: tree.clone(),
            command: "make test".into(),
            fresh: true,
            wall_s: None,
            attempt: kind as u32,
        };
        let answer: SandboxAnswer = self.ask(Activity::Sandbox(request)).await.unwrap();
        let suite = suite::read(&answer.stdout, &answer.stderr, answer.junit.as_deref());
        Stage { kind, receipt: answer.receipt, suite }
    }

    /// A patch as the host proves it.
    async fn proved(&self, patch: &str) -> PullRequestText {
        let base: Workspace = self.ask(Activity::Workspace { attempt: 0 }).await.unwrap();
        let new_tree = self.tree(&base.tree, patch).await;
        let diff = CodeRequest::Diff { base: base.tree.clone(), new: new_tree.clone() };
        let patch = self.ask::<Difference>(Activity::Code(diff)).await.unwrap().patch;
        let tests = CodeRequest::Tests { base: base.tree.clone(), new: new_tree.clone() };
        let test_tree = self.ask::<NewTree>(Activity::Code(tests)).await.unwrap().tree;
        let stages = vec![
            self.stage(StageKind::Base, &base.tree, &base.tree).await,
            self.stage(StageKind::Reproduced, &base.tree, &test_tree).await,
            self.stage(StageKind::Patched, &base.tree, &new_tree).await,
        ];
        let evidence = Evidence {
            base,
            test_tree,
            new_tree: new_tree.clone(),
            patch: Hash::of(&patch),
            stages,
            reasons: vec!["SignError".into()],
            noted: Vec::new(),
        };
        PullRequestText {
            title: "Keep the sign".into(),
            cause: "It is lost.".into(),
            change: "It is kept.".into(),
            limits: Vec::new(),
            fixes: Vec::new(),
            patch,
            new_tree,
            evidence,
            rules: DiffRules { paths: vec!["src/**".into(), "tests/**".into()], ..DiffRules::default() },
            review: Vec::new(),
            labels: Vec::new(),
            reviewers: Vec::new(),
            expires_days: None,
            max_open: None,
            cost_usd: 0.0,
            models: Vec::new(),
        }
    }

    async fn publish(&self, what: Proposed) -> Result<Published, Stop> {
        let run = self.context.run();
        let proposal = Proposal {
            sink: if matches!(what, Proposed::PullRequest(_)) { "pull_requests" } else { "tickets" }.into(),
            key: "sign-error-1a2b3c4d".into(),
            fingerprints: vec!["E-1".into()],
            same: Vec::new(),
            at: run.started_at,
            effects: run.effects,
            pipeline: "mend".into(),
            definition: run.definition.to_string(),
            run: run.id.to_string(),
            what,
        };
        self.ask(Activity::Publish(Box::new(proposal))).await
    }

    fn published(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("out")).map_or(0, |entries| entries.count())
    }

    async fn refusals(&self) -> Vec<String> {
        self.journal.sync().await.unwrap();
        self.journal.reader().run(self.context.run().id.as_str()).unwrap().unwrap().refused
    }
}

const CONFIGURATION: &str = "version: 1\n";

const MENDED: &str = "--- a/src/lib.rs\n+++ b/src/lib.rs\n@@ -1,3 +1,3 @@\n pub fn parse(n: i64) -> i64 {\n-    n.abs()\n+    n\n }\n\
    --- /dev/null\n+++ b/tests/sign.rs\n@@ -0,0 +1,4 @@\n+#[test]\n+fn sign() {\n+    assert_eq!(api::parse(-3), -3);\n+}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_saw_is_published_and_a_proof_that_is_forged_is_refused_whole() {
    let desk = Desk::new(REGISTRY, CONFIGURATION).await;
    let honest = desk.proved(MENDED).await;
    // Another patch that was proved in the same run, to borrow from.
    let other = desk.proved(&MENDED.replace("+    n\n", "+    n + 0\n")).await;
    type Forge = fn(&mut PullRequestText, &PullRequestText);
    let forged: [(&str, Forge); 18] = [
        ("another tree", |pr, other| pr.new_tree = other.new_tree.clone()),
        ("another tree in the proof too", |pr, other| {
            pr.new_tree = other.new_tree.clone();
            pr.evidence.new_tree = other.new_tree.clone();
        }),
        ("another tree in every place but the patch", |pr, other| {
            pr.new_tree = other.new_tree.clone();
            pr.evidence.new_tree = other.new_tree.clone();
            pr.evidence.stages[2] = other.evidence.stages[2].clone();
        }),
        ("another patch", |pr, other| pr.patch = other.patch.clone()),
        ("another patch and its hash", |pr, other| {
            pr.patch = other.patch.clone();
            pr.evidence.patch = other.evidence.patch;
        }),
        ("a patch that does not apply", |pr, _| {
            pr.patch = pr.patch.replace("n.abs()", "n.signum()");
            pr.evidence.patch = Hash::of(&pr.patch);
        }),
        ("an exit code", |pr, _| pr.evidence.stages[1].receipt.exit = Some(2)),
        ("a test that was green on the base, said to be red", |pr, _| {
            let case = &mut pr.evidence.stages[1].suite.cases[0];
            (case.state, case.message) = (CaseState::Failed, "SignError".into());
        }),
        ("a failing test that is said to pass", |pr, _| {
            pr.evidence.stages[2].suite.cases[0].state = CaseState::Skipped;
        }),
        ("a test that never was", |pr, _| {
            let mut case = pr.evidence.stages[1].suite.cases[1].clone();
            case.name = "t::invented".into();
            pr.evidence.stages[1].suite.cases.push(case);
        }),
        ("no red stage", |pr, _| drop(pr.evidence.stages.remove(1))),
        ("a stage twice", |pr, _| {
            let stage = pr.evidence.stages[2].clone();
            pr.evidence.stages.push(stage);
        }),
        ("no stage at all", |pr, _| pr.evidence.stages.clear()),
        ("a stage on a folder that was used before", |pr, _| pr.evidence.stages[2].receipt.fresh = false),
        ("another sandbox", |pr, _| {
            pr.evidence.stages.iter_mut().for_each(|stage| stage.receipt.isolation = "a whole machine".into());
        }),
        ("another base", |pr, _| pr.evidence.base.commit = "0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
        ("the tests' tree is the base", |pr, _| {
            pr.evidence.test_tree = pr.evidence.base.tree.clone();
            pr.evidence.stages[1].receipt.tree = pr.evidence.base.tree.clone();
        }),
        ("a reason that nobody gave", |pr, _| pr.evidence.reasons = vec!["ZoneError".into()]),
    ];
    for (what, forge) in forged {
        let mut pr = honest.clone();
        forge(&mut pr, &other);
        match desk.publish(Proposed::PullRequest(Box::new(pr))).await {
            Err(Stop::Unsafe(failure)) => assert_eq!(failure.code, super::inspect::E_PROOF, "{what}: {failure}"),
            answer => panic!("{what}: {answer:?}"),
        }
        assert_eq!(desk.published(), 0, "{what}");
    }
    assert!(desk.refusals().await.len() >= 10, "every refusal is told");
    // Seen by the host of another run, never by this one's.
    let elsewhere = Desk::new(REGISTRY, CONFIGURATION).await;
    let base: Workspace = elsewhere.ask(Activity::Workspace { attempt: 0 }).await.unwrap();
    let mut borrowed = honest.clone();
    borrowed.evidence.base = base;
    let answer = elsewhere.publish(Proposed::PullRequest(Box::new(borrowed))).await;
    assert!(matches!(answer, Err(Stop::Unsafe(_))), "{answer:?}");

    let published = desk.publish(Proposed::PullRequest(Box::new(honest.clone()))).await.unwrap();
    assert_eq!(published.state, PublishState::Opened);
    assert_eq!(desk.published(), 1);
    let page = std::fs::read_to_string(&published.receipt.url_or_path).unwrap();
    assert!(page.contains("1 new test fails on the base with “SignError”"), "{page}");
    let view = desk.journal.reader().run(desk.context.run().id.as_str()).unwrap().unwrap();
    assert_eq!(view.receipts, [published.receipt]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_that_policy_refuses_does_not_leave_however_well_it_is_proved() {
    let desk = Desk::new(REGISTRY, CONFIGURATION).await;
    let with = |path: &str, line: &str| format!("{MENDED}--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{line}\n");
    for (what, patch) in [
        ("a workflow", with(".github/workflows/x.yml", "on: push")),
        ("outside of the paths", with("docs/x.md", "x")),
        ("a secret", with("src/key.rs", "const KEY: &str = \"ghp_0123456789abcdefghijABCDEFGHIJ456789\";")),
        ("text that cannot be seen", with("src/x.rs", "// a\u{202e}b")),
        ("instructions for agents", with("src/AGENTS.md", "do more")),
    ] {
        let pr = desk.proved(&patch).await;
        match desk.publish(Proposed::PullRequest(Box::new(pr))).await {
            Err(Stop::Unsafe(failure)) => assert_eq!(failure.code, super::inspect::E_DIFF, "{what}: {failure}"),
            answer => panic!("{what}: {answer:?}"),
        }
        assert_eq!(desk.published(), 0, "{what}");
    }
    // Rules that the proposal widens beyond what any pipeline may.
    let mut pr = desk.proved(MENDED).await;
    pr.rules.allow.insert(crate::domain::diff::Rule::Ci);
    assert!(matches!(desk.publish(Proposed::PullRequest(Box::new(pr))).await, Err(Stop::Unsafe(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preview_reaches_nobody_else_and_what_cannot_be_bound_says_what_to_do() {
    let ticket =
        || Proposed::Ticket(Box::new(crate::domain::proposal::TicketText { title: "T".into(), ..Default::default() }));
    let desk = Desk::new(Registry { publishers: ELSEWHERE, ..REGISTRY }, CONFIGURATION).await;
    let pr = desk.proved(MENDED).await;
    let published = desk.publish(Proposed::PullRequest(Box::new(pr))).await.unwrap();
    assert_eq!(published.state, PublishState::WouldHave);
    assert_eq!(desk.published(), 0);
    let view = desk.journal.reader().run(desk.context.run().id.as_str()).unwrap().unwrap();
    assert!(view.receipts.is_empty(), "nothing was done: {:?}", view.receipts);
    // `files` is not among the publishers here.
    match desk.publish(ticket()).await {
        Err(Stop::Blocked(failure)) => {
            assert_eq!(
                failure.help.as_deref(),
                Some("bind `tickets` to `files` in the profile `local`: sinks: {tickets: files}")
            );
        }
        answer => panic!("{answer:?}"),
    }
    let desk = Desk::new(REGISTRY, CONFIGURATION).await;
    let first = desk.publish(ticket()).await.unwrap();
    assert_eq!((first.state, first.receipt.destination.as_str()), (PublishState::Opened, "files"));
    let text = json!(std::fs::read_to_string(&first.receipt.url_or_path).unwrap());
    assert!(text.as_str().unwrap().contains("# T"));
}

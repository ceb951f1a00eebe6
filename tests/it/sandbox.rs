//! The sandbox over our own server, which it starts, and real repositories: environments, folders, results, what crashes leave, how runs
//! are kept apart.
//!
//! What belongs here: what needs commands to run. Recipes are shell only, so that nothing but git is needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nightcrew::base::clock::ManualClock;
use nightcrew::base::env::Env;
use nightcrew::base::scope::Scope;
use nightcrew::domain::code::{Edit, TreeId};
use nightcrew::domain::definition::{Environment, ServiceCommand, SetupCommand};
use nightcrew::domain::sandbox::{SandboxAnswer, SandboxRequest};
use nightcrew::isolation::Tier;
use nightcrew::ports::sandbox::{Files, Job, Listed, Places, Sandbox, SandboxError, SandboxSetup};
use nightcrew::sandboxes::e2b::{Options, Remote, SANDBOXD};
use nightcrew::workspace::Repository;

use crate::workspace::Place;

/// The trees of a repository, as the engine hands them to a sandbox.
pub struct Trees(pub Arc<Repository>);

impl Files for Trees {
    fn list(&self, tree: &TreeId) -> Result<Vec<Listed>, String> {
        let snapshot = self.0.snapshot(tree).map_err(|error| error.to_string())?;
        let entries = snapshot.entries().map_err(|error| error.to_string())?;
        Ok(entries.iter().map(|entry| Listed { path: entry.path.to_path(), content: entry.content() }).collect())
    }
    fn write(&self, tree: &TreeId, into: &Path) -> Result<(), String> {
        self.0.snapshot(tree).and_then(|snapshot| snapshot.write(into)).map_err(|error| error.to_string())
    }
    fn put(&self, tree: &TreeId, paths: &[PathBuf], folder: &Path) -> Result<(), String> {
        self.0.snapshot(tree).and_then(|snapshot| snapshot.put(paths, folder)).map_err(|error| error.to_string())
    }
}

/// A repository, and a sandbox over a folder of its own.
struct Bench {
    /// Held for its end.
    _place: Place,
    repository: Arc<Repository>,
    base: TreeId,
    clock: ManualClock,
    scope: Scope,
    folder: PathBuf,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Place::new();
        // Where the tests run as root the last tier has users of its own, who must be able to get here.
        let open = |path: &Path| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        open(place.folder.path());
        for (path, content) in files {
            place.write(path, content);
        }
        place.commit();
        let (repository, base) = place.fetched();
        let clock = ManualClock::new("2026-05-04T10:00:00Z".parse().unwrap());
        let folder = place.folder.path().join("sandboxd");
        let scope = Scope::new(tokio::runtime::Handle::current());
        Self { _place: place, repository, base, clock, scope, folder }
    }

    fn sandbox(&self, options: Options) -> Remote {
        let env = Env { clock: Arc::new(self.clock.clone()), ..Env::system() };
        let setup = SandboxSetup {
            env,
            folder: self.folder.clone(),
            scope: self.scope.clone(),
            program: Some(env!("CARGO_BIN_EXE_nightcrew").into()),
            places: Places::default(),
            watcher: None,
        };
        Remote::new(&setup, SANDBOXD, options)
    }

    fn job(&self, environment: &Environment, owner: &str) -> Job {
        Job {
            environment: Arc::new(environment.clone()),
            repository: "acme/api".into(),
            files: Arc::new(Trees(self.repository.clone())),
            owner: owner.into(),
        }
    }

    fn edit(&self, tree: &TreeId, path: &str, content: &str) -> TreeId {
        let edit = Edit::Write { path: path.into(), content: content.into() };
        self.repository.edit(tree, &[edit]).unwrap().tree
    }

    fn on(&self, tree: &TreeId, command: &str, fresh: bool) -> SandboxRequest {
        SandboxRequest {
            base: self.base.clone(),
            tree: tree.clone(),
            command: command.into(),
            fresh,
            wall_s: Some(60),
            attempt: 0,
        }
    }

    /// Names below a folder of the sandbox, without what tells locks.
    fn names(&self, below: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.join(below)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock") && name != "turn");
        names.sort();
        names
    }

    /// Everything that was started has ended, and no folder of a command is left.
    async fn close(self) {
        assert_eq!(self.scope.close(Duration::from_secs(60)).await, Vec::<String>::new());
        for own in self.names("client/own") {
            assert_eq!(self.names(&format!("client/own/{own}")), Vec::<String>::new(), "files on their way are left");
        }
        assert_eq!(self.names("own"), Vec::<String>::new(), "a server has left something");
    }
}

fn setup(run: &str, reads: &[&str]) -> SetupCommand {
    SetupCommand { run: run.into(), reads: Some(reads.iter().map(|path| (*path).to_owned()).collect()) }
}

fn said(answer: &SandboxAnswer) -> &str {
    assert!(answer.receipt.succeeded(), "{answer:?}");
    answer.stdout.trim()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_is_made_once_for_what_it_reads() {
    let bench = Bench::new(&[("needs.txt", "one\n"), ("src/code", "1\n"), ("tool.sh", "echo tool\n")]);
    let sandbox = bench.sandbox(Options::default());
    let environment = Environment {
        setup: vec![
            setup("cat needs.txt >built && echo home >$HOME/made && echo spoiled >src/code", &["needs.txt"]),
            setup("mkdir out && cp built out/again", &["needs.txt"]),
        ],
        checks: vec!["test -s out/again".into(), "cat src/code".into()],
        ..Environment::default()
    };
    let job = bench.job(&environment, "run/fix");
    let first = sandbox.prepare(&job, &bench.base).await.unwrap();
    assert!(first.built, "{first:?}");
    let commands: Vec<_> = first.receipts.iter().map(|receipt| receipt.command.clone()).collect();
    assert_eq!(commands[2..], environment.checks);
    assert!(first.receipts.iter().all(|receipt| receipt.succeeded() && receipt.network == "none"));
    assert!(first.sandbox.starts_with("sandboxd ("), "{}", first.sandbox);

    // Other code, the same needs: the same environment, found.
    let other = bench.edit(&bench.base, "src/code", "2\n");
    let found = sandbox.prepare(&job, &other).await.unwrap();
    assert_eq!((found.built, found.environment, found.receipts.len()), (false, first.environment, 2));
    // What setup left is there, what it did to files of the tree is not.
    let look = "cat built out/again $HOME/made src/code";
    let mut request = bench.on(&other, look, true);
    request.base = other.clone();
    assert_eq!(said(&sandbox.run(&job, &request).await.unwrap()), "one\none\nhome\n2");

    // Other needs: another environment.
    let needs = bench.edit(&bench.base, "needs.txt", "two\n");
    let rebuilt = sandbox.prepare(&job, &needs).await.unwrap();
    assert!(rebuilt.built && rebuilt.environment != first.environment);
    let mut request = bench.on(&needs, look, true);
    request.base = needs.clone();
    assert_eq!(said(&sandbox.run(&job, &request).await.unwrap()), "two\ntwo\nhome\n1");

    // Another repository shares nothing, though the trees are equal.
    let elsewhere = Job { repository: "acme/other".into(), ..job.clone() };
    assert!(sandbox.prepare(&elsewhere, &bench.base).await.unwrap().built);

    // One that has become too old is made anew; another process finds it.
    let aged = Environment { fresh_max_age: Some(Duration::from_secs(3600)), ..environment.clone() };
    let job = bench.job(&aged, "run/fix");
    bench.clock.advance(Duration::from_secs(3000));
    assert!(!sandbox.prepare(&job, &bench.base).await.unwrap().built);
    bench.clock.advance(Duration::from_secs(3000));
    let again = sandbox.prepare(&job, &bench.base).await.unwrap();
    assert_eq!((again.built, again.environment), (true, first.environment));
    let neighbour = bench.sandbox(Options::default());
    assert!(!neighbour.prepare(&job, &bench.base).await.unwrap().built);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_is_told_with_its_output() {
    let bench = Bench::new(&[("a", "a\n")]);
    let sandbox = bench.sandbox(Options::default());
    let prepare = async |environment: Environment| {
        let job = bench.job(&Environment { file: "environments/api.yaml".into(), ..environment }, "run");
        sandbox.prepare(&job, &bench.base).await.unwrap_err()
    };
    let error = prepare(Environment {
        setup: vec![setup("true", &[]), setup("echo out; echo no such package >&2; exit 3", &[]), setup("true", &[])],
        ..Environment::default()
    })
    .await;
    let SandboxError::Broken { what, receipt, output } = &error else { panic!("{error:?}") };
    assert_eq!((what.as_str(), receipt.exit), ("failed with exit code 3 (setup)", Some(3)));
    assert_eq!(output, "out\nno such package");
    assert_eq!(bench.names("client/templates"), Vec::<String>::new(), "nothing is kept of it");

    let error = prepare(Environment {
        setup: vec![setup("echo x >made", &[])],
        checks: vec!["test -e made".into(), "echo collected 0 tests; kill -9 $$".into(), "true".into()],
        ..Environment::default()
    })
    .await;
    let SandboxError::Broken { what, output, .. } = &error else { panic!("{error:?}") };
    assert_eq!((what.as_str(), output.as_str()), ("was ended by signal 9 (check)", "collected 0 tests"));

    // What this machine cannot give is said before anything runs.
    for (environment, message) in [
        (Environment { tools: vec!["git".into(), "no-such-tool".into()], ..Environment::default() }, "`no-such-tool`"),
        (Environment { image: Some("debian".into()), ..Environment::default() }, "`debian`"),
        (Environment { tools: vec!["../../bin/sh".into()], ..Environment::default() }, "sh`"),
    ] {
        let error = prepare(environment).await;
        let SandboxError::Missing { message: said, help } = &error else { panic!("{error:?}") };
        assert!(said.contains(message) && !help.is_empty(), "{error:?}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_folder_knows_nothing_and_a_kept_one_what_its_step_built() {
    let bench = Bench::new(&[("src/a", "a1\n"), ("src/b", "b1\n"), ("old/c", "c1\n"), ("run.sh", "echo run\n")]);
    let sandbox = bench.sandbox(Options::default());
    let environment = Environment { setup: vec![setup("echo deps >deps", &[])], ..Environment::default() };
    let job = bench.job(&environment, "run-1/fix");
    let run = async |job: &Job, tree: &TreeId, command: &str, fresh| {
        sandbox.run(job, &bench.on(tree, command, fresh)).await.unwrap()
    };
    // Without `prepare` it is prepared by itself.
    let answer =
        run(&job, &bench.base, "cat deps src/a; echo x >out; echo x >$HOME/x; echo spoiled >src/a", true).await;
    assert_eq!(said(&answer), "deps\na1");
    assert!(answer.receipt.fresh && answer.receipt.tree == bench.base);
    assert_eq!(said(&run(&job, &bench.base, "cat src/a; ls -A . $HOME", true).await).lines().next(), Some("a1"));
    assert!(!run(&job, &bench.base, "test -e out || test -e $HOME/x", true).await.receipt.succeeded());

    // A step that keeps its folder finds what it built; files of the tree are as the tree says, whatever was done to them.
    let spoil = "echo built >out; echo kept >$HOME/x; \
                 t=$(stat -c %Y src/a); echo xx >src/a; touch -d @$t src/a; chmod 755 src/b; rm old/c; rmdir old; \
                 ln -s /etc old; rm run.sh; mkdir run.sh; echo x >run.sh/x";
    assert!(run(&job, &bench.base, spoil, false).await.receipt.succeeded());
    let look = "cat src/a src/b old/c run.sh out deps $HOME/x; stat -c %a src/b; test ! -L old";
    assert_eq!(said(&run(&job, &bench.base, look, false).await), "a1\nb1\nc1\necho run\nbuilt\ndeps\nkept\n644");
    assert!(Path::new("/etc/passwd").exists() && !Path::new("/etc/c").exists());

    // Another tree: what differs is written, what is the same keeps its time, what is gone goes, what is in the way too.
    let tree = bench.edit(&bench.base, "src/a", "a2\n");
    let tree = bench.edit(&tree, "out", "now of the tree\n");
    let tree = bench.repository.edit(&tree, &[Edit::Delete { path: "old/c".into() }]).unwrap().tree;
    let before = run(&job, &bench.base, "stat -c %Y.%y src/b", false).await.stdout;
    assert_eq!(said(&run(&job, &tree, "cat src/a out deps; test ! -e old", false).await), "a2\nnow of the tree\ndeps");
    assert_eq!(run(&job, &tree, "stat -c %Y.%y src/b", false).await.stdout, before);
    assert_eq!(said(&run(&job, &tree, "cat src/a out", true).await), "a2\nnow of the tree");

    // Nobody else sees it, and it is gone with its run.
    let other = bench.job(&environment, "run-1/other");
    assert!(run(&other, &bench.base, "test ! -e out && test ! -e $HOME/x", false).await.receipt.succeeded());
    let neighbour = bench.job(&environment, "run-11/fix");
    assert!(run(&neighbour, &bench.base, "echo mine >out", false).await.receipt.succeeded());
    sandbox.release("run-1").await;
    assert!(run(&job, &bench.base, "test ! -e out && test ! -e $HOME/x", false).await.receipt.succeeded());
    assert_eq!(said(&run(&neighbour, &bench.base, "cat out", false).await), "mine");
    drop(sandbox);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tier_keeps_what_it_should_and_restores_the_rest() {
    let bench = Bench::new(&[("a", "a1\n"), ("sub/b", "b1\n")]);
    let line = "cat a >made; mkdir -p $HOME/.local/bin; printf '#!/bin/sh\necho tool\n' >$HOME/.local/bin/own-tool; \
                chmod 755 $HOME/.local/bin/own-tool; echo spoiled >sub/b; chmod 500 sub";
    let environment =
        Environment { setup: vec![setup(line, &["a"])], checks: vec!["own-tool".into()], ..Environment::default() };
    let mut hashes = std::collections::BTreeSet::new();
    for tier in Tier::ALL {
        let sandbox = bench.sandbox(Options { tier: Some(tier.name().into()), ..Options::default() });
        let job = bench.job(&environment, "run/fix");
        match sandbox.prepare(&job, &bench.base).await {
            Ok(prepared) => {
                assert_eq!(prepared.sandbox, format!("sandboxd ({tier})"));
                hashes.insert((tier.own_file_system(), prepared.environment));
            }
            Err(SandboxError::Missing { message, help }) => {
                println!("skipped: {message} ({help})");
                continue;
            }
            Err(error) => panic!("{tier}: {error:?}"),
        }
        let tree = bench.edit(&bench.base, "a", "a2\n");
        for fresh in [true, false, false] {
            let request = bench.on(&tree, "cat a made sub/b; own-tool; echo junk >sub/b; echo x >\"$JUNIT\"", fresh);
            let answer = sandbox.run(&job, &request).await.unwrap();
            assert_eq!(said(&answer), "a2\na1\nb1\ntool", "{tier}, fresh: {fresh}");
            assert_eq!((answer.junit.as_deref(), answer.receipt.isolation.as_str()), (Some("x\n"), tier.name()));
        }
    }
    // Where the places are not the same, neither is the environment.
    let own = hashes.iter().filter(|(own, _)| *own).count();
    assert!(own <= 1 && hashes.len() <= 2, "{hashes:?}");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_and_results_say_what_happened() {
    let bench = Bench::new(&[("a", "a\n")]);
    let sandbox = bench.sandbox(Options::default());
    let job = bench.job(&Environment::default(), "run/fix");
    let run = async |command: &str, wall_s| {
        let request = SandboxRequest { wall_s: Some(wall_s), ..bench.on(&bench.base, command, true) };
        sandbox.run(&job, &request).await.unwrap()
    };
    let answer = run("echo '<testsuite/>' >\"$JUNIT\"; echo out; echo err >&2; exit 4", 60).await;
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(answer.junit.as_deref(), Some("<testsuite/>\n"));
    let receipt = &answer.receipt;
    assert_eq!((receipt.exit, receipt.signal, receipt.stopped.as_deref()), (Some(4), None, None));
    assert_eq!((receipt.provider.as_str(), receipt.network.as_str()), ("sandboxd", "none"));
    let report = sandbox.report().await.unwrap().unwrap();
    assert_eq!((Some(&receipt.isolation), &receipt.gaps), (report.isolation.as_ref(), &report.gaps));
    assert!(receipt.template == "base" && receipt.sandbox.len() > 10, "{receipt:?}");
    assert_eq!(receipt.at, "2026-05-04T10:00:00Z".parse().unwrap());

    // The hash tells every byte, also of what was cut out, and each part from the others.
    let again = run("echo '<testsuite/>' >\"$JUNIT\"; echo out; echo err >&2; exit 4", 60).await;
    assert_eq!(again.receipt.output, receipt.output);
    let flood = "i=0; while [ $i -lt 30000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done";
    let one = run(&format!("{flood}; echo x; {flood}"), 60).await;
    let other = run(&format!("{flood}; echo y; {flood}"), 60).await;
    assert!(one.stdout.len() < 700_000 && one.stdout.contains("bytes left out") && one.stdout == other.stdout);
    assert_ne!(one.receipt.output, other.receipt.output);
    assert_ne!(run("echo x", 60).await.receipt.output, run("echo x >&2", 60).await.receipt.output);

    // Results that are no file, or absurdly large, are not read.
    assert_eq!(run("ln -s /etc/passwd \"$JUNIT\"", 60).await.junit, None);
    assert_eq!(run("mkfifo \"$JUNIT\"", 60).await.junit, None);
    let large = run("head -c 9000000 /dev/zero >\"$JUNIT\"", 60).await;
    assert!(large.junit.is_none() && large.stderr.contains("8 MiB"), "{}", large.stderr);
    assert_eq!(run("true", 60).await.junit, None, "nothing of the last one is left");

    let slow = run("sleep 100", 1).await;
    assert_eq!(slow.receipt.stopped.as_deref(), Some("wall"));
    assert!(!slow.receipt.succeeded());
    // Nothing of this process's environment is there. Cargo sets this one for every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let seen = run("env; cat /proc/self/environ 2>/dev/null", 60).await;
    assert!(!seen.stdout.contains("CARGO_MANIFEST_DIR") && seen.stdout.contains("CI=true"), "{}", seen.stdout);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_side_by_side_do_not_disturb_each_other() {
    let bench = Bench::new(&[("a", "a\n")]);
    let (one, two) = (bench.sandbox(Options::default()), bench.sandbox(Options::default()));
    let environment = Environment { setup: vec![setup("sleep 0.3; echo x >made", &[])], ..Environment::default() };
    let job = bench.job(&environment, "run/fix");
    // Two processes (as far as locks know) ask for one environment: one makes it, the other waits and finds it.
    let (first, second) = tokio::join!(one.prepare(&job, &bench.base), two.prepare(&job, &bench.base));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.built ^ second.built, first.environment), (true, second.environment));

    // Several commands of one step at once: each in a folder of its own, one of which is kept.
    let command = "test ! -e mine; e=$?; echo x >mine; sleep 0.2; cat made; exit $e";
    let runs = (0..4).map(|attempt| {
        let request = SandboxRequest { attempt, ..bench.on(&bench.base, command, false) };
        let (one, job) = (&one, &job);
        async move { one.run(job, &request).await.unwrap() }
    });
    for answer in futures_util::future::join_all(runs).await {
        assert_eq!(said(&answer), "x");
    }
    assert_eq!(said(&one.run(&job, &bench.on(&bench.base, "cat mine", false)).await.unwrap()), "x");

    // Who gives up waiting leaves nothing behind.
    let request = bench.on(&bench.base, "sleep 100", true);
    let gone = tokio::time::timeout(Duration::from_millis(300), one.run(&job, &request)).await;
    assert!(gone.is_err());
    let slow = Environment { setup: vec![setup("sleep 100", &[])], ..Environment::default() };
    let slow = bench.job(&slow, "run/fix");
    assert!(tokio::time::timeout(Duration::from_millis(300), one.prepare(&slow, &bench.base)).await.is_err());
    drop((one, two));
    assert_eq!(bench.scope.close(Duration::from_secs(60)).await, Vec::<String>::new());
    assert_eq!(bench.names("client/templates").len(), 1, "{:?}", bench.names("client/templates"));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_goes_at_the_next_start() {
    let bench = Bench::new(&[("a", "a\n")]);
    let environment = Environment { setup: vec![setup("echo x >made", &[])], ..Environment::default() };
    let job = bench.job(&environment, "run/fix");
    let prepared = {
        let sandbox = bench.sandbox(Options::default());
        sandbox.prepare(&job, &bench.base).await.unwrap()
    };
    // A process that died with files on their way, a record that was never finished.
    let scratch = bench.folder.join("client/own/77-0/1");
    std::fs::create_dir_all(&scratch).unwrap();
    std::fs::write(scratch.join("x"), "x").unwrap();
    std::fs::set_permissions(&scratch, std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    std::fs::write(bench.folder.join("client/own/77-0.lock"), "").unwrap();
    let record = bench.folder.join(format!("client/templates/{}.json", prepared.environment));
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();

    let sandbox = bench.sandbox(Options::default());
    assert!(sandbox.prepare(&job, &bench.base).await.unwrap().built, "half a record is none");
    assert!(!scratch.exists() && !bench.folder.join("client/own/77-0.lock").exists());
    assert_eq!(said(&sandbox.run(&job, &bench.on(&bench.base, "cat made", true)).await.unwrap()), "x");
    // A template that is taken away meanwhile is made again.
    let text = std::fs::read_to_string(&record).unwrap();
    let name = text.split("\"name\":\"").nth(1).unwrap().split('"').next().unwrap();
    std::fs::write(&record, text.replace(name, "nightcrew-gone")).unwrap();
    assert_eq!(said(&sandbox.run(&job, &bench.on(&bench.base, "cat made", true)).await.unwrap()), "x");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_of_steps_go_when_nobody_comes_back() {
    let bench = Bench::new(&[("a", "a\n")]);
    let idle = Duration::from_secs(3600);
    let sandbox = bench.sandbox(Options { kept: 2, kept_idle: idle, ..Options::default() });
    let run = async |name: &str| {
        bench.clock.advance(Duration::from_secs(60));
        let job = bench.job(&Environment::default(), name);
        let request = bench.on(&bench.base, "test -e kept && echo kept; echo x >kept", false);
        sandbox.run(&job, &request).await.unwrap().stdout
    };
    for name in ["one", "two", "three"] {
        assert_eq!(run(name).await, "");
    }
    assert_eq!((run("three").await.as_str(), run("two").await.as_str()), ("kept\n", "kept\n"));
    assert_eq!(run("one").await, "", "the longest unused one went");
    bench.clock.advance(idle + Duration::from_secs(1));
    assert_eq!(run("two").await, "", "it has become too old");
    drop(sandbox);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_up_before_the_command_and_gone_after_it() {
    let bench = Bench::new(&[("a", "a\n")]);
    let sandbox = bench.sandbox(Options::default());
    let service = |name: &str, run: &str, ready: Option<&str>| {
        (name.to_owned(), ServiceCommand { run: run.into(), ready: ready.map(str::to_owned) })
    };
    let environment = Environment {
        services: vec![
            service("store", "sleep 0.3; echo 'it'\"'\"'s up' >/tmp/store; sleep 1000", Some("test -s /tmp/store")),
            service("other", "echo $$ >/tmp/other; sleep 1000", None),
        ],
        ..Environment::default()
    };
    let job = bench.job(&environment, "run");
    let ran = sandbox.run(&job, &bench.on(&bench.base, "cat \"/tmp/store\"; exit 5", true)).await;
    match &ran {
        // The last tier alone has no loopback, and then no services.
        Err(SandboxError::Missing { .. }) if !sandbox.report().await.unwrap().unwrap().loopback => {}
        Err(error) => panic!("{error:?}"),
        Ok(answer) => {
            assert_eq!((answer.stdout.as_str(), answer.receipt.exit), ("it's up\n", Some(5)), "{answer:?}");
            assert_eq!(answer.receipt.command, "cat \"/tmp/store\"; exit 5");
            // One that goes into the background by itself.
            let forking = Environment {
                services: vec![service(
                    "store",
                    "(sleep 0.3; echo up >/tmp/x; sleep 1000) & exit 0",
                    Some("test -s /tmp/x"),
                )],
                ..Environment::default()
            };
            let ran = sandbox.run(&bench.job(&forking, "run"), &bench.on(&bench.base, "cat /tmp/x", true)).await;
            assert_eq!(said(&ran.unwrap()), "up");
            let broken = Environment {
                services: vec![service("store", "echo no disk; exit 1", Some("false"))],
                ..Environment::default()
            };
            let error =
                sandbox.run(&bench.job(&broken, "run"), &bench.on(&bench.base, "true", true)).await.unwrap_err();
            let told = error.to_string();
            assert!(told.contains("`store`") && told.contains("no disk"), "{told}");
        }
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints durations; run it with --nocapture"]
async fn copy_speed() {
    let bench = Bench::new(&[("a", "a\n")]);
    let sandbox = bench.sandbox(Options::default());
    let line = "mkdir m; cd m; i=0; while [ $i -lt 200 ]; do mkdir d$i; j=0; while [ $j -lt 100 ]; do echo 0123456789 >d$i/f$j; j=$((j+1)); done; i=$((i+1)); done";
    let job = bench.job(&Environment { setup: vec![setup(line, &[])], ..Environment::default() }, "run");
    sandbox.prepare(&job, &bench.base).await.unwrap();
    for fresh in [true, true, false, false] {
        let begun = std::time::Instant::now();
        let answer = sandbox.run(&job, &bench.on(&bench.base, "true", fresh)).await.unwrap();
        println!("fresh {fresh}: {:?}, command {} ms", begun.elapsed(), answer.receipt.duration_ms);
    }
    bench.close().await;
}

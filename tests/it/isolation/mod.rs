//! Confinement, under every tier that this machine has: what a command may do, what it may not, and that it ends.
//!
//! What belongs here: the tables of escape probes and of limits. The probes themselves are in `probes.rs`; they are this same
//! test binary, started anew inside, so that nothing but a Rust toolchain is needed. A tier that cannot be had is printed with its reason.

mod egress;
pub mod probes;
mod rooms;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nightcrew::base::scope::Scope;
use nightcrew::isolation::{
    Chunk, Command, Error, Finished, Gap, Helper, Isolation, Reach, ReadOnly, Search, Setup, Spec, Stdin, Stopped,
    Tier, Writable,
};

/// A machine with its isolation, and a directory that the sandbox must not see.
struct Bench {
    /// Held for its end.
    _directory: tempfile::TempDir,
    root: PathBuf,
    isolation: Isolation,
    scope: Scope,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The last tier gives commands a user of their own where the tests run as root: it must be able to get here.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode).unwrap();
        let root = directory.path().canonicalize().unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        let setup = Setup {
            helper: Helper::Program(env!("CARGO_BIN_EXE_nightcrew").into()),
            state: root.join("state"),
            search: Search::from_process(vec![root.clone()]),
        };
        let isolation = Isolation::begin(setup, scope.clone()).await.unwrap();
        Self { _directory: directory, root, isolation, scope }
    }

    /// The same, on a machine that reaches its network in another way.
    async fn reaching(self, reach: Reach) -> Self {
        let search = Search { reach, ..Search::from_process(vec![self.root.clone()]) };
        let helper = Helper::Program(env!("CARGO_BIN_EXE_nightcrew").into());
        let setup = Setup { helper, state: self.root.join("state"), search };
        let isolation = Isolation::begin(setup, self.scope.clone()).await.unwrap();
        Self { isolation, ..self }
    }

    /// Every tier that works here. Prints those that do not.
    fn tiers(&self) -> Vec<(Tier, Isolation)> {
        let held = |tier| match self.isolation.held_to(tier) {
            Ok(isolation) => Some((tier, isolation)),
            Err(why) => {
                assert!(!why.reason.is_empty() && !why.fix.is_empty());
                println!("skipped: {tier}: {} (fix: {})", why.reason, why.fix);
                None
            }
        };
        Tier::ALL.into_iter().filter_map(held).collect()
    }

    fn work(&self, name: &str) -> PathBuf {
        let work = self.root.join(name);
        std::fs::create_dir_all(&work).unwrap();
        work
    }

    async fn close(self) {
        assert_eq!(self.scope.close(Duration::from_secs(20)).await, Vec::<String>::new());
        let left: Vec<_> = std::fs::read_dir(self.root.join("state"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_str().unwrap().starts_with("run-"))
            .collect();
        assert!(left.is_empty(), "directories of sandboxes stay behind: {left:?}");
    }
}

/// The spec that runs one function of `probes.rs` inside.
fn probe_spec(tier: Tier, name: &str, work: &Path, facts: &BTreeMap<String, String>) -> Spec {
    let host = std::env::current_exe().unwrap().canonicalize().unwrap();
    let inside = PathBuf::from("/opt/probe");
    let program = if tier.own_file_system() { inside.clone() } else { host.clone() };
    let words = [
        program.to_str().unwrap(),
        "--exact",
        "isolation::probes::inside",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let mut spec = Spec::argv(&words, work);
    spec.read_only.push(ReadOnly { host, inside });
    spec.environment = facts.clone();
    spec.environment.insert("PROBE".into(), name.into());
    spec.limits.wall = Duration::from_secs(60);
    spec
}

fn text(finished: &Finished) -> String {
    format!("{}\n{}", finished.stdout.text(), finished.stderr.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_probe_gets_out() {
    let bench = Bench::new().await;
    let secret = bench.root.join("secret");
    std::fs::write(&secret, "canary-7c1e\n").unwrap();
    let other = bench.work("other");
    std::fs::write(other.join("file"), "canary-7c1e\n").unwrap();
    std::fs::write(other.join("program"), "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(other.join("program"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    // What must hear nothing.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = bench.root.join("socket");
    let stream = UnixListener::bind(&socket).unwrap();
    let datagram_path = bench.root.join("datagram");
    let datagram = UnixDatagram::bind(&datagram_path).unwrap();
    for path in [&socket, &datagram_path] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let name = format!("nightcrew-probe-{}", std::process::id());
    let abstract_socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    tcp.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    datagram.set_nonblocking(true).unwrap();
    abstract_socket.set_nonblocking(true).unwrap();
    let segment = probes::host_segment();

    let facts: BTreeMap<String, String> = [
        ("SECRET", secret.display().to_string()),
        ("OTHER", other.display().to_string()),
        ("STATE", bench.root.join("state").display().to_string()),
        ("TCP", tcp.local_addr().unwrap().to_string()),
        ("UDP", udp.local_addr().unwrap().to_string()),
        ("UNIX", socket.display().to_string()),
        ("DATAGRAM", datagram_path.display().to_string()),
        ("ABSTRACT", name),
        ("HOST_PID", std::process::id().to_string()),
        ("HOST_NAME", rustix::system::uname().nodename().to_str().unwrap().to_owned()),
        ("SEGMENT", segment.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();

    let mut wrong = Vec::new();
    for (tier, isolation) in bench.tiers() {
        let gaps = isolation.report().gaps;
        let work = bench.work(&format!("work-{tier}"));
        let (home, results) = (bench.work(&format!("home-{tier}")), bench.work(&format!("results-{tier}")));
        for probe in probes::ALL {
            let mut spec = probe_spec(tier, probe.name, &work, &facts);
            // With all the ways in that a caller can have.
            spec.home = Some(home.clone());
            spec.writable.push(Writable { host: results.clone(), inside: "/results".into() });
            let finished = isolation.run(spec).await.unwrap();
            let said = finished.stdout.text();
            let open = match (said.contains("PROBE open"), said.contains("PROBE blocked")) {
                (true, false) => true,
                (false, true) => false,
                _ => {
                    wrong.push(format!("{tier}: {} gave no verdict: {finished:?}", probe.name));
                    continue;
                }
            };
            let expected = probe.gap.is_some_and(|gap| gaps.contains(&gap));
            if open != expected {
                let line = said.lines().find(|line| line.contains("PROBE")).unwrap_or_default();
                wrong.push(format!(
                    "{tier}: {} is {}: {line}",
                    probe.name,
                    if open { "open" } else { "blocked, yet listed" }
                ));
            }
        }
        println!("{tier}: {} probes, {} of them known gaps", probes::ALL.len(), gaps.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    assert!(tcp.accept().is_err(), "the TCP listener heard something");
    assert!(udp.recv(&mut [0; 8]).is_err(), "the UDP socket heard something");
    assert!(stream.accept().is_err() && abstract_socket.accept().is_err(), "a Unix socket heard something");
    assert!(datagram.recv(&mut [0; 8]).is_err(), "a datagram socket heard something");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "canary-7c1e\n");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 2);
    probes::drop_segment(segment);
    bench.close().await;
}

/// How a command that goes too far must end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// One of these limits ended it.
    Limit(&'static [Stopped]),
    /// It was refused more and came to its own end.
    Refused,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_holds() {
    const MIB: u64 = 1 << 20;
    let bench = Bench::new().await;
    type Change = fn(&mut Spec);
    let cases: [(&str, Change, End); 14] = [
        ("wall_clock", |spec| spec.limits.wall = Duration::from_millis(300), End::Limit(&[Stopped::Wall])),
        ("processor", |spec| spec.limits.cpu = Duration::from_millis(400), End::Limit(&[Stopped::Cpu])),
        ("memory", |spec| spec.limits.memory_bytes = 256 * MIB, End::Limit(&[Stopped::Memory])),
        ("memory_in_many", |spec| spec.limits.memory_bytes = 256 * MIB, End::Limit(&[Stopped::Memory])),
        ("fork_bomb", |spec| spec.limits.processes = 64, End::Limit(&[Stopped::Processes])),
        ("thread_bomb", |spec| spec.limits.processes = 64, End::Limit(&[Stopped::Processes])),
        ("large_file", |spec| spec.limits.file_bytes = 4 * MIB, End::Limit(&[Stopped::FileSize])),
        ("full_disk", |spec| spec.limits.disk_bytes = 32 * MIB, End::Limit(&[Stopped::Disk])),
        ("memory_in_a_segment", |spec| spec.limits.memory_bytes = 256 * MIB, End::Limit(&[Stopped::Memory])),
        ("memory_in_a_descriptor", |spec| spec.limits.memory_bytes = 256 * MIB, End::Limit(&[Stopped::Memory])),
        ("memory_in_temporary_files", |spec| spec.limits.memory_bytes = 256 * MIB, End::Limit(&[Stopped::Memory])),
        ("disk_in_deleted_files", |spec| spec.limits.disk_bytes = 32 * MIB, End::Limit(&[Stopped::Disk])),
        ("disk_in_mapped_files", |spec| spec.limits.disk_bytes = 32 * MIB, End::Limit(&[Stopped::Disk])),
        ("many_descriptors", |spec| spec.limits.open_files = 64, End::Refused),
    ];
    for (tier, isolation) in bench.tiers() {
        for (name, change, end) in cases {
            let work = bench.work(&format!("limit-{tier}-{name}"));
            let mut spec = probe_spec(tier, name, &work, &BTreeMap::new());
            change(&mut spec);
            let finished = isolation.run(spec).await.unwrap();
            match end {
                End::Limit(limits) => {
                    // Where the kernel says no before the look does, the command sees an error instead.
                    let refused = text(&finished).contains("PROBE blocked");
                    let stopped = finished.stopped.is_some_and(|limit| limits.contains(&limit));
                    assert!(stopped || refused, "{tier}: {name}: {finished:?}");
                }
                End::Refused => assert!(text(&finished).contains("PROBE blocked"), "{tier}: {name}: {finished:?}"),
            }
            assert!(!text(&finished).contains("PROBE open"), "{tier}: {name}: {finished:?}");
        }
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_kept_in_bounds_and_counted() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let mut spec = probe_spec(tier, "huge_output", &bench.work("flood"), &BTreeMap::new());
        spec.limits.output_bytes = 10_000;
        let finished = isolation.run(spec).await.unwrap();
        assert!(finished.succeeded(), "{tier}: {finished:?}");
        assert!(finished.stdout.total_bytes >= 64 << 20, "{tier}: {}", finished.stdout.total_bytes);
        assert_eq!((finished.stdout.head.len(), finished.stdout.tail.len()), (5000, 5000));
    }
    bench.close().await;
}

/// Whether a process whose arguments contain `mark` runs on this machine.
fn runs(mark: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        let mut text = Vec::new();
        std::fs::File::open(entry.path().join("cmdline")).is_ok_and(|mut file| file.read_to_end(&mut text).is_ok())
            && String::from_utf8_lossy(&text).contains(mark)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_the_end() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let work = bench.work(&format!("survivors-{tier}"));
        // In a session of its own, twice orphaned, deaf to signals, with the outputs let go and with them held.
        let script = |mark: &str| {
            format!(
                "trap '' TERM HUP INT; \
                 (setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 0.01; done' {mark} >/dev/null 2>&1 </dev/null &) ; \
                 (setsid sh -c 'while :; do sleep 1000; done' {mark} &) ; sleep 1000 & echo ready"
            )
        };
        let mark = format!("mark-{}-{tier}-a", std::process::id());
        let finished = isolation.run(Spec::shell(script(&mark), &work)).await.unwrap();
        assert!(finished.succeeded(), "{tier}: {finished:?}");
        assert!(!runs(&mark), "{tier}: a child outlived the end of the command");

        // Ended by its handle.
        let mark = format!("mark-{}-{tier}-b", std::process::id());
        let mut running = isolation.start(Spec::shell(script(&mark) + "; sleep 1000", &work)).await.unwrap();
        assert_eq!(running.next().await, Some(Chunk::Stdout(b"ready\n".to_vec())));
        assert!(runs(&mark), "{tier}: the marked processes cannot be seen, so the test shows nothing");
        running.handle().kill();
        let finished = running.wait().await.unwrap();
        assert_eq!(finished.stopped, Some(Stopped::Caller), "{tier}: {finished:?}");
        assert!(!runs(&mark), "{tier}: a child outlived the kill");

        // Dropped: it ends as soon as it can, and the scope knows when.
        let mark = format!("mark-{}-{tier}-c", std::process::id());
        let mut running = isolation.start(Spec::shell(script(&mark) + "; sleep 1000", &work)).await.unwrap();
        assert_eq!(running.next().await, Some(Chunk::Stdout(b"ready\n".to_vec())));
        drop(running);
        while !bench.scope.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!runs(&mark), "{tier}: a child outlived the drop");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_side_by_side_do_not_meet() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let all = (0..10).map(|number| {
            let work = bench.work(&format!("side-{tier}-{number}"));
            let temporary = "test -z \"$(ls -A \"$TMPDIR\")\" && echo mine >\"$TMPDIR/file\"";
            let spec = Spec::shell(format!("{temporary} && echo {number} >file && sleep 0.2 && cat file"), work);
            isolation.run(spec)
        });
        for (number, finished) in futures_util::future::join_all(all).await.into_iter().enumerate() {
            let finished = finished.unwrap();
            assert_eq!(finished.stdout.text(), format!("{number}\n"), "{tier}: {finished:?}");
        }
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_the_death_of_the_daemon() {
    let bench = Bench::new().await;
    for (tier, _) in bench.tiers() {
        let mark = format!("mark-{}-{tier}-d", std::process::id());
        let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "isolation::a_daemon_that_will_be_killed", "--ignored", "--nocapture"])
            .envs([("MARK", mark.as_str()), ("TIER", tier.name())])
            .env("TMPDIR", bench.work("temporary"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(daemon.stdout.take().unwrap()));
        assert!(lines.any(|line| line.unwrap().contains("ready")), "{tier}: it did not start");
        assert!(runs(&mark), "{tier}: the marked process cannot be seen, so the test shows nothing");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let gone = async {
            while runs(&mark) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap_or_else(|_| panic!("{tier}: it lives on"));
    }
    bench.close().await;
}

/// Not a test: what the test above starts and kills.
#[tokio::test]
#[ignore = "killed by the test above"]
async fn a_daemon_that_will_be_killed() {
    let (Ok(mark), Ok(tier)) = (std::env::var("MARK"), std::env::var("TIER")) else { return };
    let bench = Bench::new().await;
    let (_, isolation) = bench.tiers().into_iter().find(|(found, _)| found.name() == tier).unwrap();
    let script = format!("(setsid sh -c 'while :; do sleep 1; done' {mark} &); echo ready; sleep 1000");
    let mut running = isolation.start(Spec::shell(script, bench.work("work"))).await.unwrap();
    println!("{:?}", running.next().await.map(|chunk| if let Chunk::Stdout(_) = chunk { "ready" } else { "odd" }));
    running.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_command_finds_what_it_needs() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let work = bench.work(&format!("honest-{tier}"));
        std::fs::create_dir_all(work.join("sub")).unwrap();
        std::fs::write(work.join("sub/file"), "before\n").unwrap();

        let mut spec =
            Spec::shell("cat file; pwd; echo \"$GREETING\"; cat; echo after >made; echo oops >&2; exit 3", &work);
        spec.directory = "sub".into();
        spec.environment.insert("GREETING".into(), "hello there".into());
        spec.stdin = Stdin::Bytes(b"from stdin\n".to_vec());
        let finished = isolation.run(spec).await.unwrap();
        let place = if tier.own_file_system() { "/work/sub".into() } else { work.join("sub").display().to_string() };
        assert_eq!(
            finished.stdout.text(),
            format!("before\n{place}\nhello there\nfrom stdin\n"),
            "{tier}: {finished:?}"
        );
        let ended = (finished.exit, finished.signal, finished.stopped, finished.tier, finished.stderr.text());
        assert_eq!(ended, (Some(3), None, None, tier, "oops\n".to_owned()));
        assert_eq!(std::fs::read_to_string(work.join("sub/made")).unwrap(), "after\n");

        // Temporary files, process substitution's descriptors, pipes, pairs of sockets, a child's exit code.
        let script = "set -e; t=$(mktemp); echo x >$t; test -s $t; echo y >\"$HOME/y\"; echo z >/dev/null; \
                      test \"$(head -c 4 /dev/urandom | wc -c)\" = 4; \
                      sh -c 'kill -SEGV $$' || test $? = 139; ls /usr/bin >/dev/null; git --version; exec true";
        let finished = isolation.run(Spec::shell(script, &work)).await.unwrap();
        assert!(finished.succeeded(), "{tier}: {finished:?}");

        let finished = isolation.run(Spec::shell("kill -KILL $$", &work)).await.unwrap();
        assert_eq!((finished.exit, finished.signal, finished.stopped), (None, Some(9), None), "{tier}");

        let error = isolation.run(Spec::argv(&["no-such-program"], &work)).await.unwrap_err();
        assert!(matches!(error, Error::Command { errno: Some(libc::ENOENT), .. }), "{tier}: {error:?}");
        let error = isolation.run(Spec::argv(&["true"], bench.root.join("nowhere"))).await.unwrap_err();
        assert!(matches!(error, Error::Work { .. }), "{tier}: {error:?}");

        // A loopback of its own, except in the tier that lists its absence.
        let finished = isolation.run(probe_spec(tier, "own_loopback", &work, &BTreeMap::new())).await.unwrap();
        let works = text(&finished).contains("PROBE open");
        assert_eq!(works, !isolation.report().gaps.contains(&Gap::NoLoopback), "{tier}: {finished:?}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_and_further_directories_stay_when_the_command_has_ended() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let place = bench.work(&format!("kept-{tier}"));
        let made = |name: &str| {
            let path = place.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (work, home, results) = (made("work"), made("home"), made("results"));
        let spec = |script: &str| {
            let mut spec = Spec::shell(script, &work);
            spec.home = Some(home.clone());
            spec.writable.push(Writable { host: results.clone(), inside: "/results".into() });
            let file = tier.shown_at(&results.join("r.xml"), Path::new("/results/r.xml")).display().to_string();
            spec.environment.insert("JUNIT".into(), file);
            spec
        };
        let finished = isolation.run(spec("echo one >\"$HOME/.tool\" && echo two >\"$JUNIT\"")).await.unwrap();
        assert!(finished.succeeded(), "{tier}: {finished:?}");
        let finished = isolation.run(spec("cat \"$HOME/.tool\" \"$JUNIT\"")).await.unwrap();
        assert_eq!(finished.stdout.text(), "one\ntwo\n", "{tier}: {finished:?}");
        assert_eq!(std::fs::read_to_string(home.join(".tool")).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(results.join("r.xml")).unwrap(), "two\n");
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "{tier}: nothing of it is in the work directory");

        // All of them count towards the limit on disk.
        for place in ["$HOME/large", "$JUNIT"] {
            let fill = format!(
                "i=0; while [ $i -lt 400 ]; do head -c 1000000 /dev/zero >>\"{place}\"; i=$((i+1)); sleep 0.02; done"
            );
            let mut spec = spec(&fill);
            spec.limits.disk_bytes = 8 << 20;
            let finished = isolation.run(spec).await.unwrap();
            assert_eq!(finished.stopped, Some(Stopped::Disk), "{tier}: {finished:?}");
        }
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rust_project_is_built_and_tested_inside() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        if !isolation.report().toolchains.iter().any(|found| found.name == "rust") {
            // It lies in a home that the user of the sandbox cannot enter.
            println!("skipped: {tier} has no Rust toolchain here");
            continue;
        }
        let work = bench.work(&format!("rust-{tier}"));
        std::fs::create_dir_all(work.join("src")).unwrap();
        std::fs::write(work.join("Cargo.toml"), "[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
            .unwrap();
        let source =
            "pub fn f() -> u8 { 2 }\n#[cfg(test)] mod t { #[test] fn works() { assert_eq!(super::f(), 2) } }\n";
        std::fs::write(work.join("src/lib.rs"), source).unwrap();
        let mut spec = Spec::shell("cargo test 2>&1", &work);
        spec.limits.wall = Duration::from_secs(120);
        let finished = isolation.run(spec).await.unwrap();
        let passed = finished.stdout.text().contains("test t::works ... ok");
        assert!(finished.succeeded() && passed, "{tier}: {finished:?}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_node_work_where_the_host_has_them() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let work = bench.work(&format!("scripts-{tier}"));
        let python = "import ssl, subprocess, tempfile, threading, asyncio; subprocess.check_call(['true']); \
                      t = threading.Thread(target=print, args=('from a thread',)); t.start(); t.join(); \
                      asyncio.run(asyncio.create_subprocess_exec('true')); tempfile.TemporaryFile(); open('made', 'w').write('x')";
        let python_alone = "import multiprocessing, socket; assert multiprocessing.Pool(2).map(abs, [1, -2]) == [1, 2]; \
                            s = socket.create_server(('localhost', 0)); socket.create_connection(s.getsockname())";
        let node = "const {execSync} = require('child_process'); const {Worker} = require('worker_threads'); execSync('true'); \
                    require('fs').writeFileSync('made', 'x'); new Worker('process.stdout.write(String(6 * 7))', {eval: true})";
        let mut cases = vec![("python", "python3", "-c", python), ("node", "node", "-e", node)];
        if tier.own_file_system() {
            cases.push(("python", "python3", "-c", python_alone));
        }
        let toolchains = isolation.report().toolchains;
        for (name, program, flag, script) in cases {
            if !toolchains.iter().any(|found| found.name == name) {
                println!("skipped: {tier} has no {name} here");
                continue;
            }
            let finished = isolation.run(Spec::argv(&[program, flag, script], &work)).await.unwrap();
            assert!(finished.succeeded(), "{tier}: {name}: {finished:?}");
        }
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_streams_both_ways() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let mut spec = Spec::shell(
            "trap 'echo got it; exit 7' USR1; echo ready; while read line; do echo \"<$line>\"; done",
            bench.work("talk"),
        );
        spec.stdin = Stdin::Open;
        let mut running = isolation.start(spec).await.unwrap();
        let handle = running.handle();
        assert_eq!(running.next().await, Some(Chunk::Stdout(b"ready\n".to_vec())));
        assert!(handle.write_stdin(b"one\n".to_vec()).await);
        assert_eq!(running.next().await, Some(Chunk::Stdout(b"<one>\n".to_vec())), "{tier}");
        assert!(handle.signal(libc::SIGUSR1).await);
        // A shell looks at its traps when `read` returns.
        assert!(handle.close_stdin().await);
        while running.next().await.is_some() {}
        let finished = running.wait().await.unwrap();
        assert!(matches!(finished.exit, Some(7 | 0)), "{tier}: {finished:?}");
    }
    bench.close().await;
}

/// Not a test of time: prints what the sandbox costs above the command itself, for whoever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints durations; run it with --release and --nocapture"]
async fn start_overhead() {
    let bench = Bench::new().await;
    let work = bench.work("time");
    let median = |mut all: Vec<Duration>| {
        all.sort();
        all[all.len() / 2]
    };
    let mut bare = Vec::new();
    for _ in 0..50 {
        let begun = std::time::Instant::now();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        bare.push(begun.elapsed());
    }
    let bare = median(bare);
    println!("bare: {bare:?}");
    for (tier, isolation) in bench.tiers() {
        let (mut first, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            let begun = std::time::Instant::now();
            let spec = Spec::new(Command::Argv(vec!["/bin/echo".into(), "x".into()]), &work);
            let mut running = isolation.start(spec).await.unwrap();
            assert_eq!(running.next().await, Some(Chunk::Stdout(b"x\n".to_vec())));
            first.push(begun.elapsed());
            assert!(running.wait().await.unwrap().succeeded());
            whole.push(begun.elapsed());
        }
        let least = first.iter().min().copied().unwrap_or_default();
        println!(
            "{tier}: to the first output {:?} (least {least:?}), to the end of everything {:?}",
            median(first),
            median(whole)
        );
    }
    bench.close().await;
}

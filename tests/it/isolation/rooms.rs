//! Rooms: what processes of one share, what they do not reach of another, and that all of it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nightcrew::isolation::{
    Chunk, Command, Error, Files, FilesError, Finished, Gap, Isolation, Process, ReadFrom, Room, RoomSpec, Root,
    Running, Size, Started, Stdin, Stopped,
};

use super::{Bench, probe_spec, probes, runs};

fn shell(line: &str) -> Process {
    Process::new(Command::Shell(line.into()))
}

async fn start(room: &Room, line: &str) -> Started {
    room.start(shell(line)).await.unwrap()
}

async fn run(room: &Room, line: &str) -> Finished {
    start(room, line).await.running.wait().await.unwrap()
}

/// Reads on until the output holds `word`.
async fn until(running: &mut Running, word: &str) -> String {
    let mut said = String::new();
    let reading = async {
        while !said.contains(word) {
            match running.next().await {
                Some(Chunk::Stdout(piece) | Chunk::Stderr(piece)) => said.push_str(&String::from_utf8_lossy(&piece)),
                None => panic!("it ended without {word:?}: {said:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it does not say it");
    said
}

/// Tries `line` in the room until it succeeds.
async fn until_true(room: &Room, line: &str) {
    let trying = async { while !run(room, line).await.succeeded() {} };
    tokio::time::timeout(Duration::from_secs(30), trying)
        .await
        .unwrap_or_else(|_| panic!("it does not come true: {line}"));
}

fn home(bench: &Bench, name: &str) -> PathBuf {
    bench.work(name)
}

async fn open(bench: &Bench, isolation: &Isolation, name: &str) -> Room {
    isolation.open(RoomSpec::new(home(bench, name))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_room_share_files_numbers_and_signals() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("share-{tier}")).await;
        // The number that it has inside.
        let started = start(&room, "echo $$").await;
        let pid = started.pid;
        assert_eq!(started.running.wait().await.unwrap().stdout.text(), format!("{pid}\n"), "{tier}");
        // Home and temporary directory last as long as the room, and are the ones that clients name.
        assert!(run(&room, "echo one >\"$HOME/kept\" && echo two >\"$TMPDIR/kept\"").await.succeeded());
        let mut process = shell("pwd; cat kept");
        process.directory = Some("/tmp".into());
        let finished = room.start(process).await.unwrap().running.wait().await.unwrap();
        let place = room.shown("/tmp".as_ref()).display().to_string();
        assert_eq!(finished.stdout.text(), format!("{place}\ntwo\n"), "{tier}: {finished:?}");
        assert_eq!(run(&room, "cat kept; echo $PWD").await.stdout.text(), {
            format!("one\n{}\n", room.shown(Room::HOME.as_ref()).display())
        });
        // One sees another and can signal it, and what it has left behind; the starter of all is not in the way.
        let mut sleeper = start(&room, "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done").await;
        until(&mut sleeper.running, "ready").await;
        let finished = run(&room, &format!("kill -TERM {}", sleeper.pid)).await;
        assert!(finished.succeeded(), "{tier}: {finished:?}");
        assert_eq!(sleeper.running.wait().await.unwrap().exit, Some(5), "{tier}");
        // Variables, and a directory or a program that is not there.
        let mut process = shell("echo $A$B");
        process.environment = [("B".to_owned(), "2".to_owned())].into();
        assert_eq!(room.start(process).await.unwrap().running.wait().await.unwrap().stdout.text(), "2\n");
        let mut process = shell("true");
        process.directory = Some("/home/user/nowhere".into());
        let error = room.start(process).await.unwrap_err();
        assert!(matches!(error, Error::Directory { errno: Some(libc::ENOENT), .. }), "{tier}: {error:?}");
        let error = room.start(Process::new(Command::Argv(vec!["no-such-program".into()]))).await.unwrap_err();
        assert!(matches!(error, Error::Command { errno: Some(libc::ENOENT), .. }), "{tier}: {error:?}");
        room.close().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_behind_survives_its_starter_and_not_the_room() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("behind-{tier}")).await;
        let mark = format!("mark-{}-{tier}-behind", std::process::id());
        // It holds the outputs of its starter and goes on writing to them.
        let line = format!(
            "(setsid sh -c 'i=0; while :; do i=$((i+1)); echo tick; echo $i >\"$TMPDIR/ticks\"; sleep 0.02; done' {mark} &); \
             until test -s \"$TMPDIR/ticks\"; do sleep 0.01; done; echo started"
        );
        let finished = run(&room, &line).await;
        assert!(finished.succeeded() && finished.stdout.text().contains("started"), "{tier}: {finished:?}");
        assert!(runs(&mark), "{tier}");
        let ticks = "a=$(cat \"$TMPDIR/ticks\"); sleep 0.2; b=$(cat \"$TMPDIR/ticks\"); test \"$b\" -gt \"$a\"";
        until_true(&room, ticks).await;
        if tier.own_file_system() {
            // A server that one process leaves behind and another talks to.
            let python = "import http.server,sys; http.server.HTTPServer(('127.0.0.1', 8123), http.server.SimpleHTTPRequestHandler).serve_forever()";
            assert!(run(&room, &format!("echo hello >page; python3 -c \"{python}\" & exit 0")).await.succeeded());
            let get =
                "python3 -c \"import urllib.request as u; print(u.urlopen('http://localhost:8123/page').read())\"";
            until_true(&room, get).await;
            // Once more: what it logs to its starter's output has not ended it.
            until_true(&room, get).await;
        }
        room.close().await;
        assert!(!runs(&mark), "{tier}: it outlived the room");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_ended_and_the_others_go_on() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("one-{tier}")).await;
        let mark = |what: &str| format!("mark-{}-{tier}-{what}", std::process::id());
        let (own, behind, other) = (mark("own"), mark("left"), mark("spared"));
        // With children in its session and in others.
        let line = |mark: &str, behind: &str| {
            format!(
                "sh -c 'sleep 1000; :' {mark} & setsid sh -c 'sleep 1000; :' {mark} & \
                 (sh -c 'sleep 1000; :' {behind} &); echo ready; sleep 1000; :"
            )
        };
        let mut one = start(&room, &line(&own, &behind)).await;
        let mut two = start(&room, &line(&other, &other)).await;
        until(&mut one.running, "ready").await;
        until(&mut two.running, "ready").await;
        one.running.handle().kill();
        let finished = one.running.wait().await.unwrap();
        assert_eq!((finished.stopped, finished.signal), (Some(Stopped::Caller), Some(9)), "{tier}");
        until_true(&room, &format!("! grep -aq -e {own} -e {behind} /proc/[0-9]*/cmdline 2>/dev/null || exit 0")).await;
        tokio::time::timeout(Duration::from_secs(30), async {
            while runs(&own) || runs(&behind) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{tier}: what it had started lives on"));
        assert!(runs(&other), "{tier}: another one was ended as well");
        // Its own time.
        let mut process = shell("sleep 1000");
        process.wall = Some(Duration::from_millis(200));
        let finished = room.start(process).await.unwrap().running.wait().await.unwrap();
        assert_eq!(finished.stopped, Some(Stopped::Wall), "{tier}");
        assert!(runs(&other), "{tier}: another one was ended as well");
        let handle = two.running.handle();
        assert!(handle.signal(libc::SIGTERM).await);
        assert_eq!(two.running.wait().await.unwrap().signal, Some(libc::SIGTERM), "{tier}");
        assert!(!handle.signal(libc::SIGTERM).await && !handle.write_stdin(vec![1]).await);
        room.close().await;
        assert!(!runs(&other), "{tier}: it outlived the room");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_room_ends_all_and_the_room_stays() {
    const MIB: u64 = 1 << 20;
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let mut spec = RoomSpec::new(home(&bench, &format!("limits-{tier}")));
        (spec.limits.memory_bytes, spec.limits.processes, spec.limits.disk_bytes) = (256 * MIB, 64, 32 * MIB);
        spec.limits.cpu = Duration::from_secs(1);
        let room = isolation.open(spec).await.unwrap();
        let hog = "python3 -c \"import time; x = bytearray(100 << 20); print('has it', flush=True); time.sleep(60)\"";
        let bomb = "i=0; while [ $i -lt 500 ]; do sleep 60 & i=$((i+1)); done 2>/dev/null; wait";
        let disk = "for i in 1 2 3 4; do head -c 12000000 /dev/zero >\"$HOME/f$i\"; sleep 0.3; done; sleep 60";
        for (limit, lines) in
            [(Stopped::Memory, vec![hog, hog, hog]), (Stopped::Processes, vec![bomb]), (Stopped::Disk, vec![disk])]
        {
            let bystander = start(&room, "sleep 1000").await;
            let mut all = Vec::new();
            for line in lines {
                all.push(start(&room, line).await.running.wait());
            }
            for finished in futures_util::future::join_all(all).await {
                let finished = finished.unwrap();
                // Where the kernel says no before the look does, it sees an error instead.
                let refused = limit == Stopped::Processes && finished.stopped.is_none();
                assert!(finished.stopped == Some(limit) || refused, "{tier}: {limit:?}: {finished:?}");
            }
            if limit != Stopped::Processes {
                assert_eq!(bystander.running.wait().await.unwrap().stopped, Some(limit), "{tier}");
            } else {
                // What was started stays, up to the limit, and a shell can end it without another process.
                run(&room, "kill -9 -1").await;
                bystander.running.wait().await.unwrap();
                until_true(&room, "true").await;
            }
            let finished = run(&room, "rm -f \"$HOME\"/f*; echo still here").await;
            assert_eq!(finished.stdout.text(), "still here\n", "{tier}: {limit:?}: {finished:?}");
        }
        // Processor time is for each of them.
        let mut other = start(&room, "sleep 0.1; echo ready; sleep 1000").await;
        let finished = run(&room, "while :; do :; done & while :; do :; done").await;
        assert_eq!(finished.stopped, Some(Stopped::Cpu), "{tier}: {finished:?}");
        until(&mut other.running, "ready").await;
        assert!(run(&room, "echo fine").await.cpu < Duration::from_millis(900), "{tier}");
        drop(other);
        room.close().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_processes_leave_nothing() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("many-{tier}")).await;
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        // What a process is given: its own three.
        let line = "for n in 3 4 5 6 7 8 9; do if (: <&$n) 2>/dev/null || (: >&$n) 2>/dev/null; then echo $n; fi; done; echo fine";
        let first = run(&room, line).await.stdout.text();
        let before = count();
        for number in 0..200 {
            let finished = run(&room, "echo x").await;
            assert_eq!(finished.stdout.text(), "x\n", "{tier}: {number}: {finished:?}");
        }
        // Other tests of this process have theirs meanwhile; one that leaks leaves two hundred.
        assert!(count() < before + 150, "{tier}: {before} descriptors became {}", count());
        let last = run(&room, line).await.stdout.text();
        assert_eq!((first.as_str(), last.as_str()), ("fine\n", "fine\n"), "{tier}: descriptors leak into processes");
        room.close().await;
    }
    // Nor tasks.
    while !bench.scope.is_empty() {
        tokio::task::yield_now().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_beside_others() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("talk-{tier}")).await;
        let mut talks = Vec::new();
        for _ in 0..5 {
            let mut process = shell("while read line; do echo \"<$line>\"; done; echo end");
            process.stdin = Stdin::Open;
            talks.push(room.start(process).await.unwrap().running);
        }
        for (number, talk) in talks.iter_mut().enumerate() {
            assert!(talk.handle().write_stdin(format!("{number}\n").into_bytes()).await);
            assert_eq!(until(talk, ">").await, format!("<{number}>\n"), "{tier}");
        }
        for mut talk in talks {
            // No other process holds the other end.
            assert!(talk.handle().close_stdin().await);
            until(&mut talk, "end").await;
            assert!(talk.wait().await.unwrap().succeeded(), "{tier}");
        }
        // Dropped without being closed.
        let mark = format!("mark-{}-{tier}-dropped", std::process::id());
        let started = start(&room, &format!("sh -c 'sleep 1000; :' {mark}")).await;
        drop(room);
        let finished = started.running.wait().await.unwrap();
        assert_eq!(finished.stopped, Some(Stopped::Caller), "{tier}");
        while !bench.scope.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!runs(&mark), "{tier}: it outlived the room");
    }
    bench.close().await;
}

/// The number on this machine of the process whose arguments contain `mark` and not `without`.
fn number_of(mark: &str, without: &str) -> i32 {
    let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let text = String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).ok()?).into_owned();
        (text.contains(mark) && !text.contains(without)).then_some(number)
    });
    found.unwrap_or_else(|| panic!("nobody is called {mark}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_probe_gets_from_one_room_into_another() {
    let bench = Bench::new().await;
    let segment = probes::host_segment();
    let mut wrong = Vec::new();
    for (tier, isolation) in bench.tiers() {
        let gaps = isolation.report().gaps;
        let other = open(&bench, &isolation, &format!("other-{tier}")).await;
        let mark = format!("mark-{}-{tier}-other", std::process::id());
        // The tenant of the other room: it listens wherever the tier lets it.
        let python = format!(
            "import socket, time\n\
             try:\n  t = socket.create_server(('127.0.0.1', 0)); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))\n  \
             a = socket.socket(socket.AF_UNIX); a.bind('\\0{mark}'); a.listen(); \
             s = socket.socket(socket.AF_UNIX); s.bind('stream'); s.listen(); d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('datagram')\n  \
             print(t.getsockname()[1], u.getsockname()[1], flush=True)\n\
             except PermissionError: print('1 1', flush=True)\n\
             time.sleep(1000)"
        );
        let files = "echo canary >file; printf '#!/bin/sh\\n' >program; chmod 755 program";
        assert!(run(&other, &format!("{files}; echo canary >\"$TMPDIR/{mark}\"")).await.succeeded());
        let process = Process::new(Command::Argv(vec!["python3".into(), "-c".into(), python, mark.clone()]));
        let mut tenant = other.start(process).await.unwrap();
        let ports = until(&mut tenant.running, "\n").await;
        let (tcp, udp) = ports.trim().split_once(' ').unwrap();
        let pid = number_of(&mark, "__confine");

        let probe = probe_spec(tier, "", bench.root.as_path(), &BTreeMap::new());
        let mut spec = RoomSpec::new(home(&bench, &format!("evil-{tier}")));
        spec.read_only.clone_from(&probe.read_only);
        let room = isolation.open(spec).await.unwrap();
        let neighbour = start(&room, "sleep 1000").await;
        let worker = room.files().await.unwrap();
        let home = bench.root.join(format!("other-{tier}"));
        let facts: BTreeMap<String, String> = [
            ("SECRET", home.join("file").display().to_string()),
            ("OTHER", home.display().to_string()),
            ("OTHER_TMP", other.shown("/tmp".as_ref()).display().to_string()),
            ("MARK", mark.clone()),
            ("STATE", bench.root.join("state").display().to_string()),
            ("TCP", format!("127.0.0.1:{tcp}")),
            ("UDP", format!("127.0.0.1:{udp}")),
            ("UNIX", home.join("stream").display().to_string()),
            ("DATAGRAM", home.join("datagram").display().to_string()),
            ("ABSTRACT", mark.clone()),
            ("HOST_PID", pid.to_string()),
            ("HOST_NAME", rustix::system::uname().nodename().to_str().unwrap().to_owned()),
            ("SEGMENT", segment.to_string()),
            ("WORKER", worker.pid.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for probe in probes::ALL.iter().chain(probes::IN_A_ROOM) {
            let spec = probe_spec(tier, probe.name, bench.root.as_path(), &facts);
            let mut process = Process::new(spec.command);
            process.environment = spec.environment;
            let finished = room.start(process).await.unwrap().running.wait().await.unwrap();
            let said = finished.stdout.text();
            let open = match (said.contains("PROBE open"), said.contains("PROBE blocked")) {
                (true, false) => true,
                (false, true) => false,
                _ => {
                    wrong.push(format!("{tier}: {} gave no verdict: {finished:?}", probe.name));
                    continue;
                }
            };
            if open != probe.gap.is_some_and(|gap| gaps.contains(&gap)) {
                let line = said.lines().find(|line| line.contains("PROBE")).unwrap_or_default();
                wrong.push(format!("{tier}: {}: {line}", probe.name));
            }
        }
        // Nobody was harmed.
        for mut started in [tenant, neighbour, worker] {
            let over = tokio::time::timeout(Duration::from_millis(1), started.running.next()).await;
            assert!(over.is_err(), "{tier}: {over:?}");
        }
        assert_eq!(std::fs::read_to_string(home.join("file")).unwrap(), "canary\n");
        room.close().await;
        other.close().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    probes::drop_segment(segment);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_starter_is_replaced_when_somebody_ends_it() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("starter-{tier}")).await;
        let files = Files::new(room.clone(), bench.scope.clone());
        files.make("/tmp/before").await.unwrap();
        // Everything that it may reach, the one that starts the others among it.
        let finished = run(&room, "kill -9 -1; echo alone").await;
        assert_eq!(finished.stdout.text(), "alone\n", "{tier}: {finished:?}");
        assert_eq!(run(&room, "echo again").await.stdout.text(), "again\n", "{tier}");
        // It reaches nothing of ours.
        let worker = room.files().await.unwrap();
        run(&room, "kill -STOP -1; kill -9 -1").await;
        assert_eq!(run(&room, "echo once more").await.stdout.text(), "once more\n", "{tier}");
        drop(worker);
        files.stat("/tmp/before").await.unwrap();
        drop(files);
        room.close().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_what_they_are_inside() {
    let bench = Bench::new().await;
    let secret = bench.root.join("secret");
    std::fs::write(&secret, "canary\n").unwrap();
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("files-{tier}")).await;
        let files = Files::new(room.clone(), bench.scope.clone());
        let mut writer = files.create("/home/user/a/b", BTreeMap::new()).await.unwrap();
        writer.write(b"from outside\n").await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(run(&room, "cat ~/a/b; echo inside >\"$TMPDIR/c\"").await.stdout.text(), "from outside\n", "{tier}");
        let read = async |path: &str| -> Result<Vec<u8>, FilesError> {
            let mut reader = files.open(path, ReadFrom::Start(0), None).await?;
            let mut all = Vec::new();
            while let Some(piece) = reader.next().await? {
                all.extend(piece);
            }
            Ok(all)
        };
        assert_eq!(read("/tmp/c").await.unwrap(), b"inside\n", "{tier}");
        // A link leads where it leads a process.
        let line = format!("ln -s {} ~/link; ln -s / ~/root", secret.display());
        assert!(run(&room, &line).await.succeeded());
        let through = format!("/home/user/root{}", secret.display());
        for path in ["/home/user/link", &through, secret.to_str().unwrap()] {
            let error = read(path).await.unwrap_err();
            assert!(matches!(error, FilesError::Failed(_)), "{tier}: {path}: {error}");
        }
        assert!(files.create("/usr/x", BTreeMap::new()).await.is_err(), "{tier}");
        drop(files);
        room.close().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_one() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("terminal-{tier}")).await;
        let mut process = shell("test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; exec sh");
        process.terminal = Some(Size { columns: 90, rows: 30 });
        let mut running = room.start(process).await.unwrap().running;
        let said = until(&mut running, "xterm-256color").await;
        assert!(said.starts_with("30 90\r\n"), "{tier}: {said:?}");
        let handle = running.handle();
        assert!(handle.resize(Size { columns: 100, rows: 40 }).await);
        assert!(handle.write_stdin(b"stty size\n".to_vec()).await);
        until(&mut running, "40 100").await;
        if tier.own_file_system() {
            assert!(handle.write_stdin(b"tty; echo x >/dev/tty\n".to_vec()).await);
            until(&mut running, "/dev/pts/0").await;
        }
        // The key that interrupts reaches who is in front, and not the shell.
        assert!(handle.write_stdin(b"echo wa''iting; sleep 1000\n".to_vec()).await);
        until(&mut running, "waiting").await;
        let typing = async {
            // A shell that is just starting something may miss it.
            loop {
                handle.write_stdin(b"\x03".to_vec()).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                handle.write_stdin(b"echo go''es on\n".to_vec()).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            _ = until(&mut running, "goes on") => {}
            () = typing => {}
        }
        assert!(handle.write_stdin(b"\nexit 3\n".to_vec()).await);
        let finished = running.wait().await.unwrap();
        assert_eq!(finished.exit, Some(3), "{tier}: {finished:?}");
        room.close().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_room_stands_still_and_goes_on() {
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        let room = open(&bench, &isolation, &format!("frozen-{tier}")).await;
        let line = "(while :; do echo x >>\"$HOME/ticks\"; sleep 0.01; done &) ; while :; do sh -c 'echo y >>\"$HOME/ticks\"'; done";
        let mut process = shell(line);
        process.wall = Some(Duration::from_secs(3));
        let ticking = room.start(process).await.unwrap();
        until_true(&room, "test -s \"$HOME/ticks\"").await;
        room.freeze(true).await.unwrap();
        let ticks = bench.root.join(format!("frozen-{tier}/ticks"));
        let before = std::fs::metadata(&ticks).unwrap().len();
        let error = room.start(shell("true")).await.unwrap_err();
        assert!(matches!(&error, Error::Command { .. }), "{tier}: {error:?}");
        // Longer than it may take: its time does not run.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        assert_eq!(std::fs::metadata(&ticks).unwrap().len(), before, "{tier}: something runs");
        room.freeze(false).await.unwrap();
        let grown = format!("test $(wc -c <\"$HOME/ticks\") -gt {before}");
        until_true(&room, &grown).await;
        let finished = ticking.running.wait().await.unwrap();
        assert_eq!(finished.stopped, Some(Stopped::Wall), "{tier}: {finished:?}");
        assert!(finished.duration > Duration::from_secs(6), "{tier}: {finished:?}");
        // Ended while it stands still.
        let sleeping = start(&room, "sleep 1000").await;
        room.freeze(true).await.unwrap();
        sleeping.running.handle().kill();
        assert_eq!(sleeping.running.wait().await.unwrap().stopped, Some(Stopped::Caller), "{tier}");
        room.close().await;
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_has_a_user_of_its_own_where_the_daemon_is_root() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let bench = Bench::new().await;
    for (tier, isolation) in bench.tiers() {
        if isolation.report().gaps.contains(&Gap::RootOutside) {
            println!("skipped: {tier} cannot give one here");
            continue;
        }
        let user = isolation.take_user().unwrap();
        let mut uids = std::collections::BTreeSet::new();
        for name in ["one", "two"] {
            // Where only root gets at it, for the tiers that have a way.
            let above = bench.work(&format!("{name}-{tier}"));
            let home = above.join("home");
            std::fs::create_dir_all(home.join("below")).unwrap();
            std::fs::write(home.join("below/file"), "theirs\n").unwrap();
            std::fs::set_permissions(home.join("below/file"), PermissionsExt::from_mode(0o600)).unwrap();
            if tier.own_file_system() {
                std::fs::set_permissions(&above, PermissionsExt::from_mode(0o700)).unwrap();
            }
            let mut spec = RoomSpec::new(&home);
            spec.user = (name == "one").then(|| user.clone());
            let room = isolation.open(spec).await.unwrap();
            let mark = format!("mark-{}-{tier}-user-{name}", std::process::id());
            let mut started =
                start(&room, &format!("cat below/file && echo x >made; sh -c 'sleep 1000; :' {mark}")).await;
            assert_eq!(until(&mut started.running, "\n").await, "theirs\n", "{tier}");
            // What the line before was said by may be ending still.
            let (mut uid, mut pid) = (None, 0);
            for _ in 0..1000 {
                pid = number_of(&mark, "__confine");
                uid = std::fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid());
                if uid.is_some() && home.join("made").exists() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let uid = uid.unwrap();
            assert!(uid >= 60_800, "{tier}: {uid}");
            uids.insert(uid);
            assert_eq!(std::fs::metadata(home.join("made")).unwrap().uid(), uid, "{tier}");
            assert_eq!(uid == user.uid(), name == "one", "{tier}");
            if tier.own_file_system() {
                assert_eq!(run(&room, "id -u").await.stdout.text(), "1000\n", "{tier}");
                // So is all of ours that is inside of the namespaces.
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
                assert_eq!(std::fs::metadata(format!("/proc/{parent}")).unwrap().uid(), uid, "{tier}");
            }
            room.close().await;
        }
        assert!(uids.contains(&user.uid()), "{tier}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_stands_on_a_root_file_system_of_its_own() {
    let bench = Bench::new().await;
    // A shell and what it needs, links among them as a distribution has them.
    let root = bench.work("root");
    for name in ["usr/bin", "etc", "home/other", "opt", "tmp", "proc"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
    std::fs::write(root.join("etc/release"), "another system\n").unwrap();
    let sh = std::fs::canonicalize("/bin/sh").unwrap();
    let cat = std::fs::canonicalize("/bin/cat").unwrap();
    std::fs::copy(&sh, root.join("usr/bin/sh")).unwrap();
    std::fs::copy(&cat, root.join("usr/bin/cat")).unwrap();
    for program in [&sh, &cat] {
        let needed = std::process::Command::new("ldd").arg(program).output().unwrap();
        for library in String::from_utf8_lossy(&needed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            let to = root.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(library, to).unwrap();
        }
    }
    for (tier, isolation) in bench.tiers() {
        let mut spec = RoomSpec::new(home(&bench, &format!("home-{tier}")));
        spec.root = Root::Directory(root.clone());
        if !tier.own_file_system() {
            let error = isolation.open(spec).await.unwrap_err();
            assert!(matches!(&error, Error::Spec(why) if why.contains("needs namespaces")), "{tier}: {error}");
            continue;
        }
        let room = isolation.open(spec).await.unwrap();
        let line = "cat /etc/release; echo x >~/x && echo y >/tmp/y && cat /tmp/y ~/x; (echo z >/etc/z) 2>/dev/null || echo kept; \
                    (echo z >/opt/z) 2>/dev/null || echo kept; test -e /usr/bin/env || test -e /home/other || echo alone; \
                    test -c /dev/null && test -d /proc/1 && echo fine";
        let finished = run(&room, line).await;
        assert_eq!(finished.stdout.text(), "another system\ny\nx\nkept\nkept\nalone\nfine\n", "{tier}: {finished:?}");
        let files = Files::new(room.clone(), bench.scope.clone());
        assert!(files.stat("/etc/release").await.is_ok() && files.stat("/usr/bin/env").await.is_err(), "{tier}");
        drop(files);
        room.close().await;
    }
    bench.close().await;
}

/// Not a test of time: prints what a room costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints durations; run it with --release and --nocapture"]
async fn room_overhead() {
    let bench = Bench::new().await;
    let median = |mut all: Vec<Duration>| {
        all.sort();
        (all[all.len() / 2], all[0])
    };
    let echo = || Process::new(Command::Argv(vec!["/bin/echo".into(), "x".into()]));
    for (tier, isolation) in bench.tiers() {
        let home = home(&bench, &format!("time-{tier}"));
        let (mut opened, mut first, mut closed, mut further) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..30 {
            let begun = std::time::Instant::now();
            let room = isolation.open(RoomSpec::new(&home)).await.unwrap();
            opened.push(begun.elapsed());
            let mut started = room.start(echo()).await.unwrap();
            assert_eq!(started.running.next().await, Some(Chunk::Stdout(b"x\n".to_vec())));
            first.push(begun.elapsed());
            assert!(started.running.wait().await.unwrap().succeeded());
            for _ in 0..5 {
                let begun = std::time::Instant::now();
                let mut started = room.start(echo()).await.unwrap();
                assert_eq!(started.running.next().await, Some(Chunk::Stdout(b"x\n".to_vec())));
                further.push(begun.elapsed());
                assert!(started.running.wait().await.unwrap().succeeded());
            }
            let begun = std::time::Instant::now();
            room.close().await;
            closed.push(begun.elapsed());
        }
        println!(
            "{tier} (median, least): open {:?}, to the first output {:?}, a further process {:?}, close {:?}",
            median(opened),
            median(first),
            median(further),
            median(closed)
        );
    }
    bench.close().await;
}

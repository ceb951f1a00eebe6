//! The ways out of `isolation/probes.rs`, tried by a command that came over the protocol, against the host and against another sandbox.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use nightcrew::base::env::Env;
use nightcrew::base::secret::Secret;
use nightcrew::clients::e2b::wire::{NewSandbox, ProcessConfig, StartProcess};
use nightcrew::clients::e2b::{Cloud, Endpoint, Envd, Event, Key};
use nightcrew::isolation::Tier;

use super::{Bench, KEY, until};
use crate::isolation::probes;

impl Bench {
    fn cloud(&self) -> Cloud {
        nightcrew::clients::install_tls();
        let endpoint = Endpoint {
            api_url: self.url.clone(),
            sandbox_url: Some(self.url.clone()),
            key: Key::Given(Secret::new(KEY)),
        };
        Cloud::new(endpoint, Env::system(), self.scope.clone()).unwrap()
    }
}

/// Standard output of one probe.
async fn probe(envd: &Envd, name: &str, facts: &BTreeMap<String, String>) -> String {
    let words = ["--exact", "isolation::probes::inside", "--ignored", "--nocapture", "--test-threads=1"];
    let mut process = ProcessConfig {
        cmd: "/bin/bash".into(),
        args: ["-c".to_owned(), format!("exec \"$HOME/probe\" {}", words.join(" "))].to_vec(),
        envs: facts.clone(),
        cwd: None,
    };
    process.envs.insert("PROBE".into(), name.into());
    let start = StartProcess { process, ..StartProcess::default() };
    let mut running = envd.start(&start, Some(Duration::from_secs(60))).await.unwrap();
    let mut said = Vec::new();
    while let Some(event) = running.next().await.unwrap() {
        match event {
            Event::Stdout(bytes) | Event::Stderr(bytes) | Event::Pty(bytes) => said.extend(bytes),
            Event::End(end) => said.extend(format!("\n{end:?}").into_bytes()),
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// The number on the host of the process that has `mark` as an argument.
fn host_pid_of(mark: &str) -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        words.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()).then_some(pid)
    })
}

/// Those that look at a process of the host's, named by `HOST_PID`.
const ABOUT_PROCESSES: &[&str] = &[
    "host_file_by_another_process",
    "host_processes",
    "ptrace",
    "reading_memory_of_others",
    "signals_to_the_host",
    "limits_of_others",
    "entering_a_namespace",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_probe_gets_out_of_a_sandbox_nor_into_another() {
    let mut wrong = Vec::new();
    for tier in Tier::ALL {
        let Some(bench) = Bench::held_to(tier).await else { continue };
        let outside = tempfile::tempdir().unwrap();
        std::fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let secret = outside.path().join("secret");
        std::fs::write(&secret, "canary-7c1e\n").unwrap();

        // What must hear nothing.
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (socket, datagram_path) = (outside.path().join("socket"), outside.path().join("datagram"));
        let stream = UnixListener::bind(&socket).unwrap();
        let datagram = UnixDatagram::bind(&datagram_path).unwrap();
        for path in [&socket, &datagram_path] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
        }
        let name = format!("nightcrew-sandboxd-{}-{tier}", std::process::id());
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        datagram.set_nonblocking(true).unwrap();
        hidden.set_nonblocking(true).unwrap();
        let segment = probes::host_segment();

        let cloud = bench.cloud();
        // What the server says itself that it leaves open.
        let gaps = cloud.report().await.unwrap().unwrap().gaps;
        let asked = NewSandbox { template_id: "base".into(), timeout: Some(600), ..NewSandbox::default() };
        let (victim, prober) =
            (cloud.create(&asked, "victim").await.unwrap(), cloud.create(&asked, "prober").await.unwrap());
        let (of_victim, envd) = (cloud.envd(&victim).unwrap(), cloud.envd(&prober).unwrap());
        // A neighbour with files, and a process that is at work.
        of_victim.write("other/file", b"canary-7c1e\n").await.unwrap();
        of_victim.write("other/program", b"#!/bin/sh\nexit 0\n").await.unwrap();
        let mark = format!("victim-{}-{tier}", std::process::id());
        let words = format!("chmod 755 other/program; exec bash -c 'while :; do sleep 1; done' {mark}");
        let process = ProcessConfig { cmd: "/bin/bash".into(), args: vec!["-c".into(), words], ..Default::default() };
        let victim_process = of_victim.start(&StartProcess { process, ..Default::default() }, None).await.unwrap();
        until("the neighbour's process", async || host_pid_of(&mark).is_some()).await;
        let neighbour = host_pid_of(&mark).unwrap();
        let other = find_other(&bench, &victim.sandbox_id);

        envd.write_file("probe", &std::env::current_exe().unwrap()).await.unwrap();
        let process = ProcessConfig {
            cmd: "/bin/bash".into(),
            args: vec!["-c".into(), "chmod 755 probe".into()],
            ..Default::default()
        };
        let mut made = envd.start(&StartProcess { process, ..Default::default() }, None).await.unwrap();
        while made.next().await.unwrap().is_some() {}

        let facts: BTreeMap<String, String> = [
            ("SECRET", secret.display().to_string()),
            ("OTHER", other.display().to_string()),
            ("STATE", bench.folder.display().to_string()),
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
        let mut about_neighbour = facts.clone();
        about_neighbour.insert("HOST_PID".into(), neighbour.to_string());
        about_neighbour.insert("SECRET".into(), other.join("file").display().to_string());

        let all = probes::ALL.iter().map(|probe| (probe, &facts, "the host"));
        let processes = probes::ALL.iter().filter(|probe| ABOUT_PROCESSES.contains(&probe.name));
        let mut tried = 0;
        for (one, facts, whose) in all.chain(processes.map(|probe| (probe, &about_neighbour, "a neighbour"))) {
            tried += 1;
            let said = probe(&envd, one.name, facts).await;
            let open = match (said.contains("PROBE open"), said.contains("PROBE blocked")) {
                (true, false) => true,
                (false, true) => false,
                _ => {
                    wrong.push(format!("{tier}: {} at {whose} gave no verdict: {said}", one.name));
                    continue;
                }
            };
            let expected = one.gap.is_some_and(|gap| gaps.iter().any(|line| line == gap.summary()));
            if open != expected {
                let line = said.lines().find(|line| line.contains("PROBE")).unwrap_or_default();
                wrong.push(format!(
                    "{tier}: {} at {whose} is {}: {line}",
                    one.name,
                    if open { "open" } else { "blocked, yet listed" }
                ));
            }
        }
        println!("{tier}: {tried} probes, {} known gaps", gaps.len());

        assert!(tcp.accept().is_err(), "{tier}: the TCP listener heard something");
        assert!(udp.recv(&mut [0; 8]).is_err(), "{tier}: the UDP socket heard something");
        assert!(stream.accept().is_err() && hidden.accept().is_err(), "{tier}: a Unix socket heard something");
        assert!(datagram.recv(&mut [0; 8]).is_err(), "{tier}: a datagram socket heard something");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "canary-7c1e\n");
        assert_eq!(of_victim.read("other/file", 100).await.unwrap(), b"canary-7c1e\n");
        assert_eq!(of_victim.list_dir("other", 1).await.unwrap().len(), 2);
        assert_eq!(host_pid_of(&mark), Some(neighbour), "{tier}: the neighbour's process is another");
        victim_process.leave();
        probes::drop_segment(segment);
        bench.close().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where the neighbour's folder `other` lies on the host.
fn find_other(bench: &Bench, id: &str) -> std::path::PathBuf {
    let mut folders = vec![bench.folder_of(id).unwrap()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == "other" {
                    return entry.path();
                }
                folders.push(entry.path());
            }
        }
    }
    panic!("the neighbour's files are not where its folder is");
}

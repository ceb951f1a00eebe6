//! The network of one command: what it may reach through the daemon's proxy, and that nothing else is open beside it.
//!
//! The servers are on the host's loopback, one that the command may reach and one that must hear nothing.

#![allow(unsafe_code)] // Raw system calls, to try what no library offers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightcrew::isolation::{Chunk, Command, Error, Finished, Isolation, Reach, Spec, Tier, check_egress};

use super::{Bench, probe_spec, probes, text};

/// Speaks HTTP, and after `CONNECT` whatever is said: it answers every line that is no request with the same. Keeps what it heard.
struct Server {
    at: SocketAddr,
    heard: Arc<Mutex<String>>,
}

impl Server {
    /// `away`: where a redirect leads.
    fn start(away: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { at: listener.local_addr().unwrap(), heard: Arc::default() };
        let heard = server.heard.clone();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, away) = (heard.clone(), away.clone());
                std::thread::spawn(move || drop(answer(stream.unwrap(), &heard, &away)));
            }
        });
        server
    }
}

fn answer(stream: TcpStream, heard: &Mutex<String>, away: &str) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        heard.lock().unwrap().push_str(&format!("{line}\n"));
        match line.as_str() {
            "" => return writer.shutdown(Shutdown::Both),
            line if line.starts_with("GET /away") => {
                write!(writer, "HTTP/1.1 302 Found\r\nLocation: {away}\r\nContent-Length: 0\r\n\r\n")?;
            }
            line if line.starts_with("GET ") => write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?,
            line if line.contains(": ") => {}
            line => writeln!(writer, "<{line}>")?,
        }
    }
    Ok(())
}

/// The spec that runs one function below inside.
fn inside_spec(tier: Tier, name: &str, work: &Path, facts: &BTreeMap<String, String>, egress: &[String]) -> Spec {
    let mut spec = probe_spec(tier, name, work, facts);
    if let Command::Argv(words) = &mut spec.command {
        words[2] = "isolation::egress::inside".into();
    }
    spec.egress = egress.to_vec();
    spec
}

async fn ask(isolation: &Isolation, tier: Tier, work: &Path, asks: &[&str], egress: &[String]) -> Finished {
    let facts = [("ASKS".to_owned(), asks.join("\u{1}"))].into();
    isolation.run(inside_spec(tier, "asks", work, &facts, egress)).await.unwrap()
}

/// Not a test: what the tests below start inside of a sandbox.
#[test]
#[ignore = "run inside of a sandbox, by the other tests"]
fn inside() {
    let Ok(name) = std::env::var("PROBE") else { return };
    let proxy = std::env::var("HTTPS_PROXY").unwrap();
    let proxy: SocketAddr = proxy.strip_prefix("http://").unwrap().parse().unwrap();
    match name.as_str() {
        // Each as it stands to a connection of its own; prints the answers.
        "asks" => {
            for (number, ask) in std::env::var("ASKS").unwrap().split('\u{1}').enumerate() {
                let mut stream = TcpStream::connect(proxy).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                stream.write_all(ask.as_bytes()).unwrap();
                let mut answer = Vec::new();
                drop(stream.read_to_end(&mut answer));
                println!(
                    "\nANSWER {number}: {}",
                    String::from_utf8_lossy(&answer).replace("\r\n", "|").replace('\n', "_")
                );
            }
        }
        // A socket that does not block stays one.
        "waiting" => {
            let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) };
            assert!([0, libc::EINPROGRESS].contains(&connect(socket, proxy)));
            assert!(unsafe { libc::fcntl(socket, libc::F_GETFL) } & libc::O_NONBLOCK != 0);
            assert!(connect(-1, proxy) != 0);
            println!("\nANSWER 0: connected");
        }
        "others" => others(proxy),
        other => panic!("{other}"),
    }
}

fn connect(socket: i32, to: SocketAddr) -> i32 {
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = to.port().to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
    let answer = unsafe { libc::connect(socket, (&raw const address).cast(), size_of_val(&address) as u32) };
    if answer == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
}

/// Ways to the host and the world beside the proxy. Where the command has no network of its own, what is refused must be refused by what
/// confines it and not by nobody listening.
fn others(proxy: SocketAddr) {
    let own_network = std::env::var("OWN_NETWORK").is_ok();
    let confined = |errno: i32| own_network || errno == libc::EPERM || errno == libc::EACCES;
    let mut open = Vec::new();
    let port = proxy.port();
    let other: SocketAddr = std::env::var("OTHER_SERVER").unwrap().parse().unwrap();
    for to in [
        other,
        SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), port),
        SocketAddr::new(Ipv4Addr::new(1, 1, 1, 1).into(), port),
        SocketAddr::new(Ipv4Addr::new(169, 254, 169, 254).into(), 80),
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), other.port()),
    ] {
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) };
        let errno = connect(socket, to);
        // In a network of one's own `0.0.0.0` is that network; nobody is there.
        if errno == 0 || errno == libc::EINPROGRESS && !own_network || !confined(errno) {
            open.push(format!("connect to {to}: {errno}"));
        }
    }
    // Kinds of sockets that other rules judge, or none: only in the tier without a network of its own are they a way out.
    if !own_network {
        for (name, family, kind, protocol) in [
            ("udp", libc::AF_INET, libc::SOCK_DGRAM, 0),
            ("udp6", libc::AF_INET6, libc::SOCK_DGRAM, 0),
            ("tcp6", libc::AF_INET6, libc::SOCK_STREAM, 0),
            ("mptcp", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            ("sctp", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
            ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
            ("smc", 43, libc::SOCK_STREAM, 0),
            ("unix", libc::AF_UNIX, libc::SOCK_STREAM, 0),
            ("unix datagram", libc::AF_UNIX, libc::SOCK_DGRAM, 0),
            ("netlink", libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ] {
            if unsafe { libc::socket(family, kind, protocol) } >= 0 {
                open.push(format!("a socket: {name}"));
            }
        }
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
        let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        address.sin_family = libc::AF_INET as u16;
        if unsafe { libc::bind(socket, (&raw const address).cast(), size_of_val(&address) as u32) } == 0
            || unsafe { libc::listen(socket, 1) } == 0
        {
            open.push("a listening socket".into());
        }
        address.sin_port = other.port().to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let data = b"GET / HTTP/1.1\r\n\r\n";
        let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_name, message.msg_namelen) = ((&raw mut address).cast(), size_of_val(&address) as u32);
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        for flags in [libc::MSG_FASTOPEN, 0] {
            if unsafe { libc::sendmsg(socket, &raw const message, flags | libc::MSG_NOSIGNAL) } >= 0 {
                open.push(format!("sendmsg with {flags:#x}"));
            }
        }
        // A socket that was connected for the command is not pointed elsewhere.
        assert_eq!(connect(socket, proxy), 0);
        if connect(socket, other) == 0 {
            open.push("connecting once more".into());
        }
    }
    println!("\nANSWER 0: {}", if open.is_empty() { "closed".to_owned() } else { open.join("; ") });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_reaches_what_is_named_and_nothing_else() {
    let bench = Bench::new().await;
    let other = Server::start(String::new());
    let served = Server::start(format!("http://{}/secret", other.at));
    let (here, there) = (served.at, other.at);
    let port = there.port();
    let egress = [here.to_string(), format!("named.test:{port}"), "*.below.test".into()];
    let get = |host: &str| {
        format!("GET http://{host}/path?x HTTP/1.1\r\nHost: elsewhere.test\r\nProxy-Secret: 1\r\nAccept: a/b\r\n\r\n")
    };
    let tunnel = |host: &str| format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nping\nGET / HTTP/1.1\r\n\r\n");
    // What is asked, the beginning of the answer, and what it names as refused.
    let cases: Vec<(String, &str, Option<String>)> = vec![
        (get(&here.to_string()), "HTTP/1.1 200 OK|", None),
        (tunnel(&here.to_string()), "HTTP/1.1 200 Connection established||<ping>_HTTP/1.1 200 OK|", None),
        (format!("GET http://{here}/away HTTP/1.1\r\n\r\n"), "HTTP/1.1 302 Found|", None),
        (
            get(&there.to_string()),
            "HTTP/1.1 403 nightcrew refused 127.0.0.1",
            Some(format!("{there} (not in network.setup)")),
        ),
        (tunnel(&there.to_string()), "HTTP/1.1 403", None),
        (tunnel("example.org:443"), "HTTP/1.1 403", Some("example.org:443 (not in network.setup)".into())),
        // By a name that is allowed and leads where it must not.
        (
            tunnel(&format!("named.test:{port}")),
            "HTTP/1.1 403",
            Some(format!("named.test:{port} (127.0.0.1 is not a public address)")),
        ),
        (get(&format!("named.test:{port}")), "HTTP/1.1 403", None),
        (
            tunnel("metadata.below.test:80"),
            "HTTP/1.1 403",
            Some("metadata.below.test:80 (169.254.169.254 is not a public address)".into()),
        ),
        (
            tunnel("wrapped.below.test:443"),
            "HTTP/1.1 403",
            Some("wrapped.below.test:443 (64:ff9b::7f00:1 is not a public address)".into()),
        ),
        // The same server by other spellings.
        (
            tunnel(&format!("localhost:{port}")),
            "HTTP/1.1 403",
            Some(format!("localhost:{port} (not in network.setup)")),
        ),
        (
            tunnel(&format!("[::ffff:127.0.0.1]:{port}")),
            "HTTP/1.1 403",
            Some(format!("[::ffff:127.0.0.1]:{port} (not in network.setup)")),
        ),
        (
            tunnel(&format!("2130706433:{port}")),
            "HTTP/1.1 403",
            Some("an address that cannot be read (not a host and a port)".into()),
        ),
        (tunnel(&format!("0x7f.1:{port}")), "HTTP/1.1 403", None),
        (get(&format!("{here}@{there}")), "HTTP/1.1 403", None),
        (format!("GET http://{here}\\@{there}/ HTTP/1.1\r\n\r\n"), "HTTP/1.1 403", None),
        // What is no request for a proxy of this kind.
        (format!("POST http://{here}/ HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"), "HTTP/1.1 405", None),
        (format!("GET http://{here}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "HTTP/1.1 400", None),
        (format!("GET http://{here}/ HTTP/1.1\r\nA : b\r\n\r\n"), "HTTP/1.1 400", None),
        (format!("GET https://{here}/ HTTP/1.1\r\n\r\n"), "HTTP/1.1 400", None),
        ("GET / HTTP/1.1\r\n\r\n".into(), "HTTP/1.1 400", None),
        // Only the first of two requests is served.
        (get(&here.to_string()) + &format!("GET http://{there}/ HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK|", None),
        // And what is no request at all.
        ("\r\n\r\n".into(), "", None),
        (format!("GET http://{here}/ HTTP/1.1\nHost: x\n\n\r\n\r\n"), "", None),
        ("x".repeat(100 << 10), "", None),
    ];
    let addresses: BTreeMap<String, Vec<IpAddr>> = [
        // The second answer is what a name is bound to anew; none of them is taken.
        ("named.test", vec!["127.0.0.1", "10.0.0.1"]),
        ("metadata.below.test", vec!["169.254.169.254"]),
        ("wrapped.below.test", vec!["64:ff9b::7f00:1", "::ffff:127.0.0.1"]),
    ]
    .map(|(name, all)| (name.to_owned(), all.iter().map(|address| address.parse().unwrap()).collect()))
    .into();
    let bench = bench.reaching(Reach { addresses, ..Reach::default() }).await;
    for (tier, isolation) in bench.tiers() {
        served.heard.lock().unwrap().clear();
        let work = bench.work(&format!("egress-{tier}"));
        let asks: Vec<_> = cases.iter().map(|(ask, ..)| ask.as_str()).collect();
        let finished = ask(&isolation, tier, &work, &asks, &egress).await;
        let said = finished.stdout.text();
        for (number, (ask, expected, _)) in cases.iter().enumerate() {
            let answer = said.lines().find_map(|line| line.strip_prefix(&format!("ANSWER {number}: ")));
            let answer = answer.unwrap_or_else(|| panic!("{tier}: {number}: {}", text(&finished)));
            let matches = if expected.is_empty() { answer.is_empty() } else { answer.starts_with(expected) };
            assert!(matches, "{tier}: {:?} was answered {answer:?}", &ask[..ask.len().min(80)]);
        }
        let mut refused: Vec<_> = cases.iter().filter_map(|(.., refused)| refused.clone()).collect();
        refused.sort();
        assert_eq!(finished.refused, refused, "{tier}");
        let heard = served.heard.lock().unwrap().clone();
        // The server is asked as the host that was judged, and not told what is for the proxy.
        assert!(
            heard.starts_with(&format!("GET /path?x HTTP/1.1\nHost: {here}\nConnection: close\nAccept: a/b\n")),
            "{heard}"
        );
        assert!(!heard.contains("elsewhere") && !heard.contains("Proxy-"), "{heard}");
        assert_eq!(*other.heard.lock().unwrap(), "", "{tier}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_open_beside_the_proxy() {
    let bench = Bench::new().await;
    let (served, other) = (Server::start(String::new()), Server::start(String::new()));
    let egress = [served.at.to_string()];
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    let (socket, datagram_path) = (bench.root.join("socket"), bench.root.join("datagram"));
    let stream = UnixListener::bind(&socket).unwrap();
    let datagram = UnixDatagram::bind(&datagram_path).unwrap();
    for path in [&socket, &datagram_path] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let name = format!("nightcrew-egress-{}", std::process::id());
    let abstract_socket =
        UnixListener::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    datagram.set_nonblocking(true).unwrap();
    abstract_socket.set_nonblocking(true).unwrap();
    let facts: BTreeMap<String, String> = [
        ("TCP", other.at.to_string()),
        ("UDP", udp.local_addr().unwrap().to_string()),
        ("UNIX", socket.display().to_string()),
        ("DATAGRAM", datagram_path.display().to_string()),
        ("ABSTRACT", name),
        ("OTHER_SERVER", other.at.to_string()),
        ("HOST_PID", std::process::id().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let network = [
        "tcp_",
        "udp_",
        "dns",
        "metadata_",
        "unix_",
        "vsock",
        "packet_",
        "descriptors_",
        "ptrace",
        "io_uring",
        "memory_of",
    ];
    for (tier, isolation) in bench.tiers() {
        let work = bench.work(&format!("beside-{tier}"));
        let mut tried = 0;
        for probe in probes::ALL.iter().filter(|probe| network.iter().any(|name| probe.name.starts_with(name))) {
            let mut spec = probe_spec(tier, probe.name, &work, &facts);
            spec.egress = egress.to_vec();
            let finished = isolation.run(spec).await.unwrap();
            assert!(text(&finished).contains("PROBE blocked"), "{tier}: {}: {}", probe.name, text(&finished));
            tried += 1;
        }
        assert!(tried >= 12, "{tried}");
        let mut facts = facts.clone();
        facts.extend(tier.own_file_system().then(|| ("OWN_NETWORK".to_owned(), "1".to_owned())));
        let finished = isolation.run(inside_spec(tier, "others", &work, &facts, &egress)).await.unwrap();
        assert!(text(&finished).contains("ANSWER 0: closed\n"), "{tier}: {}", text(&finished));
        let finished = isolation.run(inside_spec(tier, "waiting", &work, &facts, &egress)).await.unwrap();
        assert!(text(&finished).contains("ANSWER 0: connected\n"), "{tier}: {}", text(&finished));
        // In the tier whose proxy is on the host's loopback nobody else is served.
        if !tier.own_file_system() {
            let mut spec = Spec::shell("echo $HTTP_PROXY; exec sleep 60", &work);
            spec.egress = egress.to_vec();
            let mut running = isolation.start(spec).await.unwrap();
            let Some(Chunk::Stdout(proxy)) = running.next().await else { panic!("it does not say where the proxy is") };
            let proxy = String::from_utf8(proxy).unwrap();
            let proxy: SocketAddr = proxy.trim().strip_prefix("http://").unwrap().parse().unwrap();
            let allowed = served.at;
            let answered = tokio::task::spawn_blocking(move || {
                let mut stream = TcpStream::connect(proxy).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                stream
                    .write_all(format!("GET http://{}/ HTTP/1.1\r\nHost: x.test\r\n\r\n", allowed).as_bytes())
                    .unwrap();
                let mut answer = Vec::new();
                drop(stream.read_to_end(&mut answer));
                answer
            });
            assert_eq!(answered.await.unwrap(), b"", "a stranger was served");
            running.handle().kill();
            running.wait().await.unwrap();
        }
        // Without a word about hosts there is no proxy, nor a variable that speaks of one.
        let finished = isolation.run(Spec::shell("env | grep -i proxy", &work)).await.unwrap();
        assert_eq!((finished.exit, finished.stdout.text().as_str()), (Some(1), ""), "{tier}");
    }
    assert_eq!(*other.heard.lock().unwrap(), "");
    assert!(udp.recv(&mut [0; 8]).is_err() && datagram.recv(&mut [0; 8]).is_err());
    assert!(stream.accept().is_err() && abstract_socket.accept().is_err());
    drop(UnixStream::connect(&socket).unwrap());
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machines_own_proxy_and_certificates_are_used() {
    // A proxy that answers everything itself, and writes down what it was asked.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listening = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            listening.lock().unwrap().extend(lines.by_ref().take_while(|line| !line.is_empty()));
            drop(stream.write_all(b"HTTP/1.1 200 fine\r\n\r\nfrom the proxy"));
            drop(stream.shutdown(Shutdown::Write));
            listening.lock().unwrap().extend(lines);
        }
    });
    let bench = Bench::new().await;
    let authority = bench.root.join("authority.pem");
    std::fs::write(&authority, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let variables = [
        ("HTTPS_PROXY".to_owned(), format!("http://me:s3cret@{at}")),
        ("HTTP_PROXY".to_owned(), format!("http://{at}")),
        ("SSL_CERT_FILE".to_owned(), authority.display().to_string()),
        ("PIP_INDEX_URL".to_owned(), "https://mirror.test/simple".to_owned()),
    ];
    let cargo = bench.root.join("config.toml");
    let mirror = "[source.crates-io]\nreplace-with = \"x\"\n[source.x]\nregistry = \"sparse+https://crates.test/\"\n";
    std::fs::write(&cargo, mirror).unwrap();
    let bench = bench.reaching(Reach { variables: variables.into(), cargo: vec![cargo], ..Reach::default() }).await;
    for (tier, isolation) in bench.tiers() {
        heard.lock().unwrap().clear();
        let work = bench.work(&format!("chain-{tier}"));
        let asks = [
            "CONNECT mirror.test:443 HTTP/1.1\r\n\r\n",
            // What stands behind it is for nobody: this machine's proxy would serve it.
            "GET http://allowed.test/x HTTP/1.1\r\n\r\nGET http://other.test/y HTTP/1.1\r\n\r\n",
            "CONNECT other.test:443 HTTP/1.1\r\n\r\n",
        ];
        let egress = ["pypi".to_owned(), "allowed.test".to_owned()];
        let finished = ask(&isolation, tier, &work, &asks, &egress).await;
        let said = finished.stdout.text();
        assert!(said.contains("ANSWER 0: HTTP/1.1 200 Connection established||from the proxy"), "{tier}: {said}");
        assert!(said.contains("ANSWER 1: HTTP/1.1 200 fine||from the proxy"), "{tier}: {said}");
        assert_eq!(finished.refused, ["other.test:443 (not in network.setup)"]);
        let lines = heard.lock().unwrap().clone();
        let expected = [
            "CONNECT mirror.test:443 HTTP/1.1",
            "Host: mirror.test:443",
            "Proxy-Authorization: Basic bWU6czNjcmV0",
            "GET http://allowed.test/x HTTP/1.1",
            "Host: allowed.test",
            "Connection: close",
        ];
        assert_eq!(lines, expected, "{tier}");

        let mut spec = Spec::shell(
            "env; cat \"$SSL_CERT_FILE\" && cat \"$CARGO_HOME/config.toml\" && touch \"$CARGO_HOME/x\" && echo fine",
            &work,
        );
        spec.egress = egress.iter().cloned().chain(["crates".to_owned()]).collect();
        let said = text(&isolation.run(spec).await.unwrap());
        assert!(
            said.contains("BEGIN CERTIFICATE") && said.contains("PIP_INDEX_URL=https://mirror.test/simple"),
            "{said}"
        );
        assert!(said.contains("registry = \"sparse+https://crates.test/\"\nfine\n"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_is_said_before_anything_runs() {
    let variables = [("PIP_INDEX_URL".to_owned(), "https://me:s3cret@mirror.test/simple".to_owned())];
    let bench = Bench::new().await.reaching(Reach { variables: variables.into(), ..Reach::default() }).await;
    let Some((_, isolation)) = bench.tiers().into_iter().next() else { return bench.close().await };
    for (entry, says) in
        [("pipy", "no known registry"), ("pypi", "holds a user or a password"), ("127.0.0.1", "name the port")]
    {
        let mut spec = Spec::shell("echo ran", bench.work("early"));
        spec.egress = vec![entry.into()];
        let error = isolation.run(spec).await.unwrap_err();
        assert!(matches!(&error, Error::Egress(why) if why.contains(says) && !why.contains("s3cret")), "{error}");
    }
    assert!(check_egress(&["pypi".into(), "*.example.com".into(), "example.com:8443".into()]).is_ok());
    bench.close().await;
}

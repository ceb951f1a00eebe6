//! Which hosts may be reached: names of registries, hosts, ports. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::address::{Place, place};

/// A package registry by its short name.
pub(super) struct Registry {
    pub name: &'static str,
    /// Where everybody finds it.
    pub hosts: &'static [&'static str],
    /// Variables by which a machine says that it finds it elsewhere.
    pub indexes: &'static [&'static str],
    /// Further variables of its clients that a machine may need, and that hold no address.
    pub settings: &'static [&'static str],
}

/// The only place of this crate that names hosts of registries: who writes `pypi` should not have to know them.
pub(super) const REGISTRIES: &[Registry] = &[
    Registry {
        name: "pypi",
        hosts: &["pypi.org", "files.pythonhosted.org"],
        indexes: &[
            "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL",
            "UV_DEFAULT_INDEX",
            "UV_INDEX",
            "UV_INDEX_URL",
            "UV_EXTRA_INDEX_URL",
        ],
        settings: &["PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "PIP_TRUSTED_HOST", "UV_HTTP_TIMEOUT"],
    },
    Registry {
        name: "crates",
        hosts: &["index.crates.io", "static.crates.io", "crates.io"],
        indexes: &[],
        settings: &["CARGO_HTTP_TIMEOUT", "CARGO_NET_RETRY", "CARGO_HTTP_MULTIPLEXING"],
    },
    Registry {
        name: "npm",
        hosts: &["registry.npmjs.org", "registry.yarnpkg.com"],
        indexes: &["NPM_CONFIG_REGISTRY", "npm_config_registry", "YARN_REGISTRY", "YARN_NPM_REGISTRY_SERVER"],
        settings: &[],
    },
    Registry {
        name: "go",
        hosts: &["proxy.golang.org", "sum.golang.org"],
        indexes: &["GOPROXY"],
        settings: &["GOSUMDB", "GONOSUMDB", "GONOSUMCHECK", "GONOPROXY"],
    },
    registry("rubygems", &["rubygems.org", "index.rubygems.org"]),
    registry("maven", &["repo.maven.apache.org", "repo1.maven.org"]),
    registry("packagist", &["packagist.org", "repo.packagist.org"]),
    registry("nuget", &["api.nuget.org"]),
    registry("hex", &["hex.pm", "repo.hex.pm", "builds.hex.pm"]),
    registry("conda", &["conda.anaconda.org", "repo.anaconda.com"]),
    registry("debian", &["deb.debian.org", "security.debian.org"]),
    registry("ubuntu", &["archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com"]),
    registry("alpine", &["dl-cdn.alpinelinux.org"]),
];

const fn registry(name: &'static str, hosts: &'static [&'static str]) -> Registry {
    Registry { name, hosts, indexes: &[], settings: &[] }
}

/// The ports of an entry that names none.
const PORTS: [u16; 2] = [80, 443];

/// Names under which clouds offer a machine its own secrets.
const METADATA: [&str; 4] = ["metadata", "metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"];

/// A host as a client or the configuration names it: an address or a checked name in small letters without the dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    /// `None` for everything that could mean one thing to us and another to whoever resolves it: `0x7f.1`, `127.1`, `2130706433`, names
    /// with anything but letters, digits, `-` and `_`, zones.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(text) = bracketed {
            return text.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-')
        };
        // A name whose last part is a number is read as an address by many.
        let number = |label: &str| {
            let hexadecimal = label.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
            hexadecimal || label.bytes().all(|byte| byte.is_ascii_digit())
        };
        let last = name.rsplit('.').next()?;
        (name.len() <= 253 && name.split('.').all(label) && !number(last)).then_some(Self::Name(name))
    }

    fn is_this_machine(&self) -> bool {
        match self {
            Self::Address(address) => place(*address) == Place::Loopback,
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What is to be reached: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub host: Host,
    pub port: u16,
}

impl Target {
    /// `host:port`, or `host` where `port` is what it means then.
    pub(super) fn parse(text: &str, port: Option<u16>) -> Option<Self> {
        let (host, number) = split(text);
        let port = match number {
            // No `+80`, which a number would be too.
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse().ok()?,
            Some(_) => return None,
            None => port?,
        };
        (port != 0).then_some(())?;
        Some(Self { host: Host::parse(host)?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Cuts a port off, if there is one. A bare IPv6 address has none.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    host: Pattern,
    /// `None`: the usual ones.
    port: Option<u16>,
    /// The farthest place where its addresses may be.
    most: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Host(Host),
    /// `*.example.com`: everything below, not the name itself.
    Below(String),
}

/// What one command may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// Reads entries of the configuration, all but the names of registries.
    ///
    /// The error says what is wrong with the first that is wrong, and what to write.
    pub(super) fn add(&mut self, entry: &str) -> Result<(), String> {
        let (host, port) = split(entry);
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port @ 1..)) => Some(port),
            Some(_) => return Err(format!("`{entry}` has no valid port")),
        };
        if let Some(above) = host.strip_prefix("*.") {
            let Some(Host::Name(above)) = Host::parse(above).filter(|_| above.contains('.')) else {
                return Err(format!("`{entry}` is no `*.` with a name of at least two parts behind"));
            };
            self.0.push(Rule { host: Pattern::Below(above), port, most: Place::Public });
            return Ok(());
        }
        let known = || REGISTRIES.iter().map(|registry| registry.name).collect::<Vec<_>>().join(", ");
        let Some(host) = Host::parse(host) else {
            return Err(format!(
                "`{entry}` is neither a host (`example.com`, `example.com:8443`, `*.example.com`, an address) nor a known registry \
                 ({})",
                known()
            ));
        };
        if host.is_this_machine() && port.is_none() {
            return Err(format!("`{entry}` is this machine: name the port, as in `{host}:8080`"));
        }
        let most = match &host {
            Host::Address(address) if place(*address) == Place::Never => {
                return Err(format!("`{entry}` is never reached from a sandbox"));
            }
            // Who names an address means it.
            Host::Address(address) => place(*address),
            Host::Name(name) if METADATA.contains(&name.as_str()) => {
                return Err(format!("`{entry}` is never reached from a sandbox"));
            }
            Host::Name(name) if !name.contains('.') && port.is_none() => {
                return Err(format!("`{entry}` is no known registry ({}); a host needs a dot or a port", known()));
            }
            Host::Name(_) if host.is_this_machine() => Place::Loopback,
            Host::Name(_) => Place::Public,
        };
        self.0.push(Rule { host: Pattern::Host(host), port, most });
        Ok(())
    }

    /// A host of a registry. Nobody who writes code that runs here has a say in how it is resolved, while who runs the machine may well
    /// send it to a mirror inside, so private addresses are taken for it.
    pub(super) fn add_registry(&mut self, host: Host, port: Option<u16>) {
        let most = if host.is_this_machine() { Place::Loopback } else { Place::Inside };
        self.0.push(Rule { host: Pattern::Host(host), port, most });
    }

    /// Whether the command is to reach something on this machine.
    pub(super) fn this_machine(&self) -> bool {
        self.0.iter().any(|rule| rule.most == Place::Loopback)
    }

    /// The farthest place at which `target` may be, `None` if it is not among the hosts at all.
    pub(super) fn most(&self, target: &Target) -> Option<Place> {
        let matches = |rule: &&Rule| {
            let port = rule.port.map_or(PORTS.contains(&target.port), |port| port == target.port);
            port && match (&rule.host, &target.host) {
                (Pattern::Host(host), asked) => host == asked,
                (Pattern::Below(above), Host::Name(name)) => {
                    !METADATA.contains(&name.as_str())
                        && name.strip_suffix(above.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
                }
                (Pattern::Below(_), Host::Address(_)) => false,
            }
        };
        self.0.iter().filter(matches).map(|rule| rule.most).max()
    }

    /// Whether a host that may be at most at `most` may be reached at this address: also where the address itself is an entry.
    pub(super) fn lets(&self, most: Place, address: IpAddr, port: u16) -> bool {
        let found = place(address);
        let near = found != Place::Never && found <= most && (found != Place::Loopback || most == Place::Loopback);
        near || self.most(&Target { host: Host::Address(address), port }).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(entries: &[&str]) -> Rules {
        let mut rules = Rules::default();
        for entry in entries {
            rules.add(entry).unwrap();
        }
        rules
    }

    #[test]
    fn a_host_is_matched_whole_and_with_its_port() {
        let rules =
            rules(&["example.com", "files.example.org:8443", "*.cdn.example.net", "203.0.113.9", "[2a00::1]:81"]);
        let table = [
            ("example.com:443", true),
            ("example.com:80", true),
            ("EXAMPLE.com.:443", true),
            ("example.com:8443", false),
            ("example.com:22", false),
            ("www.example.com:443", false),
            ("notexample.com:443", false),
            ("example.com.evil.org:443", false),
            ("files.example.org:8443", true),
            ("files.example.org:443", false),
            ("a.cdn.example.net:443", true),
            ("a.b.cdn.example.net:443", true),
            ("cdn.example.net:443", false),
            ("xcdn.example.net:443", false),
            ("203.0.113.9:443", true),
            ("203.0.113.10:443", false),
            ("[2a00::1]:81", true),
            ("[2a00:0:0::1]:81", true),
            ("[2a00::1]:80", false),
            ("[::ffff:203.0.113.9]:443", false),
        ];
        for (asked, expected) in table {
            let target = Target::parse(asked, None).unwrap();
            assert_eq!(rules.most(&target).is_some(), expected, "{asked}");
        }
    }

    #[test]
    fn what_two_could_read_differently_is_no_target() {
        for odd in [
            "",
            ":443",
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+443",
            "example.com:443:443",
            "2130706433:80",
            "0x7f000001:80",
            "0x7f.1:80",
            "0177.0.0.1:80",
            "127.1:80",
            "1.2.3.4.5:80",
            "127.0.0.0x1:80",
            "0:80",
            "user@example.com:443",
            "example.com/x:443",
            "exa mple.com:443",
            "example..com:443",
            ".example.com:443",
            "-x.com:443",
            "ex%61mple.com:443",
            "exämple.com:443",
            "example。com:443",
            "[fe80::1%eth0]:80",
            "[example.com]:443",
            "::1:443",
            "*.com:443",
            "example.com\r\nx:443",
            "example.com\0:443",
            "[127.0.0.1]:80",
            "example.com..:443",
        ] {
            assert_eq!(Target::parse(odd, None), None, "{odd:?}");
        }
        assert_eq!(Target::parse("example.com", Some(80)).unwrap().to_string(), "example.com:80");
    }

    #[test]
    fn an_entry_that_cannot_be_meant_is_refused_with_what_to_write() {
        for (entry, says) in [
            ("pipy", "no known registry (pypi,"),
            ("localhost", "name the port"),
            ("127.0.0.1", "name the port"),
            ("[::1]", "name the port"),
            ("169.254.169.254", "never reached"),
            ("169.254.169.254:80", "never reached"),
            ("metadata.google.internal", "never reached"),
            ("*.com", "two parts"),
            ("*", "neither a host"),
            ("https://example.com", "no valid port"),
            ("example.com/x", "neither a host"),
            ("example.com:http", "no valid port"),
            ("0x7f.1:80", "neither a host"),
        ] {
            let error = Rules::default().add(entry).unwrap_err();
            assert!(error.contains(says), "{entry}: {error}");
        }
    }

    #[test]
    fn the_address_is_judged_by_who_named_the_host() {
        let lets = |rules: &Rules, target: &str, address: &str| {
            let target = Target::parse(target, None).unwrap();
            rules.most(&target).is_some_and(|most| rules.lets(most, address.parse().unwrap(), target.port))
        };
        let named = rules(&["mirror.example.com", "localhost:8080", "10.1.2.3"]);
        let public = "93.184.216.34";
        assert!(lets(&named, "mirror.example.com:443", public));
        for inside in
            ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"]
        {
            assert!(!lets(&named, "mirror.example.com:443", inside), "{inside}");
        }
        // The configuration names this very address.
        assert!(lets(&named, "mirror.example.com:443", "10.1.2.3") && lets(&named, "10.1.2.3:443", "10.1.2.3"));
        assert!(lets(&named, "localhost:8080", "127.0.0.1") && lets(&named, "localhost:8080", "::1"));
        assert!(!lets(&named, "localhost:8081", "127.0.0.1") && !lets(&named, "localhost:8080", "169.254.169.254"));

        let mut registry = Rules::default();
        registry.add_registry(Host::parse("index.example").unwrap(), None);
        assert!(lets(&registry, "index.example:443", "10.0.0.1") && lets(&registry, "index.example:443", public));
        for never in ["127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "fd00:ec2::254"] {
            assert!(!lets(&registry, "index.example:443", never), "{never}");
        }
    }

    #[test]
    fn the_table_of_registries_holds_what_the_rules_take() {
        for registry in REGISTRIES {
            for host in registry.hosts {
                assert!(matches!(Host::parse(host), Some(Host::Name(name)) if name == *host), "{host}");
            }
            // A name of a registry is never a host.
            assert!(Rules::default().add(registry.name).is_err(), "{}", registry.name);
        }
    }
}

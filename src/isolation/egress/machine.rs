//! How this machine reaches the network: its proxies, its package mirrors, its certificates. What of it a command needs is handed in as
//! variables and copies of certificate files; credentials never are.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;

use super::hosts::{Host, REGISTRIES, Registry, Target};

/// Variables that name a file of certificates.
const CERTIFICATES: [&str; 11] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_CAFILE",
    "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH",
    "CARGO_HTTP_CAINFO",
    "GIT_SSL_CAINFO",
    "NIX_SSL_CERT_FILE",
];
const PROXIES: [&str; 8] =
    ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];
/// No configuration file and no bundle of certificates is larger.
const LARGEST: u64 = 4 << 20;

/// What this machine says about its network. Its values may hold credentials, so it prints as names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Variables of the daemon that name proxies, package mirrors and certificates.
    pub variables: BTreeMap<String, String>,
    /// Configuration files of pip and of npm, the one that counts most last.
    pub pip: Vec<PathBuf>,
    pub npm: Vec<PathBuf>,
    /// And of cargo, likewise: of these only by which mirror crates.io is replaced.
    pub cargo: Vec<PathBuf>,
    /// Hosts whose addresses are known without asking the resolver. They are judged as its answers are.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.keys().collect();
        f.debug_struct("Reach").field("variables", &names).finish_non_exhaustive()
    }
}

/// What a command is handed, and where the machine's mirrors are.
#[derive(Default)]
pub(super) struct Settings {
    pub environment: BTreeMap<String, String>,
    /// Variables that name a file, with its content.
    pub certificates: BTreeMap<String, Vec<u8>>,
    pub mirrors: Vec<Target>,
    /// The content of cargo's configuration, where the machine has a mirror: there are no variables for it.
    pub cargo: Option<String>,
}

/// The machine's own proxy.
pub(super) struct Upstream {
    pub at: Target,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl Reach {
    /// Variables that may say how a machine reaches the network.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        let of_registries = REGISTRIES.iter().flat_map(|registry| registry.indexes.iter().chain(registry.settings));
        let files = ["PIP_CONFIG_FILE", "NPM_CONFIG_USERCONFIG"];
        of_registries.chain(&CERTIFICATES).chain(&PROXIES).copied().chain(files)
    }

    /// As this process was started.
    pub fn from_process() -> Self {
        let variable = |name: &str| crate::base::env::process_variable(name).filter(|value| !value.is_empty());
        let file = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = file("HOME");
        let at_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let system = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf"].map(PathBuf::from).into_iter();
        let pip = system.chain(
            [at_home(".pip/pip.conf"), at_home(".config/pip/pip.conf"), file("PIP_CONFIG_FILE")].into_iter().flatten(),
        );
        let system = ["/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"].map(PathBuf::from).into_iter();
        let npm = system.chain([at_home(".npmrc"), file("NPM_CONFIG_USERCONFIG")].into_iter().flatten());
        let cargo_home = file("CARGO_HOME").or_else(|| at_home(".cargo"));
        let cargo = cargo_home.iter().flat_map(|home| [home.join("config.toml"), home.join("config")]).collect();
        let variables = Self::variables().filter_map(|name| Some((name.to_owned(), variable(name)?))).collect();
        Self { variables, pip: pip.collect(), npm: npm.collect(), cargo, addresses: BTreeMap::new() }
    }

    /// What a command needs that reaches `registries`.
    ///
    /// The error says which setting holds a credential or cannot be understood; it does not show its value.
    pub(super) fn settings(&self, registries: &[&Registry]) -> Result<Settings, String> {
        let mut all = BTreeMap::new();
        let mut closed = Vec::new();
        for file in &self.pip {
            all.extend(pip(&read(file)));
        }
        for file in &self.npm {
            let (settings, hosts) = npm(&read(file));
            all.extend(settings);
            closed.extend(hosts);
        }
        all.extend(self.variables.clone());
        let mut settings = Settings::default();
        for registry in registries {
            for name in registry.indexes {
                let Some(value) = all.get(*name) else { continue };
                for url in urls(value) {
                    settings.mirrors.push(mirror(name, url, &closed)?);
                }
                settings.environment.insert((*name).to_owned(), value.clone());
            }
            for name in registry.settings {
                settings.environment.extend(all.get(*name).map(|value| ((*name).to_owned(), value.clone())));
            }
        }
        let crates = registries.iter().any(|registry| registry.name == "crates");
        if let Some(index) = self.cargo.iter().filter(|_| crates).find_map(|file| cargo(&read(file))) {
            let url = index.strip_prefix("sparse+").unwrap_or(&index);
            settings.mirrors.push(mirror("source.crates-io in cargo's configuration", url, &[])?);
            settings.cargo = Some(format!(
                "[source.crates-io]\nreplace-with = \"mirror\"\n\n[source.mirror]\nregistry = \"{index}\"\n"
            ));
        }
        for name in CERTIFICATES {
            let Some(path) = all.get(name) else { continue };
            let content = read_bytes(&PathBuf::from(path));
            if contains(&content, b"PRIVATE KEY") {
                return Err(format!(
                    "the file that `{name}` names holds a private key, which is never handed to a command"
                ));
            }
            // A file that is not there helps nobody on the host either.
            if !content.is_empty() {
                settings.certificates.insert(name.to_owned(), content);
            }
        }
        Ok(settings)
    }

    /// The proxy for a target of this kind, unless the machine reaches it without.
    pub(super) fn upstream(&self, secure: bool) -> Result<Option<Upstream>, String> {
        let names = if secure { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
        let set = |name: &&str| self.variables.get(*name).map(|value| ((*name).to_owned(), value.clone()));
        let Some((name, value)) = names.iter().chain(&["all_proxy", "ALL_PROXY"]).find_map(set) else {
            return Ok(None);
        };
        let wrong = |what: &str| format!("the daemon's `{name}` {what}");
        let text = if value.contains("://") { value } else { format!("http://{value}") };
        let url = Url::parse(&text).map_err(|_| wrong("is no address of a proxy"))?;
        if url.scheme() != "http" {
            return Err(wrong("is not a proxy that is spoken to by plain http, which is all that is supported"));
        }
        let at = target(&url).ok_or_else(|| wrong("is no address of a proxy"))?;
        let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let user = [decode(url.username()), b":".to_vec(), decode(url.password().unwrap_or_default())].concat();
            format!("Basic {}", base64(&user))
        });
        Ok(Some(Upstream { at, authorization }))
    }

    /// Whether the machine reaches `target` without its proxy.
    pub(super) fn direct(&self, target: &Target) -> bool {
        let list = ["no_proxy", "NO_PROXY"].iter().find_map(|name| self.variables.get(*name));
        let host = target.host.to_string();
        list.into_iter().flat_map(|list| list.split(',')).map(str::trim).any(|entry| {
            let name = entry.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
            let below = || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
            entry == "*" || (!name.is_empty() && (host == name || target.to_string() == name || below()))
        })
    }
}

/// The addresses of an index variable: one, or several with blanks, commas or bars between, in front of which a name may stand.
fn urls(value: &str) -> impl Iterator<Item = &str> {
    let words = value.split(|c: char| c.is_whitespace() || c == ',' || c == '|').filter(|word| !word.is_empty());
    words.filter(|word| !["direct", "off"].contains(word)).map(|word| match word.split_once('=') {
        Some((name, url)) if !name.contains(':') => url,
        _ => word,
    })
}

fn mirror(name: &str, url: &str, closed: &[String]) -> Result<Target, String> {
    let url = Url::parse(url).map_err(|_| format!("this machine's `{name}` is no address of a package index"))?;
    let at = target(&url).filter(|_| ["http", "https"].contains(&url.scheme()));
    let at =
        at.ok_or_else(|| format!("this machine's `{name}` is no http address, so a sandbox cannot reach that index"))?;
    let needs = if !url.username().is_empty() || url.password().is_some() {
        "holds a user or a password"
    } else if closed.contains(&at.host.to_string()) {
        "needs the token that stands in the npm configuration"
    } else {
        return Ok(at);
    };
    Err(format!(
        "this machine's package index ({name}) {needs}, which is never handed to a command of a repository: offer {} without one \
         to this machine, or set `{name}` to another index for the daemon",
        at.host
    ))
}

fn target(url: &Url) -> Option<Target> {
    Some(Target { host: Host::parse(url.host_str()?)?, port: url.port_or_known_default()? })
}

/// What of a `pip.conf` matters, as the variables that say the same.
fn pip(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, String>::new();
    let (mut counts, mut last) = (false, None);
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        let continued = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.starts_with('[') {
            (counts, last) = (["[global]", "[install]", "[download]"].contains(&line), None);
        } else if let (true, Some(name)) = (continued, &last) {
            let value: &mut String = found.entry(String::clone(name)).or_default();
            *value = format!("{value} {line}").trim().to_owned();
        } else if let Some((key, value)) = line.split_once(['=', ':']).filter(|_| counts) {
            let name = format!("PIP_{}", key.trim().to_uppercase().replace('-', "_"));
            let name = if name == "PIP_TIMEOUT" { "PIP_DEFAULT_TIMEOUT".into() } else { name };
            found.insert(name.clone(), value.trim().to_owned());
            last = Some(name);
        }
    }
    found
}

/// What of an `.npmrc` matters, as the variables that say the same, and the hosts for which it holds a credential.
fn npm(text: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut found, mut closed) = (BTreeMap::new(), Vec::new());
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
        match key {
            "registry" => drop(found.insert("NPM_CONFIG_REGISTRY".to_owned(), value.to_owned())),
            "cafile" => drop(found.insert("NPM_CONFIG_CAFILE".to_owned(), value.to_owned())),
            _ if key.starts_with("//") && key.contains(":_") => {
                let host = key.trim_start_matches('/').split(['/', ':']).next();
                closed.extend(host.map(str::to_ascii_lowercase));
            }
            _ => {}
        }
    }
    (found, closed)
}

/// The index by which a `config.toml` of cargo replaces crates.io, as far as it is written in the usual way: a section per source.
fn cargo(text: &str) -> Option<String> {
    let plain = |text: &str| text.replace(['"', '\'', ' '], "");
    let (mut section, mut values) = (String::new(), BTreeMap::new());
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = plain(name.split(']').next()?);
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim();
            let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote));
            let value = quote.and_then(|quote| value.get(1..)?.split(quote).next());
            values.extend(value.map(|value| (format!("{section}.{}", plain(key)), value.to_owned())));
        }
    }
    let mut name = "crates-io".to_owned();
    // A replacement may be replaced in turn.
    for _ in 0..4 {
        match values.get(&format!("source.{name}.replace-with")) {
            Some(next) => name.clone_from(next),
            None => break,
        }
    }
    let index =
        values.get(&format!("source.{name}.registry")).or_else(|| values.get(&format!("registries.{name}.index")));
    index.filter(|index| name != "crates-io" && !index.contains(['"', '\\'])).cloned()
}

fn read(path: &PathBuf) -> String {
    String::from_utf8_lossy(&read_bytes(path)).into_owned()
}

/// Nothing for what cannot be read: then the clients on the host do not have it either.
fn read_bytes(path: &PathBuf) -> Vec<u8> {
    let fits = |found: std::fs::Metadata| found.is_file() && found.len() <= LARGEST;
    if std::fs::metadata(path).is_ok_and(fits) { std::fs::read(path).unwrap_or_default() } else { Vec::new() }
}

fn contains(content: &[u8], word: &[u8]) -> bool {
    content.windows(word.len()).any(|window| window == word)
}

fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut out) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        // `Url` leaves no `%` without two digits behind it, other than one that stands for itself.
        out.push(match (byte == b'%').then(|| Some(digit()? * 16 + digit()?)).flatten() {
            Some(value) => value as u8,
            None => byte,
        });
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
            out.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(variables: &[(&str, &str)]) -> Reach {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Reach { variables, ..Reach::default() }
    }

    fn of(names: &[&str]) -> Vec<&'static Registry> {
        REGISTRIES.iter().filter(|registry| names.contains(&registry.name)).collect()
    }

    #[test]
    fn the_machines_mirrors_and_certificates_are_handed_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name)
        };
        let authority = file("ca.pem", "-----BEGIN CERTIFICATE-----\n").display().to_string();
        let pip = "# a comment\n[global]\nindex-url = https://pip.example/simple\nextra-index-url =\n    https://one.example/\n    \
                   https://two.example:8443/x\ntimeout = 9\n[list]\nindex-url = https://no.example\n";
        let reach = Reach {
            pip: vec![file("pip.conf", pip), folder.path().join("none")],
            cargo: vec![
                folder.path().join("none"),
                file(
                    "config.toml",
                    "[source.crates-io]\nreplace-with = 'corp' # a comment\n[source.corp]\nregistry = \"sparse+https://crates.example/i/\"\n",
                ),
            ],
            npm: vec![file("npmrc", &format!("registry=https://npm.example/\ncafile = \"{authority}\"\n"))],
            ..reach(&[("PIP_INDEX_URL", "http://10.0.0.7:3141/root"), ("GOPROXY", "https://go.example,direct")])
        };
        let settings = reach.settings(&of(&["pypi", "npm", "go"])).ok().unwrap();
        let mirrors: Vec<_> = settings.mirrors.iter().map(Target::to_string).collect();
        let expected = ["10.0.0.7:3141", "one.example:443", "two.example:8443", "npm.example:443", "go.example:443"];
        assert_eq!(mirrors, expected);
        let environment: Vec<_> = settings.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "GOPROXY=https://go.example,direct",
            "NPM_CONFIG_REGISTRY=https://npm.example/",
            "PIP_DEFAULT_TIMEOUT=9",
            "PIP_EXTRA_INDEX_URL=https://one.example/ https://two.example:8443/x",
            "PIP_INDEX_URL=http://10.0.0.7:3141/root",
        ];
        assert_eq!(environment, expected);
        assert_eq!(settings.certificates.keys().collect::<Vec<_>>(), ["NPM_CONFIG_CAFILE"]);
        assert_eq!(settings.cargo, None);
        // Only what the named registries need.
        let settings = reach.settings(&of(&["crates"])).ok().unwrap();
        assert_eq!((settings.environment.len(), settings.mirrors[0].to_string().as_str()), (0, "crates.example:443"));
        assert!(settings.cargo.unwrap().ends_with("registry = \"sparse+https://crates.example/i/\"\n"));
        for none in
            ["", "[source.crates-io]\n", "[source.x]\nregistry = \"https://x.example\"\n", "[net]\noffline = true\n"]
        {
            assert_eq!(cargo(none), None, "{none}");
        }
        let by_name = "[source.crates-io]\nreplace-with = \"x\"\n[registries.x]\nindex = \"https://x.example\"\n";
        assert_eq!(cargo(by_name).as_deref(), Some("https://x.example"));
    }

    #[test]
    fn a_credential_is_refused_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name)
        };
        let key = file("both.pem", "-----BEGIN RSA PRIVATE KEY-----\n").display().to_string();
        let npmrc = "registry=https://npm.example/x/\n//npm.example/x/:_authToken=s3cret\n";
        let refused = [
            (reach(&[("PIP_INDEX_URL", "https://user:s3cret@pip.example/simple")]), "a user or a password"),
            (reach(&[("UV_INDEX", "corp=https://s3cret@pip.example/simple")]), "a user or a password"),
            (reach(&[("PIP_EXTRA_INDEX_URL", "https://a.example https://:s3cret@b.example")]), "a user or a password"),
            (reach(&[("SSL_CERT_FILE", &key)]), "a private key"),
            (reach(&[("PIP_INDEX_URL", "file:///s3cret")]), "no http address"),
            (
                Reach {
                    cargo: vec![file(
                        "config.toml",
                        "[source.crates-io]\nreplace-with = \"x\"\n[source.x]\nregistry = \"https://a:s3cret@x.example\"\n",
                    )],
                    ..Reach::default()
                },
                "a user or a password",
            ),
            (Reach { npm: vec![file("npmrc", npmrc)], ..Reach::default() }, "the token"),
        ];
        for (reach, says) in refused {
            let error = reach.settings(&of(&["pypi", "npm", "crates"])).err().unwrap();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
            assert!(!format!("{reach:?}").contains("s3cret"), "{reach:?}");
        }
    }

    #[test]
    fn the_machines_proxy_is_found_with_its_exceptions() {
        let reach = reach(&[
            ("HTTPS_PROXY", "http://us%65r:p%40ss@proxy.example:3128"),
            ("http_proxy", "plain.example:8080"),
            ("NO_PROXY", "direct.example, .below.example,*.star.example,port.example:8443"),
        ]);
        let secure = reach.upstream(true).ok().unwrap().unwrap();
        assert_eq!(
            (secure.at.to_string().as_str(), secure.authorization.as_deref()),
            ("proxy.example:3128", Some("Basic dXNlcjpwQHNz"))
        );
        let plain = reach.upstream(false).ok().unwrap().unwrap();
        assert_eq!((plain.at.to_string().as_str(), plain.authorization), ("plain.example:8080", None));
        for (host, direct) in [
            ("direct.example:443", true),
            ("a.direct.example:443", true),
            ("notdirect.example:443", false),
            ("a.below.example:80", true),
            ("a.star.example:80", true),
            ("port.example:8443", true),
            ("port.example:443", false),
        ] {
            assert_eq!(reach.direct(&Target::parse(host, None).unwrap()), direct, "{host}");
        }
        for odd in ["socks5://proxy.example:1080", "https://proxy.example"] {
            assert!(self::reach(&[("ALL_PROXY", odd)]).upstream(true).is_err(), "{odd}");
        }
        assert!(Reach::default().upstream(true).ok().unwrap().is_none());
    }
}

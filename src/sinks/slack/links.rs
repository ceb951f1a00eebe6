//! Which addresses may be links: https, to the hosts that the configuration names, and nothing hidden in them. Pure.

use reqwest::Url;

use crate::ports::service::Services;

/// The longest address that a button takes.
const MOST: usize = 3_000;

/// The hosts of the services that the configuration names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hosts(Vec<Host>);

#[derive(Clone, Debug, PartialEq)]
struct Host {
    scheme: String,
    name: String,
    port: Option<u16>,
    /// `acme.sentry.io` is Sentry's as well.
    below: bool,
}

impl Hosts {
    pub fn of(services: &Services) -> Self {
        let mut hosts = Vec::new();
        let mut add = |url: &str, below: bool| {
            if let Some((url, name)) =
                Url::parse(url).ok().and_then(|url| Some((url.clone(), url.host_str()?.to_owned())))
            {
                hosts.push(Host { scheme: url.scheme().into(), name, port: url.port_or_known_default(), below });
            }
        };
        if let Some(github) = &services.github {
            add(github.setting("git_url").unwrap_or("https://github.com"), false);
            // A self-hosted or stand-in service answers at one address for both.
            add(github.setting("api_url").unwrap_or("https://api.github.com"), false);
        }
        if let Some(sentry) = &services.sentry {
            add(sentry.setting("base_url").unwrap_or("https://sentry.io"), true);
        }
        Self(hosts)
    }

    /// The address as it may stand in a link.
    pub fn allowed(&self, text: &str) -> Option<String> {
        let url = Url::parse(text.trim()).ok()?;
        let (name, port) = (url.host_str()?, url.port_or_known_default());
        let plain = url.username().is_empty() && url.password().is_none() && url.as_str().len() <= MOST;
        let known = self.0.iter().any(|host| {
            let same = name == host.name || host.below && name.ends_with(&format!(".{}", host.name));
            // Without TLS only where the configuration itself does without.
            same && port == host.port && url.scheme() == host.scheme
        });
        (plain && known).then(|| url.as_str().to_owned())
    }
}

/// What a button to this address says: `Review PR #214`, `Ticket #31`.
pub fn label(url: &str) -> String {
    let path = Url::parse(url).map(|url| url.path().to_owned()).unwrap_or_default();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        [.., "pull", number] if number.parse::<u64>().is_ok() => format!("Review PR #{number}"),
        [.., "issues", number] if number.parse::<u64>().is_ok() => format!("Ticket #{number}"),
        _ => "Open".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ports::service::Service;

    fn hosts(github: Option<&str>) -> Hosts {
        let settings = |key: &str, url: &str| BTreeMap::from([(key.to_owned(), url.to_owned())]);
        let service = |settings| Some(Service { settings, ..Service::default() });
        Hosts::of(&Services {
            github: service(github.map(|url| settings("api_url", url)).unwrap_or_default()),
            sentry: service(BTreeMap::new()),
            ..Services::default()
        })
    }

    #[test]
    fn only_hosts_of_the_configuration_over_tls_and_nothing_hidden() {
        let own = hosts(None);
        for good in ["https://github.com/acme/api/pull/214", "https://acme.sentry.io/issues/1/?x=%3C"] {
            assert_eq!(own.allowed(good).as_deref(), Some(good));
        }
        for bad in [
            "http://github.com/acme",
            "https://github.com.evil.example/",
            "https://evilsentry.io/",
            "https://evil.example/?u=https://github.com/",
            "https://github.com@evil.example/",
            "https://me:pw@github.com/",
            "https://github.com:444/",
            "https://gist.github.com/x",
            "javascript:alert(1)",
            "slack://channel?id=1",
            "out/pr-3f9c/index.html",
            "/etc/passwd",
            "",
        ] {
            assert_eq!(own.allowed(bad), None, "{bad}");
        }
        assert!(hosts(Some("http://127.0.0.1:4400")).allowed("http://127.0.0.1:4400/acme/api/pull/1").is_some());
        assert_eq!(Hosts::default().allowed("https://github.com/"), None);
        // What would end a link or begin another is encoded.
        assert_eq!(own.allowed("https://github.com/a|b>c <d").as_deref(), Some("https://github.com/a|b%3Ec%20%3Cd"));
        let labels =
            ["https://github.com/a/b/pull/214", "https://github.com/a/b/issues/31", "https://github.com/a"].map(label);
        assert_eq!(labels, ["Review PR #214", "Ticket #31", "Open"]);
    }
}

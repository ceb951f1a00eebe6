//! What reading a configuration carries along, and the values that its sections share: secrets, addresses, paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::secret::{SecretRef, SecretSource};
use crate::diag::{Code, Diagnostic, Diagnostics, MapReader, Node, Report, Span, codes, did_you_mean, secrets};
use crate::domain::definition::Origin;
use crate::ports::Registry;

use super::BUILT_IN;

pub(super) struct Reader<'a> {
    pub d: Diagnostics,
    /// Mistakes of the price table.
    pub others: Report,
    pub base: &'a Path,
    pub registry: &'a Registry,
    pub secrets: BTreeMap<String, SecretRef>,
    /// The names under `sinks:`.
    pub own_sinks: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(d: Diagnostics, base: &'a Path, registry: &'a Registry) -> Self {
        Self { d, others: Report::default(), base, registry, secrets: BTreeMap::new(), own_sinks: Vec::new() }
    }

    pub fn error(
        &mut self,
        code: &'static Code,
        title: impl Into<String>,
        span: Span,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        self.d.push(Diagnostic::error(code, title, span, label).maybe_help(help));
    }

    /// Where a value stands; line 0 for what is built in.
    pub fn origin(&self, span: Span) -> Origin {
        let file = self.d.source().name().to_owned();
        let line = if file == BUILT_IN { 0 } else { self.d.source().position(span.start).0 };
        Origin { file, line: u32::try_from(line).unwrap_or(u32::MAX) }
    }

    /// A path, resolved against the configuration's folder.
    pub fn path(&mut self, what: &str, node: &Node) -> Option<PathBuf> {
        Some(self.base.join(node.filled_string(what, &mut self.d)?))
    }

    pub fn texts(&mut self, map: &mut MapReader<'_>, key: &str) -> Vec<String> {
        let Some(node) = map.optional(key, &mut self.d) else { return Vec::new() };
        let what = format!("an entry of `{key}`");
        node.one_or_more().iter().filter_map(|item| item.filled_string(&what, &mut self.d).map(str::to_owned)).collect()
    }

    /// An `http://` or `https://` address without credentials; `null` is none.
    pub fn url(&mut self, map: &mut MapReader<'_>, key: &str) -> Option<String> {
        let node = map.take(key).filter(|node| !node.is_null())?;
        self.url_of(key, node)
    }

    /// The same of a node.
    pub fn url_of(&mut self, key: &str, node: &Node) -> Option<String> {
        let text = node.filled_string(&format!("`{key}`"), &mut self.d)?;
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let shaped = host.is_some_and(|host| {
            !host.is_empty() && !host.starts_with(['/', ':']) && !host.contains(char::is_whitespace)
        });
        if !shaped {
            let help = if text.contains("://") || text.starts_with("secret:") {
                "write for example `\"https://example.com\"`".to_owned()
            } else {
                format!("write `\"https://{text}\"`")
            };
            self.error(
                &codes::BAD_ADDRESS,
                format!("`{key}` must be an address"),
                node.span,
                "no `http://` or `https://` address",
                Some(help),
            );
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    /// `address:port` to listen on.
    pub fn listen(&mut self, map: &mut MapReader<'_>, key: &str) -> Option<String> {
        let node = map.optional(key, &mut self.d)?;
        let text = node.filled_string(&format!("`{key}`"), &mut self.d)?;
        let named = text.rsplit_once(':').filter(|(host, port)| *host == "localhost" && port.parse::<u16>().is_ok());
        if text.parse::<std::net::SocketAddr>().is_err() && named.is_none() {
            let help = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
                Ok(port) => format!("write `\"127.0.0.1:{port}\"`"),
                Err(_) => "write for example `\"127.0.0.1:7717\"`".to_owned(),
            };
            self.error(
                &codes::BAD_ADDRESS,
                format!("`{key}` must be an address and a port"),
                node.span,
                "not of that form",
                Some(help),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// `secret:NAME` of a secret that is declared. A value in clear is refused and never shown.
    pub fn secret(&mut self, map: &mut MapReader<'_>, key: &str) -> Option<SecretRef> {
        let node = map.take(key).filter(|node| !node.is_null())?;
        self.secret_of(key, node)
    }

    /// The same of a node.
    pub fn secret_of(&mut self, key: &str, node: &Node) -> Option<SecretRef> {
        let text = node.string(&format!("`{key}`"), &mut self.d)?;
        let Some(name) = text.strip_prefix("secret:") else {
            self.value_in_clear(key, node.span);
            return None;
        };
        let found = self.secrets.get(name).cloned();
        if found.is_none() {
            let help = did_you_mean(name, self.secrets.keys().map(String::as_str));
            let help = help.unwrap_or_else(|| format!("declare it: `secrets: {{{name}: {{env: …}}}}`"));
            self.error(
                &codes::UNKNOWN_SECRET,
                format!("unknown secret `{name}`"),
                node.span,
                "not declared under `secrets:`",
                Some(help),
            );
        }
        found
    }

    fn value_in_clear(&mut self, key: &str, span: Span) {
        self.d.mask(span);
        let help =
            "write `secret:NAME` and declare NAME under `secrets:`; if this was a real secret, replace it".to_owned();
        self.error(
            &codes::SECRET_VALUE,
            format!("`{key}` holds a value in clear"),
            span,
            "only the name of a secret belongs here",
            Some(help),
        );
    }

    /// `secrets:` — names, and where each is kept.
    pub fn declare_secrets(&mut self, node: &Node) {
        let Some(mut map) = node.map("`secrets`", &mut self.d) else { return };
        for entry in map.rest() {
            let shaped = entry.key.starts_with(|c: char| c.is_ascii_uppercase())
                && entry.key.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            if !shaped {
                let better: String = entry
                    .key
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                    .collect();
                let title = format!("`{}` cannot be the name of a secret", entry.key);
                self.error(
                    &codes::NAME,
                    title,
                    entry.key_span,
                    "names of secrets are A-Z, 0-9 and `_`",
                    Some(format!("write `{better}`")),
                );
            }
            if let Some(source) = self.secret_source(&entry.key, &entry.value) {
                self.secrets.insert(entry.key.clone(), SecretRef { name: entry.key.clone(), source });
            } else {
                // References to it are not wrong as well.
                let source = SecretSource::Env(String::new());
                self.secrets.insert(entry.key.clone(), SecretRef { name: entry.key.clone(), source });
            }
        }
    }

    fn secret_source(&mut self, name: &str, node: &Node) -> Option<SecretSource> {
        if node.text().is_some() {
            self.d.mask(node.span);
            let help = format!(
                "write where it is kept: `{name}: {{env: {name}}}`, `{{file: PATH}}` or `{{credential: ID}}`; if this was a real secret, replace it"
            );
            self.error(
                &codes::SECRET_VALUE,
                format!("secret `{name}` holds a value in clear"),
                node.span,
                "only where it is kept belongs here",
                Some(help),
            );
            return None;
        }
        let mut map = node.map(&format!("secret `{name}`"), &mut self.d)?;
        let env = map.optional("env", &mut self.d).and_then(|node| self.variable(node)).map(SecretSource::Env);
        let files = map.optional("file", &mut self.d).map(|node| {
            SecretSource::Files(node.one_or_more().iter().filter_map(|item| self.path("`file`", item)).collect())
        });
        let credential = map
            .optional("credential", &mut self.d)
            .and_then(|node| node.filled_string("`credential`", &mut self.d))
            .map(|id| SecretSource::Credential(id.to_owned()));
        let written = ["env", "file", "credential"].iter().filter(|key| map.has(key)).count();
        if written != 1 {
            let label = if written == 0 { "it is kept nowhere" } else { "it is kept in several places" };
            let help = Some("write exactly one of `env`, `file` and `credential`".to_owned());
            self.error(&codes::NEEDS, format!("secret `{name}` needs one place"), map.place(), label, help);
        }
        map.finish(&mut self.d);
        env.or(files).or(credential)
    }

    fn variable(&mut self, node: &Node) -> Option<String> {
        let text = node.filled_string("`env`", &mut self.d)?;
        let shaped = !text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let shouted = text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        if !shaped || (!shouted && secrets::looks_random(text)) {
            self.value_in_clear("env", node.span);
            return None;
        }
        Some(text.to_owned())
    }
}

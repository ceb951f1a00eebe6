//! `nightcrew doctor`: what is missing, one line each with the fix. Contacts nothing; `--online` asks the services (`online`).

mod isolation;
pub(super) mod online;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::args::DoctorArgs;
use super::session::Session;
use super::ui::{GREEN, RED, Ui, YELLOW, paint};
use super::validate::counted;
use super::{Exit, validate};
use crate::base::secret::SecretRef;
use crate::builtin::REGISTRY;
use crate::config::settings::{Settings, SourceSettings};
use crate::control::{Reply, Request};
use crate::daemon::load::{self, Library};
use crate::domain::definition::StepBody;
use crate::engine::workshop::places;
use crate::journal::{self, Reader};
use crate::sandboxes::e2b;
use crate::sinks::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Good,
    /// Works, with less than was asked for.
    Warning,
    /// Something cannot work until a person has acted.
    Bad,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct Finding {
    pub level: Level,
    about: &'static str,
    what: String,
    fix: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Findings(pub Vec<Finding>);

impl Findings {
    fn good(&mut self, about: &'static str, what: impl Into<String>) {
        self.0.push(Finding { level: Level::Good, about, what: what.into(), fix: None });
    }
    fn warn(&mut self, about: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, about, what: what.into(), fix: Some(fix.into()) });
    }
    /// One line each, with the fix.
    pub(super) fn print(&self, ui: &Ui) -> anyhow::Result<()> {
        for finding in &self.0 {
            let (mark, color) = match finding.level {
                Level::Good => ("✓", GREEN),
                Level::Warning => ("!", YELLOW),
                Level::Bad => ("✗", RED),
            };
            let fix = finding.fix.as_ref().map(|fix| format!(" → {fix}")).unwrap_or_default();
            let mark = paint(ui.color_out(), color, mark);
            // What a service said is in it.
            ui.data(format!("{mark} {:<14} {}", finding.about, text::line(&format!("{}{fix}", finding.what))))?;
        }
        Ok(())
    }
    /// A warning that belongs to the one before, which has the fix.
    fn note(&mut self, about: &'static str, what: impl Into<String>) {
        self.0.push(Finding { level: Level::Warning, about, what: what.into(), fix: None });
    }
    fn bad(&mut self, about: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { level: Level::Bad, about, what: what.into(), fix: Some(fix.into()) });
    }
}

pub async fn run(session: &Session, args: &DoctorArgs) -> anyhow::Result<Exit> {
    let mut found = Findings::default();
    configuration(session, &mut found);
    state(session, &mut found).await;
    machine(session, &mut found);
    isolation::look(session, &mut found).await;
    if args.online
        && let (Some(settings), _) = load::settings(&session.places, &REGISTRY)
    {
        online::look(session, &settings, session.library_if_whole().as_ref(), &mut found).await;
    }
    let bad = found.0.iter().any(|finding| finding.level == Level::Bad);
    if session.ui.json {
        session.ui.data_json(&json!({"ok": !bad, "findings": found.0}))?;
    } else {
        found.print(&session.ui)?;
    }
    Ok(if bad { Exit::No } else { Exit::Done })
}

fn configuration(session: &Session, found: &mut Findings) {
    let places = &session.places;
    let (settings, report) = load::settings(places, &REGISTRY);
    let Some(settings) = settings.filter(|_| !report.has_errors()) else {
        found.bad("configuration", counted(report.len(), "mistake"), "nightcrew validate");
        return;
    };
    match &places.config {
        Some(file) => found.good("configuration", format!("{}", file.display())),
        None => found.warn("configuration", "no file: the built-in defaults hold", "nightcrew init"),
    }
    let settings = std::sync::Arc::new(settings);
    match Library::load(places, &REGISTRY, settings.clone()) {
        Err(error) => {
            found.bad("pipelines", format!("{}: {error}", places.pipelines.display()), "make the folder readable")
        }
        Ok(library) if library.pipelines.is_empty() && library.broken.is_empty() => {
            found.warn("pipelines", format!("none in {}", places.pipelines.display()), "nightcrew init");
        }
        Ok(library) => {
            match library.broken.len() {
                0 => found.good("pipelines", validate::counted(library.pipelines.len(), "pipeline")),
                n => found.bad("pipelines", format!("{} cannot be used", counted(n, "file")), "nightcrew validate"),
            }
            zones(&library, found);
            later(&library, found);
        }
    }
    models(&settings, found);
    services(&settings, found);
    bindings(&settings, found);
    sandboxes(&settings, found);
}

/// Where the commands of each profile run. Nobody is asked; how this machine confines is told below.
fn sandboxes(settings: &Settings, found: &mut Findings) {
    let places = places(settings);
    for profile in settings.profiles.values() {
        let chosen = e2b::chosen(&profile.sandbox, &places);
        let (name, place) = match chosen.provider {
            e2b::E2B => ("E2B", &places.e2b.key),
            _ => ("our own server", &places.sandboxd.key),
        };
        let Some(url) = &chosen.url else {
            if let Some(why) = chosen.instead {
                let what = format!("profile {}: {why}, so our own server on this machine stands in", profile.name);
                found.warn("sandboxes", what, "services: {e2b: {api_key: secret:NAME}}, or sandbox: sandboxd");
            }
            continue;
        };
        let what = format!("profile {}: {name} at {url}", profile.name);
        if chosen.provider == e2b::E2B && !settings.prices.sandboxes.contains_key(e2b::E2B) {
            let fix = "add it to prices.yaml: sandboxes: {e2b: {vcpu_second: …, gib_second: …}}";
            found.bad("sandboxes", format!("{what} has no price"), fix);
            continue;
        }
        match place {
            None => {
                found.bad("sandboxes", format!("{what} has no key"), "services: {sandboxd: {api_key: secret:NAME}}")
            }
            Some(secret) => match secret.read() {
                Ok(_) => found.good("sandboxes", format!("{what}, key {} can be read", secret.name)),
                Err(error) => found.warn("sandboxes", format!("{what}: {error}"), key_fix(secret)),
            },
        }
    }
    for (name, path) in &places.sandboxd.images {
        if !path.exists() {
            let what = format!("the image {name}: there is no {}", path.display());
            found.warn("sandboxes", what, "correct `services.sandboxd.images`");
        }
    }
}

fn zones(library: &Library, found: &mut Findings) {
    for (_, pipeline) in library.pipelines.values() {
        if let Some(schedule) = &pipeline.on.schedule
            && jiff::tz::TimeZone::get(&schedule.timezone).is_err()
        {
            let what = format!("{}: the zone {} is not known here", pipeline.name, schedule.timezone);
            found.bad("time zones", what, "install tzdata");
        }
    }
}

fn models(settings: &Settings, found: &mut Findings) {
    for (role, model) in &settings.models {
        let what = format!("{role}: {} ({})", model.model, model.provider);
        if settings.prices.band(&model.model, 0).is_none() {
            let fix = "add it to prices.yaml; a model without a price is refused before any call";
            found.bad("models", format!("{what} has no price"), fix);
            continue;
        }
        match &model.api_key {
            None => found.good("models", format!("{what}, no key configured")),
            Some(secret) => match secret.read() {
                Ok(_) => found.good("models", format!("{what}, key {} can be read", secret.name)),
                Err(error) => found.warn("models", format!("{what}: {error}"), key_fix(secret)),
            },
        }
    }
}

fn key_fix(secret: &SecretRef) -> String {
    use crate::base::secret::SecretSource;
    match &secret.source {
        SecretSource::Env(name) => format!("export {name}=…, or bind a tape in the profile"),
        SecretSource::Files(files) => match files.first() {
            Some(file) => format!("write it to {} with mode 0600", file.display()),
            None => "name a file for it".to_owned(),
        },
        SecretSource::Credential(name) => format!("LoadCredential={name}:… in the unit"),
    }
}

/// Whether the secrets of services can be read; what they are good for is told by `--online`.
fn services(settings: &Settings, found: &mut Findings) {
    let services = &settings.services;
    for (name, service) in [("github", &services.github), ("slack", &services.slack), ("sentry", &services.sentry)] {
        let Some(service) = service.as_ref().filter(|service| !service.secrets.is_empty()) else { continue };
        let mut readable = Vec::new();
        for (key, secret) in &service.secrets {
            match secret.read_all() {
                Ok(_) => readable.push(secret.name.as_str()),
                Err(error) => found.warn(name, format!("{key}: {error}"), key_fix(secret)),
            }
        }
        if readable.len() == service.secrets.len() {
            found.good(name, format!("{} can be read; doctor --online asks what they may do", readable.join(", ")));
        }
    }
}

/// Sources and sinks that profiles name.
fn bindings(settings: &Settings, found: &mut Findings) {
    let check = |place: String, source: &SourceSettings, found: &mut Findings| {
        let ready = REGISTRY.source(&source.kind).is_some_and(|kind| kind.make.is_some());
        if !ready {
            let what = format!("{place}: {} cannot be read in this version yet", source.kind);
            found.warn("sources", what, "bind sqlite, http or files in the profile");
        }
        for secret in source.secret.iter().chain(source.auth.secret()) {
            if let Err(error) = secret.read() {
                found.warn("sources", format!("{place}: {error}"), key_fix(secret));
            }
        }
        if source.kind == "sqlite"
            && let Some(target) = &source.target
            && !source.base.join(target).is_file()
        {
            let what = format!("{place}: there is no {}", source.base.join(target).display());
            found.warn("sources", what, "correct its path");
        }
    };
    for (name, source) in &settings.sources {
        check(name.clone(), source, found);
    }
    for (name, sink) in &settings.sinks {
        if let Some(Err(error)) = sink.secret.as_ref().map(SecretRef::read) {
            let fix = sink.secret.as_ref().map(key_fix).unwrap_or_default();
            found.warn("sinks", format!("{name}: {error}"), fix);
        }
    }
    for profile in settings.profiles.values() {
        for (name, source) in &profile.sources {
            check(format!("{} of profile {}", name, profile.name), source, found);
        }
        if let Some(tape) = profile.tape.as_ref().filter(|tape| !settings.base.join(tape).is_file()) {
            let what = format!("profile {}: there is no tape {}", profile.name, tape.display());
            found.warn("models", what, "record one: nightcrew run … --record TAPE");
        }
    }
}

/// What pipelines ask for and this version does not have.
fn later(library: &Library, found: &mut Findings) {
    for (_, pipeline) in library.pipelines.values() {
        let mut kinds = BTreeSet::new();
        let mut sinks = BTreeSet::new();
        for (_, step) in pipeline.walk() {
            let StepBody::Kind { kind, options, .. } = &step.body else { continue };
            if REGISTRY.step(kind).is_none_or(|kind| kind.run.is_none()) {
                kinds.insert(format!("`{kind}`"));
            } else if kind == "report" {
                sinks.extend(options.texts("to"));
            }
        }
        if !kinds.is_empty() {
            let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
            let what = format!("{}: {kinds} cannot run in this version yet", pipeline.name);
            found.warn("pipelines", what, "its runs end blocked there");
        }
        for profile in library.settings.profiles.values() {
            for name in &sinks {
                let sink = profile.sinks.get(*name).map_or(*name, String::as_str);
                let own = library.settings.sinks.get(sink);
                if REGISTRY.sink(own.map_or(sink, |own| &own.kind)).is_none_or(|sink| sink.make.is_none()) {
                    let what = format!(
                        "{}: profile {} sends reports to {sink}, which this version cannot reach yet",
                        pipeline.name, profile.name
                    );
                    found.warn("sinks", what, format!("use another profile, or bind it: sinks: {{{name}: files}}"));
                }
            }
        }
    }
}

async fn state(session: &Session, found: &mut Findings) {
    let dir = &session.state;
    match session.holder().await {
        Ok(Some(mut client)) => match client.ask(&Request::Status).await {
            Ok(Reply::Status(status)) => {
                let what = format!(
                    "{} is held by `{}` (process {}), {} active, {} waiting",
                    dir.display(),
                    status.command,
                    status.pid,
                    counted(status.active.len(), "run"),
                    status.queued
                );
                found.good("state", what);
            }
            Ok(_) => found.warn("state", "the holder answers something else", "restart the daemon"),
            Err(error) => found.warn("state", format!("the holder does not answer: {error}"), "restart the daemon"),
        },
        Ok(None) => match writable(dir) {
            Ok(()) => found.good("state", format!("{} can be written, nobody holds it", dir.display())),
            Err(error) => {
                found.bad(
                    "state",
                    format!("{} cannot be written: {error}", dir.display()),
                    "give another with --state",
                );
            }
        },
        Err(error) => found.bad("state", format!("{error:#}"), "stop the process that holds it"),
    }
    match Reader::open(dir) {
        Ok(reader) => match reader.open_runs() {
            Ok(open) if open.is_empty() => found.good("journal", "no run is open"),
            Ok(open) => found.good("journal", format!("{} open (nightcrew runs --open)", counted(open.len(), "run"))),
            Err(error) => found.bad("journal", error.to_string(), "restore a backup"),
        },
        Err(journal::Error::Missing { .. }) => found.good("journal", "none yet: the first run makes it"),
        Err(error) => found.bad("journal", error.to_string(), "see the message"),
    }
}

/// Whether a file can be made in the folder, or the folder where it would be made.
fn writable(dir: &Path) -> std::io::Result<()> {
    let mut at = dir;
    while !at.exists() {
        at = match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(at, access)?)
}

fn machine(session: &Session, found: &mut Findings) {
    let mut at = session.state.clone();
    while !at.exists() {
        at = match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => ".".into(),
        };
    }
    match rustix::fs::statvfs(&at) {
        Ok(disk) => {
            let mb = disk.f_bavail.saturating_mul(disk.f_frsize) / 1_000_000;
            match mb {
                0..50 => found.bad("disk", format!("{mb} MB free"), "make room: the journal cannot be written soon"),
                50..1_000 => found.warn("disk", format!("{mb} MB free"), "make room: at least 1 GB"),
                _ => found.good("disk", format!("{} GB free", mb / 1_000)),
            }
        }
        Err(error) => found.warn("disk", format!("cannot be measured: {error}"), "see the message"),
    }
    let now = session.env.now();
    // No clock that is set shows a time before this program was written.
    let set = now > jiff::Timestamp::constant(1_763_000_000, 0);
    match set {
        true => found
            .good("clock", format!("{now:.0}, zone {}", jiff::tz::TimeZone::system().iana_name().unwrap_or("unknown"))),
        false => found.bad("clock", format!("it says {now:.0}"), "set it: timedatectl set-ntp true"),
    }
    match jiff::tz::TimeZone::get("Europe/Berlin") {
        Ok(_) => {}
        Err(error) => found.bad("time zones", error.to_string(), "install tzdata"),
    }
}

use super::*;
use crate::diag::Color;
use crate::domain::model::Role;
use crate::ports::model::{ModelError, ModelKind};
use crate::ports::sink::SinkKind;
use crate::ports::source::SourceKind;

const fn source(name: &'static str, query: &'static str) -> SourceKind {
    SourceKind { name, summary: "", query, make: None }
}

const SOURCES: &[SourceKind] = &[
    source("sqlite", "sql"),
    source("postgres", "sql"),
    source("http", "http"),
    source("prometheus", "promql"),
    source("files", ""),
];

const fn provider(name: &'static str) -> ModelKind {
    ModelKind { name, summary: "", default_base_url: None, make: |_| Err(ModelError::Credential(String::new())) }
}

const MODELS: &[ModelKind] = &[provider("anthropic"), provider("openai"), provider("tape")];

fn registry() -> Registry {
    Registry {
        steps: &[],
        tools: &[],
        sources: SOURCES,
        sinks: &[] as &[SinkKind],
        models: MODELS,
        sandboxes: &[],
        publishers: &[],
    }
}

fn check(text: &str) -> (Option<Settings>, String) {
    let read = |name: &str| if name == "prices.yaml" { Ok(PRICES.to_owned()) } else { Err("no such file".to_owned()) };
    let (settings, report) = parse("c.yaml", text, Path::new("conf"), &read, &registry());
    (settings, report.render(Color::Off))
}

#[test]
fn without_a_file_everything_local_is_there() {
    let (settings, report) = built_in(&registry());
    assert_eq!(report.render(Color::Off), "");
    let settings = settings.unwrap();
    assert_eq!(settings.file, None);
    assert_eq!(settings.models.len(), 3);
    assert_eq!(settings.profiles["local"].sinks["pull_requests"], "local_branch");
    assert!(settings.models.values().all(|model| settings.prices.models.contains_key(&model.model)));
    assert_eq!(settings.limits.max_budget.origin.line, 0);
}

#[test]
fn the_shipped_configuration_has_no_mistake() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nightcrew.yaml");
    let (settings, report) = load(&path, &registry());
    assert_eq!(report.render(Color::Off), "");
    let settings = settings.unwrap();
    assert_eq!(settings.files.len(), 2);
    let (again, report) = parse_stored(&settings.files, &registry());
    assert_eq!((again.unwrap().models, report.is_empty()), (settings.models, true));
}

/// The example of the design, whole.
const WHOLE: &str = r#"
version: 1
effects: live
models:
  boss:     {provider: anthropic, model: claude-opus-5-5, api_key: secret:ANTHROPIC, max_output_tokens: 16000}
  reviewer: {provider: openai, model: gpt-6.1-sol, base_url: "https://api.openai.com/v1", api_key: secret:OPENAI, fallback: [boss]}
prices: prices.yaml
secrets:
  ANTHROPIC: {env: ANTHROPIC_API_KEY}
  OPENAI:    {env: OPENAI_API_KEY}
  GITHUB:    {file: github.token}
  SLACK:     {credential: slack}
  SENTRY_HOOK: {file: [hook.new, hook.old]}
  WAREHOUSE: {file: warehouse.url}
  SHOP:      {file: shop.token}
services:
  github: {api_url: "https://ghe.example.com/api/v3/", token: secret:GITHUB, app: {id: 1, installation: 2, key: secret:GITHUB}}
  slack:  {bot_token: secret:SLACK, users: [U024BE7LH]}
  sentry: {organization: acme, webhook_secret: secret:SENTRY_HOOK}
  sandboxd: {url: null, images: {"debian:12": images/debian.tar}}
sources:
  warehouse: {postgres: secret:WAREHOUSE, statement_timeout: 10s}
  shop:      {http: "https://shop.example.com", auth: {bearer: secret:SHOP}}
privacy: {hide: [email, ip]}
intake: {listen: "127.0.0.1:7719", projects: [{id: 42, name: api, key: secret:SHOP}]}
http:   {listen: "0.0.0.0:7717", public_url: null, tokens: [{name: ops, secret: secret:SHOP, scopes: [read, run, approve]}]}
hooks:  {listen: "127.0.0.1:7718"}
notify: {digest: {channel: ops, at: "08:30", timezone: Europe/Berlin}, quiet_hours: "22:00-07:00", ping_url: null}
limits: {max_budget_usd: 5}
profiles:
  demo: {repository: {path: repo}, sources: {warehouse: {sqlite: w.db}, sentry: {files: "e/*.json"}}, models: {tape: t.tape}, environments: {environments/api.yaml: e.yaml}}
"#;

#[test]
fn every_section_is_read() {
    let (settings, shown) = check(WHOLE);
    assert_eq!(shown, "");
    let settings = settings.unwrap();
    assert_eq!(settings.models[&Role::Reviewer].fallback, [Role::Boss]);
    assert_eq!(settings.models[&Role::Intern].model, "claude-haiku-5-5");
    let github = settings.services.github.as_ref().unwrap();
    assert_eq!(
        (github.settings["api_url"].as_str(), github.settings["git_url"].as_str()),
        ("https://ghe.example.com/api/v3", "https://github.com")
    );
    assert_eq!(github.settings["app.id"], "1");
    let sandboxd = settings.services.sandboxd.as_ref().unwrap();
    assert_eq!(sandboxd.files["images"]["debian:12"], std::path::Path::new("conf/images/debian.tar"));
    assert_eq!(settings.sources["warehouse"].secret.as_ref().unwrap().name, "WAREHOUSE");
    assert_eq!(settings.sources["shop"].target.as_deref(), Some("https://shop.example.com"));
    let demo = &settings.profiles["demo"];
    assert_eq!(demo.tape, Some("conf/t.tape".into()));
    assert_eq!((demo.sources["sentry"].kind.as_str(), demo.sinks["slack"].as_str()), ("files", "files"));
    assert_eq!(settings.limits.max_budget.value.0, 5_000_000);
    assert_eq!(settings.limits.max_per_day.value.0, 100_000_000);
    assert_eq!(settings.http.tokens[0].scopes.len(), 3);
}

#[test]
fn each_mistake_has_a_way_out_and_no_secret_is_shown() {
    for (text, title, hint) in [
        (
            "models: {boss: {provider: antropic, model: claude-opus-5-5}}\n",
            "`provider` cannot be `antropic`",
            "did you mean `anthropic`?",
        ),
        ("models: {bos: {provider: anthropic, model: x}}\n", "unknown role `bos`", "did you mean `boss`?"),
        (
            "models: {boss: {provider: anthropic, model: claude-opus-5-6}}\n",
            "model `claude-opus-5-6` has no price",
            "did you mean `claude-opus-5-5`?",
        ),
        (
            "models: {boss: {provider: anthropic, model: claude-opus-5-5, api_key: hunter2}}\n",
            "`api_key` holds a value in clear",
            "write `secret:NAME`",
        ),
        (
            "models: {boss: {provider: anthropic, model: claude-opus-5-5, api_key: secret:ANTROPIC}}\n",
            "unknown secret `ANTROPIC`",
            "did you mean `ANTHROPIC`?",
        ),
        ("secrets: {X: hunter2}\n", "secret `X` holds a value in clear", "`X: {env: X}`"),
        ("secrets: {X: {env: a9f8e7d6c5b4a3f2e1d0}}\n", "`env` holds a value in clear", "replace it"),
        ("secrets: {x: {env: X}}\n", "`x` cannot be the name of a secret", "write `X`"),
        ("secrets: {X: {env: X, file: y}}\n", "secret `X` needs one place", "exactly one"),
        ("sources: {w: {sqlte: x.db}}\n", "source `w` needs one kind", "did you mean `sqlite`?"),
        (
            "sources: {w: {postgres: \"postgres://u:hunter2@h/d\"}}\n",
            "`postgres` holds a value in clear",
            "secret:NAME",
        ),
        ("sources: {w: {http: shop.example.com}}\n", "`http` must be an address", "`\"https://shop.example.com\"`"),
        ("http: {listen: 7717}\n", "`listen` must be an address and a port", "`\"127.0.0.1:7717\"`"),
        ("http: {listen: \"0.0.0.0:7717\"}\n", "an open address without a token", "127.0.0.1"),
        ("notify: {digest: {channel: ops, at: \"8:30\", timezone: UTC}}\n", "`at` must be a time of day", "\"08:30\""),
        ("notify: {digest: {channel: ops, at: \"08:30\"}}\n", "a time without a time zone", "Europe/Berlin"),
        ("limits: {max_budget_usd: 200}\n", "`max_budget_usd` is above `max_per_day_usd`", "raise"),
        ("profiles: {local: {sandbox: docker}}\n", "`sandbox` cannot be bound to `docker`", "sandboxd"),
        ("profiles: {local: {sinks: {slack: slak}}}\n", "`slack` cannot be bound to `slak`", "did you mean `slack`?"),
        ("prices: other.yaml\n", "the price table cannot be read", "looked for conf/other.yaml"),
        ("privcy: {hide: [a]}\n", "unknown key `privcy`", "did you mean `privacy`?"),
        ("services: {github: {token: ghp_0123456789abcdefghijABCDEFGHIJ}}\n", "a value in clear", "secret:NAME"),
    ] {
        let (_, shown) = check(&format!("version: 1\n{text}"));
        assert!(shown.contains(title) && shown.contains(hint), "{text}\n{shown}");
        assert!(!["hunter2", "ghp_0", "a9f8e7"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
    let (settings, shown) = check("version: 1\nmodels: {bos: {}}\nprivcy: 1\nlimits: {max_budget_usd: x}\n");
    assert_eq!((settings.is_none(), shown.matches("error[").count()), (true, 3), "{shown}");
}

#[test]
fn price_tables_are_checked() {
    let table = |models: &str| prices::prices("p.yaml", &format!("version: 1\nas_of: 2026-11-20\nmodels: {models}\n"));
    let (found, d) =
        table("{local: {free: true}, m: {bands: [{up_to_tokens: 10, input: 1, output: 2}, {input: 3, output: 4}]}}");
    assert_eq!(d.render(Color::Off), "");
    assert_eq!(found.band("m", 11).unwrap().input, 3.0);
    assert_eq!(found.cost("local", &Default::default()).unwrap().0, 0);
    for (models, title) in [
        ("{m: {bands: [{input: 1, output: 2}, {input: 3, output: 4}]}}", "price bands out of order"),
        ("{m: {bands: []}}", "no price bands"),
        ("{m: {bands: [{input: -1, output: 2}]}}", "`input` must be US dollars"),
        ("{m: {}}", "model `m` needs its prices"),
        ("{m: {bands: [{input: 1}]}}", "a price band needs `output`"),
    ] {
        let shown = table(models).1.render(Color::Off);
        assert!(shown.contains(title), "{models}\n{shown}");
    }
}

#[test]
fn the_first_place_with_a_file_wins() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places {
        working: folder.path().join("w"),
        user: Some(folder.path().join("u")),
        system: Some(folder.path().join("s")),
    };
    assert_eq!(places.find(None), None);
    let user = folder.path().join("u/nightcrew/nightcrew.yaml");
    std::fs::create_dir_all(user.parent().unwrap()).unwrap();
    std::fs::write(&user, "").unwrap();
    assert_eq!(places.find(None), Some(user));
    assert_eq!(places.find(Some(Path::new("x.yaml"))), Some("x.yaml".into()));
}

#[test]
fn a_profile_may_bind_another_repository_for_a_pipeline() {
    let (settings, shown) = check(
        "version: 1\nprofiles:\n  two: {repository: {path: a, pipelines: {error-to-pr: b}}}\n  one: {repository: {pipelines: {error-to-pr: b}}}\n  three: {repository: clone}\n",
    );
    assert_eq!(shown, "");
    let profiles = settings.unwrap().profiles;
    let of = |profile: &str, pipeline: &str| profiles[profile].repository_of(pipeline).map(Path::to_owned);
    assert_eq!(of("two", "error-to-pr"), Some("conf/b".into()));
    assert_eq!(of("two", "code-health"), Some("conf/a".into()));
    // The pipeline's own `path` holds then.
    assert_eq!((of("one", "code-health"), of("three", "error-to-pr")), (None, None));
    assert_eq!(profiles["one"].repository.as_deref(), Some("path"));

    let (_, shown) = check("version: 1\nprofiles: {two: {repository: {pipelines: {error-to-pr: [b]}, paht: a}}}\n");
    assert!(shown.contains("a pipeline's repository") && shown.contains("did you mean `path`?"), "{shown}");
    let (_, shown) = check("version: 1\nprofiles: {two: {repository: {}}}\n");
    assert!(shown.contains("`path`"), "{shown}");
}

#[test]
fn credentials_pages_and_sinks_are_read_in_each_of_their_forms() {
    use crate::ports::source::{PageSize, Paging, SourceAuth};
    let text = r#"
version: 1
secrets: {KEY: {file: key}}
sources:
  a: {http: "https://a", auth: {basic: secret:KEY}, paging: {link: true}}
  b: {http: "https://b", auth: {header: {name: X-Api-Key, secret: secret:KEY}}, paging: {cursor: {param: after, at: $.meta.next}}}
  c: {http: "https://c", auth: {query: {name: key, secret: secret:KEY}}, paging: {page: {first: 0, size_param: n, size: 50}}}
  d: {prometheus: "https://d", auth: {bearer: secret:KEY}, timeout: 5s}
  e: {http: "https://e", paging: {offset: {param: skip}}}
sinks: {notes: {markdown: ../notes}, ops: {webhook: "https://ops/x", secret: secret:KEY}}
profiles: {local: {sinks: {slack: notes, ops: files}}}
"#;
    let (settings, shown) = check(text);
    assert_eq!(shown, "");
    let settings = settings.unwrap();
    let key = settings.secrets["KEY"].clone();
    let of = |name: &str| (settings.sources[name].auth.clone(), settings.sources[name].paging.clone());
    assert_eq!(of("a"), (SourceAuth::Basic(key.clone()), Paging::Link));
    let cursor = Paging::Cursor { param: Some("after".into()), at: "$.meta.next".into() };
    assert_eq!(of("b"), (SourceAuth::Header { name: "X-Api-Key".into(), secret: key.clone() }, cursor));
    let size = Some(PageSize { param: Some("n".into()), rows: 50 });
    let page = Paging::Page { param: "page".into(), first: 0, size };
    assert_eq!(of("c"), (SourceAuth::Query { name: "key".into(), secret: key.clone() }, page));
    assert_eq!((of("d").0, settings.sources["d"].timeout.as_secs()), (SourceAuth::Bearer(key.clone()), 5));
    assert_eq!(of("e"), (SourceAuth::None, Paging::Offset { param: "skip".into(), size: None }));
    assert_eq!(settings.sinks["notes"].target, "conf/../notes");
    assert_eq!(settings.sinks["ops"].secret, Some(key));
    let local = &settings.profiles["local"].sinks;
    assert_eq!((local["slack"].as_str(), local["ops"].as_str()), ("notes", "files"));

    for (line, title, hint) in [
        ("sources: {a: {http: \"https://a\", auth: {bearer: hunter2}}}", "a value in clear", "secret:NAME"),
        (
            "sources: {a: {http: \"https://a\", auth: {baerer: secret:K}}}",
            "`auth` needs one kind",
            "did you mean `bearer`?",
        ),
        (
            "sources: {a: {http: \"https://a\", auth: {header: {name: \"X Y\", secret: secret:K}}}}",
            "name of a header",
            "X-Api-Key",
        ),
        (
            "sources: {a: {http: \"https://a\", paging: {page: {size_param: n}}}}",
            "`size_param` needs `size`",
            "size: 100",
        ),
        ("sources: {a: {http: \"https://a\", paging: {cursor: {at: next}}}}", "`at`", "names with dots"),
        ("sources: {a: {sqlite: x.db, auth: {bearer: secret:K}}}", "unknown key `auth`", ""),
        ("sinks: {ops: {webhook: \"https://ops\"}}", "a webhook needs a secret", "secret: secret:NAME"),
        ("sinks: {notes: {markdwn: x}}", "sink `notes` needs one kind", "did you mean `markdown`?"),
        ("sinks: {My-Notes: {markdown: x}}", "cannot be the name of a sink", "ops_hook"),
        ("profiles: {local: {sinks: {slack: webhook}}}", "cannot be bound to `webhook`", ""),
    ] {
        let (settings, shown) = check(&format!("version: 1\nsecrets: {{K: {{file: k}}}}\n{line}\n"));
        assert!(settings.is_none() && shown.contains(title) && shown.contains(hint), "{line}\n{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

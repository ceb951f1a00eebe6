//! Pipelines as a user writes them, against the tables of what ships: mistakes, their hints and their texts.

use std::path::Path;

use nightcrew::diag::Color;
use nightcrew::domain::definition::Pipeline;
use nightcrew::pipeline::{DiskFiles, StoredFiles, Surroundings, parse, parse_stored, scan, schema};
use nightcrew::ports::Registry;

const REGISTRY: Registry = Registry {
    steps: nightcrew::steps::ALL,
    tools: nightcrew::tools::ALL,
    sources: nightcrew::sources::ALL,
    sinks: nightcrew::sinks::ALL,
    models: nightcrew::models::ALL,
    sandboxes: nightcrew::sandboxes::ALL,
    publishers: nightcrew::publishers::ALL,
};

fn shipped(name: &str) -> (Option<Pipeline>, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (pipeline, report) = parse(name, name, &text, &DiskFiles::beside(&path), &REGISTRY, &Surroundings::default());
    (pipeline, report.render(Color::Off))
}

/// Checks `text` with `sql/a.sql` and an environment beside it.
fn check(text: &str) -> String {
    let files = [
        ("sql/a.sql".to_owned(), "select 1".to_owned()),
        ("environments/e.yaml".to_owned(), "test: \"true\"\n".to_owned()),
    ];
    let sources = [("warehouse".to_owned(), "sqlite".to_owned()), ("shop".to_owned(), "http".to_owned())];
    let surroundings =
        Surroundings { sources: Some(sources.into_iter().collect()), sinks: Some(["notes".to_owned()].into()) };
    let (pipeline, report) = parse("p.yaml", "p.yaml", text, &StoredFiles(&files), &REGISTRY, &surroundings);
    assert_eq!(pipeline.is_none(), report.has_errors());
    report.render(Color::Off)
}

/// A pipeline around these steps.
fn with_steps(steps: &str) -> String {
    check(&format!(
        "version: 1\nname: t\nsummary: s\non: {{sentry: {{project: api}}}}\nparams: {{day: {{type: date, default: today}}}}\n\
         limits: {{max_budget_usd: 1.00}}\nrepository: {{github: a/b}}\nenvironment: environments/e.yaml\nsteps:\n{steps}"
    ))
}

#[test]
fn the_shipped_pipelines_have_no_mistake() {
    for name in ["analytics-report.yaml", "code-health.yaml", "error-to-pr.yaml"] {
        let (pipeline, shown) = shipped(name);
        assert_eq!(shown, "", "{name}");
        let pipeline = pipeline.unwrap();
        assert_eq!(format!("{}.yaml", pipeline.name), name);
        // What the journal keeps reads the same.
        let (again, shown) = parse_stored(&pipeline.files, &REGISTRY);
        assert_eq!((again.map(|p| p.hash), shown.render(Color::Off).as_str()), (Some(pipeline.hash), ""));
    }
}

#[test]
fn the_hash_covers_every_file_that_is_referred_to() {
    let (pipeline, _) = shipped("error-to-pr.yaml");
    let pipeline = pipeline.unwrap();
    let names: Vec<&str> = pipeline.files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        names,
        ["error-to-pr.yaml", "environments/api.yaml", "playbooks/review.md", "playbooks/smallest-fix.md"]
    );
    for index in 0..names.len() {
        let mut files = pipeline.files.clone();
        files[index].1.push_str("\n# changed\n");
        assert_ne!(parse_stored(&files, &REGISTRY).0.unwrap().hash, pipeline.hash);
    }
}

#[test]
fn steps_yield_what_later_ones_see() {
    let (pipeline, _) = shipped("error-to-pr.yaml");
    let pipeline = pipeline.unwrap();
    let yields: Vec<String> =
        pipeline.walk().into_iter().map(|(path, step)| format!("{}: {}", path.join("/"), step.yields)).collect();
    assert!(
        yields[1].contains(
            "items: [{class: simple | manageable | complex, confidence: 0..1, why: string(300), ran: boolean"
        ),
        "{}",
        yields[1]
    );
    let cause = yields.iter().find(|y| y.starts_with("repair/cause")).unwrap();
    assert!(cause.contains("risk: low | medium | high?"), "{cause}");
    assert!(yields[2].starts_with("repair: {ran: boolean, outcome: string, items: [{class:"), "{}", yields[2]);
}

#[test]
fn rules_of_steps_are_held() {
    let fetch = "  - {id: a, fetch: {from: sentry}}\n";
    for (steps, title, hint) in [
        ("  - {id: a, fetch: {from: sentri}}\n", "unknown source `sentri`", "did you mean `sentry`?"),
        ("  - {id: a, fetc: {from: sentry}}\n", "unknown key `fetc`", "did you mean `fetch`?"),
        ("  - {id: a}\n", "a step without a kind", "add one of `fetch`"),
        ("  - {id: a, fetch: {from: sentry}, report: {from: trigger}}\n", "a step with two kinds", "split it"),
        ("  - {id: aB, fetch: {from: sentry}}\n", "`aB` cannot be the name of a step", "write `a_b`"),
        ("  - {id: params, fetch: {from: sentry}}\n", "`params` cannot be the name", "choose another name"),
        ("  - {id: a, fetch: {from: sentry}}\n  - {id: a, fetch: {from: sentry}}\n", "the name `a` twice", "rename"),
        ("  - {id: a, fetch: sentry}\n", "`fetch` must be a map", "`fetch: {…}`"),
        (
            "  - {id: a, fetch: {from: sentry, require: {that: a.ran}}}\n",
            "`require` stands in the wrong place",
            "beside `fetch:`",
        ),
        ("  - {id: a, boss: {ask: x, output: {t: string}}}\n", "unknown key `output`", ""),
        (
            "  - {id: a, boss: {ask: x}, require: {that: 'true'}}\n",
            "`require` stands in the wrong place",
            "beside `fetch:`",
        ),
        ("  - {id: a, boss: {}}\n", "`boss` needs an instruction", "write `ask:"),
        ("  - {id: a, ask: x, boss: {playbook: n.md}}\n", "`ask` stands in the wrong place", "under `boss:`"),
        (
            "  - {id: a, fetch: {from: sentry}, output: {t: string}}\n",
            "`output` stands in the wrong place",
            "only model steps",
        ),
        ("  - {id: a, fetch: {from: sentry, keep: item.users >= }}\n", "`keep` is not an expression", "schema --cel"),
        (
            "  - {id: a, fetch: {from: sentry, keep: item.users}}\n  - {id: b, report: {from: aa}}\n",
            "unknown reference `aa`",
            "did you mean `a`?",
        ),
        ("  - {id: a, intern: {task: classify, ask: x}}\n", "`classify` needs `output`", "add for example"),
        ("  - {id: a, intern: {task: clasify, ask: x}}\n", "`task` cannot be `clasify`", "did you mean `classify`?"),
        ("  - {id: a, boss: {ask: x, tools: [raed]}}\n", "unknown tool `raed`", "did you mean `read`?"),
        ("  - {id: a, boss: {ask: x, tools: [Grep]}}\n", "unknown tool `Grep`", "write `search`"),
        (
            "  - {id: a, compute: {compare: trigger, at: params.dya, usual: mean(3)}}\n",
            "unknown field `dya`",
            "did you mean `day`?",
        ),
        (
            "  - {id: f, fetch: {from: sentry}}\n  - {id: a, compute: {compare: f, at: params.day, usual: mean}}\n",
            "`usual` cannot be `mean`",
            "mean(n)",
        ),
        ("  - {id: a, boss: {playbook: ../x.md}}\n", "leaves the pipeline's folder", "without `..`"),
        ("  - {id: a, boss: {playbook: sql/b.sql}}\n", "file `sql/b.sql` is not usable", "looked for"),
        ("  - {id: a, boss: {ask: x}, output: {ran: string}}\n", "`ran` cannot be a field", "choose another"),
        ("  - {id: a, when: params.day, boss: {ask: x}}\n", "`when` must be true or false", ""),
        ("  - {id: a, when: 'true', unless: 'true', boss: {ask: x}}\n", "`when` and `unless` in one step", "join them"),
        ("  - {id: a, steps: [{id: b, boss: {ask: x}}]}\n", "`steps` without `each`", "add `each"),
        ("  - {id: a, report: {from: trigger, chart: {of: b, days: 3}}}\n", "unknown step `b`", ""),
    ] {
        let shown = with_steps(steps);
        assert!(shown.contains(title) && shown.contains(hint), "{steps}\n{shown}");
        assert!(shown.matches("error[").count() <= 2, "{steps}\n{shown}");
    }
    for (steps, title, hint) in [
        ("  - {id: b, each: x of a, boss: {ask: y}}\n", "`each` must be `name in step`", "each: error in errors"),
        ("  - {id: b, each: x in aa, boss: {ask: y}}\n", "unknown reference `aa`", "did you mean `a`?"),
        ("  - {id: b, each: {as: x, in: a.count}, boss: {ask: y}}\n", "`each` needs a list", ""),
        (
            "  - {id: b, each: {as: x, in: a, max_budget_usd: 2.00}, boss: {ask: y}}\n",
            "an item may spend more than its run",
            "$1.00 for the whole run",
        ),
        ("  - {id: b, each: {as: a, in: a}, boss: {ask: y}}\n", "the name `a` twice", "rename"),
        ("  - {id: b, pull_request: {from: a}}\n", "a pull request without a proof", "test_first: true"),
        (
            "  - {id: f, fix: {ask: x}}\n  - {id: b, pull_request: {from: f}}\n",
            "a pull request without a proof",
            "add `test_first: true` to the fix",
        ),
        (
            "  - {id: b, when: a.ran, boss: {ask: x}, output: {r: string}}\n  - {id: d, when: b.r == 'x', boss: {ask: y}}\n",
            "`b.r` may be missing here",
            "write `b.ran && …`",
        ),
        (
            "  - {id: s, scan: {}}\n  - {id: b, each: f in s, intern: {task: classify, ask: x}, output: {message: string}}\n",
            "the item already has a field `message`",
            "choose another",
        ),
        (
            "  - {id: s, scan: {}}\n  - {id: b, each: {as: f, in: s, order: -lin}, intern: {task: filter, ask: x}}\n",
            "unknown field `lin`",
            "did you mean `line`?",
        ),
        (
            "  - {id: b, boss: {ask: x}, output: {m: [key(params)]}}\n",
            "no earlier step `params` with items",
            "known: `a`",
        ),
        (
            "  - {id: b, boss: {ask: x}, output: {m: a | b}}\n  - {id: d, when: b.m == 'c', boss: {ask: y}}\n",
            "`c` can never be equal",
            "",
        ),
        (
            "  - {id: b, intern: {task: filter, ask: x, keep: output.verdict == 'yes'}}\n",
            "`yes` can never be equal",
            "keep | drop",
        ),
    ] {
        let shown = with_steps(&format!("{fetch}{steps}"));
        assert!(shown.contains(title) && shown.contains(hint), "{steps}\n{shown}");
        assert_eq!(shown.matches("error[").count(), 1, "{steps}\n{shown}");
    }
}

#[test]
fn rules_of_the_top_level_are_held() {
    let steps = "steps: [{id: a, boss: {ask: x}}]\n";
    for (head, title, hint) in [
        ("version: 2\nname: t\nsummary: s\n", "unknown version", "write `version: 1`"),
        ("version: 1\nname: T x\nsummary: s\n", "`T x` cannot be a pipeline's name", "write `t-x`"),
        ("version: 1\nname: t\n", "a pipeline needs `summary`", "add `summary:`"),
        (
            "version: 1\nname: t\nsummary: s\nowner: {channel: #ops}\n",
            "a comment where a value is meant",
            "write `ops`",
        ),
        (
            "version: 1\nname: t\nsummary: s\nowner:\n  channel: #ops\n",
            "a comment where a value is meant",
            "write `ops`",
        ),
        (
            "version: 1\nname: t\nsummary: s\non: {schedule: {cron: 0 8 * * *, timezone: UTC}}\n",
            "a cron expression without quotes",
            "`cron: \"0 8 * * *\"`",
        ),
        (
            "version: 1\nname: t\nsummary: s\non: {schedule: {cron: \"0 8 * * *\"}}\n",
            "a schedule without a time zone",
            "add `timezone: Europe/Berlin`",
        ),
        (
            "version: 1\nname: t\nsummary: s\non: {schedule: {cron: \"0 8 * * *\", timezone: Europe/Berlim}}\n",
            "unknown time zone",
            "did you mean `Europe/Berlin`?",
        ),
        (
            "version: 1\nname: t\nsummary: s\non: {schedule: {cron: \"0 25 * * *\", timezone: UTC}}\n",
            "a cron expression that is not understood",
            "",
        ),
        (
            "version: 1\nname: t\nsummary: s\non: {schedule: {cron: \"0 0 30 2 *\", timezone: UTC}}\n",
            "a cron expression that is not understood",
            "day of the month",
        ),
        (
            "version: 1\nname: t\nsummary: s\nlimits: {keep_for_report: 10}\n",
            "`keep_for_report` must be a ratio",
            "did you mean `10%`?",
        ),
        (
            "version: 1\nname: t\nsummary: s\nlimits: {max_budget_usd: \"1.50\"}\n",
            "must be an amount in US dollars",
            "write `1.50` without quotes",
        ),
        (
            "version: 1\nname: t\nsummary: s\nlimits: {max_budget_usd: 2.00, max_per_day_usd: 1.00}\n",
            "one run may spend more than a day",
            "lower",
        ),
        (
            "version: 1\nname: t\nsummary: s\nparams: {d: {type: date, default: tomorrow}}\n",
            "the default does not fit the type",
            "`yesterday`",
        ),
        (
            "version: 1\nname: t\nsummary: s\nparams: {d: {type: integer, default: \"3\"}}\n",
            "the default does not fit the type",
            "",
        ),
        (
            "version: 1\nname: t\nsummary: s\nrepository: {github: \"https://github.com/acme/api.git\"}\n",
            "`github` must be `owner/name`",
            "write `acme/api`",
        ),
        (
            "version: 1\nname: t\nsummary: s\nenvironment: environments/f.yaml\n",
            "file `environments/f.yaml` is not usable",
            "looked for",
        ),
        (
            "version: 1\nname: t\nsummary: s\ntools: {q: {sql: warehose, file: sql/a.sql}}\n",
            "unknown source `warehose`",
            "did you mean `warehouse`?",
        ),
        (
            "version: 1\nname: t\nsummary: s\ntools: {q: {sql: shop, file: sql/a.sql}}\n",
            "source `shop` does not answer sql",
            "write `http: shop`",
        ),
        (
            "version: 1\nname: t\nsummary: s\ntools: {q: {http: shop, get: v1}}\n",
            "`get` must be a path",
            "`/v1/orders`",
        ),
        ("version: 1\nname: t\nsummary: s\ndescription: x\n", "unknown key `description`", "write `summary`"),
        ("version: 1\nname: t\nsummary: sk-ant-api03-AbCdEfGhIjKlMnOp1234\n", "a secret in clear", "secret:NAME"),
    ] {
        let shown = check(&format!("{head}{steps}"));
        assert!(shown.contains(title) && shown.contains(hint), "{head}\n{shown}");
        assert_eq!(shown.matches("error[").count(), 1, "{head}\n{shown}");
        assert!(!shown.contains("sk-ant"), "{shown}");
    }
    assert!(check("").contains("the file is empty"));
    assert!(check("- a\n").contains("a pipeline must be a map"));
}

#[test]
fn arguments_are_held_against_the_tools() {
    let shown = check(
        "version: 1\nname: t\nsummary: s\ntools: {q: {sql: warehouse, file: sql/a.sql, args: {from: date, to: date}}}\n\
         steps: [{id: a, fetch: {from: q, args: {form: '\"2026-01-01\"', to: 3}}}]\n",
    );
    for part in
        ["unknown argument `form`", "did you mean `from`?", "argument `to` must be a date", "tool `q` needs `from`"]
    {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
}

#[test]
fn the_schema_names_every_kind_and_option() {
    let schema = schema::json_schema(&REGISTRY);
    let step = &schema["$defs"]["step"]["properties"];
    for kind in REGISTRY.steps {
        assert!(step.get(kind.name).is_some(), "{}", kind.name);
        for option in kind.beside {
            assert!(step.get(option.name).is_some(), "{}", option.name);
        }
    }
    assert_eq!(step["fetch"]["required"], serde_json::json!(["from"]));
    assert_eq!(step["review"]["anyOf"].as_array().unwrap().len(), 2);
}

/// What a person reads: `tests/it/ui/*.yaml` with the expected text beside it. `NIGHTCREW_BLESS=1` writes what is missing or other.
#[test]
fn diagnostics_read_as_the_golden_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ui");
    let bless = std::env::var_os("NIGHTCREW_BLESS").is_some();
    for path in scan(&folder).unwrap() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (pipeline, report) = parse(name, name, &text, &StoredFiles(&[]), &REGISTRY, &Surroundings::default());
        assert!(pipeline.is_none(), "{name}");
        let shown = report.render(Color::Off);
        let golden = path.with_extension("txt");
        if bless {
            std::fs::write(&golden, &shown).unwrap();
        }
        assert_eq!(shown, std::fs::read_to_string(&golden).unwrap_or_default(), "{name}");
        // Scripts read the same mistakes, in the same order.
        let json = report.to_json();
        assert_eq!(json.len(), report.len());
        assert!(json.windows(2).all(|pair| (pair[0].line, pair[0].column) <= (pair[1].line, pair[1].column)), "{name}");
    }
}

/// `NIGHTCREW_BLESS=1` writes what is made from tables; otherwise the committed file must be the same.
fn assert_fresh(path: &str, fresh: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("NIGHTCREW_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, fresh).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == fresh, "{} is stale: run the tests with NIGHTCREW_BLESS=1", path.display());
}

/// Editors complete and check with the schema; people look codes up in the page.
#[test]
fn what_is_made_from_tables_is_fresh() {
    assert_fresh("config/pipeline.schema.json", &schema::text(&REGISTRY));
    assert_fresh("docs/errors.md", &nightcrew::diag::codes::page());
}

/// A configuration with a dozen mistakes, as a person reads it.
#[test]
fn a_configuration_is_told_all_its_mistakes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ui/config");
    let text = std::fs::read_to_string(folder.join("a-dozen.yaml")).unwrap();
    let read = |_: &str| Err("there is no such file".to_owned());
    let (settings, report) = nightcrew::config::parse("a-dozen.yaml", &text, Path::new(""), &read, &REGISTRY);
    assert!(settings.is_none());
    let shown = report.render(Color::Off);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_fresh("tests/it/ui/config/a-dozen.txt", &shown);
    // Without any file the same tables carry the built-in settings.
    let (built_in, report) = nightcrew::config::built_in(&REGISTRY);
    assert_eq!((built_in.is_some(), report.render(Color::Off).as_str()), (true, ""));
}

/// The example of every kind parses, as one step of a pipeline in which the names it uses exist.
#[test]
fn the_example_of_every_kind_is_a_step() {
    for kind in REGISTRY.steps {
        let example: String = kind.example.lines().map(|line| format!("    {line}\n")).collect();
        let step = format!("  - id: example\n{example}");
        let shown = with_steps(&step);
        // Names of other steps are not there; what the example says of its own kind must be right.
        let own: Vec<&str> = shown
            .lines()
            .filter(|line| line.starts_with("error["))
            .filter(|line| !["P026", "P036", "P033", "P027"].iter().any(|code| line.contains(code)))
            .collect();
        assert!(own.is_empty(), "{}\n{shown}", kind.name);
    }
}

/// Refusing takes less time than a person notices, whatever the file is made of.
#[test]
fn bombs_are_refused_with_few_words() {
    let bombs = [
        format!("version: 1\na: &a [{}]\nb: [{}]\n", "x, ".repeat(40), "*a, ".repeat(9_000)),
        format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        "- ".repeat(100_000),
        format!("{}\n", "a: {b: ".repeat(5_000)),
        "a: b: c\n".repeat(5_000),
        "x: [{y: 1}]\n".repeat(20_000),
        format!("x: 1\n{}", "# nothing\nx: 2\n".repeat(8_000)),
        "k: ghp_0123456789abcdefghijABCDEFGHIJ\n".repeat(4_000),
    ];
    for bomb in bombs {
        let (pipeline, report) =
            parse("b.yaml", "b.yaml", &bomb, &StoredFiles(&[]), &REGISTRY, &Surroundings::default());
        assert!(pipeline.is_none() && report.has_errors() && report.len() <= 100);
    }
}

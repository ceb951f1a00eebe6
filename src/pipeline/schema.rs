//! JSON Schema of the dialect, from the same tables as the checks: for editors to complete and to underline.
//!
//! Says what can be said without looking at other parts of the file; references, types and files are checked by `parse`. The
//! committed `config/pipeline.schema.json` is this text, and a test compares.

use serde_json::{Map, Value, json};

use crate::ports::Registry;
use crate::ports::step::{Opt, OptType, StepKind};

/// The schema as the text that is committed.
pub fn text(registry: &Registry) -> String {
    format!("{:#}\n", json_schema(registry))
}

/// The schema of one pipeline file.
pub fn json_schema(registry: &Registry) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nightcrew pipeline",
        "description": "One pipeline per file. `nightcrew validate` checks what a schema cannot.",
        "type": "object",
        "additionalProperties": false,
        "required": ["version", "name", "summary", "steps"],
        "properties": {
            "version": {"const": 1, "description": "The version of the dialect."},
            "name": {"type": "string", "pattern": "^[a-z][a-z0-9]*(-[a-z0-9]+)*$", "description": "kebab-case"},
            "summary": text_of("What it is for, in one sentence."),
            "owner": object(&["channel"], json!({
                "channel": text_of("The channel that hears of it."),
                "alarm_if_late": duration("An alarm is raised when a due run is this late."),
            })),
            "effects": {"enum": ["preview", "live"], "default": "preview", "description": "Whether anything is published."},
            "params": {"type": "object", "description": "Values that a run may be given with `--set name=value`.", "additionalProperties": object(&["type"], json!({
                "type": {"$ref": "#/$defs/type"},
                "default": {"description": "For dates also `today` and `yesterday`."},
            }))},
            "on": object(&[], json!({
                "schedule": object(&["cron", "timezone"], json!({
                    "cron": text_of("Minute, hour, day of month, month, day of week; quoted."),
                    "timezone": text_of("An IANA name such as `Europe/Berlin`."),
                    "missed": {"type": "string", "pattern": "^(skip|latest|all|all\\([0-9]+\\))$", "description": "What happens to slots that passed while the daemon was down: skip, latest, all, all(n)."},
                    "max_age": duration("Older slots are not made up for."),
                    "overlap": {"enum": ["skip", "queue", "cancel_previous"], "description": "What happens when the run before is still active."},
                    "jitter": duration("A fixed delay of at most this much."),
                })),
                "sentry": object(&["project"], json!({
                    "project": text_of("The Sentry project."),
                    "when": one_or_more(json!({"enum": ["new", "worsened", "regressed"]})),
                    "debounce": duration("Waits this long for more of the same."),
                    "every": duration("How often it is polled, beside webhooks."),
                    "tell": object(&[], json!({
                        "comment": {"type": "boolean", "description": "The link of a pull request or ticket."},
                        "assign": text_of("To whom an issue is assigned that nobody has: `team:ID`, `user:ID` or an e-mail address."),
                        "resolve": {"type": "boolean", "description": "Resolved in the next release when the pull request was merged."},
                    })),
                })),
            })),
            "limits": object(&[], json!({
                "max_turns": {"type": "integer", "minimum": 1, "description": "Requests of boss steps, fixes and reviewers."},
                "max_budget_usd": money("Of one run."),
                "max_per_day_usd": money("Of all runs of a day."),
                "max_duration": duration("Of one run."),
                "keep_for_report": ratio("Held back for the report."),
                "max_open_prs": {"type": "integer", "minimum": 0},
            })),
            "repository": object(&[], json!({
                "github": {"type": "string", "pattern": "^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", "description": "owner/name"},
                "ref": text_of("The branch."),
                "path": text_of("The clone that the local profile uses."),
                "may_reach": {"description": "Where its text may go although it is private.", "type": "array", "items": {"enum": ["public_channels", "public_repositories"]}},
            })),
            "environment": text_of("The environment's file, relative to this one."),
            "tools": {"type": "object", "description": "Read-only queries that `fetch` and agents may call.", "additionalProperties": {"oneOf": [
                object(&["sql", "file"], tool(json!({"sql": text_of("The source."), "file": text_of("The SQL file.")}))),
                object(&["promql", "query"], tool(json!({"promql": text_of("The source."), "query": text_of("An expression; `from` and `to` among the arguments make it a range."), "step": duration("Between two points of a range.")}))),
                object(&["http", "get"], tool(json!({"http": text_of("The source."), "get": text_of("The path."), "rows": text_of("Where the rows are, such as `$.data`.")}))),
            ]}},
            "steps": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
        },
        "$defs": {
            "expression": {"type": ["string", "boolean", "number"], "description": "CEL; see `nightcrew schema --cel`."},
            "data": one_or_more(json!({"$ref": "#/$defs/expression"})),
            "type": {"description": "string, string(300), integer, number, 0..1, boolean, date, a | b, [T], a map, T?, key(step)", "anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": "#/$defs/type"}},
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/type"}},
            ]},
            "step": step(registry),
        },
    })
}

fn step(registry: &Registry) -> Value {
    let mut properties = Map::new();
    properties
        .insert("id".into(), json!({"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "description": "snake_case"}));
    properties.insert("when".into(), described("#/$defs/expression", "Runs only if this is true."));
    properties.insert("unless".into(), described("#/$defs/expression", "Runs only if this is false."));
    properties.insert("each".into(), each());
    properties.insert("steps".into(), json!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}, "description": "Below an `each`: every item is a run of these steps."}));
    properties.insert("output".into(), json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/type"}, "description": "What a model step answers."}));
    properties.insert(
        "check".into(),
        object(
            &[],
            json!({
                "figures_from": described("#/$defs/data", "Every number in the text stands in this data."),
                "quotes_from": described("#/$defs/data", "Every quote stands there literally."),
            }),
        ),
    );
    let mut alternatives = vec![json!({"required": ["steps", "each"]})];
    for kind in registry.steps {
        // `review` is a kind, and beside a fix an option of it: the name then allows both forms.
        let own = with_summary(options(kind.options), kind.summary);
        let as_option = registry.steps.iter().flat_map(|other| other.beside).find(|option| option.name == kind.name);
        let schema = match as_option {
            Some(option) => json!({"anyOf": [own, option_schema(option)], "description": kind.summary}),
            None => own,
        };
        properties.insert(kind.name.into(), schema);
        alternatives.push(alternative(kind, registry));
    }
    for option in registry.steps.iter().flat_map(|kind| kind.beside) {
        if !properties.contains_key(option.name) {
            properties.insert(option.name.into(), option_schema(option));
        }
    }
    json!({"type": "object", "additionalProperties": false, "required": ["id"], "properties": properties, "oneOf": alternatives})
}

/// A step of this kind has its key, and no other kind's except those that are its options.
fn alternative(kind: &StepKind, registry: &Registry) -> Value {
    let others = registry
        .steps
        .iter()
        .filter(|other| other.name != kind.name && !kind.beside.iter().any(|option| option.name == other.name));
    let mut excluded: Vec<Value> = others.map(|other| json!({"required": [other.name]})).collect();
    excluded.push(json!({"required": ["steps"]}));
    // A kind that is an option of another one gives way to it.
    let owners = registry.steps.iter().filter(|other| other.beside.iter().any(|option| option.name == kind.name));
    excluded.extend(owners.map(|other| json!({"required": [other.name]})));
    excluded.dedup();
    json!({"required": [kind.name], "not": {"anyOf": excluded}})
}

fn each() -> Value {
    json!({"description": "Runs the step once per item, in parallel.", "anyOf": [
        {"type": "string", "pattern": "^[a-z][a-z0-9_]* in .+$"},
        object(&["as", "in"], json!({
            "as": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
            "in": {"$ref": "#/$defs/expression"},
            "order": text_of("A field of the items, `-` in front for descending."),
            "take": {"type": "integer", "minimum": 1},
            "parallel": {"type": "integer", "minimum": 1},
            "max_budget_usd": money("Of one item."),
        })),
    ]})
}

fn tool(own: Value) -> Value {
    let mut properties = own.as_object().cloned().unwrap_or_default();
    properties.insert("args".into(), json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/type"}}));
    properties.insert("max_rows".into(), json!({"type": "integer", "minimum": 1}));
    properties.insert(
        "hide".into(),
        described_value(one_or_more(json!({"type": "string"})), "Columns that never reach a model or a report."),
    );
    Value::Object(properties)
}

fn options(options: &[Opt]) -> Value {
    let properties: Map<String, Value> =
        options.iter().map(|option| (option.name.to_owned(), option_schema(option))).collect();
    let required: Vec<&str> = options.iter().filter(|option| option.required).map(|option| option.name).collect();
    object(&required, Value::Object(properties))
}

fn option_schema(option: &Opt) -> Value {
    let schema = match option.ty {
        OptType::Expr(_) => json!({"$ref": "#/$defs/expression"}),
        OptType::Data => json!({"$ref": "#/$defs/data"}),
        OptType::Text | OptType::File | OptType::StepId | OptType::Field | OptType::Channel => {
            json!({"type": "string"})
        }
        OptType::Texts | OptType::Sources => one_or_more(json!({"type": "string"})),
        OptType::Tools => json!({"type": "array", "items": {"type": "string"}}),
        OptType::Integer => json!({"type": "integer", "minimum": 0}),
        OptType::Money => money(""),
        OptType::Permille => ratio(""),
        OptType::Duration => duration(""),
        OptType::Boolean => json!({"type": "boolean"}),
        OptType::Word(words) => word(words),
        OptType::Words(words) => one_or_more(word(words)),
        OptType::Sinks(words) => {
            one_or_more(json!({"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "examples": words}))
        }
        OptType::Args => json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/expression"}}),
        OptType::Commands => one_or_more(json!({"anyOf": [
            {"type": "string"},
            object(&["run"], json!({"run": {"type": "string"}, "ok_exit": one_or_more(json!({"type": "integer"}))})),
        ]})),
        OptType::Map(inner) => options(inner),
    };
    with_summary(schema, option.doc)
}

/// `word(n)` in the table stands for the word with a number.
fn word(words: &[&str]) -> Value {
    if words.iter().all(|word| !word.ends_with("(n)")) {
        return json!({"enum": words});
    }
    let pattern: Vec<String> = words
        .iter()
        .map(|word| word.strip_suffix("(n)").map_or((*word).to_owned(), |name| format!("{name}\\([1-9][0-9]*\\)")))
        .collect();
    json!({"type": "string", "pattern": format!("^({})$", pattern.join("|")), "description": words.join(" | ")})
}

fn with_summary(schema: Value, summary: &str) -> Value {
    if summary.is_empty() { schema } else { described_value(schema, summary) }
}

fn described_value(mut schema: Value, summary: &str) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.entry("description").or_insert_with(|| summary.into());
    }
    schema
}

fn described(reference: &str, summary: &str) -> Value {
    json!({"$ref": reference, "description": summary})
}

fn object(required: &[&str], properties: Value) -> Value {
    let mut schema = json!({"type": "object", "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema["properties"] = properties;
    schema
}

fn one_or_more(item: Value) -> Value {
    json!({"anyOf": [item, {"type": "array", "items": item}]})
}

fn text_of(summary: &str) -> Value {
    json!({"type": "string", "minLength": 1, "description": summary})
}

fn duration(summary: &str) -> Value {
    with_summary(
        json!({"type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "examples": ["90s", "10m", "4h", "14d"]}),
        summary,
    )
}

fn money(summary: &str) -> Value {
    with_summary(json!({"type": "number", "minimum": 0}), summary)
}

fn ratio(summary: &str) -> Value {
    with_summary(
        json!({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?%$"}]}),
        summary,
    )
}

//! `pull_request`: a draft from a proved fix.
//!
//! It only puts the proposal together. Whether the proof holds and the patch may leave is decided by the executor, over the
//! trees and the journal; nothing here or in the YAML can talk it into anything.

use serde_json::{Map, Value};

use crate::base::LocalBoxFuture;
use crate::domain::activity::Activity;
use crate::domain::definition::{Pipeline, Step, StepBody};
use crate::domain::diff::DiffRules;
use crate::domain::entry::StepEnd;
use crate::domain::proof::Evidence;
use crate::domain::proposal::{Proposed, PublishState, Published, PullRequestText};
use crate::domain::view::RunView;
use crate::ports::durable::Stop;
use crate::ports::step::{Checked, KindMistake, Opt, OptType, StepCall, StepKind};

use super::model::mistake;
use super::{E_BASE, E_DATA, data, failed, fix, publish, ticket};

pub const KIND: StepKind = StepKind {
    name: "pull_request",
    summary: "open a draft pull request from a proved fix",
    options: &[
        Opt { name: "from", ty: OptType::StepId, required: true, doc: "an earlier `fix` with `test_first: true`" },
        Opt { name: "labels", ty: OptType::Texts, required: false, doc: "labels to set" },
        Opt { name: "reviewers", ty: OptType::Texts, required: false, doc: "`codeowners`, or names" },
        Opt {
            name: "expires",
            ty: OptType::Duration,
            required: false,
            doc: "closed when nobody looked at it for so long",
        },
    ],
    beside: &[],
    model: false,
    closing: false,
    yields: |_| ticket::yields(),
    check,
    run: Some(run),
    example: "pull_request: {from: fix, reviewers: codeowners, expires: 14d}\n",
};

/// How often a proof is repeated because the base has moved on.
const MOST_MOVES: u32 = 2;
const CARRIED: &str =
    "the base moved on after the review: the change was carried over and proved again there, but not reviewed again";

/// Rule 12: only a fix that shows its failing test first can be proved, and no YAML can weaken this.
fn check(checked: &Checked<'_>) -> Vec<KindMistake> {
    let title = "a pull request must come from a proved fix";
    let Some(from) = checked.options.text("from") else { return Vec::new() };
    match (checked.step)(from) {
        Some(("fix", options)) if options.boolean("test_first") == Some(&true) => Vec::new(),
        Some(("fix", _)) => vec![mistake(
            "pull_request.from",
            title,
            "this fix need not show a failing test first",
            Some("write `test_first: true` in the options of the fix"),
        )],
        Some((kind, _)) => {
            let label = format!("this step is a `{kind}`");
            vec![mistake(
                "pull_request.from",
                title,
                &label,
                Some("name an earlier `fix` step with `test_first: true`"),
            )]
        }
        // An unknown step is reported where references are checked.
        None => Vec::new(),
    }
}

fn run<'a>(call: StepCall<'a>) -> LocalBoxFuture<'a, Result<StepEnd, Stop>> {
    Box::pin(go(call))
}

async fn go(call: StepCall<'_>) -> Result<StepEnd, Stop> {
    let from = call.options.text("from").unwrap_or_default();
    let Some(fix) = call.scope.get(from).and_then(Value::as_object) else {
        return Ok(data::skipped(format!("`{from}` did not run")));
    };
    if fix.get("ran") != Some(&Value::Bool(true)) {
        return Ok(data::skipped(format!("`{from}` did not run")));
    }
    if fix.get("proved") != Some(&Value::Bool(true)) {
        let why = texts(fix, "why").into_iter().next().unwrap_or_else(|| text(fix, "outcome"));
        return Ok(data::skipped(format!("not proved: {why}")));
    }
    let evidence = fix.get("evidence").cloned().unwrap_or_default();
    let evidence: Evidence = serde_json::from_value(evidence)
        .map_err(|error| failed(E_DATA, format!("the evidence of `{from}` cannot be read: {error}")))?;
    let view: RunView = call.ctx.perform("account", Activity::Account).await?.decode()?;
    let item = call.item.and_then(|(_, item)| item.as_object());
    let fingerprints = match call.item {
        Some((_, item)) => vec![ticket::item_fingerprint(item)],
        None => vec![ticket::path_without_keys(call.ctx.path())],
    };
    let title = title(fix, item);
    let words = [item.map(|item| text(item, "type")), item.map(|item| text(item, "title")), Some(title.clone())];
    let words = words.into_iter().flatten().find(|words| !words.is_empty()).unwrap_or_default();
    let texts_of = |name: &str| call.options.texts(name).into_iter().map(str::to_owned).collect();
    let mut limits = texts(fix, "limits");
    if let Some(fewer) = fix.get("fewer_tests").filter(|fewer| fewer.is_object()) {
        limits.push(format!("an earlier run saw {} tests on the base, this one {}", fewer["before"], fewer["now"]));
    }
    let pr = PullRequestText {
        title: title.clone(),
        cause: root_cause(fix, &call),
        change: text(fix, "summary"),
        limits,
        fixes: item.map(|item| text(item, "id")).into_iter().filter(|id| is_id(id)).collect(),
        patch: text_as_is(fix, "patch"),
        new_tree: evidence.new_tree.clone(),
        rules: rules(call.pipeline, call.ctx.path(), from)
            .ok_or_else(|| failed(E_DATA, format!("`{from}` is no step that stands above")))?,
        review: review(fix),
        labels: texts_of("labels"),
        reviewers: texts_of("reviewers"),
        expires_days: call.options.duration("expires").and_then(|d| u32::try_from(d.as_secs() / 86_400).ok()),
        max_open: call.pipeline.limits.max_open_prs.as_ref().map(|most| most.value),
        cost_usd: view.spend.total().as_usd(),
        models: view.models,
        evidence,
    };
    let key = publish::key(&call.pipeline.name, &fingerprints, &words);
    let published = match hand_over(&call, from, key, fingerprints, pr).await? {
        Ok(published) => published,
        Err(why) => return Ok(data::skipped(why)),
    };
    if published.state == PublishState::Refused {
        // As good as not run: a ticket may be opened instead.
        return Ok(data::skipped(published.note));
    }
    Ok(publish::end(&published, &title))
}

/// Publishes it; where the base has moved on since the proof, the proof is repeated there first. `Err` within: why it is not
/// published.
async fn hand_over(
    call: &StepCall<'_>,
    from: &str,
    key: String,
    fingerprints: Vec<String>,
    mut pr: PullRequestText,
) -> Result<Result<Published, String>, Stop> {
    let mut label = String::new();
    let mut moved = 0;
    loop {
        let (key, prints) = (key.clone(), fingerprints.clone());
        let what = Proposed::PullRequest(Box::new(pr.clone()));
        let failure = match publish::publish_as(call, &label, "pull_requests", key, prints, what).await {
            Ok(published) => return Ok(Ok(published)),
            Err(Stop::Failed(failure)) if failure.code == E_BASE => failure,
            Err(stop) => return Err(stop),
        };
        moved += 1;
        if moved > MOST_MOVES {
            return Ok(Err(format!("{}: it moves faster than the proof can be repeated", failure.message)));
        }
        let Some(step) = beside(call.pipeline, call.ctx.path(), from) else {
            return Err(failed(E_DATA, format!("`{from}` is no step that stands above")));
        };
        let StepBody::Kind { options, output, check, .. } = &step.body else {
            return Err(failed(E_DATA, format!("`{from}` is no fix")));
        };
        let fix = StepCall { step, options, output: output.as_ref(), check: check.as_ref(), ..*call };
        let repeated = match fix::again(&fix, moved, &pr.evidence).await? {
            Ok(repeated) => repeated,
            Err(why) => return Ok(Err(format!("the base has moved on, and the fix is not proved there: {why}"))),
        };
        if let Some(patch) = repeated.patch {
            pr.patch = patch;
            pr.limits.retain(|limit| limit != CARRIED);
            pr.limits.push(CARRIED.to_owned());
        }
        pr.new_tree = repeated.evidence.new_tree.clone();
        pr.evidence = repeated.evidence;
        label = format!("moved-{moved}/");
    }
}

fn title(fix: &Map<String, Value>, item: Option<&Map<String, Value>>) -> String {
    let of_item = item.map(|item| text(item, "title")).filter(|title| !title.is_empty());
    match text(fix, "title") {
        title if !title.is_empty() => title,
        _ => of_item.map_or_else(|| "Fix an error".to_owned(), |title| format!("Fix {title}")),
    }
}

/// What the fix says of it, else what an earlier step found.
fn root_cause(fix: &Map<String, Value>, call: &StepCall<'_>) -> String {
    let own = text(fix, "root_cause");
    if !own.is_empty() {
        return own;
    }
    let earlier = call.scope.0.values().filter(|result| result["ran"] == true);
    let found = earlier.filter_map(|result| result["root_cause"].as_str()).find(|cause| !cause.trim().is_empty());
    found.map_or_else(|| text(fix, "summary"), |cause| cause.trim().to_owned())
}

/// (round, verdict, what was said), in words.
fn review(fix: &Map<String, Value>) -> Vec<(u32, String, String)> {
    let rounds = fix.get("review").and_then(Value::as_array).into_iter().flatten();
    let said = |finding: &Value| {
        let at = match (finding["file"].as_str(), finding["line"].as_u64()) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) if !file.is_empty() => format!("{file}: "),
            _ => String::new(),
        };
        let severity = finding["severity"].as_str().unwrap_or("advice");
        format!("{at}{} ({severity})", finding["text"].as_str().unwrap_or_default())
    };
    let one = |round: &Value| {
        let findings: Vec<String> = round["findings"].as_array().into_iter().flatten().map(said).collect();
        let said = if findings.is_empty() { "no finding".to_owned() } else { findings.join(" · ") };
        let number = round["round"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        (number, round["verdict"].as_str().unwrap_or("unknown").to_owned(), said)
    };
    rounds.map(one).collect()
}

/// `API-4F2`: a word that a tracker knows, and nothing else.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 40 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// What the fix may touch.
fn rules(pipeline: &Pipeline, path: &str, from: &str) -> Option<DiffRules> {
    match &beside(pipeline, path, from)?.body {
        StepBody::Kind { options, .. } => Some(fix::diff_rules(options)),
        StepBody::Steps(_) => None,
    }
}

/// The step of the YAML by this name that stands beside this one or above it.
fn beside<'a>(pipeline: &'a Pipeline, path: &str, from: &str) -> Option<&'a Step> {
    let own = ticket::path_without_keys(path);
    let mut above: Vec<&str> = own.split('/').collect();
    let steps = pipeline.walk();
    while above.pop().is_some() {
        let sought: Vec<&str> = above.iter().copied().chain([from]).collect();
        if let Some((_, step)) = steps.iter().find(|(path, _)| *path == sought) {
            return Some(step);
        }
    }
    None
}

fn text_as_is(fields: &Map<String, Value>, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    text_as_is(fields, name).trim().to_owned()
}

fn texts(fields: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = fields.get(name).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

//! `steps`: ids, conditions, `each`, the one kind with its options, and what each step yields to the later ones.

use crate::base::money::UsdMicros;
use crate::diag::{Diagnostic, Entry, MapReader, Node, Span, closest, codes, did_you_mean};
use crate::domain::definition::{Check, Condition, OptionValue, Options, Step, StepBody, ToolDef};
use crate::expr::cel::Expr;
use crate::expr::check::{Known, TypeScope, compatible};
use crate::expr::names;
use crate::expr::parse_type::parse_type;
use crate::expr::types::{Field, Type};
use crate::ports::step::{Checked, Sees, StepKind, Yields};

use super::context::Context;
use super::each::{self, EachRead};
use super::exprs;
use super::options::{OptionReader, Pending, misplaced};
use super::read::{LimitSpans, check_name};
use super::scope::{Earlier, Scope, as_data, item_of, merge, result};

/// What the steps are checked against beside their scope.
pub(super) struct Rules<'a> {
    pub tools: &'a [ToolDef],
    pub limits: LimitSpans,
    pub environment: bool,
    pub repository: bool,
    pub sentry: bool,
}

/// Reads a list of steps into `scope`, so that each sees the ones before it.
pub(super) fn steps(node: &Node, scope: &mut Scope, rules: &Rules<'_>, c: &mut Context<'_>) -> Vec<Step> {
    let Some(items) = node.list("`steps`", &mut c.d) else { return Vec::new() };
    if items.is_empty() {
        c.error(
            &codes::EMPTY,
            "no steps",
            node.span,
            "nothing would be done",
            Some("add at least one step".to_owned()),
        );
    }
    items.iter().filter_map(|item| step(item, scope, rules, c)).collect()
}

fn step(node: &Node, scope: &mut Scope, rules: &Rules<'_>, c: &mut Context<'_>) -> Option<Step> {
    let mut map = node.map("a step", &mut c.d)?;
    let id_node = map.require("id", &mut c.d);
    let id_span = id_node.map_or(map.place(), |node| node.span);
    let id = id_node.and_then(|node| node.string("`id`", &mut c.d)).unwrap_or("").to_owned();
    if id_node.is_some() && !id.is_empty() {
        introduce(&id, id_span, "a step", scope, c);
    }
    let condition = condition(&mut map, scope, c);
    let mut inside = scope.clone();
    inside.above.push(id.clone());
    if let Some(condition) = &condition {
        inside.known.extend(Known::when(&condition.expr, condition.negated));
    }
    let each = map.optional("each", &mut c.d).and_then(|node| each::each(node, &inside, rules, c));
    if let Some(each) = &each {
        inside.types.set(each.each.name.clone(), each.item.clone());
        inside.bound.insert(each.each.name.clone(), each.name_span);
    }
    let read = StepReader { id: &id, each: each.as_ref(), scope: &inside, rules };
    let done = read.body(&mut map, node, c);
    finish(map, c);

    let may_not_run = condition.is_some();
    let yields = match done.yields {
        Some((fields, open)) => result(fields, open, may_not_run),
        None => Type::Any,
    };
    if !id.is_empty() {
        scope.types.set(id.clone(), yields.clone());
        scope.steps.insert(id.clone(), Earlier { kind: done.kind, options: done.options, id_span });
    }
    Some(Step { id, origin: c.origin(id_span), condition, each: each.map(|each| each.each), body: done.body, yields })
}

/// Reports a name that cannot be introduced here.
pub(super) fn introduce(name: &str, span: Span, what: &str, scope: &Scope, c: &mut Context<'_>) {
    if !check_name(name, span, what, c) {
        return;
    }
    if names::TAKEN.contains(&name) {
        let help = Some(format!("choose another name: expressions already know `{name}`"));
        c.error(
            &codes::NAME,
            format!("`{name}` cannot be the name of {what}"),
            span,
            "this name has a meaning of its own",
            help,
        );
    } else if let Some(first) = scope.taken(name) {
        c.d.push(
            Diagnostic::error(&codes::DUPLICATE_NAME, format!("the name `{name}` twice"), span, "again here")
                .also(first, "first here")
                .help("rename one of the two"),
        );
    }
}

fn condition(map: &mut MapReader<'_>, scope: &Scope, c: &mut Context<'_>) -> Option<Condition> {
    let when = map.take_entry("when");
    let unless = map.take_entry("unless");
    if let (Some(when), Some(unless)) = (when, unless) {
        c.d.push(
            Diagnostic::error(&codes::EXCLUSIVE, "`when` and `unless` in one step", unless.key_span, "the other one")
                .also(when.key_span, "one condition")
                .help("join them: `when: a && !(b)`"),
        );
    }
    let entry = when.or(unless)?;
    let what = format!("`{}`", entry.key);
    let expr = exprs::parse(&what, &entry.value, &mut c.d)?;
    exprs::check_condition(&what, &expr, &entry.value, &scope.types, &scope.known, &mut c.d);
    Some(Condition { expr, negated: when.is_none() })
}

fn finish(mut map: MapReader<'_>, c: &mut Context<'_>) {
    for kind in c.registry.steps {
        for option in kind.beside {
            // A kind of the same name was taken already.
            if map.unknown().iter().any(|entry| entry.key == option.name)
                && let Some(entry) = map.take_entry(option.name)
            {
                let help = Some(format!("`{}` belongs beside `{}:`", option.name, kind.name));
                let title = format!("`{}` stands in the wrong place", option.name);
                c.error(&codes::MISPLACED, title, entry.key_span, "not an option of this step", help);
            }
        }
    }
    map.know(["id", "when", "unless", "each", "steps", "output", "check"]);
    map.know(c.registry.steps.iter().map(|kind| kind.name));
    map.renamed("name", "id");
    map.renamed("if", "when");
    map.renamed("foreach", "each");
    map.renamed("for_each", "each");
    map.finish(&mut c.d);
}

/// What reading a step's body gave.
struct Done {
    kind: String,
    options: Options,
    body: StepBody,
    /// The fields of the result and whether others may be there; `None`: not known, because of a mistake.
    yields: Option<(Vec<Field>, bool)>,
}

struct StepReader<'s> {
    id: &'s str,
    each: Option<&'s EachRead>,
    /// What the body sees: the step's own condition and item included.
    scope: &'s Scope,
    rules: &'s Rules<'s>,
}

impl StepReader<'_> {
    fn body<'n>(&self, map: &mut MapReader<'n>, node: &'n Node, c: &mut Context<'_>) -> Done {
        match kind_of(map, c) {
            Some((kind, entry)) => {
                if let Some(steps) = map.take_entry("steps") {
                    two_kinds(entry, steps, c);
                }
                self.kind(kind, entry, map, node, c)
            }
            None => match map.optional("steps", &mut c.d) {
                Some(children) => self.children(children, map, c),
                None => {
                    self.no_kind(map, c);
                    for key in ["output", "check"] {
                        map.take(key);
                    }
                    Done {
                        kind: String::new(),
                        options: Options::default(),
                        body: StepBody::Steps(Vec::new()),
                        yields: None,
                    }
                }
            },
        }
    }

    /// Neither a kind nor `steps`: a misspelt kind is told as such when the leftovers are reported.
    fn no_kind(&self, map: &MapReader<'_>, c: &mut Context<'_>) {
        let names: Vec<&str> = c.registry.steps.iter().map(|kind| kind.name).collect();
        let misspelt = map.unknown().into_iter().any(|entry| closest(&entry.key, names.iter().copied()).is_some());
        if !misspelt {
            let help = Some(format!("add one of `{}`", names.join("` `")));
            c.error(&codes::NO_KIND, "a step without a kind", map.place(), "what does it do?", help);
        }
    }

    fn children(&self, node: &Node, map: &mut MapReader<'_>, c: &mut Context<'_>) -> Done {
        if self.each.is_none() && !map.has("each") {
            let help = Some("add `each: item in step`, or write the steps on the level above".to_owned());
            c.error(
                &codes::NEEDS,
                "`steps` without `each`",
                map.place(),
                "each item of an `each` is a run of these steps",
                help,
            );
        }
        for key in ["output", "check"] {
            if let Some(entry) = map.take_entry(key) {
                let help = Some("move it to one of the steps".to_owned());
                c.error(
                    &codes::MISPLACED,
                    format!("`{key}` stands in the wrong place"),
                    entry.key_span,
                    "a step with `steps` has no model of its own",
                    help,
                );
            }
        }
        let mut scope = self.scope.clone();
        let children = steps(node, &mut scope, self.rules, c);
        let mut added = vec![Field::new("ran", Type::Boolean), Field::new("outcome", Type::TEXT)];
        added.extend(children.iter().map(|child| Field::new(child.id.clone(), child.yields.clone())));
        let item = self.each.map_or(Type::Any, |each| each.item.clone());
        let (merged, clashes) = merge(&item, &added);
        for clash in clashes {
            let span = scope.steps.get(&clash).map_or(node.span, |step| step.id_span);
            self.clash(&clash, span, c);
        }
        Done {
            kind: String::new(),
            options: Options::default(),
            yields: Some(list_of(merged, Vec::new())),
            body: StepBody::Steps(children),
        }
    }

    fn clash(&self, field: &str, span: Span, c: &mut Context<'_>) {
        let mut d = Diagnostic::error(
            &codes::EACH_CLASH,
            format!("the item already has a field `{field}`"),
            span,
            "would hide it",
        )
        .help("choose another name");
        if let Some(each) = self.each {
            d = d.also(each.items_span, "the items come from here");
        }
        c.d.push(d);
    }

    fn kind<'n>(
        &self,
        kind: &'static StepKind,
        entry: &'n Entry,
        map: &mut MapReader<'n>,
        node: &'n Node,
        c: &mut Context<'_>,
    ) -> Done {
        let mut reader = OptionReader {
            c,
            scope: self.scope,
            tools: self.rules.tools,
            pending: Vec::new(),
            fields: Vec::new(),
            failed: false,
        };
        let mut options = Options::default();
        let under = format!("under `{}:`", kind.name);
        let known = !entry.value.is_broken();
        let help = format!("options stand under the kind as a map: `{}: {{…}}`", kind.name);
        if entry.value.entries().is_some() {
            if let Some(mut inner) = entry.value.map(&format!("`{}`", kind.name), &mut reader.c.d) {
                options.0.extend(reader.read(&mut inner, kind.options));
                misplaced(&mut inner, kind.beside, &format!("beside `{}:`, one level up", kind.name), reader.c, &[]);
                inner.finish(&mut reader.c.d);
            }
        } else if !entry.value.is_null() || kind.options.iter().any(|option| option.required) {
            entry.value.wrong_shape(&format!("`{}`", kind.name), "a map", Some(&help), &mut reader.c.d);
        }
        options.0.extend(reader.read(map, kind.beside));
        let (pending, fields, failed) = (reader.pending, reader.fields, reader.failed);
        let reserved: Vec<&str> =
            kind.beside.iter().map(|option| option.name).chain(STEP_KEYS.iter().copied()).collect();
        let before = c.d.len();
        misplaced(map, kind.options, &under, c, &reserved);
        let failed = failed || c.d.len() > before;

        let output = self.output(kind, &options, map, entry, c);
        let check = self.check(kind, map, c);
        let of_options = |expr: &Expr| expr.check(&self.scope.types, &self.scope.known).0;
        let yields = (kind.yields)(&Yields {
            options: &options,
            output: output.as_ref().map(|(ty, _)| ty),
            type_of: &of_options,
            is_tool: &|name| self.rules.tools.iter().any(|tool| tool.name == name),
            has_each: self.each.is_some(),
        });
        let (fields_of_result, open) = self.result_fields(kind, &yields, output.as_ref(), &options, entry, c);
        let own = result(fields_of_result.clone(), open, false);
        self.check_pending(&pending, &own, output.as_ref().map(|(ty, _)| ty), c);
        self.check_args(&pending, &options, entry, c);
        self.check_fields(&fields, &own, c);
        // Rules look at what is absent; where an option could not be read they would only repeat its mistake.
        if known && self.proved(kind, &options, entry, c) && !failed {
            self.kind_rules(kind, &options, entry, node, output.is_some(), c);
        }
        let kept = options.clone();
        let body = StepBody::Kind { kind: kind.name.to_owned(), options, output: output.map(|(ty, _)| ty), check };
        Done { kind: kind.name.to_owned(), options: kept, body, yields: known.then_some((fields_of_result, open)) }
    }

    /// `output` as written (with the node's fields for positions), or the default of the task.
    fn output<'n>(
        &self,
        kind: &StepKind,
        options: &Options,
        map: &mut MapReader<'n>,
        entry: &Entry,
        c: &mut Context<'_>,
    ) -> Option<(Type, Option<&'n Node>)> {
        let written = map.take_entry("output");
        if let (Some(output), false) = (written, kind.model) {
            let models: Vec<&str> = c.registry.steps.iter().filter(|kind| kind.model).map(|kind| kind.name).collect();
            let help = Some(format!("only model steps have one: `{}`", models.join("` `")));
            c.error(
                &codes::MISPLACED,
                "`output` stands in the wrong place",
                output.key_span,
                format!("`{}` decides itself what it yields", kind.name),
                help,
            );
            return None;
        }
        let Some(written) = written else { return default_output(kind.name, options, entry, c).map(|ty| (ty, None)) };
        if written.value.is_null() || written.value.is_broken() {
            written.value.wrong_shape("`output`", "a map of types", None, &mut c.d);
            return Some((Type::Open(Vec::new()), None));
        }
        if written.value.entries().is_none() {
            written.value.wrong_shape(
                "`output`",
                "a map of types",
                Some("name the fields: `output: {text: string(300)}`"),
                &mut c.d,
            );
            return Some((Type::Open(Vec::new()), None));
        }
        let before = c.d.len();
        let scope = self.scope;
        let key_of = |step: &str| match scope.types.get(step) {
            Some(ty) if item_of(ty).is_some() => Ok(()),
            _ => {
                let with_items = scope.types.names().filter(|name| {
                    scope.types.get(name).and_then(item_of).is_some() && scope.steps.contains_key(*name)
                });
                Err(did_you_mean(step, with_items))
            }
        };
        let ty = parse_type(&written.value, &key_of, &mut c.d);
        for field in written.value.entries().unwrap_or_default() {
            if field.key == "ran" || field.key == "outcome" {
                let title = format!("`{}` cannot be a field of `output`", field.key);
                c.error(
                    &codes::NAME,
                    title,
                    field.key_span,
                    "every step has it already",
                    Some("choose another name".to_owned()),
                );
            }
        }
        let ty = match ty {
            Some(Type::Map(fields)) if c.d.len() > before => Type::Open(fields),
            Some(ty) => ty,
            None => Type::Open(Vec::new()),
        };
        Some((ty, Some(&written.value)))
    }

    fn check(&self, kind: &StepKind, map: &mut MapReader<'_>, c: &mut Context<'_>) -> Option<Check> {
        let entry = map.take_entry("check")?;
        if !kind.model {
            let help = Some("only what a model wrote can be checked".to_owned());
            c.error(
                &codes::MISPLACED,
                "`check` stands in the wrong place",
                entry.key_span,
                format!("`{}` is not a model step", kind.name),
                help,
            );
            return None;
        }
        let mut inner = entry.value.map("`check`", &mut c.d)?;
        let mut exprs_of = |key: &str, c: &mut Context<'_>| -> Vec<Expr> {
            let Some(node) = inner.optional(key, &mut c.d) else { return Vec::new() };
            let what = format!("`{key}`");
            let mut found = Vec::new();
            for item in node.one_or_more() {
                if let Some(expr) = exprs::parse(&what, item, &mut c.d) {
                    exprs::check(&expr, item, &self.scope.types, &self.scope.known, &mut c.d);
                    found.push(expr);
                }
            }
            found
        };
        let check = Check { figures_from: exprs_of("figures_from", c), quotes_from: exprs_of("quotes_from", c) };
        inner.finish(&mut c.d);
        Some(check)
    }

    /// The fields of the step's result. With `each` the kind's fields are those of one item.
    fn result_fields(
        &self,
        kind: &StepKind,
        yields: &Type,
        output: Option<&(Type, Option<&Node>)>,
        options: &Options,
        entry: &Entry,
        c: &mut Context<'_>,
    ) -> (Vec<Field>, bool) {
        let fields = yields.fields().unwrap_or_default().to_vec();
        let open = matches!(yields, Type::Any | Type::Open(_));
        let Some(each) = self.each else { return (fields, open) };
        let mut beside: Vec<Field> = Vec::new();
        let mut added = fields;
        if kind.model
            && let Some((ty, _)) = output
        {
            // What is not an output field, such as `audit`, is about all items together.
            beside = added
                .into_iter()
                .filter(|field| !matches!(field.name.as_str(), "items" | "count") && ty.field(&field.name).is_none())
                .collect();
            added = ty.fields().unwrap_or_default().to_vec();
            if options.permille("audit").is_some() && !beside.iter().any(|field| field.name == "audit") {
                beside.push(Field::new("audit", Type::Any));
            }
        }
        let (_, clashes) = merge(&each.item, &added);
        let output_node = output.and_then(|(_, node)| *node);
        for clash in clashes {
            let place =
                output_node.and_then(Node::entries).and_then(|entries| entries.iter().find(|field| field.key == clash));
            // Fields that a kind has by itself are put under the item's name instead of refused: nobody can rename them.
            if place.is_some() || output_node.is_none() {
                self.clash(&clash, place.map_or(entry.key_span, |field| field.key_span), c);
            }
        }
        added.extend([Field::new("ran", Type::Boolean), Field::new("outcome", Type::TEXT)]);
        let open_output = matches!(output, Some((Type::Open(_), _))) || (open && !kind.model);
        let (merged, _) = merge(&each.item, &added);
        let merged = match merged {
            Type::Map(fields) if open_output => Type::Open(fields),
            merged => merged,
        };
        list_of(merged, beside)
    }

    fn check_pending(&self, pending: &[Pending<'_>], own: &Type, output: Option<&Type>, c: &mut Context<'_>) {
        for pending in pending {
            let mut types: TypeScope = self.scope.types.clone();
            match pending.sees {
                Sees::Nothing => {}
                Sees::Item => types.set("item", own.field("items").and_then(item_of).unwrap_or(Type::Any)),
                Sees::Own => types.set(self.id, own.clone()),
                Sees::Output => types.set("output", output.cloned().unwrap_or(Type::Any)),
            }
            if pending.condition {
                exprs::check_condition(&pending.what, &pending.expr, pending.node, &types, &self.scope.known, &mut c.d);
            } else {
                exprs::check(&pending.expr, pending.node, &types, &self.scope.known, &mut c.d);
            }
        }
    }

    /// Arguments against what the pipeline's tools take.
    fn check_args(&self, pending: &[Pending<'_>], options: &Options, entry: &Entry, c: &mut Context<'_>) {
        let names = options.texts("from");
        let tools: Vec<&ToolDef> =
            names.iter().filter_map(|name| self.rules.tools.iter().find(|tool| tool.name == **name)).collect();
        if tools.is_empty() || tools.len() < names.len() {
            return;
        }
        for pending in pending {
            let Some(arg) = &pending.arg else { continue };
            let Some((_, wanted)) = tools.iter().flat_map(|tool| &tool.args).find(|(name, _)| name == arg) else {
                let known = tools.iter().flat_map(|tool| &tool.args).map(|(name, _)| name.as_str());
                let help = did_you_mean(arg, known);
                c.error(
                    &codes::UNKNOWN_KEY,
                    format!("unknown argument `{arg}`"),
                    pending.node.span,
                    "no tool of this step takes it",
                    help,
                );
                continue;
            };
            let found = pending.expr.check(&self.scope.types, &self.scope.known).0;
            if !compatible(wanted, &found) {
                let title = format!("argument `{arg}` must be {}", wanted.noun());
                c.error(&codes::TYPE_CONFLICT, title, pending.node.span, format!("this is {}", found.noun()), None);
            }
        }
        for tool in tools {
            let missing: Vec<&str> = tool
                .args
                .iter()
                .filter(|(name, ty)| {
                    !matches!(ty, Type::Optional(_)) && !pending.iter().any(|p| p.arg.as_deref() == Some(name))
                })
                .map(|(name, _)| name.as_str())
                .collect();
            if !missing.is_empty() && !entry.value.is_broken() {
                let span = entry.value.get("args").map_or(entry.key_span, |node| node.span);
                let title = format!("tool `{}` needs `{}`", tool.name, missing.join("`, `"));
                c.error(
                    &codes::MISSING_KEY,
                    title,
                    span,
                    "not given",
                    Some(format!("add it: `args: {{{}: …}}`", missing.join(": …, "))),
                );
            }
        }
    }

    fn check_fields(&self, fields: &[(String, &Node)], own: &Type, c: &mut Context<'_>) {
        let Some(Type::Map(known)) = own.field("items").and_then(item_of) else { return };
        for (name, node) in fields {
            if !known.iter().any(|field| field.name == *name) {
                let help = did_you_mean(name, known.iter().map(|field| field.name.as_str()));
                c.error(
                    &codes::UNKNOWN_FIELD,
                    format!("unknown field `{name}`"),
                    node.span,
                    "the items have no such field",
                    help,
                );
            }
        }
    }

    /// Whether a pull request has its proof; anything else needs none.
    fn proved(&self, kind: &StepKind, options: &Options, entry: &Entry, c: &mut Context<'_>) -> bool {
        let before = c.d.len();
        if kind.name == "pull_request" {
            self.proof(options, entry, c);
        }
        c.d.len() == before
    }

    fn kind_rules(
        &self,
        kind: &StepKind,
        options: &Options,
        entry: &Entry,
        node: &Node,
        has_output: bool,
        c: &mut Context<'_>,
    ) {
        let steps = &self.scope.steps;
        let step = |name: &str| steps.get(name).map(|step| (step.kind.as_str(), &step.options));
        let mistakes = (kind.check)(&Checked {
            options,
            has_output,
            has_each: self.each.is_some(),
            step: &step,
            environment: self.rules.environment,
            repository: self.rules.repository,
            sentry: self.rules.sentry,
        });
        for mistake in mistakes {
            let span = at(node, &mistake.at).unwrap_or(entry.key_span);
            c.error(&codes::NEEDS, mistake.title, span, mistake.label, mistake.help);
        }
    }

    /// Rule 12: nothing opens a pull request but a fix that had to show its test first. No kind can weaken this.
    fn proof(&self, options: &Options, entry: &Entry, c: &mut Context<'_>) {
        // A `from` that could not be read is a mistake already.
        let (Some(node), Some(value)) = (entry.value.get("from"), options.0.get("from")) else { return };
        let name = match value {
            OptionValue::Expr(expr) => expr.bare_name(),
            OptionValue::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let fixes: Vec<&str> =
            self.scope.steps.iter().filter(|(_, step)| step.kind == "fix").map(|(id, _)| id.as_str()).collect();
        let help = match fixes.as_slice() {
            [] => "add a step with `fix: {…, test_first: true}` before it".to_owned(),
            fixes => format!("write the id of a `fix` step: `{}`", fixes.join("` `")),
        };
        let Some(step) = name.and_then(|name| self.scope.steps.get(name)) else {
            if !node.is_broken() {
                c.error(
                    &codes::PROOF,
                    "a pull request without a proof",
                    node.span,
                    "`from` takes an earlier `fix`",
                    Some(help),
                );
            }
            return;
        };
        if step.kind != "fix" {
            let label = if step.kind.is_empty() {
                "this step is no `fix`".to_owned()
            } else {
                format!("this step is a `{}`", step.kind)
            };
            c.d.push(
                Diagnostic::error(&codes::PROOF, "a pull request without a proof", node.span, label)
                    .also(step.id_span, "this one")
                    .help(help),
            );
        } else if step.options.boolean("test_first") != Some(&true) {
            c.d.push(
                Diagnostic::error(
                    &codes::PROOF,
                    "a pull request without a proof",
                    node.span,
                    "this `fix` need not show its test first",
                )
                .also(step.id_span, "this one")
                .help("add `test_first: true` to the fix"),
            );
        }
    }
}

/// The keys that every step may have.
pub(super) const STEP_KEYS: &[&str] = &["id", "when", "unless", "each", "steps", "output", "check"];

/// The result of an `each`: its items with what was added to them.
fn list_of(item: Type, beside: Vec<Field>) -> (Vec<Field>, bool) {
    let mut fields = vec![
        Field::new("items", Type::list(item)),
        Field::new("count", Type::Integer),
        Field::new("failed", Type::list(Type::Any)),
    ];
    fields.extend(beside);
    (fields, false)
}

/// The one kind of the step. Two are reported, and the first one written is taken.
fn kind_of<'n>(map: &mut MapReader<'n>, c: &mut Context<'_>) -> Option<(&'static StepKind, &'n Entry)> {
    let all: &'static [StepKind] = c.registry.steps;
    let mut found: Vec<&'static StepKind> = all.iter().filter(|kind| map.has(kind.name)).collect();
    // `review` beside `fix` is an option of the fix.
    if let Some(owner) = found.iter().copied().find(|kind| {
        found.iter().all(|other| other.name == kind.name || kind.beside.iter().any(|o| o.name == other.name))
    }) {
        found = vec![owner];
    }
    let mut entries: Vec<(&'static StepKind, &'n Entry)> =
        found.into_iter().filter_map(|kind| Some((kind, map.take_entry(kind.name)?))).collect();
    entries.sort_by_key(|(_, entry)| entry.key_span);
    let (kind, entry) = *entries.first()?;
    for (_, other) in entries.iter().skip(1) {
        two_kinds(entry, other, c);
    }
    Some((kind, entry))
}

fn two_kinds(first: &Entry, second: &Entry, c: &mut Context<'_>) {
    c.d.push(
        Diagnostic::error(&codes::TWO_KINDS, "a step with two kinds", second.key_span, "the second kind")
            .also(first.key_span, "the first kind")
            .help("a step has exactly one kind: split it in two"),
    );
}

/// What a task yields when the step does not say.
fn default_output(kind: &str, options: &Options, entry: &Entry, c: &mut Context<'_>) -> Option<Type> {
    let text = |max| Type::Map(vec![Field::new("text", Type::String { max: Some(max) })]);
    match (kind, options.text("task")) {
        ("intern", Some("summarise")) => Some(text(1200)),
        ("intern", Some("format")) | ("boss", _) => Some(text(4000)),
        ("intern", Some("filter")) => Some(Type::Map(vec![
            Field::new("verdict", Type::Enum(vec!["keep".to_owned(), "drop".to_owned()])),
            Field::new("why", Type::String { max: Some(200) }),
        ])),
        ("intern", Some(task)) => {
            let span = entry.value.get("task").map_or(entry.key_span, |node| node.span);
            let help = match task {
                "classify" => "add for example `output: {class: simple | complex, why: string(300)}`",
                _ => "add the fields to be found: `output: {…}`",
            };
            c.error(
                &codes::MISSING_KEY,
                format!("`{task}` needs `output`"),
                span,
                "what is to be answered?",
                Some(help.to_owned()),
            );
            Some(Type::Open(Vec::new()))
        }
        ("intern", None) => Some(Type::Open(Vec::new())),
        _ => None,
    }
}

/// The place of a dotted option of a step.
fn at(node: &Node, dotted: &str) -> Option<Span> {
    let mut span = None;
    let mut node = node;
    for part in dotted.split('.').filter(|part| !part.is_empty()) {
        let Some(entry) = node.entries()?.iter().find(|entry| entry.key == part) else { return span };
        span = Some(if entry.value.entries().is_some() { entry.key_span } else { entry.value.span });
        node = &entry.value;
    }
    span
}

/// Whether an item's budget fits into the run's; reported with both places.
pub(super) fn check_item_budget(budget: UsdMicros, span: Span, rules: &Rules<'_>, c: &mut Context<'_>) {
    let Some((run, run_span)) = rules.limits.max_budget else { return };
    if budget > run {
        c.d.push(
            Diagnostic::error(&codes::LIMIT, "an item may spend more than its run", span, format!("{budget} an item"))
                .also(run_span, format!("{run} for the whole run"))
                .help("lower the one or raise the other"),
        );
    }
}

/// The type of the items that an expression gives, for messages about lists.
pub(super) fn items_type(ty: &Type) -> Result<Type, &'static str> {
    item_of(ty).ok_or_else(|| as_data(ty).noun())
}

//! The options of a step, as the kind's table describes them.

use crate::base::money::UsdMicros;
use crate::diag::{Diagnostic, MapReader, Node, NodeKind, Span, closest, codes, did_you_mean};
use crate::domain::definition::{OptionValue, ToolDef};
use crate::expr::cel::Expr;
use crate::expr::names;
use crate::ports::step::{Opt, OptType, Sees};

use super::context::Context;
use super::read::{channel, permille};
use super::scope::Scope;
use super::{environment, exprs, tools};

/// An expression whose types are checked when the step's own type is known.
pub(super) struct Pending<'n> {
    pub expr: Expr,
    pub node: &'n Node,
    pub sees: Sees,
    /// For messages: the option's name in backquotes.
    pub what: String,
    /// Must be true or false.
    pub condition: bool,
    /// Set for the arguments of a tool: its name, to look up the type.
    pub arg: Option<String>,
}

/// Sources that the dialect knows by their own name; a profile says what answers.
const BUILT_IN_SOURCES: &[&str] = &["sentry"];

/// Options that are conditions.
const CONDITIONS: &[&str] = &["keep", "flag_when", "escalate_when", "that"];

pub(super) struct OptionReader<'c, 'a, 'n> {
    pub c: &'c mut Context<'a>,
    pub scope: &'c Scope,
    pub tools: &'c [ToolDef],
    pub pending: Vec<Pending<'n>>,
    /// `order` and the like, checked against the items: (field, node).
    pub fields: Vec<(String, &'n Node)>,
    /// An option was written and could not be read: rules about absent options would only repeat that.
    pub failed: bool,
}

impl<'n> OptionReader<'_, '_, 'n> {
    /// Reads all of `options` out of `map`; what is left over stays.
    pub fn read(&mut self, map: &mut MapReader<'n>, options: &'static [Opt]) -> Vec<(&'static str, OptionValue)> {
        let mut found = Vec::new();
        for option in options {
            let node = match option.required {
                true => map.require(option.name, &mut self.c.d),
                false => map.optional(option.name, &mut self.c.d),
            };
            match node.map(|node| self.value(option.name, option.ty, node)) {
                Some(Some(value)) => found.push((option.name, value)),
                Some(None) => self.failed = true,
                None => self.failed |= map.has(option.name),
            }
        }
        found
    }

    fn value(&mut self, name: &str, ty: OptType, node: &'n Node) -> Option<OptionValue> {
        let what = format!("`{name}`");
        let d = &mut self.c.d;
        match ty {
            OptType::Expr(sees) => self.expr(name, node, sees).map(OptionValue::Expr),
            OptType::Data => self.data(name, node),
            OptType::Text => node.filled_string(&what, d).map(|text| OptionValue::Text(text.to_owned())),
            OptType::Texts => self.many(node, |this, item| item.filled_string(&what, &mut this.c.d).map(str::to_owned)),
            OptType::Integer => node.integer(&what, 0..=i64::from(u32::MAX), d).map(OptionValue::Integer),
            OptType::Money => node.money(&what, d).map(|micros| OptionValue::Money(UsdMicros(micros))),
            OptType::Permille => node.ratio(&what, d).map(|ratio| OptionValue::Permille(permille(ratio))),
            OptType::Duration => node.duration(&what, d).map(OptionValue::Duration),
            OptType::Boolean => node.boolean(&what, d).map(OptionValue::Boolean),
            OptType::Word(words) => self.word(&what, node, words).map(OptionValue::Text),
            OptType::Words(words) => self.many(node, |this, item| this.word(&what, item, words)),
            OptType::Sinks(words) => self.many(node, |this, item| this.sink(&what, item, words)),
            OptType::File => self.c.file(&what, node).map(|(path, text)| OptionValue::File(path, text)),
            OptType::Sources => self.many(node, |this, item| this.source(item)),
            OptType::Tools => self.tools(node),
            OptType::Args => self.args(node),
            OptType::StepId => self.step_id(&what, node).map(OptionValue::Text),
            OptType::Field => self.field(&what, node).map(OptionValue::Text),
            OptType::Commands => self.commands(node),
            OptType::Channel => channel(node, self.c).map(OptionValue::Text),
            OptType::Map(options) => {
                let mut map = node.map(&what, d)?;
                let values = self.read(&mut map, options);
                map.finish(&mut self.c.d);
                Some(OptionValue::Map(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
            }
        }
    }

    /// One text or a list of them, in the shape that was written.
    fn many(
        &mut self,
        node: &'n Node,
        mut read: impl FnMut(&mut Self, &'n Node) -> Option<String>,
    ) -> Option<OptionValue> {
        let NodeKind::Seq(items) = &node.kind else { return read(self, node).map(OptionValue::Text) };
        if items.is_empty() {
            self.c.error(&codes::EMPTY, "an empty list", node.span, "at least one entry belongs here", None);
            return None;
        }
        Some(OptionValue::List(items.iter().filter_map(|item| read(self, item)).map(OptionValue::Text).collect()))
    }

    /// One of some words, or `word(n)` where the table lists `word(n)`.
    fn word(&mut self, what: &str, node: &Node, words: &'static [&'static str]) -> Option<String> {
        let text = node.string(what, &mut self.c.d)?;
        let called = |word: &&&str| {
            let Some(name) = word.strip_suffix("(n)") else { return **word == text };
            let number =
                text.strip_prefix(name).and_then(|rest| rest.strip_prefix('(')).and_then(|rest| rest.strip_suffix(')'));
            number.and_then(|number| number.parse::<u16>().ok()).is_some_and(|number| number > 0)
        };
        if words.iter().find(called).is_some() {
            return Some(text.to_owned());
        }
        node.word(what, words, &mut self.c.d).map(str::to_owned)
    }

    /// A built-in sink, or one of the configuration, if that was read.
    fn sink(&mut self, what: &str, node: &Node, words: &'static [&'static str]) -> Option<String> {
        let text = node.filled_string(what, &mut self.c.d)?;
        let own = self.c.surroundings.sinks.as_ref();
        if words.contains(&text) || own.is_none_or(|own| own.contains(text)) {
            return Some(text.to_owned());
        }
        let names: Vec<&str> = words.iter().copied().chain(own.into_iter().flatten().map(String::as_str)).collect();
        let help = match closest(text, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                format!("write one of `{}`, or configure it: `sinks: {{{text}: {{markdown: …}}}}`", names.join("`, `"))
            }
        };
        let title = format!("unknown sink `{text}`");
        self.c.error(&codes::BAD_VALUE, title, node.span, "neither built in nor under `sinks:`", Some(help));
        None
    }

    fn expr(&mut self, name: &str, node: &'n Node, sees: Sees) -> Option<Expr> {
        let what = format!("`{name}`");
        let expr = exprs::parse(&what, node, &mut self.c.d)?;
        let condition = CONDITIONS.contains(&name);
        self.pending.push(Pending { expr: expr.clone(), node, sees, what, condition, arg: None });
        Some(expr)
    }

    fn data(&mut self, name: &str, node: &'n Node) -> Option<OptionValue> {
        let NodeKind::Seq(items) = &node.kind else {
            return self.expr(name, node, Sees::Nothing).map(OptionValue::Expr);
        };
        if items.is_empty() {
            self.c.error(
                &codes::EMPTY,
                format!("`{name}` is empty"),
                node.span,
                "name at least one step or value",
                None,
            );
            return None;
        }
        Some(OptionValue::List(
            items.iter().filter_map(|item| self.expr(name, item, Sees::Nothing)).map(OptionValue::Expr).collect(),
        ))
    }

    fn args(&mut self, node: &'n Node) -> Option<OptionValue> {
        let mut map = node.map("`args`", &mut self.c.d)?;
        let mut values = Vec::new();
        for entry in map.rest() {
            let what = format!("`args.{}`", entry.key);
            let Some(expr) = exprs::parse(&what, &entry.value, &mut self.c.d) else { continue };
            let arg = Some(entry.key.clone());
            self.pending.push(Pending {
                expr: expr.clone(),
                node: &entry.value,
                sees: Sees::Nothing,
                what,
                condition: false,
                arg,
            });
            values.push((entry.key.clone(), OptionValue::Expr(expr)));
        }
        Some(OptionValue::Map(values))
    }

    /// A tool of the pipeline, a configured source or a built-in one.
    fn source(&mut self, node: &Node) -> Option<String> {
        let name = node.filled_string("`from`", &mut self.c.d)?;
        let own = self.tools.iter().any(|tool| tool.name == name);
        let configured = self.c.surroundings.sources.as_ref();
        let known =
            own || BUILT_IN_SOURCES.contains(&name) || configured.is_some_and(|sources| sources.contains_key(name));
        if known {
            return Some(name.to_owned());
        }
        if self.scope.steps.contains_key(name) {
            let help =
                "`fetch` reads sources and tools; use the step in `given`, `in` or `from` of another kind".to_owned();
            self.c.error(
                &codes::UNKNOWN_SOURCE,
                format!("`{name}` is a step, not a source"),
                node.span,
                "a step has its data already",
                Some(help),
            );
            return None;
        }
        let tool_names: Vec<String> = self.tools.iter().map(|tool| tool.name.clone()).collect();
        let mut names: Vec<&str> =
            tool_names.iter().map(String::as_str).chain(BUILT_IN_SOURCES.iter().copied()).collect();
        if let Some(sources) = configured {
            names.extend(sources.keys().map(String::as_str));
        }
        tools::unknown_source(name, node, names, self.c);
        Some(name.to_owned())
    }

    fn tools(&mut self, node: &'n Node) -> Option<OptionValue> {
        let items = node.list("`tools`", &mut self.c.d)?;
        let mut found: Vec<OptionValue> = Vec::new();
        for item in items {
            let Some(name) = item.filled_string("a tool", &mut self.c.d) else { continue };
            let capability = self.c.registry.tools.iter().any(|kind| kind.name == name && !kind.always);
            if capability || self.tools.iter().any(|tool| tool.name == name) {
                found.push(OptionValue::Text(name.to_owned()));
                continue;
            }
            let always = self.c.registry.tools.iter().any(|kind| kind.name == name && kind.always);
            if always {
                let help = Some("leave it out".to_owned());
                self.c.error(
                    &codes::UNKNOWN_TOOL,
                    format!("`{name}` need not be listed"),
                    item.span,
                    "every agent has it",
                    help,
                );
                continue;
            }
            let foreign = [
                ("Read", "read"),
                ("Grep", "search"),
                ("Glob", "tree"),
                ("Edit", "edit"),
                ("Bash", "run"),
                ("code_read_file", "read"),
                ("code_search", "search"),
                ("code_file_tree", "tree"),
                ("e2b_run_tests", "run_tests"),
            ];
            let renamed = foreign
                .iter()
                .find(|(other, _)| *other == name)
                .map(|(_, own)| format!("write `{own}`; profiles bind it"));
            let names: Vec<&str> = self
                .c
                .registry
                .tools
                .iter()
                .filter(|kind| !kind.always)
                .map(|kind| kind.name)
                .chain(self.tools.iter().map(|tool| tool.name.as_str()))
                .collect();
            let help = renamed.or_else(|| did_you_mean(name, names));
            self.c.error(
                &codes::UNKNOWN_TOOL,
                format!("unknown tool `{name}`"),
                item.span,
                "no tool has this name",
                help,
            );
        }
        Some(OptionValue::List(found))
    }

    fn step_id(&mut self, what: &str, node: &Node) -> Option<String> {
        let name = node.filled_string(what, &mut self.c.d)?;
        if self.scope.steps.contains_key(name) {
            return Some(name.to_owned());
        }
        let help = did_you_mean(name, self.scope.steps.keys().map(String::as_str));
        self.c.error(
            &codes::UNKNOWN_REFERENCE,
            format!("unknown step `{name}`"),
            node.span,
            "no earlier step has this id",
            help,
        );
        None
    }

    fn field(&mut self, what: &str, node: &'n Node) -> Option<String> {
        let text = node.filled_string(what, &mut self.c.d)?;
        let name = text.strip_prefix('-').unwrap_or(text);
        if names::check_snake_case(name).is_err()
            && !name.split('.').all(|part| part.chars().all(|ch| ch.is_alphanumeric() || ch == '_') && !part.is_empty())
        {
            node.bad(
                what,
                "a field of the items, `-` in front for descending",
                "not a name",
                Some("write for example `\"-users\"`".to_owned()),
                &mut self.c.d,
            );
            return None;
        }
        self.fields.push((name.to_owned(), node));
        Some(text.to_owned())
    }

    fn commands(&mut self, node: &Node) -> Option<OptionValue> {
        let commands = node.one_or_more().iter().filter_map(|item| environment::command(item, &mut self.c.d));
        let values = commands.map(|command| {
            let exits = command.ok_exit.into_iter().map(|code| OptionValue::Integer(code.into())).collect();
            OptionValue::Map(vec![
                ("run".to_owned(), OptionValue::Text(command.run)),
                ("ok_exit".to_owned(), OptionValue::List(exits)),
            ])
        });
        Some(OptionValue::List(values.collect()))
    }
}

/// Reports the keys of `map` that are options elsewhere: under the kind instead of beside it, or the other way round.
pub(super) fn misplaced(
    map: &mut MapReader<'_>,
    options: &'static [Opt],
    where_to: &str,
    c: &mut Context<'_>,
    except: &[&str],
) {
    for option in options {
        if !map.has(option.name) || except.contains(&option.name) {
            continue;
        }
        let Some(entry) = map.take_entry(option.name) else { continue };
        report_misplaced(option.name, entry.key_span, where_to, c);
    }
}

fn report_misplaced(name: &str, span: Span, where_to: &str, c: &mut Context<'_>) {
    c.d.push(
        Diagnostic::error(&codes::MISPLACED, format!("`{name}` stands in the wrong place"), span, "not an option here")
            .help(format!("move it {where_to}")),
    );
}

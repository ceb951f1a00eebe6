//! The static check of an expression: names, fields, functions and types, and values that may be missing.
//!
//! Walks the parsed tree with the types in scope. Follows the logic: behind `x.ran &&`, `has(x.f) &&` and `x.f != null &&` the
//! value is there. `Any` fits everywhere, so that rows of a source are not checked. Never stricter than the evaluation
//! for values that fit their types, except that a value which may be missing must be guarded.

use cel::common::ast::{EntryExpr, Expr as Ast, IdedExpr, LiteralValue, operators};

use crate::diag::{Code, Span, codes, did_you_mean};

use super::cel::Expr;
use super::facts::{Fact, facts_if_false, facts_if_true, path};
use super::functions::{self, Call, Function, Shape};
use super::places::{At, Places, is_operator};
use super::types::{Field, Type, parse_date};

pub use super::facts::Known;

/// The names that an expression sees, with their types.
#[derive(Clone, Debug, Default)]
pub struct TypeScope(Vec<(String, Type)>);

impl TypeScope {
    /// Adds a name; a later one of the same name hides the earlier.
    pub fn set(&mut self, name: impl Into<String>, ty: Type) {
        self.0.push((name.into(), ty));
    }

    /// The same scope with one more name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, ty: Type) -> Self {
        self.set(name, ty);
        self
    }

    /// The type of a name.
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, ty)| ty)
    }

    /// Every name, the newest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().rev().map(|(name, _)| name.as_str())
    }
}

/// One mistake of an expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    pub code: &'static Code,
    /// Bytes of the expression's text.
    pub span: Span,
    pub title: String,
    pub label: String,
    pub help: Option<String>,
}

impl Expr {
    /// The type of the value, and every mistake, by position.
    pub fn check(&self, scope: &TypeScope, known: &Known) -> (Type, Vec<Mistake>) {
        let mut checker = Checker { scope, locals: Vec::new(), facts: known.0.clone(), found: Vec::new() };
        let ty = checker.type_of(&self.ast);
        if checker.found.is_empty() {
            return (ty, Vec::new());
        }
        let offsets = self.offsets();
        let place = Places { source: &self.source, offsets: &offsets };
        let mut mistakes: Vec<Mistake> = checker
            .found
            .into_iter()
            .map(|(node, what, raw)| {
                let span = match what {
                    At::Whole => place.whole(node),
                    At::Name => place.name(node),
                };
                Mistake { span, ..raw }
            })
            .collect();
        mistakes.sort_by_key(|mistake| (mistake.span.start, mistake.span.end));
        mistakes.dedup();
        (ty, mistakes)
    }
}

/// What the parser makes other expressions of.
const MACROS: &[&str] = &["exists", "all", "exists_one", "filter", "map", "has"];

/// How values of a type compare.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Any,
    Text,
    Number,
    Boolean,
    List,
    Map,
}

fn class(ty: &Type) -> Class {
    match ty {
        Type::Any => Class::Any,
        Type::String { .. } | Type::Date | Type::Enum(_) | Type::Key(_) => Class::Text,
        Type::Integer | Type::Number | Type::Ratio => Class::Number,
        Type::Boolean => Class::Boolean,
        Type::List(_) => Class::List,
        Type::Map(_) | Type::Open(_) => Class::Map,
        Type::Optional(inner) => class(inner),
    }
}

/// Whether a value of type `found` can be given where `wanted` is expected, as far as kinds of values go.
pub fn compatible(wanted: &Type, found: &Type) -> bool {
    let (a, b) = (class(wanted), class(found));
    a == b || a == Class::Any || b == Class::Any
}

struct Checker<'a> {
    scope: &'a TypeScope,
    locals: Vec<(&'a str, Type)>,
    facts: Vec<Fact>,
    found: Vec<(&'a IdedExpr, At, Mistake)>,
}

impl<'a> Checker<'a> {
    fn report(
        &mut self,
        node: &'a IdedExpr,
        at: At,
        code: &'static Code,
        title: String,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        let mistake = Mistake { code, span: Span::default(), title, label: label.into(), help };
        self.found.push((node, at, mistake));
    }

    /// Runs `check` while more is known.
    fn knowing<T>(&mut self, facts: Vec<Fact>, check: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.facts.len();
        self.facts.extend(facts);
        let result = check(self);
        self.facts.truncate(before);
        result
    }

    fn type_of(&mut self, node: &'a IdedExpr) -> Type {
        match &node.expr {
            Ast::Literal(literal) => literal_type(literal),
            Ast::Ident(name) => self.ident(node, name),
            Ast::Select(select) if select.test => {
                let operand = self.type_of(&select.operand);
                self.field_of(node, &operand, &select.operand, &select.field, true);
                Type::Boolean
            }
            Ast::Select(select) => {
                let operand = self.type_of(&select.operand);
                let ty = self.field_of(node, &operand, &select.operand, &select.field, false);
                match (&ty, path(node)) {
                    (Type::Optional(_), Some(path)) if self.facts.contains(&Fact::Present(path.clone())) => {
                        ty.required().clone()
                    }
                    _ => ty,
                }
            }
            Ast::Call(call) => match call.target {
                None if is_operator(&call.func_name) => self.operator(node, &call.func_name, &call.args),
                _ => self.call(node, &call.func_name, call.target.as_deref(), &call.args),
            },
            Ast::List(list) => {
                let types: Vec<Type> = list.elements.iter().map(|element| self.type_of(element)).collect();
                Type::list(join(types))
            }
            Ast::Map(map) => self.map_literal(&map.entries.iter().map(|entry| &entry.expr).collect::<Vec<_>>()),
            Ast::Comprehension(_) => self.comprehension(node),
            Ast::Struct(_) => {
                self.report(
                    node,
                    At::Whole,
                    &codes::UNKNOWN_FUNCTION,
                    "a typed object".to_owned(),
                    "expressions only know plain maps",
                    None,
                );
                Type::Any
            }
            Ast::Unspecified => Type::Any,
        }
    }

    fn ident(&mut self, node: &'a IdedExpr, name: &str) -> Type {
        let ty = match self.locals.iter().rev().find(|(local, _)| *local == name) {
            Some((_, ty)) => ty.clone(),
            None => match self.scope.get(name) {
                Some(ty) => ty.clone(),
                None => {
                    let names: Vec<String> = self
                        .locals
                        .iter()
                        .map(|(local, _)| (*local).to_owned())
                        .chain(self.scope.names().map(str::to_owned))
                        .collect();
                    let help = match name {
                        "item" => Some("`item` is known in `keep` of a `fetch` and in `flag_when`; elsewhere use the name that `each` gives".to_owned()),
                        "output" => Some("`output` is known in `keep` and `escalate_when` of a model step; elsewhere use the step's id".to_owned()),
                        _ => did_you_mean(name, names.iter().map(String::as_str)),
                    };
                    let label = "nothing in scope here has this name";
                    self.report(
                        node,
                        At::Whole,
                        &codes::UNKNOWN_REFERENCE,
                        format!("unknown reference `{name}`"),
                        label,
                        help,
                    );
                    return Type::Any;
                }
            },
        };
        match ty {
            Type::Optional(_) if self.facts.contains(&Fact::Present(name.to_owned())) => ty.required().clone(),
            ty => ty,
        }
    }

    /// The type of `operand.field`; `test` when only its presence is asked.
    fn field_of(
        &mut self,
        node: &'a IdedExpr,
        operand: &Type,
        operand_node: &'a IdedExpr,
        field: &str,
        test: bool,
    ) -> Type {
        let operand = match operand {
            Type::Optional(inner) => {
                if !test || !matches!(operand_node.expr, Ast::Ident(_) | Ast::Select(_)) {
                    self.maybe_missing(operand_node);
                }
                inner.as_ref()
            }
            other => other,
        };
        match operand {
            Type::Any => Type::Any,
            Type::Map(fields) | Type::Open(fields) => match fields.iter().find(|known| known.name == field) {
                Some(known) => match (&known.ty, path(operand_node)) {
                    // The fields of a step that may not run are optional until it is known that it ran.
                    (Type::Optional(inner), Some(path))
                        if self.facts.contains(&Fact::Ran(path.clone())) && field_of_step(fields) =>
                    {
                        (**inner).clone()
                    }
                    (ty, _) => ty.clone(),
                },
                None if matches!(operand, Type::Open(_)) => Type::Any,
                None => {
                    let help = did_you_mean(field, fields.iter().map(|known| known.name.as_str()));
                    let label = match path(operand_node) {
                        Some(path) => format!("`{path}` has no such field"),
                        None => "there is no such field".to_owned(),
                    };
                    self.report(node, At::Name, &codes::UNKNOWN_FIELD, format!("unknown field `{field}`"), label, help);
                    Type::Any
                }
            },
            other => {
                let help = matches!(other, Type::List(_))
                    .then(|| "look at its items: `.exists(x, …)`, `.filter(x, …)` or `[0]`".to_owned());
                let title = format!("unknown field `{field}`");
                self.report(
                    node,
                    At::Name,
                    &codes::UNKNOWN_FIELD,
                    title,
                    format!("{} has no fields", other.noun()),
                    help,
                );
                Type::Any
            }
        }
    }

    fn maybe_missing(&mut self, node: &'a IdedExpr) {
        let written = path(node);
        let help = written.as_deref().map(|path| match path.rsplit_once('.') {
            Some((step, _)) if self.is_step(step) => {
                format!("write `{step}.ran && …` in front, or give the step `when: {step}.ran`")
            }
            Some(_) => format!("write `has({path}) && …` in front"),
            None => format!("write `{path} != null && …` in front"),
        });
        let title = match &written {
            Some(path) => format!("`{path}` may be missing here"),
            None => "the value may be missing here".to_owned(),
        };
        self.report(
            node,
            At::Whole,
            &codes::MAYBE_MISSING,
            title,
            "absent or null when the step did not run or the model left it out",
            help,
        );
    }

    /// Whether the path names something with `ran`.
    fn is_step(&self, path: &str) -> bool {
        let mut parts = path.split('.');
        let first = parts.next().unwrap_or("");
        let local = self.locals.iter().rev().find(|(name, _)| *name == first).map(|(_, ty)| ty);
        let mut ty = local.or_else(|| self.scope.get(first));
        for part in parts {
            ty = ty.and_then(|ty| ty.field(part));
        }
        ty.is_some_and(|ty| ty.field("ran").is_some())
    }

    /// The type of an operand that must be there.
    fn present(&mut self, node: &'a IdedExpr) -> Type {
        match self.type_of(node) {
            Type::Optional(inner) => {
                self.maybe_missing(node);
                *inner
            }
            ty => ty,
        }
    }

    fn expect(&mut self, node: &'a IdedExpr, wanted: Class, noun: &str, because: &str) -> Type {
        let ty = self.present(node);
        if class(&ty) != wanted && class(&ty) != Class::Any {
            let title = format!("{because} needs {noun}");
            self.report(node, At::Whole, &codes::TYPE_CONFLICT, title, format!("this is {}", ty.noun()), None);
        }
        ty
    }

    fn operator(&mut self, node: &'a IdedExpr, name: &str, args: &'a [IdedExpr]) -> Type {
        match (name, args) {
            (operators::LOGICAL_AND, [a, b]) => {
                self.expect(a, Class::Boolean, "true or false", "`&&`");
                self.knowing(facts_if_true(a), |this| this.expect(b, Class::Boolean, "true or false", "`&&`"));
                Type::Boolean
            }
            (operators::LOGICAL_OR, [a, b]) => {
                self.expect(a, Class::Boolean, "true or false", "`||`");
                self.knowing(facts_if_false(a), |this| this.expect(b, Class::Boolean, "true or false", "`||`"));
                Type::Boolean
            }
            (operators::LOGICAL_NOT, [a]) => {
                self.expect(a, Class::Boolean, "true or false", "`!`");
                Type::Boolean
            }
            (operators::CONDITIONAL, [test, a, b]) => {
                self.expect(test, Class::Boolean, "true or false", "`? :`");
                let a = self.knowing(facts_if_true(test), |this| this.type_of(a));
                let b = self.knowing(facts_if_false(test), |this| this.type_of(b));
                join(vec![a, b])
            }
            (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => {
                self.equality(node, a, b);
                Type::Boolean
            }
            (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [a, b]) => {
                self.ordering(node, name, a, b);
                Type::Boolean
            }
            (operators::NEGATE, [a]) => self.expect(a, Class::Number, "a number", "`-`"),
            (operators::ADD, [a, b]) => self.addition(node, a, b),
            (operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO, [a, b]) => {
                let sign = format!("`{}`", name.trim_matches('_'));
                let (a, b) = (
                    self.expect(a, Class::Number, "a number", &sign),
                    self.expect(b, Class::Number, "a number", &sign),
                );
                number_of(&a, &b)
            }
            (operators::IN, [a, b]) => {
                self.membership(a, b);
                Type::Boolean
            }
            (operators::INDEX | operators::OPT_INDEX, [a, b]) => self.index(node, a, b),
            _ => {
                args.iter().for_each(|arg| drop(self.type_of(arg)));
                Type::Any
            }
        }
    }

    fn addition(&mut self, node: &'a IdedExpr, a: &'a IdedExpr, b: &'a IdedExpr) -> Type {
        let (left, right) = (self.present(a), self.present(b));
        match (class(&left), class(&right)) {
            (Class::Number, Class::Number) => number_of(&left, &right),
            (Class::Text, Class::Text | Class::Any) | (Class::Any, Class::Text) => Type::TEXT,
            (Class::List, Class::List) => join(vec![left, right]),
            (Class::Any, _) | (_, Class::Any) => Type::Any,
            (Class::Text, Class::Number) | (Class::Number, Class::Text) => {
                let help = Some("turn the number into a text with `string(…)`".to_owned());
                self.conflict(node, "`+` cannot join", &left, &right, help)
            }
            _ => self.conflict(node, "`+` cannot join", &left, &right, None),
        }
    }

    fn conflict(&mut self, node: &'a IdedExpr, what: &str, left: &Type, right: &Type, help: Option<String>) -> Type {
        let title = format!("{what} {} and {}", left.noun(), right.noun());
        self.report(node, At::Whole, &codes::TYPE_CONFLICT, title, "the two sides are of different kinds", help);
        Type::Any
    }

    fn equality(&mut self, node: &'a IdedExpr, a: &'a IdedExpr, b: &'a IdedExpr) {
        let is_null = |node: &IdedExpr| matches!(node.expr, Ast::Literal(LiteralValue::Null));
        if is_null(a) || is_null(b) {
            let other = if is_null(a) { b } else { a };
            // Asking for null is how absence is found out; but a step that may not run has no field at all.
            let ty = self.type_of(other);
            let step = path(other).and_then(|path| path.rsplit_once('.').map(|(step, _)| step.to_owned()));
            let may_not_run = step.is_some_and(|step| self.is_step(&step) && !self.facts.contains(&Fact::Ran(step)));
            if matches!(ty, Type::Optional(_)) && may_not_run {
                self.maybe_missing(other);
            }
            return;
        }
        let (left, right) = (self.present(a), self.present(b));
        let (kind_a, kind_b) = (class(&left), class(&right));
        if kind_a != kind_b && kind_a != Class::Any && kind_b != Class::Any {
            let help = match (&b.expr, kind_a) {
                (Ast::Literal(LiteralValue::String(text)), Class::Number | Class::Boolean) => {
                    Some(format!("write `{}` without quotes", text.inner()))
                }
                _ => None,
            };
            self.conflict(node, "cannot compare", &left, &right, help);
            return;
        }
        self.literal_fits(&left, b);
        self.literal_fits(&right, a);
    }

    /// A literal beside a value of some words or dates must be one of them.
    fn literal_fits(&mut self, ty: &Type, literal: &'a IdedExpr) {
        let Ast::Literal(LiteralValue::String(text)) = &literal.expr else { return };
        let text = text.inner();
        match ty {
            Type::Enum(words) if !words.iter().any(|word| word == text) => {
                let label = format!("the value is one of {}", words.join(" | "));
                let help = did_you_mean(text, words.iter().map(String::as_str));
                self.report(
                    literal,
                    At::Whole,
                    &codes::TYPE_CONFLICT,
                    format!("`{text}` can never be equal"),
                    label,
                    help,
                );
            }
            Type::Date if parse_date(text).is_none() => {
                let label = "dates are written YYYY-MM-DD";
                self.report(
                    literal,
                    At::Whole,
                    &codes::TYPE_CONFLICT,
                    format!("`{text}` can never be equal"),
                    label,
                    None,
                );
            }
            _ => {}
        }
    }

    fn ordering(&mut self, node: &'a IdedExpr, name: &str, a: &'a IdedExpr, b: &'a IdedExpr) {
        let (left, right) = (self.present(a), self.present(b));
        let sign = name.trim_matches('_');
        match (class(&left), class(&right)) {
            (Class::Number, Class::Number) | (Class::Text, Class::Text) => {}
            (Class::Any, kind) | (kind, Class::Any) if !matches!(kind, Class::List | Class::Map) => {}
            (Class::Number, Class::Text) | (Class::Text, Class::Number) => {
                let literal = |node: &IdedExpr| matches!(&node.expr, Ast::Literal(LiteralValue::String(_)));
                let help = (literal(a) || literal(b)).then(|| "write the number without quotes".to_owned());
                self.conflict(node, &format!("`{sign}` cannot compare"), &left, &right, help);
            }
            _ => {
                self.conflict(node, &format!("`{sign}` cannot compare"), &left, &right, None);
            }
        }
    }

    fn membership(&mut self, a: &'a IdedExpr, b: &'a IdedExpr) {
        let left = self.present(a);
        let right = self.present(b);
        match &right {
            Type::List(of) => {
                let (kind_a, kind_b) = (class(&left), class(of));
                if kind_a != kind_b && kind_a != Class::Any && kind_b != Class::Any {
                    let title = format!("`in` cannot find {} in a list of other values", left.noun());
                    self.report(
                        a,
                        At::Whole,
                        &codes::TYPE_CONFLICT,
                        title,
                        format!("the list holds {}", of.noun()),
                        None,
                    );
                } else if let Ast::List(list) = &b.expr {
                    list.elements.iter().for_each(|element| self.literal_fits(&left, element));
                }
                self.literal_fits(of, a);
            }
            Type::Any | Type::Map(_) | Type::Open(_) => {}
            other => {
                let help = (class(other) == Class::Text)
                    .then(|| "for a part of a text write `text.contains(part)`".to_owned());
                self.report(
                    b,
                    At::Whole,
                    &codes::TYPE_CONFLICT,
                    "`in` needs a list or a map".to_owned(),
                    format!("this is {}", other.noun()),
                    help,
                );
            }
        }
    }

    fn index(&mut self, node: &'a IdedExpr, a: &'a IdedExpr, b: &'a IdedExpr) -> Type {
        let of = self.present(a);
        let by = self.present(b);
        match (&of, &b.expr) {
            (Type::List(item), _) => {
                if !matches!(class(&by), Class::Number | Class::Any) {
                    let title = "an item of a list is taken by its number".to_owned();
                    self.report(b, At::Whole, &codes::TYPE_CONFLICT, title, format!("this is {}", by.noun()), None);
                }
                (**item).clone()
            }
            (Type::Map(fields), Ast::Literal(LiteralValue::String(text))) => match of.field(text.inner()) {
                Some(ty) => ty.clone(),
                None => {
                    let help = did_you_mean(text.inner(), fields.iter().map(|field| field.name.as_str()));
                    self.report(
                        b,
                        At::Whole,
                        &codes::UNKNOWN_FIELD,
                        format!("unknown field `{}`", text.inner()),
                        "there is no such field",
                        help,
                    );
                    Type::Any
                }
            },
            (Type::Any | Type::Map(_) | Type::Open(_), _) => Type::Any,
            _ => {
                let title = "`[…]` needs a list or a map".to_owned();
                self.report(node, At::Whole, &codes::TYPE_CONFLICT, title, format!("this is {}", of.noun()), None);
                Type::Any
            }
        }
    }

    fn call(&mut self, node: &'a IdedExpr, name: &str, target: Option<&'a IdedExpr>, args: &'a [IdedExpr]) -> Type {
        let given: Vec<&'a IdedExpr> = target.into_iter().chain(args).collect();
        let Some(function) = functions::find(name) else {
            // What stands in a macro called in another way binds no name; looking into it would only add noise.
            if !MACROS.contains(&name) {
                given.iter().for_each(|arg| drop(self.type_of(arg)));
            }
            self.unknown_function(node, name, given.len());
            return Type::Any;
        };
        let as_method = target.is_some();
        let wrong_way = (as_method && function.call == Call::Function) || (!as_method && function.call == Call::Method);
        let takes = function.takes.iter().find(|takes| takes.len() == given.len());
        let Some(takes) = takes.filter(|_| !wrong_way) else {
            given.iter().for_each(|arg| drop(self.type_of(arg)));
            let title = format!("`{name}` is called in another way");
            let label =
                if wrong_way { "not in this form".to_owned() } else { format!("{} values are given", given.len()) };
            self.report(
                node,
                At::Name,
                &codes::UNKNOWN_FUNCTION,
                title,
                label,
                Some(format!("write `{}`", function.signature())),
            );
            return function.gives.ty();
        };
        let types: Vec<Type> =
            given.iter().zip(*takes).map(|(arg, shape)| self.argument(function, arg, *shape)).collect();
        if function.name == "sort_by" {
            self.sort_field(&types, &given);
        }
        match (function.gives, types.first()) {
            (Shape::Same, Some(first)) => first.clone(),
            (gives, _) => gives.ty(),
        }
    }

    fn argument(&mut self, function: &Function, arg: &'a IdedExpr, shape: Shape) -> Type {
        let ty = self.present(arg);
        let kind = class(&ty);
        let fits = kind == Class::Any
            || match shape {
                Shape::Any | Shape::Same => true,
                Shape::Text => kind == Class::Text,
                Shape::Date => matches!(ty, Type::Date | Type::String { .. }),
                Shape::Number => kind == Class::Number,
                Shape::Integer => kind == Class::Number,
                Shape::Boolean => kind == Class::Boolean,
                Shape::List => kind == Class::List,
                Shape::Sized => matches!(kind, Class::Text | Class::List | Class::Map),
            };
        if !fits {
            // A step's id alone is its whole result; its list is under `items`.
            let items = matches!(shape, Shape::List) && ty.field("items").is_some();
            let help = items.then(|| path(arg)).flatten().map(|path| format!("write `{path}.items`"));
            let help = help.or_else(|| Some(format!("`{}`", function.signature())));
            let title = format!("`{}` cannot take {}", function.name, ty.noun());
            self.report(arg, At::Whole, &codes::TYPE_CONFLICT, title, format!("expected {}", shape.ty().noun()), help);
        }
        ty
    }

    fn sort_field(&mut self, types: &[Type], given: &[&'a IdedExpr]) {
        let (Some(Type::List(item)), Some(name)) = (types.first(), given.get(1)) else { return };
        let (Type::Map(fields), Ast::Literal(LiteralValue::String(text))) = (item.as_ref(), &name.expr) else { return };
        let field = text.inner().trim_start_matches('-');
        if !fields.iter().any(|known| known.name == field) {
            let help = did_you_mean(field, fields.iter().map(|known| known.name.as_str()));
            self.report(
                name,
                At::Whole,
                &codes::UNKNOWN_FIELD,
                format!("unknown field `{field}`"),
                "the items have no such field",
                help,
            );
        }
    }

    fn unknown_function(&mut self, node: &'a IdedExpr, name: &str, given: usize) {
        let (title, label, help) = if MACROS.contains(&name) {
            let help = if name == "has" {
                "write `has(a.b)`"
            } else {
                "write `list.exists(x, x.field > 1)`: a name and a test"
            };
            (format!("`{name}` is called in another way"), format!("{given} values are given"), Some(help.to_owned()))
        } else {
            let known = functions::ALL.iter().map(|function| function.name).chain(MACROS.iter().copied());
            let help = did_you_mean(name, known).filter(|help| help.starts_with("did"));
            let help = help.unwrap_or_else(|| "`nightcrew schema --cel` lists them all".to_owned());
            (format!("unknown function `{name}`"), "there is no such function".to_owned(), Some(help))
        };
        self.report(node, At::Name, &codes::UNKNOWN_FUNCTION, title, label, help);
    }

    fn map_literal(&mut self, entries: &[&'a EntryExpr]) -> Type {
        let mut fields = Vec::new();
        let mut open = false;
        for entry in entries {
            match entry {
                EntryExpr::MapEntry(entry) => {
                    let ty = self.type_of(&entry.value);
                    match &entry.key.expr {
                        Ast::Literal(LiteralValue::String(name)) => fields.push(Field::new(name.inner(), ty)),
                        _ => {
                            self.type_of(&entry.key);
                            open = true;
                        }
                    }
                }
                EntryExpr::StructField(field) => {
                    self.type_of(&field.value);
                    open = true;
                }
            }
        }
        if open { Type::Open(fields) } else { Type::Map(fields) }
    }

    /// `exists all exists_one filter map`, told apart by what the parser made of them.
    fn comprehension(&mut self, node: &'a IdedExpr) -> Type {
        let Ast::Comprehension(macro_) = &node.expr else { return Type::Any };
        let range = self.present(&macro_.iter_range);
        let item = match &range {
            Type::List(item) => (**item).clone(),
            Type::Any => Type::Any,
            // Over a map the macros go through its keys.
            Type::Map(_) | Type::Open(_) => {
                if range.field("items").is_some() {
                    let help = path(&macro_.iter_range).map(|path| format!("write `{path}.items`"));
                    let title = "this goes through the fields, not the items".to_owned();
                    self.report(
                        &macro_.iter_range,
                        At::Whole,
                        &codes::TYPE_CONFLICT,
                        title,
                        "the list is under `items`",
                        help,
                    );
                    return Type::Any;
                }
                Type::TEXT
            }
            other => {
                let title = "a list is needed here".to_owned();
                self.report(
                    &macro_.iter_range,
                    At::Whole,
                    &codes::TYPE_CONFLICT,
                    title,
                    format!("this is {}", other.noun()),
                    None,
                );
                Type::Any
            }
        };
        self.locals.push((&macro_.iter_var, item.clone()));
        let result = self.macro_body(&macro_.loop_step, &macro_.accu_var, &item);
        self.locals.pop();
        result
    }

    fn macro_body(&mut self, step: &'a IdedExpr, accumulator: &str, item: &Type) -> Type {
        let Ast::Call(call) = &step.expr else { return Type::Any };
        let is_accumulator = |node: &IdedExpr| matches!(&node.expr, Ast::Ident(name) if name == accumulator);
        match (call.func_name.as_str(), call.args.as_slice()) {
            // exists, all
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [_, test]) => {
                self.expect(test, Class::Boolean, "true or false", "the test");
                Type::Boolean
            }
            // filter, exists_one, and map with a test
            (operators::CONDITIONAL, [test, kept, _]) => {
                self.expect(test, Class::Boolean, "true or false", "the test");
                let facts = facts_if_true(test);
                match &kept.expr {
                    Ast::Call(add) => match add.args.as_slice() {
                        [a, b] if is_accumulator(a) => match &b.expr {
                            Ast::List(list) => match list.elements.as_slice() {
                                [value] => self.knowing(facts, |this| Type::list(this.type_of(value))),
                                _ => Type::list(item.clone()),
                            },
                            _ => Type::Boolean,
                        },
                        _ => Type::Any,
                    },
                    _ => Type::Any,
                }
            }
            // map
            (operators::ADD, [a, b]) if is_accumulator(a) => match &b.expr {
                Ast::List(list) => match list.elements.as_slice() {
                    [value] => Type::list(self.type_of(value)),
                    _ => Type::Any,
                },
                _ => Type::Any,
            },
            _ => Type::Any,
        }
    }
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Boolean,
        LiteralValue::Int(_) | LiteralValue::UInt(_) => Type::Integer,
        LiteralValue::Double(_) => Type::Number,
        LiteralValue::String(_) | LiteralValue::Bytes(_) => Type::TEXT,
        LiteralValue::Null => Type::Any,
    }
}

fn number_of(a: &Type, b: &Type) -> Type {
    if *a == Type::Integer && *b == Type::Integer { Type::Integer } else { Type::Number }
}

/// A type that all fit.
fn join(types: Vec<Type>) -> Type {
    let mut types = types.into_iter();
    let Some(first) = types.next() else { return Type::Any };
    types.fold(first, |so_far, next| match (class(&so_far), class(&next)) {
        _ if so_far == next => so_far,
        (Class::Number, Class::Number) => number_of(&so_far, &next),
        (Class::Text, Class::Text) => Type::TEXT,
        _ => Type::Any,
    })
}

/// Whether these are the fields of a step's result.
fn field_of_step(fields: &[Field]) -> bool {
    fields.iter().any(|field| field.name == "ran")
}

#[cfg(test)]
mod tests;

//! CEL expressions: parse and evaluate. The static check is in `check`.
//!
//! Parsed by the hand-written parser of the `cel` crate, with bounds of ours on length and depth, so that neither parsing
//! nor evaluation can exhaust the stack. Before evaluation three things are rewritten: arithmetic mixes integers and
//! doubles, `has(a.b)` is false when `a.b` is null, and `matches_any` becomes `exists` over `matches`.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr as Ast, IdedExpr, LiteralValue, operators};
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError};
use serde_json::Value;

use crate::diag::Span;

use super::{functions, value};

/// The longest expression, in bytes.
pub const MAX_LENGTH: usize = 4_000;
/// The deepest nesting of an expression. A debug build needs some 30 KB of stack a level to evaluate.
pub const MAX_DEPTH: usize = 24;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// As written.
    pub source: Arc<str>,
    /// As parsed: what the check walks.
    pub(super) ast: Arc<IdedExpr>,
    /// As evaluated.
    program: Arc<IdedExpr>,
    /// Names that must be bound, and functions to be registered.
    variables: Arc<[String]>,
    functions: Arc<[String]>,
}

/// Expressions are equal when they are written alike.
impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// Why a text is not an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseMistake {
    /// Bytes of the text.
    pub span: Span,
    pub message: String,
}

/// Why an evaluation gave no value, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{source_text}`: {message}")]
pub struct EvalError {
    pub source_text: String,
    pub message: String,
    /// A name or field was not there, for instance because the step did not run.
    pub missing: bool,
}

/// Names and their values. Cheap to clone and to extend.
#[derive(Clone, Debug, Default)]
pub struct Bindings(pub BTreeMap<String, Arc<Value>>);

impl Bindings {
    pub fn set(&mut self, name: impl Into<String>, value: Value) {
        self.0.insert(name.into(), Arc::new(value));
    }
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).map(AsRef::as_ref)
    }
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Expr {
    /// Reads an expression. Never panics; the text may be anything.
    ///
    /// Errors: every syntax mistake that the parser can tell apart, the first one first.
    pub fn parse(source: &str) -> Result<Self, Vec<ParseMistake>> {
        let whole = |message: String| vec![ParseMistake { span: Span::new(0, source.len()), message }];
        if source.len() > MAX_LENGTH {
            return Err(whole(format!("longer than {MAX_LENGTH} characters")));
        }
        if source.trim().is_empty() {
            return Err(whole("nothing is written here".to_owned()));
        }
        let ast = guarded_parse(source)?;
        if depth(&ast) > MAX_DEPTH {
            return Err(whole(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let mut program = ast.clone();
        rewrite(&mut program);
        if depth(&program) > MAX_DEPTH + 8 {
            return Err(whole(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let references = program.references();
        let sorted =
            |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<String>>().into_iter().collect();
        let (variables, functions) = (sorted(references.variables()), sorted(references.functions()));
        Ok(Self { source: source.into(), ast: Arc::new(ast), program: Arc::new(program), variables, functions })
    }

    /// The one name that the whole expression consists of, if it does: `data` of `from: data`.
    pub fn bare_name(&self) -> Option<&str> {
        match &self.ast.expr {
            Ast::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// Every name that the expression mentions, those bound by its own macros included, in alphabetical order.
    pub fn mentions(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(String::as_str)
    }

    /// The first step that the expression mentions and that did not run, if there is one.
    ///
    /// When an evaluation fails with `missing`, this tells "the step was skipped, so this is skipped too" from a mistake: a
    /// list over `ranked.groups` is empty when `ranked` had nothing to rank.
    pub fn not_run(&self, bindings: &Bindings) -> Option<&str> {
        let skipped = |name: &&str| bindings.get(name).and_then(|value| value.get("ran")) == Some(&Value::Bool(false));
        self.mentions().find(skipped)
    }

    /// The value as JSON; keys of maps in alphabetical order. Never panics.
    ///
    /// Errors: a name or field that is not there (`missing`), an operator that cannot take the values, division by zero.
    /// The message shows kinds of values, never the values.
    pub fn eval(&self, bindings: &Bindings) -> Result<Value, EvalError> {
        // A name alone or a field of it is by far the commonest; it needs no interpreter and keeps the order of keys.
        if let Some(found) = self.path(bindings) {
            return Ok(found.clone());
        }
        let run = || {
            let mut context = Context::with_env(ENV.clone());
            for name in self.functions.iter() {
                functions::register(name, &mut context);
            }
            for name in self.variables.iter() {
                if let Some(bound) = bindings.get(name) {
                    context.add_variable_from_value(name.as_str(), value::to_cel(bound));
                }
            }
            match context.resolve(&self.program) {
                Ok(found) => value::to_json(&found).map_err(|message| (message, false)),
                Err(error) => Err(explain(&error)),
            }
        };
        // The interpreter is foreign code fed with data from outside; a panic in it must not end a run.
        let result =
            catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(("the evaluation failed".to_owned(), false)));
        result.map_err(|(message, missing)| EvalError { source_text: self.source.to_string(), message, missing })
    }

    /// The value as a condition.
    ///
    /// Errors: as [`Expr::eval`], and a value that is not true or false.
    pub fn eval_bool(&self, bindings: &Bindings) -> Result<bool, EvalError> {
        match self.eval(bindings)? {
            Value::Bool(found) => Ok(found),
            _ => Err(EvalError {
                source_text: self.source.to_string(),
                message: "the result is not true or false".to_owned(),
                missing: false,
            }),
        }
    }

    fn path<'b>(&self, bindings: &'b Bindings) -> Option<&'b Value> {
        fn walk<'b>(expr: &Ast, bindings: &'b Bindings) -> Option<&'b Value> {
            match expr {
                Ast::Ident(name) => bindings.get(name),
                Ast::Select(select) if !select.test => {
                    walk(&select.operand.expr, bindings)?.as_object()?.get(&select.field)
                }
                _ => None,
            }
        }
        walk(&self.ast.expr, bindings)
    }

    /// The own bytes of every node of the parsed tree: of a call its bracket or operator, of a field its dot.
    pub(super) fn offsets(&self) -> impl Fn(u64) -> Option<(usize, usize)> + use<> {
        // The parser gives positions away only with an error; a stray bracket behind the text yields both.
        let parsed =
            catch_unwind(|| PrattParser::new().max_recursion_depth(recursion()).parse(&format!("{}\n)", self.source)));
        let info = match parsed {
            Ok(Err(errors)) => errors.errors.into_iter().find_map(|error| error.source_info),
            _ => None,
        };
        move |id| {
            let (start, stop) = info.as_ref()?.offset_for(id)?;
            Some((start as usize, stop as usize))
        }
    }
}

fn recursion() -> u16 {
    // Brackets alone make no node, so the parser's own depth is allowed to be a little larger.
    (MAX_DEPTH + 8).try_into().unwrap_or(u16::MAX)
}

fn guarded_parse(source: &str) -> Result<IdedExpr, Vec<ParseMistake>> {
    let parsed = catch_unwind(|| PrattParser::new().max_recursion_depth(recursion()).parse(source));
    let Ok(parsed) = parsed else {
        return Err(vec![ParseMistake {
            span: Span::new(0, source.len()),
            message: "this is not an expression".to_owned(),
        }]);
    };
    parsed.map_err(|errors| {
        let mistakes = errors.errors.iter().map(|error| {
            let at = byte_of(source, error.pos);
            let length = word_length(&source[at..]);
            ParseMistake { span: Span::new(at, at + length), message: reword(&error.msg) }
        });
        let mut mistakes: Vec<ParseMistake> = mistakes.collect();
        mistakes.dedup_by_key(|mistake| mistake.span);
        mistakes
    })
}

/// The byte of a position counted from 1, its column in bytes; the end for one behind it.
fn byte_of(source: &str, (line, column): (isize, isize)) -> usize {
    let (line, column) = (usize::try_from(line).unwrap_or(1).max(1), usize::try_from(column).unwrap_or(1).max(1));
    let start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let mut at = (start + column - 1).min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn word_length(rest: &str) -> usize {
    let word: usize = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
    if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) }
}

fn reword(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    if let Some(word) = message.strip_prefix("reserved identifier: ") {
        return format!("`{word}` is reserved");
    }
    if message.starts_with("mismatched input '<EOF>'") {
        return "something is missing at the end".to_owned();
    }
    if let Some(rest) = message.strip_prefix("mismatched input '") {
        return rest.split_once('\'').map_or(rest.to_owned(), |(word, _)| format!("`{word}` does not belong here"));
    }
    if message.starts_with("expression recursion limit") {
        return format!("nested more than {MAX_DEPTH} levels deep");
    }
    message.to_owned()
}

/// Nodes on the longest way down, found without recursion.
fn depth(root: &IdedExpr) -> usize {
    let mut most = 0;
    let mut open = vec![(root, 1)];
    while let Some((node, level)) = open.pop() {
        most = most.max(level);
        // Beyond any limit the rest does not matter.
        if level <= MAX_DEPTH * 4 {
            for child in children(node) {
                open.push((child, level + 1));
            }
        }
    }
    most
}

fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Ast::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
        Ast::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
        Ast::List(list) => list.elements.iter().collect(),
        Ast::Select(select) => vec![&select.operand],
        Ast::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Ast::Struct(object) => object.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Ast::Ident(_) | Ast::Literal(_) | Ast::Unspecified => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

fn children_mut(node: &mut IdedExpr) -> Vec<&mut IdedExpr> {
    match &mut node.expr {
        Ast::Call(call) => call.target.iter_mut().map(AsMut::as_mut).chain(&mut call.args).collect(),
        Ast::Comprehension(c) => {
            vec![&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result]
        }
        Ast::List(list) => list.elements.iter_mut().collect(),
        Ast::Select(select) => vec![&mut select.operand],
        Ast::Map(map) => map.entries.iter_mut().flat_map(|entry| entry_parts_mut(&mut entry.expr)).collect(),
        Ast::Struct(object) => object.entries.iter_mut().flat_map(|entry| entry_parts_mut(&mut entry.expr)).collect(),
        Ast::Ident(_) | Ast::Literal(_) | Ast::Unspecified => Vec::new(),
    }
}

fn entry_parts_mut(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
        EntryExpr::StructField(field) => vec![&mut field.value],
    }
}

/// Bounded by [`MAX_DEPTH`], which is checked before.
fn rewrite(node: &mut IdedExpr) {
    children_mut(node).into_iter().for_each(rewrite);
    let id = node.id;
    let made = |expr: Ast| IdedExpr { id, expr };
    match &mut node.expr {
        Ast::Select(select) if select.test => {
            let mut value = select.clone();
            value.test = false;
            let null = made(Ast::Literal(LiteralValue::Null));
            let not_null = call(operators::NOT_EQUALS, vec![made(Ast::Select(value)), null]);
            let present = made(Ast::Select(select.clone()));
            node.expr = call(operators::LOGICAL_AND, vec![present, made(not_null)]);
        }
        Ast::Call(found) => {
            let of_macro = found
                .args
                .first()
                .is_some_and(|first| matches!(&first.expr, Ast::Ident(name) if name.starts_with('@')));
            if let Some(ours) = functions::arithmetic(&found.func_name).filter(|_| !of_macro) {
                found.func_name = ours.to_owned();
            } else if found.func_name == "matches_any" {
                let mut parts: Vec<IdedExpr> = found.target.take().map(|target| *target).into_iter().collect();
                parts.append(&mut found.args);
                if let Ok([text, patterns]) = <[IdedExpr; 2]>::try_from(parts)
                    && let Some(expr) = any_pattern(text, patterns)
                {
                    node.expr = expr;
                }
            }
        }
        _ => {}
    }
}

fn call(name: &str, args: Vec<IdedExpr>) -> Ast {
    Ast::Call(CallExpr { func_name: name.to_owned(), target: None, args })
}

/// `patterns.exists(p, text.matches(p))`, with the two parts put in.
fn any_pattern(text: IdedExpr, patterns: IdedExpr) -> Option<Ast> {
    fn put(node: &mut IdedExpr, name: &str, part: &IdedExpr) {
        if matches!(&node.expr, Ast::Ident(found) if found == name) {
            *node = part.clone();
            return;
        }
        children_mut(node).into_iter().for_each(|child| put(child, name, part));
    }
    let mut template = guarded_parse("nc_patterns.exists(nc_pattern, nc_text.matches(nc_pattern))").ok()?;
    put(&mut template, "nc_patterns", &patterns);
    put(&mut template, "nc_text", &text);
    Some(template.expr)
}

/// Words an error for people, without the values that it carries; the flag says that something was not there.
fn explain(error: &ExecutionError) -> (String, bool) {
    match error {
        ExecutionError::NoSuchKey(name) => (format!("there is no field `{name}`"), true),
        ExecutionError::UndeclaredReference(name) => (format!("there is no `{name}`"), true),
        ExecutionError::FunctionError { function, message } if function == "arithmetic" => (message.clone(), false),
        ExecutionError::FunctionError { function, message } => (format!("`{function}` {message}"), false),
        ExecutionError::ValuesNotComparable(a, b) => {
            (format!("{} cannot be compared with {}", functions::noun(a), functions::noun(b)), false)
        }
        ExecutionError::UnsupportedBinaryOperator(operator, a, b) => {
            (format!("{} {operator} {} is not possible", functions::noun(a), functions::noun(b)), false)
        }
        ExecutionError::NoSuchOverload(overload) => {
            let name = overload.function().trim_matches('_').trim_start_matches('@').to_owned();
            (format!("`{name}` cannot take {}", overload.argument_types().join(" and ")), false)
        }
        ExecutionError::IndexOutOfBounds(_) => ("the list has no such item".to_owned(), true),
        ExecutionError::UnexpectedType { want, .. } => (format!("a {want} is needed"), false),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            ("division by zero".to_owned(), false)
        }
        ExecutionError::Overflow(..) => ("the number is too large".to_owned(), false),
        _ => ("the values do not fit the expression".to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn eval(source: &str, names: Value) -> Result<Value, String> {
        let mut bindings = Bindings::default();
        names.as_object().unwrap().iter().for_each(|(name, value)| bindings.set(name, value.clone()));
        let expr = Expr::parse(source).map_err(|m| format!("{m:?}"))?;
        expr.eval(&bindings).map_err(|error| error.message)
    }

    #[test]
    fn json_numbers_calculate_and_compare() {
        let names = json!({"n": 7, "f": 2.5, "big": 18_446_744_073_709_551_615_u64, "l": [1, 2, 3]});
        for (source, value) in [
            ("n - 5", json!(2)),
            ("n * f", json!(17.5)),
            ("f + n + 1", json!(10.5)),
            ("n / 2", json!(3)),
            ("n > f && f < 3 && n >= 7.0 && n == 7.0", json!(true)),
            ("big > n", json!(true)),
            ("-n + 1", json!(-6)),
            ("abs(f - n) > 4", json!(true)),
            ("l.filter(x, x > 1).map(x, x * 2)", json!([4, 6])),
            ("sum(l) + l[0] + size(l)", json!(10)),
            ("l.sort_by('x')", Value::Null),
            ("'a' + 'b' in ['ab']", json!(true)),
            ("[1] + [2]", json!([1, 2])),
        ] {
            if !value.is_null() {
                assert_eq!(eval(source, names.clone()), Ok(value), "{source}");
            }
        }
        assert_eq!(eval("n / 0", names.clone()), Err("division by zero".into()));
        assert_eq!(eval("n + 'a'", names.clone()), Err("a whole number + a text is not possible".into()));
        assert_eq!(eval("9223372036854775807 + n", names), Err("the number is too large".into()));
    }

    #[test]
    fn a_step_that_did_not_run_short_circuits() {
        let skipped =
            json!({"cause": {"ran": false, "outcome": "skipped"}, "draft": {"ran": false, "outcome": "skipped"}});
        assert_eq!(eval("cause.ran && cause.risk != \"high\"", skipped.clone()), Ok(json!(false)));
        assert_eq!(eval("draft.ran", skipped.clone()), Ok(json!(false)));
        assert_eq!(eval("!draft.ran || draft.url != ''", skipped.clone()), Ok(json!(true)));
        assert_eq!(eval("has(cause.risk)", skipped.clone()), Ok(json!(false)));
        let mut bindings = Bindings::default();
        bindings.set("cause", skipped["cause"].clone());
        let error = Expr::parse("cause.risk != 'high'").unwrap().eval(&bindings).unwrap_err();
        assert!(error.missing, "{error}");
        assert_eq!(Expr::parse("size(cause.files) > params.n").unwrap().not_run(&bindings), Some("cause"));
        assert!(Expr::parse("nobody").unwrap().eval(&bindings).unwrap_err().missing);
    }

    #[test]
    fn has_is_false_for_null() {
        let names = json!({"r": {"a": null, "b": 1}});
        assert_eq!(eval("has(r.a)", names.clone()), Ok(json!(false)));
        assert_eq!(eval("has(r.b) && !has(r.c) && r.a == null", names.clone()), Ok(json!(true)));
        assert!(eval("r.a > 3", names).is_err());
    }

    #[test]
    fn ours_are_functions_and_methods() {
        let names = json!({"l": [{"n": 2}, {"n": 3.5}, {}], "d": "2026-03-01", "t": "connection refused"});
        for (source, value) in [
            ("take(l, 1)", json!([{"n": 2}])),
            ("l.take(99).size()", json!(3)),
            ("l.sort_by(\"-n\").take(1)", json!([{"n": 3.5}])),
            ("sort_by(l, 'n')[2] == {}", json!(true)),
            ("d.days_before(56)", json!("2026-01-04")),
            ("matches_any(t, ['timeout', 'refus'])", json!(true)),
            ("t.matches_any([])", json!(false)),
            ("l.exists(x, has(x.n) && x.n > 3)", json!(true)),
            ("sum(l.filter(x, has(x.n)).map(x, x.n))", json!(5.5)),
        ] {
            assert_eq!(eval(source, names.clone()), Ok(value), "{source}");
        }
        assert!(eval("days_before('2026-3-1', 1)", names.clone()).is_err());
        assert!(eval("t.matches('(')", names).is_err());
    }

    #[test]
    fn a_path_keeps_the_order_of_keys() {
        assert_eq!(eval("a.b", json!({"a": {"b": {"z": 1, "y": 2}}})).unwrap().to_string(), r#"{"z":1,"y":2}"#);
    }

    #[test]
    fn mistakes_point_into_the_text() {
        let place = |source: &str| {
            let mistakes = Expr::parse(source).unwrap_err();
            (mistakes[0].span.start, mistakes[0].message.clone())
        };
        assert_eq!(place("a &&"), (4, "something is missing at the end".into()));
        assert_eq!(place("'é' == b c"), (10, "`c` does not belong here".into()));
        assert_eq!(place("package == 1").1, "`package` is reserved");
    }

    #[test]
    fn nothing_that_is_accepted_can_exhaust_the_stack() {
        let shapes: [fn(usize) -> String; 9] = [
            |n| "[".repeat(n) + &"]".repeat(n),
            |n| "a".to_owned() + &".a".repeat(n),
            |n| "a".to_owned() + &" + a".repeat(n),
            |n| "l".to_owned() + &"[0]".repeat(n),
            |n| "l".to_owned() + &".take(1)".repeat(n),
            |n| "abs(".repeat(n) + "a" + &")".repeat(n),
            |n| "b ? a : ".repeat(n) + "a",
            |n| "l.map(x, ".repeat(n) + "x" + &")".repeat(n),
            |n| "has(m.".repeat(n) + "x" + &")".repeat(n),
        ];
        let mut bindings = Bindings::default();
        bindings.set("a", json!(1));
        bindings.set("b", json!(true));
        bindings.set("l", json!([1]));
        bindings.set("m", json!({}));
        for shape in shapes {
            let mut accepted = 0;
            for depth in (1..60).chain([200, 900, 3_900]) {
                if let Ok(expr) = Expr::parse(&shape(depth)) {
                    let _ = expr.eval(&bindings);
                    accepted = depth;
                }
            }
            assert!(accepted < 60, "{}", shape(3));
        }
        // Brackets, negations and signs are folded by the parser: no depth comes of them.
        for shape in ["(".repeat(1_900) + "a" + &")".repeat(1_900), "!".repeat(3_900) + "b", "-".repeat(3_900) + "a"] {
            let _ = Expr::parse(&shape).map(|expr| expr.eval(&bindings));
        }
    }

    #[test]
    fn odd_input_never_panics() {
        for source in [
            "",
            " ",
            "&&",
            "(",
            "\"",
            "'abc",
            "a.",
            "é é",
            "1..2",
            "@",
            "\\",
            "a ? b",
            "{",
            "{1:",
            "[1,",
            "99999999999999999999",
            "-",
            "0x",
            "'\\x'",
            "'\\ud800'",
            "b'\\xff'",
            "a.b.(c)",
            "//",
            "\u{0}",
            "has(a)",
            "x.exists(1, true)",
            "`a`",
            "1.0e999",
            "🦀 == 1",
            "a[",
            "a?.b",
            "{a:b}",
            "1u - 2u",
            "-9223372036854775808",
            "a{b: 1}",
            ".a",
            "x.map(y, z, w)",
            "int('x')",
            "size()",
            "b'a' == 'a'",
            "type(1)",
            "dyn(1)",
            "nc_add(1)",
        ] {
            let _ = eval(source, json!({"a": 1, "x": [1]}));
        }
    }
}

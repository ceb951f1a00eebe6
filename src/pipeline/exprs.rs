//! Expressions out of nodes, and their mistakes at their place in the file.

use crate::diag::{Diagnostic, Diagnostics, Node, NodeKind, Span, codes};
use crate::expr::cel::Expr;
use crate::expr::check::{Known, TypeScope};
use crate::expr::types::Type;

/// Reads an expression; syntax mistakes are reported.
pub(super) fn parse(what: &str, node: &Node, d: &mut Diagnostics) -> Option<Expr> {
    let text = match &node.kind {
        NodeKind::Scalar { text, .. } => text,
        NodeKind::Map(_) | NodeKind::Seq(_) => {
            node.wrong_shape(what, "an expression", Some("quote expressions that begin with `{` or `[`"), d);
            return None;
        }
        NodeKind::Null | NodeKind::Broken => {
            node.wrong_shape(what, "an expression", None, d);
            return None;
        }
    };
    match Expr::parse(text) {
        Ok(expr) => Some(expr),
        Err(mistakes) => {
            for mistake in mistakes.iter().take(3) {
                let span = place(node, mistake.span, d);
                let title = format!("{what} is not an expression");
                d.push(
                    Diagnostic::error(&codes::EXPRESSION, title, span, mistake.message.clone())
                        .maybe_help(way_out(text)),
                );
            }
            None
        }
    }
}

/// The type of an expression; its mistakes are reported.
pub(super) fn check(expr: &Expr, node: &Node, scope: &TypeScope, known: &Known, d: &mut Diagnostics) -> Type {
    let (ty, mistakes) = expr.check(scope, known);
    for mistake in mistakes {
        let span = place(node, mistake.span, d);
        d.push(Diagnostic::error(mistake.code, mistake.title, span, mistake.label).maybe_help(mistake.help));
    }
    ty
}

/// The same, for a condition.
pub(super) fn check_condition(
    what: &str,
    expr: &Expr,
    node: &Node,
    scope: &TypeScope,
    known: &Known,
    d: &mut Diagnostics,
) {
    let before = d.len();
    let ty = check(expr, node, scope, known, d);
    if d.len() > before || matches!(ty, Type::Boolean | Type::Any) {
        return;
    }
    let help = match (&ty, expr.bare_name()) {
        (Type::Map(_) | Type::Open(_), Some(name)) if ty.field("ran").is_some() => Some(format!("write `{name}.ran`")),
        (Type::Optional(_), _) => Some(format!("write `has({0}) && {0}`", expr.source)),
        (Type::List(_), _) => Some(format!("write `size({}) > 0`", expr.source)),
        _ => None,
    };
    let title = format!("{what} must be true or false");
    d.push(
        Diagnostic::error(&codes::TYPE_CONFLICT, title, node.span, format!("this is {}", ty.noun())).maybe_help(help),
    );
}

/// A byte range of the expression's text in the file; the whole scalar where escapes are in the way.
fn place(node: &Node, span: Span, d: &Diagnostics) -> Span {
    match node.inner_start(d.source().text()) {
        Some(start) if !span.is_empty() => span.shifted(start),
        // What is missing at the end is pointed at as the last character.
        Some(_) => Span::new(node.span.end.saturating_sub(1), node.span.end),
        None => node.span,
    }
}

/// Habits from other languages.
fn way_out(text: &str) -> Option<String> {
    let spaced = |word: &str| text.split_whitespace().any(|part| part == word);
    if spaced("and") || spaced("or") || spaced("not") {
        return Some("write `&&` for and, `||` for or, `!` for not".to_owned());
    }
    if text.contains('=') && !["==", "!=", "<=", ">="].iter().any(|operator| text.contains(operator)) {
        return Some("write `==` to compare".to_owned());
    }
    if text.contains("{{") || text.contains("${") {
        return Some("expressions stand without `{{ }}` or `${ }`".to_owned());
    }
    if text.contains("===") || text.contains("!==") {
        return Some("write `==` or `!=`".to_owned());
    }
    Some("`nightcrew schema --cel` lists operators and functions".to_owned())
}

//! What the logic of an expression says about values that may be missing.

use cel::common::ast::{Expr as Ast, IdedExpr, LiteralValue, operators};

use super::cel::Expr;

/// Something known to hold where an expression is evaluated.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fact {
    /// The step (or child) at this path ran: its fields are there.
    Ran(String),
    /// The value at this path is there and not null.
    Present(String),
}

/// What is known to hold: of a `when`, for the rest of its step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known(pub(super) Vec<Fact>);

impl Known {
    /// Adds what another condition says.
    pub fn extend(&mut self, other: Known) {
        self.0.extend(other.0);
    }

    /// What is known when `expr` was true (or, negated, false).
    pub fn when(expr: &Expr, negated: bool) -> Self {
        Self(if negated { facts_if_false(&expr.ast) } else { facts_if_true(&expr.ast) })
    }
}

/// `a.b.c` for a name and fields of it.
pub(super) fn path(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Ast::Ident(name) => Some(name.clone()),
        Ast::Select(select) if !select.test => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        _ => None,
    }
}

pub(super) fn facts_if_true(node: &IdedExpr) -> Vec<Fact> {
    match &node.expr {
        Ast::Select(select) if select.test => path(&select.operand)
            .map(|operand| Fact::Present(format!("{operand}.{}", select.field)))
            .into_iter()
            .collect(),
        Ast::Select(select) if select.field == "ran" => path(&select.operand).map(Fact::Ran).into_iter().collect(),
        Ast::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, [a, b]) => facts_if_true(a).into_iter().chain(facts_if_true(b)).collect(),
            (operators::LOGICAL_NOT, [a]) => facts_if_false(a),
            (operators::NOT_EQUALS, [a, b]) => null_side(a, b).into_iter().collect(),
            (operators::EQUALS, [a, b]) => outcome_side(a, b).or_else(|| true_side(a, b, true)).into_iter().collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

pub(super) fn facts_if_false(node: &IdedExpr) -> Vec<Fact> {
    match &node.expr {
        Ast::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_OR, [a, b]) => facts_if_false(a).into_iter().chain(facts_if_false(b)).collect(),
            (operators::LOGICAL_NOT, [a]) => facts_if_true(a),
            (operators::EQUALS, [a, b]) => null_side(a, b).or_else(|| true_side(a, b, false)).into_iter().collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// `x.f != null`
fn null_side(a: &IdedExpr, b: &IdedExpr) -> Option<Fact> {
    let is_null = |node: &IdedExpr| matches!(node.expr, Ast::Literal(LiteralValue::Null));
    let other = if is_null(a) { b } else { Some(a).filter(|_| is_null(b))? };
    path(other).map(Fact::Present)
}

/// `x.outcome == "done"`: only a step that ran has such an outcome.
fn outcome_side(a: &IdedExpr, b: &IdedExpr) -> Option<Fact> {
    let (Ast::Select(select), Ast::Literal(LiteralValue::String(text))) = (&a.expr, &b.expr) else { return None };
    let ran = select.field == "outcome" && !matches!(text.inner(), "skipped" | "failed");
    path(&select.operand).filter(|_| ran).map(Fact::Ran)
}

/// `x.ran == true`
fn true_side(a: &IdedExpr, b: &IdedExpr, wanted: bool) -> Option<Fact> {
    let (Ast::Select(select), Ast::Literal(LiteralValue::Boolean(value))) = (&a.expr, &b.expr) else { return None };
    path(&select.operand).filter(|_| select.field == "ran" && *value.inner() == wanted).map(Fact::Ran)
}

//! The names and types that expressions see at one place of the pipeline.

use std::collections::BTreeMap;

use crate::diag::Span;
use crate::domain::definition::Options;
use crate::expr::check::{Known, TypeScope};
use crate::expr::types::{Field, Type};

/// An earlier step, as later ones refer to it.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    pub kind: String,
    pub options: Options,
    pub id_span: Span,
}

/// What is in scope; copied for every step and every level of `each`.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub types: TypeScope,
    pub steps: BTreeMap<String, Earlier>,
    /// Names bound by `each`, with where.
    pub bound: BTreeMap<String, Span>,
    /// What the conditions of the steps above say.
    pub known: Known,
    /// The path of ids above.
    pub above: Vec<String>,
}

impl Scope {
    /// Where an id or bound name of the same spelling was introduced.
    pub fn taken(&self, name: &str) -> Option<Span> {
        self.steps.get(name).map(|step| step.id_span).or_else(|| self.bound.get(name).copied())
    }
}

/// What stands for a value where a list or data is expected: a step's items if it has them, else its fields.
pub(super) fn as_data(ty: &Type) -> &Type {
    match ty.required() {
        found @ (Type::Map(_) | Type::Open(_)) => found.field("items").map_or(found, Type::required),
        other => other,
    }
}

/// The type of one item of a list or of a step with items; `None` when it is not a list.
pub(super) fn item_of(ty: &Type) -> Option<Type> {
    match as_data(ty) {
        Type::List(item) => Some((**item).clone()),
        Type::Any => Some(Type::Any),
        _ => None,
    }
}

/// A step's result: `ran` and `outcome`, and the fields of its kind, which are not there when it did not run.
pub(super) fn result(fields: Vec<Field>, open: bool, may_not_run: bool) -> Type {
    let mut all = vec![Field::new("ran", Type::Boolean), Field::new("outcome", Type::TEXT)];
    for field in fields {
        if all.iter().any(|known| known.name == field.name) {
            continue;
        }
        all.push(if may_not_run { Field::new(field.name, field.ty.optional()) } else { field });
    }
    if open { Type::Open(all) } else { Type::Map(all) }
}

/// The item's own fields with those that a step added; `ran` and `outcome` are the newest. Fields in both are returned too.
pub(super) fn merge(item: &Type, added: &[Field]) -> (Type, Vec<String>) {
    let own = item.fields().unwrap_or_default();
    let newest = |name: &str| name == "ran" || name == "outcome";
    let clashes: Vec<String> = added
        .iter()
        .filter(|field| !newest(&field.name) && own.iter().any(|known| known.name == field.name))
        .map(|field| field.name.clone())
        .collect();
    let mut fields: Vec<Field> =
        own.iter().filter(|field| !added.iter().any(|other| other.name == field.name)).cloned().collect();
    fields.extend(added.iter().cloned());
    let closed = matches!(item.required(), Type::Map(_));
    (if closed { Type::Map(fields) } else { Type::Open(fields) }, clashes)
}

//! `each`: over what a step is repeated, as `error in errors` or as a map.

use crate::base::money::UsdMicros;
use crate::diag::{Node, NodeKind, ScalarStyle, Span, codes, did_you_mean};
use crate::domain::definition::{Each, Order};
use crate::expr::cel::Expr;
use crate::expr::types::Type;

use super::context::Context;
use super::exprs;
use super::scope::Scope;
use super::steps::{Rules, check_item_budget, introduce, items_type};

/// A read `each` with what the rest of the step needs.
pub(super) struct EachRead {
    pub each: Each,
    /// The type of one item.
    pub item: Type,
    pub name_span: Span,
    pub items_span: Span,
}

pub(super) fn each(node: &Node, scope: &Scope, rules: &Rules<'_>, c: &mut Context<'_>) -> Option<EachRead> {
    match &node.kind {
        NodeKind::Scalar { text, .. } => short(text, node, scope, c),
        _ => long(node, scope, rules, c),
    }
}

fn short(text: &str, node: &Node, scope: &Scope, c: &mut Context<'_>) -> Option<EachRead> {
    let base = node.inner_start(c.d.source().text());
    let parts = text.split_once(" in ").map(|(name, items)| (name.trim(), items.trim()));
    let Some((name, items)) =
        parts.filter(|(name, items)| !name.is_empty() && !name.contains(' ') && !items.is_empty())
    else {
        node.bad(
            "`each`",
            "`name in step`",
            "not of that form",
            Some("write for example `each: error in errors`".to_owned()),
            &mut c.d,
        );
        return None;
    };
    let span = |part: &str| {
        let offset = part.as_ptr() as usize - text.as_ptr() as usize;
        base.map_or(node.span, |base| Span::new(base + offset, base + offset + part.len()))
    };
    let name_span = span(name);
    introduce(name, name_span, "an item", scope, c);
    let items_node = Node {
        span: span(items),
        kind: NodeKind::Scalar { text: items.to_owned(), style: ScalarStyle::Plain },
        in_flow: node.in_flow,
    };
    let (items, item) = items_of(&items_node, scope, c)?;
    let each = Each { name: name.to_owned(), items, order: None, take: None, parallel: None, max_budget_usd: None };
    Some(EachRead { each, item, name_span, items_span: items_node.span })
}

fn long(node: &Node, scope: &Scope, rules: &Rules<'_>, c: &mut Context<'_>) -> Option<EachRead> {
    let mut map = node.map("`each`", &mut c.d)?;
    for (other, own) in [
        ("name", "as"),
        ("of", "in"),
        ("from", "in"),
        ("limit", "take"),
        ("max_parallel", "parallel"),
        ("sort", "order"),
    ] {
        map.renamed(other, own);
    }
    let name_node = map.require("as", &mut c.d);
    let name = name_node.and_then(|node| node.filled_string("`as`", &mut c.d));
    if let (Some(name), Some(node)) = (name, name_node) {
        introduce(name, node.span, "an item", scope, c);
    }
    let items_node = map.require("in", &mut c.d);
    let items = items_node.and_then(|node| items_of(node, scope, c));
    let item = items.as_ref().map_or(Type::Any, |(_, item)| item.clone());
    let order = map.optional("order", &mut c.d).and_then(|node| order(node, &item, c));
    let count = |key: &str, most: i64, map: &mut crate::diag::MapReader<'_>, c: &mut Context<'_>| {
        let number = map.optional(key, &mut c.d)?.integer(&format!("`{key}`"), 1..=most, &mut c.d)?;
        u32::try_from(number).ok()
    };
    let take = count("take", 100_000, &mut map, c);
    let parallel = count("parallel", 100, &mut map, c);
    let max_budget_usd = map.optional("max_budget_usd", &mut c.d).and_then(|node| {
        let budget = UsdMicros(node.money("`max_budget_usd`", &mut c.d)?);
        check_item_budget(budget, node.span, rules, c);
        Some(budget)
    });
    map.finish(&mut c.d);
    let name_span = name_node.map_or(node.span, |node| node.span);
    let items_span = items_node.map_or(node.span, |node| node.span);
    let each = Each { name: name?.to_owned(), items: items?.0, order, take, parallel, max_budget_usd };
    Some(EachRead { each, item, name_span, items_span })
}

/// The expression for the items and the type of one. A value that is no list is reported, and its items may be anything.
fn items_of(node: &Node, scope: &Scope, c: &mut Context<'_>) -> Option<(Expr, Type)> {
    let expr = exprs::parse("the list of `each`", node, &mut c.d)?;
    let before = c.d.len();
    let ty = exprs::check(&expr, node, &scope.types, &scope.known, &mut c.d);
    let item = match items_type(&ty) {
        Ok(item) => item,
        Err(_) if c.d.len() > before => Type::Any,
        Err(noun) => {
            let lists: Vec<String> = ty
                .fields()
                .unwrap_or_default()
                .iter()
                .filter(|field| matches!(field.ty.required(), Type::List(_)))
                .map(|field| format!("`{}.{}`", expr.source, field.name))
                .collect();
            let help = (!lists.is_empty()).then(|| format!("write {}", lists.join(" or ")));
            c.error(&codes::TYPE_CONFLICT, "`each` needs a list", node.span, format!("this is {noun}"), help);
            Type::Any
        }
    };
    Some((expr, item))
}

fn order(node: &Node, item: &Type, c: &mut Context<'_>) -> Option<Order> {
    let text = node.filled_string("`order`", &mut c.d)?;
    let (field, descending) = text.strip_prefix('-').map_or((text, false), |field| (field, true));
    if let Type::Map(known) = item.required()
        && !known.iter().any(|known| known.name == field)
    {
        let help = did_you_mean(field, known.iter().map(|field| field.name.as_str()));
        c.error(
            &codes::UNKNOWN_FIELD,
            format!("unknown field `{field}`"),
            node.span,
            "the items have no such field",
            help,
        );
    }
    Some(Order { field: field.to_owned(), descending })
}

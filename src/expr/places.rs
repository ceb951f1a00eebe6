//! Which bytes of an expression's text a node covers.

use cel::common::ast::{Expr as Ast, IdedExpr, operators};

use crate::diag::Span;

/// The part of a node that a mistake is about.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// All of it, operands included.
    Whole,
    /// The name of a field or function alone.
    Name,
}

pub(super) struct Places<'a> {
    pub(super) source: &'a str,
    /// The own bytes of a node by its id, see `Expr::offsets`.
    pub(super) offsets: &'a dyn Fn(u64) -> Option<(usize, usize)>,
}

impl Places<'_> {
    fn own(&self, node: &IdedExpr) -> Span {
        let (start, stop) = (self.offsets)(node.id).unwrap_or((0, self.source.len()));
        Span::new(start.min(self.source.len()), stop.min(self.source.len()))
    }

    /// The word at or behind `from`.
    fn word(&self, from: usize) -> Span {
        let rest = self.source.get(from..).unwrap_or("");
        let skipped = rest.len() - rest.trim_start_matches(|c: char| c == '.' || c == '?' || c.is_whitespace()).len();
        let start = from + skipped;
        let length: usize =
            self.source[start..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
        Span::new(start, start + length)
    }

    pub(super) fn name(&self, node: &IdedExpr) -> Span {
        match &node.expr {
            Ast::Select(_) => self.word(self.own(node).start),
            Ast::Call(call) if !is_operator(&call.func_name) => self.call(node, &call.func_name).0,
            _ => self.own(node),
        }
    }

    pub(super) fn whole(&self, node: &IdedExpr) -> Span {
        let own = match &node.expr {
            Ast::Select(_) => self.name(node),
            Ast::Call(call) if !is_operator(&call.func_name) => {
                let (name, open) = self.call(node, &call.func_name);
                Span::new(name.start, self.closing(open))
            }
            Ast::Comprehension(_) => {
                let open = self.own(node).start;
                Span::new(open, self.closing(open))
            }
            _ => self.own(node),
        };
        let mut span = own;
        let parts: Vec<&IdedExpr> = match &node.expr {
            Ast::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
            Ast::Select(select) => vec![&select.operand],
            Ast::Comprehension(comprehension) => vec![&comprehension.iter_range],
            _ => Vec::new(),
        };
        for part in parts {
            let part = self.whole(part);
            span = Span::new(span.start.min(part.start), span.end.max(part.end));
        }
        span
    }

    /// The name of a called function and where its bracket opens. A function stands at its name, a method at its bracket.
    fn call(&self, node: &IdedExpr, name: &str) -> (Span, usize) {
        let own = self.own(node);
        if self.source.get(own.start..own.end) == Some(name) {
            let open = self.source[own.end..].find('(').map_or(own.end, |offset| own.end + offset);
            return (own, open);
        }
        let before = self.source.get(..own.start).unwrap_or("").trim_end();
        let start = if before.ends_with(name) { before.len() - name.len() } else { own.start };
        (Span::new(start, before.len().max(start)), own.start)
    }

    /// Behind the bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0usize;
        let mut quote = None;
        for (at, c) in self.source.get(open..).unwrap_or("").char_indices() {
            match (quote, c) {
                (Some(q), c) if q == c => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '(' | '[' | '{') => depth += 1,
                (None, ')' | ']' | '}') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return open + at + 1;
                    }
                }
                _ => {}
            }
        }
        self.source.len()
    }
}

/// Whether a called function is an operator.
pub(super) fn is_operator(name: &str) -> bool {
    name.contains('_') && !name.chars().any(char::is_alphanumeric)
        || name == operators::IN
        || name == operators::NOT_STRICTLY_FALSE
}

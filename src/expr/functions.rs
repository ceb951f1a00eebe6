//! The functions of expressions: the table that `nightcrew schema --cel` prints and the checker reads, and our own ones' logic.
//!
//! Ours take integers and doubles alike, and dates as `YYYY-MM-DD` texts.

use std::cmp::Ordering;
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Key;
use cel::{ExecutionError, Value};
use jiff::ToSpan as _;

use super::types::{Type, parse_date};

/// What a function takes or gives, as far as it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Any,
    Text,
    Date,
    Number,
    Integer,
    Boolean,
    List,
    /// A text, a list or a map.
    Sized,
    /// Of what the first argument is: the same list, the same number.
    Same,
}

/// Where a function comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Standard,
    Ours,
}

/// One function, callable as `name(a, b)` and, where `method` says so, as `a.name(b)`.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub name: &'static str,
    pub origin: Origin,
    /// How it is called: as a method only (`a.name(b)`), as a function only, or both.
    pub call: Call,
    /// Shapes of the arguments, the target of a method first; each tuple is one accepted arity.
    pub takes: &'static [&'static [Shape]],
    pub gives: Shape,
    pub doc: &'static str,
    /// An expression without names.
    pub example: &'static str,
    /// Its value as JSON.
    pub value: &'static str,
}

/// How a function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Method,
    Function,
    Both,
}

/// Operators, for `schema --cel`.
pub const OPERATORS: &[(&str, &str)] = &[
    ("a && b   a || b   !a", "logic; `a && b` does not look at b when a is false"),
    ("==   !=   <   <=   >   >=", "comparison of values of one kind; texts and dates by alphabet"),
    ("+   -   *   /   %", "arithmetic; whole numbers divide to whole numbers; `+` also joins texts and lists"),
    ("a in b", "whether list b holds a, or map b has the key a"),
    ("a ? b : c", "b if a is true, else c; quote the whole expression in YAML"),
    ("a.b   a[0]   a[\"b\"]", "a field, an item, a field by text"),
    ("has(a.b)", "whether a has the field b and it is not null"),
];

/// Macros over lists, for `schema --cel`.
pub const MACROS: &[(&str, &str)] = &[
    ("list.exists(x, test)", "whether the test is true for any item"),
    ("list.all(x, test)", "whether the test is true for every item"),
    ("list.exists_one(x, test)", "whether the test is true for exactly one item"),
    ("list.filter(x, test)", "the items for which the test is true"),
    ("list.map(x, value)", "the value for every item"),
];

use Shape::{Any, Boolean, Date, Integer, List, Number, Same, Sized, Text};

const fn standard(
    name: &'static str,
    call: Call,
    takes: &'static [&'static [Shape]],
    gives: Shape,
    doc: &'static str,
    example: &'static str,
    value: &'static str,
) -> Function {
    Function { name, origin: Origin::Standard, call, takes, gives, doc, example, value }
}

const fn ours(
    name: &'static str,
    takes: &'static [&'static [Shape]],
    gives: Shape,
    doc: &'static str,
    example: &'static str,
    value: &'static str,
) -> Function {
    Function { name, origin: Origin::Ours, call: Call::Both, takes, gives, doc, example, value }
}

/// Every function that an expression may call.
pub const ALL: &[Function] = &[
    ours("take", &[&[List, Integer]], Same, "The first n items of a list.", "take([1, 2, 3], 2)", "[1,2]"),
    ours(
        "sort_by",
        &[&[List, Text]],
        Same,
        "A list sorted by a field of its items, `-` in front for descending; items without the field come last.",
        r#"sort_by([{"n": 2}, {"n": 1}], "n")"#,
        r#"[{"n":1},{"n":2}]"#,
    ),
    ours("sum", &[&[List]], Number, "The sum of a list of numbers; 0 for an empty list.", "sum([1, 2.5])", "3.5"),
    ours("abs", &[&[Number]], Same, "A number without its sign.", "abs(-3)", "3"),
    ours(
        "days_before",
        &[&[Date, Integer]],
        Date,
        "The date so many days earlier.",
        r#"days_before("2026-03-01", 1)"#,
        r#""2026-02-28""#,
    ),
    ours(
        "matches_any",
        &[&[Text, List]],
        Boolean,
        "Whether any of the regular expressions is found in the text.",
        r#""timed out".matches_any(["time.?d? out", "refused"])"#,
        "true",
    ),
    standard(
        "size",
        Call::Both,
        &[&[Sized]],
        Integer,
        "Length of a text in characters, of a list in items, of a map in fields.",
        r#"size("abc")"#,
        "3",
    ),
    standard(
        "contains",
        Call::Method,
        &[&[Text, Text]],
        Boolean,
        "Whether the text holds the other one.",
        r#""abc".contains("b")"#,
        "true",
    ),
    standard(
        "startsWith",
        Call::Method,
        &[&[Text, Text]],
        Boolean,
        "Whether the text begins with the other one.",
        r#""abc".startsWith("a")"#,
        "true",
    ),
    standard(
        "endsWith",
        Call::Method,
        &[&[Text, Text]],
        Boolean,
        "Whether the text ends with the other one.",
        r#""abc".endsWith("c")"#,
        "true",
    ),
    standard(
        "matches",
        Call::Both,
        &[&[Text, Text]],
        Boolean,
        "Whether the regular expression is found in the text.",
        r#""abc".matches("^a.c$")"#,
        "true",
    ),
    standard("string", Call::Function, &[&[Any]], Text, "A number or a boolean as text.", "string(1.5)", r#""1.5""#),
    standard("int", Call::Function, &[&[Any]], Integer, "A number or a text as a whole number.", r#"int("7")"#, "7"),
    standard(
        "double",
        Call::Function,
        &[&[Any]],
        Number,
        "A number or a text as a number with decimals.",
        "double(7) / 2.0",
        "3.5",
    ),
];

/// The function of that name.
pub fn find(name: &str) -> Option<&'static Function> {
    ALL.iter().find(|function| function.name == name)
}

impl Shape {
    /// The type, as far as the shape says.
    pub fn ty(self) -> Type {
        match self {
            Any | Sized | Same => Type::Any,
            Text => Type::TEXT,
            Date => Type::Date,
            Number => Type::Number,
            Integer => Type::Integer,
            Boolean => Type::Boolean,
            List => Type::list(Type::Any),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Any => "value",
            Text => "string",
            Date => "date",
            Number => "number",
            Integer => "integer",
            Boolean => "boolean",
            List => "list",
            Sized => "string | list | map",
            Same => "same",
        }
    }
}

impl Function {
    /// `take(list, integer) -> list`
    pub fn signature(&self) -> String {
        let takes = self.takes.first().copied().unwrap_or_default();
        let words: Vec<&str> = takes.iter().map(|shape| shape.word()).collect();
        let gives = match self.gives {
            Same => takes.first().map_or("value", |first| first.word()),
            gives => gives.word(),
        };
        match self.call {
            Call::Method => format!("{}.{}({}) -> {gives}", words[0], self.name, words[1..].join(", ")),
            _ => format!("{}({}) -> {gives}", self.name, words.join(", ")),
        }
    }
}

/// The name under which arithmetic is called, so that integers and doubles mix.
pub fn arithmetic(operator: &str) -> Option<&'static str> {
    Some(match operator {
        "_+_" => "nc_add",
        "_-_" => "nc_subtract",
        "_*_" => "nc_multiply",
        "_/_" => "nc_divide",
        "_%_" => "nc_remainder",
        _ => return None,
    })
}

/// Adds the one function to an evaluation; unknown names are left alone.
pub fn register(name: &str, context: &mut cel::Context<'_, '_>) {
    // The only error is a clash with a standard overload; a test calls every one of them.
    let _ = match name {
        "take" => context.add_function("take", |This(a): This<Value>, b: Value| take(a, b)),
        "sort_by" => context.add_function("sort_by", |This(a): This<Value>, b: Value| sort_by(a, b)),
        "sum" => context.add_function("sum", |This(a): This<Value>| sum(a)),
        "abs" => context.add_function("abs", |This(a): This<Value>| abs(a)),
        "days_before" => context.add_function("days_before", |This(a): This<Value>, b: Value| days_before(a, b)),
        "nc_add" => context.add_function("nc_add", |a: Value, b: Value| calculate('+', a, b)),
        "nc_subtract" => context.add_function("nc_subtract", |a: Value, b: Value| calculate('-', a, b)),
        "nc_multiply" => context.add_function("nc_multiply", |a: Value, b: Value| calculate('*', a, b)),
        "nc_divide" => context.add_function("nc_divide", |a: Value, b: Value| calculate('/', a, b)),
        "nc_remainder" => context.add_function("nc_remainder", |a: Value, b: Value| calculate('%', a, b)),
        _ => Ok(()),
    };
}

type Answer = Result<Value, ExecutionError>;

fn refuse(function: &str, message: impl Into<String>) -> ExecutionError {
    ExecutionError::FunctionError { function: function.to_owned(), message: message.into() }
}

fn take(list: Value, count: Value) -> Answer {
    let Value::List(items) = list else { return Err(refuse("take", format!("needs a list, not {}", noun(&list)))) };
    let Some(count) = whole(&count) else {
        return Err(refuse("take", format!("needs a whole number, not {}", noun(&count))));
    };
    let count = usize::try_from(count).unwrap_or(0).min(items.len());
    Ok(Value::List(Arc::new(items[..count].to_vec())))
}

fn sort_by(list: Value, field: Value) -> Answer {
    let (Value::List(items), Value::String(field)) = (list, field) else {
        return Err(refuse("sort_by", "needs a list and the name of a field"));
    };
    let (name, descending) = field.strip_prefix('-').map_or((field.as_str(), false), |name| (name, true));
    let key = Key::String(Arc::new(name.to_owned()));
    let mut keyed: Vec<(Option<Value>, Value)> = Vec::with_capacity(items.len());
    for item in items.iter() {
        let Value::Map(map) = item else {
            return Err(refuse("sort_by", format!("needs a list of maps, not of {}", noun(item))));
        };
        let found = map.map.get(&key).filter(|value| !matches!(value, Value::Null));
        keyed.push((found.cloned(), item.clone()));
    }
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (Some(a), Some(b)) if descending => compare(b, a),
        (Some(a), Some(b)) => compare(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    Ok(Value::List(Arc::new(keyed.into_iter().map(|(_, item)| item).collect())))
}

/// Numbers before booleans before texts before all else; equal kinds by value.
fn compare(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => 0,
            Value::Bool(_) => 1,
            Value::String(_) => 2,
            _ => 3,
        }
    }
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        _ => match (float(a), float(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => rank(a).cmp(&rank(b)),
        },
    }
}

fn sum(list: Value) -> Answer {
    let Value::List(items) = list else { return Err(refuse("sum", format!("needs a list, not {}", noun(&list)))) };
    items.iter().try_fold(Value::Int(0), |total, item| {
        calculate('+', total, item.clone()).map_err(|_| refuse("sum", format!("needs numbers, not {}", noun(item))))
    })
}

fn abs(number: Value) -> Answer {
    match number {
        Value::Int(whole) => {
            whole.checked_abs().map(Value::Int).ok_or_else(|| refuse("abs", "the number is too large"))
        }
        Value::UInt(whole) => Ok(Value::UInt(whole)),
        Value::Float(float) => Ok(Value::Float(float.abs())),
        other => Err(refuse("abs", format!("needs a number, not {}", noun(&other)))),
    }
}

fn days_before(date: Value, days: Value) -> Answer {
    let (Value::String(text), Some(count)) = (&date, whole(&days)) else {
        return Err(refuse("days_before", "needs a date and a whole number"));
    };
    let day = parse_date(text).ok_or_else(|| refuse("days_before", "needs a date such as 2026-11-20"))?;
    let span = i32::try_from(count).ok().filter(|count| count.abs() < 4_000_000).map(|count| count.days());
    let earlier = span
        .and_then(|span| day.checked_sub(span).ok())
        .ok_or_else(|| refuse("days_before", "the date is out of range"))?;
    Ok(Value::String(Arc::new(earlier.to_string())))
}

/// Arithmetic over integers and doubles mixed; `+` also joins texts and lists.
fn calculate(operator: char, a: Value, b: Value) -> Answer {
    if let (Some(a), Some(b)) =
        (whole(&a).filter(|_| !matches!(a, Value::Float(_))), whole(&b).filter(|_| !matches!(b, Value::Float(_))))
    {
        let result = match operator {
            '+' => a.checked_add(b),
            '-' => a.checked_sub(b),
            '*' => a.checked_mul(b),
            _ if b == 0 => return Err(refuse("arithmetic", "division by zero")),
            '/' => a.checked_div(b),
            _ => a.checked_rem(b),
        };
        return result.map(Value::Int).ok_or_else(|| refuse("arithmetic", "the number is too large"));
    }
    if let (Some(a), Some(b)) = (float(&a), float(&b)) {
        return match operator {
            '+' => Ok(a + b),
            '-' => Ok(a - b),
            '*' => Ok(a * b),
            _ if b == 0.0 => Err(refuse("arithmetic", "division by zero")),
            '/' => Ok(a / b),
            _ => Ok(a % b),
        }
        .map(Value::Float);
    }
    match (operator, a, b) {
        ('+', Value::String(a), Value::String(b)) => Ok(Value::String(Arc::new(format!("{a}{b}")))),
        ('+', Value::List(a), Value::List(b)) => Ok(Value::List(Arc::new(a.iter().chain(b.iter()).cloned().collect()))),
        (operator, a, b) => Err(refuse("arithmetic", format!("{} {operator} {} is not possible", noun(&a), noun(&b)))),
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(whole) => Some(*whole),
        Value::UInt(whole) => i64::try_from(*whole).ok(),
        Value::Float(float) if float.fract() == 0.0 && float.abs() < 9e15 => Some(*float as i64),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(whole) => Some(*whole as f64),
        Value::UInt(whole) => Some(*whole as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

/// What a value is, for messages that must not show it.
pub fn noun(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Int(_) | Value::UInt(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::String(_) => "a text",
        Value::Bool(_) => "true or false",
        Value::Null => "nothing",
        _ => "another value",
    }
}

#[cfg(test)]
mod tests {
    use super::super::cel::{Bindings, Expr};
    use super::*;

    #[test]
    fn every_function_does_what_its_example_says() {
        for function in ALL {
            let value = Expr::parse(function.example).unwrap().eval(&Bindings::default());
            assert_eq!(value.map(|v| v.to_string()), Ok(function.value.to_owned()), "{}", function.example);
            assert!(function.signature().contains(function.name) && function.doc.ends_with('.'));
        }
    }
}

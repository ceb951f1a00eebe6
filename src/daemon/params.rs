//! The parameters of a run: what was given, read by its type, and defaults resolved against the nominal day. Pure.

use jiff::civil::Date;
use serde_json::{Map, Value};

use crate::domain::definition::Param;
use crate::expr::types::Type;

/// Resolves all parameters; the errors are for people, one per mistake.
///
/// A text is read by the parameter's type, so that `--set day=yesterday` and `--set n=3` work; other values must fit as they
/// are. `today` and `yesterday` are those of `day`.
pub fn resolve(params: &[Param], given: &Map<String, Value>, day: Date) -> Result<Map<String, Value>, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut resolved = Map::new();
    for name in given.keys().filter(|name| !params.iter().any(|param| param.name == **name)) {
        let known: Vec<_> = params.iter().map(|param| format!("`{}`", param.name)).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        mistakes.push(format!("the pipeline has no parameter `{name}`: {known}"));
    }
    for param in params {
        let (read, whence) = match (given.get(&param.name), &param.default) {
            (Some(Value::String(text)), _) => (param.ty.from_text(text, day), "given"),
            (Some(value), _) => (param.ty.validate(value, &|_| Vec::new()), "given"),
            (None, Some(default)) => (param.ty.resolve_default(default, day), "default"),
            (None, None) if matches!(param.ty, Type::Optional(_)) => (Ok(Value::Null), "default"),
            (None, None) => {
                mistakes.push(format!("the parameter `{0}` must be given: --set {0}=…", param.name));
                continue;
            }
        };
        match read {
            Ok(value) => drop(resolved.insert(param.name.clone(), value)),
            Err(problems) => {
                let why: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
                mistakes.push(format!(
                    "the {whence} value of the parameter `{}` does not fit: {}",
                    param.name,
                    why.join("; ")
                ));
            }
        }
    }
    if mistakes.is_empty() { Ok(resolved) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn param(name: &str, ty: Type, default: Option<Value>) -> Param {
        Param { name: name.into(), ty, default }
    }

    #[test]
    fn words_are_read_by_type_and_every_mistake_is_told() {
        let params = [
            param("day", Type::Date, Some(json!("yesterday"))),
            param("n", Type::Integer, None),
            param("note", Type::Optional(Box::new(Type::String { max: None })), None),
        ];
        let day: Date = "2026-11-20".parse().unwrap();
        let given = json!({"n": "3"}).as_object().cloned().unwrap();
        let resolved = resolve(&params, &given, day).unwrap();
        assert_eq!(Value::from(resolved), json!({"day": "2026-11-19", "n": 3, "note": null}));
        let given = json!({"m": "1", "day": "20.11."}).as_object().cloned().unwrap();
        let mistakes = resolve(&params, &given, day).unwrap_err();
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert_eq!(mistakes[0], "the pipeline has no parameter `m`: it has `day`, `n`, `note`");
        assert!(mistakes[1].starts_with("the given value of the parameter `day` does not fit: "), "{mistakes:?}");
        assert_eq!(mistakes[2], "the parameter `n` must be given: --set n=…");
    }
}

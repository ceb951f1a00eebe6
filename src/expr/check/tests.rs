//! What the check finds, and what it lets pass.

use super::*;

fn words(list: &[&str]) -> Type {
    Type::Enum(list.iter().map(|word| (*word).to_owned()).collect())
}

/// A step that may not run: its fields are optional.
fn step(fields: Vec<Field>) -> Type {
    let own = fields.into_iter().map(|field| Field::new(field.name, field.ty.optional()));
    Type::Map([Field::new("ran", Type::Boolean), Field::new("outcome", Type::TEXT)].into_iter().chain(own).collect())
}

fn scope() -> TypeScope {
    let finding = Type::Map(vec![
        Field::new("title", Type::TEXT),
        Field::new("severity", words(&["low", "high"])),
        Field::new("score", Type::Ratio),
    ]);
    let mut scope = TypeScope::default();
    scope.set(
        "cause",
        step(vec![Field::new("risk", words(&["low", "medium", "high"])), Field::new("note", Type::TEXT.optional())]),
    );
    scope.set(
        "ranked",
        Type::Map(vec![Field::new("ran", Type::Boolean), Field::new("groups", Type::list(finding.clone()))]),
    );
    scope.set(
        "real",
        Type::Map(vec![
            Field::new("ran", Type::Boolean),
            Field::new("items", Type::list(finding)),
            Field::new("count", Type::Integer),
        ]),
    );
    scope.set("error", Type::Any);
    scope.set("params", Type::Map(vec![Field::new("day", Type::Date), Field::new("n", Type::Integer.optional())]));
    scope
}

fn check(source: &str) -> (Type, Vec<String>) {
    let (ty, mistakes) = Expr::parse(source).unwrap().check(&scope(), &Known::default());
    let show = |m: &Mistake| {
        format!("{} «{}» {}", m.title, &source[m.span.start..m.span.end], m.help.clone().unwrap_or_default())
    };
    (ty, mistakes.iter().map(show).collect())
}

#[test]
fn good_expressions_have_their_type() {
    for (source, ty) in [
        ("cause.ran && cause.risk != \"high\"", "boolean"),
        ("!cause.ran || cause.risk == 'low'", "boolean"),
        ("cause.ran ? cause.risk : 'low'", "string"),
        ("has(cause.note) && cause.note.contains('x')", "boolean"),
        ("cause.ran && cause.note != null && cause.note == 'x'", "boolean"),
        ("cause.outcome == \"done\" && cause.risk == \"low\"", "boolean"),
        ("ranked.groups.filter(g, g.severity != \"low\")", "[{title: string, severity: low | high, score: 0..1}]"),
        ("ranked.groups.map(g, g.title)", "[string]"),
        ("ranked.groups.filter(g, g.score > 0.5).size() * 2", "integer"),
        ("real.items.exists(f, f.title.startsWith('a')) && real.count >= 3", "boolean"),
        ("error.users * 1.5 > 3 && error.anything.at_all == 'x'", "boolean"),
        ("days_before(params.day, 56)", "date"),
        ("has(params.n) && params.n > 3", "boolean"),
        ("params.day < '2026-01-01'", "boolean"),
        ("real.items.sort_by('-score').take(3)[0].title", "string"),
        ("abs(error.change) > 15 && error.class in ['a', 'b']", "boolean"),
        ("real.items.exists_one(f, f.severity == 'high')", "boolean"),
        ("real.count + 1.5", "number"),
        ("{'a': 1}.a", "integer"),
    ] {
        let (found, mistakes) = check(source);
        assert_eq!(mistakes, Vec::<String>::new(), "{source}");
        assert_eq!(found.to_string(), ty, "{source}");
    }
}

#[test]
fn each_mistake_is_placed_and_has_a_way_out() {
    for (source, mistake) in [
        ("caus.ran", "unknown reference `caus` «caus» did you mean `cause`?"),
        ("cause.rn", "unknown field `rn` «rn» did you mean `ran`?"),
        (
            "true && cause.risk == 'low'",
            "`cause.risk` may be missing here «cause.risk» write `cause.ran && …` in front, or give the step `when: cause.ran`",
        ),
        (
            "cause.ran && cause.note == 'x'",
            "`cause.note` may be missing here «cause.note» write `cause.ran && …` in front, or give the step `when: cause.ran`",
        ),
        ("params.n > 3", "`params.n` may be missing here «params.n» write `has(params.n) && …` in front"),
        ("cause.ran && cause.risk == 'hihg'", "`hihg` can never be equal «'hihg'» did you mean `high`?"),
        ("ranked.groups.exists(g, g.sverity == 'low')", "unknown field `sverity` «sverity» did you mean `severity`?"),
        ("real.count == '3'", "cannot compare a whole number and a text «real.count == '3'» write `3` without quotes"),
        (
            "real.count > '3'",
            "`>` cannot compare a whole number and a text «real.count > '3'» write the number without quotes",
        ),
        ("real.items.size", "unknown field `size` «size» look at its items: `.exists(x, …)`, `.filter(x, …)` or `[0]`"),
        ("tke(real.items, 3)", "unknown function `tke` «tke» did you mean `take`?"),
        ("take(real, 3)", "`take` cannot take a map «real» write `real.items`"),
        ("take(real.items)", "`take` is called in another way «take» write `take(list, integer) -> list`"),
        ("real.exists(f, f.x)", "this goes through the fields, not the items «real» write `real.items`"),
        ("real.count && true", "`&&` needs true or false «real.count» "),
        ("'a' in 'abc'", "`in` needs a list or a map «'abc'» for a part of a text write `text.contains(part)`"),
        (
            "real.count + 'a'",
            "`+` cannot join a whole number and a text «real.count + 'a'» turn the number into a text with `string(…)`",
        ),
        ("params.day == '1.1.26'", "`1.1.26` can never be equal «'1.1.26'» "),
        ("'é' == params.dy", "unknown field `dy` «dy» did you mean `day`?"),
        ("real.items.filter(f, f.title)", "the test needs true or false «f.title» "),
        (
            "real.items.exists(f)",
            "`exists` is called in another way «exists» write `list.exists(x, x.field > 1)`: a name and a test",
        ),
        ("real.items.sort_by('scor')", "unknown field `scor` «'scor'» did you mean `score`?"),
    ] {
        let (_, mistakes) = check(source);
        assert_eq!(mistakes, [mistake], "{source}");
    }
}

#[test]
fn all_mistakes_of_an_expression_are_told() {
    assert_eq!(check("caus.ran && real.cont > 3 && nix(1)").1.len(), 3);
}

#[test]
fn what_a_when_says_holds_for_the_step() {
    let known = Known::when(&Expr::parse("cause.ran && real.count > 1").unwrap(), false);
    assert_eq!(Expr::parse("cause.risk == 'low'").unwrap().check(&scope(), &known).1, Vec::new());
    let known = Known::when(&Expr::parse("!cause.ran").unwrap(), true);
    assert_eq!(Expr::parse("cause.risk == 'low'").unwrap().check(&scope(), &known).1, Vec::new());
}

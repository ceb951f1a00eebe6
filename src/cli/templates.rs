//! The files that ship inside the binary: what `init`, `new` and `demo` write.

/// The commented configuration.
pub const CONFIG: &str = include_str!("../../config/nightcrew.yaml");
pub const PRICES: &str = include_str!("../../config/prices.yaml");

/// A pipeline with the files that it refers to, by path below `pipelines/`.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    pub name: &'static str,
    pub text: &'static str,
    pub refers_to: &'static [(&'static str, &'static str)],
}

const ENVIRONMENT: (&str, &str) = ("environments/api.yaml", include_str!("../../pipelines/environments/api.yaml"));

/// The three that ship.
pub const ALL: &[Template] = &[
    Template {
        name: "analytics-report",
        text: include_str!("../../pipelines/analytics-report.yaml"),
        refers_to: &[("sql/signups.sql", include_str!("../../pipelines/sql/signups.sql"))],
    },
    Template { name: "code-health", text: include_str!("../../pipelines/code-health.yaml"), refers_to: &[ENVIRONMENT] },
    Template {
        name: "error-to-pr",
        text: include_str!("../../pipelines/error-to-pr.yaml"),
        refers_to: &[
            ENVIRONMENT,
            ("playbooks/review.md", include_str!("../../pipelines/playbooks/review.md")),
            ("playbooks/smallest-fix.md", include_str!("../../pipelines/playbooks/smallest-fix.md")),
        ],
    },
];

/// The template of that name.
pub fn find(name: &str) -> Option<&'static Template> {
    ALL.iter().find(|template| template.name == name)
}

/// Puts another value behind a top-level key of a pipeline: `with_line(text, "name", "name: other")`. What is not there is
/// not added.
pub fn with_line(text: &str, key: &str, line: &str) -> String {
    let begins = format!("{key}:");
    let lines = text.lines().map(|old| if old.starts_with(&begins) { line.to_owned() } else { old.to_owned() });
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_named_as_its_pipeline_and_brings_what_it_refers_to() {
        for template in ALL {
            assert!(template.text.contains(&format!("\nname: {}\n", template.name)), "{}", template.name);
            for (path, _) in template.refers_to {
                assert!(template.text.contains(path), "{} does not name {path}", template.name);
            }
        }
        assert_eq!(with_line("a: 1\nname: x # y\nb: 2\n", "name", "name: z"), "a: 1\nname: z\nb: 2\n");
    }
}

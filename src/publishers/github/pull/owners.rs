//! Who owns files, by the repository's CODEOWNERS. Pure.
//!
//! Source: <https://docs.github.com/en/repositories/managing-your-repositorys-settings-and-features/customizing-your-repository/about-code-owners>.

use globset::{Glob, GlobBuilder, GlobMatcher};

/// Where GitHub looks, the first that is there counts.
pub(in crate::publishers::github) const PLACES: [&str; 3] = [".github/CODEOWNERS", "CODEOWNERS", "docs/CODEOWNERS"];
/// People who are asked at most.
pub(super) const MOST: usize = 10;

/// Whom to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::publishers::github) struct Reviewers {
    /// Logins.
    pub users: Vec<String>,
    /// Teams of the owner, without its name.
    pub teams: Vec<String>,
}

impl Reviewers {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.teams.is_empty()
    }

    /// `@login`, `login` or `@org/team`; anything else, and who is there already, is passed over.
    pub fn add(&mut self, name: &str) {
        let name = name.trim().trim_start_matches('@');
        let fits = |part: &str| {
            !part.is_empty()
                && part.len() <= 100
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.[]".contains(c))
        };
        let (list, name) = match name.split_once('/') {
            Some((org, team)) if fits(org) => (&mut self.teams, team),
            Some(_) => return,
            None => (&mut self.users, name),
        };
        if fits(name) && !list.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            list.push(name.to_owned());
        }
    }

    /// Without this login: nobody is asked to look at their own work.
    pub fn without(mut self, login: &str) -> Self {
        self.users.retain(|user| !user.eq_ignore_ascii_case(login));
        let teams = MOST.saturating_sub(self.users.len());
        self.users.truncate(MOST);
        self.teams.truncate(teams);
        self
    }
}

/// The owners of these files: for each the last line that fits it.
pub(in crate::publishers::github) fn owners<'a>(
    codeowners: &str,
    files: impl IntoIterator<Item = &'a str>,
) -> Reviewers {
    let rules: Vec<(Vec<GlobMatcher>, Vec<&str>)> = codeowners.lines().filter_map(rule).collect();
    let mut found = Reviewers::default();
    for file in files {
        let last = rules.iter().rev().find(|(globs, _)| globs.iter().any(|glob| glob.is_match(file)));
        last.iter().flat_map(|(_, owners)| owners).for_each(|owner| found.add(owner));
    }
    found
}

fn rule(line: &str) -> Option<(Vec<GlobMatcher>, Vec<&str>)> {
    let line = line.split(" #").next().unwrap_or_default().trim();
    if line.is_empty() || line.starts_with(['#', '!', '[', '^']) {
        return None;
    }
    let mut words = line.split_whitespace();
    let pattern = words.next()?;
    // Addresses are nobody that can be asked.
    let owners = words.filter(|owner| owner.starts_with('@')).collect();
    Some((globs(pattern), owners))
}

/// A pattern of a `.gitignore` as globs over whole paths.
fn globs(pattern: &str) -> Vec<GlobMatcher> {
    let folder = pattern.ends_with('/');
    let inner = pattern.trim_end_matches('/');
    let anchored = inner.contains('/');
    let inner = inner.trim_start_matches('/');
    let front = if anchored { "" } else { "**/" };
    // `docs/*` are the files of that folder, not what lies deeper.
    let flat = anchored && inner.ends_with("/*");
    let mut texts = Vec::new();
    if !folder {
        texts.push(format!("{front}{inner}"));
    }
    if !flat {
        texts.push(format!("{front}{inner}/**"));
    }
    let glob = |text: &String| GlobBuilder::new(text).literal_separator(true).build().ok();
    texts.iter().filter_map(glob).map(|glob: Glob| glob.compile_matcher()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_fits_a_file_names_its_owners() {
        let text = "# who\n* @acme/all\n*.js @js-owner # inline\n/build/logs/ @doctocat\ndocs/* docs@example.com\napps/ @octocat\n\
                    /scripts/ @doctocat @octocat\n/apps/github\n**/logs @logs\n/src/*.rs @rust @acme/rust\n!x @no\n";
        let cases: [(&str, &[&str], &[&str]); 11] = [
            ("README.md", &[], &["all"]),
            ("a/b/c.js", &["js-owner"], &[]),
            ("build/logs/x.txt", &["logs"], &[]),
            ("deep/build/logs", &["logs"], &[]),
            ("docs/start.md", &[], &[]),
            ("docs/build/deep.md", &[], &["all"]),
            ("x/apps/y/z", &["octocat"], &[]),
            ("apps/github/x", &[], &[]),
            ("scripts/x", &["doctocat", "octocat"], &[]),
            ("src/a.rs", &["rust"], &["rust"]),
            ("src/a/b.rs", &[], &["all"]),
        ];
        for (file, users, teams) in cases {
            let found = owners(text, [file]);
            let expected = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            assert_eq!((found.users, found.teams), (expected(users), expected(teams)), "{file}");
        }
        let found = owners("* @a @b @A @evil/../x @x/y/z @<b>", ["x"]).without("B");
        assert_eq!((found.users, found.teams), (vec!["a".to_owned()], Vec::<String>::new()));
        assert!(owners("\u{0}[ @x\n*[ @y\n", ["x"]).is_empty());
    }
}

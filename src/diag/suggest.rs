//! Did-you-mean: the known word nearest to what was typed.

/// The candidate within a small edit distance of `typed`, if one is clearly near.
///
/// Distance counts insertions, deletions, substitutions and swaps of neighbours, ignoring case and the difference of `-`
/// and `_`; up to a third of the length may differ, rounded up. The first of equally near ones wins.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = fold(typed);
    if typed.len() > 64 || typed.is_empty() {
        return None;
    }
    let allowed = typed.len().div_ceil(3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let folded = fold(candidate);
        if folded.len().abs_diff(typed.len()) > allowed {
            continue;
        }
        let distance = distance(&typed, &folded);
        // A word of one or two letters is "near" to every other one; that helps nobody.
        let near = distance <= allowed && distance < typed.len().max(folded.len()).min(3) + typed.len() / 6;
        if near && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, word)| word)
}

/// "did you mean `x`?", or the known words when none is near and they are few, or nothing.
pub fn did_you_mean<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(word) = closest(typed, candidates.iter().copied()) {
        return Some(format!("did you mean `{word}`?"));
    }
    if candidates.is_empty() || candidates.len() > 24 {
        return None;
    }
    let listed: Vec<String> = candidates.iter().map(|word| format!("`{word}`")).collect();
    Some(if listed.len() == 1 { format!("known: {}", listed[0]) } else { format!("known: {}", listed.join(", ")) })
}

fn fold(word: &str) -> Vec<char> {
    word.chars().flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect()
}

/// Damerau-Levenshtein (optimal string alignment) over two short words.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut rows = vec![0usize; width * (a.len() + 1)];
    for (j, cell) in rows.iter_mut().take(width).enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        rows[i * width] = i;
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[(i - 1) * width + j] + 1)
                .min(rows[i * width + j - 1] + 1)
                .min(rows[(i - 1) * width + j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[(i - 2) * width + j - 2] + 1);
            }
            rows[i * width + j] = least;
        }
    }
    rows[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_offered_and_far_ones_are_not() {
        let words = ["schedule", "sentry", "webhook", "threshold"];
        assert_eq!(closest("shedule", words), Some("schedule"));
        assert_eq!(closest("sentyr", words), Some("sentry"));
        assert_eq!(closest("max-turns", ["max_turns"]), Some("max_turns"));
        assert_eq!(closest("cron", words), None);
        assert_eq!(closest("x", ["y"]), None);
        assert_eq!(closest("", words), None);
    }
}

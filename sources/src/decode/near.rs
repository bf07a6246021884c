//! Finds the word that was probably meant.

/// Returns the word that is closest to a text, if it differs only in case or in one or two letters.
pub(super) fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    if let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
        return Some(word);
    }
    let lower = text.to_ascii_lowercase();
    let distances = words.iter().map(|word| (distance(&lower, &word.to_ascii_lowercase()), *word));
    let (distance, word) = distances.min()?;
    // In a short word, two letters would be half of it.
    let most = if word.len() < 6 { 1 } else { 2 };
    (distance <= most).then_some(word)
}

/// Returns how many letters must be inserted, removed, replaced or swapped with the next.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // With this difference in length, no word is close.
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            let is_swapped = i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b;
            if let Some(before) = before.get(j.wrapping_sub(1)).filter(|_| is_swapped) {
                least = least.min(*before + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_differs_in_case_or_in_one_or_two_letters() {
        let words = ["Service", "EndpointSlice", "Pod", "Node", "labels", "ports"];
        for (text, meant) in [
            ("service", "Service"),
            ("SERVICE", "Service"),
            ("Services", "Service"),
            ("Serivce", "Service"),
            ("EndpointSclice", "EndpointSlice"),
            ("pods", "Pod"),
            ("lables", "labels"),
            ("port", "ports"),
        ] {
            assert_eq!(nearest(text, &words), Some(meant), "{text}");
        }
        for text in ["Deployment", "ServiceAccount", "Ingress", "Job", "Secret", "", "annotations"]
        {
            assert_eq!(nearest(text, &words), None, "{text}");
        }
        assert_eq!(nearest("Service", &[]), None);
    }
}

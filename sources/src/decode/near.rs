//! Finds the word that was probably meant.

/// Returns the word that is closest to a text, if it differs only in case or in one or two letters.
pub fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    if let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
        return Some(word);
    }
    let lower = text.to_ascii_lowercase();
    // How many letters must be inserted, removed, replaced or swapped with the next.
    let distance = |word: &str| strsim::osa_distance(&lower, &word.to_ascii_lowercase());
    let (distance, word) = words.iter().map(|word| (distance(word), *word)).min()?;
    // In a short word, two letters would be half of it.
    let most = if word.len() < 6 { 1 } else { 2 };
    (distance <= most).then_some(word)
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

//! Which known word was meant by an unknown one.

/// The most similar of `words`, if one is similar enough to be meant.
pub(crate) fn nearest<'w>(name: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    words
        .into_iter()
        .map(|word| {
            // A beginning is as good as one slip.
            let begins = name.len() >= 2 && word.starts_with(name);
            (if begins { 1 } else { distance(name, word) }, word)
        })
        .filter(|(distance, _)| *distance <= 1 + name.len() / 5)
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_suggested_and_strange_ones_are_not() {
        let known = ["latitude", "longitude", "name"];
        assert_eq!(nearest("lattitude", known), Some("latitude"));
        assert_eq!(nearest("nam", known), Some("name"));
        assert_eq!(nearest("lat", known), Some("latitude"));
        assert_eq!(nearest("power", known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

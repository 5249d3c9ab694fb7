//! The known name that a misspelt one probably means.

/// The name among `known` that `name` probably means: at most two edits away, or made of the same
/// words, or containing `name`, as `timeout_ms` contains `timeout`.
pub fn suggest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Maximum edits between a name and a misspelling.
    const MAX_EDITS: usize = 2;
    /// Minimum length of a part. Shorter names are part of too many names.
    const MIN_PART_BYTES: usize = 4;
    /// Maximum length of a misspelling. All names are shorter, and a comparison costs the product
    /// of the lengths.
    const MAX_NAME_BYTES: usize = 32;
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let words = |text: &str| {
        let mut words: Vec<String> = text.split('_').map(str::to_owned).collect();
        words.sort();
        words
    };
    let known: Vec<&str> = known.into_iter().collect();
    let slips = |known: &&str| strsim::damerau_levenshtein(known, &name);
    let all = || known.iter().copied();
    all()
        .min_by_key(slips)
        .filter(|known| slips(known) <= MAX_EDITS && slips(known) < name.len())
        .or_else(|| all().find(|known| words(known) == words(&name)))
        .or_else(|| all().find(|known| name.len() >= MIN_PART_BYTES && known.contains(name.as_str())))
}

/// Text for an unknown name: the probable one, or else all of them.
pub fn describe_known_names(name: &str, known: &[&str]) -> String {
    match suggest_name(name, known.iter().copied()) {
        Some(meant) => format!("no such field; did you mean '{meant}'?"),
        None => format!("no such field; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_is_recognised_by_its_edits_its_words_or_a_part() {
        let known = ["connect_to", "warn_after_ms", "secret_headers", "ca"];
        for (name, meant) in [
            ("conect_to", Some("connect_to")),
            ("connect-to", Some("connect_to")),
            ("warn_after", Some("warn_after_ms")),
            ("headers_secret", Some("secret_headers")),
            ("Ca", Some("ca")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(suggest_name(name, known), meant, "{name}");
        }
        assert_eq!(describe_known_names("x", &["a", "bc"]), "no such field; there are a, bc");
    }
}

//! Translation of the patterns of `match` and `search` (RFC 9485) into those of the regex crate.

/// Pattern of the regex crate for `pattern`. A dot matches neither line feed nor carriage return;
/// with `is_anchored` the pattern matches the whole text.
pub(super) fn translate_pattern(pattern: &str, is_anchored: bool) -> String {
    let mut translated = String::with_capacity(pattern.len() + 16);
    if is_anchored {
        translated.push_str(r"\A(?:");
    }
    let (mut is_escaped, mut is_in_class) = (false, false);
    for letter in pattern.chars() {
        match letter {
            '.' if !is_escaped && !is_in_class => translated.push_str(r"[^\n\r]"),
            letter => translated.push(letter),
        }
        match letter {
            '\\' => is_escaped = !is_escaped,
            '[' if !is_escaped => is_in_class = true,
            ']' if !is_escaped => is_in_class = false,
            _ => {}
        }
        is_escaped &= letter == '\\';
    }
    if is_anchored {
        translated.push_str(r")\z");
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_matches_no_line_end_and_only_an_unescaped_dot_outside_of_a_class_is_one() {
        assert_eq!(translate_pattern("a.b", false), r"a[^\n\r]b");
        assert_eq!(translate_pattern(r"a\.b", false), r"a\.b");
        assert_eq!(translate_pattern(r"\\.", false), r"\\[^\n\r]");
        assert_eq!(translate_pattern(r"[.\].].", false), r"[.\].][^\n\r]");
        assert_eq!(translate_pattern("a|b", true), r"\A(?:a|b)\z");
    }
}

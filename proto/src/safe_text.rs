//! Untrusted text made safe for display. Terminals obey escape sequences; invisible and
//! direction-changing characters disguise a text as another one.

use std::borrow::Cow;

/// The character to display for `character`: itself if it is visible and has no other effect.
pub fn to_visible(character: char) -> char {
    match character {
        _ if character.is_control() => ' ',
        '\u{2028}' | '\u{2029}' => ' ',
        _ if is_invisible(character) => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}

/// Returns true if a character is invisible, or changes the order of its neighbours.
///
/// Source: the property Default_Ignorable_Code_Point
/// (<https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt>), including the
/// Hangul fillers, without variation selectors, which emoji need.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Returns true if `text` is printable ASCII: the usual case, and fast to find out.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n'))
}

/// `text` with each character passed through [`to_visible`]; line feeds stay.
pub fn sanitize_lines(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|character| if character == '\n' { character } else { to_visible(character) }).collect()
}

/// As [`sanitize_lines`], but colour sequences stay. The caller must pass all untrusted parts of
/// the text through [`to_visible`] first.
pub fn sanitize_coloured(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        // Only colour sequences are copied; any other escape character becomes a blank.
        let taken = match colour_sequence_len(rest) {
            Some(length) => {
                shown.push_str(&rest[..length]);
                length
            }
            None => {
                shown.push(if character == '\n' { character } else { to_visible(character) });
                character.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(shown)
}

/// Length of the escape sequence for a colour or a weight at the start of `text`.
fn colour_sequence_len(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    parameters[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
}

/// Equivalent JSON with invisible and control characters of its strings escaped; line feeds stay.
pub fn sanitize_json(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push(character),
            // Valid JSON has these between its values only, where a blank means the same.
            '\0'..' ' => escaped.push(' '),
            _ if to_visible(character) == character => escaped.push(character),
            _ => {
                let mut units = [0; 2];
                escaped
                    .extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    Cow::Owned(escaped)
}

/// Prefixes an apostrophe to text in the form of a formula. A spreadsheet would evaluate the
/// formula, which could send other cells elsewhere.
pub fn escape_formula(text: String) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An example of each kind of character that must not reach a terminal.
    const HOSTILE: &str =
        "\x1b[2J\x07\r\u{7f}\u{9b}31m\u{202e}\u{2066}\u{200f}\u{200b}\u{feff}\u{2028}\u{e0041}";

    #[test]
    fn control_and_invisible_characters_are_removed_and_all_others_kept() {
        let shown = sanitize_lines(HOSTILE);

        assert_eq!(shown, " [2J    31m\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd} \u{fffd}");
        assert!(sanitize_coloured(HOSTILE).chars().all(|character| to_visible(character) == character));
        for kept in ["plain\ntext", "Zürich, 東京, Ελλάδα, עברית", "❤\u{fe0f}"] {
            assert_eq!(sanitize_lines(kept), kept);
        }
    }

    #[test]
    fn our_own_colour_sequences_are_kept_and_all_others_removed() {
        let ours = "\x1b[1;31mdown\x1b[0m\n";

        assert_eq!(sanitize_coloured(ours), ours);
        assert_eq!(sanitize_coloured("\x1b[31\x1b]0;title\x07\x1b[2K"), " [31 ]0;title  [2K");
        assert_eq!(sanitize_lines(ours), " [1;31mdown [0m\n");
    }

    #[test]
    fn escaped_json_decodes_to_the_same_value() {
        let value = serde_json::json!({ "name": HOSTILE, "\u{202e}": ["ü", "\u{1f600}"] });
        let text = serde_json::to_string_pretty(&value).unwrap();

        let escaped = sanitize_json(&text);

        assert!(
            escaped.chars().all(|character| character == '\n' || to_visible(character) == character),
            "{escaped:?}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}

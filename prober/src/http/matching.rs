//! Whether a body is as it should be, decided as early as it can be while the body comes in.

use picket_proto::{Cause, Check};
use regex::bytes::Regex;

use super::verdict::Failure;

/// How much of a body is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// More may come.
    Growing,
    /// All of it.
    Whole,
    /// More of it would have come, and was not read.
    Cut,
}

/// What the body must match and must not match, and how far that is decided.
#[derive(Default)]
pub(super) struct Matching {
    regex: Option<Regex>,
    not_regex: Option<Regex>,
    /// Whether `regex` matched, where that is decided.
    pub(super) matched: Option<bool>,
    /// The body's length when it was last looked at.
    looked_at: usize,
    /// Bytes looked at so far, those looked at again counted again.
    effort: usize,
}

impl Matching {
    /// What follows a match may decide whether it is one: `$` and `\b` look ahead, by one letter at most.
    const LOOK_AHEAD: usize = 4;
    /// Bodies shorter than this are looked at whenever more has come.
    const SHORT: usize = 64 << 10;
    /// What may be spent on looking before the body's end, in bodies of the length that it has then.
    const PATIENCE: usize = 4;

    pub(super) fn new(check: &Check) -> Self {
        Self {
            regex: check.regex.clone(),
            not_regex: check.not_regex.clone(),
            matched: None,
            looked_at: 0,
            effort: 0,
        }
    }

    /// Whether the verdict needs nothing of the body.
    pub(super) fn needs_nothing(&self) -> bool {
        self.regex.is_none() && self.not_regex.is_none()
    }

    /// Whether a look at the growing body is worth its cost, which is bounded however the body comes in.
    ///
    /// It is each time the body has doubled; `waiting` for more of it, also as long as the effort is small.
    pub(super) fn is_worth_a_look(&self, length: usize, waiting: bool) -> bool {
        let small = |effort: usize| effort <= Self::PATIENCE * length.max(Self::SHORT);
        length > self.looked_at
            && (length / 2 >= self.looked_at.max(Self::SHORT) || (waiting && small(self.effort + length)))
    }

    /// Looks at the body so far; the verdict, if it is decided.
    pub(super) fn look(&mut self, body: &[u8], extent: Extent) -> Option<Result<(), Failure>> {
        self.looked_at = body.len();
        self.effort += body.len();
        let size = body.len();
        let refusal = |why: String| Some(Err(Failure::new(Cause::Body, why)));
        let not_matched = match &self.not_regex {
            Some(regex) => is_match(regex, body, extent),
            None => Some(false),
        };
        if self.matched != Some(true) {
            self.matched = match &self.regex {
                Some(regex) => is_match(regex, body, extent),
                None => None,
            };
        }
        if not_matched == Some(true) {
            return refusal("not_regex matches the body".to_owned());
        }
        if self.regex.is_some() && self.matched == Some(false) {
            return refusal(format!("regex does not match the body ({size} bytes)"));
        }
        let open = match (self.regex.is_some() && self.matched.is_none(), not_matched.is_none()) {
            (true, _) => "regex",
            (false, true) => "not_regex",
            (false, false) => return Some(Ok(())),
        };
        (extent == Extent::Cut).then(|| {
            let why = format!("{open} is not decided after the first {size} bytes, and no more is read");
            Err(Failure::new(Cause::BodyTooLarge, why))
        })
    }
}

/// Whether `regex` matches the body of which `seen` is the beginning, if that is certain.
fn is_match(regex: &Regex, seen: &[u8], extent: Extent) -> Option<bool> {
    if extent == Extent::Whole {
        return Some(regex.is_match(seen));
    }
    let end = regex.shortest_match(seen)?;
    (end + Matching::LOOK_AHEAD <= seen.len()).then_some(true)
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::*;

    fn matching(regex: Option<&str>, not_regex: Option<&str>) -> Matching {
        let request = CheckRequest {
            regex: regex.map(Into::into),
            not_regex: not_regex.map(Into::into),
            ..CheckRequest::new("http://a.example/")
        };
        Matching::new(&request.validate().unwrap())
    }

    /// `None` while undecided, else the cause, if there is one.
    fn verdict(matching: &mut Matching, body: &[u8], extent: Extent) -> Option<Option<Cause>> {
        matching.look(body, extent).map(|verdict| verdict.err().map(|failure| failure.cause))
    }

    #[test]
    fn a_body_is_judged_by_both_regexes_and_a_cut_one_only_where_it_can_be() {
        use Extent::{Cut, Growing, Whole};
        let (up, body, too_large) = (Some(None), Some(Some(Cause::Body)), Some(Some(Cause::BodyTooLarge)));
        for (regex, not_regex, extent, expected, matched) in [
            (None, None, Growing, up, None),
            (Some("well"), None, Whole, up, Some(true)),
            (Some("well"), None, Growing, up, Some(true)),
            (Some("well"), None, Cut, up, Some(true)),
            (Some("bad"), None, Whole, body, Some(false)),
            (Some("bad"), None, Growing, None, None),
            (Some("bad"), None, Cut, too_large, None),
            (None, Some("well"), Growing, body, None),
            (None, Some("bad"), Whole, up, None),
            (None, Some("bad"), Growing, None, None),
            (None, Some("bad"), Cut, too_large, None),
            (Some("well"), Some("bad"), Growing, None, Some(true)),
            (Some("well"), Some("bad"), Cut, too_large, Some(true)),
            (Some("bad"), Some("well"), Growing, body, None),
            (Some("bad"), Some("well"), Whole, body, Some(false)),
        ] {
            let mut matching = matching(regex, not_regex);
            let seen = verdict(&mut matching, b"\xffall is well here", extent);
            assert_eq!((seen, matching.matched), (expected, matched), "{regex:?} {not_regex:?} {extent:?}");
        }
    }

    #[test]
    fn what_may_be_undone_by_what_follows_is_not_decided() {
        for pattern in ["well$", r"well\b", r"well\z", "well"] {
            let mut matching = matching(Some(pattern), None);
            assert_eq!(verdict(&mut matching, b"all is well", Extent::Growing), None, "{pattern}");
            let more = b"all is wellington, and more";
            let expected = if pattern == "well" { None } else { Some(Cause::Body) };
            assert_eq!(verdict(&mut matching, more, Extent::Whole), Some(expected), "{pattern}");
        }
        for pattern in ["(?m)well$", r"well\b", "w.*", r"well(\z|\n)"] {
            let seen =
                verdict(&mut matching(Some(pattern), None), b"all is well\nand so on", Extent::Growing);
            assert_eq!(seen, Some(None), "{pattern}");
        }
        let cut = verdict(&mut matching(Some("well$"), None), b"all is well", Extent::Cut);
        assert_eq!(cut, Some(Some(Cause::BodyTooLarge)), "it is not the body's end");
    }

    #[test]
    fn a_body_in_the_smallest_pieces_costs_a_bounded_number_of_looks() {
        const LENGTH: usize = 1 << 20;
        let mut matching = matching(Some("bad"), None);
        let body = vec![b'x'; LENGTH];

        for length in 1..=LENGTH {
            if matching.is_worth_a_look(length, true) {
                let _ = matching.look(&body[..length], Extent::Growing);
            }
        }

        assert!(matching.effort <= (Matching::PATIENCE + 2) * LENGTH, "{}", matching.effort);
    }

    #[test]
    fn bytes_are_matched_and_not_text() {
        let latin = "caf\u{e9} ferm\u{e9}".chars().map(|letter| letter as u8).collect::<Vec<u8>>();
        for pattern in [r"(?-u)caf\xe9", "ferm", r"(?s-u)caf. ferm.$"] {
            let seen = verdict(&mut matching(Some(pattern), None), &latin, Extent::Whole);
            assert_eq!(seen, Some(None), "{pattern}");
        }
    }
}

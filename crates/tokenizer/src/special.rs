//! Special tokens in text: found wherever they are spelled, the longest first, and cut out before anything else.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::vocabulary::{TokenKind, Vocabulary};

/// A stretch of text, or a special token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment<'t> {
    Text(&'t str),
    Token(u32),
}

/// Finders of special tokens.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    /// Those found in any text: the user-defined ones.
    always: Finder,
    /// Those found when special tokens are parsed: control, unknown and user-defined ones.
    parsed: Finder,
    /// Tokens that take the white space after them with them.
    strips_right: Vec<u32>,
}

#[derive(Debug, Default)]
struct Finder {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Finder {
    fn new(vocabulary: &Vocabulary, kinds: &[TokenKind]) -> Result<Finder, String> {
        let (ids, names): (Vec<u32>, Vec<&[u8]>) = vocabulary
            .of_kinds(kinds)
            .filter(|(_, bytes)| std::str::from_utf8(bytes).is_ok_and(|s| !s.is_empty()))
            .unzip();
        if ids.is_empty() {
            return Ok(Finder::default());
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(names)
            .map_err(|e| format!("the special tokens are too many to search for: {e}"))?;
        Ok(Finder { automaton: Some(automaton), ids })
    }
}

impl Specials {
    pub fn new(vocabulary: &Vocabulary, strips_right: Vec<u32>) -> Result<Specials, String> {
        Ok(Specials {
            always: Finder::new(vocabulary, &[TokenKind::UserDefined])?,
            parsed: Finder::new(vocabulary, &[TokenKind::UserDefined, TokenKind::Control, TokenKind::Unknown])?,
            strips_right,
        })
    }

    /// The segments of a text in order; no text segment is empty.
    pub fn segments<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Segment<'t>> {
        let finder = if parse_special { &self.parsed } else { &self.always };
        let mut segments = Vec::new();
        let mut at = 0;
        for found in finder.automaton.iter().flat_map(|a| a.find_iter(text)) {
            if found.start() < at {
                continue; // spaces that the token before has taken hold this one
            }
            if at < found.start() {
                segments.push(Segment::Text(&text[at..found.start()]));
            }
            let id = finder.ids[found.pattern().as_usize()];
            segments.push(Segment::Token(id));
            at = found.end();
            if self.strips_right.contains(&id) {
                at =
                    text.len() - text[at..].trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}').len();
            }
        }
        if at < text.len() {
            segments.push(Segment::Text(&text[at..]));
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn special_tokens_are_cut_out_when_asked_and_user_defined_ones_always() {
        let tokens = [
            ("a", TokenKind::Normal),
            ("<s>", TokenKind::Control),
            ("<s>>", TokenKind::Control),
            ("\t\t", TokenKind::UserDefined),
        ];
        let vocabulary = Vocabulary::new(tokens.iter().map(|(t, k)| (Cow::Borrowed(t.as_bytes()), *k)));
        let specials = Specials::new(&vocabulary, vec![1]).unwrap();
        use Segment::*;
        assert_eq!(specials.segments("a<s>\t\tb", false), [Text("a<s>"), Token(3), Text("b")]);
        assert_eq!(specials.segments("a<s> \n b<s>>\t\t", true), [Text("a"), Token(1), Text("b"), Token(2), Token(3)]);
        assert_eq!(specials.segments("", true), []);
    }
}

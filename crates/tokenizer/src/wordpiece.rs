//! WordPiece: text is cleaned, lower-cased and cut into words and punctuation; each word is the longest token at its
//! begin, then the longest that continues it, and so on; a word that cannot be said so is one unknown token.
//!
//! Source: Devlin et al. 2019 and the `BasicTokenizer` and `WordpieceTokenizer` published with it.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::vocabulary::Vocabulary;

/// Characters of a word beyond which it is unknown, as in the publication's tokenizer.
const MAX_WORD: usize = 100;

/// A vocabulary as GGUF stores it: `▁` before tokens that begin a word, nothing before those that continue one.
#[derive(Debug)]
pub(crate) struct WordPiece {
    /// The longest token, in bytes: no longer piece need be looked up.
    longest: usize,
}

impl WordPiece {
    pub fn new(vocabulary: &Vocabulary) -> WordPiece {
        WordPiece { longest: (0..vocabulary.len() as u32).map(|id| vocabulary.get(id).len()).max().unwrap_or(0) }
    }

    /// Appends the tokens of a text between special tokens.
    pub fn encode(&self, text: &str, vocabulary: &Vocabulary, unknown: u32, out: &mut Vec<u32>) {
        for word in words(text) {
            let before = out.len();
            if word.chars().count() > MAX_WORD || !self.encode_word(&word, vocabulary, out) {
                out.truncate(before);
                out.push(unknown);
            }
        }
    }

    fn encode_word(&self, word: &str, vocabulary: &Vocabulary, out: &mut Vec<u32>) -> bool {
        let marked = format!("▁{word}");
        let mut begin = 0;
        while begin < marked.len() {
            let limit = marked.len().min(begin + self.longest);
            let longest = (begin + 1..=limit)
                .rev()
                .filter(|&end| marked.is_char_boundary(end))
                .find_map(|end| Some((end, vocabulary.find(&marked.as_bytes()[begin..end])?)));
            let Some((end, id)) = longest else { return false };
            out.push(id);
            begin = end;
        }
        true
    }
}

/// Words and single punctuation characters, lower-cased, without accents and control characters.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut current_is_open = true;
    for character in text.nfd() {
        if is_space(character) {
            current_is_open = false;
        } else if character == '\0' || character == '\u{fffd}' || is_other(character) || is_accent(character) {
            continue;
        } else if is_punctuation(character) || is_cjk(character) {
            words.push(character.to_string());
            current_is_open = false;
        } else {
            if !std::mem::replace(&mut current_is_open, true) {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(character.to_lowercase());
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || (c.is_whitespace() && !is_other(c)) // a vertical tab is a control character
}

fn is_other(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Other
}

fn is_accent(c: char) -> bool {
    is_combining_mark(c) && c.general_category() == GeneralCategory::NonspacingMark
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks that the publication calls Chinese characters: each is a word.
fn is_cjk(c: char) -> bool {
    matches!(u32::from(c),
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x2a6df | 0x2a700..=0x2b73f
        | 0x2b740..=0x2b81f | 0x2b820..=0x2ceaf | 0x2f800..=0x2fa1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cleaned_lower_cased_and_cut_at_punctuation() {
        assert_eq!(words("Hello, WÖRLD!"), ["hello", ",", "world", "!"]);
        assert_eq!(words(" a\u{0}b\u{fffd}c\tc\u{301}a "), ["abc", "ca"]);
        assert_eq!(words("日本x語"), ["日", "本", "x", "語"]);
        assert_eq!(words("x$+y"), ["x", "$", "+", "y"]);
        assert!(words(" \n ").is_empty());
    }
}

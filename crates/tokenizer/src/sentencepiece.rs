//! SentencePiece's byte-pair encoding by scores: of all neighbouring pairs that join to a token, the one with the highest
//! score is joined, leftmost first; characters without a token become bytes. O(n log n) in the characters of the text.
//!
//! Source: Kudo and Richardson 2018; byte fallback as in the Llama vocabularies.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use crate::vocabulary::{TokenKind, Vocabulary};

/// The character that stands for a space.
pub(crate) const SPACE: &str = "▁";

/// Scores and byte tokens of a vocabulary whose pieces write a space as `▁`.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    scores: Vec<f32>,
    byte_tokens: [Option<u32>; 256],
    /// A space goes before text at the start and after special tokens.
    pub add_space_prefix: bool,
    /// No token goes on after a word's end, so each word can be merged by itself.
    words_are_apart: bool,
}

/// A pair that may be joined: the best first, then the leftmost.
struct Pair {
    score: f32,
    left: Reverse<usize>,
    bytes: usize,
    id: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(self.left.cmp(&other.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// Buffers that one word hands to the next.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

#[derive(Clone, Copy)]
struct Symbol {
    begin: usize,
    bytes: usize,
    id: Option<u32>,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

impl SentencePiece {
    /// `scores` has one for each token; byte tokens are those of kind [`TokenKind::Byte`] that read `<0x00>` to `<0xFF>`.
    pub fn new(vocabulary: &Vocabulary, scores: Vec<f32>, add_space_prefix: bool) -> SentencePiece {
        let mut byte_tokens = [None; 256];
        for (id, name) in vocabulary.of_kinds(&[TokenKind::Byte]) {
            if let Some(byte) = byte_of_name(name) {
                byte_tokens[usize::from(byte)] = Some(id);
            }
        }
        let spans_words = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|text| word_end(text).is_some());
        let words_are_apart = (0..vocabulary.len() as u32).all(|id| !spans_words(vocabulary.get(id)));
        SentencePiece { scores, byte_tokens, add_space_prefix, words_are_apart }
    }

    /// The score of each token.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Appends the tokens of a text between special tokens. Bytes without a token go to `missing`, which says what
    /// stands for them.
    pub fn encode<E>(
        &self,
        text: &str,
        after_special: bool,
        vocabulary: &Vocabulary,
        out: &mut Vec<u32>,
        mut missing: impl FnMut(u8) -> Result<u32, E>,
    ) -> Result<(), E> {
        let prefix = if after_special && self.add_space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(' ', SPACE);
        let mut rest = text.as_str();
        let mut scratch = Scratch::default();
        while let Some(end) = word_end(rest).filter(|_| self.words_are_apart) {
            self.encode_word(&rest[..end], vocabulary, &mut scratch, out, &mut missing)?;
            rest = &rest[end..];
        }
        self.encode_word(rest, vocabulary, &mut scratch, out, &mut missing)
    }

    fn encode_word<E>(
        &self,
        text: &str,
        vocabulary: &Vocabulary,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        missing: &mut impl FnMut(u8) -> Result<u32, E>,
    ) -> Result<(), E> {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        queue.clear();
        for (begin, character) in text.char_indices() {
            let bytes = character.len_utf8();
            symbols.push(Symbol {
                begin,
                bytes,
                id: vocabulary.find(&text.as_bytes()[begin..begin + bytes]),
                previous: symbols.len().checked_sub(1).unwrap_or(NONE),
                next: symbols.len() + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        for left in 1..symbols.len() {
            self.enqueue(text, symbols, vocabulary, queue, left - 1);
        }
        while let Some(pair) = queue.pop() {
            let left = pair.left.0;
            let right = symbols[left].next;
            if right == NONE || symbols[left].bytes == 0 || symbols[left].bytes + symbols[right].bytes != pair.bytes {
                continue; // one of the two has been joined with another since
            }
            let after = symbols[right].next;
            symbols[right].bytes = 0;
            symbols[left] = Symbol { bytes: pair.bytes, id: Some(pair.id), next: after, ..symbols[left] };
            if after != NONE {
                symbols[after].previous = left;
            }
            if symbols[left].previous != NONE {
                self.enqueue(text, symbols, vocabulary, queue, symbols[left].previous);
            }
            self.enqueue(text, symbols, vocabulary, queue, left);
        }
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let symbol = &symbols[at];
            match symbol.id {
                Some(id) => out.push(id),
                None => {
                    for &byte in &text.as_bytes()[symbol.begin..symbol.begin + symbol.bytes] {
                        out.push(match self.byte_tokens[usize::from(byte)] {
                            Some(id) => id,
                            None => missing(byte)?,
                        });
                    }
                }
            }
            at = symbol.next;
        }
        Ok(())
    }

    fn enqueue(
        &self,
        text: &str,
        symbols: &[Symbol],
        vocabulary: &Vocabulary,
        queue: &mut BinaryHeap<Pair>,
        left: usize,
    ) {
        let Some(right) = symbols.get(symbols[left].next) else { return };
        let begin = symbols[left].begin;
        let bytes = symbols[left].bytes + right.bytes;
        if let Some(id) = vocabulary.find(&text.as_bytes()[begin..begin + bytes]) {
            queue.push(Pair { score: self.scores[id as usize], left: Reverse(left), bytes, id });
        }
    }
}

/// Where a space follows something else: the end of the first word.
fn word_end(text: &str) -> Option<usize> {
    let first_letter = text.find(|c| c != '▁')?;
    text[first_letter..].find('▁').map(|length| first_letter + length)
}

/// The byte that a token such as `<0x0A>` stands for.
pub(crate) fn byte_of_name(name: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(name.strip_prefix(b"<0x")?.strip_suffix(b">")?).ok()?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

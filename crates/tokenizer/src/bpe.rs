//! Byte-pair encoding by ranked merges: of all neighbouring pairs in a word, the one learned first is joined, leftmost
//! first, until none is left. O(n log n) in the bytes of the word.
//!
//! Source: Sennrich, Haddow, Birch 2016, section 3.2; over bytes as in GPT-2.

use std::{cmp::Reverse, collections::BinaryHeap};

use rustc_hash::FxHashMap;

use crate::vocabulary::Vocabulary;

/// Merges of a vocabulary, by the pair that they join.
#[derive(Debug)]
pub(crate) struct Bpe {
    byte_symbols: [Option<u32>; 256],
    merges: FxHashMap<(u32, u32), Merge>,
    /// A word that is a token is that token, whatever the merges say.
    ignore_merges: bool,
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    joined: u32,
}

/// A piece of the word being merged, in a doubly linked list.
struct Symbol {
    id: u32,
    begin: usize,
    end: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// Buffers that one call hands to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    /// (rank, place of the left symbol, ids of both when queued)
    queue: BinaryHeap<Reverse<(u32, usize, u32, u32)>>,
}

impl Bpe {
    /// `merges`: the bytes of both sides, in the order of their ranks. Sides that are not tokens become symbols of
    /// their own, which count up from the size of the vocabulary.
    pub fn new(vocabulary: &Vocabulary, merges: impl Iterator<Item = (Vec<u8>, Vec<u8>)>, ignore_merges: bool) -> Bpe {
        let mut others: FxHashMap<Vec<u8>, u32> = FxHashMap::default();
        let mut symbol = |bytes: &[u8]| {
            vocabulary.find(bytes).unwrap_or_else(|| {
                let next = (vocabulary.len() + others.len()) as u32;
                *others.entry(bytes.to_vec()).or_insert(next)
            })
        };
        let mut table = FxHashMap::default();
        for (rank, (left, right)) in merges.enumerate() {
            let pair = (symbol(&left), symbol(&right));
            let joined = symbol(&[left, right].concat());
            table.entry(pair).or_insert(Merge { rank: rank as u32, joined });
        }
        let mut byte_symbols = [None; 256];
        for byte in 0..=255u8 {
            byte_symbols[usize::from(byte)] = vocabulary.find(&[byte]).or_else(|| others.get(&[byte][..]).copied());
        }
        Bpe { byte_symbols, merges: table, ignore_merges }
    }

    /// Appends the tokens of one word. Bytes without a token go to `missing`, which says what stands for them.
    pub fn encode_word<E>(
        &self,
        word: &[u8],
        vocabulary: &Vocabulary,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        mut missing: impl FnMut(u8) -> Result<u32, E>,
    ) -> Result<(), E> {
        if self.ignore_merges
            && let Some(id) = vocabulary.find(word)
        {
            out.push(id);
            return Ok(());
        }
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        queue.clear();
        for (at, &byte) in word.iter().enumerate() {
            symbols.push(Symbol {
                id: self.byte_symbols[usize::from(byte)].unwrap_or(u32::MAX),
                begin: at,
                end: at + 1,
                previous: at.checked_sub(1).unwrap_or(NONE),
                next: if at + 1 < word.len() { at + 1 } else { NONE },
            });
        }
        for left in 1..symbols.len() {
            self.enqueue(symbols, queue, left - 1);
        }
        while let Some(Reverse((_, left, left_id, right_id))) = queue.pop() {
            let right = symbols[left].next;
            if symbols[left].id != left_id || right == NONE || symbols[right].id != right_id {
                continue; // one of the two has been joined with another since
            }
            let Some(merge) = self.merges.get(&(left_id, right_id)) else { continue };
            symbols[left].id = merge.joined;
            symbols[left].end = symbols[right].end;
            symbols[left].next = symbols[right].next;
            symbols[right].id = u32::MAX;
            let after = symbols[left].next;
            if after != NONE {
                symbols[after].previous = left;
            }
            if symbols[left].previous != NONE {
                self.enqueue(symbols, queue, symbols[left].previous);
            }
            self.enqueue(symbols, queue, left);
        }
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let symbol = &symbols[at];
            if (symbol.id as usize) < vocabulary.len() {
                out.push(symbol.id);
            } else {
                for &byte in &word[symbol.begin..symbol.end] {
                    match self.byte_symbols[usize::from(byte)].filter(|&id| (id as usize) < vocabulary.len()) {
                        Some(id) => out.push(id),
                        None => out.push(missing(byte)?),
                    }
                }
            }
            at = symbol.next;
        }
        Ok(())
    }

    fn enqueue(&self, symbols: &[Symbol], queue: &mut BinaryHeap<Reverse<(u32, usize, u32, u32)>>, left: usize) {
        let Some(right) = symbols.get(symbols[left].next) else { return };
        let pair = (symbols[left].id, right.id);
        if let Some(merge) = self.merges.get(&pair) {
            queue.push(Reverse((merge.rank, left, pair.0, pair.1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::TokenKind;
    use proptest::prelude::*;
    use std::{borrow::Cow, convert::Infallible};

    fn toy(merges: &[(&str, &str)]) -> (Vocabulary, Bpe) {
        let mut tokens: Vec<Vec<u8>> = (b'a'..=b'd').map(|b| vec![b]).collect();
        for (left, right) in merges {
            let joined = format!("{left}{right}").into_bytes();
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
        }
        let vocabulary = Vocabulary::new(tokens.into_iter().map(|t| (Cow::Owned(t), TokenKind::Normal)));
        let pairs: Vec<_> = merges.iter().map(|(l, r)| (l.as_bytes().to_vec(), r.as_bytes().to_vec())).collect();
        let bpe = Bpe::new(&vocabulary, pairs.into_iter(), false);
        (vocabulary, bpe)
    }

    /// The definition: scan all pairs, join the leftmost of the lowest rank, repeat.
    fn by_definition(word: &str, merges: &[(&str, &str)]) -> Vec<String> {
        let mut pieces: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let rank_at = |i: usize| merges.iter().position(|(l, r)| *l == pieces[i] && *r == pieces[i + 1]);
            let best = (1..pieces.len()).filter_map(|i| Some((rank_at(i - 1)?, i - 1))).min();
            let Some((_, at)) = best else { return pieces };
            let right = pieces.remove(at + 1);
            pieces[at].push_str(&right);
        }
    }

    const MERGES: [(&str, &str); 9] = [
        ("a", "b"),
        ("b", "c"),
        ("ab", "c"),
        ("c", "c"),
        ("a", "a"),
        ("aa", "ab"),
        ("bc", "cc"),
        ("d", "abc"),
        ("abc", "abc"),
    ];

    proptest! {
        #[test]
        fn the_queue_merges_as_the_definition_does(word in "[a-d]{0,40}") {
            let (vocabulary, bpe) = toy(&MERGES);
            let mut out = Vec::new();
            let Ok(()) = bpe.encode_word(
                word.as_bytes(), &vocabulary, &mut Scratch::default(), &mut out, |_| Ok::<_, Infallible>(0));
            let got: Vec<&[u8]> = out.iter().map(|&id| vocabulary.get(id)).collect();
            let want = by_definition(&word, &MERGES);
            prop_assert_eq!(got, want.iter().map(|s| s.as_bytes()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_byte_without_token_is_reported() {
        let (vocabulary, bpe) = toy(&MERGES);
        let result = bpe.encode_word(b"az", &vocabulary, &mut Scratch::default(), &mut Vec::new(), Err::<u32, u8>);
        assert_eq!(result, Err(b'z'));
    }
}

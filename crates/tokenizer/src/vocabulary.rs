//! The tokens of a vocabulary: the bytes of each, its kind, and the way back from bytes to the id.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// What a token is for; the numbers are GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot say.
    Unknown,
    /// Structure: begin, end, roles. Found in text only when special tokens are parsed.
    Control,
    /// Added to a trained vocabulary; always found whole in text.
    UserDefined,
    /// In the list for no use.
    Unused,
    /// One byte, for text that has no other token.
    Byte,
}

impl TokenKind {
    /// The kind of that number in GGUF, or `None` for a number from the future.
    pub const fn from_id(id: i32) -> Option<TokenKind> {
        Some(match id {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }

    /// The number of the kind in GGUF.
    pub const fn id(self) -> i32 {
        match self {
            TokenKind::Normal => 1,
            TokenKind::Unknown => 2,
            TokenKind::Control => 3,
            TokenKind::UserDefined => 4,
            TokenKind::Unused => 5,
            TokenKind::Byte => 6,
        }
    }
}

/// Tokens in the order of their ids, in one allocation, with a table from bytes to id.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    pieces: HashTable<u32>,
}

impl Vocabulary {
    /// Builds it from the bytes and the kind of each token. Of two pieces with the same bytes the later one is found.
    pub fn new<'a>(tokens: impl Iterator<Item = (std::borrow::Cow<'a, [u8]>, TokenKind)>) -> Vocabulary {
        let mut vocabulary = Vocabulary::default();
        for (bytes, kind) in tokens {
            vocabulary.bytes.extend_from_slice(&bytes);
            vocabulary.ends.push(vocabulary.bytes.len());
            vocabulary.kinds.push(kind);
        }
        let mut pieces = HashTable::new();
        for id in (0..vocabulary.len() as u32).filter(|&id| vocabulary.is_piece(id)) {
            let hash = hash(vocabulary.get(id));
            match pieces.find_entry(hash, |&other| vocabulary.get(other) == vocabulary.get(id)) {
                Ok(mut entry) => *entry.get_mut() = id,
                Err(_) => {
                    pieces.insert_unique(hash, id, |&other| self::hash(vocabulary.get(other)));
                }
            }
        }
        vocabulary.pieces = pieces;
        vocabulary
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes of a token that exists.
    pub fn get(&self, id: u32) -> &[u8] {
        slice(&self.bytes, &self.ends, id)
    }

    /// The kind of a token, or `None` beyond the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Says that a token is structure, whatever its file says.
    pub fn set_control(&mut self, id: u32) {
        if let Some(kind) = self.kinds.get_mut(id as usize) {
            *kind = TokenKind::Control;
        }
    }

    /// The token of these bytes, among those that text is made of.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.pieces.find(hash(bytes), |&id| self.get(id) == bytes).copied()
    }

    /// Whether a token is found by its bytes within text.
    fn is_piece(&self, id: u32) -> bool {
        matches!(self.kinds[id as usize], TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
    }

    /// Ids and bytes of all tokens of some kinds.
    pub fn of_kinds<'a>(&'a self, kinds: &'a [TokenKind]) -> impl Iterator<Item = (u32, &'a [u8])> {
        (0..self.len() as u32).filter(|&id| kinds.contains(&self.kinds[id as usize])).map(|id| (id, self.get(id)))
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[usize], id: u32) -> &'a [u8] {
    let begin = if id == 0 { 0 } else { ends[id as usize - 1] };
    &bytes[begin..ends[id as usize]]
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn pieces_are_found_by_their_bytes_and_control_tokens_are_not() {
        let tokens: [(&[u8], _); 4] = [
            (b"a", TokenKind::Normal),
            (b"<s>", TokenKind::Control),
            (b"\xff", TokenKind::Normal),
            (b"", TokenKind::Normal),
        ];
        let vocabulary = Vocabulary::new(tokens.into_iter().map(|(t, k)| (Cow::Borrowed(t), k)));
        assert_eq!(vocabulary.find(b"a"), Some(0));
        assert_eq!(vocabulary.find(b"<s>"), None);
        assert_eq!(vocabulary.find(b"\xff"), Some(2));
        assert_eq!(vocabulary.find(b"b"), None);
        assert_eq!(vocabulary.get(1), b"<s>");
    }
}

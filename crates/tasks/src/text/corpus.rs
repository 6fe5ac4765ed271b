//! A corpus: files cut into documents, split by order, each part as token ids with the ends of its documents.

use super::ids::Ids;
use crate::task::Split;
use std::fmt::Display;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use thiserror::Error;

/// What a document is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Documents {
    /// Each file is one.
    #[default]
    Files,
    /// Files are cut at every occurrence of this text, which belongs to no document.
    SeparatedBy(String),
}

/// The shares of the text, by bytes, that are held out at its end: first validation, then test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fractions {
    /// Share of the validation part, from 0.
    pub validation: f64,
    /// Share of the test part, from 0.
    pub test: f64,
}

impl Default for Fractions {
    fn default() -> Fractions {
        Fractions { validation: 0.05, test: 0.05 }
    }
}

/// Text as token ids in three parts, none of which shares a byte with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    parts: [CorpusPart; 3],
}

/// One part of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusPart {
    ids: Ids,
    /// The position after the last token of each document that ends here, its separator counted.
    ends: Vec<usize>,
    bytes: u64,
    largest_id: u32,
}

/// A corpus that cannot be read.
#[derive(Debug, Error)]
pub enum CorpusError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// There is no text.
    #[error("the corpus has no text ({files} files)")]
    Empty {
        /// Files that were given.
        files: usize,
    },
    /// Shares that cannot be.
    #[error("validation {validation} and test {test}: shares must be at least 0 and together below 1")]
    Fractions {
        /// Share of the validation part.
        validation: f64,
        /// Share of the test part.
        test: f64,
    },
    /// The separator is empty.
    #[error("the text that separates documents is empty")]
    EmptySeparator,
    /// The tokenizer refused a document.
    #[error("{}: the document at byte {offset}: {message}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Where the document, or the part of it in this split, starts.
        offset: usize,
        /// What the tokenizer said.
        message: String,
    },
    /// An id that no target can hold.
    #[error("token id {id} is above {}", i32::MAX)]
    Id {
        /// The id.
        id: u32,
    },
}

/// A document, or what a split leaves of it: a range of a file.
struct Piece {
    file: usize,
    bytes: Range<usize>,
    /// It is the last piece of its document.
    ends: bool,
}

impl Corpus {
    /// Reads the files in order, cuts them into documents, splits the text by order and lets `encode` make tokens of each
    /// piece; `separator` is put after each document's end.
    ///
    /// Splits are cut between characters of UTF-8, never inside one; a document may lie in two parts.
    ///
    /// # Errors
    /// Unreadable files, no text, shares that cannot be, or what `encode` refuses.
    pub fn read<E: Display>(
        files: &[PathBuf],
        documents: &Documents,
        fractions: Fractions,
        separator: Option<u32>,
        encode: impl FnMut(&[u8]) -> Result<Vec<u32>, E>,
    ) -> Result<Corpus, CorpusError> {
        Corpus::read_pieces(files, documents, fractions, separator, usize::MAX, encode)
    }

    /// As [`Corpus::read`]; `encode` sees at most `most` bytes at once, cut anywhere.
    fn read_pieces<E: Display>(
        files: &[PathBuf],
        documents: &Documents,
        fractions: Fractions,
        separator: Option<u32>,
        most: usize,
        mut encode: impl FnMut(&[u8]) -> Result<Vec<u32>, E>,
    ) -> Result<Corpus, CorpusError> {
        let Fractions { validation, test } = fractions;
        if !(validation >= 0.0 && test >= 0.0 && validation + test < 1.0) {
            return Err(CorpusError::Fractions { validation, test });
        }
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|source| CorpusError::File { path: path.clone(), source });
        let texts = files.iter().map(read).collect::<Result<Vec<Vec<u8>>, CorpusError>>()?;
        let whole = cut_documents(&texts, documents)?;
        let total: usize = whole.iter().map(|piece| piece.bytes.len()).sum();
        if total == 0 {
            return Err(CorpusError::Empty { files: files.len() });
        }
        let held_out = |share: f64| (total as f64 * share).round() as usize;
        let train = total - held_out(validation + test).min(total);
        let (first, rest) = cut_at(whole, train, &texts);
        let (second, third) = cut_at(rest, total - held_out(test).min(total) - train, &texts);

        let mut part = |pieces: Vec<Piece>| {
            let mut part = CorpusPart { ids: Ids::new(), ends: Vec::new(), bytes: 0, largest_id: 0 };
            for piece in pieces {
                for text in texts[piece.file][piece.bytes.clone()].chunks(most) {
                    let encoded = encode(text).map_err(|error| CorpusError::Encode {
                        path: files[piece.file].clone(),
                        offset: piece.bytes.start,
                        message: error.to_string(),
                    })?;
                    part.push(&encoded)?;
                }
                part.bytes += piece.bytes.len() as u64;
                if piece.ends {
                    part.push(separator.as_slice())?;
                    part.ends.push(part.len());
                }
            }
            part.ids.shrink();
            Ok::<CorpusPart, CorpusError>(part)
        };
        Ok(Corpus { parts: [part(first)?, part(second)?, part(third)?] })
    }

    /// Reads the files as bytes: token ids are 0 to 255, the separator 256 if there are documents to separate.
    ///
    /// # Errors
    /// As [`Corpus::read`].
    pub fn read_bytes(files: &[PathBuf], documents: &Documents, fractions: Fractions) -> Result<Corpus, CorpusError> {
        let separator = matches!(documents, Documents::SeparatedBy(_)).then_some(256);
        let encode = |text: &[u8]| Ok::<_, std::convert::Infallible>(text.iter().map(|&b| u32::from(b)).collect());
        // A byte is a token wherever it stands, so the wide ids of a whole document need never exist at once.
        Corpus::read_pieces(files, documents, fractions, separator, 1 << 20, encode)
    }

    /// One part.
    pub fn part(&self, split: Split) -> &CorpusPart {
        &self.parts[split as usize]
    }

    /// The smallest vocabulary that has every id.
    pub fn vocab_size(&self) -> usize {
        self.parts.iter().map(|part| part.largest_id as usize + 1).max().unwrap_or(0)
    }

    /// Bytes of memory that the ids take.
    pub fn held_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.ids.held_bytes() + part.ends.capacity() * size_of::<usize>()).sum()
    }
}

fn cut_documents(texts: &[Vec<u8>], documents: &Documents) -> Result<Vec<Piece>, CorpusError> {
    let mut pieces = Vec::new();
    for (file, text) in texts.iter().enumerate() {
        let mut push = |bytes: Range<usize>| {
            if !bytes.is_empty() {
                pieces.push(Piece { file, bytes, ends: true });
            }
        };
        match documents {
            Documents::Files => push(0..text.len()),
            Documents::SeparatedBy(separator) if separator.is_empty() => return Err(CorpusError::EmptySeparator),
            Documents::SeparatedBy(separator) => {
                let separator = separator.as_bytes();
                let (mut start, mut at) = (0, 0);
                while at + separator.len() <= text.len() {
                    if &text[at..at + separator.len()] == separator {
                        push(start..at);
                        at += separator.len();
                        start = at;
                    } else {
                        at += 1;
                    }
                }
                push(start..text.len());
            }
        }
    }
    Ok(pieces)
}

/// Cuts a list of pieces after `bytes` bytes, or a little later, where a character ends.
fn cut_at(pieces: Vec<Piece>, bytes: usize, texts: &[Vec<u8>]) -> (Vec<Piece>, Vec<Piece>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut left = bytes;
    for piece in pieces {
        let text = &texts[piece.file];
        let mut cut = piece.bytes.start + left.min(piece.bytes.len());
        if left > 0 {
            // A continuation byte belongs to the character before it.
            while cut < piece.bytes.end && text[cut] & 0xC0 == 0x80 {
                cut += 1;
            }
        }
        left = left.saturating_sub(piece.bytes.len());
        if cut == piece.bytes.end {
            before.push(piece);
        } else if cut == piece.bytes.start {
            after.push(piece);
        } else {
            before.push(Piece { file: piece.file, bytes: piece.bytes.start..cut, ends: false });
            after.push(Piece { bytes: cut..piece.bytes.end, ..piece });
        }
    }
    (before, after)
}

impl CorpusPart {
    fn push(&mut self, ids: &[u32]) -> Result<(), CorpusError> {
        if let Some(&id) = ids.iter().find(|&&id| i32::try_from(id).is_err()) {
            return Err(CorpusError::Id { id });
        }
        self.largest_id = ids.iter().copied().fold(self.largest_id, u32::max);
        self.ids.extend(ids);
        Ok(())
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of text that the tokens stand for; separators stand for none.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bits per byte of the whole part, from the surprise of all its tokens in nats; `None` without text.
    pub fn bits_per_byte(&self, nats: f64) -> Option<f64> {
        (self.bytes > 0).then(|| crate::metrics::bits(nats) / self.bytes as f64)
    }

    /// The tokens from `start` on, at most `count`.
    pub fn window(&self, start: usize, count: usize) -> Vec<i32> {
        self.ids.window(start, count)
    }

    /// Where the documents of the window of `count` tokens at `start` begin, relative to it, and its length at the end:
    /// 0 = first < … < last = count (the offsets that packed sequences are given by).
    pub fn cu_seqlens(&self, start: usize, count: usize) -> Vec<u32> {
        let count = count.min(self.len().saturating_sub(start));
        let from = self.ends.partition_point(|&end| end <= start);
        let inner = self.ends[from..].iter().map(|&end| end - start).take_while(|&end| end < count);
        let ends = std::iter::once(0).chain(inner).chain((count > 0).then_some(count));
        ends.map(|end| end as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn corpus(texts: &[&[u8]], documents: &Documents, validation: f64, test: f64) -> Result<Corpus, CorpusError> {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..texts.len()).map(|i| folder.path().join(format!("{i}.txt"))).collect();
        for (path, text) in files.iter().zip(texts) {
            std::fs::write(path, text).unwrap();
        }
        Corpus::read_bytes(&files, documents, Fractions { validation, test })
    }

    fn text_of(part: &CorpusPart) -> Vec<u8> {
        part.window(0, part.len()).into_iter().filter(|&id| id < 256).map(|id| id as u8).collect()
    }

    #[test]
    fn parts_follow_the_order_of_the_text() {
        let text: Vec<u8> = (0..100).collect();
        let corpus = corpus(&[&text[..30], &text[30..]], &Documents::Files, 0.1, 0.2).unwrap();
        assert_eq!(text_of(corpus.part(Split::Train)), text[..70]);
        assert_eq!(text_of(corpus.part(Split::Validation)), text[70..80]);
        assert_eq!(text_of(corpus.part(Split::Test)), text[80..]);
        assert_eq!(corpus.part(Split::Train).cu_seqlens(0, 70), [0, 30, 70]);
        assert!(corpus.held_bytes() < 100 + 3 * 8 * size_of::<usize>(), "a byte of text takes a byte");
    }

    #[test]
    fn separators_end_documents_and_windows_know_where() {
        let documents = Documents::SeparatedBy("<|end|>".to_string());
        let corpus = corpus(&[b"ab<|end|><|end|>cde<|end|>", b"f"], &documents, 0.0, 0.0).unwrap();
        let part = corpus.part(Split::Train);
        assert_eq!(part.window(0, 99), [97, 98, 256, 99, 100, 101, 256, 102, 256]);
        assert_eq!((part.bytes(), corpus.vocab_size()), (6, 257));
        assert_eq!(part.cu_seqlens(0, 9), [0, 3, 7, 9]);
        assert_eq!(part.cu_seqlens(1, 4), [0, 2, 4]);
        assert_eq!(part.cu_seqlens(3, 4), [0, 4]);
        assert_eq!(part.cu_seqlens(8, 5), [0, 1]);
        assert_eq!(part.cu_seqlens(9, 5), [0]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(matches!(corpus(&[b""], &Documents::Files, 0.1, 0.1), Err(CorpusError::Empty { files: 1 })));
        for (validation, test) in [(-0.1, 0.0), (0.5, 0.5), (f64::NAN, 0.0)] {
            let error = corpus(&[b"abc"], &Documents::Files, validation, test).unwrap_err();
            assert!(matches!(error, CorpusError::Fractions { .. }), "{error}");
        }
        let empty = Documents::SeparatedBy(String::new());
        assert!(matches!(corpus(&[b"abc"], &empty, 0.0, 0.0), Err(CorpusError::EmptySeparator)));
        let missing = PathBuf::from("no/such/file.txt");
        let error = Corpus::read_bytes(&[missing], &Documents::Files, Fractions::default()).unwrap_err();
        assert!(error.to_string().contains("no/such/file.txt"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.txt");
        std::fs::write(&path, "abcdef").unwrap();
        let refuse = |_: &[u8]| Err::<Vec<u32>, _>("not valid UTF-8");
        let error = Corpus::read(std::slice::from_ref(&path), &Documents::Files, Fractions::default(), None, refuse)
            .unwrap_err();
        assert!(error.to_string().contains("bad.txt") && error.to_string().contains("not valid UTF-8"), "{error}");
        let wide = |_: &[u8]| Ok::<_, String>(vec![u32::MAX]);
        let error = Corpus::read(&[path], &Documents::Files, Fractions::default(), None, wide).unwrap_err();
        assert!(matches!(error, CorpusError::Id { id: u32::MAX }));
    }

    proptest! {
        #[test]
        fn bytes_are_the_same_in_any_pieces(text in "[a-c·é|€😀]{1,40}", most in 1usize..9) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("text");
            std::fs::write(&path, &text).unwrap();
            let documents = Documents::SeparatedBy("|".into());
            let encode = |text: &[u8]| Ok::<_, String>(text.iter().map(|&b| u32::from(b)).collect());
            let pieces = Corpus::read_pieces(
                std::slice::from_ref(&path), &documents, Fractions::default(), Some(256), most, encode);
            let whole = Corpus::read_bytes(&[path], &documents, Fractions::default());
            match (pieces, whole) {
                (Ok(pieces), Ok(whole)) => prop_assert_eq!(pieces, whole),
                (pieces, whole) => prop_assert!(pieces.is_err() && whole.is_err()),
            }
        }

        #[test]
        fn every_byte_is_in_exactly_one_part_and_characters_stay_whole(
            texts in proptest::collection::vec("[a-c·é|€😀]{0,12}", 1..5), validation in 0.0..0.5, test in 0.0..0.49
        ) {
            let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            let whole: Vec<u8> = bytes.concat();
            for (documents, expected) in [
                (Documents::Files, whole.clone()),
                (Documents::SeparatedBy("|".into()), whole.iter().copied().filter(|&b| b != b'|').collect()),
            ] {
                if expected.is_empty() {
                    continue;
                }
                let corpus = corpus(&bytes, &documents, validation, test).unwrap();
                let parts: Vec<Vec<u8>> = Split::ALL.iter().map(|&split| text_of(corpus.part(split))).collect();
                prop_assert_eq!(parts.concat(), expected);
                for (part, split) in parts.iter().zip(Split::ALL) {
                    prop_assert!(std::str::from_utf8(part).is_ok());
                    prop_assert_eq!(part.len() as u64, corpus.part(split).bytes());
                }
            }
        }
    }
}

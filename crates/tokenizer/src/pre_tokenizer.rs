//! How byte-level vocabularies cut text into words before merging, by the names that `tokenizer.ggml.pre` gives.
//!
//! A kind is a list of rules; each cuts every piece that the rules before it left into its matches and the text between
//! them. Most end in `\s+(?!\S)|\s+`: a run of spaces, without its last if a word follows. Here that is a flag of the
//! rule and not a lookahead, so that every rule runs as a finite automaton, in time linear in the text.
//! Source of the expressions: the `tokenizer.json` that each model was published with; of the names: llama.cpp.

use std::ops::Range;

use regex_automata::meta;

/// A kind of cutting, with what else its name implies.
pub(crate) struct Kind {
    rules: &'static [Rule],
    /// A word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Text begins with BOS unless the file says otherwise.
    pub add_bos: bool,
}

struct Rule {
    expression: &'static str,
    /// Then also runs of spaces, whose last is left to a word that follows.
    spaces: bool,
}

const fn words(expression: &'static str) -> Rule {
    Rule { expression, spaces: true }
}

const fn only(expression: &'static str) -> Rule {
    Rule { expression, spaces: false }
}

const GPT2: Rule = words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const ONE_DIGIT: Rule = only(r"\p{N}");
const THREE_DIGITS: Rule = only(r"[0-9][0-9][0-9]");

/// Contractions in either case, words with one leading sign, numbers of up to `{1,3}` or one digit, signs with line ends.
macro_rules! llama3 {
    ($word:literal, $digits:literal, $signs:literal) => {
        words(concat!(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?",
            $word,
            "|",
            $digits,
            "| ?",
            $signs,
            r"+[\r\n]*|\s*[\r\n]+"
        ))
    };
}

/// Words cut where a capital follows a small letter; `$end`: what may follow a word.
macro_rules! camel {
    ($upper:literal, $lower:literal, $end:literal, $digits:literal) => {
        words(concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $end,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $end,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
        ))
    };
}

const LLAMA3: Rule = llama3!(r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}\p{N}]");
const QWEN2: Rule = llama3!(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]");
const QWEN35: Rule = llama3!(r"[\p{L}\p{M}]+", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]");
const TEKKEN: Rule = camel!(r"[\p{L}--a-z]", r"[\p{L}--A-Z]", "", r"\p{N}");
const GPT4O: Rule = camel!(
    r"[\p{L}--a-z]",
    r"[\p{L}--A-Z]",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
    r"\p{N}{1,3}"
);
const BLOOM: Rule = only(r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+");

/// Cased letters as of the Unicode version that DeepSeek LLM's tokenizer was made with.
const DEEPSEEK_LLM_WORDS: Rule = only(concat!(
    r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}",
    r"\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}",
    r"\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}",
    r"\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}",
    r"\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}",
    r"\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}",
    r"\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}",
    r"\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}",
    r"\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}",
    r"\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}",
    r"\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}",
    r"\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
));
const DEEPSEEK_CJK: Rule = only(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+");
const LINE_END: Rule = only(r"[\r\n]");

const FALCON: &[Rule] = &[only(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, THREE_DIGITS];
const DEFAULT: &[Rule] = &[only(r"[\p{P}\$\+<=>\^~\|]+"), GPT2, only(r"\p{N}+"), THREE_DIGITS];
const DEEPSEEK_LLM: &[Rule] = &[
    LINE_END,
    DEEPSEEK_LLM_WORDS,
    only(r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+"),
    only(r"\s+\z"),
    DEEPSEEK_CJK,
    only(r"\p{N}+"),
];
const DEEPSEEK_CODER: &[Rule] = &[LINE_END, only(r"\s?\p{L}+"), only(r"\s?\p{P}+"), DEEPSEEK_CJK, ONE_DIGIT];
const DEEPSEEK_V3: &[Rule] = &[
    only(r"\p{N}{1,3}"),
    only(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"),
    words(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    )),
];

/// Every name, for messages, with its kind.
const KINDS: &[(&[&str], Kind)] = &[
    (&["default"], plain(DEFAULT)),
    (&["gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "trillion", "exaone4"], plain(&[GPT2])),
    (&["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"], plain(&[ONE_DIGIT, GPT2])),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"],
        Kind { rules: &[LLAMA3], ignore_merges: true, add_bos: true },
    ),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], plain(&[LLAMA3])),
    (&["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"], plain(&[QWEN2])),
    (&["qwen35"], plain(&[QWEN35])),
    (&["tekken"], Kind { rules: &[TEKKEN], ignore_merges: true, add_bos: true }),
    (&["gpt-4o", "llama4"], plain(&[GPT4O])),
    (&["falcon"], plain(FALCON)),
    (&["deepseek-llm"], plain(DEEPSEEK_LLM)),
    (&["deepseek-coder"], plain(DEEPSEEK_CODER)),
    (&["deepseek-v3"], plain(DEEPSEEK_V3)),
    (&["bloom", "poro-chat", "gpt3-finnish"], plain(&[BLOOM])),
    (&["viking"], plain(&[BLOOM, ONE_DIGIT])),
];

const fn plain(rules: &'static [Rule]) -> Kind {
    Kind { rules, ignore_merges: false, add_bos: false }
}

/// The kind of that name, or `None`.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|(names, _)| names.contains(&name)).map(|(_, kind)| kind)
}

/// All names, for messages.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|(names, _)| names.iter().copied())
}

/// A kind's rules, compiled.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    rules: Vec<(meta::Regex, bool)>,
}

impl PreTokenizer {
    /// Compiles the rules of a kind.
    pub fn new(kind: &Kind) -> Result<PreTokenizer, String> {
        let compile = |rule: &Rule| {
            // The number of the pattern tells a run of spaces from the rest.
            let patterns = if rule.spaces { vec![rule.expression, r"\s+"] } else { vec![rule.expression] };
            meta::Regex::new_many(&patterns).map(|regex| (regex, rule.spaces)).map_err(|e| match e.syntax_error() {
                Some(syntax) => syntax.to_string(),
                None => e.to_string(),
            })
        };
        Ok(PreTokenizer { rules: kind.rules.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The ranges of the words of a text, in order; together they are the whole text.
    pub fn cut(&self, text: &str) -> Vec<Range<usize>> {
        let whole = 0..text.len();
        let mut pieces = vec![whole];
        for (regex, spaces) in &self.rules {
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                cut_piece(text, piece, regex, *spaces, &mut cut);
            }
            pieces = cut;
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

/// Appends the matches in one piece and what lies between them.
fn cut_piece(text: &str, piece: Range<usize>, regex: &meta::Regex, spaces: bool, out: &mut Vec<Range<usize>>) {
    // The piece is searched by itself: what a rule before has cut off is not seen.
    let haystack = &text[piece.clone()];
    let mut at = 0;
    let mut unmatched = 0;
    while at < haystack.len() {
        let Some(found) = regex.find(regex_automata::Input::new(haystack).range(at..)) else { break };
        let mut end = found.end();
        if spaces && found.pattern().as_usize() == 1 && end < haystack.len() {
            // More than one space before a word: the last one belongs to the word.
            let last = haystack[found.start()..end].chars().next_back().map_or(0, char::len_utf8);
            if end - last > found.start() {
                end -= last;
            }
        }
        if unmatched < found.start() {
            out.push(piece.start + unmatched..piece.start + found.start());
        }
        out.push(piece.start + found.start()..piece.start + end);
        unmatched = end;
        at = end;
    }
    if unmatched < haystack.len() {
        out.push(piece.start + unmatched..piece.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(name: &str, text: &str) -> Vec<String> {
        let pre_tokenizer = PreTokenizer::new(kind(name).unwrap()).unwrap();
        pre_tokenizer.cut(text).into_iter().map(|r| text[r].to_string()).collect()
    }

    #[test]
    fn spaces_before_a_word_leave_it_the_last() {
        for name in ["gpt-2", "llama-bpe", "qwen2"] {
            assert_eq!(cut(name, "a   b"), ["a", "  ", " b"], "{name}");
            assert_eq!(cut(name, "a   "), ["a", "   "], "{name}");
        }
        assert_eq!(cut("gpt-2", "a\t\tb"), ["a", "\t", "\t", "b"]);
        assert_eq!(cut("llama-bpe", "a\t\tb"), ["a", "\t", "\tb"]);
    }

    #[test]
    fn numbers_are_cut_as_each_kind_says() {
        assert_eq!(cut("gpt-2", "x 12345"), ["x", " 12345"]);
        assert_eq!(cut("llama-bpe", "x12345"), ["x", "123", "45"]);
        assert_eq!(cut("qwen2", "123"), ["1", "2", "3"]);
        assert_eq!(cut("starcoder", " 12"), [" ", "1", "2"]);
        assert_eq!(cut("falcon", "12345"), ["123", "45"]);
    }

    #[test]
    fn capitals_begin_words_where_the_kind_says() {
        assert_eq!(cut("gpt-4o", "helloWorld's"), ["hello", "World's"]);
        assert_eq!(cut("tekken", "HTMLParser"), ["HTMLParser"]);
        assert_eq!(cut("tekken", "parseHTML"), ["parse", "HTML"]);
    }

    #[test]
    fn line_ends_go_with_what_comes_before_them_in_llama_3() {
        assert_eq!(cut("llama-bpe", "a.\n\n b"), ["a", ".\n\n", " b"]);
        assert_eq!(cut("llama-bpe", "a \n \n b"), ["a", " \n \n", " b"]);
    }

    proptest! {
        #[test]
        fn the_words_of_every_kind_are_the_whole_text(text in "(\\PC|[ \t\r\na-zA-Z0-9'])*") {
            for name in names() {
                let pre_tokenizer = compiled(name);
                let mut end = 0;
                for word in pre_tokenizer.cut(&text) {
                    prop_assert_eq!(word.start, end);
                    prop_assert!(!word.is_empty());
                    end = word.end;
                }
                prop_assert_eq!(end, text.len());
            }
        }
    }

    fn compiled(name: &'static str) -> &'static PreTokenizer {
        static ALL: std::sync::OnceLock<std::collections::HashMap<&str, PreTokenizer>> = std::sync::OnceLock::new();
        &ALL.get_or_init(|| names().map(|n| (n, PreTokenizer::new(kind(n).unwrap()).unwrap())).collect())[name]
    }
}

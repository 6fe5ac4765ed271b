//! Tokenizers of Hugging Face folders: `tokenizer.json` through the `tokenizers` crate, or `tokenizer.model`, and what the
//! files beside it say of BOS, EOS, ends and the chat template.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    ChatTemplate, Model, Roles, Tokenizer, TokenizerError,
    byte_level::{self, ByteTable},
    gguf::ends_by_name,
    merges,
    sentencepiece::{SPACE, byte_of_name},
    sentencepiece_model::AddedToken,
    special::Specials,
    vocabulary::{TokenKind, Vocabulary},
};

/// A tokenizer of the library.
#[derive(Debug)]
pub(crate) struct HuggingFace {
    /// Whether special tokens are parsed is a setting of the library's tokenizer, not of its call: hence the lock.
    tokenizer: Mutex<tokenizers::Tokenizer>,
    /// Text gets a space before its first word.
    pub adds_space: bool,
    /// So does text after a special token.
    pub adds_space_after_special: bool,
}

impl HuggingFace {
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut tokenizer = self.tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
        tokenizer.set_encode_special_tokens(!parse_special);
        let encoding = guarded(|| tokenizer.encode_fast(text, add_special)).map_err(TokenizerError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokenizer as `tokenizer.json` has it.
    pub fn json(&self) -> Result<Value, TokenizerError> {
        let tokenizer = self.tokenizer.lock().unwrap_or_else(PoisonError::into_inner);
        let text = tokenizer.to_string(false).map_err(|e| TokenizerError::Export(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| TokenizerError::Export(e.to_string()))
    }
}

/// Calls the library, which gives up with a panic on some damaged tokenizers.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library gave up on it".into()),
    }
}

/// How the strings of a vocabulary spell bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// In GPT-2's byte alphabet.
    ByteLevel,
    /// `▁` is a space, `<0x0A>` a byte.
    Metaspace,
    /// Tokens that continue a word begin with a prefix, others with a space.
    WordPiece,
    /// Tokens that end a word have a suffix, which is a space.
    Suffix,
    /// Tokens are words.
    Words,
}

/// The parts of `tokenizer.json` that say how strings spell bytes.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: ModelPart,
}

#[derive(Deserialize)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    merges: Option<IgnoredAny>,
}

impl Parts {
    fn has(part: &Value, kind: &str) -> bool {
        Parts::find(part, kind).is_some()
    }

    /// The part of that type, alone or in a sequence.
    fn find<'v>(part: &'v Value, kind: &str) -> Option<&'v Value> {
        if part["type"] == kind {
            return Some(part);
        }
        let lists = [&part["decoders"], &part["pretokenizers"]];
        lists.into_iter().filter_map(Value::as_array).flatten().find_map(|inner| Parts::find(inner, kind))
    }

    fn spelling(&self) -> Spelling {
        if Parts::has(&self.decoder, "ByteLevel") || Parts::has(&self.pre_tokenizer, "ByteLevel") {
            Spelling::ByteLevel
        } else if ["Metaspace", "ByteFallback", "Replace"].iter().any(|kind| Parts::has(&self.decoder, kind)) {
            Spelling::Metaspace
        } else if Parts::has(&self.decoder, "WordPiece") {
            Spelling::WordPiece
        } else if Parts::has(&self.decoder, "BPEDecoder") {
            Spelling::Suffix
        } else {
            Spelling::Words
        }
    }

    /// The prefix or suffix of the decoder.
    fn affix<'v>(&'v self, kind: &str, key: &str, default: &'v str) -> &'v str {
        Parts::find(&self.decoder, kind).and_then(|part| part[key].as_str()).unwrap_or(default)
    }
}

/// The files of a folder that hold a vocabulary, the preferred one first.
pub(crate) const JSON: &str = "tokenizer.json";
pub(crate) const SENTENCEPIECE: &str = "tokenizer.model";

/// Ids beyond the number of tokens that a vocabulary may leave unused.
const MAX_HOLES: usize = 1 << 20;

impl Tokenizer {
    /// Reads `tokenizer.json` in a folder, or `tokenizer.model` where there is none, with `tokenizer_config.json`,
    /// `special_tokens_map.json`, `added_tokens.json`, `generation_config.json`, `config.json` and `chat_template.jinja`
    /// where they are.
    ///
    /// # Errors
    /// When there is neither, or one of the files is damaged.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
        let folder = folder.as_ref();
        let beside = |name: &str| read_json(&folder.join(name));
        let config = beside("tokenizer_config.json")?;
        let (json, model) = (folder.join(JSON), folder.join(SENTENCEPIECE));
        let mut tokenizer = if let Some(bytes) = read(&json)? {
            let mut tokenizer = Tokenizer::from_json(&json, &bytes)?;
            tokenizer.roles.eos = None;
            tokenizer
        } else if let Some(bytes) = read(&model)? {
            let added = added_tokens(&config, &beside("added_tokens.json")?);
            let mut tokenizer = Tokenizer::from_sentencepiece_and_added(&model, &bytes, added)?;
            tokenizer.roles.add_bos = config["add_bos_token"].as_bool().unwrap_or(true);
            tokenizer.roles.add_eos = config["add_eos_token"].as_bool().unwrap_or(false);
            tokenizer.roles.ends = tokenizer.roles.eos.into_iter().chain(ends_by_name(&tokenizer.vocabulary)).collect();
            tokenizer
        } else {
            let looked_for = format!("{JSON} or {SENTENCEPIECE}");
            return Err(TokenizerError::Missing { place: folder.to_path_buf(), looked_for });
        };
        tokenizer.take_roles(&[config.clone(), beside("special_tokens_map.json")?]);
        tokenizer.take_ends(&[beside("generation_config.json")?, beside("config.json")?]);
        tokenizer.guess_eos();
        let source = match read(&folder.join("chat_template.jinja"))? {
            Some(source) => Some(String::from_utf8_lossy(&source).into_owned()),
            None => template_in(&config).map(String::from),
        };
        if let Some(source) = source {
            let name_of = |id| id_name(&tokenizer, id);
            tokenizer.chat_template =
                Some(ChatTemplate::new(&source, name_of(tokenizer.roles.bos), name_of(tokenizer.roles.eos))?);
        }
        Ok(tokenizer)
    }

    /// Whether a folder holds a tokenizer.
    pub(crate) fn is_in(folder: &Path) -> bool {
        [JSON, SENTENCEPIECE].iter().any(|name| folder.join(name).is_file())
    }

    /// Reads a `tokenizer.json` from its bytes; `file` is its name for messages. BOS, EOS and ends are those known by
    /// name, as the files beside it are not read.
    ///
    /// # Errors
    /// When it is not JSON of that kind.
    pub fn from_json(file: &Path, json: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let damaged = |problem: String| TokenizerError::Damaged { file: file.to_path_buf(), problem };
        let parts: Parts =
            serde_json::from_slice(json).map_err(|e| damaged(format!("should be a tokenizer in JSON, but: {e}")))?;
        if parts.model.kind.as_deref().unwrap_or("BPE") == "BPE" && parts.model.merges.is_some() {
            merges::check(json).map_err(damaged)?;
        }
        let mut library = guarded(|| tokenizers::Tokenizer::from_bytes(json))
            .map_err(|e| damaged(format!("should be a tokenizer in JSON, but: {e}")))?;
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| damaged(e.to_string()))?;
        let vocabulary = vocabulary(&library, &parts).map_err(damaged)?;
        let mut tokenizer = Tokenizer {
            model: Model::HuggingFace(HuggingFace {
                tokenizer: Mutex::new(library),
                adds_space: false,
                adds_space_after_special: false,
            }),
            specials: Specials::default(),
            roles: Roles { ends: ends_by_name(&vocabulary).collect(), ..Roles::default() },
            vocabulary,
            chat_template: None,
        };
        tokenizer.observe(&parts);
        tokenizer.guess_eos();
        Ok(tokenizer)
    }

    /// Learns from an example what the library adds to a text.
    fn observe(&mut self, parts: &Parts) {
        let plain = self.encode("a", false, false).unwrap_or_default();
        let with_special = self.encode("a", true, false).unwrap_or_default();
        let adds_space = plain.first().and_then(|&id| self.token_bytes(id)).is_some_and(|b| b.first() == Some(&b' '));
        let first_only = Parts::find(&parts.pre_tokenizer, "Metaspace").is_some_and(|m| m["prepend_scheme"] == "first");
        if let Model::HuggingFace(model) = &mut self.model {
            model.adds_space = adds_space;
            model.adds_space_after_special = adds_space && !first_only;
        }
        self.roles.add_bos = with_special.len() > plain.len() && with_special.first() != plain.first();
        self.roles.add_eos = with_special.len() > plain.len() && with_special.last() != plain.last();
        if self.roles.add_bos {
            self.roles.bos = with_special.first().copied();
        }
    }

    /// Where no file says what EOS is and one token is known as an end, that one.
    fn guess_eos(&mut self) {
        if self.roles.eos.is_none() && self.roles.ends.len() == 1 {
            self.roles.eos = self.roles.ends.first().copied();
        }
    }

    /// BOS and EOS by the names that the files beside give them.
    fn take_roles(&mut self, files: &[Value]) {
        let named = |key: &str| {
            files.iter().find_map(|file| file[key].as_str().or_else(|| file[key]["content"].as_str())).map(String::from)
        };
        for (key, role) in [("bos_token", 0), ("eos_token", 1), ("unk_token", 2)] {
            let id = named(key).and_then(|name| self.special(&name).or_else(|| self.vocabulary.find(name.as_bytes())));
            match (role, id) {
                (0, Some(id)) => self.roles.bos = Some(id),
                (1, Some(id)) => {
                    self.roles.eos = Some(id);
                    self.roles.ends.insert(id);
                }
                (_, Some(id)) => self.roles.unknown = Some(id),
                (_, None) => {}
            }
        }
    }

    /// EOS ids, of which a model may have several.
    fn take_ends(&mut self, files: &[Value]) {
        let ids = files.iter().flat_map(|file| match &file["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        });
        let known = self.vocab_size() as u64;
        let ends: BTreeSet<u32> = ids.filter(|&id| id < known).map(|id| id as u32).collect();
        self.roles.eos = self.roles.eos.or(ends.first().copied());
        self.roles.ends.extend(ends);
    }
}

/// Tokens that `tokenizer_config.json` and `added_tokens.json` add, by id; what the first says of one counts.
fn added_tokens(config: &Value, added: &Value) -> BTreeMap<u32, AddedToken> {
    let mut tokens = BTreeMap::new();
    for (content, id) in added.as_object().into_iter().flatten() {
        if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            tokens.insert(id, AddedToken { content: content.clone(), special: true });
        }
    }
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        if let (Ok(id), Some(content)) = (id.parse(), token["content"].as_str()) {
            let special = token["special"].as_bool().unwrap_or(false);
            tokens.insert(id, AddedToken { content: content.into(), special });
        }
    }
    tokens
}

fn id_name(tokenizer: &Tokenizer, id: Option<u32>) -> Option<String> {
    Some(String::from_utf8_lossy(&tokenizer.token_bytes(id?)?).into_owned())
}

/// The template in `tokenizer_config.json`: a string, or the one called `default` of several.
fn template_in(config: &Value) -> Option<&str> {
    let template = &config["chat_template"];
    template.as_str().or_else(|| {
        let named = template.as_array()?.iter();
        named.filter(|t| t["name"] == "default").find_map(|t| t["template"].as_str())
    })
}

/// The bytes that each token of the library's vocabulary stands for.
fn vocabulary(library: &tokenizers::Tokenizer, parts: &Parts) -> Result<Vocabulary, String> {
    let names = library.get_vocab(true);
    let size = names.values().max().map_or(0, |&id| id as usize + 1);
    if size > names.len() + MAX_HOLES {
        return Err(format!("has ids up to {}, but only {} tokens", size - 1, names.len()));
    }
    let mut tokens: Vec<(Vec<u8>, TokenKind)> = vec![(Vec::new(), TokenKind::Unused); size];
    let spelling = parts.spelling();
    let table = ByteTable::new();
    for (name, id) in names {
        tokens[id as usize] = match spelling {
            Spelling::ByteLevel => {
                (byte_level::bytes_of(&name, &table).unwrap_or_else(|| name.into_bytes()), TokenKind::Normal)
            }
            Spelling::Metaspace => match byte_of_name(name.as_bytes()) {
                Some(byte) => (vec![byte], TokenKind::Byte),
                None => (name.replace(SPACE, " ").into_bytes(), TokenKind::Normal),
            },
            Spelling::WordPiece => match name.strip_prefix(parts.affix("WordPiece", "prefix", "##")) {
                Some(rest) => (rest.as_bytes().to_vec(), TokenKind::Normal),
                None => (format!(" {name}").into_bytes(), TokenKind::Normal),
            },
            Spelling::Suffix => match name.strip_suffix(parts.affix("BPEDecoder", "suffix", "</w>")) {
                Some(rest) => (format!("{rest} ").into_bytes(), TokenKind::Normal),
                None => (name.into_bytes(), TokenKind::Normal),
            },
            Spelling::Words => (format!(" {name}").into_bytes(), TokenKind::Normal),
        };
    }
    for (id, added) in library.get_added_tokens_decoder() {
        if let Some(token) = tokens.get_mut(id as usize) {
            let kind = if added.special { TokenKind::Control } else { TokenKind::UserDefined };
            *token = (added.content.into_bytes(), kind);
        }
    }
    Ok(Vocabulary::new(tokens.into_iter().map(|(bytes, kind)| (Cow::Owned(bytes), kind))))
}

/// The bytes of a file, or `None` where there is none.
fn read(file: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io { file: PathBuf::from(file), source }),
    }
}

/// A JSON file, or null where there is none.
fn read_json(file: &Path) -> Result<Value, TokenizerError> {
    let Some(bytes) = read(file)? else { return Ok(Value::Null) };
    serde_json::from_slice(&bytes).map_err(|e| TokenizerError::Damaged {
        file: PathBuf::from(file),
        problem: format!("should be JSON, but: {e}"),
    })
}

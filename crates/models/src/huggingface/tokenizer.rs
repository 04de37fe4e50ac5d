//! From a text to token ids, as the model's own files say.
//!
//! `tokenizer.json` is used as it is. Older folders hold `vocab.txt` (WordPiece) or `vocab.json` and `merges.txt`
//! (byte-level BPE): of these the same description is made that `transformers` would save. Texts are cut at the model's
//! maximum length, the special tokens kept, and never padded.

use millstream_core::{Error, Failure, FailureKind, Result};
use serde_json::{Map, Value, json};
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use super::files::Files;

/// The description of a tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Settings of the tokenizer.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Tokens of WordPiece, one a line.
pub const WORDPIECE_VOCABULARY: &str = "vocab.txt";
/// Tokens of byte-level BPE and their ids.
pub const BPE_VOCABULARY: &str = "vocab.json";
/// Merges of byte-level BPE.
pub const BPE_MERGES: &str = "merges.txt";

/// The bytes of a text that are looked at first, for each token that it may have: more than all but a few texts need.
const FIRST_BYTES_PER_TOKEN: usize = 16;
/// The bytes of a text that are looked at, for each token that it may have. What is behind them counts as cut off, be
/// it as few tokens as it may; no word of a language is that long.
const BYTES_PER_TOKEN_MAX: usize = 256;

/// A tokenizer and how long its texts may be.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    tokens_max: usize,
    /// Rows of the table of tokens.
    vocabulary: usize,
    /// Rows of the table of token types; 0: types are not used.
    token_types: usize,
    cuts_front: bool,
    /// Stands in front of every text.
    prompt: String,
}

/// What `tokenizer_config.json` and `tokenizer.json` say about length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeclaredLength {
    /// `model_max_length`, where it is a real limit.
    pub of_config: Option<usize>,
    /// The truncation that was saved with the tokenizer.
    pub of_tokenizer: Option<usize>,
}

/// The description of a tokenizer, read but not built.
pub struct Description {
    shown: String,
    value: Value,
    cuts_front: bool,
    /// Stands in front of every text; mostly empty.
    pub prompt: String,
    /// How long texts may be, by the tokenizer's files.
    pub length: DeclaredLength,
}

impl Description {
    /// Reads the tokenizer's files.
    ///
    /// # Errors
    /// `Config`: there is none, or none that is understood.
    pub fn read(files: &Files) -> Result<Self> {
        let config = files.json(TOKENIZER_CONFIG)?.unwrap_or_else(|| json!({}));
        let (shown, mut value) = if let Some(value) = files.json(TOKENIZER)? {
            (files.shown(TOKENIZER), value)
        } else if let Some(lines) = files.bytes(WORDPIECE_VOCABULARY)? {
            let shown = files.shown(WORDPIECE_VOCABULARY);
            let text = String::from_utf8(lines).map_err(|_| Error::config(format!("{shown} is not UTF-8")))?;
            let value = word_piece(&text, &config).map_err(|e| e.context(shown.clone()))?;
            (shown, value)
        } else if let (Some(vocabulary), Some(merges)) = (files.json(BPE_VOCABULARY)?, files.bytes(BPE_MERGES)?) {
            let shown = files.shown(BPE_MERGES);
            let merges = String::from_utf8(merges).map_err(|_| Error::config(format!("{shown} is not UTF-8")))?;
            let value = byte_pairs(vocabulary, &merges, &config).map_err(|e| e.context(shown.clone()))?;
            (shown, value)
        } else {
            return Err(Error::config(format!(
                "{} is missing (or {WORDPIECE_VOCABULARY}, or {BPE_VOCABULARY} with {BPE_MERGES}); where the model has another \
                 vocabulary file, load it with `transformers` once and `save_pretrained` its fast tokenizer",
                files.shown(TOKENIZER)
            )));
        };
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        // `transformers` writes 10^30 where there is no limit, which is no whole number of 64 bits.
        let of_config = number(config.get("model_max_length")).filter(|length| *length < 1 << 30);
        let of_tokenizer = number(value.pointer("/truncation/max_length"));
        apply_settings(&mut value, &config);
        let cuts_front = config.get("truncation_side").and_then(Value::as_str) == Some("left");
        let length = DeclaredLength { of_config, of_tokenizer };
        Ok(Self { shown, value, cuts_front, prompt: String::new(), length })
    }

    /// Texts are set in lower case first (sentence-transformers' `do_lower_case`).
    pub fn lower_case(&mut self) {
        let first = json!({ "type": "Lowercase" });
        let normalizer = match self.value.get("normalizer").cloned().unwrap_or(Value::Null) {
            Value::Null => first,
            other => json!({ "type": "Sequence", "normalizers": [first, other] }),
        };
        self.value["normalizer"] = normalizer;
    }

    /// What the tokenizer's answers depend on.
    pub fn bytes(&self) -> Vec<u8> {
        format!("{} {:?} {}", self.cuts_front, self.prompt, self.value).into_bytes()
    }

    /// Builds it, for texts of at most `tokens_max` tokens and tables of `vocabulary` tokens and `token_types` types.
    ///
    /// # Errors
    /// `Config`: the description is broken, or does not fit the tables.
    pub fn build(&self, tokens_max: usize, vocabulary: usize, token_types: usize) -> Result<TextTokenizer> {
        let broken =
            |e: tokenizers::Error| Error::config(format!("{}: the tokenizer is broken", self.shown)).caused_by(e);
        let mut tokenizer = Tokenizer::from_bytes(self.value.to_string()).map_err(broken)?;
        let known = tokenizer.get_vocab(false).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = known.filter(|(_, id)| *id as usize >= vocabulary) {
            let shown = &self.shown;
            return Err(Error::config(format!(
                "{shown}: token `{token}` has the id {id}, but the model knows {vocabulary} tokens (`vocab_size`): \
                 tokenizer and model don't belong together"
            )));
        }
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if tokens_max <= special {
            return Err(Error::setting(
                "max_length",
                format!("`max_length` is {tokens_max}: the special tokens alone are {special}, write more"),
            ));
        }
        let direction = if self.cuts_front { TruncationDirection::Left } else { TruncationDirection::Right };
        let truncation = TruncationParams {
            max_length: tokens_max,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction,
        };
        tokenizer.with_padding(None).with_truncation(Some(truncation)).map_err(broken)?;
        Ok(TextTokenizer {
            tokenizer,
            tokens_max,
            vocabulary,
            token_types,
            cuts_front: self.cuts_front,
            prompt: self.prompt.clone(),
        })
    }
}

impl TextTokenizer {
    /// The most tokens of a text.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }

    /// Appends the ids and types of a text's tokens, one at least, and says how many there are.
    ///
    /// # Errors
    /// The text has a token that the model does not know, or none at all.
    pub fn append(&self, text: &str, ids: &mut Vec<u32>, types: &mut Vec<u32>) -> Result<usize, Failure> {
        let with_prompt = (!self.prompt.is_empty()).then(|| format!("{}{text}", self.prompt));
        let encoding = self.encode(with_prompt.as_deref().unwrap_or(text))?;
        let (own_ids, own_types) = (encoding.get_ids(), encoding.get_type_ids());
        if own_ids.is_empty() {
            return Err(Failure::new(FailureKind::Model, "the tokenizer makes no token of this text"));
        }
        if own_ids.iter().any(|id| *id as usize >= self.vocabulary) {
            let message = "the text has a token that the tokenizer knows and the model does not";
            return Err(Failure::new(FailureKind::Model, message));
        }
        if own_types.iter().any(|kind| self.token_types > 0 && *kind as usize >= self.token_types) {
            let message = "the tokenizer gives a token type that the model does not know";
            return Err(Failure::new(FailureKind::Model, message));
        }
        ids.extend_from_slice(own_ids);
        types.extend_from_slice(own_types);
        Ok(own_ids.len())
    }

    /// A text of any size takes bounded time: a part of it is tokenised, then a larger one, until there are enough
    /// tokens.
    fn encode(&self, text: &str) -> Result<tokenizers::Encoding, Failure> {
        let bytes_max = self.tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX);
        let mut bytes = self.tokens_max.saturating_mul(FIRST_BYTES_PER_TOKEN);
        loop {
            let part = self.part(text, bytes.min(bytes_max));
            let encoding = self
                .tokenizer
                .encode_fast(part, true)
                .map_err(|e| Failure::new(FailureKind::Model, format!("the text can't be tokenised: {e}")))?;
            let is_cut = !encoding.get_overflowing().is_empty();
            if is_cut || part.len() == text.len() || bytes >= bytes_max {
                return Ok(encoding);
            }
            bytes = bytes.saturating_mul(4);
        }
    }

    /// The first (or last) bytes of a text, up to white space where there is some: words stay whole.
    fn part<'t>(&self, text: &'t str, bytes: usize) -> &'t str {
        if text.len() <= bytes {
            return text;
        }
        if self.cuts_front {
            let part = &text[text.ceil_char_boundary(text.len() - bytes)..];
            return part.find(char::is_whitespace).map_or(part, |space| &part[space..]);
        }
        let part = &text[..text.floor_char_boundary(bytes)];
        part.rfind(char::is_whitespace).filter(|space| *space > 0).map_or(part, |space| &part[..space])
    }
}

/// What `tokenizer_config.json` says about lower case, accents and Chinese goes before what the normalizer says: it is
/// what people edit.
fn apply_settings(tokenizer: &mut Value, config: &Value) {
    let Some(normalizer) = tokenizer.get_mut("normalizer").and_then(Value::as_object_mut) else { return };
    if normalizer.get("type").and_then(Value::as_str) != Some("BertNormalizer") {
        return;
    }
    for (setting, key) in [
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ] {
        if let Some(value) = config.get(setting).filter(|value| value.is_boolean()) {
            normalizer.insert(key.into(), value.clone());
        }
    }
}

/// A special token by its role: the configuration may name another than the usual one, as a text or as an object.
fn special(config: &Value, role: &str, usual: &str) -> String {
    let written = config.get(role).and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
    written.unwrap_or(usual).to_owned()
}

fn id_of(vocabulary: &Map<String, Value>, token: &str) -> Result<u64> {
    vocabulary
        .get(token)
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::config(format!("the special token `{token}` is not in the vocabulary")))
}

fn added(id: u64, token: &str) -> Value {
    json!({
        "id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false
    })
}

/// The description of BERT's tokenizer from `vocab.txt`.
fn word_piece(lines: &str, config: &Value) -> Result<Value> {
    let mut vocabulary = Map::new();
    for (id, line) in lines.lines().enumerate() {
        vocabulary.insert(line.trim_end().to_owned(), id.into());
    }
    let unknown = special(config, "unk_token", "[UNK]");
    let (first, last) = (special(config, "cls_token", "[CLS]"), special(config, "sep_token", "[SEP]"));
    let (first_id, last_id) = (id_of(&vocabulary, &first)?, id_of(&vocabulary, &last)?);
    id_of(&vocabulary, &unknown)?;
    let specials = [unknown.clone(), first.clone(), last.clone()]
        .into_iter()
        .chain([special(config, "pad_token", "[PAD]"), special(config, "mask_token", "[MASK]")]);
    let mut specials: Vec<(u64, String)> =
        specials.filter_map(|token| Some((vocabulary.get(&token)?.as_u64()?, token))).collect();
    specials.sort();
    let added: Vec<Value> = specials.iter().map(|(id, token)| added(*id, token)).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": [last, last_id], "cls": [first, first_id] },
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocabulary
        }
    }))
}

/// The description of RoBERTa's tokenizer from `vocab.json` and `merges.txt`.
fn byte_pairs(vocabulary: Value, merges: &str, config: &Value) -> Result<Value> {
    let Value::Object(vocabulary) = vocabulary else {
        return Err(Error::config(format!("{BPE_VOCABULARY} is no map of tokens to ids")));
    };
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let (first, last) = (special(config, "cls_token", "<s>"), special(config, "sep_token", "</s>"));
    let (first_id, last_id) = (id_of(&vocabulary, &first)?, id_of(&vocabulary, &last)?);
    let specials = [first.clone(), last.clone()].into_iter().chain([
        special(config, "pad_token", "<pad>"),
        special(config, "unk_token", "<unk>"),
        special(config, "mask_token", "<mask>"),
    ]);
    let mut specials: Vec<(u64, String)> =
        specials.filter_map(|token| Some((vocabulary.get(&token)?.as_u64()?, token))).collect();
    specials.sort();
    let added: Vec<Value> = specials.iter().map(|(id, token)| added(*id, token)).collect();
    let space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true },
        "post_processor": {
            "type": "RobertaProcessing", "sep": [last, last_id], "cls": [first, first_id], "trim_offsets": true,
            "add_prefix_space": space
        },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges
        }
    }))
}

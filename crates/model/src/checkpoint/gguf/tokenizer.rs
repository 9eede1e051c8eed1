//! The tokeniser that a GGUF file describes, as the `tokenizer.json` that Hugging Face's library reads: byte-level BPE
//! ("gpt2") with the words cut as the model's own tokeniser does, and SentencePiece BPE ("llama"), whose merges are
//! worked out from its vocabulary and scores as `transformers` does.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value as Json, json};

use super::metadata::{array, count, flag, text};
use super::pre_tokenizers::{self, PreTokenizer};
use super::problem::Problem;
use super::reader::{Gguf, Value};

/// More tokens than any vocabulary has.
const MAX_TOKENS: usize = 1 << 22;
/// SentencePiece's sign for a space.
const SPACE: &str = "\u{2581}";

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens with their types, in the order of their ids.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<Cow<'a, str>>,
    pub(super) types: Vec<TokenType>,
}

/// The tokeniser as JSON.
pub(super) fn json(gguf: &Gguf) -> Result<Vec<u8>, Problem> {
    if let Some(whole) = text(gguf, "tokenizer.huggingface.json")? {
        return Ok(whole.as_bytes().to_vec());
    }
    let tokenizer = match text(gguf, "tokenizer.ggml.model")? {
        Some("gpt2") => byte_level(gguf)?,
        Some("llama") => sentence_piece(gguf)?,
        Some(other) => {
            return Err(Problem::new(format!(
                "key \"tokenizer.ggml.model\" is {other:?}, and \"gpt2\" and \"llama\" are supported; take the model's \
                 Hugging Face folder"
            )));
        }
        None => {
            return Err(Problem::new(
                "holds no tokeniser (key \"tokenizer.ggml.model\"); take another file of the model",
            ));
        }
    };
    serde_json::to_vec(&tokenizer).map_err(|error| Problem::new(format!("its tokeniser cannot be written: {error}")))
}

/// The chat templates by name.
pub(super) fn chat_templates(gguf: &Gguf) -> Result<BTreeMap<String, String>, Problem> {
    let mut templates = BTreeMap::new();
    for key in gguf.keys() {
        let name = match key.strip_prefix("tokenizer.chat_template") {
            Some("") => Some("default"),
            Some(rest) => rest.strip_prefix('.'),
            None => None,
        };
        if let (Some(name), Some(template)) = (name, text(gguf, key).ok().flatten()) {
            templates.insert(name.to_string(), template.to_string());
        }
    }
    Ok(templates)
}

/// A `tokenizer.json`.
#[derive(serde::Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Json>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Bpe<'a>,
}

#[derive(serde::Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: Option<()>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ids<'a>,
    merges: Vec<(String, String)>,
}

/// Tokens that the model itself knows, with their ids.
struct Ids<'a>(Vec<(Cow<'a, str>, usize)>);

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, id) in &self.0 {
            map.serialize_entry(token, id)?;
        }
        map.end()
    }
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(gguf: &'a Gguf) -> Result<Vocabulary<'a>, Problem> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let list = array(gguf, TOKENS)?.ok_or_else(|| Problem::new(format!("key \"{TOKENS}\" is missing")))?;
        if list.len() > MAX_TOKENS {
            return Err(Problem::new(format!("key \"{TOKENS}\" has {} tokens, more than {MAX_TOKENS}", list.len())));
        }
        let mut tokens = Vec::with_capacity(list.len());
        for (id, value) in list.iter().enumerate() {
            let Value::Text(bytes) = value else {
                return Err(Problem::new(format!("key \"{TOKENS}\" is not a list of strings")));
            };
            let token = str::from_utf8(bytes).map_err(|_| Problem::new(format!("token {id} is not UTF-8")))?;
            // As llama.cpp names them, so that ids stay unique.
            let unnamed = || Cow::Owned(format!("[EMPTY_{id}]"));
            tokens.push(if token.is_empty() { unnamed() } else { Cow::Borrowed(token) });
        }
        let types = read_types(gguf, tokens.len())?;
        Ok(Vocabulary { tokens, types })
    }

    fn each(&self) -> impl Iterator<Item = (usize, &Cow<'a, str>, TokenType)> {
        self.tokens.iter().zip(&self.types).enumerate().map(|(id, (token, kind))| (id, token, *kind))
    }

    /// Ids by text. A text with two ids is an error.
    fn ids(&self) -> Result<HashMap<&str, usize>, Problem> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(earlier) = ids.insert(token.as_ref(), id) {
                return Err(Problem::new(format!("tokens {earlier} and {id} are the same")));
            }
        }
        Ok(ids)
    }

    /// What the model knows: all but the names that a converter gave to ids without a token.
    fn known(&self) -> Ids<'a> {
        let padding = |id: usize, token: &str, kind| kind == TokenType::Unused && token == format!("[PAD{id}]");
        let known = self.each().filter(|(id, token, kind)| !padding(*id, token, *kind));
        Ids(known.map(|(id, token, _)| (token.clone(), id)).collect())
    }

    /// Tokens that are looked for in the text before anything else.
    fn added(&self) -> Vec<Json> {
        let added = self.each().filter_map(|(id, token, kind)| match kind {
            TokenType::Control | TokenType::Unknown => Some((id, token, true)),
            TokenType::UserDefined => Some((id, token, false)),
            _ => None,
        });
        let json = added.map(|(id, token, special)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        });
        json.collect()
    }
}

fn read_types(gguf: &Gguf, tokens: usize) -> Result<Vec<TokenType>, Problem> {
    const TYPES: &str = "tokenizer.ggml.token_type";
    let Some(list) = array(gguf, TYPES)? else {
        return Ok(vec![TokenType::Normal; tokens]);
    };
    if list.len() != tokens {
        return Err(Problem::new(format!("key \"{TYPES}\" has {} entries for {tokens} tokens", list.len())));
    }
    let kind = |value| match value {
        Value::Signed(1) | Value::Unsigned(1) => TokenType::Normal,
        Value::Signed(2) | Value::Unsigned(2) => TokenType::Unknown,
        Value::Signed(3) | Value::Unsigned(3) => TokenType::Control,
        Value::Signed(4) | Value::Unsigned(4) => TokenType::UserDefined,
        Value::Signed(6) | Value::Unsigned(6) => TokenType::Byte,
        _ => TokenType::Unused,
    };
    Ok(list.iter().map(kind).collect())
}

/// What stands before and after every text: the token with its id, if the file wants it.
pub(super) struct Frame {
    pub(super) bos: Option<(usize, String)>,
    pub(super) eos: Option<(usize, String)>,
}

impl Frame {
    pub(super) fn read(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Frame, Problem> {
        let usual = match text(gguf, "tokenizer.ggml.model")? {
            Some("gpt2") => pre_tokenizer(gguf)?.adds_bos,
            kind => kind == Some("llama"),
        };
        let token = |name: &str, usual: bool| -> Result<Option<(usize, String)>, Problem> {
            let adds = flag(gguf, &format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(usual);
            let id = count(gguf, &format!("tokenizer.ggml.{name}_token_id"))?.filter(|_| adds);
            let id = id.and_then(|id| usize::try_from(id).ok());
            Ok(id.and_then(|id| Some((id, vocabulary.tokens.get(id)?.to_string()))))
        };
        Ok(Frame { bos: token("bos", usual)?, eos: token("eos", false)? })
    }

    /// As a post-processor of the library, after `first` if there is one.
    fn to_json(&self, first: Option<Json>) -> Json {
        if self.bos.is_none() && self.eos.is_none() {
            return first.unwrap_or(Json::Null);
        }
        let piece = |token: &Option<(usize, String)>, type_id: u32| {
            token.as_ref().map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": type_id}}))
        };
        let framed = |sequence: &str, type_id: u32| {
            let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
            [piece(&self.bos, type_id), Some(text), piece(&self.eos, type_id)].into_iter().flatten()
        };
        let tokens = [&self.bos, &self.eos].into_iter().flatten();
        let special: serde_json::Map<String, Json> =
            tokens.map(|(id, text)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}))).collect();
        let template = json!({
            "type": "TemplateProcessing",
            "single": framed("A", 0).collect::<Vec<_>>(),
            "pair": framed("A", 0).chain(framed("B", 1)).collect::<Vec<_>>(),
            "special_tokens": special,
        });
        match first {
            Some(first) => json!({"type": "Sequence", "processors": [first, template]}),
            None => template,
        }
    }
}

fn pre_tokenizer(gguf: &Gguf) -> Result<&'static PreTokenizer, Problem> {
    let name = text(gguf, "tokenizer.ggml.pre")?.unwrap_or_default();
    pre_tokenizers::find(name).ok_or_else(|| {
        Problem::new(format!(
            "key \"tokenizer.ggml.pre\" is {name:?}, which is not known ({} are); take the model's Hugging Face folder",
            pre_tokenizers::names().join(", ")
        ))
    })
}

fn byte_level(gguf: &Gguf) -> Result<TokenizerJson<'_>, Problem> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let vocabulary = Vocabulary::read(gguf)?;
    let pre_tokenizer = pre_tokenizer(gguf)?;
    let ids = vocabulary.ids()?;
    let list = array(gguf, MERGES)?.ok_or_else(|| Problem::new(format!("key \"{MERGES}\" is missing")))?;
    let mut merges = Vec::with_capacity(list.len().min(MAX_TOKENS));
    for (number, value) in list.iter().enumerate() {
        let refuse = |what: &str| Problem::new(format!("merge {number} of \"{MERGES}\" {what}"));
        let Value::Text(bytes) = value else {
            return Err(refuse("is not a string"));
        };
        let merge = str::from_utf8(bytes).map_err(|_| refuse("is not UTF-8"))?;
        // The first part may be a space itself.
        let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (left, right) =
            space.and_then(|at| merge.split_at_checked(at)).ok_or_else(|| refuse("is not two tokens"))?;
        let right = right.strip_prefix(' ').unwrap_or(right);
        // The library takes such a merge on trust.
        let joined = format!("{left}{right}");
        if ![left, right, &joined].iter().all(|token| ids.contains_key(token)) {
            return Err(refuse("joins what is not in the vocabulary"));
        }
        merges.push((left.to_string(), right.to_string()));
    }
    let frame = Frame::read(gguf, &vocabulary)?;
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    Ok(TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: vocabulary.added(),
        normalizer: if pre_tokenizer.composes { json!({"type": "NFC"}) } else { Json::Null },
        pre_tokenizer: pre_tokenizer.to_json(),
        post_processor: frame.to_json(Some(byte_level.clone())),
        decoder: byte_level,
        model: Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: pre_tokenizer.ignore_merges,
            vocab: vocabulary.known(),
            merges,
        },
    })
}

fn sentence_piece(gguf: &Gguf) -> Result<TokenizerJson<'_>, Problem> {
    let mut vocabulary = Vocabulary::read(gguf)?;
    // llama.cpp's converter writes runs of spaces that the model's author defined (Gemma) as spaces; to the library they
    // are pieces like others, and come first in every merge.
    let is_space = |token: &str, kind| kind == TokenType::UserDefined && token.chars().all(|c| c == ' ');
    let spaces: Vec<bool> = vocabulary.each().map(|(_, token, kind)| is_space(token, kind)).collect();
    for ((token, kind), _) in
        vocabulary.tokens.iter_mut().zip(&mut vocabulary.types).zip(&spaces).filter(|(_, is_space)| **is_space)
    {
        *token = Cow::Owned(token.replace(' ', SPACE));
        *kind = TokenType::Normal;
    }
    let merges = merges_by_score(&vocabulary, &spaces, &read_scores(gguf, vocabulary.tokens.len())?)?;
    let frame = Frame::read(gguf, &vocabulary)?;
    let prefix = flag(gguf, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = count(gguf, "tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| vocabulary.tokens.get(id));
    let to_sign = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let before = json!({"type": "Prepend", "prepend": SPACE});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: vocabulary.added(),
        normalizer: if prefix { json!({"type": "Sequence", "normalizers": [before, to_sign]}) } else { to_sign },
        pre_tokenizer: Json::Null,
        post_processor: frame.to_json(None),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Bpe {
            r#type: "BPE",
            dropout: None,
            unk_token: unknown.map(|token| token.to_string()),
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: true,
            byte_fallback: vocabulary.types.contains(&TokenType::Byte),
            ignore_merges: false,
            vocab: vocabulary.known(),
            merges,
        },
    })
}

fn read_scores(gguf: &Gguf, tokens: usize) -> Result<Vec<f32>, Problem> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let list = array(gguf, SCORES)?.ok_or_else(|| Problem::new(format!("key \"{SCORES}\" is missing")))?;
    if list.len() != tokens {
        return Err(Problem::new(format!("key \"{SCORES}\" has {} entries for {tokens} tokens", list.len())));
    }
    let scores = list.iter().map(|value| match value {
        Value::Float(score) if !score.is_nan() => Some(score),
        _ => None,
    });
    let scores: Option<Vec<f32>> = scores.collect();
    scores.ok_or_else(|| Problem::new(format!("key \"{SCORES}\" is not a list of numbers")))
}

/// SentencePiece joins the two neighbours whose union has the best score. As a list of merges: every way to cut a piece in
/// two pieces, by the score of the piece, the longer left part first (`generate_merges` in `transformers`).
fn merges_by_score(
    vocabulary: &Vocabulary<'_>,
    spaces: &[bool],
    scores: &[f32],
) -> Result<Vec<(String, String)>, Problem> {
    let ids = vocabulary.ids()?;
    let joins =
        |token: &str| ids.get(token).copied().filter(|id| vocabulary.types.get(*id) == Some(&TokenType::Normal));
    let mut merges: Vec<(Rank, &str, &str)> = Vec::new();
    for ((id, token, kind), (is_space, score)) in vocabulary.each().zip(spaces.iter().zip(scores)) {
        if kind != TokenType::Normal {
            continue;
        }
        for (length, (at, _)) in token.char_indices().enumerate().skip(1) {
            let Some((left, right)) = token.split_at_checked(at) else {
                continue;
            };
            if joins(left).is_some() && joins(right).is_some() {
                merges.push((Rank { is_space: *is_space, score: *score, length, id }, left, right));
            }
        }
    }
    merges.sort_by(|(one, ..), (other, ..)| one.before(other));
    Ok(merges.into_iter().map(|(_, left, right)| (left.to_string(), right.to_string())).collect())
}

/// What decides which merge comes first.
struct Rank {
    is_space: bool,
    score: f32,
    /// Of the left part.
    length: usize,
    id: usize,
}

impl Rank {
    fn before(&self, other: &Rank) -> std::cmp::Ordering {
        // The scores that the converter gives to runs of spaces say nothing; their ids are in the order of the model's.
        let spaces = other.is_space.cmp(&self.is_space);
        let scores =
            if self.is_space && other.is_space { self.id.cmp(&other.id) } else { other.score.total_cmp(&self.score) };
        spaces.then(scores).then(other.length.cmp(&self.length)).then(self.id.cmp(&other.id))
    }
}

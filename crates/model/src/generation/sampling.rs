//! How tokens are chosen: one configuration for a request, with the names that `transformers`, vLLM and OpenAI's
//! interface share. Knows nothing of models: what it says is carried out by [`Sampler`](super::Sampler) and
//! [`BeamSearch`](super::BeamSearch).

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::SamplingError;

/// Most stop strings of a request, and most bytes of each.
const STOPS: usize = 64;
const STOP_BYTES: usize = 1024;
/// Most entries of a list of tokens.
const TOKENS: usize = 4096;
/// Most samples, beams, and most alternatives whose log-probabilities are told.
const SAMPLES: usize = 128;
const BEAMS: usize = 64;
const ALTERNATIVES: usize = 100;

/// How the tokens of one request are chosen, and where it ends. The default is sampling from the model's own
/// distribution.
///
/// What each key does to the logits follows `transformers`, in its order: `logit_bias`, `repetition_penalty`, then
/// `frequency_penalty` and `presence_penalty` (as OpenAI and vLLM define them), `no_repeat_ngram_size`, `bad_words_ids`,
/// `min_tokens`, `forced_bos_token_id`, `forced_eos_token_id`, `suppress_tokens`, then `temperature`, `top_k`, `top_p`,
/// `min_p`, `typical_p`.
///
/// ```
/// use tidemill_model::generation::SamplingConfig;
/// let config: SamplingConfig = serde_json::from_str(r#"{"temperature": 0.7, "top_p": 0.9, "stop": "\n"}"#)?;
/// assert!(config.check().is_ok());
/// let config = SamplingConfig { top_p: 1.5, ..SamplingConfig::default() };
/// assert!(config.check().unwrap_err().to_string().contains("\"top_p\""));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// What logits are divided by; 0 always takes the likeliest token. Default 1.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens are considered, and those that equal the last of them; 0 (the default) is all.
    pub top_k: usize,
    /// Only the likeliest tokens are considered that together first reach this probability. Default 1: all.
    pub top_p: f32,
    /// Only tokens are considered that have at least this share of the likeliest one's probability. Default 0: all.
    pub min_p: f32,
    /// Only the tokens are considered whose information is nearest to the expected (Meister et al. 2022), until they
    /// reach this probability. Default 1: all.
    pub typical_p: f32,
    /// Logits of tokens that prompt or output hold are divided by this if positive, else multiplied. Default 1.
    pub repetition_penalty: f32,
    /// Taken from the logit of every token that the output holds, once. Default 0.
    pub presence_penalty: f32,
    /// Taken from the logit of every token that the output holds, as often as it does. Default 0.
    pub frequency_penalty: f32,
    /// No sequence of this many tokens occurs twice in prompt and output; 0 (the default) allows it.
    pub no_repeat_ngram_size: usize,
    /// Added to the logits of these tokens, from -100 to 100.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Sequences of tokens that the output never completes, also where the prompt holds their beginning. One of a single
    /// token that ends the output bans nothing.
    pub bad_words_ids: Vec<Vec<u32>>,
    /// Tokens that are never chosen.
    pub suppress_tokens: Vec<u32>,
    /// The token that comes second in an encoder-decoder's output, after its start token: the language, for many.
    pub forced_bos_token_id: Option<u32>,
    /// The token that comes last when `max_tokens` is reached.
    pub forced_eos_token_id: Option<u32>,
    /// Before the output has this many tokens none that ends it is chosen. Default 0.
    pub min_tokens: usize,
    /// Most tokens of the output. By default the model's context is the only limit.
    pub max_tokens: Option<usize>,
    /// Texts that end the output and are no part of it: one string, or a list.
    #[serde(deserialize_with = "one_or_many")]
    pub stop: Vec<String>,
    /// Tokens that end the output, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's own end-of-sequence tokens end nothing. Default no.
    pub ignore_eos: bool,
    /// The seed of all that is drawn; another one each time where it is not given. The same seed and prompt give the
    /// same output whatever else the model is doing.
    pub seed: Option<u64>,
    /// How many outputs are wanted. Default 1.
    pub n: usize,
    /// How many beams are searched; 1 (the default) is no beam search.
    pub beams: usize,
    /// A beam's score is its log-probability over its length to this power. Default 1.
    pub length_penalty: f32,
    /// Whether a beam search takes probabilities anew of the tokens that are left after penalties and bans, as Marian's
    /// checkpoints ask for; a draw always does. Default no.
    pub renormalize_logits: bool,
    /// When a beam search ends that has found enough. Default `false`.
    pub early_stopping: EarlyStopping,
    /// Whether log-probabilities are wanted, and of how many of the likeliest tokens beside the chosen one.
    pub logprobs: Option<usize>,
    /// Whether the prompt is given back before the output. Default no.
    pub echo: bool,
}

/// When a beam search that has found as many outputs as it has beams ends: `true`, `false` or `"never"` in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// At once.
    Yes,
    /// When the best unfinished beam would score worse even if it ended now.
    #[default]
    No,
    /// When no unfinished beam can become better at any length up to the most that is allowed.
    Never,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        SamplingConfig {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: 0,
            logit_bias: BTreeMap::new(),
            bad_words_ids: Vec::new(),
            suppress_tokens: Vec::new(),
            forced_bos_token_id: None,
            forced_eos_token_id: None,
            min_tokens: 0,
            max_tokens: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            seed: None,
            n: 1,
            beams: 1,
            length_penalty: 1.0,
            renormalize_logits: false,
            early_stopping: EarlyStopping::No,
            logprobs: None,
            echo: false,
        }
    }
}

impl SamplingConfig {
    /// Always the likeliest token.
    pub fn greedy() -> SamplingConfig {
        SamplingConfig { temperature: 0.0, ..SamplingConfig::default() }
    }

    /// What a checkpoint's `generation_config.json` asks for, where `transformers` would follow it; keys that say
    /// nothing of sampling are passed over. `decoder_prompt` is the length of an encoder-decoder's decoder prompt (1 for
    /// a start token alone), from which its `min_length` and `max_length` count; a decoder's count a prompt that is not
    /// known yet, so there they are passed over.
    ///
    /// # Errors
    /// [`SamplingError::Config`] when a key is there and cannot be.
    pub fn from_generation_config(
        json: &Map<String, Value>,
        decoder_prompt: Option<usize>,
    ) -> Result<SamplingConfig, SamplingError> {
        let mut config = SamplingConfig::default();
        number(json, "temperature", &mut config.temperature)?;
        count(json, "top_k", &mut config.top_k)?;
        number(json, "top_p", &mut config.top_p)?;
        number(json, "min_p", &mut config.min_p)?;
        number(json, "typical_p", &mut config.typical_p)?;
        number(json, "repetition_penalty", &mut config.repetition_penalty)?;
        count(json, "no_repeat_ngram_size", &mut config.no_repeat_ngram_size)?;
        count(json, "num_beams", &mut config.beams)?;
        count(json, "num_return_sequences", &mut config.n)?;
        number(json, "length_penalty", &mut config.length_penalty)?;
        count(json, "min_new_tokens", &mut config.min_tokens)?;
        if let Some(value) = present(json, "early_stopping") {
            let wrong = |_| SamplingError::config("early_stopping", "must be true, false or \"never\"");
            config.early_stopping = EarlyStopping::deserialize(value).map_err(wrong)?;
        }
        config.renormalize_logits = present(json, "renormalize_logits").and_then(Value::as_bool).unwrap_or(false);
        if !present(json, "do_sample").and_then(Value::as_bool).unwrap_or(false) {
            config.temperature = 0.0;
        }
        if config.beams > 1 {
            // Beams are searched, not drawn, here: what would shape a draw has no effect.
            config.temperature = 0.0;
            (config.top_k, config.top_p, config.min_p, config.typical_p) = (0, 1.0, 0.0, 1.0);
        }
        let limit = |key| -> Result<Option<usize>, SamplingError> {
            let mut limit = 0;
            Ok(count(json, key, &mut limit)?.then_some(limit))
        };
        config.max_tokens = limit("max_new_tokens")?;
        if let Some(prompt) = decoder_prompt {
            if let Some(length) = limit("min_length")? {
                config.min_tokens = config.min_tokens.max(length.saturating_sub(prompt));
            }
            if config.max_tokens.is_none() {
                config.max_tokens = limit("max_length")?.map(|length| length.saturating_sub(prompt));
            }
        }
        let token = |key| present(json, key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        config.forced_bos_token_id = token("forced_bos_token_id");
        config.forced_eos_token_id = token("forced_eos_token_id");
        if let Some(words) = present(json, "bad_words_ids") {
            let wrong = |_| SamplingError::config("bad_words_ids", "must be a list of lists of tokens");
            config.bad_words_ids = Vec::deserialize(words).map_err(wrong)?;
        }
        config.suppress_tokens = suppressed(json);
        config.check()?;
        Ok(config)
    }

    /// The same without beams where it draws, or tells log-probabilities: what a request asks for outweighs the beams that
    /// only a default asks for.
    pub fn yielding_beams(self) -> SamplingConfig {
        match self.draws() || self.logprobs.is_some() {
            true => SamplingConfig { beams: 1, ..self },
            false => self,
        }
    }

    /// Whether something shapes a draw.
    fn draws(&self) -> bool {
        (self.temperature != 0.0 && self.temperature != 1.0)
            || (self.top_k, self.top_p, self.min_p, self.typical_p) != (0, 1.0, 0.0, 1.0)
    }

    /// Whether every token is the likeliest one: no beams, temperature 0.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.beams == 1
    }

    /// Checks every range, and what two keys must not say together.
    ///
    /// # Errors
    /// [`SamplingError::Config`] that names the key.
    pub fn check(&self) -> Result<(), SamplingError> {
        let temperature = self.temperature;
        check("temperature", temperature == 0.0 || (1e-4..=100.0).contains(&temperature), || {
            format!("is {temperature}: use 0 for the likeliest token, or 0.0001 to 100")
        })?;
        let share = |key, value: f32| {
            check(key, value > 0.0 && value <= 1.0, || format!("is {value}: use more than 0 and at most 1"))
        };
        share("top_p", self.top_p)?;
        share("typical_p", self.typical_p)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("length_penalty", self.length_penalty, -10.0, 10.0)?;
        at_most("no_repeat_ngram_size", self.no_repeat_ngram_size, 1024)?;
        at_most("logit_bias", self.logit_bias.len(), TOKENS)?;
        self.logit_bias.values().try_for_each(|&bias| within("logit_bias", bias, -100.0, 100.0))?;
        at_most("bad_words_ids", self.bad_words_ids.iter().map(Vec::len).sum(), TOKENS)?;
        let is_word = |word: &Vec<u32>| !word.is_empty();
        check("bad_words_ids", self.bad_words_ids.iter().all(is_word), || "has a word of no tokens".to_string())?;
        at_most("suppress_tokens", self.suppress_tokens.len(), TOKENS)?;
        at_most("stop_token_ids", self.stop_token_ids.len(), TOKENS)?;
        at_most("stop", self.stop.len(), STOPS)?;
        let fits = |stop: &String| (1..=STOP_BYTES).contains(&stop.len());
        check("stop", self.stop.iter().all(fits), || format!("has a string that is empty or over {STOP_BYTES} bytes"))?;
        let least = self.min_tokens;
        check("min_tokens", self.max_tokens.is_none_or(|most| least <= most), || {
            format!("is {least}, more than \"max_tokens\"")
        })?;
        let (n, beams) = (self.n, self.beams);
        check("n", (1..=SAMPLES).contains(&n), || format!("is {n}: use 1 to {SAMPLES}"))?;
        check("beams", (1..=BEAMS).contains(&beams), || format!("is {beams}: use 1 to {BEAMS}"))?;
        check("logprobs", self.logprobs.is_none_or(|count| count <= ALTERNATIVES), || {
            format!("asks for more than {ALTERNATIVES} alternatives")
        })?;
        if beams > 1 { self.check_beams() } else { Ok(()) }
    }

    /// Checks that the tokens which it names are among the `vocabulary` of a model.
    ///
    /// # Errors
    /// [`SamplingError::Config`] that names the key.
    pub fn check_tokens(&self, vocabulary: usize) -> Result<(), SamplingError> {
        let inside = |key: &'static str, token: u32| {
            check(key, (token as usize) < vocabulary, || format!("names token {token}, and there are {vocabulary}"))
        };
        self.logit_bias.keys().try_for_each(|&token| inside("logit_bias", token))?;
        self.bad_words_ids.iter().flatten().try_for_each(|&token| inside("bad_words_ids", token))?;
        self.suppress_tokens.iter().try_for_each(|&token| inside("suppress_tokens", token))?;
        self.forced_bos_token_id.map_or(Ok(()), |token| inside("forced_bos_token_id", token))?;
        self.forced_eos_token_id.map_or(Ok(()), |token| inside("forced_eos_token_id", token))
    }

    fn check_beams(&self) -> Result<(), SamplingError> {
        check("beams", !self.draws(), || {
            "asks for a beam search, which draws nothing: leave out temperature, top_k, top_p, min_p and typical_p"
                .to_string()
        })?;
        check("n", self.n <= self.beams, || {
            format!("is {}, and {} beams give at most as many outputs", self.n, self.beams)
        })?;
        check("logprobs", self.logprobs.is_none(), || "is not given for a beam search".to_string())
    }
}

fn check(key: &'static str, holds: bool, problem: impl FnOnce() -> String) -> Result<(), SamplingError> {
    if holds { Ok(()) } else { Err(SamplingError::Config { key, problem: problem() }) }
}

fn within(key: &'static str, value: f32, least: f32, most: f32) -> Result<(), SamplingError> {
    check(key, (least..=most).contains(&value), || format!("is {value}: use {least} to {most}"))
}

fn at_most(key: &'static str, value: usize, most: usize) -> Result<(), SamplingError> {
    check(key, value <= most, || format!("is or has {value}, and {most} is the most"))
}

fn present<'a>(json: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

fn number(json: &Map<String, Value>, key: &'static str, place: &mut f32) -> Result<(), SamplingError> {
    if let Some(value) = present(json, key) {
        *place = value.as_f64().ok_or_else(|| SamplingError::config(key, "must be a number"))? as f32;
    }
    Ok(())
}

fn count(json: &Map<String, Value>, key: &'static str, place: &mut usize) -> Result<bool, SamplingError> {
    let Some(value) = present(json, key) else { return Ok(false) };
    let value = value.as_u64().and_then(|value| usize::try_from(value).ok());
    *place = value.ok_or_else(|| SamplingError::config(key, "must be a whole number, 0 or more"))?;
    Ok(true)
}

fn suppressed(json: &Map<String, Value>) -> Vec<u32> {
    let tokens = present(json, "suppress_tokens").and_then(Value::as_array).into_iter().flatten();
    tokens.filter_map(|token| token.as_u64().and_then(|token| u32::try_from(token).ok())).collect()
}

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            EarlyStopping::Yes => serializer.serialize_bool(true),
            EarlyStopping::No => serializer.serialize_bool(false),
            EarlyStopping::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EarlyStopping, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Flag(bool),
            Word(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Flag(true) => Ok(EarlyStopping::Yes),
            Form::Flag(false) => Ok(EarlyStopping::No),
            Form::Word(word) if word == "never" => Ok(EarlyStopping::Never),
            Form::Word(_) => Err(D::Error::custom("\"early_stopping\" must be true, false or \"never\"")),
        }
    }
}

/// A string, a list of strings, or null, as OpenAI's interface has it.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<Form>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Form::One(stop)) => vec![stop],
        Some(Form::Many(stops)) => stops,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(json: Value) -> String {
        let config: SamplingConfig = serde_json::from_value(json).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn every_range_is_checked_by_name() {
        assert!(SamplingConfig::default().check().is_ok());
        assert!(SamplingConfig::greedy().check().is_ok());
        for (key, value) in [
            ("temperature", json!(-1)),
            ("temperature", json!(1e-9)),
            ("top_p", json!(0)),
            ("min_p", json!(1.1)),
            ("typical_p", json!(-0.1)),
            ("repetition_penalty", json!(0)),
            ("presence_penalty", json!(3)),
            ("frequency_penalty", json!(-3)),
            ("length_penalty", json!(1e9)),
            ("logit_bias", json!({"3": 1000})),
            ("no_repeat_ngram_size", json!(100_000)),
            ("bad_words_ids", json!([[3, 4], []])),
            ("stop", json!([""])),
            ("n", json!(0)),
            ("beams", json!(1000)),
            ("logprobs", json!(1000)),
        ] {
            let problem = refusal(json!({ key: value }));
            assert!(problem.starts_with(&format!("\"{key}\" ")), "{problem}");
        }
        assert!(refusal(json!({"min_tokens": 5, "max_tokens": 4})).contains("min_tokens"));
        assert!(refusal(json!({"beams": 4, "n": 5})).contains("\"n\""));
        assert!(refusal(json!({"beams": 4, "top_k": 5})).contains("draws nothing"));
    }

    #[test]
    fn unknown_keys_are_refused_and_a_config_reads_back() {
        let unknown = serde_json::from_value::<SamplingConfig>(json!({"top_q": 1})).unwrap_err().to_string();
        assert!(unknown.contains("top_q"), "{unknown}");
        let json = json!({"stop": "\n", "early_stopping": "never", "logit_bias": {"7": -1.5}, "seed": 3, "beams": 2});
        let config: SamplingConfig = serde_json::from_value(json).unwrap();
        assert_eq!((config.stop.as_slice(), config.logit_bias[&7]), (["\n".to_string()].as_slice(), -1.5));
        let again: SamplingConfig = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        assert!(serde_json::from_value::<SamplingConfig>(json!({"early_stopping": "soon"})).is_err());
    }

    #[test]
    fn a_checkpoints_generation_config_is_followed() {
        let json = json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]});
        let config = SamplingConfig::from_generation_config(json.as_object().unwrap(), None).unwrap();
        assert_eq!((config.temperature, config.top_k, config.top_p, config.max_tokens), (0.6, 20, 0.95, None));
        let bart = json!({"num_beams": 4, "min_length": 56, "max_length": 142, "length_penalty": 2.0,
            "early_stopping": true, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
            "bad_words_ids": [[1], [4, 5]]});
        let config = SamplingConfig::from_generation_config(bart.as_object().unwrap(), Some(1)).unwrap();
        assert_eq!((config.beams, config.min_tokens, config.max_tokens), (4, 55, Some(141)));
        assert_eq!((config.early_stopping, config.temperature), (EarlyStopping::Yes, 0.0));
        assert_eq!(config.bad_words_ids, [vec![1], vec![4, 5]]);
        let wrong = json!({"bad_words_ids": [7]});
        assert!(SamplingConfig::from_generation_config(wrong.as_object().unwrap(), None).is_err());
        let wrong = json!({"top_k": -1});
        assert!(SamplingConfig::from_generation_config(wrong.as_object().unwrap(), None).is_err());
    }
}

//! The fields that chats and completions share: how tokens are chosen, what the answer must look like, and whether it is
//! streamed. OpenAI's names, and after them those that vLLM added and its users send.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::generation::{ConstraintSpec, SamplingConfig};
use crate::refusal::Refusal;

/// Most alternatives whose log-probabilities are told for a token.
pub(super) const MAX_ALTERNATIVES: usize = 20;

#[derive(Debug, Deserialize)]
pub(super) struct SamplingFields {
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    n: Option<usize>,
    stop: Option<Value>,
    seed: Option<i64>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    response_format: Option<ResponseFormat>,

    top_k: Option<i64>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    length_penalty: Option<f32>,
    no_repeat_ngram_size: Option<usize>,
    min_tokens: Option<usize>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
    structured_outputs: Option<StructuredOutputs>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<JsonSchema>,
}

#[derive(Debug, Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

// vLLM's later name for the guided_ fields.
#[derive(Debug, Deserialize)]
struct StructuredOutputs {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
}

impl SamplingFields {
    /// How tokens are chosen: what the request says, and `defaults` where it does not.
    pub(super) fn over(&self, defaults: SamplingConfig) -> Result<SamplingConfig, Refusal> {
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        let sampling = SamplingConfig {
            max_tokens: max_tokens.or(defaults.max_tokens),
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            n: self.n.unwrap_or(1),
            stop: self.stop.as_ref().map_or(Ok(Vec::new()), stops)?,
            // Any number is a seed.
            seed: self.seed.map(i64::cast_unsigned),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self.logit_bias.as_ref().map_or(Ok(BTreeMap::new()), biases)?,
            // -1 is all, as vLLM has it.
            top_k: self.top_k.map_or(defaults.top_k, |top_k| usize::try_from(top_k).unwrap_or(0)),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical_p.unwrap_or(defaults.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            length_penalty: self.length_penalty.unwrap_or(defaults.length_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.unwrap_or(defaults.no_repeat_ngram_size),
            min_tokens: self.min_tokens.unwrap_or(defaults.min_tokens),
            stop_token_ids: self.stop_token_ids.clone().unwrap_or_default(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            ..defaults
        };
        Ok(sampling.yielding_beams())
    }

    /// What the answer must look like. Two fields that say it are too many.
    pub(super) fn format(&self) -> Result<Option<ConstraintSpec>, Refusal> {
        let mut formats = Vec::new();
        formats.extend(self.response_format.as_ref().map(ResponseFormat::format).transpose()?.flatten());
        formats.extend(self.guided_json.as_ref().map(|schema| schema_of(schema, "guided_json")).transpose()?);
        formats.extend(self.guided_regex.clone().map(ConstraintSpec::Regex));
        formats.extend(self.guided_choice.as_deref().map(|texts| choice(texts, "guided_choice")).transpose()?);
        formats.extend(self.guided_grammar.clone().map(ConstraintSpec::Grammar));
        if let Some(structured) = &self.structured_outputs {
            formats.extend(structured.formats()?);
        }
        if formats.len() > 1 {
            let problem = "is not the only field that says what the answer must look like; keep one of them";
            return Err(Refusal::invalid("response_format", problem));
        }
        Ok(formats.pop())
    }

    /// A refusal in this interface's words: the services call "format" what came in one of several fields, or in
    /// `otherwise`.
    pub(super) fn in_its_words(&self, refusal: Refusal, otherwise: &str) -> Refusal {
        match refusal {
            Refusal::Invalid { field, problem } if field == "format" => {
                Refusal::invalid(self.format_field().unwrap_or(otherwise), problem)
            }
            other => other,
        }
    }

    fn format_field(&self) -> Option<&'static str> {
        let fields = [
            ("response_format", self.response_format.as_ref().is_some_and(|format| format.kind != "text")),
            ("guided_json", self.guided_json.is_some()),
            ("guided_regex", self.guided_regex.is_some()),
            ("guided_choice", self.guided_choice.is_some()),
            ("guided_grammar", self.guided_grammar.is_some()),
            ("structured_outputs", self.structured_outputs.is_some()),
        ];
        fields.into_iter().find(|(_, is_there)| *is_there).map(|(name, _)| name)
    }
}

impl ResponseFormat {
    fn format(&self) -> Result<Option<ConstraintSpec>, Refusal> {
        match self.kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(ConstraintSpec::JsonObject)),
            "json_schema" => {
                let schema = self.json_schema.as_ref().and_then(|schema| schema.schema.as_ref());
                let missing = || Refusal::invalid("response_format.json_schema.schema", "is missing");
                schema_of(schema.ok_or_else(missing)?, "response_format.json_schema.schema").map(Some)
            }
            _ => {
                let problem = "must be \"text\", \"json_object\" or \"json_schema\"";
                Err(Refusal::invalid("response_format.type", problem))
            }
        }
    }
}

impl StructuredOutputs {
    fn formats(&self) -> Result<Vec<ConstraintSpec>, Refusal> {
        let mut formats = Vec::new();
        formats.extend(self.json.as_ref().map(|schema| schema_of(schema, "structured_outputs.json")).transpose()?);
        formats.extend(self.json_object.filter(|wanted| *wanted).map(|_| ConstraintSpec::JsonObject));
        formats.extend(self.regex.clone().map(ConstraintSpec::Regex));
        formats.extend(self.choice.as_deref().map(|texts| choice(texts, "structured_outputs.choice")).transpose()?);
        formats.extend(self.grammar.clone().map(ConstraintSpec::Grammar));
        Ok(formats)
    }
}

// A schema may come as an object, or as the text of one.
fn schema_of(schema: &Value, field: &str) -> Result<ConstraintSpec, Refusal> {
    let wrong = || Refusal::invalid(field, "must be a JSON schema, an object");
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(ConstraintSpec::JsonSchema(schema.clone())),
        Value::String(text) => Ok(ConstraintSpec::JsonSchema(serde_json::from_str(text).map_err(|_| wrong())?)),
        _ => Err(wrong()),
    }
}

// One of several texts, as a regular expression.
fn choice(texts: &[String], field: &str) -> Result<ConstraintSpec, Refusal> {
    if texts.is_empty() {
        return Err(Refusal::invalid(field, "is empty"));
    }
    let escaped = |text: &String| -> String {
        let escape = |c: char| r"\.+*?()|[]{}^$#&-~".contains(c).then_some('\\');
        text.chars().flat_map(|c| escape(c).into_iter().chain([c])).collect()
    };
    let texts: Vec<String> = texts.iter().map(escaped).collect();
    Ok(ConstraintSpec::Regex(format!("({})", texts.join("|"))))
}

fn stops(value: &Value) -> Result<Vec<String>, Refusal> {
    let wrong = || Refusal::invalid("stop", "must be a string or a list of strings");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(stop) => Ok(vec![stop.clone()]),
        Value::Array(stops) => {
            stops.iter().map(|stop| stop.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn biases(biases: &BTreeMap<String, f32>) -> Result<BTreeMap<u32, f32>, Refusal> {
    let wrong = |_| Refusal::invalid("logit_bias", "must name tokens by their numbers");
    biases.iter().map(|(token, bias)| Ok((token.parse().map_err(wrong)?, *bias))).collect()
}

/// Whether an answer is streamed.
#[derive(Debug, Deserialize)]
pub(super) struct StreamFields {
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl StreamFields {
    /// Whether it is; and if so, whether its last chunk says what it took.
    pub(super) fn wanted(&self) -> Result<Option<bool>, Refusal> {
        let options = self.stream_options.as_ref();
        if self.stream != Some(true) {
            return match options {
                Some(_) => Err(Refusal::invalid("stream_options", "is for answers that are streamed: set stream")),
                None => Ok(None),
            };
        }
        Ok(Some(options.and_then(|options| options.include_usage).unwrap_or(false)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::body;

    fn fields(body: Value) -> SamplingFields {
        body::fields(&body).unwrap()
    }

    #[test]
    fn what_is_said_goes_before_the_defaults() {
        let defaults = SamplingConfig { temperature: 0.6, top_k: 20, ..SamplingConfig::default() };
        let sampling = fields(json!({
            "top_k": -1, "stop": "\n", "seed": -3, "logit_bias": {"7": -100}, "max_tokens": 5, "max_completion_tokens": 9,
            "n": null, "unknown": 1,
        }));
        let sampling = sampling.over(defaults.clone()).unwrap();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.n), (0.6, 0, 1));
        assert_eq!((sampling.stop, sampling.max_tokens), (vec!["\n".to_owned()], Some(9)));
        assert_eq!(sampling.logit_bias, BTreeMap::from([(7, -100.0)]));
        assert_eq!(sampling.seed, Some(3u64.wrapping_neg()));
        for wrong in [json!({"stop": 3}), json!({"stop": ["a", 3]}), json!({"logit_bias": {"tide": 1}})] {
            assert!(fields(wrong).over(defaults.clone()).is_err());
        }
    }

    #[test]
    fn formats_are_read_from_every_field_and_two_are_too_many() {
        let format = |body: Value| fields(body).format();
        let schema = json!({"type": "object"});
        let given = Some(ConstraintSpec::JsonSchema(schema.clone()));
        assert_eq!(format(json!({})).unwrap(), None);
        assert_eq!(format(json!({"response_format": {"type": "text"}})).unwrap(), None);
        assert_eq!(
            format(json!({"response_format": {"type": "json_object"}})).unwrap(),
            Some(ConstraintSpec::JsonObject)
        );
        let openai =
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
        assert_eq!(format(openai.clone()).unwrap(), given);
        assert_eq!(format(json!({"guided_json": schema.to_string()})).unwrap(), given);
        assert_eq!(format(json!({"structured_outputs": {"json": schema}})).unwrap(), given);
        let choice = format(json!({"guided_choice": ["yes", "no."]})).unwrap();
        assert_eq!(choice, Some(ConstraintSpec::Regex("(yes|no\\.)".into())));
        for wrong in [
            json!({"response_format": {"type": "xml"}}),
            json!({"response_format": {"type": "json_schema"}}),
            json!({"guided_json": [1]}),
            json!({"guided_choice": []}),
            json!({"guided_regex": "a", "guided_grammar": "start: \"a\""}),
        ] {
            assert!(format(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stream_options_are_for_streams() {
        let wanted = |body: Value| body::fields::<StreamFields>(&body).unwrap().wanted();
        assert_eq!(wanted(json!({})), Ok(None));
        assert_eq!(wanted(json!({"stream": true})), Ok(Some(false)));
        assert_eq!(wanted(json!({"stream": true, "stream_options": {"include_usage": true}})), Ok(Some(true)));
        assert!(wanted(json!({"stream_options": {"include_usage": true}})).is_err());
    }
}

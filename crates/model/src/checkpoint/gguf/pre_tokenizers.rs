//! How text is cut into words before byte-level BPE, by the name under `tokenizer.ggml.pre`. The expressions are those of
//! the models' own `tokenizer.json`; where that cuts in several steps, each step cuts the pieces of the one before.

use serde_json::{Value as Json, json};

/// What goes with a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreTokenizer {
    steps: &'static [Step],
    /// A word that is a token as it stands is taken whole.
    pub(super) ignore_merges: bool,
    /// Whether the model's first token is put before a text when the file does not say.
    pub(super) adds_bos: bool,
    /// Whether text is composed (NFC) first.
    pub(super) composes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Every match is a piece, and so is what lies between.
    Split(&'static str),
    /// Every digit is a piece.
    Digits,
    /// GPT-2's own expression, which the byte-level step of the library has built in.
    Gpt2,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);

const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);

const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);

const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"##,
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const fn cut(steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer { steps, ignore_merges: false, adds_bos: false, composes: false }
}

/// Names that mean the same, and what they mean.
static KNOWN: &[(&[&str], PreTokenizer)] = &[
    (
        &["", "default"],
        cut(&[
            Step::Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Split(GPT2),
            Step::Split(r"\p{N}+"),
            Step::Split("[0-9][0-9][0-9]"),
        ]),
    ),
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "exaone4",
            "mellum",
            "a.x-4.0",
            "modern-bert",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
        ],
        cut(&[Step::Gpt2]),
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cut(&[Step::Digits, Step::Gpt2]),
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        PreTokenizer { ignore_merges: true, adds_bos: true, ..cut(&[Step::Split(LLAMA3)]) },
    ),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], cut(&[Step::Split(LLAMA3)])),
    (&["qwen2"], PreTokenizer { composes: true, ..cut(&[Step::Split(QWEN2)]) }),
    (
        &["deepseek-r1-qwen", "stablelm2", "megrez", "kormo", "f2llmv2", "hunyuan", "solar-open"],
        cut(&[Step::Split(QWEN2)]),
    ),
    (&["qwen35"], PreTokenizer { composes: true, ..cut(&[Step::Split(QWEN35)]) }),
    (&["tekken"], PreTokenizer { ignore_merges: true, adds_bos: true, ..cut(&[Step::Split(TEKKEN)]) }),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], cut(&[Step::Split(GPT4O)])),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        cut(&[
            Step::Split(r"\p{N}{1,3}"),
            Step::Split(r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+"),
            Step::Split(DEEPSEEK3),
        ]),
    ),
    (&["falcon"], cut(&[Step::Split(r"[\p{P}\$\+<=>\^~\|`]+"), Step::Split(GPT2), Step::Split("[0-9][0-9][0-9]")])),
];

/// What a name means, or nothing when it is not known.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    KNOWN.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre_tokenizer)| pre_tokenizer)
}

/// All names, for an error.
pub(super) fn names() -> Vec<&'static str> {
    KNOWN.iter().flat_map(|(names, _)| names.iter().copied()).filter(|name| !name.is_empty()).collect()
}

/// The name of what a `tokenizer.json` does before its merges, or nothing when none does just that.
pub(super) fn name_of(pre_tokenizer: &Json, normalizer: &Json, ignore_merges: bool) -> Option<&'static str> {
    let steps = steps_of(pre_tokenizer)?;
    let composes = match normalizer {
        Json::Null => false,
        normalizer if normalizer["type"] == "NFC" => true,
        _ => return None,
    };
    let known = KNOWN
        .iter()
        .find(|(_, known)| known.steps == steps && known.ignore_merges == ignore_merges && known.composes == composes);
    known.and_then(|(names, _)| names.iter().copied().find(|name| !name.is_empty()))
}

fn steps_of(json: &Json) -> Option<Vec<Step>> {
    match json["type"].as_str()? {
        "Sequence" => {
            let steps: Option<Vec<Vec<Step>>> = json["pretokenizers"].as_array()?.iter().map(steps_of).collect();
            Some(steps?.concat())
        }
        "Split" if json["behavior"] == "Isolated" && json["invert"] == false => {
            let expression = json["pattern"]["Regex"].as_str()?;
            let steps = KNOWN.iter().flat_map(|(_, known)| known.steps);
            steps
                .copied()
                .find(|step| matches!(step, Step::Split(known) if *known == expression))
                .map(|step| vec![step])
        }
        "Digits" if json["individual_digits"] == true => Some(vec![Step::Digits]),
        "ByteLevel" if json["add_prefix_space"] == false => {
            Some(if json["use_regex"] == false { Vec::new() } else { vec![Step::Gpt2] })
        }
        _ => None,
    }
}

impl PreTokenizer {
    /// As it stands in `tokenizer.json`.
    pub(super) fn to_json(self) -> Json {
        let mut own_expression = false;
        let mut steps: Vec<Json> = Vec::new();
        for step in self.steps {
            match step {
                Step::Split(expression) => steps.push(json!({
                    "type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false,
                })),
                Step::Digits => steps.push(json!({"type": "Digits", "individual_digits": true})),
                Step::Gpt2 => own_expression = true,
            }
        }
        steps.push(json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own_expression,
        }));
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

//! Output that must fit a JSON schema, a regular expression or a grammar: which tokens may come next, by `llguidance`.
//! A request's grammar is a stranger's program, so everything about it is bounded: its length and nesting, the work to
//! compile it and the work of each step.

mod token_bytes;

use std::sync::Arc;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory, TokenParser};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::Tokenizer;
use toktrie::InferenceCapabilities;

use super::mask::TokenMask;

/// What an output must fit.
///
/// ```
/// use tidemill_model::generation::ConstraintSpec;
/// let spec: ConstraintSpec = serde_json::from_str(r#"{"regex": "[0-9]{4}"}"#)?;
/// assert_eq!(spec, ConstraintSpec::Regex("[0-9]{4}".to_string()));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits this schema.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole, in the syntax of Rust's `regex`.
    Regex(String),
    /// A text of this grammar, in `llguidance`'s dialect of Lark; it begins at `start`.
    Grammar(String),
}

/// How much a grammar may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstraintLimits {
    /// Bytes of its source. Default 256 KiB.
    pub source_bytes: usize,
    /// Levels of nesting in its source. Default 64.
    pub nesting: usize,
    /// Symbols in its productions. Default 200,000.
    pub symbols: usize,
    /// Work to compile it, of which a core does some 50,000 a millisecond. Default 1,000,000.
    pub compile_work: u64,
    /// Work of one step, of which a core does some 14,000 a millisecond. Default 200,000.
    pub step_work: u64,
    /// Parser items of one step, of which a core does some 20,000 a millisecond. Default 50,000.
    pub step_items: usize,
    /// States of its lexer over the whole output, each of one or two kilobytes. Default 50,000.
    pub states: usize,
}

impl Default for ConstraintLimits {
    fn default() -> Self {
        ConstraintLimits {
            source_bytes: 256 << 10,
            nesting: 64,
            symbols: 200_000,
            compile_work: 1_000_000,
            step_work: 200_000,
            step_items: 50_000,
            states: 50_000,
        }
    }
}

/// Why an output cannot be constrained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// The tokenizer does not say which bytes its tokens are.
    #[error("outputs of this model cannot be constrained: {0}")]
    Tokenizer(String),

    /// The source is no schema, expression or grammar.
    #[error("the {kind} cannot be used: {problem}")]
    Invalid {
        /// `JSON schema`, `regular expression` or `grammar`.
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },

    /// Nothing fits it.
    #[error("no output can fit the {kind}: {problem}")]
    Unsatisfiable {
        /// `JSON schema`, `regular expression` or `grammar`.
        kind: &'static str,
        /// What contradicts what.
        problem: String,
    },

    /// It costs more than is allowed.
    #[error("the {kind} is too big: {problem}")]
    TooBig {
        /// `JSON schema`, `regular expression` or `grammar`.
        kind: &'static str,
        /// What there is too much of.
        problem: String,
    },

    /// A token came that the constraint did not allow.
    #[error("the output left its {kind}: a token came that it does not allow")]
    Left {
        /// `JSON schema`, `regular expression` or `grammar`.
        kind: &'static str,
    },
}

/// Stack of the thread that compiles a grammar: rules that refer to one another are followed by recursion.
const COMPILE_STACK: usize = 64 << 20;

/// Longest part of a problem's description that is passed on.
const PROBLEM_BYTES: usize = 400;

impl ConstraintSpec {
    fn kind(&self) -> &'static str {
        match self {
            ConstraintSpec::JsonObject | ConstraintSpec::JsonSchema(_) => "JSON schema",
            ConstraintSpec::Regex(_) => "regular expression",
            ConstraintSpec::Grammar(_) => "grammar",
        }
    }

    fn grammar(&self, limits: &ConstraintLimits) -> Result<TopLevelGrammar, ConstraintError> {
        let kind = self.kind();
        let too_big = |problem: String| Err(ConstraintError::TooBig { kind, problem });
        let (bytes, nesting) = match self {
            ConstraintSpec::JsonObject => (0, 0),
            ConstraintSpec::JsonSchema(schema) => (schema.to_string().len(), depth(schema, limits.nesting)),
            ConstraintSpec::Regex(source) => (source.len(), 0),
            ConstraintSpec::Grammar(source) => (source.len(), bracket_depth(source)),
        };
        if bytes > limits.source_bytes {
            return too_big(format!("it has {bytes} bytes, and {} are the most", limits.source_bytes));
        }
        if nesting > limits.nesting {
            return too_big(format!("it is nested more than {} levels deep", limits.nesting));
        }
        Ok(match self {
            ConstraintSpec::JsonObject => TopLevelGrammar::from_json_schema(json!({"type": "object"})),
            ConstraintSpec::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            ConstraintSpec::Regex(source) => TopLevelGrammar::from_regex(source),
            ConstraintSpec::Grammar(source) => TopLevelGrammar::from_lark(source.clone()),
        })
    }
}

/// Compiles constraints for one model; made once, as it indexes the vocabulary.
#[derive(Clone)]
pub struct ConstraintCompiler {
    factory: Arc<ParserFactory>,
    limits: ConstraintLimits,
}

impl ConstraintCompiler {
    /// For a model that gives `vocabulary` logits, has this tokenizer, and ends outputs by the tokens `eos`.
    ///
    /// # Errors
    /// [`ConstraintError::Tokenizer`] when the tokenizer does not say which bytes its tokens are.
    pub fn new(
        tokenizer: &Tokenizer,
        vocabulary: usize,
        eos: &[u32],
        limits: ConstraintLimits,
    ) -> Result<ConstraintCompiler, ConstraintError> {
        let environment = token_bytes::environment(tokenizer, vocabulary, eos).map_err(ConstraintError::Tokenizer)?;
        let capabilities = InferenceCapabilities { ff_tokens: false, ..InferenceCapabilities::default() };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, capabilities, &slices)
            .map_err(|error| ConstraintError::Tokenizer(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: limits.compile_work,
            step_lexer_fuel: limits.step_work,
            step_max_items: limits.step_items,
            max_lexer_states: limits.states,
            max_grammar_size: limits.symbols,
            // Errors would hold the tokens so far, which are nobody else's business.
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(ConstraintCompiler { factory: Arc::new(factory), limits })
    }

    /// Compiles a constraint for one output.
    ///
    /// # Errors
    /// [`ConstraintError`] that says what is wrong with the source, that nothing fits it, or what there is too much of.
    pub fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
        let kind = spec.kind();
        let grammar = spec.grammar(&self.limits)?;
        let parser = self.parser(grammar).map_err(|problem| refused(kind, &problem))?;
        let mut constraint = Constraint { matcher: Matcher::new(Ok(parser)), kind, allowed: None };
        if let Some(problem) = constraint.matcher.get_error() {
            return Err(refused(kind, &problem));
        }
        // A grammar without a first token is found out now, not when the prompt has been read.
        constraint.allowed()?;
        Ok(constraint)
    }

    fn parser(&self, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
        let compile = || self.factory.create_parser(grammar).map_err(|error| format!("{error:#}"));
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("constraint".to_string()).stack_size(COMPILE_STACK);
            let thread = thread.spawn_scoped(scope, compile).map_err(|error| error.to_string())?;
            thread.join().unwrap_or_else(|_| Err("the compiler gave up on it".to_string()))
        })
    }
}

impl std::fmt::Debug for ConstraintCompiler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ConstraintCompiler({:?})", self.limits)
    }
}

/// Where one output is in its constraint. Every chosen token must be told by [`Constraint::accept`].
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    kind: &'static str,
    allowed: Option<TokenMask>,
}

impl Constraint {
    /// The tokens that may come next; worked out when asked for and kept until a token is accepted. Where the
    /// constraint is met the model's end-of-sequence tokens are among them.
    ///
    /// # Errors
    /// [`ConstraintError::TooBig`] when the step takes too much work.
    pub fn allowed(&mut self) -> Result<&TokenMask, ConstraintError> {
        if self.allowed.is_none() {
            let mask = self.matcher.compute_mask_or_eos().map_err(|error| refused(self.kind, &error.to_string()))?;
            self.allowed = Some(TokenMask::from_words(mask.as_slice().to_vec()));
        }
        self.allowed.as_ref().filter(|mask| mask.count() > 0).ok_or_else(|| no_way_on(self.kind))
    }

    /// The tokens that must come next, if there is but one way: they need not be chosen, only accepted. What
    /// [`Constraint::allowed`] would say for each is that token alone, so an output is the same either way.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_finished() { Vec::new() } else { self.matcher.compute_ff_tokens() }
    }

    /// Moves on by a token.
    ///
    /// # Errors
    /// [`ConstraintError::Left`] when it was not allowed, [`ConstraintError::TooBig`] when the step takes too much work.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        if self.allowed.as_ref().is_some_and(|allowed| !allowed.allows(token)) {
            return Err(ConstraintError::Left { kind: self.kind });
        }
        self.allowed = None;
        if self.is_finished() {
            // Only the end may follow what is finished, and it says nothing new.
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| refused(self.kind, &error.to_string()))
    }

    /// Whether the output may end here.
    pub fn is_met(&mut self) -> bool {
        self.is_finished() || self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the constraint is met and allows nothing more: the output is over, even if the model has not said so.
    pub fn is_finished(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Constraint({}, {})", self.kind, self.matcher.stop_reason())
    }
}

fn no_way_on(kind: &'static str) -> ConstraintError {
    ConstraintError::Unsatisfiable { kind, problem: "no token may come next".to_string() }
}

/// Sorts `llguidance`'s messages, which are all that it says, into kinds of error.
fn refused(kind: &'static str, problem: &str) -> ConstraintError {
    let mut problem = problem.replace("<non-verbose/>", "").trim().to_string();
    if let Some((at, _)) = problem.char_indices().find(|(at, _)| *at >= PROBLEM_BYTES) {
        problem.truncate(at);
        problem.push('…');
    }
    let lower = problem.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["noextensionbias"]) {
        no_way_on(kind)
    } else if says(&["lexertoocomplex", "parsertoocomplex", "lexer error", "parser error"]) {
        ConstraintError::TooBig { kind, problem: "a step of it takes too much work".to_string() }
    } else if says(&["unsatisfiable", "no token", "no extension", "empty language", "matches nothing"]) {
        ConstraintError::Unsatisfiable { kind, problem }
    } else if says(&["too large", "too big", "too complex", "too many", "fuel", "limit"]) {
        ConstraintError::TooBig { kind, problem }
    } else {
        ConstraintError::Invalid { kind, problem }
    }
}

/// How deep a value is nested, or `limit + 1` if deeper.
fn depth(value: &Value, limit: usize) -> usize {
    let mut level: Vec<&Value> = vec![value];
    for depth in 0..=limit {
        level = level
            .into_iter()
            .flat_map(|value| -> Box<dyn Iterator<Item = &Value>> {
                match value {
                    Value::Array(items) => Box::new(items.iter()),
                    Value::Object(items) => Box::new(items.values()),
                    _ => Box::new(std::iter::empty()),
                }
            })
            .collect();
        if level.is_empty() {
            return depth;
        }
    }
    limit + 1
}

/// How deep a grammar's brackets are nested, those in its strings and expressions left out.
fn bracket_depth(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut characters = source.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '"' | '/' if !(character == '/' && characters.peek() == Some(&'/')) => {
                while let Some(inside) = characters.next().filter(|&inside| inside != character && inside != '\n') {
                    if inside == '\\' {
                        characters.next();
                    }
                }
            }
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

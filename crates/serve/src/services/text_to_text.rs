//! `tidemill.v1.TextToText`: summaries and translations. See `proto/tidemill/v1/text_to_text.proto`.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tidemill_proto::v1::text_to_text_server::TextToText;
use tidemill_proto::v1::{SummariseRequest, TextToTextOptions, TextToTextResponse, TranslateRequest};
use tonic::{Request, Response, Status};

use super::{Base, admitted, answer, generation};
use crate::admitted::Admitted;
use crate::generation::tool_choice::CallReader;
use crate::generation::{GeneratorHandle, Usage};
use crate::model::TextToTextHandle;
use crate::refusal::Refusal;
use crate::tasks::{Purpose, TextToTextAnswer, TextToTextInput};

/// What `TextToTextOptions` may ask for at most.
const MAX_BEAMS: usize = 64;

struct Texts {
    model: String,
    model_version: String,
    texts: Vec<String>,
    options: TextToTextOptions,
    purpose: Purpose,
}

/// The answers to the inputs of one request, and what they took.
pub(super) struct Written {
    pub(super) texts: Vec<String>,
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl Base {
    /// Has a model answer inputs, all or none. `field` is what the request calls them, `options` what it writes before the
    /// options' names.
    pub(super) async fn write(
        &self,
        method: &'static str,
        model: &TextToTextHandle,
        inputs: Vec<TextToTextInput>,
        (field, options): (&'static str, &'static str),
        admitted: &Admitted,
    ) -> Result<Written, Refusal> {
        match model {
            TextToTextHandle::Batch(model) => {
                let answered = answer(method, model, inputs, field, admitted).await?;
                let completion_tokens = answered.answers.iter().map(|answer| answer.tokens).sum();
                let texts = answered.answers.into_iter().map(|answer| answer.text).collect();
                Ok(Written { texts, prompt_tokens: answered.tokens, completion_tokens })
            }
            TextToTextHandle::Generator(model) => {
                let write = async |(index, input)| {
                    let written = write_one(method, model, input, admitted).await;
                    written.map_err(|refusal| named(refusal, index, field, options))
                };
                // A bounded number of texts is under way at once; the generator puts them and those of others together.
                let inputs = stream::iter(inputs.into_iter().enumerate());
                let answers: Vec<(TextToTextAnswer, Usage)> =
                    inputs.map(write).buffered(self.max_under_way).try_collect().await?;
                Ok(Written {
                    prompt_tokens: answers.iter().map(|(_, usage)| usage.prompt_tokens).sum(),
                    completion_tokens: answers.iter().map(|(answer, _)| answer.tokens).sum(),
                    texts: answers.into_iter().map(|(answer, _)| answer.text).collect(),
                })
            }
        }
    }
}

async fn write_one(
    method: &'static str,
    model: &GeneratorHandle,
    input: TextToTextInput,
    admitted: &Admitted,
) -> Result<(TextToTextAnswer, Usage), Refusal> {
    let started = model.rewrite(input, admitted.deadline).await;
    let generation = started.inspect_err(|refusal| generation::log_refusal(method, model, refusal))?;
    let (answers, usage) = generation::finish(method, model, generation, CallReader::default()).await?;
    let text = answers.into_iter().next().map(|answer| answer.text).unwrap_or_default();
    Ok((TextToTextAnswer { text, tokens: usage.completion_tokens }, usage))
}

/// The refusal of one text with the field's name as the request has it.
fn named(refusal: Refusal, index: usize, field: &str, options: &str) -> Refusal {
    match refusal {
        Refusal::TooLong { problem } => Refusal::invalid(format!("{field}[{index}]"), problem),
        Refusal::Invalid { field: own, problem } => match own.as_str() {
            "prompt" => Refusal::invalid(format!("{field}[{index}]"), problem),
            "beams" | "max_tokens" => Refusal::invalid(format!("{options}{own}"), problem),
            _ => Refusal::Invalid { field: own, problem },
        },
        other => other,
    }
}

async fn rewrite(
    base: &Base,
    method: &'static str,
    request: Texts,
    admitted: &Admitted,
) -> Result<TextToTextResponse, Refusal> {
    let model = &base
        .models
        .of(&admitted.caller)
        .find::<TextToTextHandle>(&request.model, &request.model_version, "model")
        .await?;
    base.limits().check(&request.texts, "texts")?;
    let given = |number: u32| usize::try_from(number).ok().filter(|number| *number > 0);
    let (max_tokens, beams) = (given(request.options.max_tokens), given(request.options.beams));
    if beams.is_some_and(|beams| beams > MAX_BEAMS) {
        return Err(Refusal::invalid("options.beams", format!("must be at most {MAX_BEAMS}")));
    }
    let input = |text| TextToTextInput {
        text,
        purpose: request.purpose.clone(),
        max_tokens,
        beams,
        truncate: request.options.truncate,
        turn: admitted.turn(),
    };
    let inputs = request.texts.into_iter().map(input).collect();
    let written = base.write(method, model, inputs, ("texts", "options."), admitted).await?;
    let info = model.info();
    Ok(TextToTextResponse {
        model: info.name.clone(),
        model_version: info.version.clone(),
        prompt_tokens: written.prompt_tokens as u64,
        completion_tokens: written.completion_tokens as u64,
        texts: written.texts,
    })
}

#[tonic::async_trait]
impl TextToText for Base {
    async fn summarise(&self, request: Request<SummariseRequest>) -> Result<Response<TextToTextResponse>, Status> {
        let admitted = admitted(&request);
        let SummariseRequest { model, model_version, texts, options } = request.into_inner();
        let options = options.unwrap_or_default();
        let request = Texts { model, model_version, texts, options, purpose: Purpose::Summary };
        Ok(Response::new(rewrite(self, "Summarise", request, &admitted).await?))
    }

    async fn translate(&self, request: Request<TranslateRequest>) -> Result<Response<TextToTextResponse>, Status> {
        let admitted = admitted(&request);
        let TranslateRequest { model, model_version, texts, source_language, target_language, options } =
            request.into_inner();
        let options = options.unwrap_or_default();
        let purpose = Purpose::Translation { source: source_language, target: target_language };
        let request = Texts { model, model_version, texts, options, purpose };
        Ok(Response::new(rewrite(self, "Translate", request, &admitted).await?))
    }
}

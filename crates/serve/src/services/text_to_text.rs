//! `tidemill.v1.TextToText`: summaries and translations. See `proto/tidemill/v1/text_to_text.proto`.

use tidemill_proto::v1::text_to_text_server::TextToText;
use tidemill_proto::v1::{SummariseRequest, TextToTextOptions, TextToTextResponse, TranslateRequest};
use tonic::{Request, Response, Status};

use super::{Base, admitted, answer};
use crate::admission::Admitted;
use crate::model::TextToTextHandle;
use crate::refusal::Refusal;
use crate::tasks::{Purpose, TextToTextInput};

/// What `TextToTextOptions` may ask for at most.
const MAX_BEAMS: usize = 64;

struct Texts {
    model: String,
    model_version: String,
    texts: Vec<String>,
    options: TextToTextOptions,
    purpose: Purpose,
}

async fn rewrite(
    base: &Base,
    method: &'static str,
    request: Texts,
    admitted: &Admitted,
) -> Result<TextToTextResponse, Refusal> {
    let model = base.models.find::<TextToTextHandle>(&request.model, &request.model_version, "model")?;
    base.limits.check(&request.texts, "texts")?;
    let given = |number: u32| usize::try_from(number).ok().filter(|number| *number > 0);
    let (max_tokens, beams) = (given(request.options.max_tokens), given(request.options.beams));
    if beams.is_some_and(|beams| beams > MAX_BEAMS) {
        return Err(Refusal::invalid("options.beams", format!("must be at most {MAX_BEAMS}")));
    }
    let input = |text| TextToTextInput { text, purpose: request.purpose.clone(), max_tokens, beams };
    let inputs = request.texts.into_iter().map(input).collect();
    let answered = answer(method, model, inputs, "texts", admitted).await?;
    let info = model.info();
    Ok(TextToTextResponse {
        model: info.name.clone(),
        model_version: info.version.clone(),
        prompt_tokens: answered.tokens as u64,
        completion_tokens: answered.answers.iter().map(|answer| answer.tokens as u64).sum(),
        texts: answered.answers.into_iter().map(|answer| answer.text).collect(),
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

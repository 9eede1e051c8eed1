//! The methods of `tidemill.v1`. Their messages are documented in `proto/tidemill/v1/`.

use futures::Stream;
use tidemill_proto::v1::{
    ChatRequest, ChatResponse, ChatStreamResponse, ClassifyRequest, ClassifyResponse, ClassifyStreamRequest,
    ClassifyStreamResponse, EmbedRequest, EmbedResponse, EmbedStreamRequest, EmbedStreamResponse, FindEntitiesRequest,
    FindEntitiesResponse, FindEntitiesStreamRequest, FindEntitiesStreamResponse, GenerateRequest, GenerateResponse,
    GenerateStreamResponse, RerankRequest, RerankResponse, SummariseRequest, TextToTextResponse, TranslateRequest,
};

use crate::client::Client;
use crate::error::ClientError;
use crate::pieces::Pieces;

type Answer<A> = Result<A, ClientError>;

impl Client {
    /// Labels and probabilities of texts.
    ///
    /// # Errors
    /// Every [`ClientError`] of a call, here and below.
    pub async fn classify(&self, request: ClassifyRequest) -> Answer<ClassifyResponse> {
        self.call("/tidemill.v1.TextClassification/Classify", request).await
    }

    /// The answers to a stream of requests, in their order and with their ids. A request that fails is answered by its
    /// error, and the stream goes on. Ends when `requests` has ended and everything is answered.
    ///
    /// ```
    /// use futures::{StreamExt as _, stream};
    /// use tidemill_client::v1::{ClassifyRequest, ClassifyStreamRequest};
    /// use tidemill_client::{Client, ClientError};
    ///
    /// async fn classify_all(client: &Client, texts: Vec<String>) -> Result<(), ClientError> {
    ///     let requests = texts.into_iter().enumerate().map(|(line, text)| ClassifyStreamRequest {
    ///         id: line.to_string(),
    ///         request: Some(ClassifyRequest { texts: vec![text], ..ClassifyRequest::default() }),
    ///     });
    ///     let mut answers = client.classify_stream(stream::iter(requests)).await?;
    ///     while let Some(answer) = answers.next().await {
    ///         let answer = answer?;
    ///         println!("{}: {:?}", answer.id, answer.outcome);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn classify_stream(
        &self,
        requests: impl Stream<Item = ClassifyStreamRequest> + Send + 'static,
    ) -> Answer<Pieces<ClassifyStreamResponse>> {
        self.call_streams("/tidemill.v1.TextClassification/ClassifyStream", requests).await
    }

    /// A vector for each text.
    pub async fn embed(&self, request: EmbedRequest) -> Answer<EmbedResponse> {
        self.call("/tidemill.v1.Embedding/Embed", request).await
    }

    /// Vectors for a stream of requests, as [`classify_stream`](Client::classify_stream) has labels.
    pub async fn embed_stream(
        &self,
        requests: impl Stream<Item = EmbedStreamRequest> + Send + 'static,
    ) -> Answer<Pieces<EmbedStreamResponse>> {
        self.call_streams("/tidemill.v1.Embedding/EmbedStream", requests).await
    }

    /// Texts by how well they answer a query.
    pub async fn rerank(&self, request: RerankRequest) -> Answer<RerankResponse> {
        self.call("/tidemill.v1.Embedding/Rerank", request).await
    }

    /// The entities in texts.
    pub async fn find_entities(&self, request: FindEntitiesRequest) -> Answer<FindEntitiesResponse> {
        self.call("/tidemill.v1.Entities/Find", request).await
    }

    /// The entities in a stream of requests, as [`classify_stream`](Client::classify_stream) has labels.
    pub async fn find_entities_stream(
        &self,
        requests: impl Stream<Item = FindEntitiesStreamRequest> + Send + 'static,
    ) -> Answer<Pieces<FindEntitiesStreamResponse>> {
        self.call_streams("/tidemill.v1.Entities/FindStream", requests).await
    }

    /// Summaries of texts.
    pub async fn summarise(&self, request: SummariseRequest) -> Answer<TextToTextResponse> {
        self.call("/tidemill.v1.TextToText/Summarise", request).await
    }

    /// Translations of texts.
    pub async fn translate(&self, request: TranslateRequest) -> Answer<TextToTextResponse> {
        self.call("/tidemill.v1.TextToText/Translate", request).await
    }

    /// What follows a prompt, whole.
    pub async fn generate(&self, request: GenerateRequest) -> Answer<GenerateResponse> {
        self.call("/tidemill.v1.Generation/Generate", request).await
    }

    /// What follows a prompt, as it is written.
    pub async fn generate_stream(&self, request: GenerateRequest) -> Answer<Pieces<GenerateStreamResponse>> {
        self.call_stream("/tidemill.v1.Generation/GenerateStream", request).await
    }

    /// The assistant's next message, whole.
    pub async fn chat(&self, request: ChatRequest) -> Answer<ChatResponse> {
        self.call("/tidemill.v1.Chat/Complete", request).await
    }

    /// The assistant's next message, as it is written.
    pub async fn chat_stream(&self, request: ChatRequest) -> Answer<Pieces<ChatStreamResponse>> {
        self.call_stream("/tidemill.v1.Chat/CompleteStream", request).await
    }
}

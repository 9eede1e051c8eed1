"""The services of `tidemill.v1`, called by messages that are made from what the server's reflection says: no generated code.

Answers are compared with what `transformers` says of the stored checkpoints, where the fixtures have it.
"""

import contextlib

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import refusals
import stored
from cases import case, holds, near, run, same

INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Service:
    """A service whose methods take their request's fields by keywords, or an iterator of fields."""

    def __init__(self, channel, name):
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        # What is packed into an error's details, and what a stream's error is.
        self.channel, self.service = channel, pool.FindServiceByName(name)

    def __getattr__(self, name):
        method = self.service.methods_by_name[name]
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        call = getattr(self.channel, "_".join(kind))(
            f"/{self.service.full_name}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        if method.client_streaming:
            return lambda all_fields: call((request(**fields) for fields in all_fields), timeout=30)
        return lambda **fields: call(request(**fields), timeout=30)


@contextlib.contextmanager
def service(arguments, name):
    with grpc.insecure_channel(arguments.address) as channel:
        yield Service(channel, f"tidemill.v1.{name}")


@case("TextClassification.Classify")
def classify(arguments):
    texts = stored.answers("sequence")["texts"]
    with service(arguments, "TextClassification") as classification:
        answer = classification.Classify(model="classifier", texts=texts[:2], top_k=2)
        same((answer.model, answer.model_version, len(answer.classifications)), ("classifier", "1", 2))
        best = answer.classifications[0].labels
        same((len(best), best[0].label), (2, "B-LOC"), "the labels")
        whole = classification.Classify(model="classifier", texts=texts[:1]).classifications[0].labels
        near([sum(label.probability for label in whole)], [1.0], "the sum of all probabilities")


@case("TextClassification.ClassifyStream")
def classify_stream(arguments):
    requests = [
        {"id": "a", "request": {"model": "classifier", "texts": ["Ada"]}},
        {"id": "b", "request": {"model": "classifier"}},
        {"id": "c", "request": {"model": "classifier", "texts": ["London", ""]}},
    ]
    with service(arguments, "TextClassification") as classification:
        answers = list(classification.ClassifyStream(iter(requests)))
    same([answer.id for answer in answers], ["a", "b", "c"], "the ids")
    same([answer.WhichOneof("outcome") for answer in answers], ["response", "error", "response"], "the outcomes")
    same(answers[1].error.code, INVALID.value[0], "the code of the error")
    holds(any("BadRequest" in detail.type_url for detail in answers[1].error.details), "the error has no BadRequest")


@case("Embedding.Embed")
def embed(arguments):
    expected = stored.answers("embedding")
    with service(arguments, "Embedding") as embedding:
        answer = embedding.Embed(model="embedder", texts=expected["texts"], truncate=True)
        for vector, row in zip(answer.embeddings, expected["mean"], strict=True):
            near(vector.values, row, "a vector")
        holds(answer.tokens > 40, f"{answer.tokens} tokens")
        cut = embedding.Embed(model="embedder", texts=expected["texts"][:1], dimensions=4)
        near([sum(value * value for value in cut.embeddings[0].values)], [1.0], "the length of a vector that is cut")


@case("Embedding.EmbedStream")
def embed_stream(arguments):
    with service(arguments, "Embedding") as embedding:
        requests = [{"id": str(number), "request": {"model": "embedder", "texts": ["Ada"]}} for number in range(4)]
        answers = list(embedding.EmbedStream(iter(requests)))
        same(
            [(answer.id, len(answer.response.embeddings)) for answer in answers],
            [(str(number), 1) for number in range(4)],
        )


@case("Embedding.Rerank")
def rerank(arguments):
    with service(arguments, "Embedding") as embedding:
        answer = embedding.Rerank(
            model="reranker", query="where is the film", texts=["Ada", "in London", "a house"], top_k=2
        )
        scores = [ranked.score for ranked in answer.ranking]
        same((len(scores), scores), (2, sorted(scores, reverse=True)), "the scores, the best first")


@case("Entities.Find, Entities.FindStream")
def entities(arguments):
    expected = stored.answers("token")
    with service(arguments, "Entities") as found:
        answer = found.Find(model="tagger", texts=expected["texts"][:1])
        spans = [(entity.label, entity.start, entity.end, entity.text) for entity in answer.texts[0].entities]
        same(spans, [("PER", 0, 3, "Ada"), ("PER", 13, 19, "London")])
        requests = [{"id": "a", "request": {"model": "tagger", "texts": expected["texts"][:1]}}]
        (streamed,) = found.FindStream(iter(requests))
        same(len(streamed.response.texts[0].entities), 2, "the entities of a stream")


@case("TextToText.Summarise, TextToText.Translate")
def text_to_text(arguments):
    with service(arguments, "TextToText") as rewriting:
        answer = rewriting.Summarise(
            model="summariser", texts=["The tide comes in.", "A mill"], options={"max_tokens": 6}
        )
        same((answer.model, len(answer.texts)), ("summariser", 2))
        holds(answer.prompt_tokens > 0 and answer.completion_tokens > 0, "tokens are not counted")
        one, other = (
            rewriting.Translate(
                model="translator",
                texts=["A mill"],
                source_language="de_DE",
                target_language=language,
                options={"max_tokens": 8},
            ).texts[0]
            for language in ["en_XX", "ja_XX"]
        )
        holds(one != other, "two languages had one translation")


@case("Generation.Generate, Generation.GenerateStream")
def generate(arguments):
    asked = {
        "model": "generator",
        "prompt": "The tide",
        "sampling": {"max_tokens": 10, "temperature": 0, "ignore_end": True},
    }
    with service(arguments, "Generation") as generation:
        whole = generation.Generate(**asked)
        same(
            (whole.usage.completion_tokens, whole.answers[0].finish_reason),
            (10, 2),
            "tokens, and the reason of the end",
        )
        pieces = list(generation.GenerateStream(**asked))
        same("".join(piece.text for piece in pieces), whole.answers[0].text, "the pieces together")
        same(pieces[-1].usage.completion_tokens, 10, "tokens of the stream")


@case("Generation.Generate: a format, seeds, several answers")
def sampled(arguments):
    with service(arguments, "Generation") as generation:
        sampling = {"max_tokens": 6, "seed": 7, "temperature": 1.0, "answers": 2, "ignore_end": True}
        one, other = (generation.Generate(model="generator", prompt="A mill", sampling=sampling) for _ in range(2))
        same(
            [answer.text for answer in one.answers],
            [answer.text for answer in other.answers],
            "the answers of one seed",
        )
        formed = generation.Generate(
            model="generator", prompt="A mill", format={"regex": "(yes|no)"}, sampling={"max_tokens": 8}
        )
        holds(formed.answers[0].text in ["yes", "no"], f"the answer is {formed.answers[0].text!r}")


@case("Chat.Complete, Chat.CompleteStream")
def chat(arguments):
    asked = {
        "model": "generator",
        "messages": [{"role": "user", "content": "What is a mill?"}],
        "sampling": {"max_tokens": 8, "temperature": 0, "ignore_end": True},
    }
    with service(arguments, "Chat") as chat:
        whole = chat.Complete(**asked)
        pieces = list(chat.CompleteStream(**asked))
        same("".join(piece.content for piece in pieces), whole.answers[0].content, "the pieces together")
        holds(whole.usage.prompt_tokens > 10, f"{whole.usage.prompt_tokens} tokens in the prompt")


# The service, the method, its fields, and the field that is wrong.
WRONG = [
    ("TextClassification", "Classify", {"model": "classifier"}, "texts"),
    ("TextClassification", "Classify", {"model": "classifier", "texts": ["a", "b" * 70_000]}, "texts[1]"),
    ("Embedding", "Embed", {"model": "embedder"}, "texts"),
    ("Embedding", "Embed", {"model": "embedder", "texts": ["a"], "dimensions": 99}, "dimensions"),
    ("Embedding", "Rerank", {"model": "reranker", "query": "a"}, "texts"),
    ("Entities", "Find", {"model": "tagger"}, "texts"),
    ("TextToText", "Summarise", {"model": "summariser"}, "texts"),
    (
        "TextToText",
        "Translate",
        {"model": "translator", "texts": ["a"], "source_language": "de_DE", "target_language": "xx"},
        "target_language",
    ),
    ("Generation", "Generate", {"model": "generator"}, "prompt"),
    (
        "Generation",
        "Generate",
        {"model": "generator", "prompt": "a", "sampling": {"temperature": -1}},
        "sampling.temperature",
    ),
    (
        "Generation",
        "Generate",
        {"model": "generator", "prompt": "a", "format": {"json_schema": "{"}},
        "format.json_schema",
    ),
    ("Chat", "Complete", {"model": "generator"}, "messages"),
]


def wrong(name, method, fields, field):
    def check(arguments):
        with service(arguments, name) as asked:
            refusals.by_grpc(INVALID, lambda: getattr(asked, method)(**fields), field=field)

    return check


for name, method, fields, field in WRONG:
    case(f"INVALID_ARGUMENT: {name}.{method}, {field}")(wrong(name, method, fields, field))


@case("a model of another kind, and an unknown one")
def other_kind(arguments):
    with service(arguments, "TextClassification") as classification:
        refusals.by_grpc(
            grpc.StatusCode.NOT_FOUND,
            lambda: classification.Classify(model="clasifier", texts=["a"]),
            says="classifier",
        )
        try:
            classification.Classify(model="embedder", texts=["a"])
        except grpc.RpcError as error:
            holds(error.code() in [INVALID, grpc.StatusCode.NOT_FOUND], f"the code is {error.code()}")
            holds("embedder" in error.details(), f"{error.details()!r} does not name the model")
        else:
            raise AssertionError("it was answered")


if __name__ == "__main__":
    run()

"""OpenAI's interface by the package `openai`, as its users write it; its asyncio form and its errors too."""

import base64
import json

import numpy
import openai

import stored
from cases import Different, case, holds, near, run, same

ASKED = {"model": "generator", "temperature": 0, "extra_body": {"ignore_eos": True}}
MESSAGES = [{"role": "user", "content": "What is a mill?"}]


def client(arguments, **options):
    return openai.OpenAI(
        base_url=f"http://{arguments.address}/v1", api_key="none", max_retries=0, timeout=30, **options
    )


@case("models.list, models.retrieve")
def models(arguments):
    with client(arguments) as api:
        names = {model.id for model in api.models.list()}
        holds({"generator", "embedder"} <= names, f"the models are {names}")
        same((api.models.retrieve("generator").id, api.models.retrieve("generator").object), ("generator", "model"))


@case("chat.completions.create")
def chat(arguments):
    with client(arguments) as api:
        answer = api.chat.completions.create(messages=MESSAGES, max_tokens=8, **ASKED)
        same((answer.object, answer.model, answer.choices[0].finish_reason), ("chat.completion", "generator", "length"))
        same((answer.choices[0].message.role, answer.usage.completion_tokens), ("assistant", 8))
        several = api.chat.completions.create(
            messages=MESSAGES, max_completion_tokens=4, n=3, seed=1, model="generator"
        )
        same([choice.index for choice in several.choices], [0, 1, 2])


@case("chat.completions.create, streamed")
def chat_stream(arguments):
    with client(arguments) as api:
        whole = api.chat.completions.create(messages=MESSAGES, max_tokens=8, **ASKED).choices[0].message.content
        chunks = list(
            api.chat.completions.create(
                messages=MESSAGES, max_tokens=8, stream=True, stream_options={"include_usage": True}, **ASKED
            )
        )
        same(
            "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            whole,
            "the chunks together",
        )
        same(chunks[-1].usage.completion_tokens, 8, "the usage in the last chunk")
        same(chunks[0].choices[0].delta.role, "assistant")


@case("chat.completions.stream, the event helper")
def chat_events(arguments):
    with client(arguments) as api:
        choices = {"guided_choice": ["the tide", "the mill"]}
        with api.chat.completions.stream(model="generator", messages=MESSAGES, extra_body=choices) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        holds("content.delta" in kinds, f"the events are {kinds}")
        same(
            (final.choices[0].finish_reason, final.choices[0].message.content in choices["guided_choice"]),
            ("stop", True),
        )


@case("chat.completions.create: logprobs")
def logprobs(arguments):
    with client(arguments) as api:
        answer = api.chat.completions.create(messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2, **ASKED)
        content = answer.choices[0].logprobs.content
        same((len(content), len(content[0].top_logprobs)), (3, 2))
        near([content[0].logprob], [content[0].top_logprobs[0].logprob], "the first of the top logprobs")


@case("chat.completions.create: response_format, tools")
def formats(arguments):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["n"],
        "additionalProperties": False,
    }
    with client(arguments) as api:
        format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        answer = api.chat.completions.create(
            model="generator", messages=MESSAGES, max_tokens=60, response_format=format, temperature=0
        )
        holds(0 <= json.loads(answer.choices[0].message.content)["n"] <= 9, answer.choices[0].message.content)
        tool = {"type": "function", "function": {"name": "look_up", "parameters": schema}}
        choice = {"type": "function", "function": {"name": "look_up"}}
        answer = api.chat.completions.create(
            model="generator", messages=MESSAGES, max_tokens=200, tools=[tool], tool_choice=choice, temperature=0
        )
        call = answer.choices[0].message.tool_calls[0]
        same((call.type, call.function.name), ("function", "look_up"))
        holds(0 <= json.loads(call.function.arguments)["n"] <= 9, call.function.arguments)


@case("completions.create, whole and streamed")
def completions(arguments):
    with client(arguments) as api:
        answer = api.completions.create(prompt=["The tide", "A mill"], max_tokens=6, **ASKED)
        same([choice.index for choice in answer.choices], [0, 1])
        chunks = list(api.completions.create(prompt="A mill", max_tokens=6, stream=True, **ASKED))
        same("".join(chunk.choices[0].text for chunk in chunks), answer.choices[1].text, "the chunks together")
        stopped = api.completions.create(prompt="A mill", max_tokens=6, stop=answer.choices[1].text[-1], **ASKED)
        same(stopped.choices[0].finish_reason, "stop", "with a stop word")


@case("embeddings.create")
def embeddings(arguments):
    expected = stored.answers("embedding")
    with client(arguments) as api:
        # The client asks for base64 of itself.
        answer = api.embeddings.create(model="embedder", input=expected["texts"][:2])
        for row, vector in zip(answer.data, expected["mean"]):
            near(row.embedding, vector, "a vector")
        plain = api.embeddings.create(model="embedder", input="Ada lives in London.", encoding_format="float")
        near(plain.data[0].embedding, expected["mean"][0], "a vector of numbers")
        raw = api.embeddings.create(model="embedder", input="Ada lives in London.", encoding_format="base64")
        near(
            numpy.frombuffer(base64.b64decode(raw.data[0].embedding), dtype="<f4"),
            expected["mean"][0],
            "a vector in base64",
        )
        same(len(api.embeddings.create(model="embedder", input="Ada", dimensions=4).data[0].embedding), 4)
        holds(answer.usage.prompt_tokens > 0, "tokens are not counted")


def refused(kind, call, *, param=None, code=None):
    try:
        call()
    except kind as error:
        same((error.param, error.code), (param, code), "the parameter and the code")
        holds(error.body["message"], "the message is empty")
        return error
    raise Different("it was answered")


@case("errors: BadRequestError, NotFoundError")
def errors(arguments):
    with client(arguments) as api:
        ask = api.chat.completions.create
        refused(
            openai.NotFoundError,
            lambda: ask(model="generater", messages=MESSAGES),
            param="model",
            code="model_not_found",
        )
        refused(openai.NotFoundError, lambda: api.models.retrieve("generater"), param="model", code="model_not_found")
        refused(openai.BadRequestError, lambda: ask(model="generator", messages=[]), param="messages")
        refused(
            openai.BadRequestError,
            lambda: ask(model="generator", messages=MESSAGES, temperature=-1),
            param="temperature",
        )
        refused(openai.BadRequestError, lambda: api.embeddings.create(model="embedder", input=[]), param="input")
        long = "The tide turns the mill. " * 400
        call = lambda: api.completions.create(model="generator", prompt=long, max_tokens=1)
        refused(openai.BadRequestError, call, code="context_length_exceeded")


@case("a client that leaves a stream")
def leaves(arguments):
    with client(arguments) as api:
        stream = api.completions.create(prompt="A mill", max_tokens=90, stream=True, **ASKED)
        next(iter(stream))
        stream.close()
        api.completions.create(prompt="A mill", max_tokens=2, **ASKED)


@case("AsyncOpenAI")
async def asynchronous(arguments):
    async with openai.AsyncOpenAI(base_url=f"http://{arguments.address}/v1", api_key="none", max_retries=0) as api:
        answer = await api.chat.completions.create(messages=MESSAGES, max_tokens=4, **ASKED)
        stream = await api.chat.completions.create(messages=MESSAGES, max_tokens=4, stream=True, **ASKED)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        same(text, answer.choices[0].message.content)


if __name__ == "__main__":
    run()

"""The unmodified `openai` client (PyPI) against a running `tidemill serve`.

    pip install openai
    python tests/clients/openai_check.py http://127.0.0.1:8080 MODEL [EMBEDDING_MODEL]

Prints one line a check; exits 1 at the first that fails. MODEL must have a chat template.
"""

import json
import sys
import urllib.request

import openai


def check(name, holds, found=""):
    print(("ok    " if holds else "FAIL  ") + name, found if not holds else "")
    if not holds:
        sys.exit(1)


def refused(name, kind, call, **expected):
    try:
        call()
    except kind as error:
        body = error.body if isinstance(error.body, dict) else {}
        found = {key: body.get(key) for key in expected}
        check(name, found == expected, found)
        return
    check(name, False, "not refused")


def main():
    address, model, *rest = sys.argv[1:]
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
    chat, messages = client.chat.completions.create, [{"role": "user", "content": "Say hello."}]

    check("models are listed", model in [entry.id for entry in client.models.list()])
    check("one model is told", client.models.retrieve(model).id == model)

    answer = chat(model=model, messages=messages, max_tokens=12, temperature=0)
    text = answer.choices[0].message.content
    check("a chat is answered", bool(text) and answer.usage.completion_tokens <= 12, answer)
    chunks = list(chat(model=model, messages=messages, max_tokens=12, temperature=0, stream=True,
                       stream_options={"include_usage": True}))
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    check("a stream says the same", streamed == text, (streamed, text))
    check("its last chunk has the usage", chunks[-1].usage.total_tokens == answer.usage.total_tokens)
    check("its finish is told once", [c.choices[0].finish_reason for c in chunks if c.choices and
                                     c.choices[0].finish_reason] == [answer.choices[0].finish_reason])

    several = chat(model=model, messages=messages, max_tokens=6, n=3, temperature=1, seed=7)
    again = chat(model=model, messages=messages, max_tokens=6, n=3, temperature=1, seed=7)
    texts = [choice.message.content for choice in several.choices]
    check("three answers, the same for the same seed", texts == [c.message.content for c in again.choices], texts)

    told = chat(model=model, messages=messages, max_tokens=4, logprobs=True, top_logprobs=3).choices[0].logprobs
    check("log-probabilities", all(len(token.top_logprobs) == 3 for token in told.content), told)
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
              "required": ["n"], "additionalProperties": False}
    shaped = chat(model=model, messages=messages, max_tokens=60, temperature=0, response_format={
        "type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}})
    check("a JSON schema is met", set(json.loads(shaped.choices[0].message.content)) == {"n"}, shaped)
    tool = {"type": "function", "function": {"name": "tide", "parameters": schema}}
    for choice in ("required", {"type": "function", "function": {"name": "tide"}}):
        called = chat(model=model, messages=messages, max_tokens=120, temperature=0, tools=[tool], tool_choice=choice,
                      parallel_tool_calls=False).choices[0]
        calls = called.message.tool_calls or []
        check("a required tool is called", [call.function.name for call in calls] == ["tide"], called)
        check("with arguments that are JSON", "n" in json.loads(calls[0].function.arguments))
    guided = chat(model=model, messages=messages, max_tokens=8, extra_body={"guided_regex": "[ab]{3}", "top_k": 5})
    check("vLLM's fields are heard", set(guided.choices[0].message.content) <= {"a", "b"}, guided)

    completed = client.completions.create(model=model, prompt=["The tide", "The mill"], max_tokens=4, echo=True, n=2)
    check("prompts and answers in order", [c.index for c in completed.choices] == [0, 1, 2, 3])
    check("echoes", completed.choices[2].text.startswith("The mill"), completed.choices[2].text)
    pieces = client.completions.create(model=model, prompt="The tide", max_tokens=8, stream=True, logprobs=2)
    check("a completion streams", any(chunk.choices and chunk.choices[0].finish_reason for chunk in pieces))
    cut = chat(model=model, messages=messages, max_tokens=4000, stream=True)
    next(iter(cut))
    cut.close()

    wrong = "invalid_request_error"
    refused("an unknown model", openai.NotFoundError, lambda: chat(model="none-such", messages=messages),
            code="model_not_found", param="model")
    refused("no messages", openai.BadRequestError, lambda: chat(model=model, messages=[]), param="messages", type=wrong)
    refused("a wrong temperature", openai.BadRequestError, lambda: chat(model=model, messages=messages, temperature=-1),
            param="temperature", type=wrong)
    refused("a wrong type", openai.BadRequestError, lambda: chat(model=model, messages=messages, max_tokens="many"),
            param="max_tokens", type=wrong)
    refused("a prompt that does not fit", openai.BadRequestError,
            lambda: client.completions.create(model=model, prompt="tide " * 12000), code="context_length_exceeded")

    for embedder in rest:
        vectors = client.embeddings.create(model=embedder, input=["tide", "mill"])
        plain = client.embeddings.create(model=embedder, input=["tide", "mill"], encoding_format="float")
        close = all(abs(a - b) < 1e-6 for one, other in zip(vectors.data, plain.data)
                    for a, b in zip(one.embedding, other.embedding))
        check("embeddings as base64 and as numbers", close and vectors.usage.prompt_tokens > 0)
        short = client.embeddings.create(model=embedder, input="tide", dimensions=8)
        check("embeddings of fewer dimensions", len(short.data[0].embedding) == 8)

    with urllib.request.urlopen(f"{address}/metrics") as response:
        metrics = response.read().decode()
    check("metrics", "tidemill_time_to_first_token_seconds_bucket" in metrics and "Say hello" not in metrics)
    print("all checks passed")


if __name__ == "__main__":
    main()

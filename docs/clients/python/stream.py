"""Streams by grpcio: an answer as it is written, one that is cancelled, and a stream of requests.

    pip install grpcio grpcio-reflection
    python stream.py 127.0.0.1:8080 --generator chat --classifier reviews

The messages come from the server itself, by reflection: no `.proto` file is read.
"""

import argparse
import os

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="127.0.0.1:8080", help="HOST:PORT")
    parser.add_argument("--generator", metavar="MODEL", help="a model that writes text")
    parser.add_argument("--classifier", metavar="MODEL", help="a model that gives texts labels")
    arguments = parser.parse_args()
    key = os.environ.get("TIDEMILL_API_KEY")
    with grpc.insecure_channel(arguments.address) as channel:
        if key:
            channel = grpc.intercept_channel(channel, WithKey(key))
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        if arguments.generator:
            generate(channel, pool, arguments.generator)
        if arguments.classifier:
            classify(channel, pool, arguments.classifier)


def method(channel, pool, service, name):
    """A method of the server's as a function, and the class of its requests."""
    found = pool.FindServiceByName(service).methods_by_name[name]
    request, answer = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
    kind = channel.stream_stream if found.client_streaming else channel.unary_stream
    return kind(f"/{service}/{name}", request.SerializeToString, answer.FromString), request


def generate(channel, pool, model):
    stream, request = method(channel, pool, "tidemill.v1.Generation", "GenerateStream")
    pieces = stream(request(model=model, prompt="The tide", sampling={"max_tokens": 16, "temperature": 0}), timeout=60)
    for piece in pieces:
        print(piece.text, end="", flush=True)
    print(f"\n{piece.usage.completion_tokens} tokens")

    # Who has read enough cancels, and the server stops working on it.
    endless = stream(request(model=model, prompt="The tide", sampling={"max_tokens": 64, "ignore_end": True}))
    next(endless)
    endless.cancel()
    print(f"cancelled: {endless.code().name}")


def classify(channel, pool, model):
    stream, request = method(channel, pool, "tidemill.v1.TextClassification", "ClassifyStream")
    batches = {"first": ["a fine film"], "wrong": [], "last": ["a dull one", "a tedious plot"]}
    # Answers come in the order of the requests, each with its id. One that fails does not end the stream.
    requests = (request(id=id, request={"model": model, "texts": texts}) for id, texts in batches.items())
    for answer in stream(requests, timeout=60):
        if answer.WhichOneof("outcome") == "error":
            print(f"{answer.id}: {answer.error.message}")
        else:
            print(f"{answer.id}: {[text.labels[0].label for text in answer.response.classifications]}")


class WithKey(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Sends the key with every call, reflection included."""

    def __init__(self, key):
        self.header = ("authorization", f"Bearer {key}")

    def intercept(self, proceed, call, request):
        return proceed(call._replace(metadata=[*(call.metadata or []), self.header]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = intercept


if __name__ == "__main__":
    main()

"""`ModelStreamInfer` through `tritonclient.grpc`'s `start_stream`: order, errors, pieces of text, the last answer."""

import queue
import time

import numpy
import tritonclient.grpc as triton

from cases import case, holds, run, same
from triton_tensors import given, texts

ONE = numpy.ones(1, dtype=numpy.float32)
WAIT = 20


class Stream:
    """A client with one open stream."""

    def __init__(self, arguments, **options):
        self.client = triton.InferenceServerClient(arguments.address)
        self.answers = queue.Queue()
        self.client.start_stream(callback=lambda result, error: self.answers.put((result, error)), **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream()
        self.client.close()

    def ask(self, model, inputs, **options):
        self.client.async_stream_infer(model, inputs, **options)

    def answer(self):
        result, error = self.answers.get(timeout=WAIT)
        if error is not None:
            raise error
        return result

    def error(self):
        result, error = self.answers.get(timeout=WAIT)
        holds(error is not None, f"it was answered: {result and result.get_response()}")
        return error

    def pieces(self):
        """The pieces of one answer, to the last."""
        pieces = []
        while True:
            result = self.answer()
            pieces.append(result)
            if is_final(result):
                return pieces


def is_final(result):
    return result.get_response().parameters["triton_final_response"].bool_param


@case("answers come in the order of their requests")
def ordered(arguments):
    with Stream(arguments) as stream:
        for number in range(32):
            model, inputs = ("identity", [given(triton, "x", ONE * number)])
            if number % 3 == 0:
                model, inputs = ("embedder", [given(triton, "text", ["a good film"])])
            stream.ask(model, inputs, request_id=str(number))
        same([stream.answer().get_response().id for _ in range(32)], [str(number) for number in range(32)])


@case("one answer is marked as the last of its request")
def marked(arguments):
    with Stream(arguments) as stream:
        stream.ask("identity", [given(triton, "x", ONE)])
        same(is_final(stream.answer()), True, "triton_final_response")
        stream.ask("identity", [given(triton, "x", ONE)], enable_empty_final_response=True)
        result = stream.answer()
        same((is_final(result), result.as_numpy("y").tolist()), (True, [1.0]), "with enable_empty_final_response")
        # Nothing more comes for either.
        stream.ask("identity", [given(triton, "x", ONE)], request_id="next")
        same(stream.answer().get_response().id, "next")


@case("a request that fails has an error, and the stream goes on")
def goes_on(arguments):
    with Stream(arguments) as stream:
        stream.ask("unknown", [given(triton, "x", ONE)], request_id="a")
        holds("unknown" in stream.error().message(), "the error does not name the model")
        stream.ask("identity", [given(triton, "z", ONE)], request_id="b")
        holds("inputs[0].name" in stream.error().message(), "the error does not name the field")
        stream.ask("identity", [given(triton, "x", ONE)], request_id="c")
        same(stream.answer().get_response().id, "c")


@case("a generator answers piece by piece")
def pieces(arguments):
    parameters = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
    text = [given(triton, "text", ["The tide turns"])]
    with Stream(arguments) as stream:
        whole = texts(stream.client.infer("generator", text, parameters=parameters).as_numpy("generated_text"))[0]
        for options in [{}, {"enable_empty_final_response": True}]:
            stream.ask("generator", text, parameters=dict(parameters), request_id="7", **options)
            found = stream.pieces()
            holds(len(found) > 3, f"there are {len(found)} pieces")
            same("".join(texts(piece.as_numpy("generated_text"))[0] for piece in found), whole, "the pieces together")
            same([is_final(piece) for piece in found], [False] * (len(found) - 1) + [True], "which of them is the last")
            same({piece.get_response().id for piece in found}, {"7"}, "their id")


@case("a stream of two models at once")
def mixed(arguments):
    with Stream(arguments) as stream:
        stream.ask("generator", [given(triton, "text", ["A mill"])], parameters={"max_tokens": 4}, request_id="text")
        stream.ask("identity", [given(triton, "x", ONE)], request_id="tensor")
        holds(all(piece.get_response().id == "text" for piece in stream.pieces()), "answers are mixed")
        same(stream.answer().get_response().id, "tensor")


@case("a stream that its client cancels")
def cancelled(arguments):
    stream = Stream(arguments)
    parameters = {"max_tokens": 100, "ignore_eos": True}
    for _ in range(8):
        stream.ask("generator", [given(triton, "text", ["The tide"])], parameters=dict(parameters))
    stream.answer()
    started = time.monotonic()
    stream.client.stop_stream(cancel_requests=True)
    holds(time.monotonic() - started < 3, "stopping took long")
    stream.client.infer("generator", [given(triton, "text", ["a"])], parameters={"max_tokens": 1}, client_timeout=10)
    stream.client.close()


@case("a stream's deadline ends it")
def deadline(arguments):
    with Stream(arguments, stream_timeout=0.5) as stream:
        stream.ask("identity", [given(triton, "x", ONE)])
        stream.answer()
        same(stream.error().status(), "StatusCode.DEADLINE_EXCEEDED")


if __name__ == "__main__":
    run()

"""Every call of `tritonclient.grpc` that is one request and one answer, as its users write them."""

import json
import queue
import time

import grpc
import numpy
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import refusals
import stored
from cases import Different, case, holds, near, run, same
from triton_tensors import given, texts

_clients = {}


def client(arguments):
    """One client for all cases, as a program has it."""
    return _clients.setdefault("grpc", triton.InferenceServerClient(arguments.address))


@case("ServerLive")
def live(arguments):
    same(client(arguments).is_server_live(), True)


@case("ServerReady")
def ready(arguments):
    same(client(arguments).is_server_ready(), True)


@case("ModelReady")
def model_ready(arguments):
    same(client(arguments).is_model_ready("identity"), True)
    same(client(arguments).is_model_ready("linear", "2"), True, "with its version")
    same(client(arguments).is_model_ready("linear", "9"), False, "another version")
    same(client(arguments).is_model_ready("unknown"), False, "an unknown model")


@case("ServerMetadata")
def server_metadata(arguments):
    found = client(arguments).get_server_metadata()
    same(found.name, "tidemill")
    holds(found.version, "there is no version")
    for extension in [
        "model_repository",
        "model_configuration",
        "system_shared_memory",
        "binary_tensor_data",
        "statistics",
    ]:
        holds(extension in found.extensions, f"the extension {extension} is not listed")
    same(client(arguments).get_server_metadata(as_json=True)["name"], "tidemill", "as JSON")


@case("ModelMetadata")
def model_metadata(arguments):
    found = client(arguments).get_model_metadata("linear", as_json=True)
    same((found["name"], found["versions"]), ("linear", ["2"]))
    same(found["platform"], "pytorch_torchscript", "the platform")
    same(found["inputs"], [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}], "the inputs")
    same(found["outputs"], [{"name": "y", "datatype": "FP32", "shape": ["-1", "2"]}], "the outputs")
    same(
        [tensor.name for tensor in client(arguments).get_model_metadata("classifier").outputs],
        ["probabilities", "label"],
    )


@case("ModelConfig")
def model_config(arguments):
    found = client(arguments).get_model_config("classifier").config
    same((found.name, found.backend), ("classifier", "tidemill"))
    same([(tensor.name, tensor.data_type) for tensor in found.input], [("text", 13)], "the input, TYPE_STRING")
    same([tensor.name for tensor in found.output], ["probabilities", "label"], "the outputs")
    same(found.model_transaction_policy.decoupled, False)
    holds(found.HasField("dynamic_batching"), "dynamic batching is not told")
    config = client(arguments).get_model_config("generator", as_json=True)["config"]
    same(config["model_transaction_policy"], {"decoupled": True}, "a generator's policy")


@case("ModelStatistics")
def statistics(arguments):
    def counted(name="linear"):
        return client(arguments).get_inference_statistics(name).model_stats[0]

    before, started = counted(), time.time()
    rows = numpy.ones((2, 3), dtype=numpy.float32)
    client(arguments).infer("linear", [given(triton, "x", rows)])
    refusals.by_grpc(
        grpc.StatusCode.INVALID_ARGUMENT, lambda: client(arguments).infer("linear", [given(triton, "z", rows)])
    )
    after = counted()
    same((after.name, after.version), ("linear", "2"))
    same(after.inference_stats.success.count - before.inference_stats.success.count, 1, "answered requests more")
    same(after.inference_count - before.inference_count, 2, "rows more")
    same(after.execution_count - before.execution_count, 1, "batches more")
    stats = after.inference_stats
    # perf_analyzer ends where they differ.
    same({part.count for part in (stats.compute_input, stats.compute_output)}, {stats.compute_infer.count}, "counts")
    holds(abs(after.last_inference / 1000 - started) < 60, "last_inference is not now, in milliseconds")
    holds(after.inference_stats.success.ns >= after.inference_stats.compute_infer.ns > 0, "times do not add up")
    listed = client(arguments).get_inference_statistics().model_stats
    holds({"identity", "linear", "generator"} <= {model.name for model in listed}, "not all models are listed")


@case("ModelInfer: a text classifier")
def classify(arguments):
    expected = stored.answers("sequence")
    answer = client(arguments).infer("classifier", [given(triton, "text", expected["texts"][:2])])
    same(answer.as_numpy("probabilities").shape, (2, 5), "the shape")
    logits = numpy.array(expected["logits"][:2])
    odds = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    near(
        answer.as_numpy("probabilities").reshape(-1),
        (odds / odds.sum(axis=1, keepdims=True)).reshape(-1),
        "probabilities",
    )
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    same(texts(answer.as_numpy("label")), [labels[index] for index in logits.argmax(axis=1)], "the labels")


@case("ModelInfer: an embedder")
def embed(arguments):
    expected = stored.answers("embedding")
    answer = client(arguments).infer("embedder", [given(triton, "text", expected["texts"][:3])])
    near(answer.as_numpy("embedding").reshape(-1), numpy.array(expected["mean"][:3]).reshape(-1), "vectors")


@case("ModelInfer: a reranker, two inputs")
def rerank(arguments):
    inputs = [
        given(triton, "query", ["where is the film"]),
        given(triton, "text", ["in London", "a good house", "Ada"]),
    ]
    scores = client(arguments).infer("reranker", inputs).as_numpy("score")
    turned = client(arguments).infer("reranker", inputs[::-1]).as_numpy("score")
    same(scores.shape, (3,), "the shape")
    near(scores, turned, "the scores with the inputs in another order")


@case("ModelInfer: entities")
def entities(arguments):
    found = client(arguments).infer("tagger", [given(triton, "text", ["Ada lives in London."])]).as_numpy("entities")
    spans = [(entity["label"], entity["text"]) for entity in json.loads(texts(found)[0])]
    same(spans, [("PER", "Ada"), ("PER", "London")], "the entities")


@case("ModelInfer: answers out of a text")
def read_out(arguments):
    expected = stored.answers("question")
    best = expected["found"][0]["answers"][0]
    inputs = [given(triton, "question", [expected["question"]]), given(triton, "text", expected["documents"][:1])]
    answer = client(arguments).infer("reader", inputs)
    same(texts(answer.as_numpy("answer")), [best[3]])
    near(answer.as_numpy("score"), [best[0]], "the score")


@case("ModelInfer: a generator with parameters")
def generate(arguments):
    parameters = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
    inputs = [given(triton, "text", ["The tide", "A mill"])]
    answer = client(arguments).infer("generator", inputs, parameters=parameters)
    alone = client(arguments).infer("generator", [given(triton, "text", ["A mill"])], parameters=parameters)
    written = texts(answer.as_numpy("generated_text"))
    same(written[1], texts(alone.as_numpy("generated_text"))[0], "the second of two texts")
    holds(written[0] and written[0] != written[1], f"two prompts gave {written}")


@case("ModelInfer: a translator with parameters")
def translate(arguments):
    parameters = {"source_language": "de_DE", "target_language": "en_XX", "max_tokens": 8, "beams": 2}
    answer = client(arguments).infer("translator", [given(triton, "text", ["A mill"])], parameters=parameters)
    same(answer.as_numpy("generated_text").shape, (1,))


@case("ModelInfer: a TorchScript model")
def opaque(arguments):
    rows = numpy.array([[1, 2, 3], [0, 0, 0]], dtype=numpy.float32)
    both = client(arguments).infer("linear", [given(triton, "x", rows)], model_version="2").as_numpy("y")
    one = client(arguments).infer("linear", [given(triton, "x", rows[:1])]).as_numpy("y")
    same(both.shape, (2, 2))
    near(both[0], one[0], "a row among others")


@case("ModelInfer: the request's id and parameters come back")
def id_and_parameters(arguments):
    parameters = {"number": -3, "text": "tide", "flag": True, "share": 0.25}
    values = numpy.ones(1, dtype=numpy.float32)
    answer = client(arguments).infer("identity", [given(triton, "x", values)], request_id="7 é", parameters=parameters)
    response = answer.get_response()
    same((response.id, response.model_name, response.model_version), ("7 é", "identity", "1"))
    found = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()}
    same(found, parameters, "the parameters")
    same(
        client(arguments).infer("identity", [given(triton, "x", values)]).get_response().id,
        "",
        "an id that was not given",
    )


@case("ModelInfer: requested outputs")
def requested(arguments):
    inputs = [given(triton, "text", ["a good film"])]

    def named(*names):
        outputs = [triton.InferRequestedOutput(name) for name in names]
        return [
            output.name
            for output in client(arguments).infer("classifier", inputs, outputs=outputs).get_response().outputs
        ]

    same(named("label"), ["label"], "one output")
    same(named("label", "probabilities"), ["label", "probabilities"], "both, in the request's order")
    same(named(), ["probabilities", "label"], "those of a request that names none")


@case("ModelInfer: sequence, priority and timeout of the request are passed over")
def scheduling(arguments):
    values = numpy.ones(1, dtype=numpy.float32)
    options = {"sequence_id": 5, "sequence_start": True, "sequence_end": True, "priority": 1, "timeout": 1_000_000}
    client(arguments).infer("identity", [given(triton, "x", values)], **options)
    client(arguments).infer("embedder", [given(triton, "text", ["a"])], **options)
    client(arguments).infer("generator", [given(triton, "text", ["a"])], parameters={"max_tokens": 2}, **options)


@case("ModelInfer: headers of the client's own")
def headers(arguments):
    values = numpy.ones(1, dtype=numpy.float32)
    client(arguments).infer(
        "identity", [given(triton, "x", values)], headers={"x-request-id": "abc", "traceparent": "00-1-2-01"}
    )


@case("ModelInfer: many at once by async_infer")
def at_once(arguments):
    answers = queue.Queue()
    for number in range(64):
        values = numpy.full(3, number, dtype=numpy.float32)
        client(arguments).async_infer(
            "identity",
            [given(triton, "x", values)],
            callback=lambda result, error: answers.put((result, error)),
            request_id=str(number),
        )
    seen = set()
    for _ in range(64):
        result, error = answers.get(timeout=20)
        if error is not None:
            raise error
        number = int(result.get_response().id)
        same(result.as_numpy("y").tolist(), [number] * 3)
        seen.add(number)
    same(len(seen), 64, "the number of different answers")


def long_generation(arguments, **options):
    """A request that takes far longer than its caller waits."""
    parameters = {"max_tokens": 100, "ignore_eos": True, "temperature": 1.0}
    prompts = given(triton, "text", ["The tide"] * 400)
    return {"inputs": [prompts], "parameters": parameters, **options}


@case("ModelInfer: client_timeout")
def client_timeout(arguments):
    started = time.monotonic()
    call = lambda: client(arguments).infer("generator", **long_generation(arguments, client_timeout=0.1))
    refusals.by_grpc(grpc.StatusCode.DEADLINE_EXCEEDED, call)
    holds(time.monotonic() - started < 3, "the call did not end at its deadline")


@case("ModelInfer: cancellation")
def cancel(arguments):
    answers = queue.Queue()
    options = long_generation(arguments, callback=lambda result, error: answers.put(error))
    call = client(arguments).async_infer("generator", **options)
    time.sleep(0.1)
    call.cancel()
    error = answers.get(timeout=10)
    holds(isinstance(error, InferenceServerException), f"the callback had {error!r}")
    same(error.status(), "StatusCode.CANCELLED", "the status")
    # What was cancelled has left the engine: another caller is answered soon.
    started = time.monotonic()
    client(arguments).infer(
        "generator", [given(triton, "text", ["a"])], parameters={"max_tokens": 2}, client_timeout=10
    )
    holds(time.monotonic() - started < 5, f"the next request took {time.monotonic() - started:.1f} s")


@case("typed contents of every list")
def typed_contents(arguments):
    stub = client(arguments)._client_stub
    lists = {
        "BOOL": ("bool_contents", [True, False]),
        "INT8": ("int_contents", [-128, 127]),
        "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
        "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
        "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
        "UINT8": ("uint_contents", [0, 2**8 - 1]),
        "UINT16": ("uint_contents", [0, 2**16 - 1]),
        "UINT32": ("uint_contents", [0, 2**32 - 1]),
        "UINT64": ("uint64_contents", [0, 2**64 - 1]),
        "FP32": ("fp32_contents", [0.5, -2.25]),
        "FP64": ("fp64_contents", [0.1, -1e300]),
        "BYTES": ("bytes_contents", [b"tide", b"\xff\x00"]),
    }
    for datatype, (list_name, values) in lists.items():
        for shape, content in [([2], values), ([2, 1], values), ([0], []), ([], values[:1])]:
            request = service_pb2.ModelInferRequest(model_name="identity")
            tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
            getattr(tensor.contents, list_name).extend(content)
            answer = stub.ModelInfer(request)
            what = f"{datatype} of shape {shape}"
            same((answer.outputs[0].datatype, list(answer.outputs[0].shape)), (datatype, shape), what)
            same(list(getattr(answer.outputs[0].contents, list_name)), content, f"the contents of {what}")
            same(len(answer.raw_output_contents), 0, f"the raw contents beside {what}")


@case("extensions that are not there answer UNIMPLEMENTED")
def absent(arguments):
    calls = {
        "TraceSetting": lambda: client(arguments).get_trace_settings(),
        "LogSettings": lambda: client(arguments).get_log_settings(),
        "CudaSharedMemoryStatus": lambda: client(arguments).get_cuda_shared_memory_status(),
    }
    for name, call in calls.items():
        try:
            call()
        except InferenceServerException as error:
            same(error.status(), "StatusCode.UNIMPLEMENTED", f"the status of {name}")
        else:
            raise Different(f"{name} was answered")


@case("a message that is compressed is refused, and an answer is not compressed")
def compression(arguments):
    values = numpy.ones(1, dtype=numpy.float32)
    call = lambda: client(arguments).infer("identity", [given(triton, "x", values)], compression_algorithm="gzip")
    try:
        call()
    except InferenceServerException as error:
        same(error.status(), "StatusCode.UNIMPLEMENTED", "the status")
    else:
        raise Different("it was answered")


@case("a message beyond the server's bound")
def too_large(arguments):
    values = numpy.zeros(2_000_000, dtype=numpy.float32)
    call = lambda: client(arguments).infer("identity", [given(triton, "x", values)])
    refusals.by_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, call)


@case("keep-alive and channel options")
def channel_options(arguments):
    options = triton.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
    with triton.InferenceServerClient(arguments.address, keepalive_options=options) as kept:
        same(kept.is_server_live(), True)
    channel_args = [("grpc.max_receive_message_length", 1 << 26)]
    with triton.InferenceServerClient(arguments.address, channel_args=channel_args) as kept:
        same(kept.is_server_live(), True)


if __name__ == "__main__":
    run()

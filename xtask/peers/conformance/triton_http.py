"""Every call of `tritonclient.http`, and of its asyncio form, with JSON and with bytes."""

import json
import urllib.request

import numpy
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

import refusals
from cases import case, holds, run, same
from triton_tensors import given, texts

ONE = numpy.ones(1, dtype=numpy.float32)
_clients = {}


def client(arguments):
    return _clients.setdefault("http", triton.InferenceServerClient(arguments.address, concurrency=8))


def fetched(arguments, path, body=None):
    """Status, headers and body of a plain request."""
    body = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{arguments.address}{path}", data=body)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@case("GET v2/health/live, v2/health/ready")
def health(arguments):
    same(client(arguments).is_server_live(), True, "live")
    same(client(arguments).is_server_ready(), True, "ready")


@case("GET v2/models/NAME[/versions/V]/ready")
def model_ready(arguments):
    same(client(arguments).is_model_ready("linear"), True)
    same(client(arguments).is_model_ready("linear", "2"), True, "with its version")
    same(client(arguments).is_model_ready("linear", "9"), False, "another version")
    same(client(arguments).is_model_ready("unknown"), False, "an unknown model")


@case("GET v2")
def server_metadata(arguments):
    found = client(arguments).get_server_metadata()
    same(found["name"], "tidemill")
    holds({"binary_tensor_data", "model_repository"} <= set(found["extensions"]), "extensions are missing")


@case("GET v2/models/NAME[/versions/V]")
def model_metadata(arguments):
    for version in ["", "2"]:
        found = client(arguments).get_model_metadata("linear", version)
        same((found["name"], found["versions"], found["platform"]), ("linear", ["2"], "pytorch_torchscript"))
        same(found["inputs"], [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}], "the inputs")
        same(found["outputs"], [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}], "the outputs")


@case("GET v2/models/NAME[/versions/V]/config")
def model_config(arguments):
    for version in ["", "1"]:
        found = client(arguments).get_model_config("generator", version)
        same((found["name"], found["max_batch_size"]), ("generator", 0))
        same(found["input"][0]["data_type"], "TYPE_STRING")
        same(found["model_transaction_policy"], {"decoupled": True})


@case("GET v2/models[/NAME[/versions/V]]/stats")
def statistics(arguments):
    def answered():
        return client(arguments).get_inference_statistics("identity", "1")["model_stats"][0]["inference_stats"][
            "success"
        ]["count"]

    before = answered()
    client(arguments).infer("identity", [given(triton, "x", ONE)])
    same(answered() - before, 1, "answered requests more")
    names = {model["name"] for model in client(arguments).get_inference_statistics()["model_stats"]}
    holds({"identity", "generator"} <= names, f"the models are {names}")


@case("POST v2/models/NAME[/versions/V]/infer")
def infer(arguments):
    rows = numpy.array([[1, 2, 3]], dtype=numpy.float32)
    found = [
        client(arguments).infer("linear", [given(triton, "x", rows)], version).as_numpy("y") for version in ["", "2"]
    ]
    same(found[0].tolist(), found[1].tolist())


@case("infer: the request's id and parameters come back")
def id_and_parameters(arguments):
    parameters = {"number": -3, "text": "tide", "flag": True, "share": 0.25}
    answer = client(arguments).infer("identity", [given(triton, "x", ONE)], request_id="7 é", parameters=parameters)
    response = answer.get_response()
    same((response["id"], response["model_name"], response["model_version"]), ("7 é", "identity", "1"))
    same(response["parameters"], parameters)


@case("infer: requested outputs, each in its form")
def requested(arguments):
    inputs = [given(triton, "text", ["a good film"])]
    outputs = [triton.InferRequestedOutput("label", binary_data=False), triton.InferRequestedOutput("probabilities")]
    answer = client(arguments).infer("classifier", inputs, outputs=outputs)
    described = answer.get_response()["outputs"]
    same([output["name"] for output in described], ["label", "probabilities"], "the outputs")
    same(["data" in output for output in described], [True, False], "which of them are JSON")
    same(answer.as_numpy("probabilities").shape, (1, 5))
    same(answer.as_numpy("label").shape, (1,))


@case("infer: without outputs all come, as bytes")
def all_outputs(arguments):
    answer = client(arguments).infer("classifier", [given(triton, "text", ["a good film", ""])])
    same([output["name"] for output in answer.get_response()["outputs"]], ["probabilities", "label"])
    same(answer.as_numpy("label").shape, (2,))


@case("infer: a generator with parameters")
def generate(arguments):
    parameters = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True}
    answer = client(arguments).infer("generator", [given(triton, "text", ["A mill"])], parameters=parameters)
    holds(texts(answer.as_numpy("generated_text"))[0], "the text is empty")


@case("infer: sequence, priority and timeout of the request are passed over")
def scheduling(arguments):
    options = {"sequence_id": 5, "sequence_start": True, "sequence_end": True, "priority": 1, "timeout": 1_000_000}
    client(arguments).infer("identity", [given(triton, "x", ONE)], **options)
    client(arguments).infer("embedder", [given(triton, "text", ["a"])], **options)
    client(arguments).infer("generator", [given(triton, "text", ["a"])], parameters={"max_tokens": 2}, **options)


@case("infer: many at once by async_infer")
def at_once(arguments):
    asked = [client(arguments).async_infer("identity", [given(triton, "x", ONE * number)]) for number in range(64)]
    same([answer.get_result().as_numpy("y").tolist()[0] for answer in asked], list(range(64)))


@case("infer: a request compressed by the client is refused")
def compressed_request(arguments):
    call = lambda: client(arguments).infer("identity", [given(triton, "x", ONE)], request_compression_algorithm="gzip")
    refusals.by_http(400, call, says="compressed")


@case("infer: an answer that may be compressed")
def compressed_answer(arguments):
    answer = client(arguments).infer("identity", [given(triton, "x", ONE)], response_compression_algorithm="gzip")
    same(answer.as_numpy("y").tolist(), [1.0])


@case("generate_request_body and parse_response_body")
def bodies(arguments):
    body, length = triton.InferenceServerClient.generate_request_body([given(triton, "x", ONE)])
    request = urllib.request.Request(f"http://{arguments.address}/v2/models/identity/infer", data=body)
    request.add_header("Inference-Header-Content-Length", str(length))
    with urllib.request.urlopen(request) as answer:
        length = answer.headers.get("Inference-Header-Content-Length")
        length = None if length is None else int(length)
        result = triton.InferenceServerClient.parse_response_body(answer.read(), header_length=length)
    same(result.as_numpy("y").tolist(), [1.0])


@case("infer: plain JSON of a client that is none")
def plain(arguments):
    body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "INT64", "data": [[1], [2**53 + 1]]}]}
    status, headers, answer = fetched(arguments, "/v2/models/identity/infer", body)
    same((status, headers["Content-Type"]), (200, "application/json"))
    output = json.loads(answer)["outputs"][0]
    same(output, {"name": "y", "shape": [2, 1], "datatype": "INT64", "data": [1, 2**53 + 1]})


@case("paths that are not there")
def absent(arguments):
    for path in ["/v2/nothing", "/v2/models/identity/nothing", "/v2/trace/setting", "/v2/logging"]:
        status, _, answer = fetched(arguments, path)
        same(status, 404, f"the status of {path}")
        holds("error" in json.loads(answer), f"the answer of {path} is {answer!r}")
    status, _, _ = fetched(arguments, "/v2/models/identity/infer")
    same(status, 405, "the status of a GET to infer")


@case("tritonclient.http.aio")
async def by_asyncio(arguments):
    async with triton_aio.InferenceServerClient(arguments.address) as client:
        same(await client.is_server_ready(), True)
        same((await client.get_model_metadata("identity"))["name"], "identity")
        answer = await client.infer("identity", [given(triton_aio, "x", ONE)], request_id="8")
        same((answer.get_response()["id"], answer.as_numpy("y").tolist()), ("8", [1.0]))


if __name__ == "__main__":
    run()

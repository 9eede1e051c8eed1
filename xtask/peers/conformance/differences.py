"""The protocol beside Triton: the same requests to both identity models, over gRPC and HTTP, and what each answers.

Sentences are each server's own; codes, fields, shapes, datatypes and contents are compared. A case in DEFENDED differs for a
reason that docs/SERVING.md gives ("Where Triton answers differently"), and fails when it does not differ any more. Any other
difference fails.
"""

import json
import pathlib
import urllib.error
import urllib.request

import grpc
import numpy
import tritonclient.utils.shared_memory as regions
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cases import Different, case, holds, run

# Cases that differ, and the row of the table in docs/SERVING.md that says why.
DEFENDED = {
    "ModelInfer: typed contents": "typed contents",
    "ModelInfer: a typed number beyond its datatype": "numbers beyond their datatype",
    "HTTP: a number beyond its datatype": "numbers beyond their datatype",
    "ModelInfer: more raw contents than tensors": "what is said twice or too much",
    "ModelInfer: an output asked for twice": "what is said twice or too much",
    "ModelInfer: classification": "the classification extension",
    "ModelInfer: no model": "no model named",
    "ModelInfer: parameters": "a request's parameters",
    "HTTP: parameters": "a request's parameters",
    "HTTP: liveness": "live and ready over HTTP",
    "HTTP: readiness": "live and ready over HTTP",
    "HTTP: a ready model": "live and ready over HTTP",
    "HTTP: infinity": "infinities in JSON",
    "ModelReady: a version that is no number": "versions",
    "ModelStatistics: an unknown model": "unknown models",
    "RepositoryModelLoad: an unknown model": "unknown models",
    "RepositoryModelUnload: an unknown model": "unknown models",
    "HTTP: statistics of an unknown model": "unknown models",
    "HTTP: loading an unknown model": "unknown models",
    "HTTP: unloading an unknown model": "unknown models",
    "SystemSharedMemoryRegister: an object that is not there": "what a caller has wrong",
    "HTTP: no JSON": "what a caller has wrong",
    "HTTP: no object": "what a caller has wrong",
    "HTTP: no inputs": "what a caller has wrong",
    "HTTP: no data": "what a caller has wrong",
    "HTTP: another shape": "what a caller has wrong",
    "HTTP: an element of another type": "what a caller has wrong",
    "HTTP: a number as a boolean": "what a caller has wrong",
    "HTTP: a fraction as an integer": "what a caller has wrong",
}


DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs/SERVING.md"


@case("what differs is told in docs/SERVING.md")
def told(arguments):
    section = DOCUMENT.read_text().partition("### Where Triton answers differently")[2].partition("\n## ")[0]
    for row in set(DEFENDED.values()):
        holds(f"| {row} |" in section, f"there is no row {row!r}")


class Peer:
    """One of the two servers. Triton's models take one datatype each, ours any."""

    def __init__(self, grpc_address, http_address, has_one_model):
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(grpc_address))
        self.http_address, self.has_one_model = http_address, has_one_model

    def model(self, datatype="FP32"):
        """The name of the identity model of a datatype."""
        return "identity" if self.has_one_model else f"identity_{datatype.lower()}".replace("bytes", "string")

    def call(self, method, message=None, **fields):
        """Calls a method. `MODEL` in a field is the model's name."""
        fields = {name: self.model() if value == "MODEL" else value for name, value in fields.items()}
        return getattr(self.stub, method)(getattr(service_pb2, message or f"{method}Request")(**fields), timeout=20)

    def infer(self, fields):
        """An answer without what names the model. A request without a name is for the model of its datatype."""
        datatype = fields["inputs"][0]["datatype"] if fields["inputs"] else "FP32"
        answer = self.call("ModelInfer", **{"model_name": self.model(datatype), **fields})
        outputs = [
            (tensor.name, tensor.datatype, list(tensor.shape), str(tensor.contents)) for tensor in answer.outputs
        ]
        return answer.id, answer.model_version, sorted(answer.parameters), outputs, list(answer.raw_output_contents)

    def stream(self, *all_fields):
        """Each answer's id, whether it is an error, and how it is marked."""
        whole = [{"model_name": self.model(), **plain(), **fields} for fields in all_fields]
        requests = iter([service_pb2.ModelInferRequest(**fields) for fields in whole])
        answers = []
        for answer in self.stub.ModelStreamInfer(requests, timeout=20):
            marks = {name: value.bool_param for name, value in answer.infer_response.parameters.items()}
            answers.append((answer.infer_response.id, bool(answer.error_message), marks))
        return answers

    def fetch(self, path, body):
        """Status and answer over HTTP, without what names the server or the model."""
        datatype = "FP32"
        if isinstance(body, dict) and body.get("inputs"):
            datatype = body["inputs"][0]["datatype"]
        path = path.replace("MODEL", self.model(datatype))
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.http_address}{path}", data=data)
        with urllib.request.urlopen(request, timeout=20) as answer:
            said = answer.read()
        fields = json.loads(said) if said else None
        if isinstance(fields, dict):
            fields.pop("model_name", None)
            fields.pop("name", None)
        return answer.status, fields


def observed(peer, ask):
    """What a peer answers, or how it refuses."""
    try:
        return ask(peer)
    except grpc.RpcError as error:
        return error.code().name
    except urllib.error.HTTPError as error:
        return error.code, sorted(json.loads(error.read()))


def compared(name, ask):
    """A case: what both answer to the same."""

    def compare(arguments):
        ours = observed(Peer(arguments.address, arguments.address, True), ask)
        theirs = observed(Peer(arguments.triton_grpc, arguments.triton_http, False), ask)
        both = f"here {ours!r}, Triton {theirs!r}"
        if (ours == theirs) == (name in DEFENDED):
            raise Different(both)
        return None if ours == theirs else f"{both} ({DEFENDED[name]})"

    case(name)(compare)


def tensor(datatype="FP32", **other):
    return {"name": "x", "datatype": datatype, "shape": [1], **other}


def plain(**other):
    """A request with one number, as it should be but for these fields."""
    return {"inputs": [tensor()], "raw_input_contents": [b"\0\0\x80?"], **other}


def typed(datatype="FP32", **contents):
    return {"inputs": [tensor(datatype, contents=contents)]}


def parameter(**value):
    return service_pb2.InferParameter(**value)


SIZES = {"BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8}
SIZES |= {"FP16": 2, "FP32": 4, "FP64": 8}
REGION = {"shared_memory_region": parameter(string_param="no"), "shared_memory_byte_size": parameter(int64_param=4)}
REQUESTS = {
    **{name: {"inputs": [tensor(name)], "raw_input_contents": [b"\1" * size]} for name, size in SIZES.items()},
    "BYTES": {"inputs": [tensor("BYTES")], "raw_input_contents": [b"\2\0\0\0\xff\0"]},
    "BYTES that end too soon": {"inputs": [tensor("BYTES")], "raw_input_contents": [b"\5\0\0\0a"]},
    "an id": plain(id="7"),
    "parameters": plain(parameters={"a": parameter(int64_param=3)}),
    "no elements": plain(inputs=[tensor(shape=[0])], raw_input_contents=[b""]),
    "typed contents": typed(fp32_contents=[1]),
    "typed contents of another list": typed(int_contents=[1]),
    "typed contents of FP16": typed("FP16", fp32_contents=[1]),
    "a typed number beyond its datatype": typed("INT8", int_contents=[128]),
    "more typed contents than the shape": typed(fp32_contents=[1, 2]),
    "typed and raw contents": plain(**typed(fp32_contents=[1])),
    "more raw contents than tensors": plain(raw_input_contents=[b"\0\0\x80?"] * 2),
    "no contents": plain(raw_input_contents=[]),
    "fewer bytes than the shape": plain(inputs=[tensor(shape=[2])]),
    "more bytes than the shape": plain(inputs=[tensor(shape=[0])]),
    "a shape below zero": plain(inputs=[tensor(shape=[-1])]),
    "an unknown datatype": plain(inputs=[tensor("FP31")], model_name="MODEL"),
    "an input of another name": plain(inputs=[tensor(name="z")]),
    "no input": {"inputs": []},
    "an input too many": plain(inputs=[tensor(), tensor(name="z")], raw_input_contents=[b"\0\0\x80?"] * 2),
    "an output": plain(outputs=[{"name": "y"}]),
    "an unknown output": plain(outputs=[{"name": "z"}]),
    "an output asked for twice": plain(outputs=[{"name": "y"}] * 2),
    "classification": plain(outputs=[{"name": "y", "parameters": {"classification": parameter(int64_param=1)}}]),
    "an unknown model": plain(model_name="unknown"),
    "another version": plain(model_version="9"),
    "no model": plain(model_name=""),
    "a region that is not registered": {"inputs": [tensor(parameters=REGION)]},
}
for name, fields in REQUESTS.items():
    compared(f"ModelInfer: {name}", lambda peer, fields=fields: peer.infer(fields))


def in_a_region(peer):
    """An answer whose tensor goes to shared memory."""
    handle = regions.create_shared_memory_region("output", "/tidemill_difference", 64)
    try:
        peer.call("SystemSharedMemoryRegister", name="output", key="/tidemill_difference", byte_size=64)
        place = {
            "shared_memory_region": parameter(string_param="output"),
            "shared_memory_byte_size": parameter(int64_param=4),
        }
        answer = peer.infer(plain(outputs=[{"name": "y", "parameters": place}]))
        peer.call("SystemSharedMemoryUnregister", name="output")
        return answer, regions.get_contents_as_numpy(handle, numpy.float32, [1]).tolist()
    finally:
        regions.destroy_shared_memory_region(handle)


compared("ModelInfer: an output in a region", in_a_region)

EMPTY_LAST = {"triton_enable_empty_final_response": parameter(bool_param=True)}
STREAMS = {
    "an error among answers": [{"id": "1"}, {"id": "2", "model_name": "unknown"}, {"id": "3"}],
    "an empty last answer": [{"id": "1", "parameters": EMPTY_LAST}],
}
for name, requests in STREAMS.items():
    compared(f"ModelStreamInfer: {name}", lambda peer, requests=requests: peer.stream(*requests))


def tensors(answer):
    return [(kind.name, kind.datatype, list(kind.shape)) for kind in [*answer.inputs, *answer.outputs]]


def configured(answer):
    return [(kind.name, kind.data_type, list(kind.dims)) for kind in [*answer.config.input, *answer.config.output]]


# What is asked, with which fields, and what is looked at of the answer.
CALLS = {
    "ServerLive": ({}, lambda answer: answer.live),
    "ServerReady": ({}, lambda answer: answer.ready),
    "ServerMetadata": ({}, lambda answer: [bool(answer.name), bool(answer.version), bool(answer.extensions)]),
    "ModelReady": ({"name": "MODEL"}, lambda answer: answer.ready),
    "ModelReady: an unknown model": ({"name": "unknown"}, lambda answer: answer.ready),
    "ModelReady: another version": ({"name": "MODEL", "version": "9"}, lambda answer: answer.ready),
    "ModelReady: a version that is no number": ({"name": "MODEL", "version": "x"}, lambda answer: answer.ready),
    "ModelMetadata": ({"name": "MODEL"}, tensors),
    "ModelMetadata: an unknown model": ({"name": "unknown"}, tensors),
    "ModelMetadata: another version": ({"name": "MODEL", "version": "9"}, tensors),
    "ModelConfig": ({"name": "MODEL"}, configured),
    "ModelConfig: an unknown model": ({"name": "unknown"}, configured),
    "ModelStatistics": ({"name": "MODEL"}, lambda answer: len(answer.model_stats)),
    "ModelStatistics: an unknown model": ({"name": "unknown"}, lambda answer: len(answer.model_stats)),
    "RepositoryIndex": ({"ready": True}, lambda answer: {model.state for model in answer.models}),
    "RepositoryModelLoad: an unknown model": ({"model_name": "unknown"}, str),
    "RepositoryModelUnload: an unknown model": ({"model_name": "unknown"}, str),
    "SystemSharedMemoryStatus": ({}, lambda answer: len(answer.regions)),
    "SystemSharedMemoryStatus: an unknown region": ({"name": "unknown"}, str),
    "SystemSharedMemoryRegister: an object that is not there": (
        {"name": "r", "key": "/not_there", "byte_size": 4},
        str,
    ),
    "SystemSharedMemoryUnregister: an unknown region": ({"name": "unknown"}, str),
}
for name, (fields, look) in CALLS.items():
    method = name.split(":")[0]
    compared(name, lambda peer, method=method, fields=fields, look=look: look(peer.call(method, **fields)))


def asked(datatype="FP32", **other):
    """The body of a request with one number, as it should be but for these fields of its input."""
    return {"inputs": [tensor(datatype, **{"data": [1], **other})]}


INFER = "/v2/models/MODEL/infer"
PATHS = {
    "liveness": ("/v2/health/live", None),
    "readiness": ("/v2/health/ready", None),
    "a ready model": ("/v2/models/MODEL/ready", None),
    "readiness of an unknown model": ("/v2/models/unknown/ready", None),
    "readiness of another version": ("/v2/models/MODEL/versions/9/ready", None),
    "metadata of an unknown model": ("/v2/models/unknown", None),
    "metadata of another version": ("/v2/models/MODEL/versions/9", None),
    "statistics of an unknown model": ("/v2/models/unknown/stats", None),
    "infer": (INFER, {**asked(), "id": "7"}),
    "infer, a version": ("/v2/models/MODEL/versions/1/infer", asked()),
    "parameters": (INFER, {**asked(), "parameters": {"a": 1}}),
    "nested data": (INFER, asked(data=[[1]])),
    "no elements": (INFER, asked(shape=[0], data=[])),
    "infinity": (INFER, asked(data=[1e39])),
    "an unknown model": ("/v2/models/unknown/infer", asked()),
    "another version": ("/v2/models/MODEL/versions/9/infer", asked()),
    "no JSON": (INFER, b"{"),
    "no object": (INFER, []),
    "no inputs": (INFER, {}),
    "no data": (INFER, asked(data=None)),
    "another shape": (INFER, asked(shape=[2])),
    "an input of another name": (INFER, asked(name="z")),
    "an unknown output": (INFER, {**asked(), "outputs": [{"name": "z"}]}),
    "an element of another type": (INFER, asked(data=["1"])),
    "INT8": (INFER, asked("INT8", data=[-128])),
    "a number beyond its datatype": (INFER, asked("INT8", data=[128])),
    "a fraction as an integer": (INFER, asked("INT8", data=[1.5])),
    "BOOL": (INFER, asked("BOOL", data=[True])),
    "a number as a boolean": (INFER, asked("BOOL")),
    "FP16": (INFER, asked("FP16")),
    "BYTES": (INFER, asked("BYTES", data=["die Mühle"])),
    "a path that is not there": ("/v2/nothing", None),
    "a GET that should be a POST": (INFER, None),
    "loading an unknown model": ("/v2/repository/models/unknown/load", {}),
    "unloading an unknown model": ("/v2/repository/models/unknown/unload", {}),
    "regions": ("/v2/systemsharedmemory/status", None),
    "an unknown region": ("/v2/systemsharedmemory/region/unknown/status", None),
}
for name, (path, body) in PATHS.items():
    compared(f"HTTP: {name}", lambda peer, path=path, body=body: peer.fetch(path, body))

if __name__ == "__main__":
    run("triton-grpc", "triton-http")

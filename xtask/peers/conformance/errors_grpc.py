"""What a wrong request is answered with over gRPC: the code, and `google.rpc` details that name the field."""

import math

import grpc
import numpy
import tritonclient.grpc as triton
from google.rpc import error_details_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

import refusals
from cases import Different, case, holds, run, same
from triton_tensors import given

INVALID = grpc.StatusCode.INVALID_ARGUMENT
SIZES = {"FP32": 4, "FP64": 8, "FP31": 4}


def raw(name, datatype, shape, content=None):
    """A tensor and its raw contents: zeros, as many as the shape has, unless they are given."""
    content = bytes(SIZES[datatype] * math.prod(shape)) if content is None else content
    return {"name": name, "datatype": datatype, "shape": shape}, content


def texts(name, *values, shape=None):
    content = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    return raw(name, "BYTES", [len(values)] if shape is None else shape, content)


def asked(model, *inputs, **fields):
    """A request with raw contents."""
    tensors, contents = [tensor for tensor, _ in inputs], [content for _, content in inputs]
    return {"model_name": model, "inputs": tensors, "raw_input_contents": contents, **fields}


def typed(datatype, **contents):
    """A request to the identity model with typed contents."""
    tensor = {"name": "x", "datatype": datatype, "shape": [1], "contents": contents}
    return {"model_name": "identity", "inputs": [tensor]}


def wanting(*outputs):
    """A request for outputs of the identity model."""
    return asked("identity", ONE, outputs=list(outputs))


def generated(name, **value):
    """A request to a generator with a parameter."""
    return asked("generator", texts("text", b"a"), parameters={name: service_pb2.InferParameter(**value)})


ONE = raw("x", "FP32", [1])
CLASSES = {"name": "y", "parameters": {"classification": service_pb2.InferParameter(int64_param=1)}}
TYPED_AND_RAW = {**typed("FP32", fp32_contents=[1]), "raw_input_contents": [bytes(4)]}
TWO_CONTENTS = {**asked("identity", ONE), "raw_input_contents": [bytes(4), bytes(4)]}
# What is wrong, the field that BadRequest names, a part of the sentence, and the request.
WRONG = [
    ("an input of another name", "inputs", "z", asked("linear", raw("z", "FP32", [2, 3]))),
    ("an input of another name, identity", "inputs[0].name", "x", asked("identity", raw("z", "FP32", [1]))),
    ("an input of another name, text", "inputs[0].name", "text", asked("embedder", texts("texts", b"a"))),
    ("an input too few", "inputs", "query", asked("reranker", texts("text", b"a"))),
    ("an input too many", "inputs", "one tensor", asked("identity", ONE, ONE)),
    ("an input twice", "inputs[1].name", "twice", asked("reranker", texts("text", b"a"), texts("text", b"a"))),
    ("no input", "inputs", "one tensor", asked("identity")),
    ("another datatype", "inputs", "FP32", asked("linear", raw("x", "FP64", [2, 3]))),
    ("another datatype, text", "inputs[0].datatype", "BYTES", asked("embedder", raw("text", "FP32", [1]))),
    ("an unknown datatype", "inputs[0].datatype", "FP31", asked("identity", raw("x", "FP31", [1]))),
    ("another shape", "inputs", "[-1, 3]", asked("linear", raw("x", "FP32", [3, 2]))),
    ("another number of dimensions", "inputs", "[-1, 3]", asked("linear", raw("x", "FP32", [6]))),
    ("another shape, text", "inputs[0].shape", "[n]", asked("embedder", texts("text", b"a", b"b", shape=[1, 2]))),
    ("a shape below zero", "inputs[0].shape", "-1", asked("identity", raw("x", "FP32", [-1], b""))),
    ("a shape beyond counting", "inputs[0].shape", "", asked("identity", raw("x", "FP32", [2**62, 2**62], b""))),
    ("fewer bytes than the shape", "raw_input_contents[0]", "8", asked("identity", raw("x", "FP32", [2], bytes(4)))),
    ("more bytes than the shape", "raw_input_contents[0]", "4", asked("identity", raw("x", "FP32", [0], bytes(4)))),
    ("more rows than a batch may have", "inputs", "8", asked("linear", raw("x", "FP32", [9, 3]))),
    ("BYTES that end too soon", "raw_input_contents[0]", "", asked("identity", raw("x", "BYTES", [1], b"\5\0\0\0a"))),
    ("BYTES that are no text", "raw_input_contents[0]: text 1", "UTF-8", asked("embedder", texts("text", b"", b"\xff"))),
    ("typed and raw contents at once", "inputs[0].contents", "raw_input_contents", TYPED_AND_RAW),
    ("typed contents of another list", "inputs[0].contents", "fp32_contents", typed("FP32", int_contents=[1])),
    ("typed contents beyond the datatype", "inputs[0].contents", "INT8", typed("INT8", int_contents=[128])),
    ("typed contents of FP16", "inputs[0].contents", "raw_input_contents", typed("FP16", fp32_contents=[1])),
    ("more raw contents than tensors", "raw_input_contents", "1 tensors", TWO_CONTENTS),
    ("an unknown output", "outputs[0].name", "y", wanting({"name": "z"})),
    ("an output twice", "outputs[1].name", "twice", wanting({"name": "y"}, {"name": "y"})),
    ("the classification extension", "outputs[0].parameters", "classification", wanting(CLASSES)),
    ("an unknown parameter of a generator", "parameters", "tokens", generated("tokens", int64_param=1)),
    ("a parameter of another type", "parameters", "max_tokens", generated("max_tokens", string_param="1")),
    ("no model where there are several", "model_name", "", asked("", ONE)),
]  # fmt: skip


def wrong(field, says, fields):
    def check(arguments):
        with grpc.insecure_channel(arguments.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = lambda: stub.ModelInfer(service_pb2.ModelInferRequest(**fields))
            refusals.by_grpc(INVALID, call, field=field, says=says)

    return check


for name, field, says, fields in WRONG:
    case(f"INVALID_ARGUMENT: {name}")(wrong(field, says, fields))


VALUES = numpy.ones(1, dtype=numpy.float32)


@case("NOT_FOUND: an unknown model, with the nearest name")
def unknown_model(arguments):
    with triton.InferenceServerClient(arguments.address) as client:
        calls = {
            "ModelInfer": lambda: client.infer("identitty", [given(triton, "x", VALUES)]),
            "ModelMetadata": lambda: client.get_model_metadata("identitty"),
            "ModelConfig": lambda: client.get_model_config("identitty"),
            "ModelStatistics": lambda: client.get_inference_statistics("identitty"),
        }
        for call in calls.values():
            error = refusals.by_grpc(grpc.StatusCode.NOT_FOUND, call, says="identity")
            found = refusals.details(error, error_details_pb2.ResourceInfo)
            same((found.resource_type, found.resource_name), ("model", "identitty"), "the resource of the details")


@case("NOT_FOUND: another version")
def unknown_version(arguments):
    with triton.InferenceServerClient(arguments.address) as client:
        call = lambda: client.infer("identity", [given(triton, "x", VALUES)], model_version="9")
        refusals.by_grpc(grpc.StatusCode.NOT_FOUND, call, says="9", detail=error_details_pb2.ResourceInfo)
        call = lambda: client.get_model_metadata("identity", "../1")
        refusals.by_grpc(grpc.StatusCode.NOT_FOUND, call)


@case("UNIMPLEMENTED: a method and a service that are not there")
def unknown_method(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        for path in ["/inference.GRPCInferenceService/ModelTrain", "/other.Service/Call"]:
            call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
            try:
                call(b"")
            except grpc.RpcError as error:
                same(error.code(), grpc.StatusCode.UNIMPLEMENTED, path)
            else:
                raise Different(f"{path} was answered")


@case("a message that is none")
def not_a_message(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        path = "/inference.GRPCInferenceService/ModelInfer"
        call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"\xff\xff\xff")
        except grpc.RpcError as error:
            holds(error.code() in [grpc.StatusCode.INTERNAL, INVALID], f"the code is {error.code()}")
        else:
            raise Different("it was answered")


if __name__ == "__main__":
    run()

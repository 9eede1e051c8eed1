"""Every datatype of the protocol, in every form that it travels in, with shapes that are easy to forget: without elements,
without dimensions. The identity model gives back what it was given.
"""

import functools

import numpy
import tritonclient.grpc
import tritonclient.http

from cases import case, holds, run, same
from triton_tensors import DATATYPES, SHAPES, array, given, identical

# JSON has no form of these.
BYTES_ALONE = ["FP16", "BF16"]
_clients = {}


def client(module, arguments):
    return _clients.setdefault(module, module.InferenceServerClient(arguments.address))


def raw_by_grpc(datatype, arguments):
    check(tritonclient.grpc, datatype, arguments, {}, {})


def binary_by_http(datatype, arguments):
    check(tritonclient.http, datatype, arguments, {"binary_data": True}, {"binary_data": True})


def json_by_http(datatype, arguments):
    check(tritonclient.http, datatype, arguments, {"binary_data": False}, {"binary_data": False})


def json_in_binary_out(datatype, arguments):
    check(tritonclient.http, datatype, arguments, {"binary_data": False}, {"binary_data": True})


def check(module, datatype, arguments, form, output_form):
    for shape in SHAPES:
        values = array(datatype, shape)
        if datatype == "BYTES" and not all(output_form.values()):
            # JSON's strings are texts.
            values = numpy.array([b"", "die Mühle".encode(), b"tide"] * 2, dtype=numpy.object_)[: values.size].reshape(
                shape
            )
        tensor = module.InferInput("x", list(shape), datatype)
        if form:
            tensor.set_data_from_numpy(values, **form)
        else:
            tensor.set_data_from_numpy(values)
        outputs = [module.InferRequestedOutput("y", **output_form)]
        answer = client(module, arguments).infer("identity", [tensor], outputs=outputs)
        described = answer.get_output("y")
        described = (
            described
            if isinstance(described, dict)
            else {"datatype": described.datatype, "shape": list(described.shape)}
        )
        same(
            (described["datatype"], described["shape"]),
            (datatype, list(shape)),
            f"of shape {shape}: what is said of it",
        )
        found = answer.as_numpy("y")
        if found is not None and datatype == "BYTES" and not all(output_form.values()):
            found = numpy.array([text.encode() for text in found.reshape(-1)], dtype=numpy.object_).reshape(found.shape)
        holds(identical(found, values), f"of shape {shape}: {values!r} came back as {found!r}")


for name in DATATYPES:
    for form, function in [("gRPC, raw", raw_by_grpc), ("HTTP, binary", binary_by_http), ("HTTP, JSON", json_by_http)]:
        if name not in BYTES_ALONE or function is not json_by_http:
            case(f"{name} over {form}")(functools.partial(function, name))
    if name not in BYTES_ALONE and name != "BYTES":
        case(f"{name} over HTTP, JSON in and bytes out")(functools.partial(json_in_binary_out, name))


@case("numbers that are none")
def not_numbers(arguments):
    values = numpy.array([numpy.nan, numpy.inf, -numpy.inf], dtype=numpy.float32)
    for module in [tritonclient.grpc, tritonclient.http]:
        answer = client(module, arguments).infer("identity", [given(module, "x", values)])
        holds(identical(answer.as_numpy("y"), values), f"{module.__name__}: {answer.as_numpy('y')}")


@case("several tensors of different forms in one request")
def several(arguments):
    module = tritonclient.http
    documents = module.InferInput("text", [2], "BYTES")
    documents.set_data_from_numpy(numpy.array([b"in London", b"Ada"], dtype=numpy.object_), binary_data=True)
    query = module.InferInput("query", [1], "BYTES")
    query.set_data_from_numpy(numpy.array([b"where is the film"], dtype=numpy.object_), binary_data=False)
    found = [
        client(module, arguments).infer("reranker", inputs).as_numpy("score")
        for inputs in ([query, documents], [documents, query])
    ]
    same(found[0].tolist(), found[1].tolist(), "the scores with the tensors turned round")


if __name__ == "__main__":
    run()

"""System shared memory through `tritonclient.utils.shared_memory`, over both protocols."""

import contextlib
import os

import grpc
import numpy
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as regions
from tritonclient.utils import serialize_byte_tensor

import refusals
from cases import case, holds, run, same
from triton_tensors import DATATYPES, array, given, identical

SIZE = 4096


@contextlib.contextmanager
def region(client, name):
    """A region of shared memory that is registered under its name."""
    key = f"/tidemill_{os.getpid()}_{name}"
    handle = regions.create_shared_memory_region(name, key, SIZE)
    try:
        client.register_system_shared_memory(name, key, SIZE)
        try:
            yield handle
        finally:
            client.unregister_system_shared_memory(name)
    finally:
        regions.destroy_shared_memory_region(handle)


def placed(module, shape, datatype, name, size, offset=0):
    tensor = module.InferInput("x", list(shape), datatype)
    tensor.set_shared_memory(name, size, offset)
    return tensor


def wanted(module, name, size, offset=0):
    output = module.InferRequestedOutput("y")
    output.set_shared_memory(name, size, offset)
    return output


def written(handle, values, offset=0):
    """Puts a tensor into a region; how many bytes it takes."""
    if values.dtype != numpy.object_:
        regions.set_shared_memory_region(handle, [values], offset)
        return values.nbytes
    packed = serialize_byte_tensor(values)
    regions.set_shared_memory_region(handle, [packed], offset)
    return len(packed.item()) if values.size else 0


def described(client):
    """The registered regions, as name, offset and size."""
    found = client.get_system_shared_memory_status()
    if isinstance(found, list):
        return [(entry["name"], entry["offset"], entry["byte_size"]) for entry in found]
    return [(entry.name, entry.offset, entry.byte_size) for entry in found.regions.values()]


def cases_of(module, protocol):
    @case(f"{protocol}: status, register, unregister")
    def registered(arguments):
        with module.InferenceServerClient(arguments.address) as client:
            with region(client, "one") as _:
                same(described(client), [("one", 0, SIZE)])
            same(described(client), [], "the regions after unregistering")
            with region(client, "two") as _, region(client, "three") as _:
                same(len(described(client)), 2)
                client.unregister_system_shared_memory()
                same(described(client), [], "the regions after unregistering all")

    @case(f"{protocol}: tensors in and out")
    def in_and_out(arguments):
        with module.InferenceServerClient(arguments.address) as client, region(client, "tensors") as handle:
            for datatype in DATATYPES:
                values = array(datatype, (2, 3))
                size = written(handle, values, offset=64)
                outputs = [wanted(module, "tensors", size, offset=2048)]
                answer = client.infer(
                    "identity", [placed(module, (2, 3), datatype, "tensors", size, 64)], outputs=outputs
                )
                described = answer.get_output("y")
                shape = described["shape"] if isinstance(described, dict) else list(described.shape)
                same(shape, [2, 3], f"the shape of {datatype}")
                if datatype == "BF16":
                    found = numpy.frombuffer(handle._mpsm_handle.buf[2048 : 2048 + size], values.dtype).reshape(2, 3)
                else:
                    found = regions.get_contents_as_numpy(handle, values.dtype, [2, 3], offset=2048)
                holds(identical(found, values), f"{datatype}: {found!r}")

    @case(f"{protocol}: one tensor there, one in the message")
    def mixed(arguments):
        with module.InferenceServerClient(arguments.address) as client, region(client, "query") as handle:
            query = numpy.array([b"where is the film"], dtype=numpy.object_)
            size = written(handle, query)
            there = module.InferInput("query", [1], "BYTES")
            there.set_shared_memory("query", size)
            here = given(module, "text", ["in London", "Ada"])
            found = client.infer("reranker", [there, here]).as_numpy("score")
            plain = client.infer("reranker", [given(module, "query", ["where is the film"]), here]).as_numpy("score")
            same(found.tolist(), plain.tolist())

    @case(f"{protocol}: one output there, one in the message")
    def outputs_apart(arguments):
        with module.InferenceServerClient(arguments.address) as client, region(client, "output") as handle:
            there = module.InferRequestedOutput("probabilities")
            there.set_shared_memory("output", 40)
            outputs = [there, module.InferRequestedOutput("label")]
            inputs = [given(module, "text", ["in London", "Ada"])]
            answer = client.infer("classifier", inputs, outputs=outputs)
            plain = client.infer("classifier", inputs)
            same(answer.as_numpy("label").tolist(), plain.as_numpy("label").tolist(), "the output in the message")
            found = regions.get_contents_as_numpy(handle, numpy.float32, [2, 5])
            holds(identical(found, plain.as_numpy("probabilities")), f"the output in the region is {found}")

    @case(f"{protocol}: what is wrong is refused")
    def refused(arguments):
        with module.InferenceServerClient(arguments.address) as client, region(client, "small") as handle:
            size = written(handle, numpy.ones(3, dtype=numpy.float32))

            def infer(place, output=None):
                return lambda: client.infer("identity", [place], outputs=None if output is None else [output])

            refuse(infer(placed(module, (3,), "FP32", "other", size)), '"other"', unknown=True)
            refuse(infer(placed(module, (3,), "FP32", "small", SIZE + 1)), "beyond")
            refuse(infer(placed(module, (4,), "FP32", "small", size)), "16 bytes")
            right = placed(module, (3,), "FP32", "small", size)
            refuse(infer(right, wanted(module, "small", 4, 2048)), "12 bytes")
            refuse(lambda: client.register_system_shared_memory("gone", "/tidemill_not_there", 1), "cannot be opened")
            refuse(lambda: client.get_system_shared_memory_status("nothing"), '"nothing"', unknown=True)

    def refuse(call, says, unknown=False):
        if module is tritonclient.grpc:
            code = grpc.StatusCode.NOT_FOUND if unknown else grpc.StatusCode.INVALID_ARGUMENT
            refusals.by_grpc(code, call, says=says)
        else:
            refusals.by_http(404 if unknown else 400, call, says=says)


cases_of(tritonclient.grpc, "gRPC")
cases_of(tritonclient.http, "HTTP")

if __name__ == "__main__":
    run()

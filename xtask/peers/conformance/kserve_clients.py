"""KServe's own clients, `InferenceGRPCClient` and `InferenceRESTClient`, of the package `kserve`."""

import logging

import grpc
import httpx
import numpy
from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

import stored
from cases import Different, case, holds, near, run, same

# It logs what it raises, and the table says that already.
logging.disable(logging.CRITICAL)


def rest(protocol="v2"):
    return InferenceRESTClient(config=RESTConfig(protocol=protocol, timeout=30, retries=0))


def base(arguments):
    return f"http://{arguments.address}"


def tensor(name, values, datatype, form):
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=form)
    return made


@case("gRPC: is_server_live, is_server_ready, is_model_ready")
async def grpc_health(arguments):
    async with InferenceGRPCClient(arguments.address) as client:
        same(await client.is_server_live(), True)
        same(await client.is_server_ready(), True)
        same(await client.is_model_ready("identity"), True)
        same(await client.is_model_ready("unknown"), False)


@case("gRPC: infer, raw and typed contents")
async def grpc_infer(arguments):
    async with InferenceGRPCClient(arguments.address) as client:
        for values, datatype in [
            (numpy.array([[1.5, -2.0]], dtype=numpy.float32), "FP32"),
            (numpy.array([1, -(2**63)], dtype=numpy.int64), "INT64"),
            (numpy.array([True, False]), "BOOL"),
            (numpy.array([0, 255], dtype=numpy.uint8), "UINT8"),
        ]:
            for form in [True, False]:
                request = InferRequest("identity", [tensor("x", values, datatype, form)], request_id="7")
                answer = await client.infer(request)
                same((answer.id, answer.model_name), ("7", "identity"))
                found = answer.outputs[0].as_numpy()
                holds(numpy.array_equal(found, values), f"{datatype}, {'raw' if form else 'typed'}: {found}")


@case("gRPC: infer with texts and parameters")
async def grpc_texts(arguments):
    expected = stored.answers("embedding")
    async with InferenceGRPCClient(arguments.address) as client:
        texts = numpy.array([text.encode() for text in expected["texts"][:2]], dtype=numpy.object_)
        answer = await client.infer(InferRequest("embedder", [tensor("text", texts, "BYTES", True)]))
        near(answer.outputs[0].as_numpy().reshape(-1), numpy.array(expected["mean"][:2]).reshape(-1), "vectors")
        one = numpy.array([b"A mill"], dtype=numpy.object_)
        request = InferRequest("generator", [tensor("text", one, "BYTES", True)], parameters={"max_tokens": 4})
        same((await client.infer(request)).outputs[0].shape, [1])


@case("gRPC: errors")
async def grpc_errors(arguments):
    async with InferenceGRPCClient(arguments.address) as client:
        request = InferRequest("unknown", [tensor("x", numpy.ones(1, dtype=numpy.float32), "FP32", True)])
        try:
            await client.infer(request)
        except grpc.RpcError as error:
            same(error.code(), grpc.StatusCode.NOT_FOUND)
        else:
            raise Different("it was answered")


@case("REST: is_server_live, is_server_ready, is_model_ready")
async def rest_health(arguments):
    async with rest() as client:
        same(await client.is_server_live(base(arguments)), True)
        same(await client.is_server_ready(base(arguments)), True)
        same(await client.is_model_ready(base(arguments), "identity"), True)
        same(await client.is_model_ready(base(arguments), "unknown"), False)


@case("REST: infer, JSON and bytes")
async def rest_infer(arguments):
    values = numpy.array([[1.5, -2.0]], dtype=numpy.float32)
    async with rest() as client:
        for form in [True, False]:
            for output_form in [True, False]:
                outputs = [RequestedOutput("y", parameters={"binary_data": output_form})]
                request = InferRequest(
                    "identity", [tensor("x", values, "FP32", form)], request_id="7", request_outputs=outputs
                )
                answer = await client.infer(base(arguments), request, model_name="identity")
                same((answer.id, answer.model_name), ("7", "identity"))
                found = answer.outputs[0].as_numpy()
                holds(numpy.array_equal(found, values), f"binary in {form}, out {output_form}: {found}")


@case("REST: infer with texts")
async def rest_texts(arguments):
    expected = stored.answers("embedding")
    texts = numpy.array([text.encode() for text in expected["texts"][:1]], dtype=numpy.object_)
    async with rest() as client:
        for form in [True, False]:
            request = InferRequest("embedder", [tensor("text", texts, "BYTES", form)])
            answer = await client.infer(base(arguments), request, model_name="embedder")
            near(answer.outputs[0].as_numpy().reshape(-1), expected["mean"][0], "a vector")


@case("REST: errors")
async def rest_errors(arguments):
    async with rest() as client:
        request = InferRequest("unknown", [tensor("x", numpy.ones(1, dtype=numpy.float32), "FP32", False)])
        try:
            await client.infer(base(arguments), request, model_name="unknown")
        except httpx.HTTPStatusError as error:
            same(error.response.status_code, 404)
            holds("unknown" in str(error), f"{error} does not name the model")
        else:
            raise Different("it was answered")


if __name__ == "__main__":
    run()

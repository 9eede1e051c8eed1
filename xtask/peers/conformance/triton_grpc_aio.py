"""`tritonclient.grpc.aio`: the same calls from asyncio, streams among them."""

import asyncio

import numpy
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from cases import Different, case, holds, run, same
from triton_tensors import given, texts

ONE = numpy.ones(1, dtype=numpy.float32)


@case("health, metadata, configuration and statistics")
async def described(arguments):
    async with triton.InferenceServerClient(arguments.address) as client:
        same(await client.is_server_live(), True)
        same(await client.is_server_ready(), True)
        same(await client.is_model_ready("identity"), True)
        same((await client.get_server_metadata()).name, "tidemill")
        same((await client.get_model_metadata("identity")).name, "identity")
        same((await client.get_model_config("identity")).config.name, "identity")
        same((await client.get_inference_statistics("identity")).model_stats[0].name, "identity")
        holds(len((await client.get_model_repository_index()).models) > 5, "the index is short")


@case("infer, many at once")
async def infer(arguments):
    async with triton.InferenceServerClient(arguments.address) as client:

        async def one(number):
            answer = await client.infer("identity", [given(triton, "x", ONE * number)], request_id=str(number))
            same((answer.get_response().id, answer.as_numpy("y").tolist()), (str(number), [number]))

        await asyncio.gather(*(one(number) for number in range(64)))


@case("client_timeout")
async def client_timeout(arguments):
    async with triton.InferenceServerClient(arguments.address) as client:
        prompts = given(triton, "text", ["The tide"] * 400)
        parameters = {"max_tokens": 100, "ignore_eos": True}
        try:
            await client.infer("generator", [prompts], parameters=parameters, client_timeout=0.1)
        except InferenceServerException as error:
            same(error.status(), "StatusCode.DEADLINE_EXCEEDED")
        else:
            raise Different("it was answered")


@case("an error is an exception with its status")
async def refused(arguments):
    async with triton.InferenceServerClient(arguments.address) as client:
        try:
            await client.infer("unknown", [given(triton, "x", ONE)])
        except InferenceServerException as error:
            same(error.status(), "StatusCode.NOT_FOUND")
        else:
            raise Different("it was answered")


@case("stream_infer")
async def stream(arguments):
    async def requests():
        for number in range(5):
            model = "unknown" if number == 2 else "identity"
            yield {"model_name": model, "inputs": [given(triton, "x", ONE * number)], "request_id": str(number)}

    async with triton.InferenceServerClient(arguments.address) as client:
        seen = []
        async for result, error in client.stream_infer(requests()):
            seen.append("refused" if error is not None else result.as_numpy("y").tolist()[0])
        same(seen, [0, 1, "refused", 3, 4])


@case("stream_infer of a generator, cancelled")
async def cancelled(arguments):
    parameters = {"max_tokens": 100, "ignore_eos": True}

    async def requests():
        text = [given(triton, "text", ["The tide"])]
        yield {"model_name": "generator", "inputs": text, "parameters": parameters}
        await asyncio.sleep(60)

    async with triton.InferenceServerClient(arguments.address) as client:
        answers = client.stream_infer(requests())
        result, error = await anext(aiter(answers))
        same(error, None, "the first piece's error")
        holds(len(texts(result.as_numpy("generated_text"))) == 1, "the first piece has no text")
        holds(answers.cancel(), "the stream cannot be cancelled")
        try:
            async for _ in answers:
                pass
        except asyncio.CancelledError:
            return
        raise Different("the stream ended without being cancelled")


if __name__ == "__main__":
    run()

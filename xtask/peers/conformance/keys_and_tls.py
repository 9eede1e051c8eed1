"""A server with API keys behind TLS: what callers without a key, with a wrong one, and with one of another scope get, from
every client as it is.
"""

import contextlib
import http.client
import json
import queue
import ssl
import urllib.error
import urllib.request

import grpc
import httpx
import numpy
import openai
import tritonclient.grpc
import tritonclient.http
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import refusals
from cases import Different, case, holds, run, same
from triton_tensors import given

ONE = numpy.ones(1, dtype=numpy.float32)
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED


def authority(arguments):
    return str(arguments.folder / "ca.pem")


def key(arguments, name):
    return json.loads((arguments.folder / "keys.json").read_text())[name]


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@contextlib.contextmanager
def by_grpc(arguments):
    with tritonclient.grpc.InferenceServerClient(
        arguments.guarded, ssl=True, root_certificates=authority(arguments)
    ) as client:
        yield client


@contextlib.contextmanager
def by_http(arguments):
    context = lambda: ssl.create_default_context(cafile=authority(arguments))
    with tritonclient.http.InferenceServerClient(arguments.guarded, ssl=True, ssl_context_factory=context) as client:
        yield client


def asked_by_grpc(client, headers, model="identity"):
    name = "x" if model == "identity" else "text"
    values = ONE if model == "identity" else ["a"]
    return client.infer(model, [given(tritonclient.grpc, name, values)], headers=headers)


@case("TLS: a certificate of an authority that the client knows, over gRPC and HTTP")
def encrypted(arguments):
    with by_grpc(arguments) as client:
        same(client.is_server_live(), True)
    with by_http(arguments) as client:
        same(client.is_server_live(), True)


@case("TLS: a client that does not know the authority, or speaks in the clear, gets nothing")
def refused_connections(arguments):
    for options in [{"ssl": True}, {}]:
        with tritonclient.grpc.InferenceServerClient(arguments.guarded, **options) as client:
            try:
                client.is_server_live(client_timeout=5)
            except tritonclient.utils.InferenceServerException as error:
                same(error.status(), "StatusCode.UNAVAILABLE")
            else:
                raise Different("it was answered")
    try:
        urllib.request.urlopen(f"http://{arguments.guarded}/healthz", timeout=5)
    except (http.client.HTTPException, OSError):
        pass
    else:
        raise Different("it was answered in the clear")


@case("gRPC: a key as authorization and as x-api-key")
def accepted(arguments):
    secret = key(arguments, "all")
    with by_grpc(arguments) as client:
        for headers in [bearer(secret), {"x-api-key": secret}]:
            same(asked_by_grpc(client, headers).as_numpy("y").tolist(), [1.0])


@case("gRPC: no key, a wrong key")
def unknown(arguments):
    with by_grpc(arguments) as client:
        for headers in [
            None,
            bearer("wrong"),
            {"x-api-key": key(arguments, "all") + "x"},
            {"authorization": "Basic YTpi"},
        ]:
            refusals.by_grpc(UNAUTHENTICATED, lambda: asked_by_grpc(client, headers))
            refusals.by_grpc(UNAUTHENTICATED, lambda: client.get_server_metadata(headers=headers))
            refusals.by_grpc(UNAUTHENTICATED, lambda: client.get_model_repository_index(headers=headers))


@case("gRPC: a key of another scope")
def other_scope(arguments):
    alone, metrics = bearer(key(arguments, "identity_alone")), bearer(key(arguments, "metrics_alone"))
    with by_grpc(arguments) as client:
        same(asked_by_grpc(client, alone).as_numpy("y").tolist(), [1.0])
        refusals.by_grpc(DENIED, lambda: asked_by_grpc(client, alone, "embedder"))
        refusals.by_grpc(DENIED, lambda: asked_by_grpc(client, alone, "unknown"))
        refusals.by_grpc(DENIED, lambda: client.get_model_metadata("embedder", headers=alone))
        refusals.by_grpc(DENIED, lambda: client.get_model_repository_index(headers=alone))
        refusals.by_grpc(DENIED, lambda: client.load_model("identity", headers=alone))
        refusals.by_grpc(DENIED, lambda: asked_by_grpc(client, metrics))
        names = [model.name for model in client.get_inference_statistics(headers=alone).model_stats]
        same(names, ["identity"], "the models of its statistics")


@case("gRPC: streams need a key too")
def streams(arguments):
    for headers, status in [(None, "StatusCode.UNAUTHENTICATED"), (bearer(key(arguments, "all")), None)]:
        answers = queue.Queue()
        with by_grpc(arguments) as client:
            client.start_stream(callback=lambda result, error: answers.put(error), headers=headers)
            client.async_stream_infer("identity", [given(tritonclient.grpc, "x", ONE)])
            error = answers.get(timeout=10)
            same(error and error.status(), status)


@case("gRPC: a key beyond its rate, with RetryInfo")
def rate(arguments):
    headers = bearer(key(arguments, "slow"))
    with by_grpc(arguments) as client:
        asked_by_grpc(client, headers)
        error = refusals.by_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: asked_by_grpc(client, headers))
        delay = refusals.details(error, error_details_pb2.RetryInfo).retry_delay
        holds(1 < delay.seconds <= 100, f"the delay is {delay.seconds} s")


@case("gRPC: health needs no key, reflection any")
def probes(arguments):
    credentials = grpc.ssl_channel_credentials((arguments.folder / "ca.pem").read_bytes())
    with grpc.secure_channel(arguments.guarded, credentials) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        same(answer.status, health_pb2.HealthCheckResponse.SERVING)
        try:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        except grpc.RpcError as error:
            same(error.code(), UNAUTHENTICATED, "reflection without a key")
        else:
            raise Different("reflection was answered without a key")
    token = grpc.access_token_call_credentials(key(arguments, "identity_alone"))
    with grpc.secure_channel(arguments.guarded, grpc.composite_channel_credentials(credentials, token)) as channel:
        holds(
            "inference.GRPCInferenceService" in ProtoReflectionDescriptorDatabase(channel).get_services(), "not listed"
        )


@case("HTTP: tritonclient with a key, without, with a wrong one, with another scope")
def over_http(arguments):
    with by_http(arguments) as client:
        ask = lambda headers: client.infer("identity", [given(tritonclient.http, "x", ONE)], headers=headers)
        same(ask(bearer(key(arguments, "identity_alone"))).as_numpy("y").tolist(), [1.0])
        refusals.by_http(401, lambda: ask(None), says="key")
        refusals.by_http(401, lambda: ask(bearer("wrong")), says="key")
        refusals.by_http(403, lambda: ask(bearer(key(arguments, "metrics_alone"))), says="scope")
        same(client.is_server_ready(), True, "readiness without a key")
        refusals.by_http(401, lambda: client.get_server_metadata())
        refusals.by_http(
            403, lambda: client.get_model_repository_index(headers=bearer(key(arguments, "identity_alone")))
        )


@case("HTTP: openai with a key, without, with another scope")
def by_openai(arguments):
    def api(secret):
        transport = httpx.Client(verify=ssl.create_default_context(cafile=authority(arguments)))
        return openai.OpenAI(
            base_url=f"https://{arguments.guarded}/v1", api_key=secret, max_retries=0, http_client=transport
        )

    def ask(secret):
        with api(secret) as client:
            return client.completions.create(model="generator", prompt="a", max_tokens=2)

    same(ask(key(arguments, "all")).model, "generator")
    with api(key(arguments, "identity_alone")) as client:
        same([model.id for model in client.models.list()], ["identity"], "the models that a key may use")
    for secret, kind, code in [
        ("wrong", openai.AuthenticationError, "invalid_api_key"),
        (key(arguments, "identity_alone"), openai.PermissionDeniedError, "permission_denied"),
    ]:
        try:
            ask(secret)
        except kind as error:
            same(error.code, code)
        else:
            raise Different("it was answered")


@case("HTTP: metrics need their scope, probes none")
def metrics(arguments):
    context = ssl.create_default_context(cafile=authority(arguments))

    def status(path, headers=None):
        request = urllib.request.Request(f"https://{arguments.guarded}{path}", headers=headers or {})
        try:
            with urllib.request.urlopen(request, context=context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    same(status("/metrics", bearer(key(arguments, "metrics_alone"))), 200)
    same(status("/metrics", bearer(key(arguments, "identity_alone"))), 403)
    same(status("/metrics"), 401)
    same([status("/healthz"), status("/readyz"), status("/v2/health/ready")], [200, 200, 200])


if __name__ == "__main__":
    run("guarded", "folder")

"""`grpc.health.v1.Health` by the package `grpcio-health-checking`: Check and Watch, for the server, services and models."""

import queue
import threading

import grpc
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cases import Different, case, run, same

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def asked(name):
    return health_pb2.HealthCheckRequest(service=name)


@case("Check: the server, services and models")
def check(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        names = ["", "inference.GRPCInferenceService", "tidemill.v1.TextClassification", "tidemill.v1.Generation"]
        for name in [*names, "identity", "generator", "resident"]:
            same(stub.Check(asked(name)).status, SERVING, f"the status of {name!r}")


@case("Check: NOT_FOUND for what is not known")
def unknown(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(asked("unknown"))
        except grpc.RpcError as error:
            same(error.code(), grpc.StatusCode.NOT_FOUND)
        else:
            raise Different("it was answered")


@case("Watch: what is, at once; SERVICE_UNKNOWN for what is not known")
def watch(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name, status in [("", SERVING), ("identity", SERVING), ("unknown", SERVICE_UNKNOWN)]:
            answers = stub.Watch(asked(name), timeout=10)
            same(next(answers).status, status, f"the status of {name!r}")
            answers.cancel()


@case("Watch: a model that is loaded and let go of")
def changes(arguments):
    found = queue.Queue()
    with (
        grpc.insecure_channel(arguments.address) as channel,
        tritonclient.grpc.InferenceServerClient(arguments.address) as client,
    ):
        answers = health_pb2_grpc.HealthStub(channel).Watch(asked("lodger"), timeout=30)

        def read():
            try:
                for answer in answers:
                    found.put(answer.status)
            except grpc.RpcError:
                pass

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        first = found.get(timeout=10)
        client.load_model("lodger")
        second = found.get(timeout=10)
        client.unload_model("lodger")
        third = found.get(timeout=10)
        answers.cancel()
        reader.join(10)
        same(second, SERVING, "the status when it is loaded")
        same(first in [SERVICE_UNKNOWN, NOT_SERVING], True, "whether it is not served before")
        same(third in [SERVICE_UNKNOWN, NOT_SERVING], True, "whether it is not served afterwards")


if __name__ == "__main__":
    run()

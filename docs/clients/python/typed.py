"""Tidemill's own services by grpcio: health, a typed call with a deadline, and what an error says.

    pip install grpcio-tools grpcio-status grpcio-health-checking
    python typed.py 127.0.0.1:8080 --model reviews

The classes are made at run time from `proto/`, which a project of yours would compile once with `python -m grpc_tools.protoc`.
"""

import argparse
import os
import pathlib
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "proto"))
messages, services = grpc.protos_and_services("tidemill/v1/text_classification.proto")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="127.0.0.1:8080", help="HOST:PORT")
    parser.add_argument("--model", default="", help="may be left out when the server has one model")
    parser.add_argument("--ca", metavar="FILE", help="the authority of a server that speaks TLS, PEM")
    arguments = parser.parse_args()
    key = os.environ.get("TIDEMILL_API_KEY")
    metadata = [("authorization", f"Bearer {key}")] if key else None
    with connect(arguments.address, arguments.ca) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest(service=arguments.model), timeout=5).status
        print(f"health: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}")

        classification = services.TextClassificationStub(channel)
        request = messages.ClassifyRequest(model=arguments.model, texts=["a fine film", "a dull one"], top_k=1)
        answer = classification.Classify(request, timeout=5, metadata=metadata)
        for text, classified in zip(request.texts, answer.classifications):
            best = classified.labels[0]
            print(f"{best.label} {best.probability:.3f} {text}")

        try:
            classification.Classify(messages.ClassifyRequest(model=arguments.model), timeout=5, metadata=metadata)
        except grpc.RpcError as error:
            explain(error)


def connect(address, ca):
    # Tries again by itself when the server is away; a deadline holds over all tries.
    options = [("grpc.enable_retries", 1), ("grpc.max_receive_message_length", 64 << 20)]
    if ca is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes()), options)


def explain(error):
    """An error's code and sentence, and the fields that were wrong."""
    print(f"{error.code().name}: {error.details()}")
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        wrong = error_details_pb2.BadRequest()
        if detail.Unpack(wrong):
            for field in wrong.field_violations:
                print(f"  {field.field}: {field.description}")


if __name__ == "__main__":
    main()

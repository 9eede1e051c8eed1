"""Reflection by the package `grpcio-reflection`, and by it what every message of the public protocol looks like here."""

import grpc
import tritonclient.grpc.service_pb2 as public
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cases import case, holds, run, same

SERVICES = [
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
    "tidemill.v1.Chat",
    "tidemill.v1.Embedding",
    "tidemill.v1.Entities",
    "tidemill.v1.Generation",
    "tidemill.v1.TextClassification",
    "tidemill.v1.TextToText",
]
# The methods of the public protocol that this server has.
METHODS = {
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer",
    "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
}  # fmt: skip


@case("list of services")
def services(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        found = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    holds(set(SERVICES) <= found, f"{sorted(set(SERVICES) - found)} are not listed")
    holds(any(name.startswith("grpc.reflection.") for name in found), "reflection itself is not listed")


@case("file by symbol, by name, and its dependencies")
def files(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        for service in SERVICES:
            file = database.FindFileContainingSymbol(service)
            same(database.FindFileByName(file.name).package, service.rpartition(".")[0], f"the package of {file.name}")
            for dependency in file.dependency:
                same(database.FindFileByName(dependency).name, dependency)
        pool = DescriptorPool(database)
        same(pool.FindMessageTypeByName("tidemill.v1.ClassifyRequest").fields_by_name["texts"].number, 3)


@case("a symbol that is not known")
def unknown(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.Nothing")
        try:
            answer = next(stub.ServerReflectionInfo(iter([request])))
        except grpc.RpcError as error:
            same(error.code(), grpc.StatusCode.NOT_FOUND)
        else:
            same(answer.error_response.error_code, grpc.StatusCode.NOT_FOUND.value[0])


@case("v1 as well as v1alpha")
def both_versions(arguments):
    with grpc.insecure_channel(arguments.address) as channel:
        # The messages of the two have the same numbers.
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answer = next(call(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
        names = {service.name for service in answer.list_services_response.service}
        holds(set(SERVICES) <= names, f"the services are {sorted(names)}")


def inference(arguments):
    """The service and the pool that knows its messages, as the server tells them."""
    with grpc.insecure_channel(arguments.address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        return pool, pool.FindServiceByName("inference.GRPCInferenceService")


@case("the methods are those of the public protocol")
def methods(arguments):
    _, service = inference(arguments)
    ours = {method.name: method for method in service.methods}
    same(set(ours), METHODS, "the methods")
    for name, method in ours.items():
        theirs = public.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name]
        for part in ["input_type", "output_type"]:
            same(getattr(method, part).full_name, getattr(theirs, part).full_name, f"{part} of {name}")
        for part in ["client_streaming", "server_streaming"]:
            same(getattr(method, part), getattr(theirs, part), f"{part} of {name}")


@case("every field has the public name, number and type")
def fields(arguments):
    pool, service = inference(arguments)
    theirs_by_name = {}

    def collect(messages):
        for message in messages:
            theirs_by_name[message.full_name] = message
            collect(message.nested_types)

    for file in [public.DESCRIPTOR, *public.DESCRIPTOR.dependencies]:
        collect(file.message_types_by_name.values())
    waiting = [kind for method in service.methods for kind in (method.input_type, method.output_type)]
    seen = set()
    while waiting:
        ours = waiting.pop()
        if ours.full_name in seen:
            continue
        seen.add(ours.full_name)
        theirs = theirs_by_name.get(ours.full_name)
        holds(theirs is not None, f"{ours.full_name} is not a public message")
        for field in ours.fields:
            public_field = theirs.fields_by_name.get(field.name)
            what = f"{ours.full_name}.{field.name}"
            holds(public_field is not None, f"{what} is not a public field")
            same(
                (field.number, field.type, field.is_repeated),
                (public_field.number, public_field.type, public_field.is_repeated),
                what,
            )
            same(
                field.containing_oneof and field.containing_oneof.name,
                public_field.containing_oneof and public_field.containing_oneof.name,
                f"the oneof of {what}",
            )
            if field.message_type is not None:
                waiting.append(field.message_type)
            if field.enum_type is not None:
                numbers = lambda kind: {value.name: value.number for value in kind.values}
                extra = set(numbers(field.enum_type).items()) - set(numbers(public_field.enum_type).items())
                same(extra, set(), f"values of {field.enum_type.full_name} that are not public")
    holds(len(seen) > 30, f"only {len(seen)} messages were compared")


if __name__ == "__main__":
    run()

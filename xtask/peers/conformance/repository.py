"""Models that come and go: the index, loading and unloading, over both protocols of `tritonclient`."""

import grpc
import tritonclient.grpc
import tritonclient.http

import refusals
from cases import case, holds, run, same
from triton_tensors import given


def indexed(client):
    """The index: states and reasons by name and version."""
    found = client.get_model_repository_index()
    if not isinstance(found, list):
        return {(model.name, model.version): (model.state, model.reason) for model in found.models}
    return {(model["name"], model.get("version", "")): (model["state"], model.get("reason", "")) for model in found}


def cases_of(module, protocol):
    is_grpc = module is tritonclient.grpc

    def refused(code, status, call, says):
        return refusals.by_grpc(code, call, says=says) if is_grpc else refusals.by_http(status, call, says=says)

    @case(f"{protocol}: RepositoryIndex")
    def index(arguments):
        with module.InferenceServerClient(arguments.address) as client:
            found = indexed(client)
            same(found[("resident", "1")], ("READY", ""), "a model that was loaded at the start")
            same(found[("identity", "1")], ("READY", ""), "a model from outside the repository")
            names = {name for name, _ in found}
            holds({"resident", "lodger", "broken", "linear"} <= names, f"the models are {names}")
            holds(
                all(state != "READY" for (name, _), (state, _) in found.items() if name in ["lodger", "broken"]),
                str(found),
            )

    @case(f"{protocol}: RepositoryModelLoad, RepositoryModelUnload")
    def load(arguments):
        with module.InferenceServerClient(arguments.address) as client:
            ask = lambda: client.infer("lodger", [given(module, "text", ["a good film"])])
            same(client.is_model_ready("lodger"), False, "before it is loaded")
            client.load_model("lodger")
            same(client.is_model_ready("lodger"), True, "when it is loaded")
            ready = {key for key, (state, _) in indexed(client).items() if state == "READY" and key[0] == "lodger"}
            same(ready, {("lodger", "2")}, "what is ready of it")
            same(ask().as_numpy("embedding").shape, (1, 32))
            client.load_model("lodger")
            client.unload_model("lodger")
            same(client.is_model_ready("lodger"), False, "when it is unloaded")
            same(client.is_server_ready(), True, "whether the server is ready without it")
            holds(
                ("lodger", "2") not in {key for key, (state, _) in indexed(client).items() if state == "READY"},
                "still ready",
            )
            refused(grpc.StatusCode.NOT_FOUND, 404, ask, "lodger")
            client.unload_model("lodger")

    @case(f"{protocol}: a model that cannot be loaded says why, in the index too")
    def broken(arguments):
        with module.InferenceServerClient(arguments.address) as client:
            refused(grpc.StatusCode.FAILED_PRECONDITION, 503, lambda: client.load_model("broken"), "broken")
            state, reason = next(value for (name, _), value in indexed(client).items() if name == "broken")
            same(state, "UNAVAILABLE")
            holds("config.json" in reason, f"the reason is {reason!r}")
            same(client.is_server_ready(), True, "whether the server is ready all the same")

    @case(f"{protocol}: a model that is not there")
    def unknown(arguments):
        with module.InferenceServerClient(arguments.address) as client:
            refused(grpc.StatusCode.NOT_FOUND, 404, lambda: client.load_model("unknown"), "unknown")
            refused(grpc.StatusCode.NOT_FOUND, 404, lambda: client.unload_model("unknown"), "unknown")
            # HTTP's client makes another path of it.
            if is_grpc:
                refused(grpc.StatusCode.NOT_FOUND, 404, lambda: client.load_model("../etc"), "etc")

    @case(f"{protocol}: files and configuration in the request are refused")
    def parameters(arguments):
        with module.InferenceServerClient(arguments.address) as client:
            call = lambda: client.load_model("lodger", config='{"backend": "python"}')
            refused(grpc.StatusCode.INVALID_ARGUMENT, 400, call, "parameters")
            call = lambda: client.load_model("lodger", config="{}", files={"file:1/model.py": b"x"})
            refused(grpc.StatusCode.INVALID_ARGUMENT, 400, call, "parameters")


cases_of(tritonclient.grpc, "gRPC")
cases_of(tritonclient.http, "HTTP")

if __name__ == "__main__":
    run()

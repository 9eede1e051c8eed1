"""What a refused call must carry: a gRPC code with `google.rpc` details, or an HTTP status with a sentence."""

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tritonclient.utils import InferenceServerException

from cases import Different, holds, same


def by_grpc(code, call, *, field=None, says=None, detail=None):
    """Fails unless `call()` is refused with this code; `field` is what BadRequest names, `says` is in the message, `detail`
    is the type of a `google.rpc` detail. Gives the error."""
    try:
        answer = call()
    except InferenceServerException as raised:
        # The client keeps no more of it than texts.
        error = raised.__context__
    except grpc.RpcError as raised:
        error = raised
    else:
        raise Different(f"it was not refused, but answered {str(answer)[:120]!r}")
    check(error, code, field=field, says=says, detail=detail)
    return error


def check(error, code, *, field=None, says=None, detail=None):
    """Fails unless an error of gRPC is this one."""
    same(error.code(), code, "the code")
    holds(error.details(), "the message is empty")
    if says is not None:
        holds(says in error.details(), f"the message {error.details()!r} does not say {says!r}")
    if field is not None:
        violations = [violation.field for violation in details(error, error_details_pb2.BadRequest).field_violations]
        same(violations, [field], "the field that BadRequest names")
    if detail is not None:
        details(error, detail)


def details(error, kind):
    """The detail of a type that an error carries."""
    status = rpc_status.from_call(error)
    holds(status is not None, "there are no google.rpc details")
    same(status.message, error.details(), "the message of the google.rpc status")
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    raise Different(f"the details have no {kind.DESCRIPTOR.name}: {[packed.type_url for packed in status.details]}")


def by_http(status, call, *, says=None):
    """Fails unless tritonclient's HTTP call is refused with this status."""
    try:
        answer = call()
    except InferenceServerException as error:
        same(str(error.status()), str(status), "the status")
        holds(error.message(), "the message is empty")
        if says is not None:
            holds(says in error.message(), f"the message {error.message()!r} does not say {says!r}")
        return error
    raise Different(f"it was not refused, but answered {str(answer)[:120]!r}")

"""Tensors as `tritonclient` has them, over either protocol, and the datatypes of the protocol."""

import ml_dtypes
import numpy

# Each datatype with numpy's type of it and two values that it can just hold, where it has bounds.
DATATYPES = {
    "BOOL": (numpy.bool_, [True, False, True]),
    "UINT8": (numpy.uint8, [0, 7, 2**8 - 1]),
    "UINT16": (numpy.uint16, [0, 7, 2**16 - 1]),
    "UINT32": (numpy.uint32, [0, 7, 2**32 - 1]),
    "UINT64": (numpy.uint64, [0, 7, 2**64 - 1]),
    "INT8": (numpy.int8, [-(2**7), 0, 2**7 - 1]),
    "INT16": (numpy.int16, [-(2**15), 0, 2**15 - 1]),
    "INT32": (numpy.int32, [-(2**31), 0, 2**31 - 1]),
    "INT64": (numpy.int64, [-(2**63), 0, 2**63 - 1]),
    "FP16": (numpy.float16, [-0.5, 0.0, 65504.0]),
    "BF16": (ml_dtypes.bfloat16, [-0.5, 0.0, 2.0**127]),
    "FP32": (numpy.float32, [-0.1, 0.0, 3.4e38]),
    "FP64": (numpy.float64, [-0.1, 0.0, 1.7e308]),
    "BYTES": (numpy.object_, [b"", "die Mühle".encode(), b"a\0b"]),
}
# Without elements, one element without a dimension, and several dimensions.
SHAPES = [(3,), (0,), (), (1, 3), (2, 0, 3)]


def array(datatype, shape=(3,)):
    """An array of a datatype that has this shape."""
    kind, values = DATATYPES[datatype]
    made = numpy.empty(shape, dtype=kind)
    made.reshape(-1)[:] = numpy.array((values * 2)[: made.size], dtype=kind)
    return made


def given(client, name, values, datatype=None):
    """An input of `tritonclient.grpc` or `tritonclient.http`. Texts may be given as a list."""
    if isinstance(values, list):
        values = numpy.array([text.encode() for text in values], dtype=numpy.object_)
        datatype = "BYTES"
    datatype = datatype or next(name for name, (kind, _) in DATATYPES.items() if values.dtype == kind)
    tensor = client.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def texts(values):
    """The texts of a BYTES tensor of an answer."""
    return [value.decode() for value in values.reshape(-1)]


def identical(found, expected):
    """Whether two arrays agree in shape and, bit by bit, in what they hold."""
    if found is None or found.shape != expected.shape:
        return False
    if expected.dtype == numpy.object_:
        return found.reshape(-1).tolist() == expected.reshape(-1).tolist()
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()

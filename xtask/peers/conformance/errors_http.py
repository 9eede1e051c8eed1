"""What a wrong request is answered with over HTTP: the status, and JSON with a sentence that names the field."""

import json
import urllib.error
import urllib.request

from cases import Different, case, holds, run, same


def tensor(**other):
    """An input that is as it should be, but for these fields."""
    return {"name": "x", "shape": [1], "datatype": "FP32", "data": [1], **other}


def asked(**other):
    return {"inputs": [tensor(**other)]}


INFER = "/v2/models/identity/infer"
# What is wrong, the status, a part of the sentence, the path and the body.
WRONG = [
    ("an unknown model", 404, "identity", "/v2/models/identitty/infer", asked()),
    ("another version", 404, "9", "/v2/models/identity/versions/9/infer", asked()),
    ("no JSON", 400, "JSON", INFER, b"{"),
    ("no object", 400, "object", INFER, []),
    ("JSON too deep", 400, "JSON", INFER, b'{"inputs":' + b"[" * 1000),
    ("no inputs", 400, "inputs", INFER, {}),
    ("an input without data", 400, "inputs[0].data", INFER, asked(data=None)),
    ("an input of another name", 400, "inputs[0].name", INFER, asked(name="z")),
    ("an unknown datatype", 400, "FP31", INFER, asked(datatype="FP31")),
    ("another shape", 400, "2 elements", INFER, asked(shape=[2])),
    ("an element of another type", 400, "inputs[0].data[0]", INFER, asked(data=["1"])),
    ("a number beyond the datatype", 400, "inputs[0].data[0]", INFER, asked(datatype="INT8", data=[128])),
    ("FP16 as JSON", 400, "binary", INFER, asked(datatype="FP16")),
    ("an unknown output", 400, "outputs[0].name", INFER, {**asked(), "outputs": [{"name": "z"}]}),
    ("bytes that are not there", 400, "binary_data_size", INFER, asked(data=None, parameters={"binary_data_size": 4})),
    ("a parameter that is a list", 400, "parameters.a", INFER, {**asked(), "parameters": {"a": [1]}}),
    ("an unknown model's metadata", 404, "identity", "/v2/models/identitty", None),
    ("an unknown model's statistics", 404, "identity", "/v2/models/identitty/stats", None),
    ("a model that is not ready", 400, "ready", "/v2/models/identitty/ready", None),
    ("a path that is not there", 404, "path", "/v2/nothing", None),
    ("a GET that should be a POST", 405, "POST", INFER, None),
]


def wrong(status, says, path, body):
    def check(arguments):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{arguments.address}{path}", data=data)
        try:
            with urllib.request.urlopen(request) as answer:
                raise Different(f"it was answered: {answer.read()[:100]!r}")
        except urllib.error.HTTPError as error:
            said = error.read()
            same(error.code, status, "the status")
            same(error.headers["Content-Type"], "application/json", "the content type")
            fields = json.loads(said)
            same(list(fields), ["error"], "the fields of the answer")
            holds(says in fields["error"], f"{fields['error']!r} does not say {says!r}")

    return check


for name, status, says, path, body in WRONG:
    case(f"{status}: {name}")(wrong(status, says, path, body))

if __name__ == "__main__":
    run()

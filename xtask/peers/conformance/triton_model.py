"""The identity model in Triton's Python backend: what `x` is, `y` is too."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(triton.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]

    def answer(self, values):
        return triton.InferenceResponse([triton.Tensor("y", values)])

"""A package's TextCNN in PyTorch, for Triton's Python backend: the same weights, the same tokeniser.

`model_config` has a parameter `package`, the folder. Takes `text`, gives `probabilities`, all requests of a batch together.
"""

import json
import pathlib

import numpy
import torch
import triton_python_backend_utils as triton
from safetensors.torch import load_file
from tokenizers import Tokenizer


class TritonPythonModel:
    def initialize(self, args):
        package = pathlib.Path(json.loads(args["model_config"])["parameters"]["package"]["string_value"])
        config = json.loads((package / "config.json").read_text())
        weights = load_file(package / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
        self.tokenizer.no_truncation()  # the bench's texts are short
        self.tokenizer.no_padding()
        self.embedding = weights["embedding.weight"]
        self.convolutions = []
        while f"convs.{len(self.convolutions)}.weight" in weights:
            name = f"convs.{len(self.convolutions)}"
            self.convolutions.append((weights[f"{name}.weight"], weights[f"{name}.bias"]))
        self.classifier = weights["classifier.weight"], weights["classifier.bias"]
        self.padding = config["pad_token_id"]

    def execute(self, requests):
        rows = [triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1) for request in requests]
        probabilities = self.classify([text.decode() for row in rows for text in row])
        responses, start = [], 0
        for row in rows:
            part = probabilities[start : start + len(row)]
            responses.append(triton.InferenceResponse([triton.Tensor("probabilities", part)]))
            start += len(row)
        return responses

    @torch.inference_mode()
    def classify(self, texts):
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        widest = max(weight.shape[2] for weight, _ in self.convolutions)
        time = max(widest, max(map(len, ids)))
        tokens = torch.tensor([row + [self.padding] * (time - len(row)) for row in ids])
        lengths = torch.tensor([len(row) for row in ids]).unsqueeze(1)
        vectors = torch.nn.functional.embedding(tokens, self.embedding, self.padding).transpose(1, 2)
        maxima = []
        for weight, bias in self.convolutions:
            scores = torch.nn.functional.conv1d(vectors, weight, bias).relu()
            # Windows of padding do not count; the first one always does.
            last = (lengths - weight.shape[2]).clamp(min=0)
            padding = torch.arange(scores.shape[2]).unsqueeze(0) > last
            maxima.append(scores.masked_fill(padding.unsqueeze(1), 0).amax(2))
        logits = torch.nn.functional.linear(torch.cat(maxima, 1), *self.classifier)
        return logits.softmax(1).numpy().astype(numpy.float32)

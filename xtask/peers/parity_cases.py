"""The cases of the parity checks: for each a configuration that exercises something of its own, small enough to store.

One entry of `CASES` a case; adding one is adding an entry. Knows nothing of how checkpoints are written or compared.
"""

import dataclasses

import parity_tokenizers as tokenizers

DECODER, ENCODER_DECODER, ENCODER = "decoder", "encoder_decoder", "encoder"


@dataclasses.dataclass
class Case:
    """One checkpoint. `config` is what the family's configuration class takes, besides what `COMMON` gives all."""

    about: str
    model_type: str
    config: dict
    tokenizer: str = "unigram"
    # Stored in the repository, one an architecture; the rest is made when parity is run.
    stored: bool = False
    # The form in which config.json is written: 4 as nearly all checkpoints have it, 5 as transformers 5 writes it.
    form: int = 4
    # Overrides of the configuration that must change the logits: what the case is for.
    matters: list = dataclasses.field(default_factory=list)
    # Lengths of the prompts (of the encoder's inputs), and of the decoder's inputs.
    lengths: tuple = (11, 4, 19)
    decoder_lengths: tuple = (9, 3, 14)
    # Standard deviations: of matrices by the root of their inputs, of the embedding, of the output matrix when untied.
    gain: float = 1.5
    embedding: float = 0.5
    head: float = 0.5
    # Of the norm before a tied output matrix, whose weights lie around nought.
    last_norm: float = 1.0
    # How the tensors are written.
    dtype: str = "float32"
    shard_size: str | None = None
    # Changes of the names and tensors on their way to the file.
    rewrite: str | None = None
    # Whether rows in a padded batch may differ from rows alone (LongRoPE decides once for the whole batch).
    alone_only: bool = False
    # How much of a prompt is read at once when the rest goes through the cache; a third unless said.
    cut: int | None = None
    # What generation is given besides lengths, beams and end tokens.
    generation: dict = dataclasses.field(default_factory=dict)
    # Beam searches besides those that all cases have.
    beams: list = dataclasses.field(default_factory=list)

    @property
    def kind(self):
        if self.model_type in ENCODERS:
            return ENCODER
        return ENCODER_DECODER if self.model_type in ENCODER_DECODERS else DECODER


ENCODERS = {"bert", "distilbert", "roberta", "xlm-roberta", "modernbert"}
ENCODER_DECODERS = {"t5", "mt5", "bart", "mbart", "marian", "m2m_100"}

# name -> (how it is made, its named special tokens). Their sizes are the least vocabularies of the models that use them.
MODEL_TOKENIZERS = {
    "byte_level": (lambda: tokenizers.byte_level(281), {"bos_token": "<|endoftext|>", **tokenizers.END}),
    "byte_level_qwen": (
        lambda: tokenizers.byte_level(288, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], tokenizers.QWEN, nfc=True),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "sentencepiece_bpe": (lambda: tokenizers.sentencepiece_bpe(304), tokenizers.SENTENCE),
    "unigram": (lambda: tokenizers.unigram(128, ["<unk>", "<s>", "</s>"], ("<s> $A", "<s> $A <s> $B")), tokenizers.SENTENCE),
    "unigram_t5": (
        lambda: tokenizers.unigram(120, ["<pad>", "</s>", "<unk>"], ("$A </s>", "$A </s> $B </s>")),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    ),
    "unigram_bart": (
        lambda: tokenizers.unigram(
            128, ["<s>", "<pad>", "</s>", "<unk>"], ("<s> $A </s>", "<s> $A </s> </s> $B </s>"), more=["<mask>"]
        ),
        {**tokenizers.SENTENCE, "pad_token": "<pad>", "mask_token": "<mask>"},
    ),
    "unigram_languages": (
        lambda: tokenizers.unigram(
            128,
            ["<s>", "<pad>", "</s>", "<unk>"],
            ("$A </s> en_XX", "$A $B </s> en_XX"),
            more=["en_XX", "de_DE", "ja_XX", "<mask>"],
        ),
        {**tokenizers.SENTENCE, "pad_token": "<pad>", "mask_token": "<mask>"},
    ),
    "unigram_marian": (
        lambda: tokenizers.unigram(128, ["</s>", "<unk>"], ("$A </s>", "$A $B </s>"), more=["<pad>"]),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    ),
}

# What every decoder of Llama's lineage here has, if it says nothing else.
LLAMA = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 160,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
BART = {
    "vocab_size": 128,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 96,
}
T5 = {
    "vocab_size": 128,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
BERT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
ROBERTA = {**BERT, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def rope(**parameters):
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHORT, LONG = [1.0, 1.1, 1.3, 1.7, 2.1, 2.9], [1.2, 2.0, 4.5, 6.0, 9.0, 16.0]


def long_rope(original, **more):
    return {
        **LLAMA,
        "num_key_value_heads": 3,
        "pad_token_id": 0,
        "original_max_position_embeddings": original,
        **rope(rope_type="longrope", partial_rotary_factor=0.75, short_factor=SHORT, long_factor=LONG),
        **more,
    }


CASES = {
    "gpt2": Case(
        "learned positions, one matrix for queries, keys and values, tied output",
        "gpt2",
        {"vocab_size": 281, "n_positions": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 72}
        | {"bos_token_id": 280, "eos_token_id": 280},
        tokenizer="byte_level",
        embedding=0.35,
        stored=True,
    ),
    "gpt2_bare": Case(
        "names without `transformer.` and the causal masks among the tensors, as the first GPT-2 files have them; "
        "attention also divided by the layer's number; n_inner not said",
        "gpt2",
        {"vocab_size": 128, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 2}
        | {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "bos_token_id": 1, "eos_token_id": 2},
        matters=[{"scale_attn_by_inverse_layer_idx": False}],
        rewrite="gpt2_bare",
        embedding=0.35,
    ),
    "gpt_neox": Case(
        "attention and feed-forward side by side, a quarter of each head rotated",
        "gpt_neox",
        {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}
        | rope(partial_rotary_factor=0.25, rope_type="default"),
        matters=[{"use_parallel_residual": False}, rope(partial_rotary_factor=0.5, rope_type="default")],
    ),
    "gpt_neox_sequential": Case(
        "attention, then feed-forward; the whole head rotated; no biases in attention",
        "gpt_neox",
        {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"max_position_embeddings": 128, "use_parallel_residual": False, "attention_bias": False}
        | {"bos_token_id": 1, "eos_token_id": 2}
        | rope(partial_rotary_factor=1.0, rope_type="default", rope_theta=2000.0),
        form=5,
        matters=[{"use_parallel_residual": True}],
        stored=True,
    ),
    "llama": Case(
        "Llama 2's shape with grouped queries, untied output",
        "llama",
        {**LLAMA, "vocab_size": 304, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2},
        tokenizer="sentencepiece_bpe",
    ),
    "llama_3": Case(
        "Llama 3's rotary scaling with all three ranges of wavelengths, several end tokens in the configuration",
        "llama",
        {**LLAMA, "eos_token_id": [2, 5], **rope(**LLAMA_3_ROPE, rope_theta=5000.0)},
        matters=[rope(rope_type="default", rope_theta=5000.0)],
        stored=True,
    ),
    "llama_linear": Case(
        "positions divided by a factor; biases in attention and feed-forward; more heads for keys than one",
        "llama",
        {**LLAMA, "num_key_value_heads": 3, "attention_bias": True, "mlp_bias": True}
        | rope(rope_type="linear", factor=4.0),
        matters=[rope(rope_type="default")],
    ),
    "llama_yarn": Case(
        "YaRN, with heads wider than hidden by heads",
        "llama",
        {**LLAMA, "head_dim": 32, **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=24)},
        form=5,
        matters=[rope(rope_type="default")],
    ),
    "llama_bfloat16": Case(
        "a file in bfloat16, computed in float32", "llama", {**LLAMA}, dtype="bfloat16"
    ),
    "smollm": Case(
        "SmolLM's shape: nine heads over three, tied output",
        "llama",
        {**LLAMA, "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
        embedding=0.3,
    ),
    "mistral": Case(
        "a sliding window shorter than the input; heads narrower than hidden by heads",
        "mistral",
        {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 7},
        matters=[{"sliding_window": None}, {"sliding_window": 8}],
        stored=True,
    ),
    "qwen2": Case(
        "biases on queries, keys and values; tied; a window that is switched off",
        "qwen2",
        {**LLAMA, "vocab_size": 293, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 5, "max_window_layers": 1}
        | {"bos_token_id": 285, "eos_token_id": 287},
        tokenizer="byte_level_qwen",
        embedding=0.4,
        stored=True,
    ),
    "qwen2_window": Case(
        "a window switched on from the second layer",
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "num_hidden_layers": 3}
        | {"vocab_size": 293, "bos_token_id": 285, "eos_token_id": 287},
        # Whatever stands in its files, transformers reads a Qwen 2 tokenizer as byte-level BPE cut Qwen's way.
        tokenizer="byte_level_qwen",
        matters=[{"use_sliding_window": False, "layer_types": ["full_attention"] * 3}],
    ),
    "qwen3": Case(
        "queries and keys normalised by head, heads wider than hidden by heads, tied",
        "qwen3",
        {**LLAMA, "head_dim": 32, "tie_word_embeddings": True},
        form=5,
        embedding=0.3,
        stored=True,
    ),
    "phi3": Case(
        "queries, keys and values in one matrix, gate and up in another, a window",
        "phi3",
        {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 9, "pad_token_id": 0}
        | {"hidden_size": 32},
        matters=[{"sliding_window": None}],
        stored=True,
    ),
    "phi3_longrope": Case(
        "LongRoPE within the first length: short factors; three quarters of each head rotated",
        "phi3",
        long_rope(120),
        matters=[rope(rope_type="default", partial_rotary_factor=0.75), rope(rope_type="default")],
    ),
    "phi3_longrope_beyond": Case(
        "LongRoPE with prompts beyond the first length: long factors, all written as transformers 5 does",
        "phi3",
        long_rope(8),
        form=5,
        lengths=(11, 10, 19),
        cut=9,
        gain=1.2,
        matters=[{"original_max_position_embeddings": 160}],
    ),
    "phi3_longrope_crossing": Case(
        "LongRoPE with generation that crosses the first length, where transformers recomputes the cache",
        "phi3",
        long_rope(30),
        alone_only=True,
        stored=True,
    ),
    "gemma2": Case(
        "soft caps on attention and logits, every second layer with a window, norms by one plus the weight, a scale of "
        "its own for queries, embeddings times the root of their width",
        "gemma2",
        {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 3}
        | {"intermediate_size": 40, "query_pre_attn_scalar": 24, "sliding_window": 6, "attn_logit_softcapping": 2.0}
        | {"final_logit_softcapping": 6.0, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1},
        form=5,
        embedding=0.15,
        last_norm=3.0,
        matters=[{"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"sliding_window": 60}]
        + [{"query_pre_attn_scalar": 16}],
        stored=True,
    ),
    "mixtral": Case(
        "two experts of four a token",
        "mixtral",
        {**LLAMA, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40}
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 128},
        matters=[{"num_experts_per_tok": 1}],
        stored=True,
    ),
    "qwen3_moe": Case(
        "two experts of five a token with their shares made to add up to one, and a dense layer between, in shards",
        "qwen3_moe",
        {**LLAMA, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        | {"num_hidden_layers": 3, "mlp_only_layers": [1], "num_experts": 5, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 24, "norm_topk_prob": True},
        matters=[{"norm_topk_prob": False}],
        shard_size="50KB",
        stored=True,
    ),
    "qwen3_moe_shares": Case(
        "the experts' shares as they are",
        "qwen3_moe",
        {**LLAMA, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        | {"decoder_sparse_step": 2, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 24},
        matters=[{"norm_topk_prob": True}],
    ),
    "t5": Case(
        "relative positions in buckets, ReLU, tied output scaled by the root of the width",
        "t5",
        {**T5, "feed_forward_proj": "relu"},
        tokenizer="unigram_t5",
        embedding=3.0,
        matters=[{"relative_attention_max_distance": 24}],
        stored=True,
    ),
    "flan_t5": Case(
        "gated GELU, an output matrix of its own, as Flan-T5 is stored",
        "t5",
        {**T5, "feed_forward_proj": "gated-gelu", "num_layers": 2, "tie_word_embeddings": False},
        tokenizer="unigram_t5",
        embedding=1.0,
        rewrite="untied_t5",
    ),
    "mt5": Case(
        "gated GELU, an output matrix of its own, as mT5 is stored",
        "mt5",
        {**T5, "feed_forward_proj": "gated-gelu", "num_layers": 2, "tie_word_embeddings": False},
        tokenizer="unigram_t5",
        embedding=1.0,
        rewrite="untied_t5",
    ),
    "bart": Case(
        "norms after each block, learned positions two further on, a bias on the logits, a forced last token",
        "bart",
        {**BART, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2},
        tokenizer="unigram_bart",
        embedding=0.45,
        generation={"forced_bos_token_id": 0},
        beams=[
            {"length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3, "min_new_tokens": 12, "end": True}
            | {"forced_end": True}
        ],
        stored=True,
    ),
    "mbart": Case(
        "norms before each block and one at the end, embeddings scaled, a language as the first token",
        "mbart",
        {**BART, "scale_embedding": True, "decoder_start_token_id": 2},
        tokenizer="unigram_languages",
        embedding=0.2,
        last_norm=2.0,
        generation={"forced_bos_token_id": 125},
        matters=[{"scale_embedding": False}],
    ),
    "marian": Case(
        "sinusoidal positions, swish, a bias on the logits, padding that may not be generated",
        "marian",
        {**BART, "activation_function": "swish", "scale_embedding": True, "pad_token_id": 127, "eos_token_id": 0}
        | {"decoder_start_token_id": 127, "forced_eos_token_id": 0},
        tokenizer="unigram_marian",
        embedding=0.3,
        last_norm=3.0,
        gain=0.7,
        generation={"bad_words_ids": [[127]]},
        stored=True,
    ),
    "marian_separate": Case(
        "a vocabulary for each side",
        "marian",
        {**BART, "activation_function": "swish", "scale_embedding": True, "pad_token_id": 127, "eos_token_id": 0}
        | {"decoder_start_token_id": 127, "forced_eos_token_id": 0, "share_encoder_decoder_embeddings": False}
        | {"decoder_vocab_size": 128, "tie_word_embeddings": False},
        tokenizer="unigram_marian",
        embedding=0.3,
        gain=0.7,
        generation={"bad_words_ids": [[127]]},
    ),
    "m2m_100": Case(
        "sinusoidal positions that count from the padding's id, norms before each block, ReLU, a language first",
        "m2m_100",
        {**BART, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
        tokenizer="unigram_languages",
        embedding=0.2,
        last_norm=2.0,
        generation={"forced_bos_token_id": 126},
        stored=True,
    ),
    "bert": Case(
        "learned positions and types, norms after each block, every masked token scored by the table of tokens",
        "bert",
        {**BERT},
        tokenizer="unigram_bart",
        matters=[{"hidden_act": "relu"}],
    ),
    "distilbert": Case(
        "BERT without types",
        "distilbert",
        {"vocab_size": 128, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 96},
        tokenizer="unigram_bart",
    ),
    "roberta": Case(
        "positions that count from the padding's id",
        "roberta",
        {**ROBERTA},
        tokenizer="unigram_bart",
    ),
    "xlm_roberta": Case(
        "RoBERTa by its other name",
        "xlm-roberta",
        {**ROBERTA},
        tokenizer="unigram_bart",
    ),
    "modernbert": Case(
        "rotated heads, every third layer sees all and the others a window, gated feed-forward, no biases",
        "modernbert",
        {**BERT, "num_hidden_layers": 4, "local_attention": 8, "global_attn_every_n_layers": 3, "pad_token_id": 1}
        | {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2},
        tokenizer="unigram_bart",
        form=5,
        matters=[{"local_attention": 64}],
    ),
}

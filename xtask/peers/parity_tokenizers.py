"""Small tokenizers of the kinds that checkpoints carry, trained here on a few lines of many scripts, and the texts whose
ids are compared.

Owns the training text, the texts and the shapes of the tokenizers; knows nothing of models. A model's tokenizer is
trained to fit its vocabulary; the cases of `TOKENIZERS` are larger and stand alone.
"""

import collections
import json
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TRAINING = [
    "The tide comes in twice a day and turns the wheel of the mill; the miller's day follows the moon, not the sun.",
    "It's what they'd said: we've waited, I'm here, you're late, she'll come. The mill, the mill-race and the millpond!",
    "In 1170 there were 38 mills; in 1938, 10 or 11. Prices: $3.50, 12,000 kg, 7% more, 1e-4, 0x7F, v5.24.0.",
    "def turn(wheel: Wheel, times=1) -> None:\n    for _ in range(times):\n\twheel.turn()\n\n    return None\n",
    '{"name": "tide", "values": [1, 2.5, null, true], "url": "https://example.org/a?b=c&d=e#f"}',
    "Die Gezeitenmühle mahlt bei Ebbe; das Wasser fließt über das Rad, groß und schön, während der Müller schläft.",
    "Le moulin à marée tourne deux fois par jour, là où la mer s'élève ; l'été, les œufs coûtent peu à Noël.",
    "El molino de mareas muele dos veces al día: ¿cuándo vuelve la mar? ¡Mañana, señor! Ação, não, pão, çeşme, İstanbul.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Árvíztűrő tükörfúrógép. Đường đến bến cảng.",
    "Приливная мельница мелет муку дважды в день, когда море уходит. Млин меле борошно, їжак їсть ґрунт.",
    "Ο παλιρροϊκός μύλος γυρίζει δύο φορές την ημέρα, όταν η θάλασσα αποσύρεται.",
    "טחנת הגאות טוחנת פעמיים ביום, כאשר הים נסוג. שָׁלוֹם עוֹלָם",
    "تطحن طاحونة المد مرتين في اليوم حين ينحسر البحر. السَّلامُ عليكم ۱۲۳ ١٢٣",
    "ज्वार की चक्की दिन में दो बार चलती है, जब समुद्र पीछे हटता है। नमस्ते दुनिया",
    "জোয়ারের কল দিনে দুবার চলে। ஓதம் ஆலை ஒரு நாளைக்கு இரண்டு முறை இயங்கும்.",
    "กังหันน้ำขึ้นน้ำลงหมุนวันละสองครั้งเมื่อน้ำทะเลลดลง สวัสดีชาวโลก",
    "潮汐磨坊每天在退潮时转动两次。海水流过水轮,磨坊主看着月亮。今天天气很好,我们去海边吧!",
    "潮の満ち引きで水車が一日に二回まわります。カタカナとひらがなと漢字、ｶﾀｶﾅ。",
    "조력 방앗간은 바닷물이 빠질 때 하루에 두 번 돌아갑니다. 안녕하세요 세계",
    "მიქცევის წისქვილი დღეში ორჯერ ბრუნავს. የማዕበል ወፍጮ በቀን ሁለት ጊዜ ይዞራል። Հայերեն լեզու",
    "🌊🌊 The tide 🌙 is high 😀😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇯🇵 1️⃣ ❤️ ☕ ✨",
]

# One text of many scripts and emoji as the issue asks, then what trips tokenizers one by one.
TEXTS = [
    "The mill 磨坊 мельница μύλος טחנה طاحونة चक्की 水車 방앗간 წისქვილი 🌊 turns 2 times.",
    "",
    " ",
    "   leading, trailing and   inner    spaces   ",
    "\n\nlines\r\nof\n \n\ttabs\t\tand\x0bothers\x0c\u2028end\u2029",
    "non\u00a0breaking, thin\u2009, zero\u200bwidth, ideographic\u3000space, \ufeffmark",
    "control \x01\x02\x1f\x7f\x80 characters and nul \x00 inside",
    "It's they'd WE'VE I'm you're she'll 'quoted' ’tis don’t",
    "1 12 123 1234 12345.678 ½ ² Ⅷ ① ٣ ३ 三",
    "precomposed é ñ ü å and combining e\u0301 n\u0303 u\u0308 a\u030a, ﬁ ligature, ｆｕｌｌｗｉｄｔｈ, İıßſ",
    "😀 😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇯🇵 1️⃣ ❤️ ☕\ufe0e ☕\ufe0f 🫠",
    "Zażółć gęślą jaźń, Đường, ﷽, 𝔘𝔫𝔦𝔠𝔬𝔡𝔢, 𐍈𐌰, 𓀀, 𠜎𠜱",
    "सर्वे भवन्तु सुखिनः ก็ กำ น้ำ ស្វាគមន៍ မင်္ဂလာပါ ഗുഡ് ಕನ್ನಡ తెలుగు සිංහල བོད་ཡིག ᠮᠣᠩᠭᠣᠯ",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)], \"b\": not x}  # ok\n",
    "https://example.org/path?query=value&x=%20#frag user@example.org C:\\dir\\file.txt",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!! ------ ______ ......",
    "<s>not special?</s> <|endoftext|> [CLS] <unk> <0x41> ▁lower▁block Ġ Ċ",
    "混合mixed文本と日本語テキスト한국어 and עברית (rtl) العربية.",
]

# What splits a text before byte-level BPE: GPT-2's own is built into ByteLevel; Qwen's and Llama 3's are given as here.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def special(token):
    return AddedToken(token, special=True, normalized=False)


def common_letters(lines, number):
    """The lines with their `number` commonest letters alone. Trainers break ties between letters at random, so what they
    are given must not leave them a choice."""
    counts = collections.Counter(letter for line in lines for letter in line if not letter.isspace())
    kept = set(sorted(counts, key=lambda letter: (-counts[letter], letter))[:number])
    return ["".join(letter for letter in line if letter in kept or letter.isspace()) for line in lines]


def byte_level(size, specials=("<|endoftext|>",), pattern=None, nfc=False, bos=None):
    """GPT-2's kind, and with a pattern Llama 3's and Qwen's: pieces of bytes written as visible letters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(specials), initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(TRAINING, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]]))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special(token) for token in specials])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos is not None:
        start = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), start])
    return tokenizer


def sentencepiece_bpe(size, specials=("<unk>", "<s>", "</s>"), prepend=True):
    """Llama 2's and Gemma's kind: spaces are ▁, and a letter without a piece falls back to its bytes."""
    given = [*specials, *BYTE_TOKENS]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size - len(given), show_progress=False)
    trained.train_from_iterator(common_letters(TRAINING, (size - len(given)) // 3), trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocab = {token: index for index, token in enumerate([*given, *pieces])}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    tokenizer.add_special_tokens([special(token) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])]
    )
    return tokenizer


def unigram(size, specials, template=None, more=(), byte_fallback=False):
    """T5's, mBART's and XLM-R's kind: the likeliest pieces, spaces are ▁, text normalised to NFKC. `more` come last."""
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    given = [*specials, *(BYTE_TOKENS if byte_fallback else [])]
    room = size - len(given) - len(more)
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = metaspace
    lines = common_letters([normalizer.normalize_str(line) for line in TRAINING], room // 2)
    trained.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=room, show_progress=False))
    # The trainer scores the letters that it must keep in an order of its own: rounded, then told apart by their letters.
    pieces = [(piece, round(score, 1)) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    pieces = sorted(pieces, key=lambda piece: (-piece[1], piece[0]))
    pieces = [(piece, round(score - 0.0007 * rank, 4)) for rank, (piece, score) in enumerate(pieces)]
    vocab = [(token, 0.0) for token in given] + pieces
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=given.index("<unk>"), byte_fallback=byte_fallback))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, metaspace
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    if byte_fallback:
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), tokenizer.decoder])
    tokenizer.add_special_tokens([special(token) for token in [*specials, *more]])
    if template is not None:
        names = [token for token in [*specials, *more] if token in template[1].split()]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template[0],
            pair=template[1],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in names],
        )
    return tokenizer


def wordpiece(size, lowercase=True):
    """BERT's kind: words cut greedily, what goes on within a word begins with ##."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    counts = collections.Counter()
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    for line in TRAINING:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + 8) + 1):
                    counts[("##" if start else "") + word[start:end]] += 1
    def plain(piece):
        return piece.removeprefix("##")
    letters = sorted(
        (piece for piece in counts if len(plain(piece)) == 1), key=lambda piece: (-counts[piece], piece)
    )[: (size - len(specials)) * 2 // 3]
    longer = sorted(
        (piece for piece in counts if len(plain(piece)) > 1),
        key=lambda piece: (-counts[piece] * len(plain(piece)), piece),
    )
    vocab = specials + letters + longer[: size - len(specials) - len(letters)]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([special(token) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


# Cases of their own: what the tokenizer is, and its named special tokens for tokenizer_config.json.
END = {"eos_token": "<|endoftext|>"}
SENTENCE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TOKENIZERS = {
    "tokenizer_byte_level": (lambda: byte_level(640), {"bos_token": "<|endoftext|>", **END}),
    "tokenizer_byte_level_qwen": (
        lambda: byte_level(640, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], QWEN, nfc=True),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "tokenizer_byte_level_llama_3": (
        lambda: byte_level(640, ["<|begin_of_text|>", "<|end_of_text|>"], LLAMA_3, bos="<|begin_of_text|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    ),
    "tokenizer_sentencepiece_bpe": (lambda: sentencepiece_bpe(640), SENTENCE),
    "tokenizer_unigram": (
        lambda: unigram(520, ["<s>", "<pad>", "</s>", "<unk>"], ("<s> $A </s>", "<s> $A </s> </s> $B </s>")),
        {**SENTENCE, "pad_token": "<pad>"},
    ),
    "tokenizer_unigram_bytes": (
        lambda: unigram(640, ["<pad>", "</s>", "<unk>"], ("$A </s>", "$A </s> $B </s>"), byte_fallback=True),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    ),
    "tokenizer_wordpiece": (
        lambda: wordpiece(560),
        {
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "mask_token": "[MASK]",
        },
    ),
}


def write(tokenizer, names, folder):
    """tokenizer.json and tokenizer_config.json as the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

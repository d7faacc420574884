"""Makes model folders with transformers and says what the libraries see in them.

usage: reference.py OUT

OUT gets one folder for each model, a hub cache, and reference.json.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

TINY = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
SHAPES = {
    # vocabulary, hidden, intermediate, layers, heads, KV heads, positions, tied
    "qwen2-1.5b": (151936, 1536, 8960, 28, 12, 2, 131072, False),
    "qwen2-32b": (152064, 5120, 27648, 64, 40, 8, 131072, False),
    "smollm2-135m": (49152, 576, 1536, 30, 9, 3, 8192, True),
}


def save(out, name, config, shard=None, generation=None):
    """A folder with real weights: in one file, or in shards with an index."""
    folder = out / name
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    generation_file = folder / "generation_config.json"
    generation_file.unlink(missing_ok=True)
    if generation is not None:
        GenerationConfig(eos_token_id=generation).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"name": "' + name + '"}')
    return see(folder) | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def see(folder):
    """The numbers of a folder, by the libraries."""
    config = AutoConfig.from_pretrained(folder).get_text_config()
    eos = config.eos_token_id
    if (folder / "generation_config.json").exists():
        eos = GenerationConfig.from_pretrained(folder).eos_token_id or eos
    heads = config.num_attention_heads
    return {
        "vocab_size": config.vocab_size,
        "max_positions": config.max_position_embeddings,
        "dtype": str(config.dtype or "").removeprefix("torch."),
        "eos": sorted(set(eos)) if isinstance(eos, list) else [eos] if eos is not None else [],
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "sums": sums(folder),
    }


def sums(folder):
    """What identifies the model: the index, else the names and headers of the files."""
    index = folder / "model.safetensors.index.json"
    weights = hashlib.sha256()
    if index.exists():
        weights.update(index.read_bytes())
    else:
        for file in sorted(folder.glob("*.safetensors")):
            data = file.read_bytes()
            length = int.from_bytes(data[:8], "little")
            weights.update(f"{file.name} {length}\n".encode() + data[8 : 8 + length])
    return {
        "config": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest(),
        "weights": weights.hexdigest(),
        "tokenizer": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
    }


def models(out):
    llama = transformers.LlamaConfig(**TINY, eos_token_id=7)
    qwen = transformers.Qwen2Config(**TINY, eos_token_id=5, tie_word_embeddings=True)
    wide = transformers.Qwen3Config(**TINY, head_dim=16)
    nested = transformers.Gemma3Config(
        text_config={**TINY, "head_dim": 24, "eos_token_id": 9},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    yield "one-file", save(out, "one-file", qwen)
    yield "shards", save(out, "shards", llama, shard="20KB", generation=[11, 3, 11])
    yield "generation-without-eos", save(out, "generation-without-eos", llama, generation=[])
    yield "head-dim", save(out, "head-dim", wide, generation=4)
    folder = out / "nested"
    nested.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    yield "nested", see(folder)


def shapes(out):
    """Folders without weights, and the parameters that transformers gives the shape."""
    for name, (vocab, hidden, inner, layers, heads, kv, positions, tied) in SHAPES.items():
        kind = transformers.LlamaConfig if tied else transformers.Qwen2Config
        config = kind(
            vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=positions,
            tie_word_embeddings=tied, dtype="bfloat16",
        )  # fmt: skip
        config.save_pretrained(out / name)
        (out / name / "tokenizer.json").write_text("{}")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        yield name, sum(p.numel() for p in model.parameters())


def hub(out):
    """A cache as the hub's client lays it out, and where the client finds snapshots."""
    cache = out / "cache"
    layout = {
        "models--org--name": {"main": "a" * 40, "v1.0": "b" * 40, "refs/pr/1": "c" * 40},
        "models--plain": {"main": "d" * 40},
    }
    for repo, refs in layout.items():
        for ref, commit in refs.items():
            file = cache / repo / "refs" / ref
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(commit)
            snapshot = cache / repo / "snapshots" / commit
            snapshot.mkdir(parents=True)
            (snapshot / "config.json").write_text("{}")
    for repo, revision in [
        ("org/name", None), ("org/name", "v1.0"), ("org/name", "refs/pr/1"), ("org/name", "b" * 40), ("plain", None),
    ]:  # fmt: skip
        found = snapshot_download(repo, revision=revision, cache_dir=cache, local_files_only=True)
        yield {"name": repo + (f"@{revision}" if revision else ""), "dir": found}


def caches():
    """Where the hub's client looks under each environment."""
    ask = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for variables in [
        {}, {"XDG_CACHE_HOME": "/x"}, {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"},
        {"HF_HUB_CACHE": "/c", "HF_HOME": "/h"},
    ]:  # fmt: skip
        env = {"HOME": "/home/user", "PATH": os.environ["PATH"]} | variables
        run = subprocess.run([sys.executable, "-c", ask], env=env, check=True, capture_output=True, text=True)
        yield {"env": env, "cache": run.stdout.strip()}


def main():
    out = Path(sys.argv[1])
    said = {
        "models": dict(models(out)),
        "shapes": dict(shapes(out)),
        "hub": list(hub(out)),
        "caches": list(caches()),
    }
    (out / "reference.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()

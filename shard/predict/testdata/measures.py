"""Reads a text of the demo with one of its models in float32, by transformers, and prints as
JSON, for each position, the largest scores and what the whole distribution comes to."""

import csv
import json
import sys

import torch
from transformers import LlamaForCausalLM

model, table, positions = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(table) as f:
    ids = [int(float(row["32.0_real_token"])) for row, _ in zip(csv.DictReader(f), range(positions))]
with torch.no_grad():
    logits = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([ids])).logits[0]
log_p = logits.log_softmax(-1)
top = logits.topk(10).values.double()


def logu(evidence: torch.Tensor) -> tuple[list[float], list[float]]:
    """Returns AU and EU, written as R2R's compute_logu is."""
    total = evidence.sum(-1, keepdim=True)
    surprise = torch.digamma(evidence + 1) - torch.digamma(total + 1)
    return (-(evidence / total * surprise).sum(-1)).tolist(), (10 / (total.squeeze(-1) + 10)).tolist()


au, eu = logu(top.clamp(min=0))
r2r_au, r2r_eu = logu(top)  # R2R takes the logits as they are
json.dump(
    {
        "vocab": logits.shape[-1],
        "logits": logits.topk(10).values.tolist(),
        "logprobs": log_p.topk(100).values.tolist(),
        "entropy": (-(log_p.exp() * log_p).double().sum(-1)).tolist(),
        "au": au,
        "eu": eu,
        "r2r_au": r2r_au,
        "r2r_eu": r2r_eu,
    },
    sys.stdout,
)

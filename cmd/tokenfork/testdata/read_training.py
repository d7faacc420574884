"""Reads a router's training set and makes its scalars again, by the definition of step 4 of R2R's data
labelling, from the table and r2r.csv.

python read_training.py JOB LOGITS
"""

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

job, k = Path(sys.argv[1]), int(sys.argv[2])
files = sorted((job / "r2r").glob("*.parquet"))
got = pa.concat_tables([pq.read_table(f) for f in files])
features = {
    "token_id": pa.int64(), "data_id": pa.string(), "divergent": pa.int64(), "small_token": pa.int64(), "real_token": pa.int64(),
    "small_logits": pa.list_(pa.float32()), "small_indices": pa.list_(pa.int64()), "mismatch": pa.int64(), "mask": pa.int64(),
}  # fmt: skip
for (name, kind), field in zip(features.items(), got.schema, strict=True):
    same = field.type.value_type == kind.value_type if pa.types.is_list(kind) else field.type == kind
    if field.name != name or not same:
        sys.exit(f"column {field.name} is {field.type}, want {name}: {kind}")

scores = pd.read_csv(job / "r2r.csv")[["data_id", "token_id", "divergent"]]
scores["token_id"] -= 1
scores["mismatch"] = 1
index = pq.read_table(job / "table.parquet").to_pandas()
index = index[index["data_id"].isin(scores["data_id"].unique())]
want = index.merge(scores, on=["data_id", "token_id"], how="left").fillna({"divergent": 0, "mismatch": 0})
want["mask"] = (want["token_type"] != 0).astype(int)
want = want.rename(columns={"SLM_predictions": "small_token"})
rows = got.to_pandas()
for name in ("token_id", "data_id", "divergent", "small_token", "real_token", "mismatch", "mask"):
    if rows[name].tolist() != want[name].tolist():
        sys.exit(f"{name}: {rows[name].tolist()[:20]}, want {want[name].tolist()[:20]}")
for best, logits, ids in zip(rows["small_token"], rows["small_logits"], rows["small_indices"], strict=True):
    if len(logits) != k or len(set(ids)) != k or sorted(logits, reverse=True) != list(logits) or ids[0] != best:
        sys.exit(f"{logits} of {ids} are not the {k} largest logits of a model that says {best}")
print(len(files), "parts,", len(rows), "rows,", int(rows["mismatch"].sum()), "mismatches,", int(rows["divergent"].sum()), "divergent")

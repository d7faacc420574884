"""What the planner's tests compare with: the same tables in other formats, and
mismatches and contexts worked out by pandas, row by row."""

import json
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

IDS = ("token_id", "sentence_id", "real_token", "predictions")


def ids(frame: pd.DataFrame) -> list[str]:
    return ["row_id"] + [c for c in frame if c.endswith(IDS)]


def write_formats(csv: Path, out: Path) -> None:
    """The table as each kind of file that is read."""
    frame = pd.read_csv(csv)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    text = frame.assign(**{c: frame[c].astype(str) for c in frame if c.endswith("sentence_id")})
    unused = table.append_column("unused", pa.array([[1, 2]] * len(frame)))
    narrow = pa.Table.from_pandas(frame.astype({c: "int32" for c in ids(frame)}), preserve_index=False)
    unsigned = pa.Table.from_pandas(frame.astype({c: "uint64" for c in ids(frame)}), preserve_index=False)
    floats = pa.Table.from_pandas(frame.astype({c: "float64" for c in ids(frame)}), preserve_index=False)
    pq.write_table(table, out / "plain.parquet")
    pq.write_table(unused, out / "groups.parquet", row_group_size=700, compression="zstd", data_page_size=2000)
    pq.write_table(narrow, out / "narrow.parquet", use_dictionary=False, data_page_version="2.0")
    pq.write_table(unsigned, out / "unsigned.parquet", compression="gzip")
    pq.write_table(floats, out / "floats.parquet")
    frame.to_csv(out / "gz.csv.gz", index=False)
    with pa.CompressedOutputStream(str(out / "zst.csv.zst"), "zstd") as w:
        w.write(frame.to_csv(index=False).encode())
    pa.feather.write_feather(table, str(out / "plain.arrow"), compression="uncompressed")
    pa.feather.write_feather(unused, str(out / "lz4.arrow"), compression="lz4", chunksize=700)
    pa.feather.write_feather(unsigned, str(out / "zstd.arrow"), compression="zstd")
    with pa.ipc.new_stream(out / "stream.arrows", table.schema) as w:
        w.write_table(table, max_chunksize=700)
    strings = pa.Table.from_pandas(text, preserve_index=False)
    pq.write_table(strings, out / "text.parquet")
    large = pa.schema([f.with_type(pa.large_string()) if f.name.endswith("sentence_id") else f for f in strings.schema])
    pa.feather.write_feather(strings.cast(large), str(out / "text-large.arrow"))
    category = text.astype({c: "category" for c in text if c.endswith("sentence_id")})
    pq.write_table(pa.Table.from_pandas(category, preserve_index=False), out / "text-category.parquet")
    half = len(frame) // 2
    frame[:half].to_csv(out / "part-1.csv", index=False)
    pq.write_table(table.slice(half), out / "part-2.parquet")


def write_bad(csv: Path, out: Path) -> None:
    """Tables with columns that cannot be read."""
    frame = pd.read_csv(csv)
    changes = {
        "string": {"1.5_real_token": frame["1.5_real_token"].astype(str)},
        "bool": {"32.0_predictions": frame["32.0_predictions"] > 5},
        "float32": {"row_id": (frame["row_id"] + 2**24).astype("float32")},
        "half": {"1.5_real_token": frame["1.5_real_token"] + 0.5},
        "negative": {"1.5_real_token": -frame["1.5_real_token"] - 1},
        "null": {"row_id": frame["row_id"].astype("Int64").where(frame["row_id"] != 3)},
        "list": {"1.5_predictions": [[v] for v in frame["1.5_predictions"]]},
    }
    for name, change in changes.items():
        pa.feather.write_feather(pa.Table.from_pandas(frame.assign(**change), preserve_index=False), str(out / f"{name}.arrow"))
        pq.write_table(pa.Table.from_pandas(frame.assign(**change), preserve_index=False), out / f"{name}.parquet")


def mismatches(frame: pd.DataFrame, trajectories: str, alignment: str) -> list[dict]:
    """The rule of the mismatches, one row at a time."""
    r2r = "SLM_predictions" in frame
    names = (
        dict(sentence="data_id", position="token_id", real="real_token", small="SLM_predictions", reference="LLM_predictions")
        if r2r
        else dict(sentence="1.5_sentence_id", position="1.5_token_id", real="1.5_real_token", small="1.5_predictions", reference="32.0_predictions")
    )
    found = []
    for sentence, rows in frame.groupby(names["sentence"], sort=False):
        rows = rows.to_dict("records")
        last = 0
        for p in range(len(rows)):
            holder = p - 1 if alignment == "next" else p
            if holder < 0:
                continue
            row, here = rows[holder], rows[p]
            small = row[names["small"]]
            against = here[names["real"]] if trajectories == "real" else row[names["reference"]]
            if pd.isna(small) or pd.isna(against) or small == against:
                continue
            if "token_type" in row and row["token_type"] == 0:
                continue
            found.append(
                dict(
                    text=str(sentence),
                    position=int(here[names["position"]]),
                    small=int(small),
                    reference=int(against),
                    real=int(here[names["real"]]),
                    row=int(row["row_id"]),
                    context=[int(r[names["real"]]) for r in rows[last:p]],
                    measures=[] if r2r else [None if pd.isna(row[f"{m}_{q}"]) else row[f"{m}_{q}"] for m in ("1.5", "32.0") for q in ("entropy", "AU", "EU")],
                )
            )
            last = p
    return found


def main() -> None:
    command, csv, *rest = sys.argv[1:]
    if command == "formats":
        write_formats(Path(csv), Path(rest[0]))
    elif command == "bad":
        write_bad(Path(csv), Path(rest[0]))
    else:
        frame = pd.read_csv(csv)
        print(json.dumps({f"{t} {a}": mismatches(frame, t, a) for t in ("own", "reference", "real") for a in ("next", "same")}))


main()

"""Writes the same texts as other programs write them.

usage: write.py OUT

The names begin with the kind of the rows: full (id, prompt, response), bare (no id) or
chat (messages as nested lists); named (ids are strings).
"""

import gzip
import json
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq

ROWS = [
    {"id": 7, "prompt": 'Say "a, b";\nthen\tc.', "response": "a, b\n\nc – ü 👩‍👩‍👧‍👦 \u2028 end"},
    {"id": 8, "prompt": "Q", "response": "A."},
    {"id": 1 << 40, "prompt": "{not json", "response": "[1, 2]"},
]


def main():
    out = Path(sys.argv[1])
    full = pd.DataFrame(ROWS)
    named = full.assign(id=[f"t {n}" for n in full["id"]])
    bare = full.drop(columns="id")
    full.to_json(out / "full-pandas.jsonl", orient="records", lines=True)
    full.to_json(out / "full-pandas.json", orient="records")
    full.to_json(out / "full-indented.data", orient="records", indent=2, force_ascii=False)
    full.to_json(out / "full-pandas.jsonl.gz", orient="records", lines=True)
    full.to_csv(out / "full-pandas.csv", index=False)
    full.to_csv(out / "full-index.csv")
    full.to_csv(out / "full-bom.csv", index=False, encoding="utf-8-sig")
    full.to_csv(out / "full-tabs.tsv", index=False, sep="\t")
    semicolons = full.to_csv(index=False, sep=";")
    (out / "full-semicolons.csv.zst").write_bytes(pa.compress(semicolons.encode(), "zstd", asbytes=True))
    full.to_parquet(out / "full-pandas.parquet")
    full.to_feather(out / "full-pandas.feather")
    named.to_parquet(out / "named-pandas.parquet", compression="gzip")
    bare.to_parquet(out / "bare-no-ending", compression="zstd")
    pl.DataFrame(ROWS).write_ndjson(out / "full-polars.ndjson")
    pl.DataFrame(ROWS).write_csv(out / "full-polars.csv")
    pl.DataFrame(ROWS).write_parquet(out / "full-polars.parquet")
    pl.DataFrame(ROWS).write_ipc_stream(out / "full-polars.arrows", compat_level=pl.CompatLevel.oldest())
    duckdb.register("rows", full)
    duckdb.sql(f"copy rows to '{out}/full-duckdb.parquet'")
    duckdb.sql(f"copy rows to '{out}/full-duckdb.json' (array true)")
    duckdb.sql(f"copy rows to '{out}/full-duckdb.csv'")
    with pa.OSFile(str(out / "bare-stream"), "wb") as f:
        table = pa.Table.from_pandas(bare, preserve_index=False)
        with pa.ipc.new_stream(f, table.schema) as w:
            w.write_table(table)
    with pa.ipc.new_stream(out / "bare-stream-before-2019", table.schema, options=pa.ipc.IpcWriteOptions(use_legacy_format=True)) as w:
        w.write_table(table)
    lines = "".join(json.dumps(row) + "\r\n" for row in ROWS)
    (out / "full-bom-crlf").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (out / "full-zstd").write_bytes(pa.compress(lines.encode(), "zstd", asbytes=True))
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
        for row in ROWS
    ]
    (out / "chat.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, chats)).encode()))
    turns = [[{"from": {"user": "human"}.get(m["role"], "gpt"), "value": m["content"]} for m in c["messages"]] for c in chats]
    (out / "chat-turns.json").write_text(json.dumps([{"conversations": turn} for turn in turns]))
    pd.DataFrame({"messages": [json.dumps(c["messages"]) for c in chats]}).to_csv(out / "chat.csv", index=False)
    nested(out, chats, turns)


def nested(out: Path, chats: list, turns: list):
    """Chats as lists of structs, as datasets writes them, and as others do."""
    pq.write_table(pa.Table.from_pylist(chats), out / "chat-datasets.parquet")
    for version in ["1.0", "2.0"]:
        pq.write_table(pa.Table.from_pylist(chats), out / f"chat-{version}.parquet", data_page_version=version, row_group_size=2, use_dictionary=False, compression="zstd")
    more = [
        {"messages": [{"name": None, "tool_calls": [], "when": None, **m, "score": 0.5, "seen": True} for m in c["messages"]], "source": "x"} for c in chats
    ]
    pq.write_table(pa.Table.from_pylist(more), out / "chat-more-fields.parquet")
    parts = [{"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in c["messages"]]} for c in chats]
    pq.write_table(pa.Table.from_pylist(parts), out / "chat-parts.parquet")
    pq.write_table(pa.Table.from_pylist(chats), out / "chat-2-levels.parquet", use_compliant_nested_type=False)
    pq.write_table(pa.Table.from_pylist([{"conversations": t} for t in turns]), out / "chat-turns.parquet")
    prompts = pa.table({"prompt": [c["messages"][:1] for c in chats], "response": [c["messages"][1]["content"] for c in chats]})
    pq.write_table(prompts, out / "chat-prompt.parquet")
    table = pa.Table.from_pylist(chats)
    for codec in [None, "lz4", "zstd"]:
        for ending, new in [("arrow", pa.ipc.new_file), ("arrows", pa.ipc.new_stream)]:
            with new(out / f"chat-{codec}.{ending}", table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as w:
                w.write_table(table, max_chunksize=2)
    large = pa.schema([("x", pa.int8()), ("messages", pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())])))])
    longer = pa.Table.from_pylist([{"x": 1, **chats[1]}] + [{"x": i, **c} for i, c in enumerate(chats)], schema=large)
    pa.feather.write_feather(longer.slice(1), out / "chat-sliced.feather", compression="uncompressed")
    data = pl.DataFrame(chats)
    data.write_parquet(out / "chat-polars.parquet")
    data.write_ipc(out / "chat-polars.arrow", compat_level=pl.CompatLevel.newest())
    data.write_ipc_stream(out / "chat-polars.arrows", compression="lz4")
    duckdb.register("chats", table)
    duckdb.sql(f"copy chats to '{out}/chat-duckdb.parquet' (PARQUET_VERSION v2)")
    duckdb.sql(f"copy chats to '{out}/chat-duckdb.ndjson' (FORMAT json)")


if __name__ == "__main__":
    main()

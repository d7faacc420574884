"""Writes one table as many programs do, in many settings, and says what pyarrow reads of each file.

Prints a line of JSON for each file: its name, and for each column the type that pyarrow gives it, what tokenfork is
to take it for, and the SHA-256 of its cells: int64 with the least number for null, float64 with one NaN, strings as
their length and bytes.
"""

import hashlib
import itertools
import json
import sys
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

OUT = Path(sys.argv[1])
LEAST = np.iinfo(np.int64).min


def table(rows: int) -> pa.Table:
    """Columns of all kinds: with runs, with few and with many values, with nulls."""
    r = np.random.default_rng(rows)
    gap = r.random(rows) < 0.2
    text = [f"row {i // 7} of {'é' * (i % 5)}" for i in range(rows)]
    wide = [Decimal(int(v)) * (10**12 if i % 3 else 1) for i, v in enumerate(r.integers(-(10**6), 10**6, rows))]
    small = r.integers(0, 100, rows)
    return pa.table(
        {
            "1.5_i64": r.integers(-(2**62), 2**62, rows),
            "ids": pa.array(r.integers(0, 151_000, rows)),
            "runs": pa.array(np.arange(rows) // 50),
            "rising": pa.array(np.arange(rows) * 3 + 10**10),
            "i32": pa.array(r.integers(-(2**31), 2**31, rows), pa.int32()),
            "i16": pa.array(r.integers(-(2**15), 2**15, rows), pa.int16()),
            "i8": pa.array(r.integers(-128, 128, rows), pa.int8()),
            "u64": pa.array(r.integers(0, 2**63, rows, dtype=np.uint64)),
            "u32": pa.array(r.integers(0, 2**32, rows, dtype=np.uint32)),
            "u16": pa.array(r.integers(0, 2**16, rows, dtype=np.uint16)),
            "u8": pa.array(r.integers(0, 256, rows, dtype=np.uint8)),
            "i64 gaps": pa.array(r.integers(0, 2**40, rows), mask=gap),
            "i32 gaps": pa.array(small.astype(np.int32), mask=gap),
            "no i64": pa.nulls(rows, pa.int64()),
            "f64": r.exponential(1.5, rows),
            "f64 gaps": pa.array(r.standard_normal(rows), mask=gap),
            "f64 odd": pa.array(np.where(gap, np.nan, np.where(small < 3, -np.inf, 0.0 * small))),
            "f32": pa.array(r.standard_normal(rows), pa.float32()),
            "f16": pa.array(r.standard_normal(rows).astype(np.float16)),
            "text": pa.array(text),
            "text gaps": pa.array(text, mask=gap),
            "few": pa.array([f"long enough for a view {v % 5}" for v in small], mask=gap),
            "large": pa.array(text, pa.large_string()),
            "category": pa.array([f"c{v}" for v in small], mask=gap).dictionary_encode(),
            "d9": pa.array([Decimal(int(v)) for v in small], pa.decimal128(9, 0)),
            "d18": pa.array([Decimal(int(v) - 50) for v in small], pa.decimal128(18, 0)),
            "d38": pa.array(wide, pa.decimal128(38, 0)),
            "d12.3": pa.array([Decimal(int(v)).scaleb(-3) for v in small], pa.decimal128(12, 3), mask=gap),
            "bool": pa.array(small % 2 == 0),
            "time": pa.array(small, pa.timestamp("us")),
            "list": pa.array([[int(v)] * (int(v) % 3) for v in small]),
            "struct": pa.array([{"x": int(v), "y": "y"} for v in small]),
            "chats": pa.array([chat(int(v)) for v in small]),
        }
    )


def chat(v: int) -> list | None:
    """Lists of structs with lists, where any of them can be null or empty."""
    if v % 9 == 0:
        return None
    parts = [[], None, [{"type": "text", "text": f"é {v}"}], [{"type": None, "text": "\n"}, None]]
    return [None if v % 7 == k else {"role": "user" if k % 2 else None, "content": parts[(v + k) % 4], "ids": [[k], [], None, [v, None]][: v % 5]} for k in range(v % 4)]


def arrow_only(rows: int) -> dict[str, pa.Array]:
    """Columns that Parquet does not have, or has as others."""
    small = np.random.default_rng(1).integers(0, 100, rows)
    text = [f"a text of some length {v}" if v % 3 else "short" for v in small]
    gap = small > 90
    return {
        "view": pa.array(text, mask=gap).cast(pa.string_view()),
        "numbers": pa.array(small, mask=gap).dictionary_encode(),
        "floats": pa.array(small / 7).dictionary_encode(),
        "d32": pa.array([Decimal(int(v)) for v in small], pa.decimal32(9, 0)),
        "d64": pa.array([Decimal(int(v)) for v in small], pa.decimal64(18, 0)),
        "d256": pa.array([Decimal(int(v)) for v in small], pa.decimal256(60, 0), mask=gap),
        "nothing": pa.nulls(rows),
        "ree": pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([1])),
        "union": pa.UnionArray.from_sparse(pa.array(np.zeros(rows, np.int8)), [pa.array(small)]),
        "after": pa.array(small),
    }


def kind(t: pa.DataType) -> str:
    """What tokenfork is to take a type for."""
    if pa.types.is_dictionary(t):
        t = t.value_type
    if pa.types.is_decimal(t):
        return "float" if t.scale else "whole"
    if pa.types.is_integer(t):
        return "whole"
    if pa.types.is_floating(t):
        return "float"
    if pa.types.is_string(t) or pa.types.is_large_string(t) or t == pa.string_view():
        return "text"
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_map(t) or pa.types.is_struct(t):
        return "nested"
    return ""


def as_json(value: object) -> str:
    """A list, map or struct as tokenfork reads it; null is empty."""
    return "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def digest(column: pa.ChunkedArray) -> str:
    """The SHA-256 of a column's cells."""
    if pa.types.is_dictionary(column.type):
        plain = pa.string() if kind(column.type) == "text" else column.type.value_type  # of views there is no decoding
        decoded = [pa.DictionaryArray.from_arrays(c.indices, c.dictionary.cast(plain)).dictionary_decode() for c in column.chunks]
        column = pa.chunked_array(decoded, plain)
    k, t = kind(column.type), column.type
    if k == "text":
        cells = [(v or "").encode() for v in column.to_pylist()]
        return hashlib.sha256(b"".join(len(c).to_bytes(4, "little") + c for c in cells)).hexdigest()
    if k == "nested":
        cells = [as_json(v).encode() for v in column.to_pylist()]
        return hashlib.sha256(b"".join(len(c).to_bytes(4, "little") + c for c in cells)).hexdigest()
    if pa.types.is_decimal(t):
        values = column.to_pylist()
        if k == "whole":
            numbers = np.array([LEAST if v is None else int(v) for v in values], np.int64)
        else:
            numbers = np.array([np.nan if v is None else float(v) for v in values], np.float64)
    elif k == "whole":
        if t == pa.uint64():
            column = column.cast(pa.int64())
        numbers = pc.fill_null(column.cast(pa.int64()), LEAST).to_numpy()
    else:
        if t == pa.float16():
            column = column.cast(pa.float32())
        numbers = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy().copy()
    if k == "float":
        numbers[np.isnan(numbers)] = np.nan
    return hashlib.sha256(numbers.tobytes()).hexdigest()


KNOWN: dict[tuple, list[tuple[pa.ChunkedArray, str]]] = {}


def known_digest(name: str, column: pa.ChunkedArray) -> str:
    """The digest, worked out once for equal columns: most files hold the same table."""
    known = KNOWN.setdefault((name, str(column.type), len(column)), [])
    for other, sum_ in known:
        if other.equals(column):
            return sum_
    known.append((column, digest(column)))
    return known[-1][1]


def tell(name: str, read: pa.Table) -> None:
    """Says what pyarrow reads of a file."""
    columns = []
    for field in read.schema:
        k = kind(field.type)
        columns.append({"name": field.name, "type": str(field.type), "kind": k, "sha256": known_digest(field.name, read[field.name]) if k else ""})
    print(json.dumps({"file": name, "rows": read.num_rows, "columns": columns}), flush=True)


def parquet(name: str, write) -> None:
    """Writes a Parquet file and says what is in it."""
    path = OUT / (name + ".parquet")
    write(path)
    try:
        read = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid):  # pyarrow does not read all that DuckDB writes, as pages of deltas that hold nulls only
        read = duckdb.sql(f"FROM '{path}'").to_arrow_table()
    tell(path.name, read)


def from_pyarrow() -> None:
    """Encodings, compressions, versions of pages, row groups, checksums."""
    t = table(1500)
    ints = [f.name for f in t.schema if pa.types.is_integer(f.type)]
    floats = [f.name for f in t.schema if pa.types.is_floating(f.type)]
    texts = ["text", "text gaps", "few", "large"]
    encodings = {
        "dictionary": {"use_dictionary": True},
        "plain": {"use_dictionary": False},
        "delta": {
            "use_dictionary": False,
            "column_encoding": {c: "DELTA_BINARY_PACKED" for c in ints} | {c: "BYTE_STREAM_SPLIT" for c in floats} | {c: "DELTA_BYTE_ARRAY" for c in texts},
        },
        "split": {
            "use_dictionary": False,
            "column_encoding": {c: "BYTE_STREAM_SPLIT" for c in [*ints, *floats, "d38"] if t.schema.field(c).type.bit_width >= 16 and not c.startswith(("i8", "u8", "i16", "u16"))}
            | {c: "DELTA_LENGTH_BYTE_ARRAY" for c in texts},
        },
    }
    codecs = ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]
    for (encoding, options), codec, version, group in itertools.product(encodings.items(), codecs, ["1.0", "2.0"], [1000, 16384]):
        if (encoding == "plain") != (group == 1000) and codec not in ("none", "zstd"):
            continue
        page = {"write_page_checksum": group == 1000, "data_page_size": 2000 if codec == "zstd" else None}
        parquet(
            f"pyarrow-{encoding}-{codec}-{version}-{group}",
            lambda path: pq.write_table(t, path, compression=codec, data_page_version=version, row_group_size=group, **page, **options),
        )
    one = table(40)
    for version in ["1.0", "2.0"]:
        parquet(f"pyarrow-groups-of-1-{version}", lambda path: pq.write_table(one, path, row_group_size=1, data_page_version=version))
    for format_ in ["1.0", "2.4", "2.6"]:
        parquet(f"spark-{format_}", lambda path: pq.write_table(t, path, flavor="spark", version=format_, use_deprecated_int96_timestamps=True, store_schema=False))
        parquet(f"integer-decimals-{format_}", lambda path: pq.write_table(t, path, version=format_, store_decimal_as_integer=True, store_schema=False))
    required = pa.schema([f.with_nullable(t[f.name].null_count > 0) for f in t.schema])
    parquet("required", lambda path: pq.write_table(t.cast(required), path))
    parquet("no-statistics", lambda path: pq.write_table(t, path, write_statistics=False))
    parquet("empty", lambda path: pq.write_table(t.slice(0, 0), path))
    million = table(3000).select(["1.5_i64", "ids", "i64 gaps", "f64 gaps"])
    million = pa.concat_tables([million] * 335).combine_chunks()
    parquet("million", lambda path: pq.write_table(million, path, row_group_size=10**6, data_page_size=1 << 30, max_rows_per_page=10**7))


def from_others() -> None:
    """pandas, polars, DuckDB and fastparquet."""
    t = table(2500)
    flat = t.drop_columns(["list", "struct", "chats", "d38", "f16", "large"])
    frame = flat.to_pandas()
    parquet("pandas", frame.to_parquet)
    parquet("pandas-nullable", frame.convert_dtypes().to_parquet)
    data = pl.from_arrow(t.drop_columns(["f16"]))
    for codec, group in itertools.product(["uncompressed", "snappy", "gzip", "brotli", "lz4", "zstd"], [1000, 16384]):
        parquet(f"polars-{codec}-{group}", lambda path: data.write_parquet(path, compression=codec, row_group_size=group, data_page_size=4000))
        parquet(f"polars-stream-{codec}-{group}", lambda path: data.lazy().sink_parquet(path, compression=codec, row_group_size=group, statistics="full"))
    parquet("polars-enum", lambda path: data.with_columns(pl.col("few").cast(pl.Categorical)).write_parquet(path))
    db = duckdb.connect()
    db.register("t", t.drop_columns(["f16"]))
    for codec, version, group in itertools.product(["uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw"], ["V1", "V2"], [2048, 122880]):
        settings = f"FORMAT parquet, COMPRESSION {codec}, PARQUET_VERSION {version}, ROW_GROUP_SIZE {group}"
        parquet(f"duckdb-{codec}-{version}-{group}", lambda path: db.execute(f"COPY t TO '{path}' ({settings})"))
    db.execute("CREATE TABLE big AS SELECT range AS i, (range*7)%150000 AS id, CASE WHEN range%3=0 THEN NULL ELSE range/7 END AS gaps FROM range(1000000)")
    for version in ["V1", "V2"]:
        parquet(f"duckdb-million-{version}", lambda path: db.execute(f"COPY big TO '{path}' (FORMAT parquet, PARQUET_VERSION {version}, ROW_GROUP_SIZE 1000000)"))
    from_fastparquet(frame.drop(columns=["d9", "d18", "d12.3"]))


def from_fastparquet(frame: pd.DataFrame) -> None:
    """fastparquet, in both versions of pages."""
    import fastparquet
    import fastparquet.writer

    whole = frame[[c for c in frame.columns if not frame[c].isna().any()]]
    for codec, group, nulls, version in itertools.product(["UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI", "LZ4_RAW"], [1000, 1_000_000], [True, False], [1, 2]):
        fastparquet.writer.DATAPAGE_VERSION = version
        name = f"fastparquet-{codec}-{group}-{nulls}-v{version}"
        parquet(name, lambda path: fastparquet.write(str(path), frame if nulls else whole, compression=codec, row_group_offsets=group, has_nulls=nulls, object_encoding="infer"))


def from_ipc() -> None:
    """Arrow files and streams."""
    t = table(1500)
    for name, column in arrow_only(1500).items():
        t = t.append_column(name, column)
    for codec, batch in itertools.product([None, "lz4", "zstd"], [1000, 16384]):
        options = pa.ipc.IpcWriteOptions(compression=codec, unify_dictionaries=True)
        for form, new in [("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)]:
            name = f"ipc-{codec}-{batch}.{form}"
            with new(OUT / name, t.schema, options=options) as w:
                w.write_table(t, max_chunksize=batch)
            tell(name, t)
    changing = [pa.table({"c": pa.array([f"{k} {i % (k + 2)}" for i in range(100)]).dictionary_encode()}) for k in range(4)]
    for delta in [False, True]:
        name = f"ipc-dictionaries-{delta}.stream"
        with pa.ipc.new_stream(OUT / name, changing[0].schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=delta)) as w:
            for c in changing:
                w.write_table(c)
        tell(name, pa.concat_tables(changing))
    sliced = t.drop_columns(["ree", "union"]).slice(3, 1105)
    pa.feather.write_feather(sliced, OUT / "ipc-sliced.file", compression="uncompressed")
    tell("ipc-sliced.file", sliced)
    legacy = t.select(["ids", "i64 gaps", "text gaps", "f64"])
    for form, new in [("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)]:
        with new(OUT / f"ipc-legacy.{form}", legacy.schema, options=pa.ipc.IpcWriteOptions(use_legacy_format=True)) as w:
            w.write_table(legacy)
        tell(f"ipc-legacy.{form}", legacy)
    data = pl.from_arrow(table(1500))
    for codec, level in itertools.product(["uncompressed", "lz4", "zstd"], [pl.CompatLevel.newest(), pl.CompatLevel.oldest()]):
        name = f"polars-{codec}-{level._version}"
        data.write_ipc(OUT / f"{name}.file", compression=codec, compat_level=level)
        tell(f"{name}.file", data.to_arrow(compat_level=level))
        data.write_ipc_stream(OUT / f"{name}.stream", compression=codec, compat_level=level)
        tell(f"{name}.stream", data.to_arrow(compat_level=level))
        data.lazy().sink_ipc(OUT / f"{name}-sink.file", compression=codec, compat_level=level)
        tell(f"{name}-sink.file", data.to_arrow(compat_level=level))
    categories = data.with_columns(pl.col("few").cast(pl.Categorical))
    categories.write_ipc(OUT / "polars-categories.file")
    tell("polars-categories.file", categories.to_arrow())


if __name__ == "__main__":
    import pyarrow.feather

    from_pyarrow()
    from_others()
    from_ipc()

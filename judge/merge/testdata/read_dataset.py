"""Reads a merge's dataset with every reader of datasets: each must see the rows of the one file, in their order.

python read_dataset.py FOLDER-OF-ONE-FILE FOLDER-OF-A-DATASET
"""

import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

whole, parts = Path(sys.argv[1]), Path(sys.argv[2]) / "results"
files = {f: sorted(parts.glob(f"*.{f}")) for f in ("arrow", "parquet", "csv")}
want = pl.read_parquet(whole / "results.parquet")
lists = [name for name, kind in want.schema.items() if kind.base_type() == pl.List]


def as_text(table: pl.DataFrame) -> pl.DataFrame:
    """Without lists, which CSV does not have."""
    return table.drop(lists).select(pl.all().cast(pl.String))


def by_pandas() -> pl.DataFrame:
    """pandas takes a list of files."""
    return pl.from_arrow(pa.Table.from_pandas(pd.read_parquet(files["parquet"], dtype_backend="pyarrow")))


def by_pyarrow(name: str) -> pl.DataFrame:
    """pyarrow takes the files of one format."""
    return pl.from_arrow(ds.dataset([str(path) for path in files[name]], format=name).to_table())


readers: dict[str, Callable[[], pl.DataFrame]] = {
    "pandas, Parquet": by_pandas,
    "pyarrow, Parquet": lambda: by_pyarrow("parquet"),
    "pyarrow, Arrow": lambda: by_pyarrow("arrow"),
    "polars, Parquet": lambda: pl.read_parquet(parts / "*.parquet"),
    "polars, Arrow": lambda: pl.read_ipc(parts / "*.arrow"),
    "polars, lazily": lambda: pl.scan_parquet(parts / "*.parquet").collect(),
    "DuckDB, Parquet": lambda: duckdb.sql(f"from read_parquet('{parts}/*.parquet')").pl(),
}
for name, read in readers.items():
    got = read().cast(want.schema)
    if not got.equals(want):
        sys.exit(f"{name}: {got} is not {want}")
tables: dict[str, Callable[[], pl.DataFrame]] = {
    "polars, CSV": lambda: pl.read_csv(parts / "*.csv", infer_schema=False),
    "DuckDB, CSV": lambda: duckdb.sql(f"from read_csv('{parts}/*.csv', all_varchar=true)").pl(),
    "pandas, CSV": lambda: pl.from_pandas(pd.concat(pd.read_csv(f, dtype=str) for f in files["csv"])),
}
one = pl.read_csv(whole / "results.csv", infer_schema=False)
for name, read in tables.items():
    if not as_text(read()).equals(as_text(one)):
        sys.exit(f"{name}: {read()} is not {one}")
print(len(files["csv"]), "parts,", len(want), "rows,", len(readers) + len(tables), "readers")

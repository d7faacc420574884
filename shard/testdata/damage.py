"""Writes a table in every format, compression and form that plan reads, with and without checksums.

usage: damage.py TABLE.csv OUT
"""

import bz2
import gzip
import lzma
import sys
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq


def main() -> None:
    """Each file is named after what it is; "sums" are checksums of pages."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    frame = pd.read_csv(source).assign(token_type=2)
    frame = frame[[c for c in frame if not c.startswith(("7.0", "14.0"))]]
    text = frame.to_csv(index=False).encode()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    half = len(table) // 2
    for codec in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]:
        for sums in [True, False]:
            name = f"{codec}{'-sums' if sums else ''}.parquet"
            pq.write_table(
                table,
                out / name,
                compression=codec,
                write_page_checksum=sums,
                row_group_size=half,
                use_dictionary=[c for c in table.column_names if "real" in c],
                data_page_version="2.0" if codec in ("none", "zstd") else "1.0",
            )
    for codec in [None, "lz4", "zstd"]:
        options = pa.ipc.IpcWriteOptions(compression=codec)
        for ending, new in [("arrow", pa.ipc.new_file), ("arrows", pa.ipc.new_stream)]:
            with new(out / f"{codec}.{ending}", table.schema, options=options) as w:
                w.write_table(table, max_chunksize=half)
    pl.from_arrow(table).write_ipc(out / "polars-lz4-sums.arrow", compression="lz4")
    (out / "plain.csv").write_bytes(text)
    (out / "sums.csv.gz").write_bytes(gzip.compress(text))
    (out / "sums.csv.bz2").write_bytes(bz2.compress(text))
    (out / "sums.csv.xz").write_bytes(lzma.compress(text))
    (out / "bare.csv.zst").write_bytes(pa.compress(text, "zstd", asbytes=True))


if __name__ == "__main__":
    main()

"""Reads a store's Parquet files with pyarrow and with DuckDB.

Usage: read_back.py DIRECTORY. Prints one JSON object:
  pyarrow   [[device, milliseconds, {metric: [value as 16 hex digits or null, quality or null]}], ...]
  duckdb    the same, from one query over all files of the frames
  columns   {metric: {unit, kind, description}} as found in the files
  types     {metric: Arrow type of the column, of all files}
"""

import glob
import json
import struct
import sys

import duckdb
import pyarrow.parquet as pq

directory = sys.argv[1]
pattern = f"{directory}/segments/**/*.parquet"


def bits(value):
    return None if value is None else struct.pack(">d", float(value)).hex()


def rows_of(names, rows, qualities):
    for row in rows:
        row = dict(zip(names, row))
        metrics = {}
        for name, value in row.items():
            if name in ("device", "time", "day", "kind") or name.endswith("_quality"):
                continue
            if name + "_quality" in qualities:
                quality = row.get(name + "_quality")
            else:
                quality = None if value is None else "measured"
            if quality is not None:
                metrics[name] = [bits(value), quality]
        yield [row["device"], row["time"], metrics]


frames, columns, types = [], {}, {}
for path in sorted(glob.glob(pattern, recursive=True)):
    table = pq.ParquetFile(path).read()
    meta = pq.read_metadata(path).metadata
    columns.update(json.loads(meta[b"heliostat.columns"]))
    for field in table.schema:
        types.setdefault(field.name, set()).add(str(field.type))
    names = table.schema.names
    lists = [
        [int(v.timestamp() * 1000) for v in column.to_pylist()] if name == "time" else column.to_pylist()
        for name, column in zip(names, table.columns)
    ]
    frames.extend(rows_of(names, zip(*lists), set(names)))

found = duckdb.sql(
    f"SELECT * REPLACE (epoch_ms(time) AS time) FROM read_parquet('{pattern}', union_by_name=true, hive_partitioning=true)"
)
rows = found.fetchall()
# A file without a quality column has measured values only.
asked = []
for row in rows:
    row = list(row)
    for place, name in enumerate(found.columns):
        if name.endswith("_quality") and row[place] is None:
            if row[found.columns.index(name[: -len("_quality")])] is not None:
                row[place] = "measured"
    asked.append(row)

print(
    json.dumps(
        {
            "pyarrow": sorted(frames, key=lambda f: (f[0], f[1])),
            "duckdb": sorted(
                rows_of(found.columns, asked, set(found.columns)), key=lambda f: (f[0], f[1])
            ),
            "columns": columns,
            "types": {name: sorted(all_types) for name, all_types in types.items()},
        }
    )
)

"""Reads a store's Parquet files with pyarrow, DuckDB and Polars, as they lie.

Usage: read_back.py DIRECTORY. Prints one JSON object. For each reader, frames and rollups:
  frames    [[device, milliseconds, {metric: [value as 16 hex digits or null, quality or null]}, day, kind], ...]
  rollups   [[step, device, milliseconds, {column: value as 16 hex digits, or a quality}, day, kind], ...]
Readers: `files` (pyarrow, file by file), `dataset` (pyarrow.dataset over the directory), `duckdb`, `polars`.
Beside them:
  columns   {metric: {unit, kind, description}} as found in the files
  types     {column: Arrow types of the column, over all files of frames}
"""

import glob
import json
import struct
import sys

import duckdb
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet as pq

directory = sys.argv[1]
INDEX = ("device", "time", "day", "kind", "step")


def bits(value):
    return None if value is None else struct.pack(">d", float(value)).hex()


def milliseconds(instant):
    if isinstance(instant, int):
        return instant
    return round(instant.replace(microsecond=0).timestamp()) * 1000 + instant.microsecond // 1000


def by_files(pattern):
    for path in sorted(glob.glob(pattern, recursive=True)):
        table = pq.ParquetFile(path).read()
        parts = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
        for row in table.to_pylist():
            yield {**row, **parts}


def by_dataset(pattern):
    # The schema of all files together: by default pyarrow takes that of the first
    # one, and would round the numbers of a file that needs doubles to its decimals.
    files = sorted(glob.glob(pattern, recursive=True))
    partitioning = pyarrow.dataset.partitioning(
        pyarrow.schema([(n, pyarrow.string()) for n in INDEX if f"/{n}=" in files[0]]), flavor="hive"
    )
    schema = pyarrow.unify_schemas(
        [pq.read_schema(f) for f in files] + [partitioning.schema], promote_options="permissive"
    )
    root = files[0].split("/day=")[0].split("/step=")[0]
    found = pyarrow.dataset.dataset(root, format="parquet", schema=schema, partitioning=partitioning)
    yield from found.to_table().to_pylist()


def by_duckdb(pattern):
    found = duckdb.sql(
        f"SELECT * REPLACE (epoch_ms(time) AS time)"
        f" FROM read_parquet('{pattern}', union_by_name=true, hive_partitioning=true, hive_types_autocast=false)"
    )
    names = found.columns
    for row in found.fetchall():
        yield dict(zip(names, row))


def by_polars(pattern):
    files = sorted(glob.glob(pattern, recursive=True))
    frames = [polars.read_parquet(f, hive_partitioning=True, try_parse_hive_dates=False) for f in files]
    found = polars.concat(frames, how="diagonal_relaxed")
    yield from found.iter_rows(named=True)


def frame(row):
    metrics = {}
    for name, value in row.items():
        if name in INDEX or name.endswith("_quality"):
            continue
        quality = row.get(name + "_quality")
        # Without a quality column, or a quality in it, a value is measured.
        if quality is None and value is not None:
            quality = "measured"
        if quality is not None:
            metrics[name] = [bits(value), quality]
    return [row["device"], milliseconds(row["time"]), metrics, str(row["day"]), row["kind"]]


def rollup(row):
    columns = {
        n: v if n.endswith("_quality") else bits(v) for n, v in row.items() if n not in INDEX and v is not None
    }
    return [row["step"], row["device"], milliseconds(row["time"]), columns, str(row["day"]), row["kind"]]


columns, types = {}, {}
for path in sorted(glob.glob(f"{directory}/segments/**/*.parquet", recursive=True)):
    meta = pq.read_metadata(path).metadata
    columns.update(json.loads(meta[b"heliostat.columns"]))
    for field in pq.read_schema(path):
        types.setdefault(field.name, set()).add(str(field.type))

answer = {"columns": columns, "types": {name: sorted(all_types) for name, all_types in types.items()}}
for name, reader in {
    "files": by_files,
    "dataset": by_dataset,
    "duckdb": by_duckdb,
    "polars": by_polars,
}.items():
    answer[name] = {
        "frames": sorted(map(frame, reader(f"{directory}/segments/**/*.parquet")), key=lambda r: (r[0], r[1])),
        "rollups": sorted(map(rollup, reader(f"{directory}/rollups/**/*.parquet")), key=lambda r: (r[0], r[1], r[2])),
    }
print(json.dumps(answer))

"""How Predictions are kept: arrays of N rows and facts about them in one parquet file that tells when it is damaged."""

from __future__ import annotations

import hashlib
import json
from typing import Mapping

import numpy as np

from . import files
from .inputs import expect

SCHEMA_VERSION = 3  # 2 added logits, features, dropout and members; 3 the digest


def write(path, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
    """Write arrays (N, ...) as columns, the JSON header (shapes, meta) in the schema; atomic, so never half a file.

    Every page has a checksum, and the schema the SHA-256 of header and arrays.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(list(value.reshape(len(value), -1))) if value.ndim > 1 else pa.array(value)
               for name, value in arrays.items()}
    header = {"schema": SCHEMA_VERSION, "meta": meta,
              "shapes": {name: list(value.shape) for name, value in arrays.items()}}
    header = json.dumps(header, sort_keys=True).encode()
    table = pa.table(columns).replace_schema_metadata({"sua": header, "sua_sha256": _sha256(header, arrays)})
    with files.whole(path) as file:
        pq.write_table(table, file, write_page_checksum=True)


def read(path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and meta of what `write` wrote. ValueError for a file that is damaged, cut, of another kind or newer."""
    import pyarrow.parquet as pq

    damaged = f"{path} is damaged, cut or no file of Predictions.save ({{}}): delete it, and run again what wrote it"
    with open(path, "rb") as file:
        try:
            table = pq.read_table(file, page_checksum_verification=True)
        except Exception as error:  # Arrow raises many kinds on bytes that it did not write
            raise ValueError(damaged.format(f"{type(error).__name__}: {error}")) from None
    about = table.schema.metadata or {}
    expect(b"sua" in about, f"{path} was not written by Predictions.save: it has no `sua` header")
    try:
        header = json.loads(about[b"sua"])
        schema, shapes, meta = int(header["schema"]), header["shapes"].items(), header["meta"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(damaged.format(f"header: {error}")) from None
    expect(schema <= SCHEMA_VERSION, f"{path} has schema {schema}, this version of sua reads up to {SCHEMA_VERSION}: "
           "update sua")
    try:
        arrays = {name: np.stack(table[name].to_numpy()).reshape(shape) if len(shape) > 1 else table[name].to_numpy()
                  for name, shape in shapes}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(damaged.format(error)) from None
    stated = about.get(b"sua_sha256")
    expect(stated == _sha256(about[b"sua"], arrays) if stated or schema > 2 else True,
           damaged.format("its SHA-256 is not the one that it states"))
    return arrays, meta


def _sha256(header, arrays):
    """The SHA-256 of a header and of names, types and values of arrays, as bytes in hex."""
    digest = hashlib.sha256(header)
    for name in sorted(arrays):
        value = arrays[name]
        text = value.dtype.kind in "UO"  # the one when it is saved, the other when it is read
        digest.update(f"{name} {'text' if text else value.dtype.str}".encode())
        digest.update(json.dumps(value.tolist()).encode() if text else np.ascontiguousarray(value).data)
    return digest.hexdigest().encode()

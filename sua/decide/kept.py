"""How rules and calibrations are kept: as JSON text, with a schema and a checksum of its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from typing import Mapping

import numpy as np

from ..inputs import expect


def to_json(record: object, schema: int) -> str:
    """The fields of a dataclass with the version of its schema and a checksum."""
    content = {"schema": schema, **asdict(record)}
    return json.dumps(content | {"checksum": _checksum(content)}, indent=1, allow_nan=False)


def from_json(kind: type, text: str, schema: int, called: str, remedy: str) -> dict:
    """The fields of the dataclass `kind`, as `to_json` wrote them.

    ValueError for other text, a newer schema, or content changed since, with what it is `called` and the remedy.
    """
    other = f"not the JSON text of an {kind.__name__} ({{}}): give what to_json returned"
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(other.format(error)) from None
    expect(isinstance(content, dict) and isinstance(content.get("schema"), int), other.format("no schema"))
    expect(content["schema"] <= schema, f"the {called} has schema {content['schema']}, this version of sua reads up to "
           f"{schema}: update sua")
    checksum = content.pop("checksum", None)
    expect(checksum == _checksum(content) and content.keys() == {"schema", *(f.name for f in fields(kind))},
           f"the {called} was changed after it was written (its checksum differs): {remedy}")
    del content["schema"]
    return content


def plain(parameters: Mapping | None) -> dict:
    """`parameters` as JSON would return them, so that a rule read back compares equal."""
    expect(parameters is None or isinstance(parameters, Mapping), lambda: f"parameters = {parameters!r}: give a dict "
           "of the score's parameters, e.g. {'lam': 0.5}")
    try:
        return json.loads(json.dumps(parameters or {}, default=lambda value: value.item(), allow_nan=False))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"parameters = {parameters!r} cannot be saved as JSON ({error}): give numbers and text, "
                         "e.g. {'lam': 0.5} for the lambda that calibration chose") from None


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the values of arrays."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

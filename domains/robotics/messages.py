"""What a policy and its clients say to each other: msgpack maps, with arrays as type, shape and bytes.

Nothing that arrives is executed or trusted: types are from a short list, and sizes are checked before memory is taken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from polydit.platform.errors import DataError, require

ARRAY_TYPES = ("uint8", "int64", "float32", "float64")
MOST_BYTES = 32 * 2**20
"""Largest message, bytes: a few camera images."""

MOST_AXES = 4


class MessageError(DataError):
    """A message is not one that a policy or its client sends."""


def pack(message: dict[str, Any]) -> bytes:
    """Bytes of a message.

    Args:
        message: text -> text, number, bool, None, array, or a map of those.

    Raises:
        MessageError: if it holds anything else, or is larger than `MOST_BYTES`.
    """
    msgpack = require("msgpack", "robotics")
    try:
        data: bytes = msgpack.packb(message, default=_pack_array)
    except TypeError as error:
        raise MessageError(f"a message cannot hold this: {error}") from error
    if len(data) > MOST_BYTES:
        raise MessageError(f"a message of {len(data)} bytes is larger than {MOST_BYTES}: send smaller images")
    return data


def unpack(data: bytes | str) -> dict[str, Any]:
    """The message of some bytes.

    Raises:
        MessageError: if they are not one.
    """
    msgpack = require("msgpack", "robotics")
    if isinstance(data, str) or len(data) > MOST_BYTES:
        raise MessageError(f"messages are binary and of at most {MOST_BYTES} bytes")
    try:
        message = msgpack.unpackb(data, object_hook=_unpack_array, raw=False, strict_map_key=True, max_ext_len=0)
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MessageError(f"not a message: {error}") from error
    if not isinstance(message, dict):
        raise MessageError(f"a message is a map, not a {type(message).__name__}")
    return message


def _pack_array(value: Any) -> dict[str, Any]:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or str(value.dtype) not in ARRAY_TYPES:
        kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{kind}; arrays are of {', '.join(ARRAY_TYPES)}")
    return {"array": str(value.dtype), "shape": list(value.shape), "data": np.ascontiguousarray(value).tobytes()}


def _unpack_array(entry: dict[str, Any]) -> Any:
    if set(entry) != {"array", "shape", "data"}:
        return entry
    kind, shape, data = entry["array"], entry["shape"], entry["data"]
    if kind not in ARRAY_TYPES or not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MOST_AXES:
        raise MessageError(f"an array of type {str(kind)[:40]!r} and shape {str(shape)[:40]} is not taken")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise MessageError(f"an array's shape is whole numbers, not {str(shape)[:40]}")
    if math.prod(shape) * np.dtype(kind).itemsize != len(data):
        raise MessageError(f"an array of shape {shape} and type {kind} came with {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape)

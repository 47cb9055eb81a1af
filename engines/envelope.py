"""How a built engine is kept: one JSON line that says what it is, then the library's own bytes.

The line is written by the backend that built it, so an engine can be inspected, and refused, without loading the
library or having its device; the digest in it tells a whole engine from a cut or altered one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from unmask_rt.errors import EngineError

_MAGIC = b"unmask-rt engine 1\n"
_AGAIN = "Build it again with `unmask-engine build`."


def pack(facts: Mapping[str, Any], body: bytes) -> bytes:
    """One engine with what it is."""
    told = {**facts, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return _MAGIC + json.dumps(told, sort_keys=True).encode() + b"\n" + body


def facts(built: bytes) -> dict[str, Any]:
    """What an engine says about itself; its body is checked to be whole.

    Raises:
        EngineError: it is no engine of this tool, or a damaged one.
    """
    return _split(built)[0]


def unpack(built: bytes, expected: Mapping[str, Any]) -> bytes:
    """The library's own bytes.

    Args:
        built: a packed engine.
        expected: facts that have to be as given here.

    Raises:
        EngineError: damaged, or made for something else; says what differs.
    """
    told, body = _split(built)
    for name, wanted in expected.items():
        if told.get(name) != wanted:
            raise EngineError(f"this engine was built for {name} {told.get(name)}, here it is {wanted}", _AGAIN)
    return body


def _split(built: bytes) -> tuple[dict[str, Any], bytes]:
    if not built.startswith(_MAGIC):
        raise EngineError("these bytes are no built engine", _AGAIN)
    line, _, body = built[len(_MAGIC) :].partition(b"\n")
    try:
        told = dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise EngineError("the built engine is damaged: it does not say what it is", _AGAIN) from error
    if told.get("bytes") != len(body) or told.get("sha256") != hashlib.sha256(body).hexdigest():
        raise EngineError("the built engine is damaged: cut off or altered", _AGAIN)
    return told, body

"""Raw JSON inside structs: passed on byte by byte, never decoded on the way."""

from __future__ import annotations

import msgspec

#: The default of a raw field that is absent. One object for all structs: `omit_defaults` compares identity.
NO_RAW = msgspec.Raw(b"")


def raw(text: str) -> msgspec.Raw:
    """JSON text as a raw value, to stand inside a struct."""
    return msgspec.Raw(text)

"""The base of every request of the API."""

from __future__ import annotations

from typing import Final

import msgspec

#: The defaults of raw fields. One object of each for all structs of the API: `omit_defaults` compares identity.
EMPTY_OBJECT: Final = msgspec.Raw(b"{}")
NULL: Final = msgspec.Raw(b"null")


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all requests: an unknown field is refused, not ignored."""

"""The answer of an API."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from stepweave.errors import PermanentError

#: Most bytes that are read of a body, compressed or not.
BODY_BYTES_MAX: Final = 1024 * 1024
#: Most bytes of a body that a failure quotes.
QUOTED_BYTES_MAX: Final = 2 * 1024
_HEADER_CHARS_MAX: Final = 500
#: What a step's result, or its failure, keeps of the headers: no cookies, no credentials.
_HEADERS_OF_INTEREST: Final = (
    "content-type",
    "date",
    "etag",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "request-id",
    "x-correlation-id",
    "x-request-id",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
)
_JSON_TYPE: Final = re.compile(r"(?:application|text)/(?:[^;]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_CHARSET: Final = re.compile(r"charset=\"?([A-Za-z0-9_.:-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """An answer that was read whole, or up to `BODY_BYTES_MAX` where it is an error's (`truncated`)."""

    method: str
    #: Without query, user and fragment.
    url: str
    #: The path within the server.
    path: str
    status_code: int
    #: By lower-case name.
    headers: Mapping[str, str]
    #: The body, uncompressed.
    content: bytes
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status_code < 300

    @property
    def reason(self) -> str:
        """What the status means in words; empty for an unknown one."""
        try:
            return HTTPStatus(self.status_code).phrase
        except ValueError:
            return ""

    @property
    def text(self) -> str:
        """The body as text; bytes that are none are replaced."""
        return _text(self.content, self.headers.get("content-type", ""))

    @property
    def data(self) -> Any:
        """The body: JSON where the server says that it is some, else text; None where it is empty.

        Raises `PermanentError` as `json` does.
        """
        if not self.content:
            return None
        if _JSON_TYPE.match(self.headers.get("content-type", "").strip()):
            return self.json()
        return self.text

    def json(self) -> Any:
        """The body as JSON. Raises `PermanentError` with `HTTP_BAD_JSON` where it is none."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise PermanentError(
                f"{self.method} {self.url} answered {self.status_code} with a body that is no JSON: {error}",
                error_code="HTTP_BAD_JSON",
                metadata=self.facts(),
            ) from None

    def headers_of_interest(self) -> dict[str, str]:
        """The headers that are worth keeping with a step."""
        return {
            name: self.headers[name][:_HEADER_CHARS_MAX]
            for name in _HEADERS_OF_INTEREST
            if name in self.headers
        }

    def facts(self) -> dict[str, Any]:
        """What a failure keeps: method, path, status, some headers, the start of the body."""
        quoted = self.content[:QUOTED_BYTES_MAX]
        facts: dict[str, Any] = {
            "method": self.method,
            "path": self.path,
            "status": self.status_code,
            "headers": self.headers_of_interest(),
        }
        if quoted:
            facts["body"] = _text(quoted, self.headers.get("content-type", ""))
            facts["body_truncated"] = self.truncated or len(self.content) > len(quoted)
        return facts

    def __repr__(self) -> str:
        return f"<ApiResponse {self.status_code} to {self.method} {self.url}, {len(self.content)} bytes>"


class BodyNotReadable(Exception):
    """A body is compressed in a way that was not asked for, or wrongly."""


def uncompressed(body: bytes, encoding: str) -> tuple[bytes, bool]:
    """At most `BODY_BYTES_MAX` of a body, and whether there is more; raises `BodyNotReadable`."""
    match encoding.strip().lower():
        case "" | "identity":
            return body[:BODY_BYTES_MAX], len(body) > BODY_BYTES_MAX
        case "gzip" | "x-gzip" | "deflate":
            # Bounded: a few bytes can stand for gigabytes.
            inflate = zlib.decompressobj(wbits=47)
            try:
                plain = inflate.decompress(body, BODY_BYTES_MAX + 1)
            except zlib.error as error:
                raise BodyNotReadable(f"its body is not the {encoding} that it says: {error}") from None
            return plain[:BODY_BYTES_MAX], len(plain) > BODY_BYTES_MAX
        case _:
            raise BodyNotReadable(f"its body is encoded as {encoding[:50]!r}, although only gzip is accepted")


def _text(content: bytes, content_type: str) -> str:
    found = _CHARSET.search(content_type)
    try:
        return content.decode(found.group(1) if found else "utf-8", "replace")
    except (LookupError, UnicodeError):
        return content.decode("utf-8", "replace")

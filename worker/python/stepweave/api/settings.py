"""Where an API is and how it is called: from the code, overridden by the template."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from stepweave.errors import ConfigurationError

TIMEOUT_SECONDS_DEFAULT: Final = 30.0
TIMEOUT_SECONDS_MAX: Final = 3_600.0
#: Most headers of one request that code and template may set.
HEADERS_MAX: Final = 100
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: What is no line break nor another control character.
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_KEYS: Final = ("base_url", "headers", "timeout_seconds")


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Base URL, headers for every request, and the time one call may take. Raises `ConfigurationError`."""

    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = TIMEOUT_SECONDS_DEFAULT

    def __post_init__(self) -> None:
        if self.base_url is not None:
            check_base_url(self.base_url)
        check_headers(self.headers)
        check_timeout(self.timeout_seconds)

    def with_template(self, initialization: Mapping[str, Any]) -> ApiSettings:
        """These settings, with what a template's `handler.initialization` says in their place.

        The template wins, so that an environment's template can point a handler elsewhere: its `base_url` and
        `timeout_seconds` replace those of the code, its `headers` are added to the code's and replace those of
        the same name. Other keys, and null, say nothing here.
        """
        given = {key: initialization[key] for key in _KEYS if initialization.get(key) is not None}
        if not given:
            return self
        try:
            headers = check_headers(given.get("headers", {}))
            return ApiSettings(
                given.get("base_url", self.base_url),
                merged_headers(self.headers, headers),
                given.get("timeout_seconds", self.timeout_seconds),
            )
        except ConfigurationError as error:
            raise bad_settings(f"the template's handler.initialization: {error}") from None


def bad_settings(message: str) -> ConfigurationError:
    """The error of settings or arguments that no call can be made with."""
    return ConfigurationError(message, error_code="API_SETTINGS_INVALID")


def merged_headers(*layers: Mapping[str, str]) -> dict[str, str]:
    """Headers of all layers under lower-case names; later layers win."""
    return {name.lower(): value for layer in layers for name, value in layer.items()}


def check_base_url(url: Any) -> str:
    """Give back an absolute http(s) URL; raises `ConfigurationError`."""
    if not isinstance(url, str):
        raise bad_settings(f"base_url is a text such as 'https://api.example.com/v1', not {url!r}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(ord(character) <= 0x20 for character in url):
        # A wrong URL is not quoted: it may have a password in it.
        raise bad_settings("base_url is no URL with http:// or https:// and a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise bad_settings(
            "base_url has a user, a query or a fragment: put credentials into headers, and a query into params"
        )
    return url


def check_headers(headers: Any) -> Mapping[str, str]:
    """Give back headers that can be sent; raises `ConfigurationError`."""
    if not isinstance(headers, Mapping):
        raise bad_settings(f"headers are an object of names and texts, not {type(headers).__name__}")
    if len(headers) > HEADERS_MAX:
        raise bad_settings(f"{len(headers)} headers are over the limit of {HEADERS_MAX}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise bad_settings(f"{name!r} is no name of a header")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            # Not quoted: it may be a secret.
            raise bad_settings(f"the value of header {name!r} is no text of one line in Latin-1")
    return headers


def check_timeout(seconds: Any) -> float:
    """Give back a time-out; raises `ConfigurationError`."""
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not math.isfinite(seconds)
        or not 0 < seconds <= TIMEOUT_SECONDS_MAX
    ):
        raise bad_settings(
            f"timeout_seconds is a number over 0 and at most {TIMEOUT_SECONDS_MAX:g}, not {seconds!r}"
        )
    return float(seconds)

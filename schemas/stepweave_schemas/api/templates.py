"""Templates: register, validate, get, list."""

from __future__ import annotations

from typing import Any

import msgspec

from .request import Request


class RegisterTemplate(Request, frozen=True, kw_only=True):
    """`template.register`: YAML or JSON text. Answer: `TemplateReply`."""

    content: str
    source: str = "<request>"
    registered_by: str = ""


class ValidateTemplate(Request, frozen=True, kw_only=True):
    """`template.validate`: as register, but nothing is stored. Answer: `ValidationReply`."""

    content: str
    source: str = "<request>"


class GetTemplate(Request, frozen=True, kw_only=True):
    """`template.get`; without a version the highest that is no prerelease. Answer: `TemplateReply`."""

    namespace: str
    name: str
    version: str | None = None


class ListTemplates(Request, frozen=True, kw_only=True):
    """`template.list`. Answer: `TemplatePage`."""

    namespace: str | None = None


class TemplateReply(msgspec.Struct, frozen=True, kw_only=True):
    """A template version; `created` tells whether this request registered it."""

    namespace: str
    name: str
    version: str
    hash: str
    content: msgspec.Raw
    created: bool = False
    versions: tuple[str, ...] = ()
    #: The environment whose overrides the content holds; absent: none was set where it was registered.
    environment: str | None = None
    warnings: tuple[dict[str, Any], ...] = ()


class ValidationReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `template.validate`: every problem, errors and warnings."""

    valid: bool
    problems: tuple[dict[str, Any], ...]


class TemplateListItem(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a template list."""

    namespace: str
    name: str
    version: str
    hash: str
    description: str
    total_steps: int
    registered_at: str
    registered_by: str


class TemplatePage(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `template.list`."""

    templates: tuple[TemplateListItem, ...]

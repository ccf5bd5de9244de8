"""The client's methods for templates."""

from __future__ import annotations

from pathlib import Path

from stepweave_schemas import api

from .calls import Calls
from .responses import TemplateResponse
from .task_requests import template_text


class TemplateCalls(Calls):
    """Part of `Client`."""

    async def register_template(
        self, template: str | Path, *, registered_by: str = "", timeout_seconds: float | None = None
    ) -> TemplateResponse:
        """Register a template version from its YAML or JSON text, or a `Path` to it.

        The same content again is a no-op (`created` is false). Raises `ValidationFailed` with every problem,
        `Conflict` where the version exists with other content.
        """
        content, source = await template_text(template)
        request = api.RegisterTemplate(content=content, source=source, registered_by=registered_by)
        return await self._call("template.register", request, TemplateResponse, timeout_seconds)

    async def validate_template(
        self, template: str | Path, *, timeout_seconds: float | None = None
    ) -> api.ValidationReply:
        """Every problem of a template, without storing it."""
        content, source = await template_text(template)
        request = api.ValidateTemplate(content=content, source=source)
        return await self._call("template.validate", request, api.ValidationReply, timeout_seconds)

    async def get_template(
        self,
        name: str,
        *,
        namespace: str = "default",
        version: str | None = None,
        timeout_seconds: float | None = None,
    ) -> TemplateResponse:
        """A template version; without `version` the highest that is no prerelease. Raises `NotFound`."""
        request = api.GetTemplate(namespace=namespace, name=name, version=version)
        return await self._call("template.get", request, TemplateResponse, timeout_seconds)

    async def list_templates(
        self, *, namespace: str | None = None, timeout_seconds: float | None = None
    ) -> tuple[api.TemplateListItem, ...]:
        """The registered template versions."""
        request = api.ListTemplates(namespace=namespace)
        return (await self._call("template.list", request, api.TemplatePage, timeout_seconds)).templates

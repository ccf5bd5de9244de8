"""The Python half of the greeting: composes the line that the Node worker renders."""

from __future__ import annotations

from stepweave import ValidationError, inputs, step_handler

GREETINGS = {"en": "Hello, {name}!", "de": "Guten Tag, {name}!", "fr": "Bonjour, {name} !"}


@step_handler("polyglot_compose")
@inputs("name", "language")
def compose(name: str, language: str | None) -> dict[str, str]:
    chosen = language or "en"
    if chosen not in GREETINGS:
        raise ValidationError(f"the language is one of {', '.join(GREETINGS)}, not {chosen}")
    return {"line": GREETINGS[chosen].format(name=name), "language": chosen}

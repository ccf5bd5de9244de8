"""YAML and JSON text to a tree with line numbers; what cannot be read becomes a `BAD_YAML` problem.

YAML goes through the parser of PyYAML (the C one where it exists) event by event: its own composer follows nesting by
recursion in C and can be made to crash, it accepts duplicate keys, and it forgets lines. JSON is not quite a subset
of YAML (surrogate pairs, line separators inside strings), so text that is JSON is read as JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import yaml

from .problems import ProblemList, excerpt
from .scalars import BadScalar, resolve, resolve_tagged
from .tree import Mapping, Node, Scalar, Sequence, TreeBuilder, Unreadable

#: Longest text of a template, and of its canonical form, in bytes of UTF-8.
TEMPLATE_BYTES_MAX: Final = 1024 * 1024

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_JSON_TOKEN = re.compile(r'[\s,:]*(?:([\[{])|([\]}])|("(?:[^"\\]|\\.)*")|([^\s,:\[\]{}"]+))')


def parse(text: str | bytes, problems: ProblemList) -> Node | None:
    """Read one document; `None` where it cannot be read (the reason is in `problems`)."""
    builder = TreeBuilder(problems)
    try:
        decoded = _decode(text)
        if not _read_json(decoded, builder, problems):
            _read_yaml(decoded, builder, problems)
    except Unreadable as refusal:
        problems.add("BAD_YAML", refusal.message, line=refusal.line, hint=refusal.hint)
        return None
    if builder.root is None:
        problems.add("BAD_YAML", "the document is empty", line=1)
    return builder.root


def _decode(text: str | bytes) -> str:
    # Half a surrogate pair in a string is no UTF-8 either, and is refused below like other bytes.
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(raw) > TEMPLATE_BYTES_MAX:
        raise Unreadable(f"longer than {TEMPLATE_BYTES_MAX} bytes", hint="split it into several templates")
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            f"not UTF-8: byte 0x{raw[error.start]:02x}", line, hint="save the file as UTF-8"
        ) from error


# -- YAML ----------------------------------------------------------------------------------------


def _read_yaml(text: str, builder: TreeBuilder, problems: ProblemList) -> None:
    loader = None
    try:
        loader = _Loader(text)
        _feed(loader, builder, problems)
    except yaml.reader.ReaderError as error:
        raise _bad_character(error, text) from error
    except yaml.MarkedYAMLError as error:
        raise _unreadable(error, text) from error
    except yaml.YAMLError as error:
        raise Unreadable(f"not YAML: {excerpt(str(error))}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _feed(loader: Any, builder: TreeBuilder, problems: ProblemList) -> None:
    documents = 0
    while True:
        event = loader.get_event()
        line = event.start_mark.line + 1
        match event:
            case yaml.ScalarEvent():
                builder.scalar(_scalar(event, line, builder, problems), event.anchor)
            case yaml.MappingStartEvent():
                _check_tag(event.tag, "map", line, builder, problems)
                builder.start(Mapping(line), event.anchor)
            case yaml.SequenceStartEvent():
                _check_tag(event.tag, "seq", line, builder, problems)
                builder.start(Sequence(line), event.anchor)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                builder.end()
            case yaml.AliasEvent():
                builder.alias(event.anchor or "", line)
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise Unreadable("a second document starts here", line, hint="keep one template per file")
            case yaml.StreamEndEvent():
                return


def _scalar(event: yaml.ScalarEvent, line: int, builder: TreeBuilder, problems: ProblemList) -> Scalar:
    text: str = event.value
    tag = event.tag
    quoted = event.style not in (None, "") or tag == "tag:yaml.org,2002:str"
    try:
        if tag is not None and tag != "!":
            value = resolve_tagged(tag, text)
        elif tag == "!" or not event.implicit[0]:
            value, quoted = text, True
        else:
            value = resolve(text)
        _check_text(text)
    except BadScalar as refusal:
        problems.add("BAD_VALUE", f"{excerpt(text)}: {refusal}", path=builder.next_path(), line=line)
        value = None
    return Scalar(line, value, text, quoted)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadScalar("the character NUL cannot be stored")


def _check_tag(tag: str | None, known: str, line: int, builder: TreeBuilder, problems: ProblemList) -> None:
    if tag is not None and tag != "!" and tag != f"tag:yaml.org,2002:{known}":
        shown = excerpt(tag.replace("tag:yaml.org,2002:", "!!"))
        problems.add(
            "BAD_VALUE", f"the tag {shown} is not understood here", path=builder.next_path(), line=line
        )


def _bad_character(error: yaml.reader.ReaderError, text: str) -> Unreadable:
    # The C parser counts bytes, the other one characters.
    before = text.encode()[: error.position] if error.encoding == "?" else text[: error.position].encode()
    return Unreadable(
        f"the character U+{int(error.character):04X} is not allowed in YAML", before.count(b"\n") + 1
    )


def _unreadable(error: yaml.MarkedYAMLError, text: str) -> Unreadable:
    mark = error.problem_mark or error.context_mark
    message = " ".join(part for part in (error.context, error.problem) if part) or "not YAML"
    if mark is None:
        return Unreadable(message)
    lines = text.split("\n")
    tab = mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t"
    hint = "indent with spaces, not with tabs" if tab else None
    return Unreadable(f"{message} (column {mark.column + 1})", mark.line + 1, hint=hint)


# -- JSON ----------------------------------------------------------------------------------------


def _read_json(text: str, builder: TreeBuilder, problems: ProblemList) -> bool:
    """Read the text if it is a JSON object or array; YAML's own flow style is left to YAML."""
    if not text.lstrip(" \t\r\n").startswith(("{", "[")):
        return False
    try:
        json.loads(text, parse_constant=_no_constant, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return False
    line, counted = 1, 0
    for token in _JSON_TOKEN.finditer(text):
        start = token.start(token.lastindex or 0)
        line += text.count("\n", counted, start)
        counted = start
        opening, closing, string, word = token.groups()
        if opening is not None:
            builder.start(Mapping(line) if opening == "{" else Sequence(line))
        elif closing is not None:
            builder.end()
        else:
            builder.scalar(_json_scalar(string, word, line, builder, problems))
    return True


def _json_scalar(
    string: str | None, word: str | None, line: int, builder: TreeBuilder, problems: ProblemList
) -> Scalar:
    value: str | int | float | bool | None
    text = word or ""
    try:
        if string is not None:
            value = text = json.loads(string)
            _check_text(text)
            text.encode()
        else:
            value = resolve(text)
    except UnicodeEncodeError:
        problems.add(
            "BAD_VALUE", "the text contains half a surrogate pair", path=builder.next_path(), line=line
        )
        value = text = ""
    except BadScalar as refusal:
        problems.add("BAD_VALUE", f"{excerpt(text)}: {refusal}", path=builder.next_path(), line=line)
        value = None
    return Scalar(line, value, text, string is not None)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")

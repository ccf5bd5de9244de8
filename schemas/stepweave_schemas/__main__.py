"""`python -m stepweave_schemas [--check]`: write the generated files of the repository, or compare them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .catalogue import render_markdown
from .json_schemas import schema_files

SCHEMAS_FOLDER = Path("schemas/json")
EVENTS_PAGE = Path("docs/reference/events.md")


def generated_files() -> dict[Path, bytes]:
    """Every generated file, by its path in the repository."""
    files = {SCHEMAS_FOLDER / name: content for name, content in schema_files().items()}
    files[EVENTS_PAGE] = render_markdown().encode()
    return files


def differences(root: Path) -> list[str]:
    """What the files under `root` lack, have too much or say otherwise, a line each."""
    files = generated_files()
    found = [f"{path}: missing" for path in files if not (root / path).is_file()]
    found += [
        f"{path}: differs from the code"
        for path, content in files.items()
        if (root / path).is_file() and (root / path).read_bytes() != content
    ]
    return found + [f"{path}: nothing generates it" for path in _stale(root)]


def write(root: Path) -> None:
    """Make the files under `root` what the code says."""
    for path in _stale(root):
        (root / path).unlink()
    for path, content in generated_files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def _stale(root: Path) -> list[Path]:
    known = generated_files()
    present = sorted((root / SCHEMAS_FOLDER).glob("*.schema.json"))
    return [path.relative_to(root) for path in present if path.relative_to(root) not in known]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: done, or nothing differs; 1: something differs; 2: not in a repository."""
    parser = argparse.ArgumentParser(prog="python -m stepweave_schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: this folder)")
    options = parser.parse_args(arguments)
    if not (options.root / "schemas" / "stepweave_schemas").is_dir():
        print(
            f"{options.root.resolve()} is not the repository; go to its top folder or use --root",
            file=sys.stderr,
        )
        return 2
    if not options.check:
        write(options.root)
        return 0
    found = differences(options.root)
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("run `python -m stepweave_schemas` and commit what it writes", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m stepweave_schemas.template [--check]`: write `schemas/json/template.schema.json`, or compare it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stepweave_schemas.json_schemas import schema_file_name, schema_files


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: done, or nothing differs; 1: the file differs; 2: not in a repository."""
    parser = argparse.ArgumentParser(prog="python -m stepweave_schemas.template", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file differs")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: this folder)")
    options = parser.parse_args(arguments)
    folder: Path = options.root / "schemas" / "json"
    if not folder.is_dir():
        print(f"there is no {folder}; go to the top folder of the repository or use --root", file=sys.stderr)
        return 2
    name = schema_file_name("template")
    content = schema_files()[name]
    if not options.check:
        (folder / name).write_bytes(content)
        return 0
    if (folder / name).is_file() and (folder / name).read_bytes() == content:
        return 0
    print(
        f"{folder / name} differs from the code; run `python -m stepweave_schemas.template`", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

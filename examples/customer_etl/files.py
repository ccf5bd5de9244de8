"""The files of one run: a folder of its own, and CSV that is there as a whole or not at all.

A try may end anywhere, and a lost one may still write while the next one runs. So every file has a name that follows
from what is in it, and appears by being renamed: whoever writes it again puts the same file in its place.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from stepweave import StepContext

Row = Sequence[str]
#: What later steps do not need once the report is written.
_TEMPORARY: Final = ("sources", "extracted", "enriched")


def folder_of(context: StepContext) -> Path:
    """The folder of the task, the same for all its steps and tries.

    Workers on several machines would share a disk or an object store instead.
    """
    work_dir = context.get_input("work_dir")
    root = Path(work_dir) if work_dir else Path(tempfile.gettempdir()) / "stepweave-customer-etl"
    return root / context.task_uuid


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_rows(path: Path, header: Row, rows: Iterable[Row]) -> int:
    """Write a CSV file; returns how many rows it has."""
    count = 0
    with whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file without its header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def archive_sources(folder: Path) -> Path:
    """Pack what was extracted into one file and remove it; done already, it does nothing."""
    archive = folder / "archive.zip"
    if not archive.exists():
        with whole(archive) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in _TEMPORARY:
                for path in sorted((folder / name).glob("*.csv")):
                    packed.write(path, path.relative_to(folder))
    for name in _TEMPORARY:
        shutil.rmtree(folder / name, ignore_errors=True)
    return archive

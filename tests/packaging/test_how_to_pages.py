"""The how-to pages of dynamic workflows, tried as they stand: their templates become files, their Python one module."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PAGES: Final = Path(__file__).parents[2] / "docs" / "how-to"
#: The pages whose Python blocks, one after the other, are a module of tests.
TRIED: Final = (
    "call-http-apis",
    "fork-a-task",
    "process-in-batches",
    "publish-domain-events",
    "route-with-decisions",
    "save-progress-with-checkpoints",
    "start-child-tasks",
    "step-in-as-an-operator",
    "undo-with-compensations",
    "wait-for-signals",
    "work-through-dead-letters",
)
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TEMPLATE = re.compile(r"# template: (\S+)\n")


@pytest.mark.parametrize("page", TRIED)
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    module: list[str] = []
    for language, code in _FENCE.findall((PAGES / f"{page}.md").read_text()):
        named = _TEMPLATE.match(code)
        if language == "yaml" and named is not None:
            (tmp_path / named[1]).write_text(code)
        elif language == "python":
            module.append(code)
    (tmp_path / "test_page.py").write_text("\n".join(module))
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error"]
    tried = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_page.py"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout[-5_000:] + tried.stderr[-2_000:]

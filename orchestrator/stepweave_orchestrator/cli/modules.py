"""Handler modules as people name them: `shop.handlers`, `./handlers.py`, `examples/checkout`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from .errors import CommandError, ExitCode


def load_modules(names: Iterable[str]) -> list[ModuleType]:
    """Import modules by name (the working folder counts) or by path; raises `CommandError`.

    A path is a file, a package, or a folder, which stands for its `handlers.py` (or, without one, for all its
    modules). Two files of one name may be given: the second gets the folder's name before its own.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    loaded: dict[str, ModuleType] = {}
    for name in names:
        for module in _load(name):
            loaded[module.__name__] = module
    return list(loaded.values())


def _load(name: str) -> list[ModuleType]:
    path = Path(name)
    is_path = "/" in name or "\\" in name or path.suffix == ".py" or name in (".", "..")
    if not is_path:
        if all(part.isidentifier() for part in name.split(".")):
            # A folder of that name that is no package is meant as a path.
            if not path.is_dir() or (path / "__init__.py").exists():
                return [_import(name, name)]
        elif not path.exists():
            raise CommandError(
                f"{name!r} is no module name: write package.module, or a path such as ./handlers.py",
                ExitCode.USAGE,
            )
    path = path.resolve()
    if path.is_dir() and not (path / "__init__.py").exists():
        return [_load_file(file) for file in _files(path)]
    if path.is_dir() or path.is_file():
        return [_load_file(path)]
    raise CommandError(
        f"there is no {name}: give a file such as handlers.py, or a module that can be imported from here",
        ExitCode.NOT_FOUND,
    )


def _files(folder: Path) -> list[Path]:
    if (folder / "handlers.py").is_file():
        return [folder / "handlers.py"]
    files = sorted(
        file for file in folder.glob("*.py") if not file.name.startswith(("_", "test_", "conftest"))
    )
    if not files:
        raise CommandError(f"there is no module with handlers in {folder}", ExitCode.NOT_FOUND)
    return files


def _load_file(path: Path) -> ModuleType:
    """A module or package by its path; one inside a package is imported as a part of it."""
    names = [path.stem if path.is_file() else path.name]
    root = path.parent
    while (root / "__init__.py").exists():
        names.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(1, str(root))
    name = ".".join(names)
    if len(names) > 1 or path.is_dir():
        return _import(name, str(path))
    known = sys.modules.get(name)
    if known is not None:
        if known.__file__ is not None and Path(known.__file__).resolve() == path:
            return known
        name = f"{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} is no Python file: give a *.py file", ExitCode.USAGE)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


def _import(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(
                f"there is no module {name!r}: give one that can be imported from this folder, or a path "
                "such as ./handlers.py",
                ExitCode.NOT_FOUND,
            ) from None
        raise _broken(shown, error) from error
    except Exception as error:
        raise _broken(shown, error) from error


def _broken(shown: str, error: Exception) -> CommandError:
    """Says where in the user's own code an import failed."""
    where = ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}:{error.lineno})"
    else:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if not frame.filename.startswith("<") and "importlib" not in frame.filename:
                where = f" ({frame.filename}:{frame.lineno})"
                break
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return CommandError(
        f"{shown} cannot be imported: {type(error).__name__}: {text}{where}; correct it and start again"
    )

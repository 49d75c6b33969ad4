"""Finds a user's object from its name in a recipe: `path/to/file.py:name` or `package.module:name`."""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo.types import UserError, one_line


def load_object(reference: str) -> Any:
    """Import the object that `file.py:name` or `package.module:name` names. A file is executed once per process.

    Raises:
        UserError: the reference has no colon, its file or module cannot be imported, or has no such name.
    """
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        raise UserError(f"{reference}: expected path/to/file.py:name or package.module:name")
    module = _file_module(Path(where), reference) if where.endswith(".py") else _named_module(where, reference)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        close = difflib.get_close_matches(name, public, n=1)
        hint = f"did you mean {close[0]}?" if close else f"define {name} there, or correct the reference"
        raise UserError(f"{reference}: {where} has no {name}: {hint}")
    return getattr(module, name)


def code_file(reference: str) -> str | None:
    """The file with the code of the object that a reference names; None where its module has none, as one written in C.

    Raises:
        UserError: there is no such object.
    """
    where = reference.rpartition(":")[0]
    if where.endswith(".py"):
        return where
    # A package may show what a module of it defines.
    home = getattr(load_object(reference), "__module__", None) or where
    return getattr(sys.modules.get(home), "__file__", None)


def _named_module(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(reference, error) from error
        raise UserError(
            f"{reference}: no module named {error.name}: install its package, or give its file as path/to/file.py:name"
        ) from None
    except Exception as error:
        raise _failed(reference, error) from error


def _file_module(path: Path, reference: str) -> ModuleType:
    """Import a file under a name of its own, so that a user's `rewards.py` cannot hide another module."""
    if not path.is_file():
        raise UserError(f"{reference}: no file {path}: correct the path")
    full = path.resolve()
    name = f"_grpo_plugin_{hashlib.sha256(str(full).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None, f"importlib has no loader for {full}"
    assert spec.loader is not None, f"importlib has no loader for {full}"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(reference, error) from error
    return module


def _failed(reference: str, error: Exception) -> UserError:
    return UserError(f"{reference}: importing it raised {type(error).__name__}: {one_line(error)}: correct that file")

"""Scripts imported as modules, for tests of their functions."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


def script_path(stem: str, folder: str = "scripts") -> Path:
    """The file of a script."""
    return Path(__file__).parents[1] / folder / f"{stem}.py"


@contextmanager
def imported_script(stem: str, folder: str = "scripts") -> Iterator[ModuleType]:
    """FOLDER/STEM.py as a module, while the context lasts."""
    spec = importlib.util.spec_from_file_location(stem, script_path(stem, folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[stem]

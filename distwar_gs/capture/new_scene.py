"""The folder of a scene that a program makes from another one."""

import os
from pathlib import Path

from distwar_datasets import DataError


def check_new_scene(out: Path, source: Path) -> None:
    """Raises DataError where `out`, which is made of the scene in `source`, cannot be a new folder."""
    if os.path.lexists(out):
        raise DataError(f"{out}: is there already; delete it, or give another folder")
    if not out.absolute().parent.is_dir():
        raise DataError(f"{out}: the folder that it is to be in does not exist; make it")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out}: lies in the scene; give a folder outside of it")

"""Whether a checkpoint's file holds the bytes that it declares: asked before memory is taken for them.

torch.save writes a zip archive without compression: `data.pkl` says which tensors there are, each in `data/KEY`. A
zip may declare far more than it holds (compressed parts; parts that lie over each other), and so may the pickle. torch
takes memory for the first, and reads beyond the end of what it has for the second.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NoReturn

_ITEM_BYTES = {
    "UntypedStorage": 1, "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1, "ShortStorage": 2, "HalfStorage": 2,
    "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8,
    "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
}  # fmt: skip
_CALLED = ("_rebuild_", "OrderedDict", "Parameter", "Size", "device", "_get_layout")
"""How the names begin of what a pickle of tensors calls. Others that torch allows (bytearray, FloatTensor) may take as
much memory as a number of a few bytes says."""


def check_archive(path: Path) -> None:
    """Raises ValueError for a file that is no archive of torch.save, is changed, or declares more than it holds, and
    OSError or zipfile.BadZipFile for one that cannot be read. Reads the whole file, takes little memory."""
    with path.open("rb") as file:  # torch would take others for its format of old, whose lengths it believes
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("not an archive of torch.save")
    with zipfile.ZipFile(path) as archive:
        sizes = _sizes(archive, path.stat().st_size)
        broken = archive.testzip()  # torch.load does not look at the checksums that it writes
        if broken:
            raise ValueError(f"{broken} has changed since it was written")
        pickles = [name for name in sizes if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("no data.pkl in it")
        _Outline(archive.read(pickles[0]), pickles[0].removesuffix("data.pkl"), sizes).load()


def _sizes(archive: zipfile.ZipFile, held: int) -> dict[str, int]:
    """Bytes of each part. ValueError if they are compressed, bear one name, or are more than the file's."""
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size for part in parts):
        raise ValueError("its parts are compressed, which torch.save never does")
    if (declared := sum(part.file_size for part in parts)) > held:
        raise ValueError(f"it declares {declared:,} bytes, and has {held:,}")
    if len({part.filename.lower() for part in parts}) != len(parts):  # torch's reader ignores case
        raise ValueError("two of its parts have one name")
    return {part.filename: part.file_size for part in parts}


class _Outline(pickle._Unpickler):
    """Goes over a pickle of tensors without making any: every name in it stands for nothing.

    Python's own reader instead of the one in C, which takes memory for the highest index that a pickle mentions.
    """

    def __init__(self, content: bytes, prefix: str, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._prefix, self._sizes = prefix, sizes

    def find_class(self, module: str, name: str) -> Any:
        """Imports nothing."""
        return _Nothing if name.startswith(_CALLED) else _Name(name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ("storage", type, key, location, number of items)."""
        _, kind, key, _, count = pid
        name = f"{self._prefix}data/{key}"
        declared, held = count * _ITEM_BYTES[kind.name], self._sizes[name]
        if declared > held:
            raise ValueError(f"{name} is declared as {declared:,} bytes, and has {held:,}")
        return _Nothing()


class _Name:
    """What a pickle names, by which it may tell types, but which it may not call."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> NoReturn:
        raise ValueError(f"it calls {self.name}, as no checkpoint does")


class _Nothing(dict):
    """Takes whatever a pickle does to an object."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Forgets it."""

    def append(self, item: Any) -> None:
        """Forgets it."""

    def extend(self, items: Any) -> None:
        """Forgets them."""

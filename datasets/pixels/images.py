"""The pixels of a set of views as 8-bit tensors: decoded once where they fit, else when they are needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import DataError
from ..scene import View
from .imagefile import Progress, decode_image, map_threads, worker_count
from .masks import decode_mask, ignored_share

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5
"""Share of the free memory, the GPU's or the host's, that images may take at most; the rest is for the model."""
DECODING = 5
"""An image being decoded takes about as much memory as this many decoded ones: Pillow's own copy has 4 bytes per pixel,
and resizing, transparency and pinning each make another."""


FILLED = 0.95
"""Share of the host's budget that is planned for; the rest is what the allocator cannot give back at once."""
_ROWS = 64


class Photo(NamedTuple):
    """An image, and which of its pixels count."""

    pixels: torch.Tensor
    """uint8 [H, W, 3], or [H, W, 4] with transparency."""
    kept: torch.Tensor | None
    """bool [H, W], False where a mask ignores the pixel; None: no mask."""
    transparent: bool = False
    """Whether the file has transparent places, which a background shows through."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.pixels.nbytes + (0 if self.kept is None else self.kept.nbytes)

    def to(self, device: torch.device) -> Photo:
        """The same on a device; from pinned memory the copy is asynchronous."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Photo:
        """The same in memory from where copies to a GPU are asynchronous."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Photo:
        return self._replace(pixels=change(self.pixels), kept=None if self.kept is None else change(self.kept))


class ImageStore:
    """Images of `views` by index, uint8 [H, W, 3] (or [H, W, 4], see `background`), delivered on `device`.

    On a GPU they live there when they fit its budget, else in pinned host memory from where each access starts an
    asynchronous copy: it is ordered before later work of the current stream, so use the tensor as usual. What does not
    fit the host's budget either is decoded at each access, or ahead of it by threads (`prefetch`). Those that were kept
    first stay: where views come in random order, each once a round, no other choice hits more often.
    """

    def __init__(
        self,
        views: Sequence[View],
        *,
        background: tuple[float, float, float] | None,
        device: torch.device | str,
        budget_bytes: int,
        host_budget_bytes: int | None = None,
        threads: int = 0,
        progress: Progress | None = None,
        often: Sequence[int] | None = None,
    ) -> None:
        """Decode what the budgets hold, with `threads` threads (0: automatic); `progress(done, total)` after each.

        background: RGB in [0, 1] that transparent images are laid on; None keeps their alpha as a fourth channel.
        budget_bytes: GPU memory that the images may fill; at most half of what is free is used.
        host_budget_bytes: host memory that images may fill, those being decoded included; None: half of what is free.
        often: the views that are asked for again and again; only these are kept. None: all.
        Raises DataError naming an image that cannot be decoded or no longer has the size of its view.
        """
        self.device = torch.device(device)
        self._views, self._background = tuple(views), background
        own = range(len(views)) if often is None else often
        sizes = [self._size(views[index]) for index in own]
        host = FREE_SHARE * available_memory() if host_budget_bytes is None else host_budget_bytes
        self._home, self.slots, count = self._plan(sizes, budget_bytes, host, threads or worker_count())
        self.where: str = self._home.type if count == len(own) else "disk"
        self._describe(sizes, count, host)
        self.ignored: float = self._ignored_share(threads)
        first = own[:count]
        self._kept = dict(zip(first, map_threads(self._load, first, threads, progress), strict=True))
        self.nbytes: int = sum(photo.nbytes for photo in self._kept.values())
        self._pool = ThreadPoolExecutor(max(1, self.slots))
        self._ahead: dict[int, Future[Photo]] = {}
        self._last: tuple[int, Photo] | None = None

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.photo(index).pixels

    def __iter__(self) -> Iterator[torch.Tensor]:
        """All images in order, the next ones decoded ahead."""
        for index in range(len(self)):
            self.prefetch(range(index + 1, len(self)))
            yield self[index]

    @property
    def transparent(self) -> int:
        """How many of the images that are kept have transparent places, which `background` shows through."""
        return sum(photo.transparent for photo in self._kept.values())

    def mask(self, index: int) -> torch.Tensor | None:
        """bool [H, W], True where the pixel counts; None: all do. Free for the image asked for last."""
        return self.photo(index).kept

    def photo(self, index: int) -> Photo:
        """The image and its mask, on the device."""
        if self._last is None or self._last[0] != index:
            self._last = None  # one less in memory while the next is decoded
            self._last = index, self._find(index).to(self.device)
        return self._last[1]

    def prefetch(self, indices: Iterable[int]) -> None:
        """Begin to decode the first of `indices`, in the order of use, that are not in memory: as many as `slots`."""
        if self.where != "disk":
            return
        wanted = list(islice((index for index in indices if index not in self._kept), self.slots))
        for index in self._ahead.keys() - set(wanted):
            self._ahead.pop(index).cancel()
        for index in wanted:
            if index not in self._ahead:
                self._ahead[index] = self._pool.submit(self._load, index)

    def _find(self, index: int) -> Photo:
        if index in self._kept:
            return self._kept[index]
        future = self._ahead.pop(index, None)
        return self._load(index) if future is None else future.result()

    def _load(self, index: int) -> Photo:
        photo = _decode(self._views[index], self._background)
        if self._home.type == "cuda":
            return photo.to(self._home)
        return photo.pinned() if self.device.type == "cuda" else photo

    def _size(self, view: View) -> int:
        """Bytes of the decoded image: an upper bound where transparency is kept."""
        return view.width * view.height * ((4 if self._background is None else 3) + (1 if view.mask else 0))

    def _plan(self, sizes: list[int], budget: int, host: float, threads: int) -> tuple[torch.device, int, int]:
        """Where images live, how many are decoded ahead, and how many of the first are kept."""
        total = sum(sizes)
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if total <= min(budget, FREE_SHARE * free):
                return self.device, 0, len(sizes)
        if total <= host:
            return torch.device("cpu"), 0, len(sizes)
        # Every slot has one image being decoded or waiting, and one is in use.
        slot = DECODING * max(sizes)
        slots = int(max(1, min(threads, host / 2 // slot)))
        room = FILLED * host - slots * slot - max(sizes)
        return torch.device("cpu"), slots, int(np.searchsorted(np.cumsum(sizes), room, side="right"))

    def _describe(self, sizes: list[int], count: int, host: float) -> None:
        """Says what is about to be decoded, and where it goes."""
        places = {
            "cuda": "on the GPU",
            "cpu": "in host memory",
            "disk": f"{count} stay in host memory (data.host_budget_gib; {_gib(int(host))} for these), the others are "
            f"decoded for every use, {self.slots} ahead",
        }
        logger.info("%d images, %s decoded: %s", len(sizes), _gib(sum(sizes)), places[self.where])

    def _ignored_share(self, threads: int) -> float:
        masked = sum(view.mask is not None for view in self._views)
        if not masked:
            return 0.0
        share = ignored_share(self._views, threads)
        logger.info("masks of %d of %d images ignore %.1f %% of all pixels", masked, len(self), 100.0 * share)
        if share > 0.5:
            inverted = "if black is what counts, use --invert_masks"
            cut_out = "if what is opaque was cut out of its background, use data.alpha=background"
            alpha = any(view.alpha_is_mask for view in self._views)
            logger.warning("masks ignore more than half of all pixels: %s", cut_out if alpha else inverted)
        return share


def available_memory() -> int:
    """Bytes of host memory that can still be taken, within a container's limit; 8 GiB where Linux does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
        return available if text == "max" else min(available, int(text))
    except (OSError, StopIteration, ValueError):
        return 8 * 2**30


def composite(pixels: np.ndarray, background: tuple[float, float, float]) -> np.ndarray:
    """Lay uint8 RGBA [H, W, 4] on a colour in [0, 1]: uint8 RGB [H, W, 3].

    rgb * a + background * (1 - a), as the 3DGS reader does (scene/dataset_readers.py, readCamerasFromTransforms);
    it truncates to 8 bits, which darkens by half a level on average, and we round.
    """
    color = np.asarray(background, dtype=np.float32) * 255.0
    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    for rows in range(0, len(pixels), _ROWS):  # in float it would take 10 times the memory of the image
        part = pixels[rows : rows + _ROWS]
        alpha = part[..., 3:].astype(np.float32) / 255.0
        result[rows : rows + _ROWS] = np.round(part[..., :3] * alpha + color * (1.0 - alpha))
    return result


def _decode(view: View, background: tuple[float, float, float] | None) -> Photo:
    pixels = decode_image(view.image_path)
    height, width = pixels.shape[:2]
    if (width, height) != (view.width, view.height):
        raise DataError(
            f"{view.image_path}: is {width}x{height}, but was {view.width}x{view.height} when the scene was read; "
            "leave the images alone while training starts"
        )
    if view.alpha_is_mask:
        pixels = np.ascontiguousarray(pixels[..., :3])
    transparent = pixels.shape[-1] == 4 and int(pixels[..., 3].min()) < 255
    if pixels.shape[-1] == 4 and background is not None:
        pixels = composite(pixels, background)
    kept = torch.from_numpy(decode_mask(view.mask, (width, height))) if view.mask else None
    return Photo(torch.from_numpy(pixels), kept, transparent)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"

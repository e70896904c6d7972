"""The one camera that every op takes, and the table of lenses."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from distwar_kernels.projection.lenses.equirectangular import EQUIRECTANGULAR
from distwar_kernels.projection.lenses.fisheye import FISHEYE
from distwar_kernels.projection.lenses.lens import Lens
from distwar_kernels.projection.lenses.opencv import OPENCV
from distwar_kernels.projection.lenses.orthographic import ORTHOGRAPHIC
from distwar_kernels.projection.lenses.pinhole import PINHOLE
from distwar_kernels.projection.lenses.unified import UNIFIED

MODELS: dict[str, Lens] = {
    "pinhole": PINHOLE,
    "opencv": OPENCV,
    "fisheye": FISHEYE,
    "unified": UNIFIED,
    "equirectangular": EQUIRECTANGULAR,
    "orthographic": ORTHOGRAPHIC,
}
"""Lenses by the name of the camera model. A new one is a row here and in cameras.h, a file in projection/lenses/, and
its twin for CUDA in fused/lenses/."""

IN_PIXELS = ("fx", "fy", "cx", "cy")
"""Parameters of lenses that are lengths in pixels."""

SCHEMA = "str model, Tensor[] camera, int[] image"
"""How an op's schema takes cameras: see `Cameras.arguments`."""


class Cameras(NamedTuple):
    """C cameras with one kind of lens and images of one size."""

    model: str
    """Which lens: a key of MODELS."""
    viewmats: Tensor
    """[C, 4, 4] world to camera, OpenCV axes (x right, y down, z forward)."""
    intrinsics: Tensor
    """[C, P] the lens's numbers in its order; a pinhole's are fx, fy, cx, cy in pixels, with pixel centres at +0.5."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""

    @classmethod
    def of_matrices(cls, viewmats: Tensor, Ks: Tensor, width: int, height: int) -> "Cameras":
        """Pinhole cameras from matrices [C, 4, 4] and [C, 3, 3]; their skew is not used."""
        intrinsics = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]], dim=-1)
        return cls("pinhole", viewmats, intrinsics, width, height)

    @property
    def Ks(self) -> Tensor:  # noqa: N802
        """[C, 3, 3] intrinsic matrices of pinhole cameras. Raises ValueError for others."""
        if self.model != "pinhole":
            raise ValueError(f"cameras of model {self.model!r} have no intrinsic matrix")
        fx, fy, cx, cy = self.intrinsics.unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=-1).reshape(-1, 3, 3)

    @property
    def centers(self) -> Tensor:
        """[C, 3] where the cameras are in the world."""
        # R^T t by hand: a general inverse would make the host wait for the GPU.
        return -(self.viewmats[:, :3, :3].transpose(1, 2) @ self.viewmats[:, :3, 3:])[..., 0]

    @property
    def lens(self) -> Lens:
        """The row of MODELS."""
        return MODELS[self.model]

    def one(self, index: int) -> "Cameras":
        """One of them, as cameras with C = 1; shares memory."""
        places = slice(index, index + 1)
        return self._replace(viewmats=self.viewmats[places], intrinsics=self.intrinsics[places])

    def each(self) -> Iterator["Cameras"]:
        """All of them one by one."""
        return (self.one(index) for index in range(len(self.viewmats)))

    def shrunk(self, factor: int) -> "Cameras":
        """Of images whose pixels are blocks of `factor` x `factor` of these; a rest at the right and the bottom is left
        out."""
        numbers = zip(self.lens.parameters, self.intrinsics.unbind(-1), strict=True)
        scaled = [number / factor if name in IN_PIXELS else number for name, number in numbers]
        intrinsics = torch.stack(scaled, dim=-1)
        return self._replace(intrinsics=intrinsics, width=self.width // factor, height=self.height // factor)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Cameras":
        """With tensors on this device, of this dtype."""
        viewmats, intrinsics = (tensor.to(device=device, dtype=dtype) for tensor in (self.viewmats, self.intrinsics))
        return self._replace(viewmats=viewmats, intrinsics=intrinsics)

    def check(self, count: int | None = None) -> None:
        """Raises ValueError for a model that is not in the table, shapes that disagree, or another count than this."""
        if self.model not in MODELS:
            raise ValueError(f"camera model {self.model!r} is not one of {', '.join(MODELS)}")
        cameras, numbers = len(self.viewmats), len(self.lens.parameters)
        if self.viewmats.shape != (cameras, 4, 4):
            raise ValueError(f"viewmats has shape {tuple(self.viewmats.shape)}, expected (C, 4, 4)")
        if self.intrinsics.shape != (cameras, numbers):
            raise ValueError(
                f"intrinsics has shape {tuple(self.intrinsics.shape)}, expected {(cameras, numbers)}: a"
                f" {self.model} camera has {', '.join(self.lens.parameters)}"
            )
        if count is not None and cameras != count:
            raise ValueError(f"there are {cameras} cameras, expected {count}")

    def arguments(self) -> tuple[str, list[Tensor], list[int]]:
        """As an op takes them: SCHEMA."""
        return self.model, [self.viewmats.contiguous(), self.intrinsics.contiguous()], [self.width, self.height]

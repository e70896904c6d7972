"""What an image file is, by its content, and its pixels as a photo: everything that Pillow decodes, HEIC with
pillow-heif.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PHOTO_SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".heic", ".heif",
    ".hif", ".jp2", ".j2k", ".gif", ".ppm", ".pgm",
})  # fmt: skip
"""How the names of photos end that are read, lower case. What a file is its content tells."""
RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip
"""What a camera's sensor recorded. Many are TIFFs whose first image is a thumbnail, so content does not tell."""
READ_BY_COLMAP = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif", "BMP": ".bmp"}
"""Formats that pycolmap's wheels decode, and the suffix that tells COLMAP so; not WebP, HEIF, AVIF, JPEG 2000, GIF."""

# Pillow knows formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
# ISO/IEC 23008-12 and the AV1 image file format: the brand behind "ftyp"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_EXIF_IFD = 0x8769


class NotAPhotoError(Exception):
    """A file that cannot be used as a photo; the message is the reason and, where there is one, the remedy."""


def open_photo(path: Path) -> Image.Image:
    """The image, its header read; close it. Raises NotAPhotoError."""
    if path.suffix.lower() in RAW_SUFFIXES:
        raise NotAPhotoError("a camera's raw file: develop it to JPEG, PNG or TIFF")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # cameras have 100 million pixels
            return Image.open(path, formats=_formats())
    except UnidentifiedImageError as error:
        raise NotAPhotoError(_unidentified(path)) from error
    except Exception as error:  # what Pillow raises for a damaged file depends on the format
        if isinstance(error, OSError) and error.strerror:
            raise NotAPhotoError(f"cannot be opened ({error.strerror})") from error
        raise NotAPhotoError(f"cannot be read as an image ({_reason(error)})") from error


def decoded(path: Path) -> Image.Image:
    """All pixels, as stored: unturned. Raises NotAPhotoError, also for a file that is cut short."""
    with open_photo(path) as image:  # what is loaded stays when the file is closed
        try:
            image.load()
            image.getexif()
        except Exception as error:
            raise NotAPhotoError(f"damaged or cut short ({_reason(error)})") from error
    if image.mode == "F":
        raise NotAPhotoError("floating-point pixels: convert it to 8 or 16 bits")
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB, 8 bits, turned as EXIF says, with the rest of EXIF kept in `info`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255.
        grey = np.round(np.clip(np.asarray(image), 0, 65535) / 257.0).astype(np.uint8)
        image = Image.fromarray(grey)
    return image.convert("RGB")


def write_png(image: Image.Image, path: Path) -> None:
    """`upright_rgb` of an image, losslessly, with the EXIF from which COLMAP takes the focal length."""
    exif = ImageOps.exif_transpose(image).getexif()
    exif.get_ifd(_EXIF_IFD)  # Pillow writes only what has been read
    upright_rgb(image).save(path, format="PNG", compress_level=1, **({"exif": exif.tobytes()} if len(exif) else {}))


def exif_of(path: Path, keys: tuple[int, ...], lens_keys: tuple[int, ...]) -> tuple[str, ...]:
    """EXIF values of a readable photo, as text ("None": absent): of the image, then of its Exif part."""
    with open_photo(path) as image:
        try:
            exif = image.getexif()
            lens = exif.get_ifd(_EXIF_IFD)
        except Exception:  # damaged EXIF says nothing, and raises anything
            exif = lens = {}
    return tuple(str(tags.get(tag)) for tags, wanted in ((exif, keys), (lens, lens_keys)) for tag in wanted)


@cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that can be read here. The HEIF opener is registered with Pillow."""
    Image.init()
    with suppress(ImportError):  # also of one whose libraries are not there
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _unidentified(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS and "HEIF" not in _formats():
        return "a HEIC photo: pip install pillow-heif, or convert it to JPEG"
    if brand in _AVIF_BRANDS and "AVIF" not in _formats():
        return "an AVIF photo: pip install 'pillow>=11.3', or convert it to JPEG"
    if path.suffix.lower() in PHOTO_SUFFIXES:
        return "cannot be read as an image" + (": empty" if not start else "")
    return "not an image"


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

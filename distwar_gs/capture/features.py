"""The stages before mapping: cameras and features of every photo, and which features of two photos are the same."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pycolmap

from distwar_datasets.pixels.imagefile import read_size
from distwar_gs.capture.decoding import exif_of
from distwar_gs.capture.intrinsics import START
from distwar_gs.capture.staging import Staged, load_stage
from distwar_gs.capture.work import AUTO, Work

EXHAUSTIVE_UP_TO = 300
"""Photos of which every pair is still compared: 44,850 pairs, about an hour on 2 CPU cores."""
_EXIF_OF_A_CAMERA = (0x010F, 0x0110)  # maker, model
_EXIF_FOCAL_LENGTHS = (0x920A, 0xA405)  # in mm, and in mm of 35 mm film


def staged_photos(work: Work) -> list[Staged]:
    """The photos that take part."""
    return load_stage(work.folder / "photos.json")[0]


def find_features(work: Work) -> None:
    """Cameras and local features of every photo; those that an interrupted run has found are kept."""
    photos = staged_photos(work)
    names = [photo.staged for photo in photos]
    for group in by_camera(work, photos).values():
        _add_camera(work, group)
    options = pycolmap.FeatureExtractionOptions(num_threads=work.threads, max_image_size=work.settings.max_size)
    options.sift.max_num_features = work.settings.max_features
    with work.watched() as database:
        work.call(
            pycolmap.extract_features, work.database, work.images, names, extraction_options=options,
            count=lambda: photos_with_features(database), total=len(names), unit="photo",
        )  # fmt: skip


def by_camera(work: Work, photos: Sequence[Staged]) -> dict[tuple, list[str]]:
    """COLMAP's names of photos that share a camera: equal folder, size, and by their EXIF device and focal length."""
    groups = defaultdict(list)
    for photo in photos:
        file, folder = work.images / photo.staged, str(PurePosixPath(photo.scene).parent)
        groups[folder, read_size(file), exif_of(file, _EXIF_OF_A_CAMERA, _EXIF_FOCAL_LENGTHS)].append(photo.staged)
    return groups


def _add_camera(work: Work, names: Sequence[str]) -> None:
    """Enters photos into the database, all with one camera: that of those which an interrupted run has entered."""
    with pycolmap.Database.open(work.database) as database:
        entered = {image.name: image.camera_id for image in database.read_all_images()}
    cameras = [entered[name] for name in names if name in entered]
    model = START if work.settings.camera == AUTO else work.settings.camera
    reader = pycolmap.ImageReaderOptions(camera_model=model)
    if cameras:
        reader.existing_camera_id = cameras[0]
    if new := [name for name in names if name not in entered]:
        pycolmap.import_images(work.database, work.images, pycolmap.CameraMode.SINGLE, new, reader)


def photos_with_features(database: pycolmap.Database) -> int:
    """How many photos have been examined."""
    return sum(database.exists_descriptors(image.image_id) for image in database.read_all_images())


def find_matches(work: Work) -> None:
    """Which features of two photos are the same point; pairs that an interrupted run has compared are kept."""
    names = [photo.staged for photo in staged_photos(work)]
    names = sorted(names, key=lambda name: (PurePosixPath(name).name, name))  # of a rig by moment, not by camera
    pairs = list(pairs_of(names, work.settings.matching))
    file = work.folder / "pairs.txt"
    file.write_text("".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    with work.watched() as database:
        work.call(
            pycolmap.match_image_pairs, work.database,
            matching_options=pycolmap.FeatureMatchingOptions(num_threads=work.threads),
            pairing_options=pycolmap.ImportedPairingOptions(match_list_path=file),
            count=database.num_matched_image_pairs, total=len(pairs), unit="pair",
        )  # fmt: skip


def pairs_of(names: Sequence[str], matching: str) -> Iterator[tuple[str, str]]:
    """The photos to compare, each pair once.

    exhaustive: all. sequential: each with its next 10, and with those 16, 32, 64, ... further on, which is how a walk
    that comes back to where it was is closed (COLMAP's sequential matcher does the same, quadratic_overlap).
    """
    if matching == "exhaustive":
        yield from itertools.combinations(names, 2)
        return
    steps = [*range(1, 11), *(2**power for power in range(4, len(names).bit_length()))]
    for first in range(len(names)):
        yield from ((names[first], names[first + step]) for step in steps if first + step < len(names))

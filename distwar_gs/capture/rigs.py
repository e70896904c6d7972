"""Rigs: cameras that are mounted together, and take their photos at the same moments.

Photos of one moment have the same name in a folder for each camera. COLMAP then finds one pose for each moment and one
place for each camera on the rig, so that a photo without a match of its own stands where the others of its moment say.

Photos are placed one by one at first. Where the cameras stand on the rig is then either known (a file of COLMAP's), and
the model gets its scale; or it is found, as the average over the moments. With it everything is refined. (COLMAP can
map with a known rig from the start, but looks 40 s for a first pair of moments while the lens is not known: its minimal
solver for rigs finds few matches that agree.)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pycolmap

from distwar_datasets.errors import DataError
from distwar_gs.capture.refinement import refine_all, replace_model
from distwar_gs.capture.work import Work
from distwar_gs.system.files import read_bounded

FOLDERS = "folders"
"""As Settings.rig: each folder of photos is a camera of one rig."""
LARGEST_FILE = 1_000_000
"""Bytes of a file of rigs."""


@dataclass(frozen=True)
class Rig:
    """Cameras of a rig, by the folders of their photos, with a / at the end; the first is the reference."""

    folders: tuple[str, ...]
    poses: tuple[Any, ...]
    """pycolmap.Rigid3d of each but the first, camera from rig; None: to be found."""


def rig_setting(asked: str | None) -> str:
    """What Settings.rig holds for --rig: "", FOLDERS or what a file says. Raises DataError for a file that is none."""
    if asked is None or asked == FOLDERS:
        return asked or ""
    try:
        text = read_bounded(asked, LARGEST_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--rig {asked}: cannot be read ({error}); give {FOLDERS}, or COLMAP's JSON of rigs") from None
    _rigs_of_text(text, asked)
    return text


def rigs_of(setting: str, names: Sequence[str]) -> list[Rig]:
    """The rigs of a run, whose photos have these names. Raises DataError where there are no two cameras."""
    if setting != FOLDERS:
        return _rigs_of_text(setting, "the file of rigs")
    folders = sorted({str(PurePosixPath(name).parent) + "/" for name in names if "/" in name})
    if len(folders) < 2:
        raise DataError(
            f"--rig {FOLDERS}: the photos lie in {len(folders)} folders; put those of each camera into a folder of its "
            "own, with equal names for photos of one moment"
        )
    return [Rig(tuple(folders), (None,) * (len(folders) - 1))]


def _rigs_of_text(text: str, where: str) -> list[Rig]:
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            file.write(json.dumps(json.loads(text)))
            file.flush()
            configs = pycolmap.read_rig_config(file.name)
        rigs = [_rig_of(config, where) for config in configs]
    except DataError:
        raise
    except Exception as error:  # of JSON and of COLMAP, many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{where}: not COLMAP's JSON of rigs ({reason}); correct it, or give --rig {FOLDERS}") from None
    if not rigs:
        raise DataError(f"{where}: has no rig; describe one, or leave --rig out")
    return rigs


def _rig_of(config: Any, where: str) -> Rig:
    cameras = sorted(config.cameras, key=lambda each: not each.ref_sensor)
    if len(cameras) < 2 or sum(each.ref_sensor for each in cameras) != 1:
        raise DataError(f"{where}: a rig needs two cameras or more, of which one has ref_sensor true")
    if any(each.camera is not None for each in cameras):
        raise DataError(f"{where}: leave the cameras' models and parameters out: they are found (--camera)")
    folders = tuple(each.image_prefix.rstrip("/") + "/" for each in cameras)
    return Rig(folders, tuple(each.cam_from_rig for each in cameras[1:]))


# ------------------------------------------------------------------------------------------------------------- names


def rig_stems(rigs: Sequence[Rig], names: Sequence[str]) -> list[str]:
    """Names without suffix under which COLMAP sees photos, so that it finds the photos of one moment: those of a rig's
    cameras as rig0/cam1/000002, others as other/000003. Raises DataError where one camera has two at one moment, or
    two cameras of a rig have no moment in common."""
    stems = [f"other/{index:06d}" for index in range(len(names))]
    for number, rig in enumerate(rigs):
        moments = [_moments(folder, names) for folder in rig.folders]
        order = {moment: index for index, moment in enumerate(sorted({one for each in moments for one in each}))}
        for camera, (folder, mine) in enumerate(zip(rig.folders, moments, strict=True)):
            if not mine.keys() & moments[0].keys():
                raise DataError(
                    f"{folder}: has no photo of the name of one in {rig.folders[0]}; give photos of one moment one name"
                )
            for moment, index in mine.items():
                stems[index] = f"{_prefix(number, camera)}{order[moment]:06d}"
    return stems


def _moments(folder: str, names: Sequence[str]) -> dict[str, int]:
    """Photos of a camera by what their moment is called: the index of each."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        if name.startswith(folder):
            moment = str(PurePosixPath(name.removeprefix(folder)).with_suffix(""))
            if moment in found:
                other = names[found[moment]]
                raise DataError(f"{name}: {other} is of the same camera and moment by its name; rename one, or move it")
            found[moment] = index
    return found


def check_formats(staged: Sequence[str]) -> None:
    """Raises DataError where photos of one moment are of several formats: COLMAP takes them for several moments."""
    suffixes: dict[str, set[str]] = {}
    for path in map(PurePosixPath, staged):
        rig = path.parts[0] if len(path.parts) == 3 else ""
        suffixes.setdefault(rig, set()).add(path.suffix)
    mixed = sorted({suffix for rig, found in suffixes.items() if rig and len(found) > 1 for suffix in found})
    if mixed:
        raise DataError(f"--rig: photos of one rig are read as {', '.join(mixed)}; convert them to one format")


def _prefix(rig: int, camera: int) -> str:
    return f"rig{rig}/cam{camera}/"


# ------------------------------------------------------------------------------------------------------------ stages


def _configs(rigs: Sequence[Rig]) -> list[Any]:
    """As COLMAP takes them."""
    configs = []
    for number, rig in enumerate(rigs):
        cameras = [pycolmap.RigConfigCamera(ref_sensor=True, image_prefix=_prefix(number, 0))]
        for camera, pose in enumerate(rig.poses, start=1):
            cameras.append(pycolmap.RigConfigCamera(image_prefix=_prefix(number, camera)))
            if pose is not None:
                cameras[-1].cam_from_rig = pose
        configs.append(pycolmap.RigConfig(cameras=cameras))
    return configs


def bind_rigs(work: Work, rigs: Sequence[Rig]) -> None:
    """After mapping: the places of cameras on their rigs, and all refined with them. Raises DataError where a camera's
    place does not follow, since it was never placed together with the first."""
    model = pycolmap.Reconstruction(work.model)
    for number, rig in enumerate(rigs):
        _check_placed(model, number, rig)
    _scale(model, rigs)
    with pycolmap.Database.open(work.database) as database:
        _complete(model, database)
        pycolmap.apply_rig_config(_configs(rigs), database, model)
    refine_all(work, model)
    replace_model(work, model)
    work.notes["rigs"] = [
        {"cameras": list(rig.folders), "moments": len(_centers(model, number, 0))} for number, rig in enumerate(rigs)
    ]


def _scale(model: pycolmap.Reconstruction, rigs: Sequence[Rig]) -> None:
    """Makes distances those of the rigs whose cameras' places are known; else they are anything."""
    ratios = []
    for number, rig in enumerate(rigs):
        for camera, pose in enumerate(rig.poses, start=1):
            distance = 0.0 if pose is None else float(np.linalg.norm(pose.translation))
            centers = [_centers(model, number, each) for each in (0, camera)]
            for moment in centers[0].keys() & centers[1].keys():
                ratios.append(distance / max(float(np.linalg.norm(centers[0][moment] - centers[1][moment])), 1e-12))
    known = [ratio for ratio in ratios if ratio > 0.0]
    if known:
        model.transform(pycolmap.Sim3d(float(np.median(known)), pycolmap.Rotation3d(), np.zeros(3)))


def _complete(model: pycolmap.Reconstruction, database: pycolmap.Database) -> None:
    """Enters the photos that were not placed, without a pose: a moment has all its photos, or COLMAP takes offence."""
    for image in database.read_all_images():
        if image.image_id not in model.images:
            if image.camera_id not in model.cameras:
                model.add_camera_with_trivial_rig(database.read_camera(image.camera_id))
            pixels = database.read_keypoints(image.image_id)[:, :2].astype(np.float64)
            numbers = {"camera_id": image.camera_id, "image_id": image.image_id}
            model.add_image_with_trivial_frame(pycolmap.Image(name=image.name, keypoints=pixels, **numbers))


def _check_placed(model: pycolmap.Reconstruction, number: int, rig: Rig) -> None:
    first = _centers(model, number, 0).keys()
    for camera, folder in enumerate(rig.folders[1:], start=1):
        if not first & _centers(model, number, camera).keys():
            raise DataError(
                f"{folder}: no photo of it was placed together with the one of the same moment in {rig.folders[0]}, so "
                "its place on the rig does not follow; add photos that show the same, or leave --rig out"
            )


def _centers(model: pycolmap.Reconstruction, rig: int, camera: int) -> dict[str, np.ndarray]:
    """Where a camera was at each moment of which its photo has a pose, [3]."""
    prefix = _prefix(rig, camera)
    return {
        PurePosixPath(image.name).stem: np.asarray(image.projection_center())
        for image in model.images.values()
        if image.has_pose and image.name.startswith(prefix)
    }

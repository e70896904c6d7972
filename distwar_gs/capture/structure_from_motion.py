"""Photos or a video in, a scene to train on out: the stages, one after the other.

OUT/images gets undistorted photos, OUT/sparse/0 their cameras and points. OUT/sfm keeps the work: begun again after an
interruption, it goes on in the stage it was in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pycolmap
from PIL import Image

from distwar_datasets.errors import DataError
from distwar_datasets.pixels.imagefile import map_threads
from distwar_gs.capture.features import EXHAUSTIVE_UP_TO, find_features, find_matches, staged_photos
from distwar_gs.capture.mapping import find_cameras
from distwar_gs.capture.photos import check_enough, check_photos, find_photos
from distwar_gs.capture.refinement import find_intrinsics, place_left_out
from distwar_gs.capture.report import Report, report_of
from distwar_gs.capture.rigs import bind_rigs, check_formats, rig_setting, rig_stems, rigs_of
from distwar_gs.capture.staging import Staged, load_stage, save_stage, stage
from distwar_gs.capture.video import JPEG_QUALITY, default_frames, extract_frames
from distwar_gs.capture.work import AUTO, Settings, Work
from distwar_gs.system.progress import progress


def settings_for(
    photos: Path, out: Path, *, matching: str = "auto", camera: str = AUTO, max_size: int = 1600,
    max_features: int = 8192, frames: int | None = None, mapper: str = "incremental", rig: str | None = None,
) -> Settings:  # fmt: skip
    """What decides a result, with what is left open resolved; `matching` "auto": all pairs of up to EXHAUSTIVE_UP_TO
    photos, neighbours in a video or among more. Other arguments as the fields of Settings.

    Raises DataError for what cannot be used.
    """
    _check_version()
    photos = _existing(photos)
    if camera != AUTO and camera not in pycolmap.CameraModelId.__members__:
        known = ", ".join(name for name in pycolmap.CameraModelId.__members__ if name != "INVALID")
        raise DataError(f"--camera {camera}: unknown to COLMAP; use {AUTO} or one of {known}")
    if min(max_size, max_features) < 1 or (frames is not None and frames < 2):
        raise DataError("--max_size and --max_features must be positive, --frames at least 2")
    count = 0 if photos.is_dir() else frames or default_frames(photos)
    number = count or _count(photos, out)
    if matching == "auto":
        matching = "sequential" if count or number > EXHAUSTIVE_UP_TO else "exhaustive"
    if rig and count:
        raise DataError("--rig: a video has one camera; give a folder with a folder of photos for each camera")
    rigs = rig_setting(rig)
    return Settings(str(photos.resolve()), matching, camera, max_size, max_features, count, number, mapper, rigs)


def make_scene(out: Path, settings: Settings, threads: int = -1, say: Callable[[str], None] = print) -> Report:
    """Go through the stages that are not done yet, and tell what came of it. `say` gets each line of progress.

    Raises DataError where the photos or COLMAP do not allow a scene; KeyboardInterrupt leaves what is done.
    """
    _check_version()
    work = Work.begun(out, settings, threads, say)
    _log_to(work.folder)
    for name, run in STAGES.items():
        if _is_wanted(name, settings):
            work.once(name, run)
    return report_of(work)


def _is_wanted(stage: str, settings: Settings) -> bool:
    """Frames are of a video; rigs, of several cameras."""
    return {"frames": bool(settings.frames), "rigs": bool(settings.rig)}.get(stage, True)


def _check_version() -> None:
    if not hasattr(pycolmap, "CancellationToken"):
        raise DataError(f"pycolmap {pycolmap.__version__} is too old for this: pip install 'pycolmap>=4.2'")


def _existing(photos: Path) -> Path:
    """The path, or with slashes for the backslashes of Windows."""
    for path in (photos, Path(str(photos).replace("\\", "/"))):
        if path.exists():
            return path
    raise DataError(f"{photos}: no such folder or video")


def _count(folder: Path, out: Path) -> int:
    names, left_out = find_photos(folder, out)
    check_enough(folder, names, left_out)
    return len(names)


def _log_to(folder: Path) -> None:
    """COLMAP's messages go to OUT/sfm/colmap.log*, not over the progress bars."""
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.stderrthreshold = pycolmap.logging.Level.FATAL.value
    pycolmap.logging.set_log_destination(pycolmap.logging.Level.INFO, folder / "colmap.log.")


def _frames(work: Work) -> None:
    """A video becomes a folder of photos."""
    extract_frames(Path(work.settings.photos), work.source, work.settings.frames)


def _photos(work: Work) -> None:
    """Photos are decoded to the end, to find damaged ones, and put where COLMAP reads them."""
    found, left_out = find_photos(work.source, work.out)
    with progress(total=len(found), unit="photo", desc="photos") as bar:
        names, unusable = check_photos(work.source, found, lambda done, total: bar.update(done - bar.n))
    check_enough(work.source, names, [*unusable, *left_out])
    with progress(total=len(names), unit="photo", desc="copies and links") as bar:
        stems = rig_stems(rigs_of(work.settings.rig, names), names) if work.settings.rig else ()
        staged = stage(work.source, names, work.images, lambda done, total: bar.update(done - bar.n), stems)
    check_formats([photo.staged for photo in staged] if work.settings.rig else [])
    save_stage(work.folder / "photos.json", staged, [*left_out, *unusable])


def _rigs(work: Work) -> None:
    """Cameras that are mounted together."""
    bind_rigs(work, rigs_of(work.settings.rig, [photo.name for photo in staged_photos(work)]))


def _undistorted(work: Work) -> None:
    """The scene: photos as a pinhole would have taken them, and their cameras."""
    temporary = work.folder / "undistorted"
    for folder in (temporary, work.out / "images", work.out / "sparse"):
        shutil.rmtree(folder, ignore_errors=True)
    images = pycolmap.Reconstruction(work.model).num_reg_images()
    work.call(
        pycolmap.undistort_images, temporary, work.model, work.images, jpeg_quality=JPEG_QUALITY,
        num_threads=work.threads,
        count=lambda: sum(path.is_file() for path in (temporary / "images").rglob("*")), total=images, unit="image",
    )  # fmt: skip
    photos = {photo.staged: photo for photo in load_stage(work.folder / "photos.json")[0]}
    model = pycolmap.Reconstruction(temporary / "sparse")
    placed = [photos[image.name] for image in model.images.values() if image.has_pose]
    with progress(total=len(placed), unit="image", desc="renaming") as bar:
        map_threads(
            lambda photo: _into_scene(photo, temporary / "images", temporary / "named"), placed,
            progress=lambda done, total: bar.update(done - bar.n),
        )  # fmt: skip
    for image in model.images.values():
        image.name = photos[image.name].scene
    (temporary / "0").mkdir()
    model.write(temporary / "0")
    (work.out / "sparse").mkdir()
    (temporary / "0").rename(work.out / "sparse" / "0")
    (temporary / "named").rename(work.out / "images")
    shutil.rmtree(temporary)


def _into_scene(photo: Staged, undistorted: Path, target: Path) -> None:
    """An undistorted image under the name that it has in the scene."""
    source, path = undistorted / photo.staged, target / photo.scene
    if not source.is_file():
        raise DataError(f"{photo.name}: is no longer where it was; put it there and repeat the command")
    path.parent.mkdir(parents=True, exist_ok=True)
    if photo.converted:
        with Image.open(source, formats=["PNG"]) as image:
            image.save(path, format="JPEG", quality=JPEG_QUALITY)
    else:
        source.rename(path)


STAGES = {
    "frames": _frames, "photos": _photos, "features": find_features, "matches": find_matches,
    "cameras": find_cameras, "rigs": _rigs, "intrinsics": find_intrinsics, "retries": place_left_out,
    "undistorted": _undistorted,
}  # fmt: skip
"""In this order; frames: of a video; rigs: where there are some."""

"""Photos or a video in, a scene to train on out: structure from motion by COLMAP, through pycolmap.

    python scripts/photos_to_scene.py PHOTOS OUT
    python train.py -s OUT

PHOTOS is a folder (its sub-folders are searched too) or a video. OUT/images gets undistorted photos, OUT/sparse/0 their
cameras and points. OUT/sfm keeps the work: started again after an interruption, it goes on in the stage it was in.
"""

import argparse
import itertools
import json
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import imageio.v2 as imageio
import numpy as np
import pycolmap
from PIL import Image
from tqdm import tqdm

from datasets.errors import DataError
from datasets.imagefile import SUFFIXES, read_size
from distwar_gs.cli import run_cli
from distwar_gs.files import replacing
from scripts.model_agreement import Pair, judged_pairs

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"})
EXHAUSTIVE_UP_TO = 300
"""Photos of which every pair is still compared: 44,850 pairs, about an hour on 2 CPU cores."""
FRAMES_PER_SECOND = 2.0
MOST_FRAMES = 300
ATTEMPTS = 3
"""At cameras that do not contradict the matches."""
MOST_CONTRADICTED = 0.01
"""Share of the pairs of photos; more means that a group of photos is at the wrong place."""
JPEG_QUALITY = 95
_EXIF_OF_A_CAMERA = (0x010F, 0x0110)  # maker, model
_EXIF_IFD, _EXIF_FOCAL_LENGTHS = 0x8769, (0x920A, 0xA405)  # in mm, and in mm of 35 mm film


@dataclass(frozen=True)
class Settings:
    """All that decides the result; a run continues only one with the same."""

    photos: str
    """The folder or video."""
    matching: str
    """Which photos are compared: exhaustive (all pairs) or sequential (neighbours by name)."""
    camera: str
    """COLMAP's camera model, before undistortion."""
    max_size: int
    """Longest side, in pixels, at which features are looked for; larger photos are reduced for that."""
    max_features: int
    """At most so many a photo."""
    frames: int
    """Taken from a video; 0: a folder of photos."""
    number: int
    """Of photos or frames."""


def main(arguments: Sequence[str]) -> None:
    """Go through the stages that are not done yet."""
    args = _parser().parse_args(arguments)
    if not hasattr(pycolmap, "CancellationToken"):
        raise DataError(f"pycolmap {pycolmap.__version__} is too old for this: pip install 'pycolmap>=4.2'")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; COLMAP's own handler can hang
    work = _Work.begun(args.out, _settings(args), args.threads)
    _log_to(work.folder)
    for stage in STAGES if work.settings.frames else STAGES[1:]:
        work.once(stage)
    print(_report(work))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a folder of photos, or a video")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the scene")
    parser.add_argument("--matching", choices=("auto", "exhaustive", "sequential"), default="auto",
                        help=f"compare all pairs, or neighbours by name; auto: all pairs of up to {EXHAUSTIVE_UP_TO} "
                        "photos, neighbours in a video or among more")  # fmt: skip
    parser.add_argument("--camera", default="OPENCV", help="COLMAP camera model of the lens (default: %(default)s)")
    parser.add_argument("--max_size", type=int, default=1600,
                        help="longest side at which features are looked for (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max_features", type=int, default=8192, help="a photo (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="of a video: the sharpest of each of so many equal spans "
                        f"(default: {FRAMES_PER_SECOND:g} a second, at most {MOST_FRAMES})")  # fmt: skip
    parser.add_argument("--threads", type=int, default=-1, help="CPU threads (default: all)")
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    """What the arguments ask for, with `auto` resolved. DataError for what cannot be used."""
    if not args.photos.exists():
        raise DataError(f"{args.photos}: no such folder or video")
    if args.camera not in pycolmap.CameraModelId.__members__:
        known = ", ".join(name for name in pycolmap.CameraModelId.__members__ if name != "INVALID")
        raise DataError(f"--camera {args.camera}: unknown to COLMAP; use one of {known}")
    if min(args.max_size, args.max_features) < 1 or (args.frames is not None and args.frames < 2):
        raise DataError("--max_size and --max_features must be positive, --frames at least 2")
    frames = 0 if args.photos.is_dir() else args.frames or _default_frames(args.photos)
    number, matching = frames or len(_photos(args.photos)), args.matching
    if matching == "auto":
        matching = "sequential" if frames or number > EXHAUSTIVE_UP_TO else "exhaustive"
    photos = str(args.photos.resolve())
    return Settings(photos, matching, args.camera, args.max_size, args.max_features, frames, number)


def _log_to(folder: Path) -> None:
    """COLMAP's messages go to OUT/sfm/colmap.log*, not over the progress bars."""
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.stderrthreshold = pycolmap.logging.Level.FATAL.value
    pycolmap.logging.set_log_destination(pycolmap.logging.Level.INFO, folder / "colmap.log.")


# ------------------------------------------------------------------------------------------------- stages and state


@dataclass
class _Work:
    """A run: its folder, its settings, and which stages are done (OUT/sfm/state.json)."""

    out: Path
    settings: Settings
    threads: int
    done: dict[str, float] = field(default_factory=dict)
    """Stages and the seconds they took."""
    notes: dict[str, int] = field(default_factory=dict)
    """For the report."""

    @classmethod
    def begun(cls, out: Path, settings: Settings, threads: int) -> "_Work":
        """A new run, or the one that `out` holds. DataError if that one had other settings, or is something else."""
        work = cls(out, settings, threads)
        if work._state.is_file():
            saved = _read_state(work._state)
            _check_equal(out, saved["settings"], settings)
            work.done, work.notes = saved["done"], saved["notes"]
            print(f"{out}: going on after {', '.join(work.done) or 'the start'}")
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: exists and was not begun by this program; choose another folder, or empty it")
        work._save()
        return work

    @property
    def folder(self) -> Path:
        """Intermediate files."""
        return self.out / "sfm"

    @property
    def database(self) -> Path:
        """COLMAP's: cameras, features, matches."""
        return self.folder / "database.db"

    @property
    def model(self) -> Path:
        """Cameras and points, of the photos as they were taken."""
        return self.folder / "model"

    @property
    def images(self) -> Path:
        """Where the photos are read from."""
        return self.folder / "frames" if self.settings.frames else Path(self.settings.photos)

    def once(self, stage: Callable[["_Work"], None]) -> None:
        """Run a stage unless it is done."""
        name = stage.__name__.strip("_")
        if name in self.done:
            return
        start = time.monotonic()
        print(f"{name} ...", flush=True)
        try:
            stage(self)
        except (RuntimeError, ValueError) as error:  # what pycolmap raises
            if isinstance(error, DataError):
                raise
            raise DataError(f"COLMAP failed while it did {name}: {str(error).strip().splitlines()[0]}") from error
        self.done[name] = round(time.monotonic() - start, 1)
        self._save()
        print(f"{name}: {self.done[name]:.0f} s", flush=True)

    def call(
        self, function: Callable, *args: object, count: Callable[[], int], total: int, unit: str, **kwargs: object
    ) -> None:
        """One of pycolmap's long calls, on a thread of its own, while a bar shows `count()`; Ctrl-C cancels it."""
        token = pycolmap.CancellationToken()
        with ThreadPoolExecutor(1) as pool, tqdm(total=total, unit=unit, desc=unit + "s", disable=None) as bar:
            future = pool.submit(function, *args, cancellation_token=token, **kwargs)
            try:
                while wait([future], timeout=0.5).not_done:
                    bar.update(min(count(), total) - bar.n)
            except KeyboardInterrupt:
                token.cancel()
                raise
            future.result()
            bar.update(total - bar.n)

    def watched(self) -> pycolmap.Database:
        """The database, to look into while COLMAP writes it: opened before COLMAP does, since two that open it at once
        can lock each other out.

        Through pycolmap: a second copy of SQLite in one process, as Python's, undoes the first one's locks
        (sqlite.org/howtocorrupt.html, 2.2.1).
        """
        return pycolmap.Database.open(self.database)

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def _save(self) -> None:
        with replacing(self._state) as temporary:
            state = {"settings": asdict(self.settings), "done": self.done, "notes": self.notes}
            temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def _read_state(file: Path) -> dict[str, dict]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        sound = all(isinstance(state[part], dict) for part in ("settings", "done", "notes"))
    except (ValueError, TypeError, LookupError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{file}: is damaged; delete {file.parents[1]} and begin again, or choose another folder")
    return state


def _check_equal(out: Path, saved: dict[str, object], asked: Settings) -> None:
    for name, now in asdict(asked).items():
        if saved.get(name) != now:
            remedy = "repeat it with the same, or choose another folder"
            raise DataError(f"{out}: was begun with {name} {saved.get(name)}, not {now}; {remedy}")


def _frames(work: _Work) -> None:
    """A video becomes a folder of photos; nothing to do for photos."""
    if work.settings.frames:
        extract_frames(Path(work.settings.photos), work.images, work.settings.frames)


def _features(work: _Work) -> None:
    """Cameras and local features of every photo; those that an interrupted run has found are kept."""
    names = _photos(work.images)
    for group in _by_camera(work.images, names).values():
        _add_camera(work, group)
    options = pycolmap.FeatureExtractionOptions(num_threads=work.threads, max_image_size=work.settings.max_size)
    options.sift.max_num_features = work.settings.max_features
    with work.watched() as database:
        work.call(
            pycolmap.extract_features, work.database, work.images, names, extraction_options=options,
            count=lambda: _photos_with_features(database), total=len(names), unit="photo",
        )  # fmt: skip


def _add_camera(work: _Work, names: Sequence[str]) -> None:
    """Enters photos into the database, all with one camera: that of those which an interrupted run has entered."""
    with pycolmap.Database.open(work.database) as database:
        entered = {image.name: image.camera_id for image in database.read_all_images()}
    cameras = [entered[name] for name in names if name in entered]
    reader = pycolmap.ImageReaderOptions(camera_model=work.settings.camera)
    if cameras:
        reader.existing_camera_id = cameras[0]
    if new := [name for name in names if name not in entered]:
        pycolmap.import_images(work.database, work.images, pycolmap.CameraMode.SINGLE, new, reader)


def _photos_with_features(database: pycolmap.Database) -> int:
    return sum(database.exists_descriptors(image.image_id) for image in database.read_all_images())


def _matches(work: _Work) -> None:
    """Which features of two photos are the same point; pairs that an interrupted run has compared are kept."""
    names = _photos(work.images)
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


def _cameras(work: _Work) -> None:
    """Poses and points, one photo after the other; starts over when interrupted.

    A model that its own matches contradict is made again, beginning with the pair of photos that contradicts it most;
    the better one is kept.
    """
    shutil.rmtree(work.folder / "models", ignore_errors=True)
    best, tried = None, [None]
    while True:
        found = _mapped(work, work.folder / "models" / str(len(tried)), tried[-1])
        best = max(filter(None, (best, found)), key=lambda model: model.rank, default=None)
        beginnings = [pair for pair in best.contradicted if pair.image_ids not in tried] if best and best.wrong else []
        if not beginnings or len(tried) == ATTEMPTS:
            break
        print(f"{len(best.contradicted)} of {best.pairs} pairs of photos contradict the model: another try", flush=True)
        tried.append(max(beginnings, key=lambda pair: pair.matches).image_ids)
    if not best:
        raise DataError(
            f"{work.settings.photos}: no two photos could be placed relative to each other; take more of them, with "
            "more overlap and texture, sharp, from different places (not turning on the spot)"
        )
    shutil.rmtree(work.model, ignore_errors=True)
    best.folder.rename(work.model)
    work.notes = {"parts": best.parts, "pairs": best.pairs, "contradicted_pairs": len(best.contradicted)}


@dataclass(frozen=True)
class _Model:
    """What one attempt has made: its largest model."""

    folder: Path
    parts: int
    """Models that the photos fell into."""
    images: int
    pairs: int
    """That were judged (scripts/model_agreement.py)."""
    contradicted: list[Pair]

    @property
    def wrong(self) -> bool:
        """Whether some photos seem to be at the wrong place."""
        return len(self.contradicted) > MOST_CONTRADICTED * self.pairs

    @property
    def rank(self) -> tuple[int, int]:
        """More photos are better, then fewer contradictions."""
        return self.images, -len(self.contradicted)


def _mapped(work: _Work, folder: Path, first: tuple[int, int] | None) -> _Model | None:
    """One attempt of incremental mapping, from COLMAP's own choice of a first pair or from the given one."""
    folder.mkdir(parents=True)
    options = pycolmap.IncrementalPipelineOptions(num_threads=work.threads, random_seed=0)
    if first:
        options.init_image_id1, options.init_image_id2 = first
        options.mapper.init_min_tri_angle = 4.0  # degrees, instead of 16: this pair it must be
    placed = itertools.count(2)  # the first pair, then one at a time
    latest = [0]

    def one_more() -> None:
        latest[0] = next(placed)

    work.call(
        pycolmap.incremental_mapping, work.database, work.images, folder, options, next_image_callback=one_more,
        count=lambda: latest[0], total=len(_photos(work.images)), unit="camera",
    )  # fmt: skip
    models = {path: pycolmap.Reconstruction(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not models:
        return None
    largest = max(models, key=lambda path: models[path].num_reg_images())
    with pycolmap.Database.open(work.database) as database:
        pairs = judged_pairs(database, models[largest])
    contradicted = [pair for pair in pairs if pair.contradicted]
    return _Model(largest, len(models), models[largest].num_reg_images(), len(pairs), contradicted)


def _undistorted(work: _Work) -> None:
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
    (work.out / "sparse").mkdir()
    (temporary / "sparse").rename(work.out / "sparse" / "0")
    (temporary / "images").rename(work.out / "images")
    shutil.rmtree(temporary)


STAGES = (_frames, _features, _matches, _cameras, _undistorted)


# ----------------------------------------------------------------------------------------------------------- photos


def _photos(folder: Path) -> list[str]:
    """Relative paths of the photos, sorted. DataError if there are none, or fewer than three."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
    names = [path.relative_to(folder).as_posix() for path in files]
    if len(names) < 3:
        others = sorted({path.suffix for path in folder.rglob("*") if path.suffix} - SUFFIXES)
        found = f"; it also holds {', '.join(others)} files, convert photos among them to JPEG" if others else ""
        raise DataError(f"{folder}: {len(names)} photos ({', '.join(sorted(SUFFIXES))}), at least 3 are needed{found}")
    if spaced := next((name for name in names if " " in name or name.startswith("#")), None):
        raise DataError(f"{folder / spaced}: COLMAP's list of pairs has no room for a space or a leading #; rename it")
    return names


def _by_camera(folder: Path, names: Sequence[str]) -> dict[tuple, list[str]]:
    """The photos that share one camera: equal folder, size, and by their EXIF equal device and focal length."""
    groups = defaultdict(list)
    for name in names:
        groups[str(Path(name).parent), read_size(folder / name), _exif_camera(folder / name)].append(name)
    return groups


def _exif_camera(path: Path) -> tuple[str, ...]:
    with Image.open(path) as image:
        exif = image.getexif()
    lens = exif.get_ifd(_EXIF_IFD)
    return tuple(str(tags.get(tag)) for tags, keys in ((exif, _EXIF_OF_A_CAMERA), (lens, _EXIF_FOCAL_LENGTHS))
                 for tag in keys)  # fmt: skip


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


# ------------------------------------------------------------------------------------------------------------ video


def _default_frames(video: Path) -> int:
    with _opened(video) as reader:
        seconds = reader.get_meta_data()["duration"]
    return max(2, min(MOST_FRAMES, round(FRAMES_PER_SECOND * seconds)))


def _opened(video: Path) -> "imageio.core.format.Format.Reader":
    """A reader of the video's frames. DataError for a file that is none, or without ffmpeg."""
    if video.suffix.lower() not in VIDEO_SUFFIXES:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DataError(f"{video}: neither a folder of photos nor a video ({known})")
    if find_spec("imageio_ffmpeg") is None:
        raise DataError(f"{video}: reading videos needs ffmpeg: pip install imageio-ffmpeg")
    try:
        return imageio.get_reader(video, format="FFMPEG")
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{video}: cannot be read as a video ({str(error).strip().splitlines()[0]})") from error


def extract_frames(video: Path, folder: Path, count: int) -> None:
    """Writes the sharpest frame of each of `count` equal spans of the video as JPEG; the folder appears when whole."""
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with _opened(video) as reader:
        total = reader.count_frames()
        if total < count:
            raise DataError(f"{video}: has {total} frames, {count} were asked for; use a smaller --frames")
        frames = tqdm(reader, total=total, unit="frame", desc="frames", disable=None)
        for index, frame in sharpest(frames, total, count):
            Image.fromarray(frame).save(temporary / f"frame_{index:06d}.jpg", quality=JPEG_QUALITY)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def sharpest(frames: Iterator[np.ndarray], total: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index, frame) of the sharpest frame in each of `count` equal spans of `total` frames [H, W, 3] uint8."""
    for _, span in itertools.groupby(enumerate(frames), key=lambda item: min(item[0], total - 1) * count // total):
        yield max(span, key=lambda item: sharpness(item[1]))


def sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian of the green channel: small for a frame that motion or focus has blurred."""
    green = frame[..., 1].astype(np.float32)
    middle = green[1:-1, 1:-1]
    return float(np.var(green[1:-1, :-2] + green[1:-1, 2:] + green[:-2, 1:-1] + green[2:, 1:-1] - 4.0 * middle))


# ----------------------------------------------------------------------------------------------------------- result


def _report(work: _Work) -> str:
    """What was placed and what was not; also written to OUT/sfm/report.json."""
    model, names = pycolmap.Reconstruction(work.model), _photos(work.images)
    placed = {image.name for image in model.images.values() if image.has_pose}
    left_out = [name for name in names if name not in placed]
    numbers = {
        "photos": len(names), "registered": len(placed), "left_out": left_out, "points": model.num_points3D(),
        "reprojection_error_px": round(model.compute_mean_reprojection_error(), 3), **work.notes,
        "seconds": work.done,
    }  # fmt: skip
    (work.folder / "report.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    lines = [f"{len(placed)} of {len(names)} photos registered, {numbers['points']:,} points, reprojection error "
             f"{numbers['reprojection_error_px']:.2f} px, {sum(work.done.values()):.0f} s"]  # fmt: skip
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        parts = work.notes["parts"]
        why = (
            f"the photos fell into {parts} parts: add photos between them" if parts > 1 else "blurred, without texture?"
        )
        lines.append(f"left out: {shown} ({why})")
    if work.notes["contradicted_pairs"] > MOST_CONTRADICTED * work.notes["pairs"]:
        lines.append(
            f"warning: {work.notes['contradicted_pairs']} of {work.notes['pairs']} pairs of photos contradict the "
            "model, some photos may be at the wrong place: add photos between them and the others"
        )
    return "\n".join([*lines, f"next: python train.py -s {work.out}"])


if __name__ == "__main__":
    run_cli(main)

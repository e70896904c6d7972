"""What came of a structure-from-motion run, in lines for people and in numbers (OUT/sfm/report.json)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pycolmap

from distwar_gs.capture.camera_models import oddities
from distwar_gs.capture.left_out import explained
from distwar_gs.capture.mapping import MOST_CONTRADICTED
from distwar_gs.capture.staging import load_stage
from distwar_gs.capture.work import AUTO, Work
from distwar_gs.system.files import replacing

MOST_LINES = 50
"""Of one kind that are shown; report.json has all."""


@dataclass(frozen=True)
class Report:
    """What was placed and what was not."""

    numbers: dict[str, object]
    """As in report.json."""
    lines: list[str]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def report_of(work: Work) -> Report:
    """The report of a run whose stages are done; also written to OUT/sfm/report.json."""
    model = pycolmap.Reconstruction(work.model)
    photos, unusable = load_stage(work.folder / "photos.json")
    with pycolmap.Database.open(work.database) as database:
        not_placed = explained(database, model, photos, work.notes.get("retries", []))
    left_out, odd = [*unusable, *not_placed], _odd_lenses(model)
    numbers = {
        "photos": len(photos), "registered": model.num_reg_images(), "left_out": [each.name for each in left_out],
        "reasons": {each.name: each.reason for each in left_out}, "points": model.num_points3D(),
        "reprojection_error_px": round(model.compute_mean_reprojection_error(), 3), "cameras": _cameras(model),
        "implausible": odd, **work.notes, "seconds": work.done,
    }  # fmt: skip
    with replacing(work.folder / "report.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    summary = (
        f"{model.num_reg_images()} of {len(photos)} photos registered, {numbers['points']:,} points, reprojection "
        f"error {numbers['reprojection_error_px']:.2f} px, {sum(work.done.values()):.0f} s"
    )
    lines = [
        summary,
        *_rig_lines(work),
        *_lens_lines(work, model),
        *_some([str(each) for each in left_out], "left out"),
    ]
    lines += _some([f"warning: {line}" for line in _warnings(work, odd)], "warnings")
    return Report(numbers, [*lines, f"next: python train.py -s {work.out}"])


def _rig_lines(work: Work) -> list[str]:
    """Which cameras are mounted together."""
    rigs = work.notes.get("rigs", [])
    return [f"rig of {', '.join(each['cameras'])}: placed at {each['moments']} moments" for each in rigs]


def _cameras(model: pycolmap.Reconstruction) -> list[dict[str, object]]:
    counts = _photos_of(model)
    return [
        {"camera": number, "photos": counts[number], "model": camera.model_name,
         "size": [camera.width, camera.height], "parameters": dict(zip(_names(camera), camera.params, strict=True))}
        for number, camera in sorted(model.cameras.items()) if number in counts
    ]  # fmt: skip


def _names(camera: pycolmap.Camera) -> list[str]:
    """Of the parameters."""
    return [name.strip() for name in camera.params_info.split(",")] if camera.params_info else []


def _photos_of(model: pycolmap.Reconstruction) -> dict[int, int]:
    """Placed photos of each camera."""
    counts: dict[int, int] = {}
    for image in model.images.values():
        if image.has_pose:
            counts[image.camera_id] = counts.get(image.camera_id, 0) + 1
    return counts


def _lens_lines(work: Work, model: pycolmap.Reconstruction) -> list[str]:
    """Which lens models were chosen, and why; cameras with too few photos for a choice together."""
    lenses = work.notes.get("lenses", [])
    kept = [each for each in lenses if each["kept"]]
    lines = [
        f"lens of {_described(model, each['camera'])}: {model.cameras[each['camera']].model_name}"
        f"{' + principal point' if each['principal_point_free'] else ''}, {each['reason']}"
        for each in lenses
        if not each["kept"] or len(kept) == 1
    ]
    if len(kept) > 1:
        names = sorted({model.cameras[each["camera"]].model_name for each in kept})
        lines.append(
            f"lenses of {len(kept)} cameras with few photos ({sum(each['photos'] for each in kept)} in all): "
            f"{', '.join(names)}, kept: too few of each share points to judge a lens by"
        )
    return _some(lines, "lenses")


def _described(model: pycolmap.Reconstruction, number: int) -> str:
    camera, count = model.cameras[number], _photos_of(model).get(number, 0)
    return f"camera {number} ({count} photos of {camera.width}x{camera.height})"


def _odd_lenses(model: pycolmap.Reconstruction) -> list[str]:
    """Cameras with implausible intrinsics, and what is."""
    odd = {number: oddities(model.cameras[number]) for number in sorted(_photos_of(model))}
    return [f"{_described(model, number)}: {', '.join(each.values())}" for number, each in odd.items() if each]


def _some(lines: Sequence[str], what: str) -> list[str]:
    """At most MOST_LINES lines, and how many more there are."""
    more = [f"{what}: {len(lines) - MOST_LINES} more lines in sfm/report.json"] if len(lines) > MOST_LINES else []
    return [*lines[:MOST_LINES], *more]


def _warnings(work: Work, odd: Sequence[str]) -> list[str]:
    remedy = (
        "were the photos cropped or stretched? else take more, from other heights and turned"
        if work.settings.camera == AUTO
        else f"--camera {AUTO} frees fewer parameters"
    )
    found = [f"implausible intrinsics of {each}; {remedy}" for each in odd]
    if work.notes["contradicted_pairs"] > MOST_CONTRADICTED * work.notes["pairs"]:
        found.append(
            f"{work.notes['contradicted_pairs']} of {work.notes['pairs']} pairs of photos contradict the model, some "
            "photos may be at the wrong place: add photos between them and the others"
        )
    if work.notes["parts"] > 1:
        found.append(f"the photos fell into {work.notes['parts']} parts, this is the largest: add photos between them")
    return found

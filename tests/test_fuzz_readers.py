"""Readers under broken files: dozens of each, what fuzzing has found before, and that a crash is seen at all."""

import io
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from stress.fuzz_inputs import READERS, Reader, cases
from stress.fuzz_readers import HANG_SECONDS, Tally, fuzz, table

EXECUTIONS = 75


@pytest.fixture(scope="module", autouse=True)
def hypothesis_is_warm(tmp_path_factory):
    """What it imports and computes at its first cases takes a second, in each process that has not inherited it."""
    reader = READERS["config"]
    whole = [path.read_bytes() for path in reader.prepare(tmp_path_factory.mktemp("warm") / "input")]

    @settings(max_examples=20, database=None, deadline=None, phases=[Phase.generate])
    @given(cases(reader, whole))
    def draw(case):
        assert len(case) == 2

    draw()


@pytest.mark.parametrize("name", READERS)
def test_no_reader_crashes(name, tmp_path):
    tally = fuzz(READERS[name], 0, seconds=60, executions=EXECUTIONS, keep=tmp_path)
    assert not tally.crashes, f"{tally.crashes}; the inputs are in {tmp_path}"
    assert tally.executions >= 20  # all of them, but where the machine is busy
    assert (tally.read if name == "metrics" else tally.refused) > 0


@pytest.mark.parametrize("name", READERS)
def test_whole_inputs_are_read(name, tmp_path):
    reader = READERS[name]
    for path in reader.prepare(tmp_path / "input"):
        reader.read(tmp_path / "input", path)


# ---------------------------------------------------------------------------------------------- what fuzzing found


Edit = Callable[[bytes], bytes]


def put(at: int, piece: bytes) -> Edit:
    return lambda data: data[:at] + piece + data[at + len(piece) :]


def swap(old: bytes, new: bytes) -> Edit:
    def edit(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return edit


def content(text: str) -> Edit:
    return lambda data: text.encode()


def part(name: str, value: object) -> Edit:
    """A checkpoint with another value at "a.b"."""

    def edit(data: bytes) -> bytes:
        tree = torch.load(io.BytesIO(data), weights_only=True)
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node[key]
        node[last] = value
        file = io.BytesIO()
        torch.save(tree, file)
        return file.getvalue()

    return edit


HUGE = struct.pack("<Q", 2**63 - 1)
NO_PROPERTIES = "ply\nformat binary_little_endian 1.0\nelement vertex 4\nend_header\n1234"
FOUND = {
    # pycolmap ran for minutes on a count that bytes of another record had become
    "colmap_binary: frames inserted": ("frames.bin", lambda data: data[:46] + b"acTL" + data[46:], "is cut short"),
    "colmap_binary: rigs of 2^32": ("rigs.bin", put(12, b"\xff" * 4), "rigs.bin: is cut short"),
    "colmap_binary: track of 2^63": ("points3D.bin", put(51, HUGE), "points3D.bin: is cut short"),
    "colmap_binary: cameras of 2^63": ("cameras.bin", put(0, HUGE), "cameras.bin: is cut short"),
    "colmap_binary: camera model 99": ("cameras.bin", put(12, b"\x63"), "cameras.bin: camera model 99 is unknown"),
    "colmap_binary: a name in Latin-1": ("images.bin", swap(b"c.png", b"\xe9.png"), "name of image 3 is not UTF-8"),
    "colmap_text: a name in Latin-1": ("images.txt", swap(b"c.png", b"\xe9.png"), "name of image 3 is not UTF-8"),
    "colmap_text: no name": ("images.txt", swap(b"c.png", b"."), "1 of 4 images are missing: ."),
    # numpy divides by the bytes of a row: SIGFPE
    "point_cloud: no properties": ("points.ply", content(NO_PROPERTIES), "element vertex has no columns"),
    "gaussians: no columns": ("model.ply", content(NO_PROPERTIES), "element vertex has no columns"),
    "gaussians: no PLY": ("model.ply", content("404: not found"), "not a readable PLY file (no header from `ply`"),
    "gaussians: 4 G rows": ("model.ply", swap(b"vertex 4", b"vertex 4000000000"), "promises 4000000000 rows"),
    "gaussians: two columns x": ("model.ply", swap(b"float y", b"float x"), "column x comes twice"),
    "gaussians: -1 rows": ("text.ply", swap(b"vertex 4", b"vertex -1"), "not a readable PLY"),
    "transforms: a width of 10^400": ("transforms.json", swap(b'"w": 24', b'"w": 1' + b"0" * 400), "not a number"),
    "transforms: a width of -1": ("transforms.json", swap(b'"w": 24', b'"w": -1'), "`w` is -1, not a number of pixels"),
    "transforms: a width of 10^30": ("transforms.json", swap(b'"w": 24', b'"w": 1e30'), "not a number of pixels"),
    "transforms: brackets": ("transforms.json", content('{"frames": ' + "[" * 100_000), "not readable as JSON"),
    "results: cut short": ("metrics.json", lambda data: data[:99], "is not a list of metrics; delete its folder"),
    "results: a dictionary": ("metrics.json", content('{"step": 1}'), "is not a list of metrics"),
    "config: digits": ("config.yaml", content("train: {seed: " + "9" * 5000 + "}"), "is no int; correct it there"),
    "config: no date": ("config.yaml", content("train: {seed: 2001-99-99}"), "at line 1: '2001-99-99' is no timestamp"),
    "config: no truth": ("config.yaml", content("a: !!bool x"), "at line 1: 'x' is no bool"),
    "config: brackets": ("config.yaml", content("[" * 3000), "nested too deeply"),
    "config: a surrogate": ("config.yaml", content('base: "\\ud800"'), "expected the path of a YAML file"),
    "config: NUL": ("config.yaml", content('base: "\\0"'), "expected the path of a YAML file"),
    "checkpoint: step": ("step_1.pt", part("step", "x"), "step is damaged, or does not fit"),
    "checkpoint: 10^400 seconds": ("step_1.pt", part("parts.clock", {"elapsed_seconds": 10**400}), "clock is damaged"),
    "checkpoint: a text of 1.5 GB": ("step_1.pt", content("XZZZZ"), "no checkpoint at all (ValueError not an archive"),
    "checkpoint: version": ("step_1.pt", part("format_version", torch.zeros(3)), "this program reads"),
    "checkpoint: format": ("step_1.pt", part("format", torch.zeros(1).expand(2**40)), "not a checkpoint of distwar-gs"),
    "checkpoint: quats": ("step_1.pt", part("parts.params.quats", torch.zeros(4, 3)), "params is damaged"),
    "checkpoint: endless": ("step_1.pt", part("parts.params.sh0", torch.zeros(1).expand(4, 1, 3)), "params is damaged"),
    "checkpoint: moments": ("step_1.pt", part("parts.optimizers.means.state", {0: [1]}), "optimizers is damaged"),
    "checkpoint: no step": ("step_1.pt", part("parts.optimizers.means.state", {0: {}}), "optimizers is damaged"),
    "checkpoint: statistics": ("step_1.pt", part("parts.densification", []), "densification is damaged"),
    "checkpoint: generator": ("step_1.pt", part("parts.rng.torch", torch.zeros(2).byte()), "rng is damaged"),
    "checkpoint: views": ("step_1.pt", part("parts.sampler.order", [0, 3]), "sampler is damaged"),
    "checkpoint: scene": ("step_1.pt", part("scene", [1]), "scene is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_found_by_fuzzing(case, tmp_path):
    file, edit, words = FOUND[case]
    reader = READERS[case.partition(":")[0]]
    path = next(path for path in reader.prepare(tmp_path / "input") if path.name == file)
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(reader.errors) as caught:
        reader.read(tmp_path / "input", path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_list_named_over_and_over_is_not_printed_in_full(tmp_path):
    """Seven lines of YAML that name 9^7 numbers."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 8)]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "train: *a7"]))
    (tmp_path / "seed.yaml").write_text("\n".join([*lines, "train: {seed: *a7}"]))
    with pytest.raises(READERS["config"].errors, match=r"config\.yaml: unknown key a0") as caught:
        READERS["config"].read(tmp_path, tmp_path / "config.yaml")
    assert len(str(caught.value)) < 500


# ------------------------------------------------------------------------------------------- that a crash is seen


class OwnError(ValueError):
    """What the readers below may raise."""


def write_number(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    (folder / "number").write_bytes(b"7")
    return [folder / "number"]


def fails_with(action: Callable[[Path], object]) -> Reader:
    """A reader that is sound for the whole file only."""

    def read(folder: Path, path: Path) -> None:
        if path.read_bytes() != b"7":
            action(path)

    return Reader("broken", (OwnError,), write_number, read, memory=2**28)


def unnamed(path: Path) -> None:
    raise OwnError("something is wrong")


def named(path: Path) -> None:
    raise OwnError(f"{path}: is no number")


def hides_memory(path: Path) -> None:
    try:
        np.ones(2**29, np.uint8)
    except MemoryError as error:
        raise OwnError(f"{path}: is no number") from error


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda path: {}[0], "KeyError in test_fuzz_readers.py"),
        (lambda path: np.ones(2**29, np.uint8), "MemoryError"),
        (hides_memory, "memory used up"),
        (unnamed, "names no file"),
        (lambda path: os.abort(), "dead process, exit code -6"),
    ],
)
def test_crashes_are_seen_and_their_inputs_kept(tmp_path, action, words):
    tally = fuzz(fails_with(action), 0, executions=5, keep=tmp_path)
    assert any(words in crash for crash in tally.crashes), tally.crashes
    (kept,) = tmp_path.iterdir()
    assert (kept / "number").read_bytes() != b"7" and words in (kept / "crash.txt").read_text()


def test_a_hang_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("stress.fuzz_readers.HANG_SECONDS", 0.3)
    tally = fuzz(fails_with(lambda path: time.sleep(60)), 0, executions=1)
    assert HANG_SECONDS == 10 and any("Timeout" in crash for crash in tally.crashes)


def test_refusals_are_counted_by_kind_and_the_seed_decides():
    tallies = [fuzz(fails_with(named), seed, executions=50) for seed in (1, 1, 2)]
    assert tallies[0] == tallies[1]
    assert tallies[0].refused > 10 and tallies[0].messages == {"DIR/number: is no number"}
    assert not tallies[0].crashes


def test_the_table():
    tally = Tally(read=2, refused=1200, messages={"a", "b"})
    tally.crashes["KeyError"] += 3
    assert table({"config": tally}).splitlines()[-1] == "| config | 1,205 | 2 | 1,200 | 2 | 3 |"

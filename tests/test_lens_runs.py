"""Trainings of the ray-traced room through lenses, to pictures that are like the held-out photos."""

import json

import pytest
from demo_runs import run_program

RUN = ("--device", "cpu", "--iterations", 60, "--quiet", "--no_report", "--test_every", 4, "--set",
       "log.tensorboard=false", "optim.means_lr_steps=60", "model.sh_degree_interval=60")  # fmt: skip
SIZES = {"OPENCV": (48, 36), "OPENCV_FISHEYE": (64, 48), "EQUIRECTANGULAR": (80, 40)}


@pytest.mark.parametrize(
    "lens", ["OPENCV_FISHEYE", *(pytest.param(name, marks=pytest.mark.slow) for name in ("OPENCV", "EQUIRECTANGULAR"))]
)
def test_a_room_is_learnt_through_a_lens(lens, tmp_path):
    """60 steps; a picture of the photos' mean color has 16.3 to 17.5 dB, the first Gaussians 10 to 12."""
    width, height = SIZES[lens]
    made = ("--views", 8, "--width", width, "--height", height, "--lens", lens)
    assert run_program("scripts/make_demo_scene.py", tmp_path / "scene", *made).returncode == 0
    result = run_program("train.py", "-s", tmp_path / "scene", "-m", tmp_path / "run", *RUN)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "run/metrics.json").read_text())[-1]
    assert record["psnr"] > 18.5
    cameras = json.loads((tmp_path / "run/cameras.json").read_text())
    assert cameras[0]["lens"] == {"OPENCV": "opencv", "OPENCV_FISHEYE": "fisheye"}.get(lens, "equirectangular")

"""The machine check: its verdicts on machines that lack something, and on this one."""

import hashlib
import subprocess
import sys

import pytest
import torch
from scripts_as_modules import imported_script, script_path

SCRIPT = script_path("doctor")


@pytest.fixture(scope="module")
def doctor():
    with imported_script("doctor") as module:
        yield module


def test_this_machine(doctor, tmp_path):
    """From any folder; where the tests run with all requirements, training must be possible."""
    packages = doctor._packages((SCRIPT.parents[1] / "requirements.txt").read_text(encoding="utf-8"))
    missing = [finding.name for finding in packages if "cpu" in finding.blocks]
    if missing:
        pytest.skip(f"requirements not met: {', '.join(missing)}")
    result = subprocess.run(
        [sys.executable, SCRIPT, "--build"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "cpu smoke test     passed" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("verdict: can train on cpu")


def test_no_compiler_is_the_end(doctor, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert doctor.main([]) == 1
    output = capsys.readouterr().out
    assert "--device cpu: no. C++ compiler: no no-such-compiler. Remedy: install g++" in output
    assert "verdict: cannot train" in output


def test_a_compiler_that_fails(doctor, monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: omp.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    finding = doctor._compiler()
    assert "omp.h" in finding.value
    assert finding.blocks == ("cpu", "cuda")


@pytest.mark.parametrize(
    ("line", "blocks"),
    [
        ("no-such-package-of-ours>=1.0", ("cpu", "cuda")),
        ("torch>=99.0", ("cpu", "cuda")),
        ("torch<1.0  # too new", ("cpu", "cuda")),
        ("torch>=1.0,<99", ()),
        ("torch", ()),
    ],
)
def test_packages(doctor, line, blocks):
    (finding,) = doctor._packages(f"# a comment\n\n{line}\n")
    assert finding.blocks == blocks
    assert bool(finding.remedy) == bool(blocks)


def test_gsplat_is_needed_on_cuda_only(doctor, monkeypatch):
    def missing(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", missing)
    assert doctor._package("gsplat", ">=1.5.3").blocks == ("cuda",)


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("2.11.0+cu130", ">=2.7", True),
        ("2.7", ">=2.7.0", True),
        ("2.6.1", ">=2.7", False),
        ("1.6", ">=1.5.3,<1.6", False),
        ("1.10", ">=1.9", True),
    ],
)
def test_version_ranges(doctor, version, wanted, expected):
    assert doctor._satisfies(version, wanted) is expected


def test_the_real_requirements_can_be_read(doctor):
    names = [finding.name for finding in doctor._packages((SCRIPT.parents[1] / "requirements.txt").read_text())]
    assert {"torch", "gsplat", "numpy", "ninja"} <= set(names)


@pytest.mark.parametrize(
    ("driver", "cuda", "remedy"),
    [
        ("", "13.0", "--device cpu"),
        ("535.1", None, "CUDA build of torch"),
        ("535.1", "13.0", "update the driver"),
    ],
)
def test_no_usable_gpu(doctor, monkeypatch, driver, cuda, remedy):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    finding = doctor._device(torch, driver)
    assert remedy in finding.remedy
    assert finding.blocks == ("cuda",)


def fake_nvcc(folder, release):
    program = folder / "bin" / "nvcc"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    program.chmod(0o755)


@pytest.mark.parametrize(("release", "blocks"), [("12.8", ("cuda",)), ("13.1", ())])
def test_nvcc_must_have_the_major_version_of_torch(doctor, monkeypatch, tmp_path, release, blocks):
    fake_nvcc(tmp_path, release)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = doctor._nvcc(torch)
    assert release in finding.value
    assert finding.blocks == blocks


def test_no_nvcc(doctor, monkeypatch):
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "CUDA_HOME" in doctor._nvcc(torch).remedy


def test_torch_that_cannot_be_imported_is_reported(doctor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = list(doctor.examine())[-1]
    assert finding.name == "torch works"
    assert finding.blocks == ("cpu", "cuda")


def test_a_failed_smoke_test_forbids_the_device(doctor, monkeypatch):
    def broken(device):
        raise RuntimeError("wrong numbers")

    monkeypatch.setattr(doctor, "_smoke_test", broken)
    finding = doctor.build("cpu")
    assert "wrong numbers" in finding.value
    lines, code = doctor.verdict([finding])
    assert lines[0].startswith("--device cpu: no")
    assert lines[1] == "--device cuda: yes"
    assert code == 0


@pytest.mark.parametrize(("known", "blocks"), [(5, ("cuda",)), (99, ())])
def test_a_compiler_newer_than_nvcc_knows(doctor, monkeypatch, tmp_path, known, blocks):
    header = tmp_path / "include/crt/host_config.h"
    header.parent.mkdir(parents=True)
    header.write_text(f"#if __GNUC__ > {known}\n#error -- unsupported GNU version!\n#endif\n")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(tmp_path))
    finding = doctor._host_compiler()
    assert finding.blocks == blocks and f"up to {known}" in finding.value
    assert (f"CXX=g++-{known}" in finding.remedy) == bool(blocks)


def disk_with(free_gib):
    return lambda folder: type("Usage", (), {"free": free_gib * 2**30})


def test_little_room_is_told_but_does_not_forbid(doctor, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", disk_with(1.0))
    finding = doctor._disk(tmp_path)
    assert "1.0 GiB" in finding.value and "make room" in finding.remedy and finding.blocks == ()


@pytest.mark.parametrize(
    ("free", "writable", "blocks"), [(9.0, True, ()), (0.1, True, ("cpu",)), (9.0, False, ("cpu",))]
)
def test_where_kernels_are_built(doctor, monkeypatch, tmp_path, free, writable, blocks):
    monkeypatch.setattr(doctor.shutil, "disk_usage", disk_with(free))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: writable)
    finding = doctor._kernel_state("cpu", tmp_path / "not/yet/kernels.so")
    assert finding.blocks == blocks and ("TORCH_EXTENSIONS_DIR" in finding.remedy) == bool(blocks)
    (tmp_path / "kernels.so").touch()
    damaged = doctor._kernel_state("cpu", tmp_path / "kernels.so")
    assert damaged.value.startswith("damaged") and damaged.remedy and damaged.blocks == blocks
    (tmp_path / "kernels.so.sha256").write_text(hashlib.sha256(b"").hexdigest())
    assert doctor._kernel_state("cpu", tmp_path / "kernels.so").value.startswith("built")


def test_kernels_where_others_can_write(doctor, tmp_path):
    (tmp_path / "builds/key").mkdir(parents=True)
    (tmp_path / "builds").chmod(0o777)
    finding = doctor._kernel_state("cpu", tmp_path / "builds/key/kernels.so")
    assert finding.value == f"{tmp_path / 'builds'}: others can write to it" and finding.blocks == ("cpu",)
    assert finding.remedy.startswith(f"chmod go-w {tmp_path / 'builds'}, or set TORCH_EXTENSIONS_DIR")


def test_gsplat_builds(doctor, tmp_path):
    folders = [tmp_path / "gsplat_cuda"]
    assert "not built yet" in doctor._gsplat_state(folders).value
    folders[0].mkdir()
    (folders[0] / "lock").touch()
    left = doctor._gsplat_state(folders)
    assert left.blocks == ("cuda",) and left.remedy.endswith(f"rm {folders[0] / 'lock'}")
    (folders[0] / "gsplat_cuda.so").touch()
    assert doctor._gsplat_state(folders) == doctor.Finding("gsplat kernels", "built")


def test_optional_parts_forbid_nothing(doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    package, lpips = doctor._optional("no-such-package-of-ours>=1.0\n")
    assert package.blocks == lpips.blocks == ()
    assert "requirements-optional.txt" in package.remedy and lpips.remedy == "python scripts/download.py lpips_vgg"


def test_every_remedy_once_and_the_needed_ones_first(doctor):
    findings = [
        doctor.Finding("a", "", "do this"),
        doctor.Finding("b", "fine"),
        doctor.Finding("c", "", "do that", ("cuda",)),
        doctor.Finding("d", "", "do that", ("cpu", "cuda")),
    ]
    needed, optional, empty = doctor.to_do(findings)
    assert needed.split() == ["needed", "for", "cpu", "and", "cuda", "d,", "c:", "do", "that"]
    assert optional.split() == ["optional", "a:", "do", "this"] and empty == ""
    assert doctor.to_do([findings[1]]) == []


@pytest.mark.gpu
def test_cuda_smoke_test(doctor):
    assert doctor.build("cuda").value == "passed"

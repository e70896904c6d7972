"""Checks whether this machine can train, and says what to do if not.

    python scripts/doctor.py            look only
    python scripts/doctor.py --build    also build the kernels and run every op once

Exit code 0 if training is possible on at least one device, else 1.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_gs.terminal import lossy_output, printable  # needs no package

ROOT = Path(__file__).resolve().parents[1]
BOTH = ("cpu", "cuda")
INSTALL = "pip install -r requirements.txt -c constraints.txt"
INSTALL_OPTIONAL = "pip install -r requirements-optional.txt -c constraints.txt"


@dataclass(frozen=True)
class Finding:
    """One line of the report. With a remedy it is a problem, for the devices it blocks (or for none: a hint)."""

    name: str
    value: str
    remedy: str = ""
    blocks: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build", action="store_true", help="build the kernels and run every op once")
    args = parser.parse_args(arguments)
    findings = []
    for finding in examine():
        findings.append(_shown(finding))
    if args.build:
        for device in BOTH:
            if not blocking(findings, device):
                findings.append(_shown(build(device)))
    lines, code = verdict(findings)
    print("\n".join(["", *map(printable, [*to_do(findings), *lines])]))
    return code


def examine() -> Iterator[Finding]:
    """All that can be told without building anything."""
    yield _python()
    yield from _packages((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    yield _memory()
    yield _disk(Path.cwd())
    yield _compiler()
    yield _ninja()
    try:
        import torch  # noqa: F401
    except Exception as error:  # a broken installation raises OSError, ImportError, ...
        yield Finding("torch works", f"no: {error}".splitlines()[0], f"reinstall torch: {INSTALL}", BOTH)
        return
    yield from _gpu()
    yield from _kernels()
    yield _gsplat()
    yield from _optional((ROOT / "requirements-optional.txt").read_text(encoding="utf-8"))


def blocking(findings: Sequence[Finding], device: str) -> list[Finding]:
    """What keeps this machine from training on the device."""
    return [finding for finding in findings if device in finding.blocks]


def verdict(findings: Sequence[Finding]) -> tuple[list[str], int]:
    """One line a device with the first remedy, and the exit code."""
    lines, able = [], []
    for device in BOTH:
        problems = blocking(findings, device)
        if problems:
            lines.append(
                f"--device {device}: no. {problems[0].name}: {problems[0].value}. Remedy: {problems[0].remedy}"
            )
        else:
            lines.append(f"--device {device}: yes")
            able.append(device)
    lines.append(
        f"verdict: can train on {' and '.join(able)}" if able else "verdict: cannot train; see the remedies above"
    )
    return lines, 0 if able else 1


def to_do(findings: Sequence[Finding]) -> list[str]:
    """Every remedy once, with what it is for; first those without which something cannot run."""
    remedies: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: -len(finding.blocks)):
        if finding.remedy:
            remedies.setdefault(finding.remedy, []).append(finding)
    lines = []
    for remedy, needy in remedies.items():
        names = ", ".join(finding.name for finding in needy)
        devices = sorted({device for finding in needy for device in finding.blocks})
        lines.append(f"{'needed for ' + ' and '.join(devices) if devices else 'optional':<20} {names}: {remedy}")
    return [*lines, ""] if lines else []


def _shown(finding: Finding) -> Finding:
    remedy = f"  <- {finding.remedy}" if finding.remedy else ""
    print(printable(f"{finding.name:<18} {finding.value}{remedy}"), flush=True)
    return finding


# ------------------------------------------------------------------------------------------------- Python and tools


def _python() -> Finding:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036 - it is an older Python that must be told
        return Finding("python", value, "use Python 3.11 or newer", BOTH)
    return Finding("python", value)


def _packages(requirements: str) -> Iterator[Finding]:
    """One finding a line of requirements.txt. gsplat is needed on CUDA only."""
    for line in requirements.splitlines():
        name, wanted = re.match(r"\s*([\w.-]*)\s*([^#;]*)", line).groups()
        if name:
            yield _package(name, wanted.strip())


def _package(name: str, wanted: str) -> Finding:
    blocks = ("cuda",) if name == "gsplat" else BOTH
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", INSTALL, blocks)
    if not _satisfies(version, wanted):
        return Finding(name, f"{version}, but {wanted} is required", INSTALL, blocks)
    return Finding(name, version)


def _satisfies(version: str, wanted: str) -> bool:
    """Understands the >= and < of requirements.txt; numbers only, so 2.11.0+cu130 counts as 2.11.0."""
    for clause in filter(None, wanted.split(",")):
        operator, bound = re.match(r"\s*(>=|<)\s*([\d.]+)", clause).groups()
        if (_numbers(version) >= _numbers(bound)) != (operator == ">="):
            return False
    return True


def _numbers(version: str) -> list[int]:
    numbers = [int(number) for number in re.match(r"\d+(\.\d+)*", version).group(0).split(".")]
    return numbers + [0] * (4 - len(numbers))


def _memory() -> Finding:
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        available = None
    if not available:
        return Finding("free memory", "unknown")
    gib = int(available.group(1)) / 2**20
    remedy = "" if gib >= 3 else "building the kernels needs about 2 GiB: close other programs if it fails"
    return Finding("free memory", f"{gib:.1f} GiB", remedy)


def _disk(folder: Path) -> Finding:
    """Room where runs are written by default."""
    gib = shutil.disk_usage(folder).free / 2**30
    remedy = "" if gib >= 5 else f"a 30,000-step run writes 1 to 3 GiB: make room in {folder}, or use -m DIR elsewhere"
    return Finding("free disk", f"{gib:.1f} GiB in {folder}", remedy)


def _compiler() -> Finding:
    """The C++ compiler with the options the kernels need, tried on a program of one line."""
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        return Finding("C++ compiler", f"no {compiler}", "install g++ (Debian: apt-get install g++) or set CXX", BOTH)
    version = _first_line([compiler, "--version"])
    source = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, "-std=c++17", "-march=native", "-fopenmp", "-x", "c++", "-", "-o", f"{folder}/openmp"]
        compiled = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if compiled.returncode:
        complaint = (compiled.stderr.strip().splitlines() or ["fails"])[0]
        remedy = "install a complete g++ with OpenMP (libgomp) or point CXX at one"
        return Finding("C++ compiler", f"{version}, without OpenMP: {complaint}", remedy, BOTH)
    return Finding("C++ compiler", f"{version}, with OpenMP")


def _ninja() -> Finding:
    beside_python = str(Path(sys.executable).parent)
    path = shutil.which("ninja", path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))
    if not path:
        return Finding("ninja program", "not found", INSTALL, BOTH)
    return Finding("ninja program", _first_line([path, "--version"]))


def _first_line(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip().partition("\n")[0] if result.returncode == 0 else ""


# ------------------------------------------------------------------------------------------------------------- GPU


def _gpu() -> Iterator[Finding]:
    import torch

    driver = _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    yield Finding("GPU driver", driver or "none")
    yield Finding("torch's CUDA", torch.version.cuda or "none, a CPU build")
    yield _device(torch, driver)
    if torch.version.cuda:
        yield _nvcc(torch)
        yield _host_compiler()


def _device(torch: object, driver: str) -> Finding:
    built_for = torch.version.cuda
    if torch.cuda.is_available():
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        value = f"{torch.cuda.get_device_name()}, capability {capability}, {free:.1f} of {total:.1f} GiB free"
        remedy = "" if free >= 2 else "too little for most scenes: end the programs that nvidia-smi lists"
        return Finding("GPU", value, remedy)
    if not driver:
        return Finding(
            "GPU", "none", "train with --device cpu, or install an NVIDIA driver if there is a GPU", ("cuda",)
        )
    if built_for is None:
        remedy = "install a CUDA build of torch (https://pytorch.org/get-started)"
        return Finding("GPU", f"torch {torch.__version__} is built without CUDA", remedy, ("cuda",))
    remedy = "update the driver, or install a torch built for an older CUDA (https://pytorch.org/get-started)"
    return Finding("GPU", f"torch for CUDA {built_for} cannot use driver {driver}", remedy, ("cuda",))


def _nvcc(torch: object) -> Finding:
    """The CUDA compiler that torch's builder will call; its major version must be torch's."""
    from torch.utils.cpp_extension import CUDA_HOME

    wanted = torch.version.cuda
    program = Path(CUDA_HOME or "/nowhere") / "bin" / "nvcc"
    if not program.exists():
        return Finding("nvcc", "not found", f"install the CUDA {wanted} toolkit and set CUDA_HOME", ("cuda",))
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"release ([\d.]+)", output)
    version = version.group(1) if version else "unknown"
    if version.partition(".")[0] != wanted.partition(".")[0]:
        remedy = f"install the CUDA {wanted} toolkit and set CUDA_HOME to it"
        return Finding("nvcc", f"{version}, but torch is built for CUDA {wanted}", remedy, ("cuda",))
    return Finding("nvcc", version)


def _host_compiler() -> Finding:
    """Whether nvcc takes this g++: its header crt/host_config.h names the newest it knows."""
    from torch.utils.cpp_extension import CUDA_HOME

    header = Path(CUDA_HOME or "/nowhere") / "include" / "crt" / "host_config.h"
    limit = re.search(r"__GNUC__\s*>\s*(\d+)", header.read_text(errors="replace")) if header.is_file() else None
    major = _first_line([os.environ.get("CXX", "g++"), "-dumpversion"]).partition(".")[0]
    if not limit or not major.isdigit():
        return Finding("nvcc's g++", "unknown")
    if int(major) > int(limit[1]):
        remedy = f"install g++-{limit[1]} and export CC=gcc-{limit[1]} CXX=g++-{limit[1]}"
        return Finding("nvcc's g++", f"{major}, but this nvcc knows up to {limit[1]}", remedy, ("cuda",))
    return Finding("nvcc's g++", f"{major}; nvcc knows up to {limit[1]}")


# --------------------------------------------------------------------------------------------------------- kernels


def _kernels() -> Iterator[Finding]:
    import torch

    from distwar_kernels import loader

    for device in BOTH if torch.cuda.is_available() else ("cpu",):
        yield _kernel_state(device, loader.library_path(device))


def _kernel_state(device: str, library: Path) -> Finding:
    """Whether the kernels are built and, if not, whether they could be written."""
    from distwar_kernels.loader import is_whole
    from distwar_kernels.trust import distrust

    name = f"{device} kernels"
    if found := distrust(library):
        return Finding(name, found[0], found[1], (device,))
    if is_whole(library):
        return Finding(name, f"built, {library.parent}")
    damaged = "damaged" if library.exists() else "not built"
    folder = next(place for place in library.parents if place.exists())
    free = shutil.disk_usage(folder).free / 2**30
    if not os.access(folder, os.W_OK) or free < 0.2:
        problem = f"{folder} cannot be written" if free >= 0.2 else f"{free:.1f} GiB free in {folder}"
        remedy = "export TORCH_EXTENSIONS_DIR=/a/folder/with/room"
        return Finding(name, f"{damaged}, and {problem}", remedy, (device,))
    if library.exists():
        remedy = "python scripts/doctor.py --build, or the next run, builds it again"
        return Finding(name, f"damaged, or without checksum: {library}", remedy)
    return Finding(name, "not built yet: the first run does it, or --build")


def _gsplat() -> Finding:
    """Whether gsplat's own kernels are built; it builds them by torch.utils.cpp_extension when first used."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    spec = importlib.util.find_spec("gsplat")
    if spec is None or not torch.cuda.is_available():
        return Finding("gsplat kernels", "not needed without a GPU" if spec else "gsplat is not installed")
    if any(Path(folder).glob("csrc*.so") for folder in spec.submodule_search_locations):
        return Finding("gsplat kernels", "came with the package")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return _gsplat_state([*root.glob("gsplat_cuda"), *root.glob("*/gsplat_cuda")])


def _gsplat_state(folders: Sequence[Path]) -> Finding:
    if any((folder / "gsplat_cuda.so").exists() for folder in folders):
        return Finding("gsplat kernels", "built")
    if locks := [folder / "lock" for folder in folders if (folder / "lock").exists()]:
        remedy = f"if no other program is building it: rm {locks[0]}"  # the next build would wait for it for ever
        return Finding("gsplat kernels", f"a build has not finished, {locks[0]} is left", remedy, ("cuda",))
    return Finding("gsplat kernels", "not built yet: the first run on the GPU does it (about a minute), or --build")


# -------------------------------------------------------------------------------------------------- optional parts


def _optional(requirements: str) -> Iterator[Finding]:
    """The packages of requirements-optional.txt, and LPIPS as a whole."""
    from distwar_gs.lpips import missing_part

    for finding in _packages(requirements):
        yield replace(finding, remedy=finding.remedy and INSTALL_OPTIONAL, blocks=())
    problem, _, remedy = (missing_part() or "").partition(": ")
    yield Finding("LPIPS", problem or "can be measured", remedy)


def build(device: str) -> Finding:
    """Builds the kernels of a device, if need be, and runs every op once, forward and backward."""
    from distwar_kernels import loader

    try:
        loader.load(device)
        _smoke_test(device)
    except Exception as error:
        return Finding(f"{device} smoke test", f"failed: {error}", "see the message", (device,))
    return Finding(f"{device} smoke test", "passed")


def _smoke_test(device: str) -> None:
    """One Gaussian in the middle of a small image: it must be seen and get a gradient."""
    import torch

    import distwar_kernels as kernels
    from distwar_kernels.constants import TILE_SIZE

    means = torch.tensor([[0.0, 0.0, 4.0]], device=device, requires_grad=True)
    one = torch.ones(1, device=device)
    intrinsics = torch.tensor([[30.0, 30.0, 15.0, 10.0]])
    camera = kernels.Cameras("pinhole", torch.eye(4)[None], intrinsics, 30, 20).to(device)
    quats, scales = torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device), one.expand(1, 3).contiguous()
    p = kernels.project_gaussians(means, quats, scales, one, camera)
    tiles = kernels.intersect_tiles(p.means2d, p.radii, p.depths, 30, 20)
    colors = kernels.spherical_harmonics(0, means[None], torch.ones(1, 1, 1, 3, device=device)) + 0.5
    image, _ = kernels.rasterize_to_pixels(p.means2d, p.conics, colors, one[None], 30, 20, TILE_SIZE, *tiles)
    image[:, :, :15].sum().backward()
    if not (0.5 < image.max() < 1.0 and torch.isfinite(means.grad).all() and means.grad[0, 0] < 0):
        raise RuntimeError(f"wrong numbers: brightest pixel {image.max().item()}, gradient {means.grad.tolist()}")


if __name__ == "__main__":
    with lossy_output():
        code = main()
    sys.exit(code)

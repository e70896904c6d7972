"""Builds and loads the kernels: once per machine, when an op is first called, never at import.

One library a backend: ``cpu`` (C++ and OpenMP) and ``cuda`` (needs nvcc). A library's folder is keyed by everything
that decides its content, so a changed source, compiler flag, torch or GPU gets a build of its own. To load a library is
to run it, so it must be whole (its checksum lies beside it) and nobody else's (`distwar_kernels.trust`).
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from distwar_kernels.errors import KernelError
from distwar_kernels.trust import check_trusted, kernel_folder

_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).parent
_GIB_PER_JOB = 2.0
# "x.cpp:1:2: error: ...", "nvcc fatal   : ...", "ld: cannot find ..."; not a path or a flag with "error" in its name
_COMPLAINT = re.compile(r"\b(error|fatal)\s*:|\bld: |undefined reference")


@dataclass(frozen=True)
class _Backend:
    sources: tuple[str, ...]
    cxx_flags: tuple[str, ...]
    cuda_flags: tuple[str, ...]
    expected_seconds: int


_BACKENDS = {
    "cpu": _Backend(
        sources=(
            "blend/blend.cpp",
            "blend/blend_cpu.cpp",
            "noise/noise.cpp",
            "noise/noise_cpu.cpp",
            "photometric/photometric.cpp",
            "photometric/photometric_cpu.cpp",
            "projection/projection.cpp",
            "projection/projection_cpu.cpp",
            "sh/sh.cpp",
            "sh/sh_cpu.cpp",
            "tiles/tiles.cpp",
            "tiles/tiles_cpu.cpp",
        ),
        # Infinities and NaN keep their meaning (a broken Gaussian is culled by comparisons), so no -ffast-math.
        cxx_flags=(
            "-O3",
            "-march=native",
            "-fopenmp",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-DDISTWAR_BACKEND=cpu",
        ),  # fmt: skip
        cuda_flags=(),
        expected_seconds=20,
    ),
    "cuda": _Backend(
        sources=(
            "blend/blend.cpp",
            "blend/blend_forward.cu",
            "blend/blend_backward.cu",
            "blend/blend_transposed.cu",
            "fused/fused.cpp",
            "fused/fused_project.cu",
            "fused/fused_tiles.cu",
            "fused/fused_backward.cu",
            "fused/fused_pose.cu",
            "fused/fused_features.cu",
            "noise/noise.cpp",
            "noise/noise.cu",
            "photometric/photometric.cpp",
            "photometric/photometric.cu",
            "spheres/spheres.cpp",
            "spheres/spheres.cu",
        ),
        cxx_flags=("-O2", "-DDISTWAR_BACKEND=cuda", "-DDISTWAR_CUDA"),
        cuda_flags=("-O3", "--use_fast_math", "-lineinfo", "-DDISTWAR_BACKEND=cuda"),
        expected_seconds=50,
    ),
}


def load(backend: str) -> None:
    """Makes the ops of ``backend`` (``cpu`` or ``cuda``) callable, building them if this machine has not yet.

    Raises KernelError when a compiler is missing or fails; the message holds the first error and the next command.
    """
    load_once(backend)


# torch.compile loads while it traces, instead of tracing how to load. So says torch.compiler.assume_constant_result,
# too, but it imports torch._dynamo for that, which takes longer than torch itself.
load._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def load_once(backend: str) -> None:
    """What ``load`` does in each process only once."""
    library = library_path(backend)
    check_trusted(library)
    if not is_whole(library):
        with _locked(library.parent):
            if not is_whole(library):  # another process may have built it meanwhile
                _build(backend, library)
    check_trusted(library)  # what was not there before
    try:
        torch.ops.load_library(library)
    except OSError as error:
        _LOG.warning("%s does not load (%s)", library, first_error(error))
        with _locked(library.parent):
            _build(backend, library)  # which loads it, too, or says why that is not possible
        torch.ops.load_library(library)


def library_path(backend: str) -> Path:
    """Where the library of ``backend`` for this machine is, or will be once it is built."""
    return kernel_folder() / f"distwar_{backend}-{_build_key(backend)}" / f"distwar_{backend}.so"


def is_whole(library: Path) -> bool:
    """Whether a library is there, as it was when it was built. One that is not may not even fail to load: it may take
    the process down."""
    try:
        files = library.is_file() and _sum_file(library).is_file()
        return files and _sum_file(library).read_text().strip() == _sum_of(library)
    except (OSError, ValueError):
        return False


def _sum_file(library: Path) -> Path:
    return library.with_name(library.name + ".sha256")


def _sum_of(library: Path) -> str:
    with library.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build_key(backend: str) -> str:
    """A digest of the sources, flags, torch and the processor or GPU the library is made for."""
    digest = hashlib.sha256()
    for path in sorted(p for p in _ROOT.rglob("*") if p.suffix in {".cpp", ".cu", ".cuh", ".h"}):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(repr((_BACKENDS[backend], torch.__version__, torch.version.cuda, _target(backend))).encode())
    return digest.hexdigest()[:16]


def _target(backend: str) -> str:
    return _cuda_architecture() if backend == "cuda" else _cpu_features()


def _cuda_architecture() -> str:
    """The architectures of this machine's GPUs, such as ``9.0``; the PTX beside the newest serves newer ones."""
    capabilities = {torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())}
    local = ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities)) + "+PTX"
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or local


def _cpu_features() -> str:
    """-march=native code must not run on a machine with fewer instructions: home folders are shared."""
    try:
        flags = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    return platform.machine() + (flags.group(0) if flags else platform.processor())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """An OS lock on the build folder: it goes with its holder, so a killed build leaves nothing to clean up."""
    path = folder / "build.lock"
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o755, exist_ok=True)
        path.touch(mode=0o644)
    except OSError as error:
        remedy = "set TORCH_EXTENSIONS_DIR to a folder you may write to"
        raise KernelError(f"cannot write the kernel build folder {folder}: {error.strerror}; {remedy}") from error
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("waiting for another process that builds the kernels in %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(backend: str, library: Path) -> None:
    _check_compilers(backend)
    spec = _BACKENDS[backend]
    if library.exists():
        _LOG.warning("%s is damaged, or has no checksum", library)
    _LOG.warning("building the distwar %s kernels once, about %d s", backend, spec.expected_seconds)
    start = time.perf_counter()
    # Of its own: the compilers of a process that was killed may go on writing into theirs for a while.
    for left in library.parent.glob("build-*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="build-", dir=library.parent))
    with _build_environment(backend):
        _compile(backend, spec, scratch)
    _publish(next(scratch.glob("*.so")), library)  # torch adds _v1, _v2, ... to a name it builds again
    shutil.rmtree(scratch, ignore_errors=True)
    _LOG.warning("built the distwar %s kernels in %.0f s", backend, time.perf_counter() - start)


def _publish(built: Path, library: Path) -> None:
    """The library appears under its name whole, on the disk, and after its checksum: not even a power cut leaves one
    that looks whole and is not."""
    built.chmod(built.stat().st_mode & ~0o022)
    sum_file = built.with_name("sha256")
    sum_file.write_text(_sum_of(built) + "\n")
    for path, place in ((sum_file, _sum_file(library)), (built, library)):
        _sync(path)
        os.replace(path, place)
    with contextlib.suppress(OSError):  # not every file system lets folders be synchronised
        _sync(library.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compile(backend: str, spec: _Backend, scratch: Path) -> None:
    from torch.utils.cpp_extension import load as load_extension

    try:
        load_extension(
            name=f"distwar_{backend}",
            sources=[str(_ROOT / source) for source in spec.sources],
            extra_cflags=list(spec.cxx_flags),
            extra_cuda_cflags=list(spec.cuda_flags) or None,
            extra_ldflags=["-fopenmp"] if backend == "cpu" else None,
            build_directory=str(scratch),
            with_cuda=backend == "cuda",
            is_python_module=False,
        )
    except Exception as error:
        raise KernelError(
            f"the {backend} kernels did not compile: {first_error(error)} ({_versions()}); "
            "run python scripts/doctor.py for a check of this machine"
        ) from error


def first_error(error: BaseException) -> str:
    """The first line of a build log in which a compiler or linker complains, else the exception's first line."""
    if (
        isinstance(error, OSError) and error.__cause__
    ):  # a library that does not load: torch names it, its cause says why
        error = error.__cause__
    lines = str(error).splitlines() or [repr(error)]
    return next((line.strip() for line in lines if _COMPLAINT.search(line)), lines[0])


def _versions() -> str:
    return f"torch {torch.__version__}, {_version_of('nvcc')}, {_version_of(os.environ.get('CXX', 'c++'))}"


def _version_of(program: str) -> str:
    if not shutil.which(program):
        return f"no {program}"
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"release [\d.]+|\d+\.\d+\.\d+", output)
    return f"{program} {version.group(0) if version else 'of unknown version'}"


def _check_compilers(backend: str) -> None:
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise KernelError("no C++ compiler: install g++ (Debian: apt-get install g++) or point CXX at one")
    if backend == "cuda":
        from torch.utils.cpp_extension import CUDA_HOME

        if not torch.cuda.is_available():
            raise KernelError("no CUDA device that this torch can use: run with --device cpu")
        if CUDA_HOME is None:
            raise KernelError(
                f"no nvcc: install the CUDA {torch.version.cuda} toolkit and set CUDA_HOME, or run with --device cpu"
            )


@contextmanager
def _build_environment(backend: str) -> Iterator[None]:
    """The environment torch's builder reads: this GPU only, as many jobs as memory allows, ninja on the PATH."""
    wanted = {"MAX_JOBS": os.environ.get("MAX_JOBS") or str(_jobs())}
    # A virtual environment's ninja is not on the PATH when its python is called by its full name.
    wanted["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if backend == "cuda":
        wanted["TORCH_CUDA_ARCH_LIST"] = _cuda_architecture()
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _jobs() -> int:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(os.cpu_count() or 1, int(free / _GIB_PER_JOB)))

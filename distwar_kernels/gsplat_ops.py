"""gsplat, whose public functions the CUDA path takes projection, harmonics and tile lists from."""

from functools import cache
from types import ModuleType

from distwar_kernels.errors import KernelError
from distwar_kernels.loader import first_error


@cache
def gsplat() -> ModuleType:
    """The package, its CUDA kernels built: about a minute when first used on a machine, which gsplat announces itself.

    Raises KernelError when it is not installed, finds no CUDA toolkit, or does not compile. gsplat itself would go on
    without its kernels and fail at the first call, with an error that does not say why.
    """
    try:
        import gsplat as package
        from gsplat.cuda._backend import _C
    except ImportError as error:
        raise KernelError(f"gsplat cannot be imported ({error}): pip install -r requirements.txt") from error
    except Exception as error:  # whatever torch's builder raises
        raise KernelError(
            f"gsplat's CUDA kernels did not compile: {first_error(error)}; run python scripts/doctor.py"
        ) from error
    if _C is None:
        raise KernelError(
            "gsplat finds no CUDA toolkit to build its kernels with: install nvcc, set CUDA_HOME, or use --device cpu"
        )
    return package

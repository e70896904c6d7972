"""gsplat missing or broken: one line that says so."""

import sys
from types import ModuleType

import pytest

from distwar_kernels import KernelError
from distwar_kernels.gsplat_ops import gsplat


@pytest.fixture(autouse=True)
def forgetful():
    gsplat.cache_clear()
    yield
    gsplat.cache_clear()


def pretend(monkeypatch, **backend) -> ModuleType:
    """A gsplat whose private backend module holds these names."""
    modules = {name: ModuleType(name) for name in ("gsplat", "gsplat.cuda", "gsplat.cuda._backend")}
    vars(modules["gsplat.cuda._backend"]).update(backend)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["gsplat"]


def test_with_kernels_it_is_the_package(monkeypatch):
    package = pretend(monkeypatch, _C=object())
    assert gsplat() is package


def test_without_a_toolkit(monkeypatch):
    pretend(monkeypatch, _C=None)
    with pytest.raises(KernelError, match="no CUDA toolkit.*CUDA_HOME"):
        gsplat()


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(KernelError, match="gsplat cannot be imported.*requirements.txt"):
        gsplat()


def test_a_build_that_fails(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("Error building extension\nx.cu(3): error: no such thing\n")

    pretend(monkeypatch)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", Broken("gsplat.cuda._backend"))
    with pytest.raises(KernelError, match=r"did not compile: x\.cu\(3\): error: no such thing"):
        gsplat()


@pytest.mark.gpu
def test_the_real_one_has_what_we_take():
    for name in ("fully_fused_projection", "spherical_harmonics", "isect_tiles", "isect_offset_encode"):
        assert callable(getattr(gsplat(), name))

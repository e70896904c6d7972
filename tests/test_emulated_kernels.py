"""The emulator itself: barriers, votes and shuffles in each of its three ways, and the cache of what is compiled."""

import ctypes
import shutil
from pathlib import Path

import emulated_kernels
import pytest
import torch
from emulated_kernels import HERE, OS_THREADS, link

KINDS = {"fibers": (), "ucontext": ("-DEMULATE_WITH_UCONTEXT",), "threads": (OS_THREADS,)}
KERNELS = r"""
#include <cuda_runtime.h>
#include <cstdio>
#include <stdexcept>

constexpr int kThreads = 64;

extern "C" {

// Each block reverses its numbers through shared memory.
void reverse(int* numbers, int blocks, bool with_barrier) {
    emulate(blocks, kThreads, [=] {
        __shared__ int shared[kThreads];
        int* mine = numbers + blockIdx.x * kThreads;
        shared[threadIdx.x] = mine[threadIdx.x];
        if (with_barrier) __syncthreads();
        mine[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
        __syncthreads();
    });
}

// Each half of a warp sums its lanes, `rounds` times, while the other half is at something else.
void sum_halves(int* numbers, int rounds) {
    emulate(1, kThreads, [=] {
        const bool upper = threadIdx.x % 32 >= 16;
        const unsigned mask = upper ? 0xffff0000u : 0xffffu;
        int value = numbers[threadIdx.x];
        for (int round = 0; round < rounds + upper; ++round)
            for (int distance = 8; distance > 0; distance /= 2) value += __shfl_xor_sync(mask, value, distance);
        numbers[threadIdx.x] = value;
    });
}

// ballots, matches: of each lane; all, any: of the block's threads that are left. An odd thread ends early.
void vote(const int* keys, unsigned* ballots, unsigned* matches, bool* all) {
    emulate(1, kThreads, [=] {
        const int i = threadIdx.x;
        ballots[i] = __ballot_sync(~0u, keys[i] > 1);
        matches[i] = __match_any_sync(~0u, keys[i]);
        if (i % 2) return;
        all[2 * i] = __syncthreads_and(keys[i] >= 0);
        all[2 * i + 1] = __syncthreads_and(i != 10);
        all[2 * i + 2] = __syncthreads_and(true);
    });
}

int count(int blocks) {
    int total = 0;
    emulate(blocks, kThreads, [&] { atomicAdd(&total, 1); });
    return total;
}

// What a launch complains about in which a lane waits for one that has ended, or that it does not ask for.
void mistake(bool in_mask, char* said, int bytes) {
    try {
        emulate(3, kThreads, [=] { if (blockIdx.x == 2 && threadIdx.x > 0) __syncwarp(in_mask ? ~0u : 1u); });
    } catch (const std::runtime_error& error) {
        std::snprintf(said, bytes, "%s", error.what());
    }
}

}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.cu"
    path.write_text(KERNELS)
    return path


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def toy(request, source) -> ctypes.CDLL:
    return ctypes.CDLL(str(link("toy", [source], *request.param)))


@pytest.fixture(scope="module")
def fibers(source) -> ctypes.CDLL:
    return ctypes.CDLL(str(link("toy", [source])))


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def reversed_by(library: ctypes.CDLL, with_barrier: bool) -> bool:
    """Whether every block's numbers are as they should be."""
    numbers = torch.arange(8 * 64, dtype=torch.int32)
    expected = numbers.reshape(8, 64).flip(1).flatten()
    library.reverse(address(numbers), 8, with_barrier)
    return numbers.equal(expected)


def test_a_barrier_holds_a_block_together(toy):
    assert reversed_by(toy, with_barrier=True)


def test_a_missing_barrier_shows(fibers):
    """Whichever thread goes first: the order is not that of the indices only."""
    assert not reversed_by(fibers, with_barrier=False)


def test_parts_of_a_warp_meet_by_themselves(toy):
    numbers = torch.arange(64, dtype=torch.int32)
    sums = numbers.reshape(4, 16).sum(1)
    toy.sum_halves(address(numbers), 2)
    factors = ints(16, 256, 16, 256)  # each further round has 16 equal lanes
    assert numbers.reshape(4, 16).equal((sums * factors)[:, None].expand(4, 16).int())


def test_votes_and_matches(toy):
    keys = torch.arange(64, dtype=torch.int32) % 5
    ballots, matches = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    every = torch.zeros(192, dtype=torch.bool)
    toy.vote(address(keys), address(ballots), address(matches), address(every))
    for lane in range(64):
        warp = keys[lane // 32 * 32 :][:32]
        bits = 2 ** torch.arange(32)
        assert int(ballots[lane]) % 2**32 == int(bits[warp > 1].sum())
        assert int(matches[lane]) % 2**32 == int(bits[warp == keys[lane]].sum())


def test_threads_that_have_ended_are_not_waited_for(toy):
    keys, lost = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    every = torch.full((192,), True)
    toy.vote(address(keys), address(lost), address(lost), address(every))
    for thread in range(0, 64, 2):
        assert every[2 * thread : 2 * thread + 3].tolist() == [True, False, True]


def test_every_thread_of_every_block_runs(toy):
    assert toy.count(5) == 5 * 64


@pytest.mark.parametrize(
    ("in_mask", "words"),
    [
        (True, "block 2: 31 of 64 threads wait for others that do not come"),
        (False, "block 2: a thread is not in the mask"),
    ],
)
def test_a_mistake_ends_the_launch(fibers, in_mask, words):
    said = ctypes.create_string_buffer(200)
    fibers.mistake(in_mask, said, 200)
    assert said.value.decode().startswith(words)
    assert fibers.count(3) == 3 * 64  # and not the next one


# -------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache and a copy of the emulator's headers, as others have them."""
    monkeypatch.setattr(emulated_kernels, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(emulated_kernels, "HERE", shutil.copytree(HERE, tmp_path / "headers"))
    emulated_kernels._headers.cache_clear()
    yield tmp_path / "cache"
    emulated_kernels._headers.cache_clear()


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """Files that compilers were asked to make, while everything goes well."""
    made, run = [], emulated_kernels.subprocess.run

    def counted(command, **options):
        if "-o" in command:
            made.append(Path(command[-1]).name)
        return run(command, **options)

    monkeypatch.setattr(emulated_kernels.subprocess, "run", counted)
    return made


def small(folder: Path, number: int) -> Path:
    path = folder / "small.cu"
    path.write_text(f'extern "C" int number() {{ return {number}; }}\n')
    return path


def test_what_is_compiled_is_kept(cache, compiled, tmp_path):
    first = link("small", [small(tmp_path, 1)])
    assert compiled == ["small.cu.o", "small.so"] and ctypes.CDLL(str(first)).number() == 1
    assert link("small", [small(tmp_path, 1)]) == first and len(compiled) == 2
    other_folder = tmp_path / "clone"
    other_folder.mkdir()
    assert link("small", [small(other_folder, 1)]) == first and len(compiled) == 2
    assert not list(cache.glob("making-*"))


def test_another_source_header_or_flag_is_another_library(cache, compiled, tmp_path):
    paths = [link("small", [small(tmp_path, 1)]), link("small", [small(tmp_path, 2)])]
    paths.append(link("small", [small(tmp_path, 2)], "-DX"))
    emulated_kernels._headers.cache_clear()
    (tmp_path / "headers/more.h").write_text("")
    paths.append(link("small", [small(tmp_path, 2)], "-DX"))
    assert len(set(paths)) == 4 and len(compiled) == 8
    assert [ctypes.CDLL(str(path)).number() for path in paths] == [1, 2, 2, 2]


def test_a_killed_build_leaves_nothing_for_long(cache, tmp_path):
    left, other = cache / "making-small.so-x/small.so", cache / "making-other.so-x/other.so"
    for path in (left, other):
        path.parent.mkdir(parents=True)
        path.write_text("half")
    link("small", [small(tmp_path, 1)])
    assert not left.parent.exists() and other.exists()

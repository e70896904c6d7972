// Enough of CUDA to run the project's kernels on a CPU, with a C++20 compiler: for tests on machines without a GPU.
//
// Blocks run one after the other. Their threads are fibers, or threads of the operating system where
// EMULATE_WITH_OS_THREADS is defined; what a warp does together (shuffles, votes, barriers) goes through a barrier of
// the lanes in the mask. It neither finds all races within a warp nor rounds like a GPU; it does run the kernels' own
// source, index by index.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct float2 {
    float x, y;
};
struct float3 {
    float x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using std::isfinite;
using std::max;
using std::min;

// ------------------------------------------------------------------------------------------------ blocks and warps

#pragma GCC visibility push(hidden)  // of each library its own
struct Index {
    int x;
};
inline Index blockDim, gridDim;

namespace emulator {

constexpr int kLanes = 32;

template <class To, class From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace emulator
#pragma GCC visibility pop

#ifdef EMULATE_WITH_OS_THREADS
#include "os_threads.h"
#else
#include "fibers.h"
#endif

template <class F>
void emulate(int blocks, int threads, F kernel) {
    gridDim.x = blocks, blockDim.x = threads;
    emulator::run_blocks(blocks, threads, kernel);
}

inline void __syncthreads() { emulator::any_of_block(false); }
inline bool __syncthreads_and(bool value) { return !emulator::any_of_block(!value); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::meet(mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
    const auto theirs = [source](const uint32_t* words) { return words[source & (emulator::kLanes - 1)]; };
    return emulator::bits<T>(emulator::exchange(mask, emulator::bits<uint32_t>(value), theirs));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    return __shfl_sync(mask, value, threadIdx.x % emulator::kLanes ^ distance);
}
inline unsigned __match_any_sync(unsigned mask, int key) {
    return emulator::exchange(mask, key, [=](const uint32_t* words) {
        unsigned same = 0;
        for (int i = 0; i < emulator::kLanes; ++i)
            if (mask >> i & 1 && words[i] == static_cast<uint32_t>(key)) same |= 1u << i;
        return same;
    });
}
inline unsigned __ballot_sync(unsigned mask, bool value) { return emulator::ballot(mask, value); }
inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }
inline bool __all_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) == mask; }

// ------------------------------------------------------------------------------------------------------ arithmetic

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline long long __float2ll_rn(float a) { return llrintf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __int_as_float(int x) { return emulator::bits<float>(x); }
inline int __float_as_int(float x) { return emulator::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
template <class T>
T __ldg(const T* address) {
    return *address;
}
template <class T>
T atomicAdd(T* address, T value) {
    std::atomic_ref<T> target(*address);
    T before = target;
    while (!target.compare_exchange_weak(before, before + value)) {
    }
    return before;
}

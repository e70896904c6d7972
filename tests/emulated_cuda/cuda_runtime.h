// Enough of CUDA to run the project's kernels on a CPU, with a C++20 compiler: for tests on machines without a GPU.
//
// A block's threads are threads of the operating system, one block at a time; what a warp does together (shuffles, votes,
// barriers) goes through a barrier of the lanes in the mask. It is slow, and it neither finds races within a warp nor
// rounds like a GPU; it does run the kernels' own source, index by index.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using std::isfinite;
using std::max;
using std::min;

// ------------------------------------------------------------------------------------------------ blocks and warps

struct Index { int x; };
inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;

namespace emulator {

constexpr int kLanes = 32;

struct Warp {
    std::mutex mutex;
    std::map<unsigned, std::unique_ptr<std::barrier<>>> barriers;  // by mask of the lanes that meet
    uint32_t words[kLanes];

    void meet(unsigned mask) {
        std::unique_lock lock(mutex);
        auto& barrier = barriers[mask];
        if (!barrier) barrier = std::make_unique<std::barrier<>>(__builtin_popcount(mask));
        lock.unlock();
        barrier->arrive_and_wait();
    }
};

inline std::vector<std::unique_ptr<Warp>> warps;
inline std::unique_ptr<std::barrier<>> block;
inline int lane() { return threadIdx.x % kLanes; }
inline Warp& warp() { return *warps[threadIdx.x / kLanes]; }

template <class To, class From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// What every lane in the mask has brought, read by `f` while nobody changes it.
template <class F>
auto exchange(unsigned mask, uint32_t word, F f) {
    warp().words[lane()] = word;
    warp().meet(mask);
    const auto result = f(warp().words);
    warp().meet(mask);
    return result;
}

}  // namespace emulator

template <class F>
void emulate(int blocks, int threads, F kernel) {
    using namespace emulator;
    gridDim.x = blocks, blockDim.x = threads;
    for (int index = 0; index < blocks; ++index) {
        warps.clear();
        for (int i = 0; i < threads / kLanes; ++i) warps.push_back(std::make_unique<Warp>());
        block = std::make_unique<std::barrier<>>(threads);
        std::vector<std::thread> running;
        for (int i = 0; i < threads; ++i)
            running.emplace_back([=] {
                threadIdx.x = i, blockIdx.x = index;
                kernel();
                block->arrive_and_drop();
            });
        for (std::thread& thread : running) thread.join();
    }
}

inline void __syncthreads() { emulator::block->arrive_and_wait(); }
inline bool __syncthreads_and(bool value) {
    static std::atomic<int> false_ones{0};
    __syncthreads();
    if (threadIdx.x == 0) false_ones = 0;
    __syncthreads();
    if (!value) ++false_ones;
    __syncthreads();
    return false_ones == 0;
}
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp().meet(mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
    const auto theirs = [source](const uint32_t* words) { return words[source & (emulator::kLanes - 1)]; };
    return emulator::bits<T>(emulator::exchange(mask, emulator::bits<uint32_t>(value), theirs));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    return __shfl_sync(mask, value, emulator::lane() ^ distance);
}
inline unsigned __match_any_sync(unsigned mask, int key) {
    return emulator::exchange(mask, key, [=](const uint32_t* words) {
        unsigned same = 0;
        for (int i = 0; i < emulator::kLanes; ++i)
            if (mask >> i & 1 && words[i] == static_cast<uint32_t>(key)) same |= 1u << i;
        return same;
    });
}
inline unsigned __ballot_sync(unsigned mask, bool value) {
    return emulator::exchange(mask, value, [=](const uint32_t* words) {
        unsigned votes = 0;
        for (int i = 0; i < emulator::kLanes; ++i)
            if (mask >> i & 1) votes |= words[i] << i;
        return votes;
    });
}
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

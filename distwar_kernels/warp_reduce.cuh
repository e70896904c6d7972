// DISTWAR's warp-level reductions (arXiv 2401.05345, sections 5.2 and 5.3) as policies.
//
// Every lane of a warp brings a record of N floats, the key of the address it belongs to, and whether it takes part.
// A policy decides where the records are summed: in the warp's registers, or by the atomic units of the L2.
//
//   Atomic      each active lane emits its own record: the baseline the paper measures against.
//   Serialized  SW-S: lanes with equal keys form a group (match); if the group has at least `threshold` lanes its
//               first lane collects the others' records one by one and emits once.
//   Butterfly   SW-B: if all active lanes share one key and there are at least `threshold` of them, five rounds of
//               xor-shuffles sum all 32 lanes, idle ones contributing zero; the first active lane emits once.
//
// Below the threshold the lanes emit for themselves: a warp with few active lanes costs the L2 little and the SM a lot.
// `emit(key, record)` does the atomic adds. All 32 lanes must call `add` together: masks come from a ballot over the
// whole warp, never from __activemask(), which reports whoever happens to be converged.
//
// kUniformKey says that the active lanes of a warp always share their key (blend_backward.cu: a warp visits one
// Gaussian at a time); with false every lane may have its own (spheres.cu). A kernel that can tell beforehand that no
// lane takes part calls `idle` and skips the work: nothing to sum, but warp_traffic.cuh, a policy that counts, wants to
// know.
#pragma once

#include <cuda_runtime.h>

namespace distwar {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ inline int first_lane(unsigned mask) { return __ffs(mask) - 1; }
__device__ inline int lane_index() { return threadIdx.x & 31; }

__device__ inline int warp_max(int value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = max(value, __shfl_xor_sync(kFullWarp, value, distance));
    return value;
}

__device__ inline unsigned warp_or(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_or_sync(kFullWarp, value);
#else
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value |= __shfl_xor_sync(kFullWarp, value, distance);
    return value;
#endif
}

struct NothingForIdleWarps {
    template <class Emit>
    static __device__ void idle(Emit) {}
};

struct Atomic : NothingForIdleWarps {
    template <bool kUniformKey, int N, class Emit>
    static __device__ void add(int key, float (&record)[N], bool active, int, Emit emit) {
        if (active) emit(key, record);
    }
};

struct Serialized : NothingForIdleWarps {
    template <bool kUniformKey, int N, class Emit>
    static __device__ void add(int key, float (&record)[N], bool active, int threshold, Emit emit) {
        const unsigned actives = __ballot_sync(kFullWarp, active);
        // Idle lanes match among themselves under keys no active lane can have, and drop out.
        const unsigned same_key = kUniformKey ? actives : __match_any_sync(kFullWarp, key) & actives;
        if (!active) return;
        if (__popc(same_key) < threshold) return emit(key, record);

        const int leader = first_lane(same_key);
        for (unsigned rest = same_key & (same_key - 1); rest; rest &= rest - 1) {
            const int source = first_lane(rest);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const float incoming = __shfl_sync(same_key, record[i], source);
                if (lane_index() == leader) record[i] += incoming;
            }
        }
        if (lane_index() == leader) emit(key, record);
    }
};

struct Butterfly : NothingForIdleWarps {
    template <bool kUniformKey, int N, class Emit>
    static __device__ void add(int key, float (&record)[N], bool active, int threshold, Emit emit) {
        const unsigned actives = __ballot_sync(kFullWarp, active);
        if (actives == 0) return;
        if (__popc(actives) < threshold || !(kUniformKey || one_key(key, actives))) {
            if (active) emit(key, record);
            return;
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float sum = active ? record[i] : 0.0f;
#pragma unroll
            for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kFullWarp, sum, distance);
            record[i] = sum;
        }
        if (lane_index() == first_lane(actives)) emit(key, record);
    }

   private:
    static __device__ bool one_key(int key, unsigned actives) {
        const int shared = __shfl_sync(kFullWarp, key, first_lane(actives));
        return (__ballot_sync(kFullWarp, key == shared) & actives) == actives;
    }
};

}  // namespace distwar

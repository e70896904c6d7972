// An exclusive prefix sum over all threads of a launch, in one pass and in the order of the threads: blocks publish
// their totals and look back over those of the blocks before them (Merrill and Garland 2016, "Single-pass parallel
// prefix scan with decoupled look-back").
//
// A block's state is one 32-bit word, two bits saying what the other thirty hold, so that it can be read while it is
// written. Blocks number themselves as they start: whoever is waited for is running already.
#pragma once

#include "launch.cuh"
#include "warp_reduce.cuh"

namespace distwar {

__device__ inline unsigned warp_sum(unsigned value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kFullWarp, value, distance);
    return value;
}

// Sum over the lanes before this one and itself.
__device__ inline unsigned warp_inclusive(unsigned value) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const unsigned before = __shfl_sync(kFullWarp, value, lane_index() - distance);
        if (lane_index() >= distance) value += before;
    }
    return value;
}

// Lives in shared memory. All threads of a block of kScanThreads call its functions together.
constexpr int kScanThreads = 256;

struct ChainedScan {
    unsigned block;   // this block's place among all
    unsigned before;  // of it
    unsigned total;   // up to and including it

    // `words`: zeroed, words_for(blocks) of them.
    static int words_for(int blocks) { return blocks + 1; }

    // This block's place, for its threads to know what to work on.
    __device__ int begin(unsigned* words) {
        if (threadIdx.x == 0) block = atomicAdd(words, 1u);
        __syncthreads();
        return block;
    }

    // The sum of all values before this thread's.
    __device__ unsigned exclusive(unsigned* words, unsigned value) {
        const int warp = threadIdx.x / 32, lane = lane_index();
        const unsigned inclusive = warp_inclusive(value);
        if (lane == 31) warp_totals[warp] = inclusive;
        __syncthreads();
        if (warp == 0) {
            const unsigned mine = lane < kWarps ? warp_totals[lane] : 0;
            const unsigned up_to = warp_inclusive(mine);
            if (lane < kWarps) warp_totals[lane] = up_to - mine;
            const unsigned sum = __shfl_sync(kFullWarp, up_to, 31);
            const unsigned earlier = look_back(words + 1, block, sum);
            if (lane == 0) before = earlier, total = earlier + sum;
        }
        __syncthreads();
        return before + warp_totals[warp] + inclusive - value;
    }

   private:
    static constexpr int kWarps = kScanThreads / 32;
    static constexpr unsigned kOwn = 1u << 30, kUpTo = 2u << 30, kValue = kOwn - 1;
    unsigned warp_totals[kWarps];

    __device__ static unsigned look_back(volatile unsigned* words, int block, unsigned sum) {
        const int lane = lane_index();
        if (lane == 0) words[block] = (block == 0 ? kUpTo : kOwn) | sum;
        unsigned earlier = 0;
        for (int end = block; end > 0; end -= 32) {
            unsigned word = kUpTo;  // what is before the first block: nothing
            do {
                if (end > lane) word = words[end - 1 - lane];
            } while (__any_sync(kFullWarp, word < kOwn));
            const unsigned complete = __ballot_sync(kFullWarp, word >= kUpTo);
            const int nearest = complete ? first_lane(complete) : 31;
            earlier += warp_sum(lane <= nearest ? word & kValue : 0);
            if (complete) break;
        }
        if (lane == 0 && block > 0) words[block] = kUpTo | (earlier + sum);
        return earlier;
    }
};

}  // namespace distwar

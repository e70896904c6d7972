// MCMC's noise on a GPU; what it is says noise.h.
//
// Thread mapping: one thread per Gaussian. An opaque one reads its opacity and is done.
//
// It stores the moved means, and nothing else.
//
// Lower bound: 4 bytes per opaque Gaussian, 56 per faint one (4 + 12 + 16 + 12 read, 12 written), over the memory's
// bandwidth: 0.013 ms for a million faint ones at 4.3 TB/s. Where both kinds are neighbours the sectors of 32 bytes are
// read and written whole. A faint one costs 196 instructions: 0.006 ms for a million.
#include "../launch.cuh"
#include "noise.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

__global__ void __launch_bounds__(kThreads) add_noise_kernel(NoiseInputs in) {
    const int row = blockIdx.x * kThreads + threadIdx.x;
    if (row < in.count) move(in, row);
}

}  // namespace

void add_noise(const NoiseInputs& in) { launch(add_noise_kernel, blocks_for(in.count), kThreads, in.stream, in); }

}  // namespace distwar::DISTWAR_BACKEND

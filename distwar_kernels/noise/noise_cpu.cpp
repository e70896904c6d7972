// MCMC's noise on the CPU; what it is says noise.h.
//
// Thread mapping: Gaussians, in equal parts. Which thread moves one does not matter to its numbers.
#include "noise.h"

namespace distwar::DISTWAR_BACKEND {

void add_noise(const NoiseInputs& in) {
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int row = 0; row < in.count; ++row) move(in, row);
}

}  // namespace distwar::DISTWAR_BACKEND

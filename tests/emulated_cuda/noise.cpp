// MCMC's noise kernel behind a C function, for tests/test_noise.py.
#include "noise/noise.h"

extern "C" {

struct Call {
    float* means;
    const float *quats, *scales, *opacities;
    int count;
    float amount, least_gate;
    uint64_t seed, step;
};

void run(const Call* call) {
    distwar::cuda::add_noise({call->means, call->quats, call->scales, call->opacities, call->count, call->amount,
                              call->least_gate, call->seed, call->step, 1, nullptr});
}

}  // extern "C"

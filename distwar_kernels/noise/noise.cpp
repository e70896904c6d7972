// Tensors in: checks and registers the noise for one backend. Compiled once with noise_cpu.cpp and once with noise.cu;
// the schema is in noise.py.
#include "noise.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../binding.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

void noise(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities, double amount,
           double least_gate, int64_t seed, int64_t step) {
    const DeviceGuard guard(means.device());
    const int count = checked_count(means, quats, scales, opacities);
    add_noise({means.mutable_data_ptr<float>(), quats.const_data_ptr<float>(), scales.const_data_ptr<float>(),
               opacities.const_data_ptr<float>(), count, static_cast<float>(amount), static_cast<float>(least_gate),
               static_cast<uint64_t>(seed), static_cast<uint64_t>(step), at::get_num_threads(), current_stream()});
    check_launch("add_noise");
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) { m.impl("add_noise", noise); }

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

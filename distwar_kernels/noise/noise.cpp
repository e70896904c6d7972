// Tensors in: checks and registers the noise for one backend. Compiled once with noise_cpu.cpp and once with noise.cu;
// the schema is in noise.py.
#include "noise.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>

#include "../binding.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

void noise(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities, double amount,
           double least_gate, int64_t seed, int64_t step) {
    const DeviceGuard guard(means.device());
    check(means, "means", at::kFloat, 3, means);
    check(quats, "quats", at::kFloat, 4, means);
    check(scales, "scales", at::kFloat, 3, means);
    check(opacities, "opacities", at::kFloat, -1, means);
    const int64_t count = opacities.numel();
    TORCH_CHECK(means.numel() == 3 * count && quats.numel() == 4 * count && scales.numel() == 3 * count,
                "means, quats, scales and opacities are not of as many Gaussians");
    TORCH_CHECK(count <= std::numeric_limits<int>::max(), message(count, " Gaussians are too many"));
    add_noise({means.mutable_data_ptr<float>(), quats.const_data_ptr<float>(), scales.const_data_ptr<float>(),
               opacities.const_data_ptr<float>(), static_cast<int>(count), static_cast<float>(amount),
               static_cast<float>(least_gate), static_cast<uint64_t>(seed), static_cast<uint64_t>(step),
               at::get_num_threads(), current_stream()});
    check_launch("add_noise");
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) { m.impl("add_noise", noise); }

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

// Tensors in, tensors out: registers the spherical harmonics for the CPU; schema, fake kernels and autograd are in
// sh.py.
#include "sh.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>

#include "../binding.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

HarmonicsInputs inputs(int64_t degree, const Tensor& directions, const Tensor& coefficients,
                       const OptionalTensor& masks) {
    check(directions, "directions", at::kFloat, 3, directions);
    check(coefficients, "coefficients", at::kFloat, 3, directions);
    if (masks) check(*masks, "masks", at::kBool, -1, directions);
    const int64_t count = directions.numel() / 3;
    TORCH_CHECK(degree >= 0 && degree <= 3, message("degree is ", degree, ", not 0 to 3"));
    TORCH_CHECK(coefficients.dim() == 3 && coefficients.size(0) == count && (!masks || masks->numel() == count),
                "directions, coefficients and masks are not of as many Gaussians");
    TORCH_CHECK(coefficients.size(1) >= (degree + 1) * (degree + 1),
                message("degree ", degree, " takes more than ", coefficients.size(1), " coefficients"));
    TORCH_CHECK(count <= std::numeric_limits<int>::max(), message(count, " Gaussians are too many"));
    return {static_cast<int>(degree),
            directions.const_data_ptr<float>(),
            coefficients.const_data_ptr<float>(),
            data_or_null<bool>(masks),
            static_cast<int>(count),
            static_cast<int>(coefficients.size(1)),
            at::get_num_threads()};
}

Tensor forward(int64_t degree, const Tensor& directions, const Tensor& coefficients, const OptionalTensor& masks) {
    const auto in = inputs(degree, directions, coefficients, masks);
    auto colors = at::empty_like(directions);
    harmonics(in, colors.mutable_data_ptr<float>());
    return colors;
}

std::tuple<Tensor, Tensor> backward(int64_t degree, const Tensor& directions, const Tensor& coefficients,
                                    const OptionalTensor& masks, const Tensor& v_colors) {
    const auto in = inputs(degree, directions, coefficients, masks);
    check(v_colors, "v_colors", at::kFloat, 3, directions);
    TORCH_CHECK(v_colors.numel() == directions.numel(), "v_colors is not of as many Gaussians");
    auto v_directions = at::empty_like(directions), v_coefficients = at::empty_like(coefficients);
    harmonics_backward(in, v_colors.const_data_ptr<float>(), v_directions.mutable_data_ptr<float>(),
                       v_coefficients.mutable_data_ptr<float>());
    return {v_directions, v_coefficients};
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("harmonics", forward);
    m.impl("harmonics_backward", backward);
}

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

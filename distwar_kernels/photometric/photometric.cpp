// Tensors in, tensors out: registers the photometric loss for one backend. Compiled once with photometric_cpu.cpp and
// once with the CUDA kernels; schema, fake kernel and autograd are in photometric.py.
#include "photometric.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>

#include "../binding.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

PhotometricInputs inputs(const Tensor& image, const Tensor& target, const OptionalTensor& background,
                         double lambda_dssim) {
    check(image, "image", at::kFloat, 3, image);
    const bool alpha = target.dim() == 3 && target.size(2) == 4;
    check(target, "target", at::kByte, alpha ? 4 : 3, image);
    TORCH_CHECK(!alpha || background, "target has an alpha channel: give a background");
    if (background) check(*background, "background", at::kFloat, 3, image);
    const auto sizes = image.sizes(), theirs = target.sizes();
    TORCH_CHECK(sizes.size() == 3 && theirs.size() == 3 && theirs.slice(0, 2) == sizes.slice(0, 2),
                message("image and target must be [H, W, ...] of one size, not ", sizes, " and ", theirs));
    TORCH_CHECK(image.numel() > 0, "image has no pixels");
    TORCH_CHECK(image.numel() <= std::numeric_limits<int>::max() / 2, message("image is too large: ", image.sizes()));
    const bool aligned = reinterpret_cast<uintptr_t>(target.const_data_ptr<uint8_t>()) % 4 == 0;
    TORCH_CHECK(!alpha || aligned, "target begins within a pixel of four bytes: clone it");
    PhotometricInputs in{};
    in.image = image.const_data_ptr<float>();
    in.target = target.const_data_ptr<uint8_t>();
    in.background = alpha ? background->const_data_ptr<float>() : nullptr;
    in.width = image.size(1), in.height = image.size(0);
    in.lambda_dssim = lambda_dssim;
    in.threads = at::get_num_threads();
    in.stream = current_stream();
    return in;
}

// errors are empty where they are not asked for.
std::tuple<Tensor, Tensor, Tensor, Tensor> loss(const Tensor& image, const Tensor& target,
                                                const OptionalTensor& background, double lambda_dssim,
                                                bool with_errors) {
    const DeviceGuard guard(image.device());
    const auto in = inputs(image, target, background, lambda_dssim);
    const auto options = image.options();
    auto value = at::empty({}, options), parts = at::empty({2}, options), v_image = at::empty_like(image);
    auto errors = with_errors ? at::empty({in.height, in.width}, options) : at::empty({0}, options);
    const auto maps = at::empty({photometric_map_floats(in.width, in.height)}, options);
    const auto partials = at::empty({photometric_blocks(in.width, in.height), 2}, options);
    photometric_loss(in, {maps.mutable_data_ptr<float>(), partials.mutable_data_ptr<float>()},
                     {value.mutable_data_ptr<float>(), parts.mutable_data_ptr<float>(),
                      v_image.mutable_data_ptr<float>(), with_errors ? errors.mutable_data_ptr<float>() : nullptr});
    check_launch("photometric_loss");
    return {value, parts, v_image, errors};
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) { m.impl("photometric_loss", loss); }

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

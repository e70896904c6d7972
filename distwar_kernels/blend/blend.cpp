// Tensors in, tensors out: checks and registers the blend op for one backend. Compiled once with blend_cpu.cpp and once
// with blend.cu; the schemas, fake kernels and autograd are registered from Python (blend.py).
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../tiles/tile_lists_of_tensors.h"
#include "blend.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

BlendInputs inputs(const Tensor& means2d, const Tensor& conics, const Tensor& colors, const Tensor& opacities,
                   const OptionalTensor& backgrounds, const OptionalTensor& masks, const Tensor& isect_offsets,
                   const Tensor& flatten_ids, int64_t width, int64_t height) {
    const int64_t channels = colors.size(-1);
    check(means2d, "means2d", at::kFloat, 2, means2d);
    check(conics, "conics", at::kFloat, 3, means2d);
    check(colors, "colors", at::kFloat, channels, means2d);
    check(opacities, "opacities", at::kFloat, -1, means2d);
    if (backgrounds) check(*backgrounds, "backgrounds", at::kFloat, channels, means2d);
    if (masks) check(*masks, "masks", at::kBool, isect_offsets.size(-1), means2d);
    TORCH_CHECK(takes_channels(channels), message("no kernel for ", channels, " channels: pad the colours"));
    BlendInputs in{tile_lists(isect_offsets, flatten_ids, width, height, means2d)};
    in.means2d = means2d.const_data_ptr<float>();
    in.conics = conics.const_data_ptr<float>();
    in.colors = colors.const_data_ptr<float>();
    in.opacities = opacities.const_data_ptr<float>();
    in.backgrounds = data_or_null<float>(backgrounds);
    in.masks = data_or_null<bool>(masks);
    in.n_gaussians = opacities.numel();
    in.channels = channels;
    in.threads = at::get_num_threads();
    in.stream = current_stream();
    return in;
}

BlendUpstream upstream_of(const Tensor& transmittances, const Tensor& last_ids, const Tensor& v_colors_out,
                          const Tensor& v_transmittances) {
    return {transmittances.const_data_ptr<float>(), last_ids.const_data_ptr<int>(), v_colors_out.const_data_ptr<float>(),
            v_transmittances.const_data_ptr<float>()};
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& means2d, const Tensor& conics, const Tensor& colors,
                                           const Tensor& opacities, const OptionalTensor& backgrounds,
                                           const OptionalTensor& masks, const OptionalTensor& /*absgrad_probe*/,
                                           const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width,
                                           int64_t height, c10::string_view /*strategy*/, int64_t /*threshold*/) {
    const DeviceGuard guard(means2d.device());
    const auto in = inputs(means2d, conics, colors, opacities, backgrounds, masks, isect_offsets, flatten_ids, width, height);
    const auto options = means2d.options();
    auto out_colors = at::empty({in.images, height, width, in.channels}, options);
    auto transmittances = at::empty({in.images, height, width}, options);
    auto last_ids = at::empty({in.images, height, width}, options.dtype(at::kInt));
    blend_forward(in, {out_colors.mutable_data_ptr<float>(), transmittances.mutable_data_ptr<float>(),
                       last_ids.mutable_data_ptr<int>()});
    check_launch("blend_forward");
    return {out_colors, transmittances, last_ids};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& means2d, const Tensor& conics, const Tensor& colors, const Tensor& opacities,
    const OptionalTensor& backgrounds, const OptionalTensor& masks, const Tensor& isect_offsets,
    const Tensor& flatten_ids, const Tensor& transmittances, const Tensor& last_ids, const Tensor& v_colors_out,
    const Tensor& v_transmittances, bool absgrad, c10::string_view strategy, int64_t threshold) {
    const DeviceGuard guard(means2d.device());
    const auto in = inputs(means2d, conics, colors, opacities, backgrounds, masks, isect_offsets, flatten_ids,
                           last_ids.size(2), last_ids.size(1));
    check(v_colors_out, "v_colors_out", at::kFloat, in.channels, means2d);
    check(v_transmittances, "v_transmittances", at::kFloat, in.width, means2d);
    auto v_means2d = at::zeros_like(means2d), v_conics = at::zeros_like(conics), v_colors = at::zeros_like(colors);
    auto v_opacities = at::zeros_like(opacities);
    auto v_means2d_abs = absgrad ? at::zeros_like(means2d) : at::empty({0}, means2d.options());
    const auto upstream = upstream_of(transmittances, last_ids, v_colors_out, v_transmittances);
    BlendGradients grad;
    grad.v_means2d = v_means2d.mutable_data_ptr<float>();
    grad.v_conics = v_conics.mutable_data_ptr<float>();
    grad.v_colors = v_colors.mutable_data_ptr<float>();
    grad.v_opacities = v_opacities.mutable_data_ptr<float>();
    grad.v_means2d_abs = absgrad ? v_means2d_abs.mutable_data_ptr<float>() : nullptr;
    blend_backward(in, upstream, grad, strategy_named(strategy), threshold);
    check_launch("blend_backward");
    return {v_means2d, v_conics, v_colors, v_opacities, v_means2d_abs};
}

// Runs forward for the pixels' last contributors, then counts; the colours do not matter to either.
Tensor traffic(const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const OptionalTensor& masks,
               const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width, int64_t height) {
    const DeviceGuard guard(means2d.device());
    const auto colors = at::zeros({opacities.numel(), 1}, means2d.options());
    const auto [image, transmittances, last_ids] =
        forward(means2d, conics, colors, opacities, {}, masks, {}, isect_offsets, flatten_ids, width, height, "", 0);
    const auto in = inputs(means2d, conics, colors, opacities, {}, masks, isect_offsets, flatten_ids, width, height);
    const auto nothing = at::zeros_like(image);
    auto counts = at::zeros({kTrafficRows, kWarpSize + 1}, means2d.options().dtype(at::kLong));
    blend_traffic(in, upstream_of(transmittances, last_ids, nothing, nothing), counts.mutable_data_ptr<int64_t>());
    check_launch("blend_traffic");
    return counts;
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("blend_forward", forward);
    m.impl("blend_backward", backward);
    m.impl("blend_traffic", traffic);
}

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

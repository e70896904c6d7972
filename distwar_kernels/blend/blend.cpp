// Tensors in, tensors out: checks and registers the blend op for one backend. Compiled once with blend_cpu.cpp and once
// with the CUDA kernels; the schemas, fake kernels and autograd are registered from Python (blend.py).
#include "blend.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../tiles/tile_lists_of_tensors.h"

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

// What the forward pass leaves, as tensors. The CPU's keeps no Gaussians and no visits.
struct State {
    Tensor transmittances, last_ids, splats, visits;

    State(const BlendInputs& in, const at::TensorOptions& options) {
        transmittances = at::empty({in.images, in.height, in.width}, options);
        last_ids = at::empty({in.images, in.height, in.width}, options.dtype(at::kInt));
        const bool cuda = options.device().is_cuda();
        splats = at::empty({cuda ? in.n_gaussians : 0, kSplatFloats}, options);
        // Zeroed: not every word belongs to a list, and torch.compile compares what an op returns.
        visits = at::zeros({cuda ? in.n_isects / kWarpSize + in.tiles() : 0, kPatchesPerTile}, options.dtype(at::kInt));
    }

    BlendState pointers() const {
        return {transmittances.mutable_data_ptr<float>(), last_ids.mutable_data_ptr<int>(),
                splats.mutable_data_ptr<float>(), visits.mutable_data_ptr<int>()};
    }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const Tensor& means2d, const Tensor& conics, const Tensor& colors, const Tensor& opacities,
    const OptionalTensor& backgrounds, const OptionalTensor& masks, const OptionalTensor& /*absgrad_probe*/,
    const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width, int64_t height,
    c10::string_view /*strategy*/, int64_t /*threshold*/) {
    const DeviceGuard guard(means2d.device());
    const auto in =
        inputs(means2d, conics, colors, opacities, backgrounds, masks, isect_offsets, flatten_ids, width, height);
    const State state(in, means2d.options());
    auto colors_out = at::empty({in.images, height, width, in.channels}, means2d.options());
    blend_forward(in, state.pointers(), colors_out.mutable_data_ptr<float>());
    check_launch("blend_forward");
    return {colors_out, state.transmittances, state.last_ids, state.splats, state.visits};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& means2d, const Tensor& conics, const Tensor& colors, const Tensor& opacities,
    const OptionalTensor& backgrounds, const OptionalTensor& masks, const Tensor& isect_offsets,
    const Tensor& flatten_ids, const Tensor& transmittances, const Tensor& last_ids, const Tensor& splats,
    const Tensor& visits, const Tensor& v_colors_out, const Tensor& v_transmittances, bool absgrad,
    c10::string_view strategy, int64_t threshold) {
    const DeviceGuard guard(means2d.device());
    const auto in = inputs(means2d, conics, colors, opacities, backgrounds, masks, isect_offsets, flatten_ids,
                           last_ids.size(2), last_ids.size(1));
    check(v_colors_out, "v_colors_out", at::kFloat, in.channels, means2d);
    check(v_transmittances, "v_transmittances", at::kFloat, in.width, means2d);
    const Strategy chosen = strategy_named(strategy);
    const bool in_records = sums_in_records(chosen, in.channels);  // then it writes every gradient, but adds to none
    const auto sums = [&](const Tensor& like) { return in_records ? at::empty_like(like) : at::zeros_like(like); };
    auto v_means2d = sums(means2d), v_conics = sums(conics), v_colors = sums(colors), v_opacities = sums(opacities);
    auto v_means2d_abs = absgrad ? sums(means2d) : at::empty({0}, means2d.options());
    const auto records = at::zeros({in_records ? in.n_gaussians : 0, kSplatFloats}, means2d.options());
    const BlendGradients grad = {v_means2d.mutable_data_ptr<float>(), v_conics.mutable_data_ptr<float>(),
                                 v_colors.mutable_data_ptr<float>(), v_opacities.mutable_data_ptr<float>(),
                                 absgrad ? v_means2d_abs.mutable_data_ptr<float>() : nullptr};
    const BlendState state = {transmittances.mutable_data_ptr<float>(), last_ids.mutable_data_ptr<int>(),
                              splats.mutable_data_ptr<float>(), visits.mutable_data_ptr<int>()};
    const BlendUpstream upstream = {v_colors_out.const_data_ptr<float>(), v_transmittances.const_data_ptr<float>()};
    blend_backward(in, state, upstream, grad, in_records ? records.mutable_data_ptr<float>() : nullptr, chosen,
                   threshold);
    check_launch("blend_backward");
    return {v_means2d, v_conics, v_colors, v_opacities, v_means2d_abs};
}

// Runs forward for the pixels' last contributors, then counts; the colours do not matter to either.
Tensor traffic(const Tensor& means2d, const Tensor& conics, const Tensor& opacities, const OptionalTensor& masks,
               const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width, int64_t height) {
    const DeviceGuard guard(means2d.device());
    const auto colors = at::zeros({opacities.numel(), 1}, means2d.options());
    const auto in = inputs(means2d, conics, colors, opacities, {}, masks, isect_offsets, flatten_ids, width, height);
    const State state(in, means2d.options());
    auto image = at::empty({in.images, height, width, 1}, means2d.options());
    blend_forward(in, state.pointers(), image.mutable_data_ptr<float>());
    auto counts = at::zeros({kTrafficRows, kWarpSize + 1}, means2d.options().dtype(at::kLong));
    blend_traffic(in, state.pointers(), counts.mutable_data_ptr<int64_t>());
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

// The fused rasteriser's ops: tensors in, tensors out. Schemas, fake kernels and autograd are in ops.py.
#include <torch/library.h>

#include <algorithm>

#include "fused_tensors.h"

namespace distwar::cuda {
namespace {

std::vector<Tensor> project_splats(Inputs inputs, bool with_slopes, int64_t capacity, TensorList moments,
                                   at::ArrayRef<double> rates, const OptionalTensor& last_steps, int64_t t) {
    if (last_steps) inputs.gaussians.adam = adam_of(inputs.parameters, moments, rates, last_steps, t);
    const VisibleTensors visible(inputs, capacity, with_slopes);
    const auto scan_words = at::zeros({project_words(inputs.gaussians)}, inputs.floats.dtype(at::kInt));
    project(inputs.gaussians, inputs.view, visible.pointers(),
            reinterpret_cast<unsigned*>(scan_words.mutable_data_ptr<int>()), current_stream());
    check_launch("fused_project");
    return visible.tensors();
}

// Lists and blends splats from wherever. The last three arguments are the backward pass's.
std::tuple<Tensor, std::vector<Tensor>> blend_splats(const Tensor& total, const Tensor& splats, const Tensor& depths,
                                                     at::IntArrayRef image, const OptionalTensor& background,
                                                     bool with_depth, int64_t list_capacity, bool /*absgrad*/,
                                                     c10::string_view /*strategy*/, int64_t /*threshold*/) {
    const DeviceGuard guard(splats.device());
    TORCH_CHECK(image.size() == 2, "an image has a width and a height");
    check(total, "total", at::kInt, 1, splats);
    check(depths, "depths", at::kFloat, splats.size(0), splats);
    const auto floats = splats.options().requires_grad(false);
    const int64_t width = image[0], height = image[1], capacity = splats.size(0);
    const TileGrid grid = checked_grid(width, height);
    const BlendTensors blend(width, height, grid, list_capacity, floats);
    const int channels = with_depth ? 4 : 3;
    const BlendInputs in = blend.blend_inputs(splats, channels, background);

    Visible visible{};
    visible.total = total.mutable_data_ptr<int>(), visible.splats = splats.mutable_data_ptr<float>();
    visible.depths = depths.mutable_data_ptr<float>(), visible.capacity = capacity;
    const int64_t scratch_bytes = list_scratch_bytes(grid, capacity, list_capacity);
    const auto scratch = at::empty({scratch_bytes}, floats.dtype(at::kByte));
    list_splats(grid, visible, blend.lists(), scratch.mutable_data_ptr<uint8_t>(), current_stream());
    auto colors = at::empty({height, width, channels}, floats);
    blend_forward(in, blend.state(splats), colors.mutable_data_ptr<float>());
    check_launch("fused_blend");
    return {colors, blend.tensors()};
}

// Counts what the blend's backward pass sends to the atomic units (../traffic.h).
Tensor traffic(const Tensor& splats, TensorList saved) {
    const DeviceGuard guard(splats.device());
    const BlendTensors blend(saved);
    auto counts = at::zeros({kTrafficRows, kWarpSize + 1}, blend.counts.options().dtype(at::kLong));
    blend_traffic(blend.blend_inputs(splats, 3, {}), blend.state(splats), counts.mutable_data_ptr<int64_t>());
    check_launch("fused_traffic");
    return counts;
}

// The blend's gradients: [capacity, 12], a record for each splat (../records.cuh). errors: [height, width], summed by
// weight in the place of the fourth channel.
Tensor blend_records(const Tensor& splats, TensorList saved, const OptionalTensor& background, const Tensor& v_image,
                     const OptionalTensor& v_transmittances, bool absgrad, c10::string_view strategy, int64_t threshold,
                     bool deterministic, const OptionalTensor& errors) {
    const DeviceGuard guard(splats.device());
    const BlendTensors blend(saved);
    const int channels = v_image.size(-1);
    TORCH_CHECK(channels == 3 || channels == 4, message("v_image has ", channels, " channels, not 3 or 4"));
    const BlendInputs in = blend.blend_inputs(splats, channels, background);
    check(v_image, "v_image", at::kFloat, channels, splats);
    if (v_transmittances) check(*v_transmittances, "v_transmittances", at::kFloat, in.width, splats);
    if (errors) {
        TORCH_CHECK(channels == 3, "errors are summed in the fourth channel's place: not where depth is blended");
        const int64_t size[] = {in.height, in.width};
        TORCH_CHECK(errors->sizes() == at::IntArrayRef(size),
                    message("errors are of size ", errors->sizes(), ", not of the image's"));
        check(*errors, "errors", at::kFloat, in.width, splats);
    }
    auto records = at::zeros_like(splats);
    const BlendUpstream upstream = {v_image.const_data_ptr<float>(), data_or_null<float>(v_transmittances),
                                    data_or_null<float>(errors)};
    float* sums = records.mutable_data_ptr<float>();
    if (deterministic) {
        TORCH_CHECK(strategy == "sw_t", "only the reduction strategy sw_t can be deterministic");
        const auto exact = at::zeros_like(records, records.options().dtype(at::kLong));
        Tensor of_image = v_image.abs().max();
        if (v_transmittances) of_image = at::maximum(of_image, v_transmittances->abs().max());
        const Tensor largest = at::stack({of_image, errors ? errors->max() : of_image});
        blend_backward_to_exact_records(in, blend.state(splats), upstream, sums, absgrad,
                                        reinterpret_cast<long long*>(exact.mutable_data_ptr<int64_t>()),
                                        largest.const_data_ptr<float>());
    } else {
        blend_backward_to_records(in, blend.state(splats), upstream, sums, absgrad, strategy_named(strategy),
                                  threshold);
    }
    check_launch("fused_blend_backward");
    return records;
}

// Calls f with each pass over features [N, F], and with how many of them it has.
template <class F>
void for_passes(const Tensor& features, F f) {
    const int channels = features.size(1);
    for (int first = 0; first < channels; first += FeaturePass::kChannels)
        f(FeaturePass{features.const_data_ptr<float>(), channels, first},
          std::min(channels - first, FeaturePass::kChannels));
}

// Features [N, F] blended as the colours were, over zeros: [height, width, F].
Tensor draw_features(const Tensor& features, TensorList saved_visible, TensorList saved_blend, bool /*absgrad*/,
                     c10::string_view /*strategy*/, int64_t /*threshold*/) {
    VisibleTensors visible(saved_visible);
    BlendTensors blend(saved_blend);
    const DeviceGuard guard(features.device());
    check(features, "features", at::kFloat, -1, visible.splats);
    visible.splats = visible.splats.clone();
    // Recomputed with identical values; fresh buffers, because autograd's saved tensors must not be written.
    blend.transmittances = at::empty_like(blend.transmittances), blend.last_ids = at::empty_like(blend.last_ids);
    blend.visits = at::empty_like(blend.visits);
    const BlendInputs in = blend.blend_inputs(visible.splats, FeaturePass::kChannels, {});
    std::vector<Tensor> images;
    for_passes(features, [&](const FeaturePass& pass, int count) {
        paint_features(pass, visible.pointers(), current_stream());
        auto image = at::empty({in.height, in.width, FeaturePass::kChannels}, features.options());
        blend_forward(in, blend.state(visible.splats), image.mutable_data_ptr<float>());
        images.push_back(image.narrow(2, 0, count));
    });
    check_launch("fused_features");
    return at::cat(images, 2);
}

// dL/d(features), and what the features add to the records of the blend's gradients.
std::tuple<Tensor, Tensor> differentiate_features(const Tensor& features, TensorList saved_visible,
                                                  TensorList saved_blend, const Tensor& v_image, bool absgrad,
                                                  c10::string_view strategy, int64_t threshold) {
    VisibleTensors visible(saved_visible);
    const BlendTensors blend(saved_blend);
    const DeviceGuard guard(features.device());
    check(features, "features", at::kFloat, -1, visible.splats);
    check(v_image, "v_image", at::kFloat, features.size(1), visible.splats);
    visible.splats = visible.splats.clone();
    const BlendInputs in = blend.blend_inputs(visible.splats, FeaturePass::kChannels, {});
    auto v_features = at::zeros_like(features), records = at::zeros_like(visible.splats);
    for_passes(features, [&](const FeaturePass& pass, int count) {
        paint_features(pass, visible.pointers(), current_stream());
        const auto v_pass =
            at::constant_pad_nd(v_image.narrow(2, pass.first, count), {0, FeaturePass::kChannels - count}).contiguous();
        blend_backward_to_records(in, blend.state(visible.splats), {v_pass.const_data_ptr<float>(), nullptr},
                                  records.mutable_data_ptr<float>(), absgrad, strategy_named(strategy), threshold);
        collect_features(pass, visible.pointers(), records.mutable_data_ptr<float>(),
                         v_features.mutable_data_ptr<float>(), current_stream());
    });
    check_launch("fused_features_backward");
    return {v_features, records};
}

std::vector<Tensor> gradients(Inputs inputs, TensorList saved_visible, const OptionalTensor& counts,
                              int64_t list_capacity, const Tensor& records, bool absgrad, const OptionalTensor& grad2d,
                              const OptionalTensor& count, const OptionalTensor& score,
                              const OptionalTensor& v_viewmat) {
    const VisibleTensors visible(saved_visible);
    const PoseSums pose(v_viewmat, visible);
    check(records, "records", at::kFloat, kSplatFloats, visible.splats);
    std::vector<Tensor> arrays;
    for (const Tensor& parameter : inputs.parameters) arrays.push_back(at::zeros_like(parameter));
    const auto data = [&](Parameter p) { return arrays[p].mutable_data_ptr<float>(); };
    project_backward(inputs.gaussians, inputs.view, visible.pointers(), fit_of(visible, counts, list_capacity),
                     records.const_data_ptr<float>(), statistics_of(grad2d, count, score, absgrad, inputs),
                     {data(kMeans), data(kQuats), data(kScales), data(kOpacities), data(kSh0), data(kShN)},
                     pose.pointers(), current_stream());
    check_launch("fused_gradients");
    return arrays;
}

// sums: of the parameters' sizes, changed.
void add_gradients(Inputs inputs, TensorList saved_visible, const OptionalTensor& counts, int64_t list_capacity,
                   const Tensor& records, bool absgrad, const OptionalTensor& grad2d, const OptionalTensor& count,
                   const OptionalTensor& score, TensorList sums) {
    const VisibleTensors visible(saved_visible);
    check(records, "records", at::kFloat, kSplatFloats, visible.splats);
    TORCH_CHECK(records.size(0) == visible.splats.size(0), "there is not a record for each place of a splat");
    TORCH_CHECK(sums.size() == Adam::kParameters, "six sums are needed");
    for (int i = 0; i < Adam::kParameters; ++i) {
        check(sums[i], "a sum", at::kFloat, -1, inputs.parameters[i]);
        TORCH_CHECK(sums[i].numel() == inputs.parameters[i].numel(), "a sum is not of its parameter's size");
    }
    const auto data = [&](Parameter p) { return sums[p].mutable_data_ptr<float>(); };
    add_project_backward(inputs.gaussians, inputs.view, visible.pointers(), fit_of(visible, counts, list_capacity),
                         records.const_data_ptr<float>(), statistics_of(grad2d, count, score, absgrad, inputs),
                         {data(kMeans), data(kQuats), data(kScales), data(kOpacities), data(kSh0), data(kShN)},
                         current_stream());
    check_launch("fused_add_gradients");
}

void step(Inputs inputs, TensorList saved_visible, const OptionalTensor& counts, int64_t list_capacity,
          const Tensor& records, bool absgrad, const OptionalTensor& grad2d, const OptionalTensor& count,
          const OptionalTensor& score, const OptionalTensor& v_viewmat, TensorList moments, at::ArrayRef<double> rates,
          const OptionalTensor& last_steps, int64_t t) {
    inputs.gaussians.adam = adam_of(inputs.parameters, moments, rates, last_steps, t);
    const VisibleTensors visible(saved_visible);
    const PoseSums pose(v_viewmat, visible);
    check(records, "records", at::kFloat, kSplatFloats, visible.splats);
    project_backward_and_step(inputs.gaussians, inputs.view, visible.pointers(), fit_of(visible, counts, list_capacity),
                              records.const_data_ptr<float>(), statistics_of(grad2d, count, score, absgrad, inputs),
                              pose.pointers(), current_stream());
    check_launch("fused_step");
}

// dL/d(viewmat) alone, [1, 4, 4].
Tensor pose_gradient(Inputs inputs, TensorList saved_visible, const OptionalTensor& counts, int64_t list_capacity,
                     const Tensor& records) {
    const VisibleTensors visible(saved_visible);
    check(records, "records", at::kFloat, kSplatFloats, visible.splats);
    const Tensor v_viewmat = at::empty({1, 4, 4}, inputs.floats);
    const PoseSums pose(v_viewmat, visible);
    pose_backward(inputs.gaussians, inputs.view, visible.pointers(), fit_of(visible, counts, list_capacity),
                  records.const_data_ptr<float>(), pose.pointers(), current_stream());
    check_launch("fused_pose_gradient");
    return v_viewmat;
}

void catch_up_all(TensorList parameters, TensorList moments, at::ArrayRef<double> rates, const Tensor& last_steps,
                  int64_t t) {
    const DeviceGuard guard(parameters[0].device());
    const int count = parameters[kMeans].size(0), sh_rows = parameters[kShN].size(1);
    catch_up(adam_of(parameters, moments, rates, last_steps, t), count, sh_rows, current_stream());
    check_launch("fused_catch_up");
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("fused_project", WithInputs<project_splats>::op);
    m.impl("fused_blend", blend_splats);
    m.impl("fused_blend_backward", blend_records);
    m.impl("fused_features", draw_features);
    m.impl("fused_features_backward", differentiate_features);
    m.impl("fused_traffic", traffic);
    m.impl("fused_gradients", WithInputs<gradients>::op);
    m.impl("fused_add_gradients", WithInputs<add_gradients>::op);
    m.impl("fused_step", WithInputs<step>::op);
    m.impl("fused_pose_gradient", WithInputs<pose_gradient>::op);
    m.impl("fused_catch_up", catch_up_all);
}

}  // namespace
}  // namespace distwar::cuda

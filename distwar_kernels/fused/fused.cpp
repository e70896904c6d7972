// Tensors in, tensors out: checks and registers the fused rasteriser. Schemas, fake kernels and autograd are in
// fused.py.
//
// What the forward pass leaves travels as one list of tensors in the order of struct State.
#include "fused.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <algorithm>

#include "../binding.h"
#include "../blend/blend.h"

namespace distwar::cuda {
namespace {

using at::TensorList;

struct View {
    Gaussians gaussians;
    Camera camera;
    OptionalTensor background;

    // parameters: means, quats, scales, opacities, sh0, shN. planes: near, far.
    View(TensorList parameters, const Tensor& viewmat, const Tensor& K, const OptionalTensor& background, int64_t width,
         int64_t height, at::ArrayRef<double> planes, bool antialiased, bool with_depth, int64_t sh_degree)
        : background(background) {
        TORCH_CHECK(parameters.size() == 6 && planes.size() == 2, "six parameters and two planes are needed");
        const Tensor& means = parameters[0];
        const char* names[] = {"means", "quats", "scales", "opacities", "sh0", "shN"};
        const int64_t last_sizes[] = {3, 4, 3, -1, 3, 3};
        for (int i = 0; i < 6; ++i) {
            check(parameters[i], names[i], at::kFloat, last_sizes[i], means);
            TORCH_CHECK(parameters[i].size(0) == means.size(0),
                        message(names[i], " has ", parameters[i].size(0), " rows, means ", means.size(0)));
        }
        check(viewmat, "viewmat", at::kFloat, 4, means);
        check(K, "K", at::kFloat, 3, means);
        if (background) check(*background, "background", at::kFloat, with_depth ? 4 : 3, means);
        const auto data = [&](int i) { return parameters[i].const_data_ptr<float>(); };
        const int sh_rows = parameters[5].size(1);
        TORCH_CHECK(0 <= sh_degree && (sh_degree + 1) * (sh_degree + 1) - 1 <= sh_rows && sh_degree <= 3,
                    message("shN has ", sh_rows, " rows, too few for degree ", sh_degree));
        gaussians = {data(0),
                     data(1),
                     data(2),
                     data(3),
                     data(4),
                     data(5),
                     static_cast<int>(means.size(0)),
                     sh_rows,
                     static_cast<int>(sh_degree),
                     Adam{}};
        camera = {viewmat.const_data_ptr<float>(),
                  K.const_data_ptr<float>(),
                  static_cast<int>(width),
                  static_cast<int>(height),
                  static_cast<float>(planes[0]),
                  static_cast<float>(planes[1]),
                  antialiased,
                  with_depth};
        TORCH_CHECK(camera.tiles() <= kMostTiles,
                    message("an image of ", width, " x ", height, " pixels has more than ", kMostTiles, " tiles"));
    }

    int channels() const { return camera.with_depth ? 4 : 3; }
};

// What the forward pass leaves.
struct State {
    Tensor counts, gaussian_ids, splats, color_slopes, isect_offsets, flatten_ids;  // struct Visible
    Tensor transmittances, last_ids, visits;                                        // struct BlendState
    static constexpr int kTensors = 9;

    State(const View& view, int64_t capacity, int64_t list_capacity, bool with_slopes,
          const at::TensorOptions& floats) {
        const Camera& camera = view.camera;
        const auto ints = floats.dtype(at::kInt);
        counts = at::empty({2}, ints);
        gaussian_ids = at::empty({capacity}, ints);
        splats = at::empty({capacity, kSplatFloats}, floats);
        color_slopes = at::empty({9, with_slopes && view.gaussians.sh_degree > 0 ? capacity : 0}, floats);
        isect_offsets = at::empty({camera.tiles() + 1}, ints);
        flatten_ids = at::empty({list_capacity}, ints);
        transmittances = at::empty({camera.height, camera.width}, floats);
        last_ids = at::empty({camera.height, camera.width}, ints);
        visits = at::empty({list_capacity / kWarpSize + camera.tiles(), kPatchesPerTile}, ints);
    }

    explicit State(TensorList saved) {
        TORCH_CHECK(saved.size() == kTensors, "not what the forward pass left");
        Tensor* const mine[] = {&counts,      &gaussian_ids,   &splats,   &color_slopes, &isect_offsets,
                                &flatten_ids, &transmittances, &last_ids, &visits};
        for (int i = 0; i < kTensors; ++i) *mine[i] = saved[i];
    }

    std::vector<Tensor> tensors() const {
        return {counts,      gaussian_ids,   splats,   color_slopes, isect_offsets,
                flatten_ids, transmittances, last_ids, visits};
    }

    Visible visible() const {
        return {counts.mutable_data_ptr<int>(),
                gaussian_ids.mutable_data_ptr<int>(),
                splats.mutable_data_ptr<float>(),
                color_slopes.numel() ? color_slopes.mutable_data_ptr<float>() : nullptr,
                isect_offsets.mutable_data_ptr<int>(),
                flatten_ids.mutable_data_ptr<int>(),
                static_cast<int>(gaussian_ids.numel()),
                static_cast<int>(flatten_ids.numel())};
    }

    BlendInputs blend_inputs(const View& view) const { return blend_inputs(view.channels(), view.background); }

    BlendInputs blend_inputs(int channels, const OptionalTensor& background) const {
        Camera camera{};
        camera.width = transmittances.size(1), camera.height = transmittances.size(0);
        BlendInputs in{};
        in.isect_offsets = isect_offsets.const_data_ptr<int>(), in.flatten_ids = flatten_ids.const_data_ptr<int>();
        in.with_end = true;
        in.images = 1, in.n_isects = flatten_ids.numel();
        in.width = camera.width, in.height = camera.height;
        in.tile_width = camera.tile_width(), in.tile_height = camera.tile_height();
        in.backgrounds = data_or_null<float>(background);
        in.n_gaussians = gaussian_ids.numel(), in.channels = channels;
        in.stream = current_stream();
        return in;
    }

    BlendState blend_state() const {
        return {transmittances.mutable_data_ptr<float>(), last_ids.mutable_data_ptr<int>(),
                splats.mutable_data_ptr<float>(), visits.mutable_data_ptr<int>()};
    }
};

// moments: exp_avg of the six parameters, then exp_avg_sq. rates: their step sizes, beta1, beta2, eps, 1 / sqrt(1 -
// beta2^t).
Adam adam_of(TensorList parameters, TensorList moments, at::ArrayRef<double> rates, const OptionalTensor& last_steps,
             int64_t t) {
    TORCH_CHECK(moments.size() == 12 && rates.size() == 10, "twelve moments and ten rates are needed");
    Adam adam;
    for (int i = 0; i < Adam::kParameters; ++i) {
        for (const Tensor& moment : {moments[i], moments[i + Adam::kParameters]}) {
            check(moment, "a moment", at::kFloat, -1, parameters[i]);
            TORCH_CHECK(moment.numel() == parameters[i].numel(), "a moment is not of its parameter's size");
        }
        adam.parameters[i] = parameters[i].mutable_data_ptr<float>();
        adam.exp_avg[i] = moments[i].mutable_data_ptr<float>();
        adam.exp_avg_sq[i] = moments[i + Adam::kParameters].mutable_data_ptr<float>();
        adam.step_sizes[i] = rates[i];
    }
    adam.beta1 = rates[6], adam.beta2 = rates[7], adam.eps = rates[8], adam.root_correction = rates[9];
    adam.step = t;
    adam.last_steps = nullptr;
    if (last_steps) {
        check(*last_steps, "last_steps", at::kInt, parameters[0].size(0), parameters[0]);
        adam.last_steps = last_steps->mutable_data_ptr<int>();
    }
    return adam;
}

std::tuple<Tensor, std::vector<Tensor>> forward(TensorList parameters, const Tensor& viewmat, const Tensor& K,
                                                const OptionalTensor& background, int64_t width, int64_t height,
                                                at::ArrayRef<double> planes, bool antialiased, bool with_depth,
                                                int64_t sh_degree, bool with_slopes, int64_t capacity,
                                                int64_t list_capacity, bool /*absgrad*/, c10::string_view /*strategy*/,
                                                int64_t /*threshold*/, TensorList moments, at::ArrayRef<double> rates,
                                                const OptionalTensor& last_steps, int64_t t) {
    const DeviceGuard guard(parameters[0].device());
    View view(parameters, viewmat, K, background, width, height, planes, antialiased, with_depth, sh_degree);
    if (last_steps) view.gaussians.adam = adam_of(parameters, moments, rates, last_steps, t);
    const auto floats = parameters[0].options().requires_grad(false);
    const State state(view, capacity, list_capacity, with_slopes, floats);
    const Visible visible = state.visible();
    const auto scratch =
        at::empty({static_cast<int64_t>(scratch_bytes(view.gaussians, view.camera, visible))}, floats.dtype(at::kByte));
    project_and_list(view.gaussians, view.camera, visible, scratch.mutable_data_ptr<uint8_t>(), current_stream());
    auto image = at::empty({height, width, view.channels()}, floats);
    blend_forward(state.blend_inputs(view), state.blend_state(), image.mutable_data_ptr<float>());
    check_launch("fused_forward");
    return {image, state.tensors()};
}

// Counts what the blend's backward pass sends to the atomic units (../traffic.h).
Tensor traffic(TensorList parameters, const Tensor& viewmat, const Tensor& K, const OptionalTensor& background,
               int64_t width, int64_t height, at::ArrayRef<double> planes, bool antialiased, bool with_depth,
               int64_t sh_degree, TensorList saved) {
    const DeviceGuard guard(parameters[0].device());
    const View view(parameters, viewmat, K, background, width, height, planes, antialiased, with_depth, sh_degree);
    const State state(saved);
    auto counts = at::zeros({kTrafficRows, kWarpSize + 1}, state.counts.options().dtype(at::kLong));
    blend_traffic(state.blend_inputs(view), state.blend_state(), counts.mutable_data_ptr<int64_t>());
    check_launch("fused_traffic");
    return counts;
}

// The blend's gradients: [capacity, 12], a record for each visible Gaussian (../records.cuh).
Tensor blend_records(TensorList parameters, const Tensor& viewmat, const Tensor& K, const OptionalTensor& background,
                     int64_t width, int64_t height, at::ArrayRef<double> planes, bool antialiased, bool with_depth,
                     int64_t sh_degree, TensorList saved, const Tensor& v_image, const OptionalTensor& v_transmittances,
                     bool absgrad, c10::string_view strategy, int64_t threshold, bool deterministic) {
    const DeviceGuard guard(parameters[0].device());
    const View view(parameters, viewmat, K, background, width, height, planes, antialiased, with_depth, sh_degree);
    const State state(saved);
    check(v_image, "v_image", at::kFloat, view.channels(), state.splats);
    if (v_transmittances) check(*v_transmittances, "v_transmittances", at::kFloat, view.camera.width, state.splats);
    auto records = at::zeros_like(state.splats);
    const BlendInputs in = state.blend_inputs(view);
    const BlendUpstream upstream = {v_image.const_data_ptr<float>(), data_or_null<float>(v_transmittances)};
    float* sums = records.mutable_data_ptr<float>();
    if (deterministic) {
        TORCH_CHECK(strategy == "sw_t", "only the reduction strategy sw_t can be deterministic");
        const auto exact = at::zeros_like(records, records.options().dtype(at::kLong));
        const Tensor largest = v_image.abs().max();
        blend_backward_to_exact_records(in, state.blend_state(), upstream, sums, absgrad,
                                        reinterpret_cast<long long*>(exact.mutable_data_ptr<int64_t>()),
                                        largest.const_data_ptr<float>());
    } else {
        blend_backward_to_records(in, state.blend_state(), upstream, sums, absgrad, strategy_named(strategy),
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

// Features [N, F] blended as the colours were, before zeros: [height, width, F].
Tensor draw_features(const Tensor& features, TensorList saved, bool /*absgrad*/, c10::string_view /*strategy*/,
                     int64_t /*threshold*/) {
    State state(saved);
    const DeviceGuard guard(state.splats.device());
    check(features, "features", at::kFloat, -1, state.splats);
    state.splats = state.splats.clone();
    // These will be what they were: `saved` is not to be written all the same.
    state.transmittances = at::empty_like(state.transmittances), state.last_ids = at::empty_like(state.last_ids);
    state.visits = at::empty_like(state.visits);
    std::vector<Tensor> images;
    for_passes(features, [&](const FeaturePass& pass, int count) {
        paint_features(pass, state.visible(), current_stream());
        const auto& pixels = state.transmittances;
        auto image = at::empty({pixels.size(0), pixels.size(1), FeaturePass::kChannels}, features.options());
        blend_forward(state.blend_inputs(FeaturePass::kChannels, {}), state.blend_state(),
                      image.mutable_data_ptr<float>());
        images.push_back(image.narrow(2, 0, count));
    });
    check_launch("fused_features");
    return at::cat(images, 2);
}

// dL/d(features), and what the features add to the records of the blend's gradients.
std::tuple<Tensor, Tensor> differentiate_features(const Tensor& features, TensorList saved, const Tensor& v_image,
                                                  bool absgrad, c10::string_view strategy, int64_t threshold) {
    State state(saved);
    const DeviceGuard guard(state.splats.device());
    check(features, "features", at::kFloat, -1, state.splats);
    check(v_image, "v_image", at::kFloat, features.size(1), state.splats);
    state.splats = state.splats.clone();
    auto v_features = at::zeros_like(features), records = at::zeros_like(state.splats);
    for_passes(features, [&](const FeaturePass& pass, int count) {
        paint_features(pass, state.visible(), current_stream());
        const auto v_pass =
            at::constant_pad_nd(v_image.narrow(2, pass.first, count), {0, FeaturePass::kChannels - count}).contiguous();
        blend_backward_to_records(state.blend_inputs(FeaturePass::kChannels, {}), state.blend_state(),
                                  {v_pass.const_data_ptr<float>(), nullptr}, records.mutable_data_ptr<float>(), absgrad,
                                  strategy_named(strategy), threshold);
        collect_features(pass, state.visible(), records.mutable_data_ptr<float>(), v_features.mutable_data_ptr<float>(),
                         current_stream());
    });
    check_launch("fused_features_backward");
    return {v_features, records};
}

Statistics statistics_of(const OptionalTensor& grad2d, const OptionalTensor& count, bool absgrad,
                         const Gaussians& gaussians) {
    if (!grad2d || !count) return {};
    TORCH_CHECK(grad2d->numel() == gaussians.count && count->numel() == gaussians.count && grad2d->is_contiguous() &&
                    count->is_contiguous(),
                "the statistics are not of as many Gaussians as there are");
    return {grad2d->mutable_data_ptr<float>(), count->mutable_data_ptr<float>(), absgrad};
}

std::vector<Tensor> gradients(TensorList parameters, const Tensor& viewmat, const Tensor& K,
                              const OptionalTensor& background, int64_t width, int64_t height,
                              at::ArrayRef<double> planes, bool antialiased, bool with_depth, int64_t sh_degree,
                              TensorList saved, const Tensor& records, bool absgrad, const OptionalTensor& grad2d,
                              const OptionalTensor& count) {
    const DeviceGuard guard(parameters[0].device());
    const View view(parameters, viewmat, K, background, width, height, planes, antialiased, with_depth, sh_degree);
    const State state(saved);
    check(records, "records", at::kFloat, kSplatFloats, state.splats);
    std::vector<Tensor> arrays;
    for (const Tensor& parameter : parameters) arrays.push_back(at::zeros_like(parameter));
    const auto data = [&](int i) { return arrays[i].mutable_data_ptr<float>(); };
    project_backward(view.gaussians, view.camera, state.visible(), records.const_data_ptr<float>(),
                     statistics_of(grad2d, count, absgrad, view.gaussians),
                     {data(0), data(1), data(2), data(3), data(4), data(5)}, current_stream());
    check_launch("fused_gradients");
    return arrays;
}

void step(TensorList parameters, const Tensor& viewmat, const Tensor& K, const OptionalTensor& background,
          int64_t width, int64_t height, at::ArrayRef<double> planes, bool antialiased, bool with_depth,
          int64_t sh_degree, TensorList saved, const Tensor& records, bool absgrad, const OptionalTensor& grad2d,
          const OptionalTensor& count, TensorList moments, at::ArrayRef<double> rates, const OptionalTensor& last_steps,
          int64_t t) {
    const DeviceGuard guard(parameters[0].device());
    View view(parameters, viewmat, K, background, width, height, planes, antialiased, with_depth, sh_degree);
    view.gaussians.adam = adam_of(parameters, moments, rates, last_steps, t);
    const State state(saved);
    check(records, "records", at::kFloat, kSplatFloats, state.splats);
    project_backward_and_step(view.gaussians, view.camera, state.visible(), records.const_data_ptr<float>(),
                              statistics_of(grad2d, count, absgrad, view.gaussians), current_stream());
    check_launch("fused_step");
}

void make_up(TensorList parameters, TensorList moments, at::ArrayRef<double> rates, const Tensor& last_steps,
             int64_t t) {
    const DeviceGuard guard(parameters[0].device());
    const int count = parameters[0].size(0), sh_rows = parameters[5].size(1);
    catch_up(adam_of(parameters, moments, rates, last_steps, t), count, sh_rows, current_stream());
    check_launch("fused_catch_up");
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("fused_forward", forward);
    m.impl("fused_blend_backward", blend_records);
    m.impl("fused_features", draw_features);
    m.impl("fused_features_backward", differentiate_features);
    m.impl("fused_traffic", traffic);
    m.impl("fused_gradients", gradients);
    m.impl("fused_step", step);
    m.impl("fused_catch_up", make_up);
}

}  // namespace
}  // namespace distwar::cuda

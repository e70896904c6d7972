// Tensors as the fused rasteriser's ops take and leave them: checks, and the pointers in them.
//
// What an op leaves for others travels as a list of tensors: VisibleTensors and BlendTensors, named alike in state.py.
#pragma once

#include <ATen/Functions.h>

#include "../binding.h"
#include "../blend/blend.h"
#include "../cameras_of_tensors.h"
#include "fused.h"

namespace distwar::cuda {

using at::TensorList;

// --------------------------------------------------------------------------------------------------- what comes in

inline Gaussians gaussians_of(TensorList parameters, int64_t sh_degree) {
    TORCH_CHECK(parameters.size() == Adam::kParameters, "six parameters are needed");
    const Tensor& means = parameters[kMeans];
    const char* names[] = {"means", "quats", "scales", "opacities", "sh0", "shN"};
    const int64_t last_sizes[] = {3, 4, 3, -1, 3, 3};
    for (int i = 0; i < Adam::kParameters; ++i) {
        check(parameters[i], names[i], at::kFloat, last_sizes[i], means);
        TORCH_CHECK(parameters[i].size(0) == means.size(0),
                    message(names[i], " has ", parameters[i].size(0), " rows, means ", means.size(0)));
    }
    const int sh_rows = parameters[kShN].size(1);
    TORCH_CHECK(0 <= sh_degree && (sh_degree + 1) * (sh_degree + 1) - 1 <= sh_rows && sh_degree <= 3,
                message("shN has ", sh_rows, " rows, too few for degree ", sh_degree));
    const auto data = [&](Parameter p) { return parameters[p].const_data_ptr<float>(); };
    return {data(kMeans),
            data(kQuats),
            data(kScales),
            data(kOpacities),
            data(kSh0),
            data(kShN),
            static_cast<int>(means.size(0)),
            sh_rows,
            static_cast<int>(sh_degree),
            Adam{}};
}

inline TileGrid checked_grid(int64_t width, int64_t height) {
    const TileGrid grid(width, height);
    TORCH_CHECK(grid.tiles() <= kMostTiles,
                message("an image of ", width, " x ", height, " pixels has more than ", kMostTiles, " tiles"));
    return grid;
}

// All Gaussians and the camera that looks at them: what the ops that know the parameters begin with.
struct Inputs {
    TensorList parameters;  // means, quats, scales, opacities, sh0, shN
    Gaussians gaussians;
    View view;
    at::TensorOptions floats;

    // planes: near, far.
    Inputs(TensorList parameters, c10::string_view model, TensorList camera, at::IntArrayRef image,
           at::ArrayRef<double> planes, bool antialiased, bool with_depth, int64_t sh_degree)
        : parameters(parameters),
          gaussians(gaussians_of(parameters, sh_degree)),
          view(view_of(cameras_of_tensors(model, camera, image, parameters[0]), planes, antialiased, with_depth)),
          floats(parameters[0].options().requires_grad(false)) {}

   private:
    static View view_of(const Cameras& camera, at::ArrayRef<double> planes, bool antialiased, bool with_depth) {
        TORCH_CHECK(camera.count == 1, message("the fused rasteriser draws one camera at a time, not ", camera.count));
        TORCH_CHECK(planes.size() == 2, "a near and a far plane are needed");
        return {camera.model,
                camera.viewmats,
                camera.intrinsics,
                camera.width,
                camera.height,
                checked_grid(camera.width, camera.height),
                static_cast<float>(planes[0]),
                static_cast<float>(planes[1]),
                antialiased,
                with_depth};
    }
};

// An op that begins with those arguments, from a function that begins with Inputs. Written out here only.
template <auto kFunction>
struct WithInputs;

template <class Result, class... Rest, Result (*kFunction)(Inputs, Rest...)>
struct WithInputs<kFunction> {
    static Result op(TensorList parameters, c10::string_view model, TensorList camera, at::IntArrayRef image,
                     at::ArrayRef<double> planes, bool antialiased, bool with_depth, int64_t sh_degree, Rest... rest) {
        const DeviceGuard guard(parameters[0].device());
        return kFunction(Inputs(parameters, model, camera, image, planes, antialiased, with_depth, sh_degree), rest...);
    }
};

// moments: exp_avg of the six parameters, then exp_avg_sq. rates: their step sizes, beta1, beta2, eps,
// 1 / sqrt(1 - beta2^t), the prices of opacity and scale.
inline Adam adam_of(TensorList parameters, TensorList moments, at::ArrayRef<double> rates,
                    const OptionalTensor& last_steps, int64_t t) {
    TORCH_CHECK(moments.size() == 12 && rates.size() == 12, "twelve moments and twelve rates are needed");
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
    adam.opacity_price = rates[10], adam.scale_price = rates[11];
    adam.step = t;
    adam.last_steps = nullptr;
    TORCH_CHECK(last_steps || !adam.has_prices(), "prices are for lazy Adam: last_steps is missing");
    if (last_steps) {
        check(*last_steps, "last_steps", at::kInt, parameters[0].size(0), parameters[0]);
        adam.last_steps = last_steps->mutable_data_ptr<int>();
    }
    return adam;
}

inline Statistics statistics_of(const OptionalTensor& grad2d, const OptionalTensor& count, const OptionalTensor& score,
                                bool absgrad, const Inputs& inputs) {
    TORCH_CHECK(!score || !inputs.view.with_depth, "where depth is blended there is no place for a score's errors");
    const auto array = [&](const OptionalTensor& statistic) -> float* {
        if (!statistic) return nullptr;
        TORCH_CHECK(statistic->numel() == inputs.gaussians.count && statistic->is_contiguous(),
                    "the statistics are not of as many Gaussians as there are");
        return statistic->mutable_data_ptr<float>();
    };
    return {array(grad2d), array(count), array(score), absgrad};
}

// -------------------------------------------------------------------------------------------------- what ops leave

// Takes a list of tensors apart, in the order in which they travel.
inline void assign(const std::vector<Tensor*>& fields, TensorList tensors, const char* name) {
    TORCH_CHECK(tensors.size() == fields.size(), message("not what the forward pass has left as ", name, ": ",
                                                         static_cast<int64_t>(tensors.size()), " tensors"));
    for (size_t i = 0; i < fields.size(); ++i) *fields[i] = tensors[i];
}

// state.py: VisibleSplats.
struct VisibleTensors {
    Tensor total, gaussian_ids, splats, depths, color_slopes;

    VisibleTensors(const Inputs& inputs, int64_t capacity, bool with_slopes) {
        const auto ints = inputs.floats.dtype(at::kInt);
        total = at::zeros({1}, ints);
        gaussian_ids = at::empty({capacity}, ints);
        splats = at::empty({capacity, kSplatFloats}, inputs.floats);
        depths = at::empty({capacity}, inputs.floats);
        color_slopes = at::empty({9, with_slopes && inputs.gaussians.sh_degree > 0 ? capacity : 0}, inputs.floats);
    }
    explicit VisibleTensors(TensorList saved) {
        assign({&total, &gaussian_ids, &splats, &depths, &color_slopes}, saved, "visible splats");
    }
    std::vector<Tensor> tensors() const { return {total, gaussian_ids, splats, depths, color_slopes}; }

    Visible pointers() const {
        return {total.mutable_data_ptr<int>(),
                gaussian_ids.mutable_data_ptr<int>(),
                splats.mutable_data_ptr<float>(),
                depths.mutable_data_ptr<float>(),
                color_slopes.numel() ? color_slopes.mutable_data_ptr<float>() : nullptr,
                static_cast<int>(splats.size(0))};
    }
};

// state.py: BlendState.
struct BlendTensors {
    Tensor counts, isect_offsets, flatten_ids, transmittances, last_ids, visits;

    BlendTensors(int64_t width, int64_t height, const TileGrid& grid, int64_t list_capacity,
                 const at::TensorOptions& floats) {
        const auto ints = floats.dtype(at::kInt);
        counts = at::empty({2}, ints);
        isect_offsets = at::empty({grid.tiles() + 1}, ints);
        flatten_ids = at::empty({list_capacity}, ints);
        transmittances = at::empty({height, width}, floats);
        last_ids = at::empty({height, width}, ints);
        visits = at::empty({list_capacity / kWarpSize + grid.tiles(), kPatchesPerTile}, ints);
    }
    explicit BlendTensors(TensorList saved) {
        assign({&counts, &isect_offsets, &flatten_ids, &transmittances, &last_ids, &visits}, saved, "a blend's state");
    }
    std::vector<Tensor> tensors() const {
        return {counts, isect_offsets, flatten_ids, transmittances, last_ids, visits};
    }

    Lists lists() const {
        return {counts.mutable_data_ptr<int>(), isect_offsets.mutable_data_ptr<int>(),
                flatten_ids.mutable_data_ptr<int>(), static_cast<int>(flatten_ids.numel())};
    }

    BlendInputs blend_inputs(const Tensor& splats, int channels, const OptionalTensor& background) const {
        check(splats, "splats", at::kFloat, kSplatFloats, splats);
        if (background) check(*background, "background", at::kFloat, channels, splats);
        BlendInputs in{};
        in.isect_offsets = isect_offsets.const_data_ptr<int>(), in.flatten_ids = flatten_ids.const_data_ptr<int>();
        in.with_end = true;
        in.images = 1, in.n_isects = flatten_ids.numel();
        in.width = transmittances.size(1), in.height = transmittances.size(0);
        const TileGrid grid(in.width, in.height);
        in.tile_width = grid.width, in.tile_height = grid.height;
        in.backgrounds = data_or_null<float>(background);
        in.n_gaussians = splats.size(0), in.channels = channels;
        in.stream = current_stream();
        return in;
    }

    BlendState state(const Tensor& splats) const {
        return {transmittances.mutable_data_ptr<float>(), last_ids.mutable_data_ptr<int>(),
                splats.mutable_data_ptr<float>(), visits.mutable_data_ptr<int>()};
    }
};

// counts: of the blend's state, [2]; none: only the splats count. A view that was cut short has no gradient.
inline Fit fit_of(const VisibleTensors& visible, const OptionalTensor& counts, int64_t list_capacity) {
    if (counts) check(*counts, "counts", at::kInt, 2, visible.splats);
    const int* both = data_or_null<int>(counts);
    return {both ? both : visible.total.const_data_ptr<int>(), both ? both + 1 : nullptr,
            static_cast<int>(visible.splats.size(0)), static_cast<int>(list_capacity)};
}

// v_viewmat: [1, 4, 4], written; none: nobody asks for it, and nothing is allocated.
class PoseSums {
   public:
    PoseSums(const OptionalTensor& v_viewmat, const VisibleTensors& visible) {
        if (!v_viewmat) return;
        check(*v_viewmat, "v_viewmat", at::kFloat, 4, visible.splats);
        TORCH_CHECK(v_viewmat->numel() == 16, "v_viewmat is not of one camera");
        viewmat_ = *v_viewmat;
        sums_ = at::empty({static_cast<int64_t>(pose_sums(visible.splats.size(0)))}, visible.splats.options());
    }
    PoseGradient pointers() const {
        if (!viewmat_.defined()) return {nullptr, nullptr};
        return {viewmat_.mutable_data_ptr<float>(), sums_.mutable_data_ptr<float>()};
    }

   private:
    Tensor viewmat_, sums_;
};

}  // namespace distwar::cuda

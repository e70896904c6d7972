// Tensors in, tensors out: registers the sphere op for CUDA (schemas, fake kernels and autograd are in spheres.py).
#include "spheres.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include "../cameras_of_tensors.h"
#include "../tiles/tile_lists_of_tensors.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

// The spheres and the cameras that look at them: what every op begins with. Centres are in the cameras' frames already.
SphereInputs inputs(const Tensor& centers, const Tensor& radii, const Tensor& colors, const Tensor& opacities,
                    c10::string_view model, at::TensorList camera, at::IntArrayRef image,
                    const OptionalTensor& backgrounds, const Tensor& isect_offsets, const Tensor& flatten_ids) {
    check(centers, "centers", at::kFloat, 3, centers);
    check(radii, "radii", at::kFloat, -1, centers);
    check(colors, "colors", at::kFloat, 3, centers);
    check(opacities, "opacities", at::kFloat, -1, centers);
    if (backgrounds) check(*backgrounds, "backgrounds", at::kFloat, 3, centers);
    const Cameras cameras = cameras_of_tensors(model, camera, image, centers);
    TORCH_CHECK(cameras.model == LensModel::kPinhole, "spheres are drawn by pinhole cameras only");
    SphereInputs in{tile_lists(isect_offsets, flatten_ids, cameras.width, cameras.height, centers)};
    in.centers = centers.const_data_ptr<float>();
    in.radii = radii.const_data_ptr<float>();
    in.colors = colors.const_data_ptr<float>();
    in.opacities = opacities.const_data_ptr<float>();
    in.intrinsics = cameras.intrinsics;
    in.backgrounds = data_or_null<float>(backgrounds);
    in.stream = current_stream();
    return in;
}

// An op that begins with those arguments, from a function that begins with the centres (for what tensors are like) and
// the inputs. They are written out here only.
template <auto kFunction>
struct WithInputs;

template <class Result, class... Rest, Result (*kFunction)(const Tensor&, const SphereInputs&, Rest...)>
struct WithInputs<kFunction> {
    static Result op(const Tensor& centers, const Tensor& radii, const Tensor& colors, const Tensor& opacities,
                     c10::string_view model, at::TensorList camera, at::IntArrayRef image,
                     const OptionalTensor& backgrounds, const Tensor& isect_offsets, const Tensor& flatten_ids,
                     Rest... rest) {
        const DeviceGuard guard(centers.device());
        const auto in =
            inputs(centers, radii, colors, opacities, model, camera, image, backgrounds, isect_offsets, flatten_ids);
        return kFunction(centers, in, rest...);
    }
};

std::tuple<Tensor, Tensor, Tensor> render(const Tensor& like, const SphereInputs& in) {
    const auto options = like.options();
    auto out_colors = at::empty({in.images, in.height, in.width, 3}, options);
    auto transmittances = at::empty({in.images, in.height, in.width}, options);
    auto ids = at::empty({in.images, in.height, in.width, kSphereFragments}, options.dtype(at::kInt));
    spheres_forward(in, {out_colors.mutable_data_ptr<float>(), transmittances.mutable_data_ptr<float>(),
                         ids.mutable_data_ptr<int>()});
    check_launch("spheres_forward");
    return {out_colors, transmittances, ids};
}

// The last two arguments are the backward pass's.
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& like, const SphereInputs& in, c10::string_view /*strategy*/,
                                           int64_t /*threshold*/) {
    return render(like, in);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& centers, const SphereInputs& in, const Tensor& ids,
                                                    const Tensor& v_colors_out, const Tensor& v_transmittances,
                                                    c10::string_view strategy, int64_t threshold) {
    check(v_colors_out, "v_colors_out", at::kFloat, 3, centers);
    check(v_transmittances, "v_transmittances", at::kFloat, in.width, centers);
    const at::IntArrayRef one_each = centers.sizes().slice(0, 2);
    auto v_centers = at::zeros_like(centers), v_radii = at::zeros(one_each, centers.options());
    auto v_colors = at::zeros_like(centers), v_opacities = at::zeros_like(v_radii);
    const Strategy chosen = strategy_named(strategy);
    TORCH_CHECK(chosen != Strategy::kTransposed, "sw_t is for lanes that share an address: use sw_s for spheres");
    spheres_backward(
        in, {ids.const_data_ptr<int>(), v_colors_out.const_data_ptr<float>(), v_transmittances.const_data_ptr<float>()},
        {v_centers.mutable_data_ptr<float>(), v_radii.mutable_data_ptr<float>(), v_colors.mutable_data_ptr<float>(),
         v_opacities.mutable_data_ptr<float>()},
        chosen, threshold);
    check_launch("spheres_backward");
    return {v_centers, v_radii, v_colors, v_opacities};
}

Tensor traffic(const Tensor& centers, const SphereInputs& in) {
    const auto [image, transmittances, ids] = render(centers, in);
    auto counts = at::zeros({kTrafficRows, kWarpSize + 1}, centers.options().dtype(at::kLong));
    spheres_traffic(in,
                    {ids.const_data_ptr<int>(), image.const_data_ptr<float>(), transmittances.const_data_ptr<float>()},
                    counts.mutable_data_ptr<int64_t>());
    check_launch("spheres_traffic");
    return counts;
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("spheres_forward", WithInputs<forward>::op);
    m.impl("spheres_backward", WithInputs<backward>::op);
    m.impl("spheres_traffic", WithInputs<traffic>::op);
}

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

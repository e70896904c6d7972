// Tensors in, tensors out: registers the sphere op for CUDA (schemas, fake kernels and autograd are in spheres.py).
#include "spheres.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include "../tiles/tile_lists_of_tensors.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

SphereInputs inputs(const Tensor& centers, const Tensor& radii, const Tensor& colors, const Tensor& opacities,
                    const Tensor& Ks, const OptionalTensor& backgrounds, const Tensor& isect_offsets,
                    const Tensor& flatten_ids, int64_t width, int64_t height) {
    check(centers, "centers", at::kFloat, 3, centers);
    check(radii, "radii", at::kFloat, -1, centers);
    check(colors, "colors", at::kFloat, 3, centers);
    check(opacities, "opacities", at::kFloat, -1, centers);
    check(Ks, "Ks", at::kFloat, 3, centers);
    if (backgrounds) check(*backgrounds, "backgrounds", at::kFloat, 3, centers);
    SphereInputs in{tile_lists(isect_offsets, flatten_ids, width, height, centers)};
    in.centers = centers.const_data_ptr<float>();
    in.radii = radii.const_data_ptr<float>();
    in.colors = colors.const_data_ptr<float>();
    in.opacities = opacities.const_data_ptr<float>();
    in.Ks = Ks.const_data_ptr<float>();
    in.backgrounds = data_or_null<float>(backgrounds);
    in.stream = current_stream();
    return in;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& centers, const Tensor& radii, const Tensor& colors,
                                           const Tensor& opacities, const Tensor& Ks, const OptionalTensor& backgrounds,
                                           const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width,
                                           int64_t height, c10::string_view /*strategy*/, int64_t /*threshold*/) {
    const DeviceGuard guard(centers.device());
    const auto in =
        inputs(centers, radii, colors, opacities, Ks, backgrounds, isect_offsets, flatten_ids, width, height);
    const auto options = centers.options();
    auto out_colors = at::empty({in.images, height, width, 3}, options);
    auto transmittances = at::empty({in.images, height, width}, options);
    auto ids = at::empty({in.images, height, width, kSphereFragments}, options.dtype(at::kInt));
    spheres_forward(in, {out_colors.mutable_data_ptr<float>(), transmittances.mutable_data_ptr<float>(),
                         ids.mutable_data_ptr<int>()});
    check_launch("spheres_forward");
    return {out_colors, transmittances, ids};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& centers, const Tensor& radii, const Tensor& colors,
                                                    const Tensor& opacities, const Tensor& Ks,
                                                    const OptionalTensor& backgrounds, const Tensor& isect_offsets,
                                                    const Tensor& flatten_ids, const Tensor& ids,
                                                    const Tensor& v_colors_out, const Tensor& v_transmittances,
                                                    c10::string_view strategy, int64_t threshold) {
    const DeviceGuard guard(centers.device());
    const auto in = inputs(centers, radii, colors, opacities, Ks, backgrounds, isect_offsets, flatten_ids, ids.size(2),
                           ids.size(1));
    check(v_colors_out, "v_colors_out", at::kFloat, 3, centers);
    check(v_transmittances, "v_transmittances", at::kFloat, in.width, centers);
    auto v_centers = at::zeros_like(centers), v_radii = at::zeros_like(radii), v_colors = at::zeros_like(colors);
    auto v_opacities = at::zeros_like(opacities);
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

Tensor traffic(const Tensor& centers, const Tensor& radii, const Tensor& colors, const Tensor& opacities,
               const Tensor& Ks, const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width,
               int64_t height) {
    const DeviceGuard guard(centers.device());
    const auto [image, transmittances, ids] =
        forward(centers, radii, colors, opacities, Ks, {}, isect_offsets, flatten_ids, width, height, "", 0);
    const auto in = inputs(centers, radii, colors, opacities, Ks, {}, isect_offsets, flatten_ids, width, height);
    auto counts = at::zeros({kTrafficRows, kWarpSize + 1}, centers.options().dtype(at::kLong));
    spheres_traffic(in,
                    {ids.const_data_ptr<int>(), image.const_data_ptr<float>(), transmittances.const_data_ptr<float>()},
                    counts.mutable_data_ptr<int64_t>());
    check_launch("spheres_traffic");
    return counts;
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("spheres_forward", forward);
    m.impl("spheres_backward", backward);
    m.impl("spheres_traffic", traffic);
}

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

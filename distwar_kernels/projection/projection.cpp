// Tensors in, tensors out: registers the projection for the CPU; schema, fake kernels and autograd are in
// projection.py.
#include "projection.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../cameras_of_tensors.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

ProjectionInputs inputs(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities,
                        c10::string_view model, at::TensorList camera, at::IntArrayRef image, double near_plane,
                        double far_plane, bool antialiased) {
    const int count = checked_count(means, quats, scales, opacities);
    const Cameras cameras = cameras_of_tensors(model, camera, image, means);
    TORCH_CHECK(cameras.model == LensModel::kPinhole, "the CPU's kernel projects through pinholes only");
    return {cameras,
            means.const_data_ptr<float>(),
            quats.const_data_ptr<float>(),
            scales.const_data_ptr<float>(),
            opacities.const_data_ptr<float>(),
            count,
            static_cast<float>(near_plane),
            static_cast<float>(far_plane),
            antialiased,
            at::get_num_threads()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(const Tensor& means, const Tensor& quats,
                                                           const Tensor& scales, const Tensor& opacities,
                                                           c10::string_view model, at::TensorList camera,
                                                           at::IntArrayRef image, double near_plane, double far_plane,
                                                           bool antialiased) {
    const auto in = inputs(means, quats, scales, opacities, model, camera, image, near_plane, far_plane, antialiased);
    const int64_t cameras = in.cameras.count, count = in.gaussians;
    const auto options = means.options();
    auto radii = at::empty({cameras, count, 2}, options.dtype(at::kInt)), depths = at::empty({cameras, count}, options);
    auto means2d = at::empty({cameras, count, 2}, options), conics = at::empty({cameras, count, 3}, options);
    auto compensations = at::empty({cameras, count}, options);
    project(in, {radii.mutable_data_ptr<int>(), means2d.mutable_data_ptr<float>(), depths.mutable_data_ptr<float>(),
                 conics.mutable_data_ptr<float>(), compensations.mutable_data_ptr<float>()});
    return {means2d, depths, conics, compensations, radii};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& means, const Tensor& quats, const Tensor& scales,
                                            const Tensor& opacities, c10::string_view model, at::TensorList camera,
                                            at::IntArrayRef image, double near_plane, double far_plane,
                                            bool antialiased, at::TensorList upstream) {
    const auto in = inputs(means, quats, scales, opacities, model, camera, image, near_plane, far_plane, antialiased);
    TORCH_CHECK(upstream.size() == 4, "upstream is of means2d, depths, conics and compensations");
    constexpr int kSizes[] = {2, 1, 3, 1};
    for (int i = 0; i < 4; ++i) {
        check(upstream[i], "upstream", at::kFloat, -1, means);
        TORCH_CHECK(upstream[i].numel() == int64_t(kSizes[i]) * in.cameras.count * in.gaussians,
                    message("an upstream gradient has shape ", upstream[i].sizes()));
    }
    auto v_means = at::empty_like(means), v_quats = at::empty_like(quats), v_scales = at::empty_like(scales);
    project_backward(
        in,
        {upstream[0].const_data_ptr<float>(), upstream[1].const_data_ptr<float>(), upstream[2].const_data_ptr<float>(),
         upstream[3].const_data_ptr<float>()},
        {v_means.mutable_data_ptr<float>(), v_quats.mutable_data_ptr<float>(), v_scales.mutable_data_ptr<float>()});
    return {v_means, v_quats, v_scales};
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) {
    m.impl("project", forward);
    m.impl("project_backward", backward);
}

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

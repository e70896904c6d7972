// Cameras as bindings are given them: the arguments `str model, Tensor[] camera, int[] image` of a schema.
#pragma once

#include <algorithm>

#include "binding.h"
#include "cameras.h"

namespace distwar::DISTWAR_BACKEND {

inline LensRow lens_named(c10::string_view name) {
    const auto row =
        std::find_if(std::begin(kLenses), std::end(kLenses), [&](const auto& r) { return name == r.name; });
    TORCH_CHECK(row != std::end(kLenses), message("there are no kernels for camera model '", std::string(name), "'"));
    return *row;
}

// camera: viewmats [C, 4, 4] and intrinsics [C, P], float32 on the device of `like`. image: width and height.
inline Cameras cameras_of_tensors(c10::string_view model, at::TensorList camera, at::IntArrayRef image,
                                  const Tensor& like) {
    TORCH_CHECK(camera.size() == 2 && image.size() == 2,
                "a camera is viewmats and intrinsics, an image width and height");
    const LensRow lens = lens_named(model);
    const Tensor &viewmats = camera[0], &intrinsics = camera[1];
    check(viewmats, "viewmats", at::kFloat, 4, like);
    check(intrinsics, "intrinsics", at::kFloat, lens.parameters, like);
    const int64_t count = viewmats.size(0);
    TORCH_CHECK(viewmats.numel() == 16 * count && intrinsics.numel() == lens.parameters * count,
                message("viewmats and intrinsics disagree: ", viewmats.sizes(), ", ", intrinsics.sizes()));
    return {lens.model,
            viewmats.const_data_ptr<float>(),
            intrinsics.const_data_ptr<float>(),
            static_cast<int>(count),
            static_cast<int>(image[0]),
            static_cast<int>(image[1])};
}

}  // namespace distwar::DISTWAR_BACKEND

// The camera that ops take (cameras.py), as raw pointers and sizes.
#pragma once

namespace distwar {

enum class LensModel { kPinhole, kOpenCv, kFisheye, kUnified, kEquirectangular, kOrthographic };

struct LensRow {
    const char* name;  // the row of MODELS in cameras.py
    LensModel model;
    int parameters;  // numbers of a camera's intrinsics
};
constexpr LensRow kLenses[] = {
    {"pinhole", LensModel::kPinhole, 4},
    {"opencv", LensModel::kOpenCv, 18},
    {"fisheye", LensModel::kFisheye, 19},
    {"unified", LensModel::kUnified, 7},
    {"equirectangular", LensModel::kEquirectangular, 4},
    {"orthographic", LensModel::kOrthographic, 4},
};

// C cameras with one kind of lens and images of one size.
struct Cameras {
    LensModel model;
    const float* viewmats;    // [C, 4, 4] world to camera, OpenCV axes
    const float* intrinsics;  // [C, P] in the lens's order, pixels
    int count, width, height;
};

}  // namespace distwar

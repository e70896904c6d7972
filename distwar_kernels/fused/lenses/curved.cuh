// Any lens but the pinhole, chosen while a kernel runs: all threads take the same branch. Kernels compiled for each
// lens would have fewer registers, but a user's first build would take six times as long, and the projection is a small
// part of a step (docs/performance.md).
#pragma once

#include "../../cameras.h"
#include "equirectangular.cuh"
#include "fisheye.cuh"
#include "opencv.cuh"
#include "orthographic.cuh"
#include "unified.cuh"

namespace distwar::cuda {

struct Curved {
    static constexpr bool kMayWrap = true;
    static constexpr bool kStoredDepth = true;
    LensModel model;
    const float* numbers;  // intrinsics

    __device__ Curved(LensModel model, const float* intrinsics, int, int) : model(model), numbers(intrinsics) {}

    __device__ bool sees(Vec3 p) const {
        return chosen([&](auto lens) { return lens.sees(p); });
    }
    __device__ float depth(Vec3 p) const { return is_along_ray() ? sqrtf(dot(p, p)) : p.z; }
    __device__ void depth_vjp(Vec3 p, float v_depth, Vec3& v) const {
        if (is_along_ray())
            v = v + (v_depth / sqrtf(dot(p, p))) * p;
        else
            v.z += v_depth;
    }
    __device__ float2 project(Vec3 p) const {
        return chosen([&](auto lens) { return lens.project(p); });
    }

    struct Jacobian {
        Rows2 rows;

        // Rows of J times a matrix.
        __device__ Rows2 times(const Mat3& m) const {
            return {m.transposed_times(rows.first), m.transposed_times(rows.second)};
        }
    };
    __device__ Jacobian jacobian(Vec3 p) const {
        return {chosen([&](auto lens) { return lens.jacobian(p); })};
    }
    __device__ Vec3 vjp(Vec3 p, const Jacobian&, float2 v_pixel, const Rows2& v_j) const {
        return chosen([&](auto lens) { return lens.vjp(p, v_pixel, v_j); });
    }

    // Pixels from one picture of a point to the next, or 0.
    __device__ float period() const {
        return model == LensModel::kEquirectangular ? Equirectangular{numbers}.period() : 0.0f;
    }

   private:
    __device__ bool is_along_ray() const {
        return chosen([](auto lens) { return decltype(lens)::kAlongRay; });
    }

    template <class F>
    __device__ auto chosen(F f) const -> decltype(f(OpenCv{numbers})) {
        switch (model) {
            case LensModel::kFisheye:
                return f(Fisheye{numbers});
            case LensModel::kUnified:
                return f(Unified{numbers});
            case LensModel::kEquirectangular:
                return f(Equirectangular{numbers});
            case LensModel::kOrthographic:
                return f(Orthographic{numbers});
            default:
                return f(OpenCv{numbers});
        }
    }
};

}  // namespace distwar::cuda

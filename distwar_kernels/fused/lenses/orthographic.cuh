// Parallel rays: pixel = f (x, y) + c (projection/lenses/orthographic.py).
#pragma once

#include "../vectors.cuh"

namespace distwar::cuda {

struct Orthographic {
    static constexpr bool kAlongRay = false;
    const float* numbers;  // fx, fy, cx, cy

    __device__ bool sees(Vec3) const { return true; }
    __device__ float2 project(Vec3 p) const {
        return {__ldg(numbers) * p.x + __ldg(numbers + 2), __ldg(numbers + 1) * p.y + __ldg(numbers + 3)};
    }
    __device__ Rows2 jacobian(Vec3) const { return {{__ldg(numbers), 0.0f, 0.0f}, {0.0f, __ldg(numbers + 1), 0.0f}}; }
    __device__ Vec3 vjp(Vec3, float2 v_pixel, const Rows2&) const {
        return {__ldg(numbers) * v_pixel.x, __ldg(numbers + 1) * v_pixel.y, 0.0f};
    }
};

}  // namespace distwar::cuda

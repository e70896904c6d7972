// The enhanced unified camera (projection/lenses/unified.py): pixel = f (x, y) / (alpha d + (1 - alpha) z) + c.
#pragma once

#include "radial_map.cuh"

namespace distwar::cuda {

struct Unified {
    static constexpr bool kAlongRay = true;
    const float* numbers;  // fx, fy, cx, cy, alpha, beta, reach

    __device__ bool sees(Vec3 p) const {
        const float rho2 = p.x * p.x + p.y * p.y, square = beta() * rho2 + p.z * p.z;
        const float d = sqrtf(fmaxf(square, 0.0f)), weight = alpha() * d + (1.0f - alpha()) * p.z;
        const float reach = __ldg(numbers + 6) * weight;
        return square > 0.0f && weight > kLeastWeight * sqrtf(dot(p, p)) && alpha() * p.z > (alpha() - 1.0f) * d &&
               rho2 <= reach * reach;
    }

    __device__ float2 project(Vec3 p) const {
        const float g = map(p).g;
        return {__ldg(numbers) * g * p.x + __ldg(numbers + 2), __ldg(numbers + 1) * g * p.y + __ldg(numbers + 3)};
    }

    __device__ Rows2 jacobian(Vec3 p) const {
        const Rows2 rows = map(p).jacobian(p);
        return {__ldg(numbers) * rows.first, __ldg(numbers + 1) * rows.second};
    }

    __device__ Vec3 vjp(Vec3 p, float2 v_pixel, const Rows2& v_j) const {
        const float fx = __ldg(numbers), fy = __ldg(numbers + 1);
        return map(p).vjp(p, make_float2(fx * v_pixel.x, fy * v_pixel.y), {fx * v_j.first, fy * v_j.second});
    }

   private:
    static constexpr float kLeastWeight = 1e-3f;  // as in unified.py

    __device__ float alpha() const { return __ldg(numbers + 4); }
    __device__ float beta() const { return __ldg(numbers + 5); }

    // g = 1 / weight, weight = alpha d + (1 - alpha) z, d = sqrt(beta rho^2 + z^2).
    __device__ RadialMap map(Vec3 p) const {
        const float rho2 = p.x * p.x + p.y * p.y, both = alpha() * beta();
        const float inverse_d = 1.0f / sqrtf(beta() * rho2 + p.z * p.z), d3 = inverse_d * inverse_d * inverse_d;
        const float g = 1.0f / (alpha() / inverse_d + (1.0f - alpha()) * p.z), g2 = g * g, g3 = g2 * g;
        const float slope = alpha() * p.z * inverse_d + 1.0f - alpha();  // of the weight by z
        return {g,
                -both * inverse_d * g2,
                -slope * g2,
                both * (beta() * d3 * g2 + 2.0f * both * inverse_d * inverse_d * g3),
                both * (p.z * d3 * g2 + 2.0f * slope * inverse_d * g3),
                2.0f * slope * slope * g3 - both * rho2 * d3 * g2};
    }
};

}  // namespace distwar::cuda

// Spherical harmonics of degree 1 to 3 in a direction, and their derivatives: the real basis of Kerbl et al. 2023
// (sh/sh_torch.py), as polynomials of the unit vector.
#pragma once

#include "gaussian.cuh"

namespace distwar::cuda {

// How many basis functions there are above degree 0.
DISTWAR_ON_BOTH constexpr int sh_rows_of(int degree) { return (degree + 1) * (degree + 1) - 1; }

// Calls visit(k, value, gradient) for the k-th of them, the gradient by the direction.
template <int kDegree, class Visit>
__device__ void for_harmonics(Vec3 d, Visit visit) {
    constexpr float kC1 = 0.4886025119029199f;
    constexpr float kC2[3] = {1.0925484305920792f, 0.31539156525252005f, 0.5462742152960396f};
    constexpr float kC3[5] = {0.5900435899266435f, 2.890611442640554f, 0.4570457994644658f, 0.3731763325901154f,
                              1.445305721320277f};
    const float x = d.x, y = d.y, z = d.z;
    if constexpr (kDegree >= 1) {
        visit(0, -kC1 * y, Vec3{0.0f, -kC1, 0.0f});
        visit(1, kC1 * z, Vec3{0.0f, 0.0f, kC1});
        visit(2, -kC1 * x, Vec3{-kC1, 0.0f, 0.0f});
    }
    if constexpr (kDegree >= 2) {
        visit(3, kC2[0] * x * y, kC2[0] * Vec3{y, x, 0.0f});
        visit(4, -kC2[0] * y * z, -kC2[0] * Vec3{0.0f, z, y});
        visit(5, kC2[1] * (3.0f * z * z - 1.0f), Vec3{0.0f, 0.0f, 6.0f * kC2[1] * z});
        visit(6, -kC2[0] * x * z, -kC2[0] * Vec3{z, 0.0f, x});
        visit(7, kC2[2] * (x * x - y * y), 2.0f * kC2[2] * Vec3{x, -y, 0.0f});
    }
    if constexpr (kDegree >= 3) {
        const float xx = x * x, yy = y * y, zz = z * z;
        visit(8, -kC3[0] * y * (3.0f * xx - yy), -3.0f * kC3[0] * Vec3{2.0f * x * y, xx - yy, 0.0f});
        visit(9, kC3[1] * x * y * z, kC3[1] * Vec3{y * z, x * z, x * y});
        visit(10, -kC3[2] * y * (5.0f * zz - 1.0f), -kC3[2] * Vec3{0.0f, 5.0f * zz - 1.0f, 10.0f * y * z});
        visit(11, kC3[3] * z * (5.0f * zz - 3.0f), Vec3{0.0f, 0.0f, kC3[3] * (15.0f * zz - 3.0f)});
        visit(12, -kC3[2] * x * (5.0f * zz - 1.0f), -kC3[2] * Vec3{5.0f * zz - 1.0f, 0.0f, 10.0f * x * z});
        visit(13, kC3[4] * z * (xx - yy), kC3[4] * Vec3{2.0f * x * z, -2.0f * y * z, xx - yy});
        visit(14, -kC3[0] * x * (xx - 3.0f * yy), -3.0f * kC3[0] * Vec3{xx - yy, -2.0f * x * y, 0.0f});
    }
}

// The direction from the camera's centre to a Gaussian.
struct Direction {
    Vec3 unit;
    float inverse_length;

    __device__ Direction(Vec3 mean, Vec3 center) {
        const Vec3 offset = mean + -1.0f * center;
        inverse_length = 1.0f / fmaxf(sqrtf(dot(offset, offset)), 1e-12f);
        unit = inverse_length * offset;
    }
    // From a gradient in the unit vector to one in the mean.
    __device__ Vec3 through(Vec3 v) const { return inverse_length * (v + -dot(v, unit) * unit); }
};

// Calls f with the degree as a compile-time constant.
template <class F>
void for_degree(int degree, F f) {
    degree == 0   ? f(std::integral_constant<int, 0>())
    : degree == 1 ? f(std::integral_constant<int, 1>())
    : degree == 2 ? f(std::integral_constant<int, 2>())
                  : f(std::integral_constant<int, 3>());
}

}  // namespace distwar::cuda

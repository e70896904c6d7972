// Fisheyes: the angle to the axis is the radius of the image, which is then distorted (projection/lenses/fisheye.py).
#pragma once

#include "radial_map.cuh"

namespace distwar::cuda {

struct Fisheye {
    static constexpr bool kAlongRay = true;
    const float* numbers;  // fx, fy, cx, cy, then DistortedWord

    __device__ bool sees(Vec3 p) const {
        const Vec3 s = stretched(p);
        return atan2f(sqrtf(s.x * s.x + s.y * s.y), s.z) <= fminf(__ldg(numbers + kReach), kMostAngle);
    }

    __device__ float2 project(Vec3 p) const {
        const Vec3 s = stretched(p);
        const float g = map(s).g;
        const float2 d = bent().apply({g * s.x, g * s.y});
        return {__ldg(numbers) * d.x + __ldg(numbers + 2), __ldg(numbers + 1) * d.y + __ldg(numbers + 3)};
    }

    __device__ Rows2 jacobian(Vec3 p) const {
        const Vec3 s = stretched(p);
        const RadialMap m = map(s);
        const Rows2 rows = times(bent().jacobian({m.g * s.x, m.g * s.y}), shrunk(m.jacobian(s)));
        return {__ldg(numbers) * rows.first, __ldg(numbers + 1) * rows.second};
    }

    __device__ Vec3 vjp(Vec3 p, float2 v_pixel, const Rows2& v_j) const {
        const Vec3 s = stretched(p);
        const RadialMap m = map(s);
        const float2 q = {m.g * s.x, m.g * s.y};
        const float fx = __ldg(numbers), fy = __ldg(numbers + 1);
        const Rows2 v_rows = {fx * v_j.first, fy * v_j.second};
        const Mat2 outer = bent().jacobian(q);
        float2 v_q = bent().jacobian_vjp(q, times_transposed(v_rows, shrunk(m.jacobian(s))));
        const float2 by_pixel = transposed_times(outer, make_float2(fx * v_pixel.x, fy * v_pixel.y));
        v_q.x += by_pixel.x, v_q.y += by_pixel.y;
        return shrunk(m.vjp(s, v_q, shrunk(transposed_times(outer, v_rows))));
    }

   private:
    static constexpr float kMostAngle = 3.1f, kNearAxis = 0.04f;  // as in fisheye.py

    __device__ Distortion<false> bent() const { return {numbers}; }
    // A point whose offset from the axis is stretched, and derivatives by it as those by the point: the same factor.
    __device__ Vec3 stretched(Vec3 p) const {
        const float stretch = __ldg(numbers + kStretch);
        return {stretch * p.x, stretch * p.y, p.z};
    }
    __device__ Vec3 shrunk(Vec3 v) const { return stretched(v); }
    __device__ Rows2 shrunk(const Rows2& rows) const { return {stretched(rows.first), stretched(rows.second)}; }

    // g = theta / rho, theta = atan2(rho, z). Near the axis series, where differences would cancel.
    __device__ static RadialMap map(Vec3 p) {
        const float rho2 = p.x * p.x + p.y * p.y, square = rho2 + p.z * p.z, inverse = 1.0f / square;
        RadialMap m;
        if (p.z > 0.0f && rho2 < kNearAxis * p.z * p.z) {
            const float u = 1.0f / p.z, u2 = u * u, s = rho2 * u2;
            m.g = u * (1.0f + s * (-1.0f / 3.0f + s * (0.2f + s * (-1.0f / 7.0f + s * (1.0f / 9.0f)))));
            m.h = u * u2 * (-2.0f / 3.0f + s * (0.8f + s * (-6.0f / 7.0f + s * (8.0f / 9.0f + s * (-10.0f / 11.0f)))));
            m.h_rho = u * u2 * u2 *
                      (1.6f + s * (-24.0f / 7.0f + s * (16.0f / 3.0f + s * (-80.0f / 11.0f + s * (120.0f / 13.0f)))));
        } else {
            const float rho = sqrtf(rho2), inverse_rho2 = 1.0f / rho2;
            m.g = atan2f(rho, p.z) / rho;
            m.h = (p.z * inverse - m.g) * inverse_rho2;
            m.h_rho = (-2.0f * p.z * inverse * inverse - 3.0f * m.h) * inverse_rho2;
        }
        m.g_z = -inverse;
        m.h_z = 2.0f * inverse * inverse;
        m.g_zz = p.z * m.h_z;
        return m;
    }
};

}  // namespace distwar::cuda

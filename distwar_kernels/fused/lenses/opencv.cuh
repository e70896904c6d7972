// A perspective lens that distorts as OpenCV describes it: pixel = f D((x, y) / z) + c (projection/lenses/opencv.py).
#pragma once

#include "distortion.cuh"

namespace distwar::cuda {

struct OpenCv {
    static constexpr bool kAlongRay = false;
    const float* numbers;  // fx, fy, cx, cy, then DistortedWord

    __device__ bool sees(Vec3 p) const {
        const float reach = __ldg(numbers + kReach) * p.z;
        return p.z > 0.0f && p.x * p.x + p.y * p.y <= reach * reach;
    }

    __device__ float2 project(Vec3 p) const {
        const float2 d = bent().apply({p.x / p.z, p.y / p.z});
        return {__ldg(numbers) * d.x + __ldg(numbers + 2), __ldg(numbers + 1) * d.y + __ldg(numbers + 3)};
    }

    __device__ Rows2 jacobian(Vec3 p) const {
        const Tangent t(p, __ldg(numbers + kLimit));
        const Rows2 rows = times(bent().jacobian(t.kept), inner(t.kept, 1.0f / p.z));
        return {__ldg(numbers) * rows.first, __ldg(numbers + 1) * rows.second};
    }

    __device__ Vec3 vjp(Vec3 p, float2 v_pixel, const Rows2& v_j) const {
        const Tangent t(p, __ldg(numbers + kLimit));
        const float inverse_z = 1.0f / p.z, fx = __ldg(numbers), fy = __ldg(numbers + 1);
        const Rows2 m = inner(t.kept, inverse_z), v_rows = {fx * v_j.first, fy * v_j.second};
        const Rows2 v_m = transposed_times(bent().jacobian(t.kept), v_rows);
        float2 v_kept = bent().jacobian_vjp(t.kept, times_transposed(v_rows, m));
        v_kept.x -= inverse_z * v_m.first.z, v_kept.y -= inverse_z * v_m.second.z;
        float2 v_t = transposed_times(bent().jacobian(t.true_one), make_float2(fx * v_pixel.x, fy * v_pixel.y));
        const float2 through = t.through(v_kept);
        v_t.x += through.x, v_t.y += through.y;
        return {inverse_z * v_t.x, inverse_z * v_t.y,
                -inverse_z * (t.true_one.x * v_t.x + t.true_one.y * v_t.y + dot(v_m.first, m.first) +
                              dot(v_m.second, m.second))};
    }

   private:
    // (x, y) / z, and the same kept within a radius, where Gaussians are linearised.
    struct Tangent {
        float2 true_one, kept;
        float shrink;  // 1 within

        __device__ Tangent(Vec3 p, float limit) : true_one({p.x / p.z, p.y / p.z}) {
            const float r2 = true_one.x * true_one.x + true_one.y * true_one.y;
            shrink = r2 > limit * limit ? limit / sqrtf(r2) : 1.0f;
            kept = {shrink * true_one.x, shrink * true_one.y};
        }
        __device__ float2 through(float2 v) const {
            if (shrink == 1.0f) return v;
            const float r2 = kept.x * kept.x + kept.y * kept.y, along = (kept.x * v.x + kept.y * v.y) / r2;
            return {shrink * (v.x - along * kept.x), shrink * (v.y - along * kept.y)};
        }
    };

    __device__ Distortion<true> bent() const { return {numbers}; }
    __device__ static Rows2 inner(float2 t, float inverse_z) {
        return {{inverse_z, 0.0f, -inverse_z * t.x}, {0.0f, inverse_z, -inverse_z * t.y}};
    }
};

}  // namespace distwar::cuda

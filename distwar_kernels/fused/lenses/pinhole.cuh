// The pinhole lens: pixel = f (x, y) / z + c. What another lens would have to offer is what is public here.
#pragma once

#include "../../cameras.h"
#include "../vectors.cuh"

namespace distwar::cuda {

// A value kept within bounds, and whether it was within.
struct Clamped {
    float value;
    bool free;
    __device__ Clamped(float x, float low, float high)
        : value(fminf(fmaxf(x, low), high)), free(x >= low && x <= high) {}
};

struct Pinhole {
    static constexpr bool kMayWrap = false;      // no right edge is a left one
    static constexpr bool kStoredDepth = false;  // worked out from the mean again
    float fx, fy, cx, cy;
    int width, height;

    // intrinsics: fx, fy, cx, cy in pixels.
    __device__ Pinhole(LensModel, const float* intrinsics, int width, int height) : width(width), height(height) {
        fx = __ldg(intrinsics), fy = __ldg(intrinsics + 1), cx = __ldg(intrinsics + 2), cy = __ldg(intrinsics + 3);
    }

    // Whether a point in camera axes has a pixel, somewhere; its depth, and dL/d(point), added to, from dL/d(depth).
    __device__ bool sees(Vec3) const { return true; }
    __device__ float depth(Vec3 p) const { return p.z; }
    __device__ void depth_vjp(Vec3, float v_depth, Vec3& v) const { v.z += v_depth; }

    // The pixel of a point in camera axes.
    __device__ float2 project(Vec3 p) const { return make_float2(fx * p.x / p.z + cx, fy * p.y / p.z + cy); }

    // J = d(pixel)/d(point) = f/z (1, -t), t = (x, y) / z clamped a margin outside the image, where the linearisation
    // would explode.
    struct Jacobian {
        float jx, jy;  // f / z
        Clamped tx, ty;

        // Rows of J times a matrix.
        __device__ Rows2 times(const Mat3& m) const {
            return {jx * (m.rows[0] + -tx.value * m.rows[2]), jy * (m.rows[1] + -ty.value * m.rows[2])};
        }
    };
    __device__ Jacobian jacobian(Vec3 p) const {
        return {fx / p.z, fy / p.z, bounded(p.x / p.z, fx, cx, width), bounded(p.y / p.z, fy, cy, height)};
    }

    // dL/d(point) from dL/d(pixel) and dL/dJ; j is jacobian(p).
    __device__ Vec3 vjp(Vec3 p, const Jacobian& j, float2 v_pixel, const Rows2& v_j) const {
        const float inverse_z = 1.0f / p.z, jx = fx * inverse_z, jy = fy * inverse_z;
        Vec3 v = {jx * v_pixel.x, jy * v_pixel.y, 0.0f};
        v.z = -inverse_z * (p.x * v.x + p.y * v.y);
        v.z -= inverse_z *
               (jx * (v_j.first.x - j.tx.value * v_j.first.z) + jy * (v_j.second.y - j.ty.value * v_j.second.z));
        const float v_tx = j.tx.free ? -jx * v_j.first.z * inverse_z : 0.0f;
        const float v_ty = j.ty.free ? -jy * v_j.second.z * inverse_z : 0.0f;
        v.x += v_tx, v.y += v_ty;
        v.z -= inverse_z * (p.x * v_tx + p.y * v_ty);
        return v;
    }

   private:
    __device__ static Clamped bounded(float tangent, float focal, float center, int size) {
        const float margin = kFrustumMargin * 0.5f * size / focal;
        return {tangent, -(center / focal + margin), (size - center) / focal + margin};
    }
};

}  // namespace distwar::cuda

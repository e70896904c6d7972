// A Gaussian on its way from the world to the image plane and its gradient on the way back, for one thread.
//
// EWA splatting as projection/projection_torch.py has it: covariance2d = A A^T + blur, A = J W M, M = R(q) diag(s), W
// the camera's rotation, J the Jacobian of its lens (lenses/). The way back is the chain rule through the same
// products; everything on it is computed again rather than stored.
#pragma once

#include <cuda_runtime.h>

#include "../blend/splat.cuh"
#include "fused.h"
#include "lenses/lenses.cuh"

namespace distwar::cuda {

// Where the camera is, read from memory by every thread.
struct Pose {
    Mat3 rotation;
    Vec3 translation;

    __device__ explicit Pose(const View& view) {
        const float* m = view.viewmat;
#pragma unroll
        for (int i = 0; i < 3; ++i) rotation.rows[i] = {__ldg(m + 4 * i), __ldg(m + 4 * i + 1), __ldg(m + 4 * i + 2)};
        translation = {__ldg(m + 3), __ldg(m + 7), __ldg(m + 11)};
    }
    __device__ Vec3 to_camera(Vec3 mean) const { return rotation.times(mean) + translation; }
    __device__ Vec3 center() const { return -1.0f * rotation.transposed_times(translation); }
};

struct Rotation {
    float w, x, y, z, inverse_length;

    __device__ explicit Rotation(float4 q) {
        const float length = sqrtf(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w);
        inverse_length = 1.0f / fmaxf(length, 1e-12f);
        w = q.x * inverse_length, x = q.y * inverse_length, y = q.z * inverse_length, z = q.w * inverse_length;
    }

    __device__ Mat3 matrix() const {
        return {{{1.0f - 2.0f * (y * y + z * z), 2.0f * (x * y - w * z), 2.0f * (x * z + w * y)},
                 {2.0f * (x * y + w * z), 1.0f - 2.0f * (x * x + z * z), 2.0f * (y * z - w * x)},
                 {2.0f * (x * z - w * y), 2.0f * (y * z + w * x), 1.0f - 2.0f * (x * x + y * y)}}};
    }

    // dL/dq of the quaternion as it was before it was normalised, from dL/d(matrix).
    __device__ float4 gradient(const Mat3& v) const {
        const auto [a, b, c] = v.rows;
        const float v_w = 2.0f * (x * (c.y - b.z) + y * (a.z - c.x) + z * (b.x - a.y));
        const float v_x = 2.0f * (y * (a.y + b.x) + z * (a.z + c.x) + w * (c.y - b.z) - 2.0f * x * (b.y + c.z));
        const float v_y = 2.0f * (x * (a.y + b.x) + z * (b.z + c.y) + w * (a.z - c.x) - 2.0f * y * (a.x + c.z));
        const float v_z = 2.0f * (x * (a.z + c.x) + y * (b.z + c.y) + w * (b.x - a.y) - 2.0f * z * (a.x + b.y));
        const float along = w * v_w + x * v_x + y * v_y + z * v_z;
        return make_float4(inverse_length * (v_w - along * w), inverse_length * (v_x - along * x),
                           inverse_length * (v_y - along * y), inverse_length * (v_z - along * z));
    }
};

// dL/d of a Gaussian's parameters as they are trained, its colour apart; and what the camera's pose has a part in.
struct ShapeGradient {
    Vec3 mean, log_scale;
    float4 quat;
    float logit;
    Vec3 mean_camera;  // of the mean in camera axes
    Rows2 t;           // of J W, through W alone
};

// Parameters of a Gaussian beside its mean and colour.
struct Shape {
    float4 quat;
    Vec3 log_scale;
    float logit;
};

// A Gaussian that a lens sees, and where it is in the image.
template <class Lens>
struct ProjectedGaussian {
    Vec3 mean_camera;  // in camera axes
    Rotation rotation;
    Mat3 axes;   // R(q)
    Vec3 scale;  // standard deviations
    float own_opacity;
    float raw_sum;  // of logit and log scales: not finite if one of them is not, which exp and sigmoid would hide
    float2 mean;    // pixels
    typename Lens::Jacobian jacobian;
    Rows2 t;           // J W
    Vec3 a0, a1;       // rows of J W M
    float xx, xy, yy;  // the covariance, blurred
    float determinant;
    float exact_determinant, ratio;  // before the blur, and to the one after it
    float compensation;

    __device__ ProjectedGaussian(const Shape& shape, const View& view, const Pose& pose, const Lens& lens,
                                 Vec3 mean_camera)
        : mean_camera(mean_camera),
          rotation(shape.quat),
          axes(rotation.matrix()),
          scale({expf(shape.log_scale.x), expf(shape.log_scale.y), expf(shape.log_scale.z)}),
          own_opacity(1.0f / (1.0f + expf(-shape.logit))),
          raw_sum(shape.logit + shape.log_scale.x + shape.log_scale.y + shape.log_scale.z),
          mean(lens.project(mean_camera)),
          jacobian(lens.jacobian(mean_camera)),
          t(jacobian.times(pose.rotation)) {
        a0 = scaled(axes.transposed_times(t.first)), a1 = scaled(axes.transposed_times(t.second));
        const float exact_xx = dot(a0, a0), exact_yy = dot(a1, a1);
        xy = dot(a0, a1);
        xx = exact_xx + kBlur, yy = exact_yy + kBlur;
        determinant = difference_of_products(xx, yy, xy);
        exact_determinant = difference_of_products(exact_xx, exact_yy, xy);
        ratio = fmaxf(exact_determinant / determinant, kLeastRatio);
        compensation = view.antialiased ? sqrtf(ratio) : 1.0f;
    }

    __device__ float opacity() const { return own_opacity * compensation; }

    // As the blend wants it, its colour apart. With conic = inverse covariance, conic_xy / conic_xx = -xy / yy, and
    // what is left of the conic's determinant over conic_xx is 1 / yy: no difference of products but the covariance's
    // own.
    __device__ Splat splat() const {
        Splat s = {};
        s.mean = mean;
        s.scale_u = __fsqrt_rn(__fdiv_rn(kHalfLog2e * yy, determinant));
        s.skew = __fdiv_rn(-xy, yy);
        s.skew_low = __fdiv_rn(__fmaf_rn(-s.skew, yy, -xy), yy);
        s.scale_v = __fsqrt_rn(__fdiv_rn(kHalfLog2e, yy));
        s.log2_opacity = __log2f(opacity());
        return s;
    }

    __device__ bool is_valid() const {
        const float probe = 0.0f * (mean.x + mean.y + scale.x + scale.y + scale.z + xx + yy + raw_sum +
                                    rotation.inverse_length + rotation.w + rotation.x + rotation.y + rotation.z);
        return probe == 0.0f && determinant > 0.0f;
    }

    __device__ ShapeGradient gradient(const GradientRecord& g, const View& view, const Pose& pose,
                                      const Lens& lens) const {
        ShapeGradient result;
        const float v_opacity = g.opacity * compensation;
        result.logit = v_opacity * own_opacity * (1.0f - own_opacity);

        // dL/d(covariance) = -conic V conic, V the symmetric matrix of dL/d(conic).
        const float inverse = 1.0f / determinant, p = yy * inverse, q = -xy * inverse, r = xx * inverse;
        const float half = 0.5f * g.xy;
        const float m00 = g.xx * p + half * q, m01 = g.xx * q + half * r;
        const float m10 = half * p + g.yy * q, m11 = half * q + g.yy * r;
        float v_xx = -(p * m00 + q * m10), v_xy = -(p * m01 + q * m11), v_yy = -(q * m01 + r * m11);
        if (view.antialiased && exact_determinant > kLeastRatio * determinant) {
            // compensation = sqrt(exact determinant / determinant)
            const float v_ratio = g.opacity * own_opacity * 0.5f / compensation * inverse;
            v_xx += v_ratio * ((yy - kBlur) - ratio * yy);
            v_yy += v_ratio * ((xx - kBlur) - ratio * xx);
            v_xy += v_ratio * (ratio - 1.0f) * xy;
        }

        const Vec3 v_a0 = 2.0f * (v_xx * a0 + v_xy * a1), v_a1 = 2.0f * (v_xy * a0 + v_yy * a1);
        // A = T M, M = R diag(s)
        Mat3 v_m;  // dL/dM
        const float t0s[3] = {t.first.x, t.first.y, t.first.z}, t1s[3] = {t.second.x, t.second.y, t.second.z};
#pragma unroll
        for (int i = 0; i < 3; ++i) v_m.rows[i] = t0s[i] * v_a0 + t1s[i] * v_a1;
        Vec3 v_scale = {};
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            v_scale = v_scale + Vec3{axes.rows[i].x * v_m.rows[i].x, axes.rows[i].y * v_m.rows[i].y,
                                     axes.rows[i].z * v_m.rows[i].z};
            v_m.rows[i] = scaled(v_m.rows[i]);
        }
        result.log_scale = scaled(v_scale);
        result.quat = rotation.gradient(v_m);

        // T = J W, so dL/dJ = dL/dT W^T.
        const Vec3 v_t0 = axes.times(scaled(v_a0)), v_t1 = axes.times(scaled(v_a1));
        const Rows2 v_jacobian = {pose.rotation.times(v_t0), pose.rotation.times(v_t1)};
        Vec3 v_camera = lens.vjp(mean_camera, jacobian, make_float2(g.x, g.y), v_jacobian);
        if (view.with_depth) lens.depth_vjp(mean_camera, g.color.w, v_camera);
        result.mean = pose.rotation.transposed_times(v_camera);
        result.mean_camera = v_camera, result.t = {v_t0, v_t1};
        return result;
    }

   private:
    static constexpr float kLeastRatio = 1e-12f;

    __device__ Vec3 scaled(Vec3 v) const { return {v.x * scale.x, v.y * scale.y, v.z * scale.z}; }

    // a c - b^2 with one rounding (Kahan).
    __device__ static float difference_of_products(float a, float c, float b) {
        const float square = __fmul_rn(b, b);
        return __fsub_rn(__fmaf_rn(a, c, -square), __fmaf_rn(b, b, -square));
    }
};

}  // namespace distwar::cuda

// What lenses do to the plane between their ideal image and their real one (projection/lenses/distortion.py): radial,
// tangential and thin-prism terms, straight on beyond the radius `limit`.
#pragma once

#include "../vectors.cuh"

namespace distwar::cuda {

// A matrix of the plane: xy is the derivative of x by y.
struct Mat2 {
    float xx, xy, yx, yy;
};

// The names of a lens's intrinsics where there are distortions: the order of `PARAMETERS` in distortion.py, behind the
// focal lengths and the centre.
enum DistortedWord { kK = 4, kP1 = 10, kP2, kS1, kS2, kS3, kS4, kLimit, kReach, kStretch };

// A function of the squared radius and its two derivatives.
struct Profile {
    float value, slope, bend;

    // 1 + c[0] t + ... + c[count - 1] t^count.
    __device__ static Profile polynomial(const float* c, int count, float t) {
        float value = 0.0f, slope = 0.0f, half_bend = 0.0f;
        for (int i = count; i >= 0; --i) {
            half_bend = half_bend * t + slope;
            slope = slope * t + value;
            value = value * t + (i > 0 ? __ldg(c + i - 1) : 1.0f);
        }
        return {value, slope, 2.0f * half_bend};
    }
    __device__ Profile over(const Profile& b) const {
        const float inverse = 1.0f / b.value, f = value * inverse, f1 = (slope - f * b.slope) * inverse;
        return {f, f1, (bend - 2.0f * f1 * b.slope - f * b.bend) * inverse};
    }
};

// kRational: the radial part of perspective lenses, else the polynomial of fisheyes.
template <bool kRational>
struct Distortion {
    const float* numbers;  // intrinsics

    __device__ float2 apply(float2 q) const {
        const float r2 = q.x * q.x + q.y * q.y, factor = radial(r2).value;
        const float p1 = at(kP1), p2 = at(kP2);
        return {factor * q.x + 2.0f * p1 * q.x * q.y + p2 * (r2 + 2.0f * q.x * q.x) + r2 * (at(kS1) + at(kS2) * r2),
                factor * q.y + 2.0f * p2 * q.x * q.y + p1 * (r2 + 2.0f * q.y * q.y) + r2 * (at(kS3) + at(kS4) * r2)};
    }

    __device__ Mat2 jacobian(float2 q) const {
        const float r2 = q.x * q.x + q.y * q.y, p1 = at(kP1), p2 = at(kP2);
        const Profile f = radial(r2);
        const float prism_x = 2.0f * (at(kS1) + 2.0f * at(kS2) * r2), prism_y = 2.0f * (at(kS3) + 2.0f * at(kS4) * r2);
        const float mixed = 2.0f * f.slope * q.x * q.y + 2.0f * (p1 * q.x + p2 * q.y);
        return {f.value + 2.0f * f.slope * q.x * q.x + 2.0f * p1 * q.y + 6.0f * p2 * q.x + prism_x * q.x,
                mixed + prism_x * q.y, mixed + prism_y * q.x,
                f.value + 2.0f * f.slope * q.y * q.y + 6.0f * p1 * q.y + 2.0f * p2 * q.x + prism_y * q.y};
    }

    // dL/dq from dL/d(jacobian).
    __device__ float2 jacobian_vjp(float2 q, const Mat2& v) const {
        const float r2 = q.x * q.x + q.y * q.y, p1 = at(kP1), p2 = at(kP2), s2 = at(kS2), s4 = at(kS4);
        const Profile f = radial(r2);
        const float vx = v.xx * q.x + v.xy * q.y, vy = v.yx * q.x + v.yy * q.y;  // v q
        const float wx = v.xx * q.x + v.yx * q.y, wy = v.xy * q.x + v.yy * q.y;  // v^T q
        const float along = 2.0f * f.slope * (v.xx + v.yy) + 4.0f * f.bend * (q.x * vx + q.y * vy);
        const float prism_x = 2.0f * (at(kS1) + 2.0f * s2 * r2), prism_y = 2.0f * (at(kS3) + 2.0f * s4 * r2);
        // The prism's second derivatives: what multiplies q, and what its diagonal has.
        const float of_q = 8.0f * (s2 * vx + s4 * vy);
        return {along * q.x + 2.0f * f.slope * (vx + wx) + 6.0f * p2 * v.xx + 2.0f * p1 * (v.xy + v.yx) +
                    2.0f * p2 * v.yy + prism_x * v.xx + prism_y * v.yx + of_q * q.x,
                along * q.y + 2.0f * f.slope * (vy + wy) + 2.0f * p1 * v.xx + 2.0f * p2 * (v.xy + v.yx) +
                    6.0f * p1 * v.yy + prism_x * v.xy + prism_y * v.yy + of_q * q.y};
    }

   private:
    __device__ float at(DistortedWord word) const { return __ldg(numbers + word); }

    __device__ static Profile profile(const float* k, float r2) {
        if (!kRational) return Profile::polynomial(k, 6, r2);
        return Profile::polynomial(k, 3, r2).over(Profile::polynomial(k + 3, 3, r2));
    }

    __device__ Profile radial(float r2) const {
        const float limit = at(kLimit), edge2 = limit * limit;
        const Profile inside = profile(numbers + kK, fminf(r2, edge2));
        if (r2 <= edge2) return inside;
        const float rise = inside.value + 2.0f * inside.slope * edge2, offset = -2.0f * inside.slope * edge2 * limit;
        const float inverse = 1.0f / sqrtf(r2), cubed = inverse * inverse * inverse;
        return {rise + offset * inverse, -0.5f * offset * cubed, 0.75f * offset * cubed * inverse * inverse};
    }
};

__device__ inline float2 times(const Mat2& m, float2 v) { return {m.xx * v.x + m.xy * v.y, m.yx * v.x + m.yy * v.y}; }
__device__ inline float2 transposed_times(const Mat2& m, float2 v) {
    return {m.xx * v.x + m.yx * v.y, m.xy * v.x + m.yy * v.y};
}
// m r, of rows.
__device__ inline Rows2 times(const Mat2& m, const Rows2& r) {
    return {m.xx * r.first + m.xy * r.second, m.yx * r.first + m.yy * r.second};
}
// m^T r.
__device__ inline Rows2 transposed_times(const Mat2& m, const Rows2& r) {
    return {m.xx * r.first + m.yx * r.second, m.xy * r.first + m.yy * r.second};
}
// a b^T.
__device__ inline Mat2 times_transposed(const Rows2& a, const Rows2& b) {
    return {dot(a.first, b.first), dot(a.first, b.second), dot(a.second, b.first), dot(a.second, b.second)};
}

}  // namespace distwar::cuda

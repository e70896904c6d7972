// How the blend kernels work with a splat (../records.cuh), which is packed once per pass.
//
// The exponent of alpha = opacity * exp(-sigma) is kept in the conic's Cholesky form, in base 2:
//   sigma log2(e) = u^2 + v^2,  u = scale_u (dx + skew dy),  v = scale_v dy,  (dx, dy) = mean - pixel
// Being a sum of squares it neither cancels nor goes negative, also for needles whose conic is nearly singular: skew
// has a second word, and the determinant is taken without rounding its products. About the centre of a warp's patch of
// pixels both are linear in the pixel's offset (x, y): with opacity, five multiply-adds per pixel.
//
// Forward and backward kernels must take the same decisions at alpha's cut, so the arithmetic that leads there is
// written with intrinsics: the compiler fuses it one way only.
#pragma once

#include "../records.cuh"
#include "blend.h"

namespace distwar::DISTWAR_BACKEND {

constexpr float kHalfLog2e = 0.72134752f;

__device__ inline float exp2_approx(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// Sums over pixels of dL/dsigma times 1, u, v, dx^2, dx dy, dy^2: what a Gaussian's gradient follows from.
struct SplatSums {
    float one, u, v, xx, xy, yy;
};

// A Gaussian on one row of a patch's pixels, where log2(alpha) = most - (u + u_x x)^2.
struct SplatRow {
    float most, u;
};

// A Gaussian seen from a patch: mean, u and v from its centre, and how u and v change with a pixel's offset from there.
struct PatchSplat {
    float dx, dy, u, v, u_x, u_y, v_y, log2_opacity;

    PatchSplat() = default;
    __device__ PatchSplat(float dx, float dy, float u, float v, float u_x, float u_y, float v_y, float log2_opacity)
        : dx(dx), dy(dy), u(u), v(v), u_x(u_x), u_y(u_y), v_y(v_y), log2_opacity(log2_opacity) {}

    __device__ PatchSplat(const Splat& splat, float2 center) {
        dx = splat.mean.x - center.x, dy = splat.mean.y - center.y;
        u = splat.scale_u * __fmaf_rn(splat.skew_low, dy, __fmaf_rn(splat.skew, dy, dx));
        v = splat.scale_v * dy;
        u_x = -splat.scale_u;
        u_y = -splat.scale_u * splat.skew;
        v_y = -splat.scale_v;
        log2_opacity = splat.log2_opacity;
    }

    __device__ SplatRow row(float y) const {
        const float at_v = v_at(y);
        return {__fmaf_rn(-at_v, at_v, log2_opacity), __fmaf_rn(u_y, y, u)};
    }
    __device__ float u_at(float x, float y) const { return __fmaf_rn(u_x, x, __fmaf_rn(u_y, y, u)); }
    __device__ float v_at(float y) const { return __fmaf_rn(v_y, y, v); }

    // Whether alpha may reach its cut on the patch: the smallest u^2 + v^2 on the rectangle of pixel centres against
    // what opacity leaves, with a margin for rounding. If the mean is outside, the smallest value is on one of the
    // sides (at most two) that face it, a parabola each.
    __device__ bool touches_patch() const {
        constexpr float kHalfWidth = 0.5f * (kPatchWidth - 1), kHalfHeight = 0.5f * (kPatchHeight - 1);
        const float reach = log2_opacity + 7.9954f;  // log2(255) = 7.99435
        const float x = clamp(dx, kHalfWidth), y = clamp(dy, kHalfHeight);
        float least = x == dx && y == dy ? 0.0f : INFINITY;
        if (x != dx)
            least = square_norm(x, clamp(-((u + u_x * x) * u_y + v * v_y) / (u_y * u_y + v_y * v_y), kHalfHeight));
        if (y != dy) least = fminf(least, square_norm(clamp(-(u + u_y * y) / u_x, kHalfWidth), y));
        return least <= reach;
    }

    // Of one pixel.
    __device__ SplatSums sums_of_one(float v_sigma, float x, float y) const {
        const float from_x = dx - x, from_y = dy - y;
        return {v_sigma,
                v_sigma * u_at(x, y),
                v_sigma * v_at(y),
                v_sigma * from_x * from_x,
                v_sigma * from_x * from_y,
                v_sigma * from_y * from_y};
    }

    // dL/dsigma is -alpha dL/dalpha, dL/dopacity is alpha / opacity times it: so the latter is -dL/dsigma / opacity.
    __device__ SplatGradient gradient(const SplatSums& s) const {
        constexpr float kScale = 1.0f / kHalfLog2e;
        const float over_opacity = exp2f(-log2_opacity);
        return {-kScale * u_x * s.u,  -kScale * (u_y * s.u + v_y * s.v), 0.5f * s.xx, s.xy, 0.5f * s.yy,
                -over_opacity * s.one};
    }

   private:
    __device__ static float clamp(float value, float half) { return fminf(fmaxf(value, -half), half); }
    __device__ float square_norm(float x, float y) const {
        const float at_u = u + u_x * x + u_y * y, at_v = v + v_y * y;
        return at_u * at_u + at_v * at_v;
    }
};

// A Gaussian seen from one pixel of the patch.
struct Sample {
    float u, raw, alpha;  // alpha before and after the cap
    bool hit, capped;

    __device__ Sample(SplatRow row, float u_x, float x) {
        u = __fmaf_rn(u_x, x, row.u);
        raw = exp2_approx(__fmaf_rn(-u, u, row.most));
        hit = raw >= kAlphaCut;  // false for NaN
        capped = raw > kAlphaCap;
        alpha = fminf(raw, kAlphaCap);
    }
};

// 32 Gaussians seen from a warp's patch, where every lane can read them: each put there by one lane. A pixel reads its
// row's two numbers and four that all rows share, in pieces of 8 bytes: more than that takes a second cycle per lane.
template <int kChannels>
struct alignas(16) SharedSplats {
    float4 rows[2][kWarpSize + 1];  // most, u of rows 0 and 1; of rows 2 and 3. One apart, or their banks would meet
    float2 slope_color[kWarpSize];  // u_x and the first channel
    float2 more_color[kWarpSize];   // the second and third
    float fourth[kChannels > 3 ? kWarpSize : 1];  // channel, where there are so many

    __device__ void put(int slot, const PatchSplat& splat, float4 color) {
        const SplatRow a = splat.row(-1.5f), b = splat.row(-0.5f), c = splat.row(0.5f), d = splat.row(1.5f);
        rows[0][slot] = make_float4(a.most, a.u, b.most, b.u);
        rows[1][slot] = make_float4(c.most, c.u, d.most, d.u);
        slope_color[slot] = make_float2(splat.u_x, color.x);
        more_color[slot] = make_float2(color.y, color.z);
        if constexpr (kChannels > 3) fourth[slot] = color.w;
    }

    __device__ void put_nothing(int slot) {
        rows[0][slot] = rows[1][slot] = make_float4(-INFINITY, 0.0f, -INFINITY, 0.0f);
        slope_color[slot] = more_color[slot] = make_float2(0.0f, 0.0f);
        if constexpr (kChannels > 3) fourth[slot] = 0.0f;
    }

    // `y` counts rows from the patch's first.
    __device__ SplatRow row(int slot, int y) const {
        const float2 pair = reinterpret_cast<const float2*>(&rows[y / 2][slot])[y % 2];
        return {pair.x, pair.y};
    }

    // Returns u_x; the colour has as many of the first four channels as there are.
    __device__ float slope_and_color(int slot, float (&color)[4]) const {
        const float2 first = slope_color[slot];
        color[0] = first.y;
        if constexpr (kChannels > 1) color[1] = more_color[slot].x;
        if constexpr (kChannels > 2) color[2] = more_color[slot].y;
        if constexpr (kChannels > 3) color[3] = fourth[slot];
        return first.x;
    }
};
static_assert(kPatchHeight == 4 && kPatchWidth == 8);

}  // namespace distwar::DISTWAR_BACKEND

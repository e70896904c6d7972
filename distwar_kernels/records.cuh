// How CUDA kernels hand each other projected Gaussians and their gradients: 12 floats each, three pieces of 16 bytes.
// What the words mean is said here only; docs/kernels.md has a picture.
#pragma once

#include <cuda_runtime.h>

#include "constants.h"

namespace distwar {

// A splat: a projected Gaussian in the factors of blend/splat.cuh, and its colour.
enum SplatWord {
    kMeanX,  // pixels
    kMeanY,
    kScaleU,
    kSkew,
    kSkewLow,  // begins the second piece
    kScaleV,
    kLog2Opacity,  // -infinity: not to be seen
    kTileCount,    // an int: how many tiles the fused rasteriser lists it in; the blend does not read it
    kColor,        // four channels, zero beyond the last; the depth is the fourth where it is blended
};

// dL/d of the projected Gaussian, as the blend's backward pass sums it.
enum GradientWord {
    kGradMeanX,
    kGradMeanY,
    kGradConicXX,
    kGradConicXY,
    kGradConicYY,  // begins the second piece
    kGradOpacity,
    kGradAbsX,  // sums over pixels of |dL/dmean|: zero unless asked for
    kGradAbsY,
    kGradColor,                  // four channels
    kErrorSum = kGradColor + 3,  // in the place of the fourth where it is not blended and errors are given
};

static_assert(kColor + 4 == kSplatFloats && kGradColor + 4 == kSplatFloats);
static_assert(kSkewLow == 4 && kGradConicYY == 4, "pieces are of four words");

// The piece of a record that `word` is in.
__device__ inline const float4* piece_of(const float* records, long long index, int word) {
    return reinterpret_cast<const float4*>(records) + kSplatFloats / 4 * index + word / 4;
}
__device__ inline float4* piece_of(float* records, long long index, int word) {
    return reinterpret_cast<float4*>(records) + kSplatFloats / 4 * index + word / 4;
}

struct Splat {
    float2 mean;
    float scale_u, skew, skew_low, scale_v;
    float log2_opacity;
    float4 color;

    __device__ static Splat of_pieces(float4 first, float4 second, float4 color) {
        return {make_float2(first.x, first.y), first.z, first.w, second.x, second.y, second.z, color};
    }

    __device__ static Splat load(const float* splats, int index) {
        return of_pieces(__ldg(piece_of(splats, index, kMeanX)), __ldg(piece_of(splats, index, kSkewLow)),
                         __ldg(piece_of(splats, index, kColor)));
    }

    // One that is not seen, if `index` is negative.
    __device__ static Splat load_or_nothing(const float* splats, int index) {
        if (index >= 0) return load(splats, index);
        Splat nothing = {};
        nothing.log2_opacity = -INFINITY;
        return nothing;
    }

    __device__ void store(float* splats, int index, int tile_count = 0) const {
        *piece_of(splats, index, kMeanX) = make_float4(mean.x, mean.y, scale_u, skew);
        *piece_of(splats, index, kSkewLow) = make_float4(skew_low, scale_v, log2_opacity, __int_as_float(tile_count));
        *piece_of(splats, index, kColor) = color;
    }
};

// dL/d of a projected Gaussian's geometry: mean, conic, opacity.
struct SplatGradient {
    float x, y, xx, xy, yy, opacity;
};

struct GradientRecord : SplatGradient {
    float2 absolute;  // sums of |dL/dmean|
    float4 color;

    __device__ static GradientRecord load(const float* records, int index) {
        const float4 first = *piece_of(records, index, kGradMeanX), second = *piece_of(records, index, kGradConicYY);
        return {{first.x, first.y, first.z, first.w, second.x, second.y},
                make_float2(second.z, second.w),
                *piece_of(records, index, kGradColor)};
    }

    // Of another splat of the same Gaussian.
    __device__ void add(const GradientRecord& o) {
        x += o.x, y += o.y, xx += o.xx, xy += o.xy, yy += o.yy, opacity += o.opacity;
        absolute.x += o.absolute.x, absolute.y += o.absolute.y;
        color.x += o.color.x, color.y += o.color.y, color.z += o.color.z, color.w += o.color.w;
    }

    // Over the pixels, of weight times error.
    __device__ float error() const { return color.w; }

    // No gradient at all: no pixel has the Gaussian among its contributors, or none that counts.
    __device__ bool is_zero(bool with_fourth_channel) const {
        return x == 0.0f && y == 0.0f && xx == 0.0f && xy == 0.0f && yy == 0.0f && opacity == 0.0f && color.x == 0.0f &&
               color.y == 0.0f && color.z == 0.0f && !(with_fourth_channel && color.w != 0.0f);
    }
};

}  // namespace distwar

// Sums of rows: a visit leaves two numbers per pixel as a row in shared memory, and 16 rows are summed at once by lanes
// that were pixels and become half a row each. The sum of 32 lanes costs a lane 16 additions and one exchange, not five
// exchanges for every number of a record.
#pragma once

#include "../warp_reduce.cuh"
#include "splat.cuh"

namespace distwar::DISTWAR_BACKEND {

// s = dL/dsigma and w = alpha T of 32 pixels in a row each, and with absgrad |dL/dmean|. Rows are four floats longer
// than a warp, so that a column of float4 does not meet a bank twice.
template <bool kAbsGrad>
struct SumRows {
    static constexpr int kRows = kAbsGrad ? 8 : 16, kPlanes = kAbsGrad ? 4 : 2;
    float planes[kPlanes][kRows][kWarpSize + 4];

    __device__ void put(int row, float s, float w) {
        planes[0][row][lane_index()] = s;
        planes[1][row][lane_index()] = w;
    }
    __device__ void put_absolute(int row, float x, float y) {
        planes[2][row][lane_index()] = x;
        planes[3][row][lane_index()] = y;
    }
};

// Of one row: sums of s times 1, x, y, x^2, xy, y^2 with (x, y) from the patch's centre; of w dL/dcolour; of
// |dL/dmean|.
struct RowSums {
    float one, x, y, xx, xy, yy;
    float v_color[4];
    float2 absolute;
};

// Moves the moments from the patch's centre to the Gaussian's.
__device__ inline SplatSums about_mean(const PatchSplat& g, const RowSums& m) {
    const float dx = g.dx * m.one - m.x, dy = g.dy * m.one - m.y;
    return {m.one,
            g.u * m.one + g.u_x * m.x + g.u_y * m.y,
            g.v * m.one + g.v_y * m.y,
            g.dx * dx - (g.dx * m.x - m.xx),
            g.dx * dy - (g.dy * m.x - m.xy),
            g.dy * dy - (g.dy * m.y - m.yy)};
}

// Adds a line of pixels, y below the patch's centre. Sums and differences about the line's middle halve the products.
__device__ inline void add_moments(RowSums& sums, const float* s, float y) {
    const float4 left = *reinterpret_cast<const float4*>(s), right = *reinterpret_cast<const float4*>(s + 4);
    const float plus[4] = {right.w + left.x, right.z + left.y, right.y + left.z, right.x + left.w};
    const float minus[4] = {right.w - left.x, right.z - left.y, right.y - left.z, right.x - left.w};
    const float one = (plus[0] + plus[1]) + (plus[2] + plus[3]);
    const float x = 3.5f * minus[0] + 2.5f * minus[1] + 1.5f * minus[2] + 0.5f * minus[3];
    sums.xx += 12.25f * plus[0] + 6.25f * plus[1] + 2.25f * plus[2] + 0.25f * plus[3];
    sums.one += one, sums.x += x, sums.y += y * one, sums.xy += y * x, sums.yy += y * y * one;
}

template <int kChannels>
__device__ void add_colors(RowSums& sums, const float* w, const float4* v_color) {
#pragma unroll
    for (int first = 0; first < kPatchWidth; first += 4) {
        const float4 four = *reinterpret_cast<const float4*>(w + first);
        const float weights[4] = {four.x, four.y, four.z, four.w};
        float4 v[4];  // all loads before the first use
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = v_color[first + i];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sums.v_color[0] += weights[i] * v[i].x;
            if constexpr (kChannels > 1) sums.v_color[1] += weights[i] * v[i].y;
            if constexpr (kChannels > 2) sums.v_color[2] += weights[i] * v[i].z;
            if constexpr (kChannels > 3) sums.v_color[3] += weights[i] * v[i].w;
        }
    }
}

__device__ inline float total(const float* line) {
    const float4 left = *reinterpret_cast<const float4*>(line), right = *reinterpret_cast<const float4*>(line + 4);
    return ((left.x + left.y) + (left.z + left.w)) + ((right.x + right.y) + (right.z + right.w));
}

// The sums of row `lane % kRows` for every lane; v_color is dL/dcolour of the patch's pixels.
template <int kChannels, bool kAbsGrad>
__device__ RowSums sum_rows(const SumRows<kAbsGrad>& rows, const float4* v_color) {
    constexpr int kRows = SumRows<kAbsGrad>::kRows, kParts = kWarpSize / kRows, kLines = kPatchHeight / kParts;
    const int row = lane_index() % kRows, part = lane_index() / kRows;
    RowSums sums = {};
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
        const int line = part * kLines + i, first = kPatchWidth * line;
        add_moments(sums, rows.planes[0][row] + first, line - 0.5f * (kPatchHeight - 1));
        add_colors<kChannels>(sums, rows.planes[1][row] + first, v_color + first);
        if constexpr (kAbsGrad) {
            sums.absolute.x += total(rows.planes[2][row] + first);
            sums.absolute.y += total(rows.planes[3][row] + first);
        }
    }
    const auto add_other_parts = [](float& value) {
#pragma unroll
        for (int distance = kRows; distance < kWarpSize; distance *= 2)
            value += __shfl_xor_sync(kFullWarp, value, distance);
    };
    add_other_parts(sums.one), add_other_parts(sums.x), add_other_parts(sums.y);
    add_other_parts(sums.xx), add_other_parts(sums.xy), add_other_parts(sums.yy);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) add_other_parts(sums.v_color[k]);
    if constexpr (kAbsGrad) add_other_parts(sums.absolute.x), add_other_parts(sums.absolute.y);
    return sums;
}

}  // namespace distwar::DISTWAR_BACKEND

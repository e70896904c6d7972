// Which tiles a splat touches: row by row of tiles, the columns between the leftmost and the rightmost pixel centre at
// which alpha may reach its cut. A box around the splat would name about twice as many.
//
// In the blend's terms (splat.cuh) that is the ellipse u^2 + v^2 <= reach. With (f, e) the offset of a pixel from the
// mean, f is between -skew e -+ sqrt(reach - (scale_v e)^2) / scale_u, a concave and a convex function of e: on a row
// of tiles each is extreme where it is on the whole ellipse, or else at the row's edge nearest to that.
#pragma once

#include "../records.cuh"
#include "fused.h"

namespace distwar::cuda {

struct TileSpan {
    int begin, end;
    __device__ int size() const { return max(end - begin, 0); }
};

struct Footprint {
    int first_row, end_row;

    __device__ Footprint(const Splat& splat, const TileGrid& grid) : splat(splat), columns(grid.width) {
        reach = splat.log2_opacity + 7.9954f;  // log2(255) = 7.99435; the rest is for rounding
        first_row = end_row = 0;
        if (!(reach > 0.0f)) return;
        half_height = sqrtf(reach) / splat.scale_v;
        const float slope = splat.skew / splat.scale_v,
                    width = sqrtf(slope * slope + 1.0f / (splat.scale_u * splat.scale_u));
        lean = half_height * slope / width;
        const TileSpan rows = span(splat.mean.y - half_height, splat.mean.y + half_height, grid.height);
        first_row = rows.begin, end_row = rows.end;
    }

    __device__ TileSpan row(int index) const {
        const float top = index * kTileSize + 0.5f - splat.mean.y, bottom = top + (kTileSize - 1);
        const float low = fmaxf(top - kMargin, -half_height), high = fminf(bottom + kMargin, half_height);
        const float left = fminf(fmaxf(lean, low), high), right = fminf(fmaxf(-lean, low), high);
        return span(splat.mean.x - splat.skew * left - width_at(left),
                    splat.mean.x - splat.skew * right + width_at(right), columns);
    }

    __device__ int tiles() const {
        int count = 0;
        for (int index = first_row; index < end_row; ++index) count += row(index).size();
        return count;
    }

   private:
    static constexpr float kMargin = 0.01f;  // pixels, for rounding
    const Splat& splat;
    int columns;
    float reach, half_height, lean;  // lean: how far below the mean the ellipse is leftmost

    __device__ float width_at(float e) const {
        const float v = splat.scale_v * e;
        return sqrtf(fmaxf(reach - v * v, 0.0f)) / splat.scale_u;
    }

    // The tiles, of `count` in a row, with a pixel centre between two coordinates.
    __device__ static TileSpan span(float low, float high, int count) {
        const float first = ceilf((low - kMargin - (kTileSize - 0.5f)) * (1.0f / kTileSize));
        const float last = floorf((high + kMargin - 0.5f) * (1.0f / kTileSize));
        return {static_cast<int>(fminf(fmaxf(first, 0.0f), count)),
                static_cast<int>(fminf(fmaxf(last + 1.0f, 0.0f), count))};
    }
};

}  // namespace distwar::cuda

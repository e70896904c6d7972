// How raster kernels map work to lanes: one block of 256 threads a 16x16 tile, one thread a pixel. A warp covers 8x4
// pixels rather than 16x2: the squarer patch meets fewer primitives, so there are fewer warp visits with more active
// lanes each.
#pragma once

#include "tile_lists.h"

namespace distwar {

constexpr int kBlockSize = kTileSize * kTileSize;

struct Pixel {
    int x, y, image;
    long long index;  // over all images; 0 outside
    bool inside;

    __device__ explicit Pixel(const TileLists& lists) {
        const int tiles_per_image = lists.tile_width * lists.tile_height;
        const int tile = blockIdx.x % tiles_per_image, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        constexpr int kPatchesAcross = kTileSize / kPatchWidth;
        image = blockIdx.x / tiles_per_image;
        x = tile % lists.tile_width * kTileSize + warp % kPatchesAcross * kPatchWidth + lane % kPatchWidth;
        y = tile / lists.tile_width * kTileSize + warp / kPatchesAcross * kPatchHeight + lane / kPatchWidth;
        inside = x < lists.width && y < lists.height;
        index = inside ? (static_cast<long long>(image) * lists.height + y) * lists.width + x : 0;
    }
};

// The part of flatten_ids that is this block's tile's.
struct TileRange {
    int begin, end;

    __device__ explicit TileRange(const TileLists& lists) {
        const bool last = blockIdx.x + 1 == gridDim.x;
        begin = lists.isect_offsets[blockIdx.x];
        end = last ? lists.n_isects : lists.isect_offsets[blockIdx.x + 1];
    }
};

}  // namespace distwar

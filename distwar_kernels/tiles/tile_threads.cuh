// How raster kernels map work to threads: one block of 256 threads per tile of 16x16 pixels, one thread per pixel. A
// warp covers a patch of 8x4 pixels rather than 16x2: the squarer patch meets fewer primitives, so there are fewer warp
// visits with more active lanes each.
#pragma once

#include <cuda_runtime.h>

#include "tile_lists.h"

namespace distwar {

constexpr int kBlockSize = kTileSize * kTileSize;

// A warp's place: a patch of a tile. Kernels whose blocks are not a tile each say which one.
struct Patch {
    int tile, index;  // over all images; within the tile

    __device__ Patch() : tile(blockIdx.x), index(threadIdx.x / kWarpSize) {}
    __device__ Patch(int tile, int index) : tile(tile), index(index) {}
};

struct Pixel {
    int x, y, image;
    long long index;  // over all images; 0 outside
    bool inside;

    __device__ explicit Pixel(const TileLists& lists, Patch patch = Patch()) {
        constexpr int kPatchesAcross = kTileSize / kPatchWidth;
        const int tiles_per_image = lists.tile_width * lists.tile_height, lane = threadIdx.x % kWarpSize;
        image = lists.images > 1 ? patch.tile / tiles_per_image : 0;  // divisions are slow
        const int tile = patch.tile - image * tiles_per_image;
        const int row = tile / lists.tile_width, column = tile - row * lists.tile_width;
        x = column * kTileSize + patch.index % kPatchesAcross * kPatchWidth + lane % kPatchWidth;
        y = row * kTileSize + patch.index / kPatchesAcross * kPatchHeight + lane / kPatchWidth;
        inside = x < lists.width && y < lists.height;
        index = inside ? (static_cast<long long>(image) * lists.height + y) * lists.width + x : 0;
    }

    // The middle of the warp's pixels, in pixels from the image's corner, and this pixel's centre from there.
    __device__ float2 patch_center() const {
        return make_float2(x / kPatchWidth * kPatchWidth + 0.5f * kPatchWidth,
                           y / kPatchHeight * kPatchHeight + 0.5f * kPatchHeight);
    }
    __device__ float2 patch_offset() const {
        return make_float2(x % kPatchWidth - 0.5f * (kPatchWidth - 1), y % kPatchHeight - 0.5f * (kPatchHeight - 1));
    }
};

// The part of flatten_ids that is a tile's.
struct TileRange {
    int begin, end;

    __device__ explicit TileRange(const TileLists& lists, int tile = blockIdx.x) {
        begin = lists.isect_offsets[tile];
        end = tile + 1 < lists.tiles() || lists.with_end ? lists.isect_offsets[tile + 1] : lists.n_isects;
    }
};

}  // namespace distwar

// Tile lists, which raster kernels read: for each tile of each image the primitives that may touch it, nearest first.
#pragma once

#include "../constants.h"

namespace distwar {

struct TileLists {
    const int* isect_offsets;  // [images, tile_height, tile_width], where each tile's list begins in flatten_ids
    bool with_end;             // isect_offsets has one more, where the last list ends; else that is n_isects
    const int* flatten_ids;    // [n_isects] primitives, counted over all images
    int images, n_isects;
    int width, height, tile_width, tile_height;

    DISTWAR_ON_BOTH int tiles() const { return images * tile_width * tile_height; }
};

}  // namespace distwar

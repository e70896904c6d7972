// Which Gaussians touch which tile, nearest first: raw pointers and sizes (tiles_cpu.cpp). On CUDA the fused rasteriser
// makes its own (fused_tiles.cu), and the others take gsplat's.
#pragma once

#include <vector>

#include "../constants.h"

namespace distwar::DISTWAR_BACKEND {

struct TilesInputs {
    const float* means2d;  // [images, n, 2] pixels
    const int* radii;      // [images, n, 2] half extents in pixels; 0 = culled
    const float* depths;   // [images, n]
    int images, n, tile_width, tile_height, threads;
};

// Writes offsets [images * tile_height * tile_width] and returns the flatten ids [n_isects].
std::vector<int> intersect_tiles(const TilesInputs& in, int* offsets);

}  // namespace distwar::DISTWAR_BACKEND

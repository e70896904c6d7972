// Memory that only one forward pass of the fused rasteriser needs: keys and places on their way through the sorts.
#pragma once

#include "fused.h"

namespace distwar::cuda {

using TileKey = unsigned short;

struct Scratch {
    unsigned *project_words, *list_words;  // of the prefix sums
    unsigned *depth_keys, *sorted_keys;    // [capacity]
    int *slots, *by_depth;                 // [capacity]
    TileKey *tile_keys, *sorted_tiles;     // [list_capacity]
    int* entries;                          // [list_capacity]
    void* sort;
    size_t sort_bytes;
};

// The first step of project_and_list: fills the splats, depth keys and slots.
void project_and_color(const Gaussians& gaussians, const Camera& camera, const Visible& visible, const Scratch& scratch,
                       void* stream);

}  // namespace distwar::cuda

// Tile lists as bindings are given them.
#pragma once

#include "../binding.h"
#include "tile_lists.h"

namespace distwar::DISTWAR_BACKEND {

// isect_offsets [images, tile_height, tile_width], flatten_ids [n_isects]; both int32 on the device of `like`.
inline TileLists tile_lists(const Tensor& isect_offsets, const Tensor& flatten_ids, int64_t width, int64_t height,
                            const Tensor& like) {
    check(isect_offsets, "isect_offsets", at::kInt, -1, like);
    check(flatten_ids, "flatten_ids", at::kInt, -1, like);
    TileLists lists;
    lists.isect_offsets = isect_offsets.const_data_ptr<int>();
    lists.with_end = false;
    lists.flatten_ids = flatten_ids.const_data_ptr<int>();
    lists.images = isect_offsets.size(0);
    lists.n_isects = flatten_ids.numel();
    lists.width = width;
    lists.height = height;
    lists.tile_height = isect_offsets.size(1);
    lists.tile_width = isect_offsets.size(2);
    return lists;
}

}  // namespace distwar::DISTWAR_BACKEND

// Tensors in, tensors out: registers the tile intersection for the CPU (schema and wrapper in tiles.py).
#include "tiles.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../binding.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

std::tuple<Tensor, Tensor> intersect(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                                     int64_t tile_width, int64_t tile_height) {
    check(means2d, "means2d", at::kFloat, 2, means2d);
    check(radii, "radii", at::kInt, 2, means2d);
    check(depths, "depths", at::kFloat, -1, means2d);
    TORCH_CHECK(radii.sizes() == means2d.sizes() && depths.sizes() == means2d.sizes().slice(0, 2),
                message("means2d, radii [C, N, 2] and depths [C, N] disagree: ", means2d.sizes(), ", ", radii.sizes(),
                        ", ", depths.sizes()));
    TilesInputs in;
    in.means2d = means2d.const_data_ptr<float>();
    in.radii = radii.const_data_ptr<int>();
    in.depths = depths.const_data_ptr<float>();
    in.images = means2d.size(0);
    in.n = means2d.size(1);
    in.tile_width = tile_width;
    in.tile_height = tile_height;
    in.threads = at::get_num_threads();
    const auto options = means2d.options().dtype(at::kInt);
    auto offsets = at::empty({in.images, tile_height, tile_width}, options);
    const auto ids = intersect_tiles(in, offsets.mutable_data_ptr<int>());
    auto flatten_ids = at::empty({static_cast<int64_t>(ids.size())}, options);
    std::copy(ids.begin(), ids.end(), flatten_ids.mutable_data_ptr<int>());
    return {offsets, flatten_ids};
}

TORCH_LIBRARY_IMPL(distwar, DISTWAR_DISPATCH_KEY, m) { m.impl("intersect_tiles", intersect); }

}  // namespace
}  // namespace distwar::DISTWAR_BACKEND

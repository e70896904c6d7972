// Tile lists on the CPU: count, offsets, fill, then sort each tile's list by depth.
//
// A Gaussian covers the tiles that its box mean +- radii touches, with gsplat 1.5.3's rounding, so the lists hold the
// same instances as on CUDA. Equal depths keep the order of ids, which makes the lists, and so the image,
// deterministic.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tiles.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

struct TileBox {
    int x0, y0, x1, y1;  // x1, y1 exclusive

    TileBox(const TilesInputs& in, int64_t id) {
        const int rx = in.radii[2 * id], ry = in.radii[2 * id + 1];
        x0 = y0 = x1 = y1 = 0;
        if (rx <= 0 || ry <= 0) return;
        x0 = tile(std::floor((in.means2d[2 * id] - rx) / kTileSize), in.tile_width);
        x1 = tile(std::ceil((in.means2d[2 * id] + rx) / kTileSize), in.tile_width);
        y0 = tile(std::floor((in.means2d[2 * id + 1] - ry) / kTileSize), in.tile_height);
        y1 = tile(std::ceil((in.means2d[2 * id + 1] + ry) / kTileSize), in.tile_height);
    }

   private:
    static int tile(float value, int count) { return static_cast<int>(std::clamp(value, 0.0f, float(count))); }
};

template <class F>
void for_each_instance(const TilesInputs& in, F f) {
    const int per_image = in.tile_width * in.tile_height;
    for (int64_t id = 0; id < int64_t(in.images) * in.n; ++id) {
        const TileBox box(in, id);
        const int first = static_cast<int>(id / in.n) * per_image;
        for (int y = box.y0; y < box.y1; ++y)
            for (int x = box.x0; x < box.x1; ++x) f(first + y * in.tile_width + x, static_cast<int>(id));
    }
}

}  // namespace

std::vector<int> intersect_tiles(const TilesInputs& in, int* offsets) {
    const int tiles = in.images * in.tile_width * in.tile_height;
    std::vector<int> begin(tiles + 1, 0);
    for_each_instance(in, [&](int tile, int) { ++begin[tile + 1]; });
    for (int tile = 0; tile < tiles; ++tile) begin[tile + 1] += begin[tile];
    std::copy_n(begin.begin(), tiles, offsets);

    std::vector<int> ids(begin[tiles]);
    std::vector<int> next(begin.begin(), begin.end() - 1);
    for_each_instance(in, [&](int tile, int id) { ids[next[tile]++] = id; });
#pragma omp parallel for schedule(dynamic) num_threads(in.threads)
    for (int tile = 0; tile < tiles; ++tile)
        std::stable_sort(ids.begin() + begin[tile], ids.begin() + begin[tile + 1],
                         [&](int a, int b) { return in.depths[a] < in.depths[b]; });
    return ids;
}

}  // namespace distwar::DISTWAR_BACKEND

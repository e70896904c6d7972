// What the CPU's blend goes through: a tile, a Gaussian, and the Gaussian seen from one row of the tile's pixels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../lanes.h"
#include "blend.h"

namespace distwar::DISTWAR_BACKEND {

// A Gaussian, its exponent factored as on CUDA (splat.cuh): with the conic (a, b, c),
//   sigma = (a (dx + skew dy)^2 + rest dy^2) / 2,  skew = b / a,  rest = c - b^2 / a
// As a sum of squares it does not cancel, though the conic be nearly singular; doubles where its factors might.
struct Gaussian {
    int id;
    float x, y, a, b, c, rest, opacity;
    double skew;
    bool valid;  // everything finite, the conic positive definite
    const float* color;

    Gaussian(const BlendInputs& in, int id)
        : id(id),
          x(in.means2d[2 * id]),
          y(in.means2d[2 * id + 1]),
          a(in.conics[3 * id]),
          b(in.conics[3 * id + 1]),
          c(in.conics[3 * id + 2]),
          opacity(in.opacities[id]),
          color(in.colors + static_cast<int64_t>(id) * in.channels) {
        const double determinant = double(a) * c - double(b) * b;
        rest = static_cast<float>(determinant / a);
        skew = double(b) / a;
        valid = a > 0.0f && rest > 0.0f && finite(in.channels);  // others are culled: their colours would spoil pixels
    }

   private:
    // 0 * x is 0 for finite numbers and NaN for the others.
    bool finite(int channels) const {
        float probe = 0.0f * x + 0.0f * y + 0.0f * a + 0.0f * b + 0.0f * c + 0.0f * opacity;
        for (int k = 0; k < channels; ++k) probe += 0.0f * color[k];
        return probe == 0.0f;
    }
};

// Rows [begin, end) of the tile that the ellipse alpha >= 1/255 can touch, from its bounding box.
struct RowRange {
    int begin = 0, end = 0;

    RowRange(const Gaussian& g, float tile_x, float tile_y) {
        if (!g.valid || !(g.opacity >= kAlphaCut)) return;
        const float reach = 2.0f * std::log(g.opacity / kAlphaCut) + 1e-3f;  // twice the largest visible sigma
        const float half_height = std::sqrt(reach / g.rest), half_width = std::sqrt(reach * g.c / g.a / g.rest);
        if (!(g.x + half_width >= tile_x + 0.5f) || !(g.x - half_width <= tile_x + kTileSize - 0.5f)) return;
        begin = static_cast<int>(std::clamp(std::ceil(g.y - half_height - tile_y - 0.5f), 0.0f, float(kTileSize)));
        end = static_cast<int>(std::clamp(std::floor(g.y + half_height - tile_y - 0.5f) + 1, 0.0f, float(kTileSize)));
    }
};

struct Tile {
    int index, image, x0, y0, columns, rows;  // pixels, clipped to the image
    int begin, end;                           // into flatten_ids

    Tile(const BlendInputs& in, int index) : index(index) {
        const int per_image = in.tile_width * in.tile_height, local = index % per_image;
        image = index / per_image;
        x0 = local % in.tile_width * kTileSize;
        y0 = local / in.tile_width * kTileSize;
        columns = std::min(kTileSize, in.width - x0);
        rows = std::min(kTileSize, in.height - y0);
        begin = in.isect_offsets[index];
        end = index + 1 < in.tiles() ? in.isect_offsets[index + 1] : in.n_isects;
        if (in.masks && !in.masks[index]) end = begin;
    }

    int64_t pixel(const BlendInputs& in, int row) const {
        return (int64_t(image) * in.height + y0 + row) * in.width + x0;
    }
    const float* background(const BlendInputs& in) const {
        return in.backgrounds ? in.backgrounds + image * in.channels : nullptr;
    }
};

// One Gaussian seen from the pixels of one tile row.
struct Sample {
    Lanes dx, skewed, vis, alpha;  // skewed = dx + skew dy
    float dy;
    Mask hit;

    Sample(const Gaussian& g, const Tile& tile, int row) {
        dx = (g.x - (tile.x0 + 0.5f)) - ramp();
        dy = g.y - (tile.y0 + row + 0.5f);
        skewed = static_cast<float>(g.x - (tile.x0 + 0.5) + g.skew * dy) - ramp();
        const Lanes sigma = 0.5f * (g.a * skewed * skewed + g.rest * dy * dy);
        vis = exp_negative(sigma);
        alpha = minimum(lanes(kAlphaCap), g.opacity * vis);
        hit = alpha >= kAlphaCut;
    }
};

}  // namespace distwar::DISTWAR_BACKEND

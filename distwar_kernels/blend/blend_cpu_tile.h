// What the CPU's blend goes through: a tile, its strips of pixels, and a Gaussian seen from one of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../lanes.h"
#include "blend.h"

namespace distwar::DISTWAR_BACKEND {

// A strip is as many pixels of a tile's row as a register has lanes.
constexpr int kStripsPerRow = kTileSize / kLanes;
constexpr int kStrips = kTileSize * kStripsPerRow;  // row by row
static_assert(kStripsPerRow * kLanes == kTileSize);

// A Gaussian, its exponent factored as on CUDA (splat.cuh): with the conic (a, b, c),
//   sigma = (a (dx + skew dy)^2 + rest dy^2) / 2,  skew = b / a,  rest = c - b^2 / a
// As a sum of squares it does not cancel, though the conic be nearly singular; doubles where its factors might.
struct Gaussian {
    double skew;
    float x, y, a, b, rest, opacity;
    float reach;                    // no sigma beyond it is visible: alpha is below 1/255
    float half_width, half_height;  // of the box around the ellipse sigma <= reach, pixels; negative: it is not drawn
    const float* color;

    Gaussian() = default;
    Gaussian(const BlendInputs& in, int id)
        : x(in.means2d[2 * id]),
          y(in.means2d[2 * id + 1]),
          a(in.conics[3 * id]),
          b(in.conics[3 * id + 1]),
          opacity(in.opacities[id]),
          color(in.colors + static_cast<int64_t>(id) * in.channels) {
        const float c = in.conics[3 * id + 2];
        const double determinant = double(a) * c - double(b) * b;
        rest = static_cast<float>(determinant / a);
        skew = double(b) / a;
        // Others than these would spoil pixels with their colours.
        const bool valid = a > 0.0f && rest > 0.0f && opacity >= kAlphaCut && finite(in.channels, c);
        const float twice = 2.0f * std::log(opacity / kAlphaCut) + 1e-3f;
        reach = 0.5f * twice;
        half_width = valid ? std::sqrt(twice * c / a / rest) : -1.0f;
        half_height = valid ? std::sqrt(twice / rest) : -1.0f;
    }

   private:
    // 0 * x is 0 for finite numbers and NaN for the others.
    bool finite(int channels, float c) const {
        float probe = 0.0f * x + 0.0f * y + 0.0f * a + 0.0f * b + 0.0f * c + 0.0f * opacity;
        for (int k = 0; k < channels; ++k) probe += 0.0f * color[k];
        return probe == 0.0f;
    }
};

// All that a pass goes through: each of them lies in several tiles.
inline std::vector<Gaussian> gaussians_of(const BlendInputs& in) {
    std::vector<Gaussian> all(in.n_gaussians);
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int id = 0; id < in.n_gaussians; ++id) all[id] = Gaussian(in, id);
    return all;
}

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

// Numbers of a tile's pixels, strip by strip.
struct PixelFloats {
    Lanes strips[kStrips];

    float& at(int row, int column) { return reinterpret_cast<float*>(strips)[row * kTileSize + column]; }
};

// Which list entry was the last one that each pixel of a tile blended; -1 for none, and where there is no pixel.
struct LastEntries {
    Mask strips[kStrips];
    int largest[kStrips];  // of a strip

    void load(const BlendInputs& in, const BlendState& state, const Tile& tile) {
        std::fill_n(strips, kStrips, mask(-1));
        std::fill_n(largest, kStrips, -1);
        for (int row = 0; row < tile.rows; ++row)
            for (int i = 0; i < tile.columns; ++i) {
                const int strip = row * kStripsPerRow + i / kLanes, last = state.last_ids[tile.pixel(in, row) + i];
                strips[strip][i % kLanes] = last;
                largest[strip] = std::max(largest[strip], last);
            }
    }

    int of_all() const { return *std::max_element(largest, largest + kStrips); }
};

// Of `count` rows, or strips of `size` pixels, those that have a pixel's centre between two places: [begin, end).
struct Range {
    int begin, end;

    Range(float low, float high, int size, int count) {
        begin = static_cast<int>(std::clamp(std::ceil(low - 0.5f), 0.0f, float(kTileSize))) / size;
        end = (static_cast<int>(std::clamp(std::floor(high - 0.5f) + 1, 0.0f, float(kTileSize))) + size - 1) / size;
        end = std::min(end, count);
    }
};

// One Gaussian seen from the pixels of a strip.
struct Sample {
    Lanes dx, skewed, sigma;  // skewed = dx + skew dy
    float dy;

    Sample(const Gaussian& g, const Tile& tile, int row, int column) {
        dx = (g.x - (tile.x0 + 0.5f)) - ramp(column);
        dy = g.y - (tile.y0 + row + 0.5f);
        skewed = static_cast<float>(g.x - (tile.x0 + 0.5) + g.skew * dy) - ramp(column);
        sigma = 0.5f * (g.a * skewed * skewed + g.rest * dy * dy);
    }
};

// How much of it is there.
struct Coverage {
    Lanes vis, alpha;
    Mask hit;

    Coverage(const Gaussian& g, const Sample& sample)
        : vis(exp_negative(sample.sigma)), alpha(minimum(lanes(kAlphaCap), g.opacity * vis)), hit(alpha >= kAlphaCut) {}
};

// Visits the strips of a tile that a Gaussian may be visible in: visit(strip, sample). Of no others is an exponential
// worked out. `is_wanted(strip)`: whether a strip still is.
template <class IsWanted, class Visit>
inline void visit_strips(const Gaussian& g, const Tile& tile, IsWanted is_wanted, Visit visit) {
    if (!(g.half_height >= 0.0f)) return;
    const float x = g.x - tile.x0, y = g.y - tile.y0;
    const Range rows(y - g.half_height, y + g.half_height, 1, kTileSize);
    const Range across(x - g.half_width, x + g.half_width, kLanes, kStripsPerRow);
    for (int row = rows.begin; row < rows.end; ++row) {
        for (int part = across.begin; part < across.end; ++part) {
            const int strip = row * kStripsPerRow + part;
            if (!is_wanted(strip)) continue;
            const Sample sample(g, tile, row, part * kLanes);
            if (any(sample.sigma <= g.reach)) visit(strip, sample);
        }
    }
}

}  // namespace distwar::DISTWAR_BACKEND

// The blend op on the CPU: the same mathematics as the CUDA kernels, a strip of pixels at a time (lanes.h).
//
// Thread mapping: tiles, dynamically. A thread keeps a tile's pixel state in a few KiB of L1, goes through the tile's
// Gaussians and touches only the strips that a Gaussian's alpha >= 1/255 ellipse can reach.
//
// In the backward pass each (tile, Gaussian) instance is summed over its pixels in registers, in a fixed order, and
// written to a record of its own; a second pass adds the records of each Gaussian in the order of instances. No
// atomics, so the gradients are bit-equal from run to run, whatever the number of threads.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "blend_cpu_tile.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

// How many channels there are: a constant where they are colours, or those and one more, which then stay in registers.
template <int kFixed>
struct Channels {
    const int given;
    operator int() const { return kFixed ? kFixed : given; }
};

// pass(channels), compiled for three, for four and for any number.
template <class Pass>
void with_channels(int channels, Pass pass) {
    if (channels == 3) return pass(Channels<3>{3});
    if (channels == 4) return pass(Channels<4>{4});
    pass(Channels<0>{channels});
}

// ------------------------------------------------------------------------------------------------------ forward

template <class Count>
struct ForwardPixels {
    const Count channels;
    PixelFloats transmittance;
    Mask live[kStrips];  // true until the pixel is finished
    Mask last[kStrips];
    std::vector<PixelFloats> color;  // [channels]

    explicit ForwardPixels(Count channels) : channels(channels), color(channels) {}

    void reset(const Tile& tile) {
        std::fill_n(transmittance.strips, kStrips, lanes(1.0f));
        std::fill_n(last, kStrips, mask(-1));
        std::fill(color.begin(), color.end(), PixelFloats{});
        for (int strip = 0; strip < kStrips; ++strip) {
            const int row = strip / kStripsPerRow, column = strip % kStripsPerRow * kLanes;
            live[strip] = row < tile.rows ? ramp(column) < float(tile.columns) : Mask{};
        }
    }

    bool any_live() const {
        Mask all{};
        for (const Mask& strip : live) all |= strip;
        return any(all);
    }

    void blend(const Gaussian& g, const Coverage& cover, int strip, int position) {
        Lanes& T = transmittance.strips[strip];
        const Mask hit = cover.hit & live[strip];
        const Lanes next = T * (1.0f - cover.alpha);
        const Mask finished = hit & (next <= kTransmittanceCut);
        const Mask blended = hit & ~finished;
        const Lanes weight = blended ? cover.alpha * T : Lanes{};
        for (int k = 0; k < channels; ++k) color[k].strips[strip] += weight * g.color[k];
        T = blended ? next : T;
        last[strip] = blended ? mask(position) : last[strip];
        live[strip] &= ~finished;
    }

    void store(const BlendInputs& in, const BlendState& state, float* colors_out, const Tile& tile) {
        const float* background = tile.background(in);
        for (int row = 0; row < tile.rows; ++row) {
            for (int i = 0; i < tile.columns; ++i) {
                const int64_t pixel = tile.pixel(in, row) + i;
                const float T = transmittance.at(row, i);
                state.transmittances[pixel] = T;
                state.last_ids[pixel] = last[row * kStripsPerRow + i / kLanes][i % kLanes];
                for (int k = 0; k < channels; ++k)
                    colors_out[pixel * channels + k] = color[k].at(row, i) + (background ? T * background[k] : 0.0f);
            }
        }
    }
};

// Blends a tile's Gaussians, nearest first, until its pixels are finished.
template <class Pixels>
void blend_tile(const BlendInputs& in, const Gaussian* gaussians, const Tile& tile, Pixels& pixels) {
    constexpr int kCheckEvery = 16;
    pixels.reset(tile);
    for (int position = tile.begin; position < tile.end; ++position) {
        if ((position - tile.begin) % kCheckEvery == 0 && !pixels.any_live()) break;
        const Gaussian& g = gaussians[in.flatten_ids[position]];
        const auto is_live = [&](int strip) { return any(pixels.live[strip]); };
        visit_strips(g, tile, is_live,
                     [&](int strip, const Sample& sample) { pixels.blend(g, Coverage(g, sample), strip, position); });
    }
}

// ----------------------------------------------------------------------------------------------------- backward

// A record holds an instance's sums: colours, conic (3), mean (2), opacity, |mean| (2).
constexpr int kGeometryRecord = 8;

template <class Count>
struct BackwardPixels {
    const Count channels;
    LastEntries last;
    PixelFloats transmittance;
    PixelFloats behind;                // sum over farther Gaussians of (c.v) alpha T, and the background's share
    std::vector<PixelFloats> v_color;  // [channels]
    Lanes sums[kGeometryRecord];       // one instance's geometry sums, a partial sum in each lane
    std::vector<Lanes> color_sums;     // [channels]

    explicit BackwardPixels(Count channels) : channels(channels), v_color(channels), color_sums(channels) {}

    void load(const BlendInputs& in, const BlendState& state, const BlendUpstream& upstream, const Tile& tile) {
        last.load(in, state, tile);
        std::fill_n(transmittance.strips, kStrips, lanes(1.0f));
        behind = PixelFloats{};
        std::fill(v_color.begin(), v_color.end(), PixelFloats{});
        for (int row = 0; row < tile.rows; ++row)
            for (int i = 0; i < tile.columns; ++i) load_pixel(in, state, upstream, tile, row, i);
    }

    void load_pixel(const BlendInputs& in, const BlendState& state, const BlendUpstream& upstream, const Tile& tile,
                    int row, int i) {
        const int64_t pixel = tile.pixel(in, row) + i;
        const float* background = tile.background(in);
        float v_transmittance = upstream.v_transmittances[pixel];
        for (int k = 0; k < channels; ++k) {
            const float v = upstream.v_colors_out[pixel * channels + k];
            v_color[k].at(row, i) = v;
            if (background) v_transmittance += background[k] * v;
        }
        transmittance.at(row, i) = state.transmittances[pixel];
        behind.at(row, i) = state.transmittances[pixel] * v_transmittance;
    }

    void clear_sums() {
        std::fill_n(sums, kGeometryRecord, Lanes{});
        std::fill(color_sums.begin(), color_sums.end(), Lanes{});
    }

    void unblend(const Gaussian& g, const Sample& sample, int strip, int position) {
        const Coverage cover(g, sample);
        const Mask hit = cover.hit & (last.strips[strip] >= position);
        const Lanes keep = 1.0f / (1.0f - cover.alpha);
        const Lanes before = transmittance.strips[strip] * keep;
        const Lanes weight = hit ? cover.alpha * before : Lanes{};
        Lanes color_dot{};
        for (int k = 0; k < channels; ++k) {
            const Lanes v = v_color[k].strips[strip];
            color_dot += g.color[k] * v;
            color_sums[k] += weight * v;
        }
        const Lanes v_alpha = color_dot * before - behind.strips[strip] * keep;
        behind.strips[strip] += color_dot * weight;
        transmittance.strips[strip] = hit ? before : transmittance.strips[strip];
        // At the cap alpha is a constant: nothing flows further back.
        const Mask flows = hit & (g.opacity * cover.vis <= kAlphaCap);
        add_geometry(g, sample, flows ? cover.vis * v_alpha : Lanes{});
    }

    void add_geometry(const Gaussian& g, const Sample& sample, Lanes v_opacity) {
        const Lanes v_sigma = -g.opacity * v_opacity;
        const Lanes v_x = v_sigma * g.a * sample.skewed;
        const Lanes v_y = v_sigma * (g.b * sample.skewed + g.rest * sample.dy);
        sums[0] += 0.5f * v_sigma * sample.dx * sample.dx;
        sums[1] += v_sigma * sample.dx * sample.dy;
        sums[2] += 0.5f * v_sigma * sample.dy * sample.dy;
        sums[3] += v_x;
        sums[4] += v_y;
        sums[5] += v_opacity;
        sums[6] += absolute(v_x);
        sums[7] += absolute(v_y);
    }

    void write_record(float* record) const {
        for (int k = 0; k < channels; ++k) *record++ = sum(color_sums[k]);
        for (const Lanes& geometry : sums) *record++ = sum(geometry);
    }
};

template <class Pixels>
void backward_tile(const BlendInputs& in, const Gaussian* gaussians, const Tile& tile, Pixels& pixels, float* records) {
    const int record_size = in.channels + kGeometryRecord;
    for (int position = std::min(tile.end - 1, pixels.last.of_all()); position >= tile.begin; --position) {
        const Gaussian& g = gaussians[in.flatten_ids[position]];
        pixels.clear_sums();
        const auto is_blended = [&](int strip) { return pixels.last.largest[strip] >= position; };
        visit_strips(g, tile, is_blended,
                     [&](int strip, const Sample& sample) { pixels.unblend(g, sample, strip, position); });
        pixels.write_record(records + static_cast<int64_t>(position) * record_size);
    }
}

// Adds every instance's record to its Gaussian, in instance order. Threads own disjoint ranges of Gaussians.
void scatter_records(const BlendInputs& in, const BlendGradients& grad, const std::vector<float>& records) {
    const int record_size = in.channels + kGeometryRecord;
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int part = 0; part < in.threads; ++part) {
        const int64_t first = int64_t(in.n_gaussians) * part / in.threads;
        const int64_t end = int64_t(in.n_gaussians) * (part + 1) / in.threads;
        for (int position = 0; position < in.n_isects; ++position) {
            const int64_t g = in.flatten_ids[position];
            if (g < first || g >= end) continue;
            const float* record = records.data() + static_cast<int64_t>(position) * record_size;
            for (int k = 0; k < in.channels; ++k) grad.v_colors[g * in.channels + k] += record[k];
            record += in.channels;
            for (int i = 0; i < 3; ++i) grad.v_conics[3 * g + i] += record[i];
            for (int i = 0; i < 2; ++i) grad.v_means2d[2 * g + i] += record[3 + i];
            grad.v_opacities[g] += record[5];
            if (grad.v_means2d_abs)
                for (int i = 0; i < 2; ++i) grad.v_means2d_abs[2 * g + i] += record[6 + i];
        }
    }
}

// ------------------------------------------------------------------------------------------------------ traffic

// How the lanes of blend_backward.cu's warps are used: active lanes are the pixels of an 8x4 patch that a Gaussian
// contributes to. A warp reads its tile's list up to its own last contributor.
struct PatchCounts {
    static constexpr int kAcross = kTileSize / kPatchWidth;
    static_assert(kPatchesPerTile * kPatchWidth * kPatchHeight == kTileSize * kTileSize);
    int64_t visits_by_lanes[kWarpSize + 1] = {};  // at 0: list entries without an active lane
    int active[kPatchesPerTile] = {};             // lanes of each patch, for the current Gaussian
    int visits[kPatchesPerTile] = {};             // Gaussians of this tile with an active lane
    int walked[kPatchesPerTile] = {};             // list entries up to the last of them

    void strip(int strip, Mask hit) {
        const int first = strip / kStripsPerRow / kPatchHeight * kAcross, column = strip % kStripsPerRow * kLanes;
        for (int i = 0; i < kLanes; ++i) active[first + (column + i) / kPatchWidth] -= hit[i];
    }

    void gaussian(int index_in_tile) {
        for (int patch = 0; patch < kPatchesPerTile; ++patch) {
            if (active[patch] == 0) continue;
            ++visits_by_lanes[active[patch]];
            ++visits[patch];
            walked[patch] = index_in_tile + 1;
            active[patch] = 0;
        }
    }

    void tile() {
        for (int patch = 0; patch < kPatchesPerTile; ++patch) {
            visits_by_lanes[0] += walked[patch] - visits[patch];
            walked[patch] = visits[patch] = 0;
        }
    }
};

void count_tile(const BlendInputs& in, const Gaussian* gaussians, const Tile& tile, const LastEntries& last,
                PatchCounts& patches) {
    const int end = std::min(tile.end, last.of_all() + 1);
    for (int position = tile.begin; position < end; ++position) {
        const Gaussian& g = gaussians[in.flatten_ids[position]];
        const auto is_blended = [&](int strip) { return last.largest[strip] >= position; };
        visit_strips(g, tile, is_blended, [&](int strip, const Sample& sample) {
            patches.strip(strip, Coverage(g, sample).hit & (last.strips[strip] >= position));
        });
        patches.gaussian(position - tile.begin);
    }
    patches.tile();
}

}  // namespace

bool takes_channels(int) { return true; }
bool sums_in_records(Strategy, int) { return false; }

void blend_forward(const BlendInputs& in, const BlendState& state, float* colors_out) {
    const std::vector<Gaussian> gaussians = gaussians_of(in);
    with_channels(in.channels, [&](auto channels) {
#pragma omp parallel num_threads(in.threads)
        {
            ForwardPixels pixels(channels);
#pragma omp for schedule(dynamic)
            for (int index = 0; index < in.tiles(); ++index) {
                const Tile tile(in, index);
                blend_tile(in, gaussians.data(), tile, pixels);
                pixels.store(in, state, colors_out, tile);
            }
        }
    });
}

// Strategy and threshold say where a GPU makes the sums; here a tile's sums are always made in registers.
void blend_backward(const BlendInputs& in, const BlendState& state, const BlendUpstream& upstream,
                    const BlendGradients& grad, float*, Strategy, int) {
    const std::vector<Gaussian> gaussians = gaussians_of(in);
    std::vector<float> records(static_cast<size_t>(in.n_isects) * (in.channels + kGeometryRecord), 0.0f);
    with_channels(in.channels, [&](auto channels) {
#pragma omp parallel num_threads(in.threads)
        {
            BackwardPixels pixels(channels);
#pragma omp for schedule(dynamic)
            for (int index = 0; index < in.tiles(); ++index) {
                const Tile tile(in, index);
                pixels.load(in, state, upstream, tile);
                backward_tile(in, gaussians.data(), tile, pixels, records.data());
            }
        }
    });
    scatter_records(in, grad, records);
}

void blend_traffic(const BlendInputs& in, const BlendState& state, int64_t* counts) {
    const std::vector<Gaussian> gaussians = gaussians_of(in);
#pragma omp parallel num_threads(in.threads)
    {
        LastEntries last;
        PatchCounts patches;
#pragma omp for schedule(dynamic)
        for (int index = 0; index < in.tiles(); ++index) {
            const Tile tile(in, index);
            last.load(in, state, tile);
            count_tile(in, gaussians.data(), tile, last, patches);
        }
#pragma omp critical
        for (int lanes = 0; lanes <= kWarpSize; ++lanes) counts[lanes] += patches.visits_by_lanes[lanes];
    }
    // A visit is to one Gaussian: its lanes are one group with one address.
    for (int row = 1; row < kTrafficRows; ++row) std::copy_n(counts + 1, kWarpSize, counts + row * (kWarpSize + 1) + 1);
}

}  // namespace distwar::DISTWAR_BACKEND

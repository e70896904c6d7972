// What the blend op's CUDA kernels share: which part of the lists is theirs, and how they are launched.
#pragma once

#include <type_traits>
#include <utility>

#include "../launch.cuh"
#include "../tiles/tile_threads.cuh"
#include "blend.h"

namespace distwar::DISTWAR_BACKEND {

// This block's part of flatten_ids; nothing for a masked tile.
__device__ inline TileRange visible_range(const BlendInputs& in) {
    TileRange range(in);
    if (in.masks && !in.masks[blockIdx.x]) range.end = range.begin;
    return range;
}

__device__ inline const float* background_of(const BlendInputs& in, const Pixel& pixel, int channels) {
    return in.backgrounds ? in.backgrounds + pixel.image * channels : nullptr;
}

// The words of a patch in BlendState::visits: bit i of word w is entry 32 w + i of the tile's list.
__device__ inline int* patch_visits(int* visits, const TileRange& range, Patch patch) {
    const int words = (range.end - range.begin + kWarpSize - 1) / kWarpSize;
    return visits + static_cast<long long>(kPatchesPerTile) * (range.begin / kWarpSize + patch.tile) +
           patch.index * words;
}

// The backward pass of strategy `sw_t` (blend_transposed.cu), one to four channels, into zeroed records.
void blend_backward_transposed(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                               float* records, bool absgrad, int threshold);
// Records to the arrays that the op returns.
void unpack_records(const BlendInputs& in, const float* records, const BlendGradients& grad);
constexpr int kTransposedChannels = 4;

template <int... kCounts, class F>
bool for_channels_among(int channels, F f, std::integer_sequence<int, kCounts...>) {
    return ((channels == kCounts && (f(std::integral_constant<int, kCounts>()), true)) || ...);
}

// Calls f with the channels of a pass that sums in records, and with whether it has errors, as compile-time constants.
template <int... kCounts, class F>
void for_records(const BlendInputs& in, const BlendUpstream& upstream, F f,
                 std::integer_sequence<int, kCounts...> counts) {
    if (upstream.errors) return f(std::integral_constant<int, 3>(), std::true_type());
    for_channels_among(in.channels, [&](auto channels) { f(channels, std::false_type()); }, counts);
}

// Calls f with a bool as a compile-time constant.
template <class F>
void with_flag(bool flag, F f) {
    flag ? f(std::true_type()) : f(std::false_type());
}

// Calls f with the channel count as a compile-time constant; false if the kernels are not compiled for it. (The Python
// wrapper pads to one of these counts.)
template <class F>
bool for_channels(int channels, F f) {
    return for_channels_among(channels, f, std::integer_sequence<int, 1, 3, 4, 8, 16, 32>());
}

}  // namespace distwar::DISTWAR_BACKEND

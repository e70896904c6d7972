// The blend op's interface, the same for CUDA (blend_*.cu) and the CPU (blend_cpu.cpp): raw pointers and sizes.
//
// Arrays are dense, float32 unless said otherwise. G counts projected Gaussians over all images: [C * N], or nnz when
// packed; the tile lists' flatten_ids index it.
#pragma once

#include <cstdint>

#include "../strategy.h"
#include "../tiles/tile_lists.h"
#include "../traffic.h"

#ifndef DISTWAR_BACKEND
#error "compile with -DDISTWAR_BACKEND=cpu or cuda: it names the namespace, so that both can live in one process"
#endif

namespace distwar::DISTWAR_BACKEND {

struct BlendInputs : TileLists {
    const float* means2d;      // [G, 2] pixels; null (CUDA only) if BlendState::splats holds the Gaussians already
    const float* conics;       // [G, 3] inverse covariance xx, xy, yy
    const float* colors;       // [G, channels]
    const float* opacities;    // [G]
    const float* backgrounds;  // [images, channels] or null for black
    const bool* masks;         // [images, tile_height, tile_width] or null; a false tile shows the background
    int n_gaussians, channels;
    int threads;   // CPU only
    void* stream;  // CUDA only
};

// What the forward pass leaves for the backward pass.
struct BlendState {
    float* transmittances;  // [images, height, width], what is left of the light behind the last Gaussian
    int* last_ids;          // [images, height, width] position in flatten_ids of the last contributor, -1 for none
    float* splats;          // CUDA only: [G, 12] the Gaussians as the kernels want them (splat.cuh)
    int* visits;            // CUDA only: [n_isects / 32 + tiles, 8] which list entries contribute to which patch
};

// dL/d(outputs).
struct BlendUpstream {
    const float* v_colors_out;      // [images, height, width, channels]
    const float* v_transmittances;  // [images, height, width] or null for zeros (CUDA only)
    // [images, height, width] at least 0, or null: only where the sums are wanted in records, with three channels. A
    // Gaussian's sum over pixels of weight times this ends in its record as kErrorSum. It has no part in the gradients.
    const float* errors = nullptr;
};

// The sums it makes.
struct BlendGradients {
    float* v_means2d;      // [G, 2]
    float* v_conics;       // [G, 3]
    float* v_colors;       // [G, channels]
    float* v_opacities;    // [G]
    float* v_means2d_abs;  // [G, 2] sum of absolute per-pixel gradients, or null
};

// Whether the kernels are compiled for this number of channels; the CPU's take any.
bool takes_channels(int channels);

// Whether this strategy makes its sums in records (../records.cuh), so that blend_backward needs some of its own.
bool sums_in_records(Strategy strategy, int channels);

// colors_out: [images, height, width, channels].
void blend_forward(const BlendInputs& in, const BlendState& state, float* colors_out);

// grad: zeroed, unless sums_in_records(...). Then `records` [G, 12] are zeroed, else null.
void blend_backward(const BlendInputs& in, const BlendState& state, const BlendUpstream& upstream,
                    const BlendGradients& grad, float* records, Strategy strategy, int threshold);

// CUDA only, at most four channels: the sums of any strategy in zeroed records [G, 12], which are all that is wanted.
void blend_backward_to_records(const BlendInputs& in, const BlendState& state, const BlendUpstream& upstream,
                               float* records, bool absgrad, Strategy strategy, int threshold);

// The same by strategy `sw_t`, and the same to the last bit every time (fixed_point.cuh).
// sums: [G, 12] zeroed. largest: [2] on the device, the largest absolute value of v_colors_out, and the largest error
// (where there are none: the first again).
void blend_backward_to_exact_records(const BlendInputs& in, const BlendState& state, const BlendUpstream& upstream,
                                     float* records, bool absgrad, long long* sums, const float* largest);

// Adds what the warps of blend_backward bring to their reductions to counts laid out as traffic.h says.
void blend_traffic(const BlendInputs& in, const BlendState& state, int64_t* counts);

}  // namespace distwar::DISTWAR_BACKEND

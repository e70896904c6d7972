// The sphere op's interface (spheres.cu): raw pointers and sizes. Arrays are dense float32 unless said otherwise;
// S counts spheres over all images, flatten_ids index it.
#pragma once

#include <cstdint>

#include "../strategy.h"
#include "../tiles/tile_lists.h"
#include "../traffic.h"

namespace distwar::DISTWAR_BACKEND {

struct SphereInputs : TileLists {
    const float* centers;      // [S, 3] in the camera's frame
    const float* radii;        // [S]
    const float* colors;       // [S, 3]
    const float* opacities;    // [S]
    const float* intrinsics;   // [images, 4] of pinhole cameras: fx, fy, cx, cy in pixels
    const float* backgrounds;  // [images, 3] or null for black
    void* stream;
};

struct SphereOutputs {
    float* colors;          // [images, height, width, 3]
    float* transmittances;  // [images, height, width]
    int* ids;               // [images, height, width, kSphereFragments] spheres blended, nearest first, then -1
};

struct SphereUpstream {
    const int* ids;                 // as SphereOutputs
    const float* v_colors_out;      // [images, height, width, 3]
    const float* v_transmittances;  // [images, height, width]
};

// The sums, to be given zeroed.
struct SphereGradients {
    float* v_centers;    // [S, 3]
    float* v_radii;      // [S]
    float* v_colors;     // [S, 3]
    float* v_opacities;  // [S]
};

void spheres_forward(const SphereInputs& in, const SphereOutputs& out);
void spheres_backward(const SphereInputs& in, const SphereUpstream& upstream, const SphereGradients& grad,
                      Strategy strategy, int threshold);

// Adds what the warps of spheres_backward bring to their reductions to counts laid out as traffic.h says.
void spheres_traffic(const SphereInputs& in, const SphereUpstream& upstream, int64_t* counts);

}  // namespace distwar::DISTWAR_BACKEND

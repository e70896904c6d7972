// The projection's interface on the CPU (projection_cpu.cpp): raw pointers and sizes, dense float32 arrays. N
// Gaussians, C pinhole cameras.
#pragma once

#include "../cameras.h"

#ifndef DISTWAR_BACKEND
#error "compile with -DDISTWAR_BACKEND=cpu: it names the namespace"
#endif

namespace distwar::DISTWAR_BACKEND {

struct ProjectionInputs {
    Cameras cameras;
    const float* means;      // [N, 3]
    const float* quats;      // [N, 4] wxyz, of any length
    const float* scales;     // [N, 3] standard deviations
    const float* opacities;  // [N] they bound the visible extent only
    int gaussians;
    float near_plane, far_plane;
    bool antialiased;
    int threads;
};

// Zeros, but for the depths, where a Gaussian is culled.
struct ProjectionOutputs {
    int* radii;            // [C, N, 2] half extents of the bounding box, pixels
    float* means2d;        // [C, N, 2] pixels
    float* depths;         // [C, N] along the camera's z axis
    float* conics;         // [C, N, 3] inverse covariance xx, xy, yy
    float* compensations;  // [C, N] root of the ratio of determinants before and after the blur; 1 if not antialiased
};

// dL/d(outputs).
struct ProjectionUpstream {
    const float *v_means2d, *v_depths, *v_conics, *v_compensations;
};

// dL/d(inputs), which it writes.
struct ProjectionGradients {
    float *v_means, *v_quats, *v_scales;
};

void project(const ProjectionInputs& in, const ProjectionOutputs& out);
void project_backward(const ProjectionInputs& in, const ProjectionUpstream& upstream, const ProjectionGradients& grad);

}  // namespace distwar::DISTWAR_BACKEND

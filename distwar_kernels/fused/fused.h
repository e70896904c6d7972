// The fused rasteriser: what one camera sees of all Gaussians, from trained parameters to splats (project), from those
// to tile lists (list_splats) and an image (../blend), and back to the parameters or straight into Adam. CUDA only.
//
// Arrays are dense, float32 unless said otherwise; N counts Gaussians, V those that the camera sees, in the order of N.
// Nothing here makes the host wait: buffers have capacities, counts stay on the device, and a view that outgrows its
// buffers is cut short and marked, so that the update that would follow leaves everything as it is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../cameras.h"
#include "../constants.h"
#include "../tiles/tile_lists.h"

namespace distwar::cuda {

constexpr int kMostTiles = 65535;  // of an image: tiles are sorted as 16-bit keys, and one key is no tile's

enum Parameter { kMeans, kQuats, kScales, kOpacities, kSh0, kShN };

// Adam (Kingma and Ba 2015) over the Gaussians that contribute to the view.
//
// With `last_steps` it is lazy: what dense Adam would have done to a Gaussian in the steps that skipped it is applied
// later (lazy_adam.cuh). So are the prices: gradients of the loss's terms that are no view's, at every step.
struct Adam {
    static constexpr int kParameters = 6;  // in the order of Gaussians
    float* parameters[kParameters];
    float* exp_avg[kParameters];
    float* exp_avg_sq[kParameters];
    float step_sizes[kParameters];  // learning rate / (1 - beta1^t)
    float beta1, beta2, eps;
    float root_correction;             // 1 / sqrt(1 - beta2^t)
    int* last_steps;                   // [N] the step up to which a Gaussian's parameters and moments are, or null
    int step;                          // t
    float opacity_price, scale_price;  // the loss has these times the sums of all opacities and of all scales

    bool has_prices() const { return opacity_price != 0.0f || scale_price != 0.0f; }
};

// As trained: log scales, logit opacities, quaternions wxyz of any length.
struct Gaussians {
    const float* means;      // [N, 3]
    const float* quats;      // [N, 4]
    const float* scales;     // [N, 3]
    const float* opacities;  // [N]
    const float* sh0;        // [N, 3]
    const float* shN;        // [N, sh_rows, 3]
    int count, sh_rows;
    int sh_degree;  // in use, at most what sh_rows holds
    Adam adam;      // with last_steps: the arrays are as old as those say

    DISTWAR_ON_BOTH const float* of(Parameter parameter) const {
        const float* const arrays[] = {means, quats, scales, opacities, sh0, shN};
        return arrays[parameter];
    }
};

// Tiles across and down an image.
struct TileGrid {
    int width, height;

    TileGrid(int image_width, int image_height)
        : width((image_width + kTileSize - 1) / kTileSize), height((image_height + kTileSize - 1) / kTileSize) {}
    DISTWAR_ON_BOTH int tiles() const { return width * height; }
};

// One camera, and how it is to be drawn.
struct View {
    LensModel lens;
    const float* viewmat;     // [4, 4] world to camera, OpenCV axes
    const float* intrinsics;  // in the lens's order
    int width, height;        // pixels
    TileGrid grid;
    float near_plane, far_plane;
    bool antialiased;
    bool with_depth;  // as the fourth channel
};

// What the camera sees: the joint between projection and lists, across which GPUs can exchange splats.
struct Visible {
    int* total;           // [1] Gaussians: the true number, also where it exceeds the capacity
    int* gaussian_ids;    // [capacity] which Gaussian
    float* splats;        // [capacity, 12] as the blend wants them (../records.cuh)
    float* depths;        // [capacity] as the lens has them: along the camera's z axis, or from the camera
    float* color_slopes;  // [3, 3, capacity] dcolour/dmean through the view direction, or null if nobody asks
    int capacity;

    // How many Gaussians the arrays hold.
    DISTWAR_ON_BOTH int held() const { return *total < capacity ? *total : capacity; }
};

// The tile lists of visible splats.
struct Lists {
    int* counts;         // [2] Gaussians, entries of the lists: the true numbers, also where they exceed the capacities
    int* isect_offsets;  // [tiles + 1] where each tile's list begins, and where the last one ends
    int* flatten_ids;    // [capacity] the lists: positions among the splats, nearest first
    int capacity;
};

// Whether a view's buffers held all its Gaussians and all its entries.
struct Fit {
    const int *visible, *entries;  // how many there were; null entries: nobody asks for these
    int capacity, list_capacity;

    DISTWAR_ON_BOTH bool complete() const { return *visible <= capacity && (!entries || *entries <= list_capacity); }
};

// Projects and colours the Gaussians. scan_words: zeroed, project_words(gaussians) of them.
int project_words(const Gaussians& gaussians);
void project(const Gaussians& gaussians, const View& view, const Visible& visible, unsigned* scan_words, void* stream);

// Makes the lists from visible.total, splats and depths. scratch: list_scratch_bytes(...) of memory.
size_t list_scratch_bytes(const TileGrid& grid, int capacity, int list_capacity);
void list_splats(const TileGrid& grid, const Visible& visible, const Lists& lists, void* scratch, void* stream);

// Densification statistics of a pass, added to; null where not wanted.
struct Statistics {
    float* grad2d;  // [N] length of dL/d(projected centre) in units of half the image
    float* count;   // [N] 1 for each visible
    float* score;   // [N] root of the error that the Gaussian has a part in (BlendUpstream::errors)
    bool absolute;  // lengths of the sums of absolute gradients instead
};

// dL/d(parameters), to be given zeroed.
struct Gradients {
    float *means, *quats, *scales, *opacities, *sh0, *shN;
};

// dL/d(View::viewmat), where somebody asks for it: written, zeros for a view that outgrew its buffers.
struct PoseGradient {
    float* viewmat;  // [4, 4], the last row zeros; null: nobody asks, and kernels without this part run
    float* sums;     // [pose_sums(capacity)] scratch

    explicit operator bool() const { return viewmat != nullptr; }
};
size_t pose_sums(int capacity);

// From the blend's gradient records [capacity, 12] to the parameters'.
void project_backward(const Gaussians& gaussians, const View& view, const Visible& visible, const Fit& fit,
                      const float* records, const Statistics& statistics, const Gradients& gradients,
                      const PoseGradient& pose, void* stream);

// The same, added to what is there: one view after the other.
void add_project_backward(const Gaussians& gaussians, const View& view, const Visible& visible, const Fit& fit,
                          const float* records, const Statistics& statistics, const Gradients& sums, void* stream);

// The same, and Gaussians::adam right away.
void project_backward_and_step(const Gaussians& gaussians, const View& view, const Visible& visible, const Fit& fit,
                               const float* records, const Statistics& statistics, const PoseGradient& pose,
                               void* stream);

// To the pose alone.
void pose_backward(const Gaussians& gaussians, const View& view, const Visible& visible, const Fit& fit,
                   const float* records, const PoseGradient& pose, void* stream);

// Some of each Gaussian's features, as many as a splat has colour words. One that is not finite counts as 0.
struct FeaturePass {
    static constexpr int kChannels = 4;
    const float* features;  // [N, channels]
    int channels, first;    // of all, and of this pass

    DISTWAR_ON_BOTH bool has(int k) const { return first + k < channels; }
    DISTWAR_ON_BOTH long long index(long long row, int k) const { return row * channels + first + k; }
};

// Writes a pass's features over the colours of the splats.
void paint_features(const FeaturePass& pass, const Visible& visible, void* stream);

// Moves the colour words of the blend's records to v_features [N, channels], and zeroes them.
void collect_features(const FeaturePass& pass, const Visible& visible, float* records, float* v_features, void* stream);

// Applies to all of `count` Gaussians what they have skipped up to step t.
void catch_up(const Adam& adam, int count, int sh_rows, void* stream);

}  // namespace distwar::cuda

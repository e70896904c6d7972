// Per-Gaussian features beside the fused rasteriser's colours: four in each pass take the place of the colours in the
// same splats, over the same tile lists. So the blend's own kernels draw and differentiate them, in their fastest form.
//
// Thread mapping, both kernels: one thread per visible Gaussian. paint_kernel writes this pass's features over the
// colour words of its splat. collect_kernel moves the colour words of its gradient record to the features' gradient and
// zeroes them for the next pass; the geometry's words stay and sum up over the passes. Where a panorama's edge makes
// several splats of one Gaussian, one behind another, the first's thread does so for all.
//
// It stores nothing else. A row of features is as long as all their channels; Gaussians come in the order of N.
//
// Lower bound per pass, for V visible Gaussians: paint_kernel reads 20 V bytes and writes 16 V, collect_kernel reads 36
// V and writes 32 V, over the memory's bandwidth; up to twice as many bytes of features where the 16 of a row are half
// of a 32-byte sector.
#include "../launch.cuh"
#include "../records.cuh"
#include "fused.h"

namespace distwar::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) paint_kernel(FeaturePass pass, Visible visible) {
    const int slot = blockIdx.x * kThreads + threadIdx.x;
    if (slot >= visible.held()) return;
    const long long row = visible.gaussian_ids[slot];
    float values[FeaturePass::kChannels];
#pragma unroll
    for (int k = 0; k < FeaturePass::kChannels; ++k) {
        const float value = pass.has(k) ? __ldg(pass.features + pass.index(row, k)) : 0.0f;
        values[k] = isfinite(value) ? value : 0.0f;
    }
    *piece_of(visible.splats, slot, kColor) = make_float4(values[0], values[1], values[2], values[3]);
}

// The colour words of a record, which are zeros then.
__device__ float4 taken_color(float* records, int slot) {
    const float4 color = *piece_of(records, slot, kGradColor);
    *piece_of(records, slot, kGradColor) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return color;
}

__global__ void __launch_bounds__(kThreads)
    collect_kernel(FeaturePass pass, Visible visible, float* records, float* v_features) {
    const int slot = blockIdx.x * kThreads + threadIdx.x;
    if (slot >= visible.held()) return;
    const long long row = visible.gaussian_ids[slot];
    if (slot > 0 && visible.gaussian_ids[slot - 1] == row) return;
    float4 sums = taken_color(records, slot);
    for (int next = slot + 1; next < visible.held() && visible.gaussian_ids[next] == row; ++next) {
        const float4 more = taken_color(records, next);
        sums.x += more.x, sums.y += more.y, sums.z += more.z, sums.w += more.w;
    }
    const float values[FeaturePass::kChannels] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
    for (int k = 0; k < FeaturePass::kChannels; ++k)
        if (pass.has(k) && isfinite(__ldg(pass.features + pass.index(row, k))))
            v_features[pass.index(row, k)] = values[k];
}

}  // namespace

void paint_features(const FeaturePass& pass, const Visible& visible, void* stream) {
    launch(paint_kernel, blocks_for(visible.capacity), kThreads, stream, pass, visible);
}

void collect_features(const FeaturePass& pass, const Visible& visible, float* records, float* v_features,
                      void* stream) {
    launch(collect_kernel, blocks_for(visible.capacity), kThreads, stream, pass, visible, records, v_features);
}

}  // namespace distwar::cuda

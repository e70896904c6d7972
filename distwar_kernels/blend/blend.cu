// Alpha blending of sorted 2D Gaussians, forward and backward (Kerbl et al. 2023, equation 3; gsplat's conventions).
//
// Work to lanes: a block a tile, a thread a pixel, a warp 8x4 pixels (tile_lists.cuh). The tile's Gaussians are staged
// through shared memory in batches of 256; every warp walks the batch and visits each Gaussian that at least one of its
// pixels sees.
//
// Forward, nearest first: colour += c * alpha * T, T *= 1 - alpha, until T would fall to 1e-4. It stores T and the
// position of the last contributor for the backward pass: 8 bytes a pixel.
//
// Backward, farthest first: T is un-blended by division. The colour enters dL/dalpha only through c.v (v = dL/dcolour
// of the pixel), so one running scalar, `behind` = sum over farther Gaussians of (c.v) alpha T, plus the background's
// share, replaces a buffer of channels. Each visit leaves channels + 6 numbers a lane (8 with absgrad), all for one
// Gaussian; where they are summed is the policy's business (warp_reduce.cuh).
//
// Floor of the backward pass: about 45 instructions a visit and 4 * 132 * 1.98e9 warp-instructions/s on an H200.
#include <cuda_runtime.h>

#include <utility>

#include "../tiles/tile_lists.cuh"
#include "../warp_reduce.cuh"
#include "../warp_traffic.cuh"
#include "blend.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

template <int kChannels>
struct Staged {
    float2 mean[kBlockSize];
    float4 conic_opacity[kBlockSize];
    float color[kBlockSize][kChannels];
    int id[kBlockSize];

    __device__ void load(const BlendInputs& in, int slot, int gaussian) {
        id[slot] = gaussian;
        mean[slot] = reinterpret_cast<const float2*>(in.means2d)[gaussian];
        const float* conic = in.conics + 3 * gaussian;
        conic_opacity[slot] = make_float4(conic[0], conic[1], conic[2], in.opacities[gaussian]);
        float probe = 0.0f * in.opacities[gaussian];  // 0 * x is 0 for finite numbers and NaN for the others
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
            color[slot][k] = in.colors[gaussian * kChannels + k];
            probe += 0.0f * color[slot][k];
        }
        // A broken Gaussian is culled: its colours would spoil the pixels. (Broken means and conics fail `hit`.)
        if (!(probe == 0.0f)) conic_opacity[slot].w = 0.0f;
    }
};

// One Gaussian seen from one pixel.
struct Sample {
    float dx, dy, vis, alpha;
    bool hit;

    __device__ Sample(float2 mean, float4 conic_opacity, float px, float py) {
        dx = mean.x - px;
        dy = mean.y - py;
        const float sigma = 0.5f * (conic_opacity.x * dx * dx + conic_opacity.z * dy * dy) + conic_opacity.y * dx * dy;
        vis = __expf(-sigma);
        alpha = fminf(kAlphaCap, conic_opacity.w * vis);
        hit = sigma >= 0.0f && alpha >= kAlphaCut;  // false for a sigma that is NaN
    }
};

__device__ TileRange visible_range(const BlendInputs& in) {
    TileRange range(in);
    if (in.masks && !in.masks[blockIdx.x]) range.end = range.begin;
    return range;
}

__device__ const float* background_of(const BlendInputs& in, const Pixel& pixel, int channels) {
    return in.backgrounds ? in.backgrounds + pixel.image * channels : nullptr;
}

template <int kChannels>
__global__ void __launch_bounds__(kBlockSize) blend_forward_kernel(BlendInputs in, BlendOutputs out) {
    __shared__ Staged<kChannels> staged;
    const Pixel pixel(in);
    const TileRange range = visible_range(in);
    const float px = pixel.x + 0.5f, py = pixel.y + 0.5f;

    float transmittance = 1.0f;
    float color[kChannels] = {};
    int last = -1;
    bool done = !pixel.inside;
    for (int start = range.begin; start < range.end; start += kBlockSize) {
        if (__syncthreads_and(done)) break;
        const int slot = threadIdx.x;
        if (start + slot < range.end) staged.load(in, slot, in.flatten_ids[start + slot]);
        __syncthreads();

        const int count = min(kBlockSize, range.end - start);
        for (int t = 0; t < count && !done; ++t) {
            const Sample sample(staged.mean[t], staged.conic_opacity[t], px, py);
            if (!sample.hit) continue;
            const float next = transmittance * (1.0f - sample.alpha);
            if (next <= kTransmittanceCut) {
                done = true;
                break;
            }
            const float weight = sample.alpha * transmittance;
#pragma unroll
            for (int k = 0; k < kChannels; ++k) color[k] += staged.color[t][k] * weight;
            transmittance = next;
            last = start + t;
        }
    }
    if (!pixel.inside) return;
    const float* background = background_of(in, pixel, kChannels);
#pragma unroll
    for (int k = 0; k < kChannels; ++k)
        out.colors[pixel.index * kChannels + k] = color[k] + (background ? transmittance * background[k] : 0.0f);
    out.transmittances[pixel.index] = transmittance;
    out.last_ids[pixel.index] = last;
}

// Adds one record to the Gaussian's gradients. Order: colours, conic, mean, opacity, |mean|.
template <int kChannels, bool kAbsGrad>
struct EmitGradients {
    BlendGradients grad;

    __device__ void operator()(int gaussian, const float (&record)[kChannels + 6 + 2 * kAbsGrad]) const {
        add<kChannels, 0>(grad.v_colors, gaussian, record);
        add<3, kChannels>(grad.v_conics, gaussian, record);
        add<2, kChannels + 3>(grad.v_means2d, gaussian, record);
        add<1, kChannels + 5>(grad.v_opacities, gaussian, record);
        if constexpr (kAbsGrad) add<2, kChannels + 6>(grad.v_means2d_abs, gaussian, record);
    }

   private:
    template <int kCount, int kFirst, int N>
    static __device__ void add(float* array, long long gaussian, const float (&record)[N]) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) atomicAdd(array + gaussian * kCount + i, record[kFirst + i]);
    }
};

// What one pixel carries through the backward walk.
template <int kChannels>
struct BackwardPixel {
    float v_color[kChannels];
    float transmittance, behind;
    int last;

    __device__ BackwardPixel(const BlendInputs& in, const BlendUpstream& upstream, const Pixel& pixel) {
        const float* background = background_of(in, pixel, kChannels);
        transmittance = upstream.transmittances[pixel.index];
        last = pixel.inside ? upstream.last_ids[pixel.index] : -1;
        float v_transmittance = upstream.v_transmittances[pixel.index];
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
            v_color[k] = upstream.v_colors_out[pixel.index * kChannels + k];
            if (background) v_transmittance += background[k] * v_color[k];
        }
        behind = transmittance * v_transmittance;
    }

    // Un-blends one Gaussian and writes its gradients from this pixel into `record`.
    template <bool kAbsGrad, int N>
    __device__ void step(const Sample& sample, float4 conic_opacity, const float* color, float (&record)[N]) {
        const float keep = 1.0f / (1.0f - sample.alpha);
        transmittance *= keep;
        const float weight = sample.alpha * transmittance;
        float color_dot = 0.0f;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
            color_dot += color[k] * v_color[k];
            record[k] = weight * v_color[k];
        }
        const float v_alpha = color_dot * transmittance - behind * keep;
        behind += color_dot * weight;

        // At the cap alpha is a constant: nothing flows further back.
        const bool capped = conic_opacity.w * sample.vis > kAlphaCap;
        const float v_opacity = capped ? 0.0f : sample.vis * v_alpha;
        const float v_sigma = -conic_opacity.w * v_opacity;
        record[kChannels + 0] = 0.5f * v_sigma * sample.dx * sample.dx;
        record[kChannels + 1] = v_sigma * sample.dx * sample.dy;
        record[kChannels + 2] = 0.5f * v_sigma * sample.dy * sample.dy;
        record[kChannels + 3] = v_sigma * (conic_opacity.x * sample.dx + conic_opacity.y * sample.dy);
        record[kChannels + 4] = v_sigma * (conic_opacity.y * sample.dx + conic_opacity.z * sample.dy);
        record[kChannels + 5] = v_opacity;
        if constexpr (kAbsGrad) {
            record[kChannels + 6] = fabsf(record[kChannels + 3]);
            record[kChannels + 7] = fabsf(record[kChannels + 4]);
        }
    }
};

template <int kChannels, bool kAbsGrad, class Policy, class Emit>
__global__ void __launch_bounds__(kBlockSize)
    blend_backward_kernel(BlendInputs in, BlendUpstream upstream, int threshold, Emit emit) {
    __shared__ Staged<kChannels> staged;
    const Pixel pixel(in);
    const TileRange range = visible_range(in);
    const float px = pixel.x + 0.5f, py = pixel.y + 0.5f;
    BackwardPixel<kChannels> state(in, upstream, pixel);
    const int warp_last = warp_max(state.last);

    for (int end = range.end; end > range.begin; end -= kBlockSize) {
        __syncthreads();
        const int count = min(kBlockSize, end - range.begin);
        if (static_cast<int>(threadIdx.x) < count) staged.load(in, threadIdx.x, in.flatten_ids[end - 1 - threadIdx.x]);
        __syncthreads();

        // Slot t holds position end - 1 - t: farthest first. Nothing behind the warp's last contributor matters.
        for (int t = max(0, end - 1 - warp_last); t < count; ++t) {
            const float4 conic_opacity = staged.conic_opacity[t];
            const Sample sample(staged.mean[t], conic_opacity, px, py);
            const bool active = end - 1 - t <= state.last && sample.hit;
            if (!__any_sync(kFullWarp, active)) {
                Policy::idle(emit);
                continue;
            }
            float record[kChannels + 6 + 2 * kAbsGrad];
            if (active) state.template step<kAbsGrad>(sample, conic_opacity, staged.color[t], record);
            Policy::template add<true>(staged.id[t], record, active, threshold, emit);
        }
    }
}

cudaStream_t stream_of(const BlendInputs& in) { return static_cast<cudaStream_t>(in.stream); }

template <int kChannels, bool kAbsGrad>
void launch_backward(const BlendInputs& in, const BlendUpstream& upstream, const BlendGradients& grad, Strategy strategy,
                     int threshold) {
    using Emit = EmitGradients<kChannels, kAbsGrad>;
    const auto kernel = strategy == Strategy::kAtomic       ? blend_backward_kernel<kChannels, kAbsGrad, Atomic, Emit>
                        : strategy == Strategy::kSerialized ? blend_backward_kernel<kChannels, kAbsGrad, Serialized, Emit>
                                                            : blend_backward_kernel<kChannels, kAbsGrad, Butterfly, Emit>;
    kernel<<<in.tiles(), kBlockSize, 0, stream_of(in)>>>(in, upstream, threshold, Emit{grad});
}

template <int... kCounts, class F>
bool for_channels_among(int channels, F f, std::integer_sequence<int, kCounts...>) {
    return ((channels == kCounts && (f(std::integral_constant<int, kCounts>()), true)) || ...);
}

// Calls f with the channel count as a compile-time constant; false if the kernels are not compiled for it. (The Python
// wrapper pads to one of these counts.)
template <class F>
bool for_channels(int channels, F f) {
    return for_channels_among(channels, f, std::integer_sequence<int, 1, 3, 4, 8, 16, 32>());
}

}  // namespace

bool takes_channels(int channels) {
    return for_channels(channels, [](auto) {});
}

void blend_forward(const BlendInputs& in, const BlendOutputs& out) {
    for_channels(in.channels, [&](auto channels) {
        blend_forward_kernel<channels><<<in.tiles(), kBlockSize, 0, stream_of(in)>>>(in, out);
    });
}

void blend_backward(const BlendInputs& in, const BlendUpstream& upstream, const BlendGradients& grad, Strategy strategy,
                    int threshold) {
    for_channels(in.channels, [&](auto channels) {
        if (grad.v_means2d_abs)
            launch_backward<channels, true>(in, upstream, grad, strategy, threshold);
        else
            launch_backward<channels, false>(in, upstream, grad, strategy, threshold);
    });
}

// The backward kernel itself, with a policy that counts in place of one that sums.
void blend_traffic(const BlendInputs& in, const BlendUpstream& upstream, int64_t* counts) {
    const TrafficTally tally{reinterpret_cast<unsigned long long*>(counts)};
    blend_backward_kernel<1, false, CountTraffic, TrafficTally>
        <<<in.tiles(), kBlockSize, 0, stream_of(in)>>>(in, upstream, 0, tally);
}

}  // namespace distwar::DISTWAR_BACKEND

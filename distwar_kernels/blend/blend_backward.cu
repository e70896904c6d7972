// The blend op's backward pass with DISTWAR's reductions: strategies `atomic`, `sw_s` and `sw_b` for any number of
// channels (and `sw_b` in the place of `sw_t` where there are more than that takes).
//
// Work to lanes: a block a tile, a thread a pixel, a warp a patch of 8x4 pixels (tile_lists.cuh). The tile's Gaussians
// are staged through shared memory in batches of 256; every warp walks the batch, farthest first, and visits each
// Gaussian that at least one of its pixels sees.
//
// A pixel takes the Gaussian off what it has blended (backward_pixel.cuh). Each visit leaves channels + 6 numbers a
// lane (8 with absgrad), all for one Gaussian; where they are summed is the policy's business (warp_reduce.cuh).
//
// It stores nothing but the sums. Floor: about 45 instructions a visit over 4 * 132 * 1.98e9 warp-instructions/s on an
// H200, and as many again for a butterfly of ten sums.
#include "../warp_reduce.cuh"
#include "../warp_traffic.cuh"
#include "backward_pixel.cuh"
#include "splat.cuh"

namespace distwar::DISTWAR_BACKEND {
namespace {

template <int kChannels>
struct Staged {
    Splat splat[kBlockSize];
    float color[kBlockSize][kChannels];  // the packed ones end with the fourth
    int id[kBlockSize];

    __device__ void load(const BlendInputs& in, const float* splats, int slot, int gaussian) {
        id[slot] = gaussian;
        const Splat here = Splat::load(splats, gaussian);
        const float packed[4] = {here.color.x, here.color.y, here.color.z, here.color.w};
        splat[slot] = here;
#pragma unroll
        for (int k = 0; k < kChannels; ++k)
            color[slot][k] =
                kChannels <= 4 ? packed[k % 4] : in.colors[static_cast<long long>(gaussian) * kChannels + k];
    }
};

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
    __device__ void add(float* array, long long gaussian, const float (&record)[N]) const {
        const int step = grad.in_records ? kSplatFloats : kCount;
#pragma unroll
        for (int i = 0; i < kCount; ++i) atomicAdd(array + gaussian * step + i, record[kFirst + i]);
    }
};

// Un-blends one Gaussian at a pixel and writes its gradients from there into `record`.
template <bool kAbsGrad, int kChannels, int N>
__device__ void step(BackwardPixel<kChannels>& pixel, const PatchSplat& splat, const Sample& sample, float2 at,
                     const float (&color)[kChannels], float (&record)[N]) {
    const Unblended here = pixel.unblend(sample.alpha, sample.capped, pixel.seen(color));
#pragma unroll
    for (int k = 0; k < kChannels; ++k) record[k] = here.weight * pixel.v_color[k];
    const SplatGradient g = splat.gradient(splat.sums_of_one(here.v_sigma, at.x, at.y));
    record[kChannels + 0] = g.xx, record[kChannels + 1] = g.xy, record[kChannels + 2] = g.yy;
    record[kChannels + 3] = g.x, record[kChannels + 4] = g.y;
    record[kChannels + 5] = g.opacity;
    if constexpr (kAbsGrad) record[kChannels + 6] = fabsf(g.x), record[kChannels + 7] = fabsf(g.y);
}

template <int kChannels, bool kAbsGrad, class Policy, class Emit>
__global__ void __launch_bounds__(kBlockSize)
    blend_backward_kernel(BlendInputs in, BlendState saved, BlendUpstream upstream, int threshold, Emit emit) {
    __shared__ Staged<kChannels> staged;
    const Pixel pixel(in);
    const TileRange range = visible_range(in);
    const float2 center = pixel.patch_center(), offset = pixel.patch_offset();
    BackwardPixel<kChannels> state(in, saved, upstream, pixel);
    const int warp_last = warp_max(state.last);

    for (int end = range.end; end > range.begin; end -= kBlockSize) {
        __syncthreads();
        const int count = min(kBlockSize, end - range.begin);
        if (static_cast<int>(threadIdx.x) < count)
            staged.load(in, saved.splats, threadIdx.x, in.flatten_ids[end - 1 - threadIdx.x]);
        __syncthreads();

        // Slot t holds position end - 1 - t: farthest first. Nothing behind the warp's last contributor matters.
        for (int t = max(0, end - 1 - warp_last); t < count; ++t) {
            const PatchSplat splat(staged.splat[t], center);
            const Sample sample(splat.row(offset.y), splat.u_x, offset.x);
            const bool active = end - 1 - t <= state.last && sample.hit;
            if (!__any_sync(kFullWarp, active)) {
                Policy::idle(emit);
                continue;
            }
            float record[kChannels + 6 + 2 * kAbsGrad];
            if (active) step<kAbsGrad>(state, splat, sample, offset, staged.color[t], record);
            Policy::template add<true>(staged.id[t], record, active, threshold, emit);
        }
    }
}

template <int kChannels, bool kAbsGrad>
void launch_backward(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                     const BlendGradients& grad, Strategy strategy, int threshold) {
    using Emit = EmitGradients<kChannels, kAbsGrad>;
    const auto kernel = strategy == Strategy::kAtomic ? blend_backward_kernel<kChannels, kAbsGrad, Atomic, Emit>
                        : strategy == Strategy::kSerialized
                            ? blend_backward_kernel<kChannels, kAbsGrad, Serialized, Emit>
                            : blend_backward_kernel<kChannels, kAbsGrad, Butterfly, Emit>;
    launch(kernel, in.tiles(), kBlockSize, in.stream, in, saved, upstream, threshold, Emit{grad});
}

}  // namespace

bool takes_channels(int channels) {
    return for_channels(channels, [](auto) {});
}

bool sums_packed(Strategy strategy, int channels) {
    return strategy == Strategy::kTransposed && channels <= kTransposedChannels;
}

void blend_backward(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                    const BlendGradients& grad, Strategy strategy, int threshold) {
    if (sums_packed(strategy, in.channels)) return blend_backward_transposed(in, saved, upstream, grad, threshold);
    for_channels(in.channels, [&](auto channels) {
        if (grad.v_means2d_abs)
            launch_backward<channels, true>(in, saved, upstream, grad, strategy, threshold);
        else
            launch_backward<channels, false>(in, saved, upstream, grad, strategy, threshold);
    });
}

// The backward kernel itself, with a policy that counts in place of one that sums.
void blend_traffic(const BlendInputs& in, const BlendState& saved, int64_t* counts) {
    const BlendUpstream any = {saved.transmittances, saved.transmittances};  // what is summed does not matter
    const TrafficTally tally{reinterpret_cast<unsigned long long*>(counts)};
    launch(blend_backward_kernel<1, false, CountTraffic, TrafficTally>, in.tiles(), kBlockSize, in.stream, in, saved,
           any, 0, tally);
}

}  // namespace distwar::DISTWAR_BACKEND

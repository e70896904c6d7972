// The blend op's backward pass with DISTWAR's reductions: strategies `atomic`, `sw_s` and `sw_b` for any number of
// channels (and `sw_b` in the place of `sw_t` where there are more than that takes).
//
// Thread mapping: one block per tile, one thread per pixel; a warp is a patch of 8x4 pixels (tile_threads.cuh). The
// tile's Gaussians are staged through shared memory in batches of 256; every warp goes through the batch, farthest
// first, and visits each Gaussian that at least one of its pixels sees.
//
// Each pixel removes the Gaussian from what it has blended (backward_pixel.cuh). A visit yields channels + 6 numbers
// per lane (8 with absgrad), all for one Gaussian; the policy decides where they are summed (warp_reduce.cuh).
//
// It stores nothing but the sums.
//
// Lower bound: about 45 instructions per visit over 4 * 132 * 1.98e9 warp-instructions/s on an H200, and as many again
// for a butterfly of ten sums.
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

// What a visit leaves of one lane, in this order: colours (and error), conic, mean, opacity, |mean|.
template <int kColors, bool kAbsGrad>
struct Sums {
    static constexpr int kConic = kColors, kMean = kConic + 3, kOpacity = kMean + 2, kAbsMean = kOpacity + 1;
    static constexpr int kCount = kAbsMean + 2 * kAbsGrad;
};

template <int kCount>
__device__ void add(float* target, const float* values) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) atomicAdd(target + i, values[i]);
}

// Adds them to the op's arrays.
template <int kChannels, bool kAbsGrad>
struct EmitArrays {
    using S = Sums<kChannels, kAbsGrad>;
    BlendGradients grad;

    __device__ void operator()(long long gaussian, const float (&sums)[S::kCount]) const {
        add<kChannels>(grad.v_colors + kChannels * gaussian, sums);
        add<3>(grad.v_conics + 3 * gaussian, sums + S::kConic);
        add<2>(grad.v_means2d + 2 * gaussian, sums + S::kMean);
        add<1>(grad.v_opacities + gaussian, sums + S::kOpacity);
        if constexpr (kAbsGrad) add<2>(grad.v_means2d_abs + 2 * gaussian, sums + S::kAbsMean);
    }
};

// Adds them to a record.
template <int kColors, bool kAbsGrad>
struct EmitRecords {
    using S = Sums<kColors, kAbsGrad>;
    float* records;

    __device__ void operator()(long long gaussian, const float (&sums)[S::kCount]) const {
        float* record = records + kSplatFloats * gaussian;
        add<kColors>(record + kGradColor, sums);
        add<3>(record + kGradConicXX, sums + S::kConic);
        add<2>(record + kGradMeanX, sums + S::kMean);
        add<1>(record + kGradOpacity, sums + S::kOpacity);
        if constexpr (kAbsGrad) add<2>(record + kGradAbsX, sums + S::kAbsMean);
    }
};

// Un-blends one Gaussian at a pixel and writes its gradients from there.
template <bool kAbsGrad, int kChannels, bool kErrors, int kCount>
__device__ void step(BackwardPixel<kChannels, kErrors>& pixel, const PatchSplat& splat, const Sample& sample, float2 at,
                     const float (&color)[kChannels], float (&sums)[kCount]) {
    using S = Sums<kChannels + kErrors, kAbsGrad>;
    const Unblended here = pixel.unblend(sample.alpha, sample.capped, pixel.seen(color));
#pragma unroll
    for (int k = 0; k < S::kConic; ++k) sums[k] = here.weight * pixel.v_color[k];
    const SplatGradient g = splat.gradient(splat.sums_of_one(here.v_sigma, at.x, at.y));
    sums[S::kConic] = g.xx, sums[S::kConic + 1] = g.xy, sums[S::kConic + 2] = g.yy;
    sums[S::kMean] = g.x, sums[S::kMean + 1] = g.y;
    sums[S::kOpacity] = g.opacity;
    if constexpr (kAbsGrad) sums[S::kAbsMean] = fabsf(g.x), sums[S::kAbsMean + 1] = fabsf(g.y);
}

template <int kChannels, bool kErrors, bool kAbsGrad, class Policy, class Emit>
__global__ void __launch_bounds__(kBlockSize)
    blend_backward_kernel(BlendInputs in, BlendState saved, BlendUpstream upstream, int threshold, Emit emit) {
    __shared__ Staged<kChannels> staged;
    const Pixel pixel(in);
    const TileRange range = visible_range(in);
    const float2 center = pixel.patch_center(), offset = pixel.patch_offset();
    BackwardPixel<kChannels, kErrors> state(in, saved, upstream, pixel);
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
            float sums[Sums<kChannels + kErrors, kAbsGrad>::kCount];
            if (active) step<kAbsGrad>(state, splat, sample, offset, staged.color[t], sums);
            Policy::template add<true>(staged.id[t], sums, active, threshold, emit);
        }
    }
}

template <int kChannels, bool kErrors, bool kAbsGrad, class Emit>
void launch_backward(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream, const Emit& emit,
                     Strategy strategy, int threshold) {
    const auto kernel =
        strategy == Strategy::kAtomic       ? blend_backward_kernel<kChannels, kErrors, kAbsGrad, Atomic, Emit>
        : strategy == Strategy::kSerialized ? blend_backward_kernel<kChannels, kErrors, kAbsGrad, Serialized, Emit>
                                            : blend_backward_kernel<kChannels, kErrors, kAbsGrad, Butterfly, Emit>;
    launch(kernel, in.tiles(), kBlockSize, in.stream, in, saved, upstream, threshold, emit);
}

}  // namespace

bool takes_channels(int channels) {
    return for_channels(channels, [](auto) {});
}

bool sums_in_records(Strategy strategy, int channels) {
    return strategy == Strategy::kTransposed && channels <= kTransposedChannels;
}

void blend_backward(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                    const BlendGradients& grad, float* records, Strategy strategy, int threshold) {
    const bool absgrad = grad.v_means2d_abs != nullptr;
    if (records) {
        blend_backward_transposed(in, saved, upstream, records, absgrad, threshold);
        return unpack_records(in, records, grad);
    }
    for_channels(in.channels, [&](auto channels) {
        with_flag(absgrad, [&](auto absolute) {
            launch_backward<channels, false, absolute>(in, saved, upstream, EmitArrays<channels, absolute>{grad},
                                                       strategy, threshold);
        });
    });
}

void blend_backward_to_records(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                               float* records, bool absgrad, Strategy strategy, int threshold) {
    if (strategy == Strategy::kTransposed)
        return blend_backward_transposed(in, saved, upstream, records, absgrad, threshold);
    const auto launch_for = [&](auto channels, auto errors) {
        with_flag(absgrad, [&](auto absolute) {
            launch_backward<channels, errors, absolute>(
                in, saved, upstream, EmitRecords<channels + errors, absolute>{records}, strategy, threshold);
        });
    };
    for_records(in, upstream, launch_for, std::integer_sequence<int, 3, 4>());
}

// The backward kernel itself, with a policy that counts in place of one that sums.
void blend_traffic(const BlendInputs& in, const BlendState& saved, int64_t* counts) {
    const BlendUpstream any = {saved.transmittances, saved.transmittances};  // what is summed does not matter
    const TrafficTally tally{reinterpret_cast<unsigned long long*>(counts)};
    launch(blend_backward_kernel<1, false, false, CountTraffic, TrafficTally>, in.tiles(), kBlockSize, in.stream, in,
           saved, any, 0, tally);
}

}  // namespace distwar::DISTWAR_BACKEND

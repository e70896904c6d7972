// The blend op's forward pass: alpha blending of sorted 2D Gaussians (Kerbl et al. 2023, equation 3).
//
// Thread mapping: one block per tile, one thread per pixel; a warp is a patch of 8x4 pixels (tile_threads.cuh). The
// tile's Gaussians are staged through shared memory in batches of 256. Each warp tests 32 of them at once against its
// patch, one lane per Gaussian, and visits those that may reach it: colour += c * alpha * T, T *= 1 - alpha, until T
// would fall to 1e-4.
//
// It stores for the backward pass: T and the position of the last contributor of each pixel, the splats
// (../records.cuh), and per patch one bit per list entry: whether it contributes to at least one of the patch's pixels.
//
// Lower bound: about 30 instructions per visit and 45 per 32 tests, over 4 * 132 * 1.98e9 warp-instructions/s on an
// H200.
#include "../warp_reduce.cuh"
#include "blend_cuda.cuh"
#include "splat.cuh"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr int kGroup = 4;  // visits unrolled together

// Packs one Gaussian. A broken one, with anything not finite or a conic that is not positive definite, is not seen.
__global__ void pack_kernel(BlendInputs in, float* splats) {
    const int gaussian = blockIdx.x * blockDim.x + threadIdx.x;
    if (gaussian >= in.n_gaussians) return;
    const float2 mean = reinterpret_cast<const float2*>(in.means2d)[gaussian];
    const float a = in.conics[3ll * gaussian], b = in.conics[3ll * gaussian + 1], c = in.conics[3ll * gaussian + 2];
    const float opacity = in.opacities[gaussian];
    float color[4] = {};
    float probe = 0.0f * (mean.x + mean.y + a + b + c);  // 0 * x is 0 for finite numbers and NaN for the others
    for (int k = 0; k < in.channels; ++k) {
        const float value = in.colors[static_cast<long long>(gaussian) * in.channels + k];
        probe += 0.0f * value;
        if (k < 4) color[k] = value;
    }
    // a c - b^2 with one rounding (Kahan): b^2 and what its rounding lost.
    const float square = __fmul_rn(b, b);
    const float determinant = __fsub_rn(__fmaf_rn(a, c, -square), __fmaf_rn(b, b, -square));
    const bool seen = probe == 0.0f && opacity > 0.0f && a > 0.0f && determinant > 0.0f;

    Splat splat = {};
    splat.log2_opacity = -INFINITY;
    if (seen && isfinite(opacity)) {
        splat.mean = mean;
        splat.scale_u = __fsqrt_rn(kHalfLog2e * a);
        splat.skew = __fdiv_rn(b, a);
        splat.skew_low = __fdiv_rn(__fmaf_rn(-splat.skew, a, b), a);
        splat.scale_v = __fsqrt_rn(kHalfLog2e * __fdiv_rn(determinant, a));
        splat.log2_opacity = __log2f(opacity);
        splat.color = make_float4(color[0], color[1], color[2], color[3]);
    }
    splat.store(splats, gaussian);
}

// A batch of the tile's Gaussians, and what each warp has found of 32 of them.
template <int kChannels>
struct Staged {
    float4 first[kBlockSize], second[kBlockSize];  // pieces of a splat
    float4 color[kBlockSize];
    int gaussian[kBlockSize];
    SharedSplats<kChannels> seen[kPatchesPerTile];
    int entry[kPatchesPerTile][kWarpSize];  // which of the batch each one seen is

    __device__ void load(const float* splats, int slot, int gaussian) {
        first[slot] = __ldg(piece_of(splats, gaussian, kMeanX));
        second[slot] = __ldg(piece_of(splats, gaussian, kSkewLow));
        color[slot] = __ldg(piece_of(splats, gaussian, kColor));
        this->gaussian[slot] = gaussian;
    }

    __device__ PatchSplat seen_from(float2 center, int slot) const {
        return PatchSplat(Splat::of_pieces(first[slot], second[slot], {}), center);
    }
};

__device__ const float* colors_of(const BlendInputs& in, int gaussian) {
    return in.colors + static_cast<long long>(gaussian) * in.channels;
}

// What one pixel carries from Gaussian to Gaussian.
template <int kChannels>
struct ForwardPixel {
    float transmittance = 1.0f, color[kChannels] = {};
    float cut;  // no alpha reaches that of a finished pixel
    int last = -1;

    __device__ explicit ForwardPixel(const Pixel& pixel) : cut(pixel.inside ? kAlphaCut : kNever) {}
    __device__ bool done() const { return cut == kNever; }

    // Whether the Gaussian contributes. Channels beyond the fourth are read from memory.
    __device__ bool visit(float raw, const float (&splat_color)[4], const float* more_color) {
        float alpha = raw >= cut ? fminf(raw, kAlphaCap) : 0.0f;
        float next = __fmaf_rn(-alpha, transmittance, transmittance);
        if (next <= kTransmittanceCut) {
            cut = kNever;
            alpha = 0.0f;
            next = transmittance;
        }
        const float weight = alpha * transmittance;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) color[k] += (k < 4 ? splat_color[k % 4] : __ldg(more_color + k)) * weight;
        transmittance = next;
        return alpha > 0.0f;
    }

   private:
    static constexpr float kNever = 2.0f;
};

template <int kChannels>
__global__ void __launch_bounds__(kBlockSize)
    blend_forward_kernel(BlendInputs in, BlendState saved, float* colors_out) {
    __shared__ Staged<kChannels> staged;
    const Pixel pixel(in);
    const TileRange range = visible_range(in);
    const float2 center = pixel.patch_center();
    const float x = pixel.patch_offset().x;
    const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize, y = lane / kPatchWidth;
    int* visits = patch_visits(saved.visits, range, Patch());
    SharedSplats<kChannels>& seen = staged.seen[warp];
    int (&entry)[kWarpSize] = staged.entry[warp];

    ForwardPixel<kChannels> state(pixel);
    for (int start = range.begin; start < range.end; start += kBlockSize) {
        if (__syncthreads_and(state.done())) break;
        if (start + threadIdx.x < range.end)
            staged.load(saved.splats, threadIdx.x, in.flatten_ids[start + threadIdx.x]);
        __syncthreads();

        const int count = min(kBlockSize, range.end - start);
        for (int first = 0; first < count && !__all_sync(kFullWarp, state.done()); first += kWarpSize) {
            // Each lane tests one Gaussian. Those that may reach the patch come first, in their order.
            PatchSplat mine;
            bool reaches = false;
            if (first + lane < count) {
                mine = staged.seen_from(center, first + lane);
                reaches = mine.touches_patch();
            }
            const unsigned reaching = __ballot_sync(kFullWarp, reaches), before = (1u << lane) - 1;
            const int visible = __popc(reaching);
            const int slot = reaches ? __popc(reaching & before) : visible + __popc(~reaching & before);
            if (reaches)
                seen.put(slot, mine, staged.color[first + lane]);
            else
                seen.put_nothing(slot);
            // Unused slots are read as well (weight 0), so they must have finite colours: those of the first Gaussian
            // that reaches the patch.
            entry[slot] = first + (reaches ? lane : first_lane(reaching));
            __syncwarp();

            unsigned contributors = 0;  // to this pixel, one bit per slot
            for (int i = 0; i < visible; i += kGroup) {
                float raw[kGroup];
                unsigned group = 0;
#pragma unroll
                for (int j = 0; j < kGroup; ++j) raw[j] = Sample(seen.row(i + j, y), seen.slope_color[i + j].x, x).raw;
#pragma unroll
                for (int j = 0; j < kGroup; ++j) {
                    float color[4];
                    seen.slope_and_color(i + j, color);
                    const float* more = kChannels > 4 ? colors_of(in, staged.gaussian[entry[i + j]]) : nullptr;
                    if (state.visit(raw[j], color, more)) group |= 1u << j;
                }
                contributors |= group << i;
            }
            if (contributors) state.last = start + entry[31 - __clz(contributors)];
            const unsigned to_patch = warp_or(contributors);
            const unsigned word = __ballot_sync(kFullWarp, reaches && to_patch >> slot & 1);
            if (lane == 0) visits[(start - range.begin + first) / kWarpSize] = word;
            __syncwarp();
        }
    }
    if (!pixel.inside) return;
    const float* background = background_of(in, pixel, kChannels);
#pragma unroll
    for (int k = 0; k < kChannels; ++k)
        colors_out[pixel.index * kChannels + k] =
            state.color[k] + (background ? state.transmittance * background[k] : 0.0f);
    saved.transmittances[pixel.index] = state.transmittance;
    saved.last_ids[pixel.index] = state.last;
}

}  // namespace

void blend_forward(const BlendInputs& in, const BlendState& saved, float* colors_out) {
    if (in.means2d) launch(pack_kernel, blocks_for(in.n_gaussians), kThreads, in.stream, in, saved.splats);
    for_channels(in.channels, [&](auto channels) {
        launch(blend_forward_kernel<channels>, in.tiles(), kBlockSize, in.stream, in, saved, colors_out);
    });
}

}  // namespace distwar::DISTWAR_BACKEND

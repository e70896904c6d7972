// The blend op's backward pass with transposed sums: strategy `sw_t`, up to four channels. docs/kernels.md has pictures
// and the derivation.
//
// A visit (a patch meets a Gaussian) yields two numbers per pixel, s = dL/dsigma and w = alpha T. With (x, y) the
// pixel's offset from the patch's centre, all that is geometric follows from the sums of s times 1, x, y, x^2, xy, y^2,
// and the colours' gradient is the sum of w dL/dcolour. So each visit writes s and w as a row of shared memory. After
// every 16 rows the lanes, which were pixels until then, become half a row each and sum (transposed_sums.cuh). Then 16
// lanes finish one Gaussian each and add it to its gradient record. A visit with fewer active lanes than the threshold
// goes straight to memory instead.
//
// Thread mapping: one warp per patch of 8x4 pixels, and no barrier between warps. The forward pass has left one bit per
// list entry that contributes to the patch; a warp gathers 32 of them, farthest first, and each lane fetches one.
//
// It stores a gradient record of 48 bytes per Gaussian (../records.cuh). The blend op unpacks them in the end; the
// fused rasteriser wants them as they are.
//
// Lower bound: about 42 instructions per visit over 4 * 132 * 1.98e9 warp-instructions/s on an H200, and about 14
// cycles of shared memory and L1 per visit over 132 * 1.98e9 cycles/s, a third more: this is the bottleneck.
#include "../warp_reduce.cuh"
#include "backward_pixel.cuh"
#include "fixed_point.cuh"
#include "splat.cuh"
#include "transposed_sums.cuh"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr int kWarps = 4;  // of a block: half a tile's
constexpr int kThreadsPerBlock = kWarps * kWarpSize;
constexpr int kGroup = 4;                   // visits unrolled together
constexpr float kLog2AlphaCap = -0.00145f;  // a little below log2(0.999)

// What a warp has in shared memory.
template <int kChannels, bool kAbsGrad>
struct Scratch {
    SumRows<kAbsGrad> rows;
    SharedSplats<kChannels> seen;
    float4 v_color[kWarpSize];                // of the pixels
    float3 slopes[kAbsGrad ? kWarpSize : 1];  // u_y, v_y and v of those seen
    int positions[2 * kWarpSize];             // VisitQueue's
};

// 32 (or at the end fewer) list entries that contribute to a patch, farthest first; a lane has one.
struct Batch {
    int count;
    int gaussian;  // of this lane; -1 if it has none
    int skip;      // how many of them are beyond this pixel's last contributor
};

// Reads a patch's bits, from the far end, and gathers the entries they name.
struct VisitQueue {
    const int* flatten_ids;
    const int* words;  // the patch's bits
    int* positions;    // [64] in shared memory, falling
    int begin;         // of the tile's list
    int word;          // the next one to read
    int chunk = 0;     // words left of those that the lanes have loaded
    unsigned bits = 0;
    int queued = 0;

    // The next batch for a pixel with this last contributor. All lanes must be done with the one before.
    __device__ Batch pull(int last) {
        fill();
        const int lane = lane_index(), count = min(queued, kWarpSize);
        const Batch batch = {count, lane < count ? __ldg(flatten_ids + positions[lane]) : -1, beyond(count, last)};
        const int rest = positions[kWarpSize + lane];
        __syncwarp();
        positions[lane] = rest;
        queued -= count;
        __syncwarp();
        return batch;
    }

   private:
    __device__ void fill() {
        const int lane = lane_index();
        while (queued < kWarpSize && word >= 0) {
            if (chunk == 0) {
                bits = word >= lane ? words[word - lane] : 0;
                chunk = kWarpSize;
            }
            const unsigned entries = __shfl_sync(kFullWarp, bits, kWarpSize - chunk);
            const unsigned from_mine = entries >> lane;
            if (from_mine & 1) positions[queued + __popc(from_mine >> 1)] = begin + kWarpSize * word + lane;
            queued += __popc(entries);
            --word, --chunk;
        }
        __syncwarp();
    }

    // How many of the first `count` positions are above `last`.
    __device__ int beyond(int count, int last) const {
        if (count == 0 || __all_sync(kFullWarp, last >= positions[0])) return 0;
        int skip = 0;
#pragma unroll
        for (int step = kWarpSize / 2; step > 0; step /= 2)
            if (skip + step <= count && positions[skip + step - 1] > last) skip += step;
        return skip < count && positions[skip] > last ? skip + 1 : skip;
    }
};

// Adds a Gaussian's gradient, or a pixel's share of it, to its record.
struct EmitRecord {
    float* records;  // [G, kSplatFloats]

    template <bool kAbsGrad>
    __device__ void add(int gaussian, const SplatGradient& g, const float* v_color, float2 absolute) const {
        float* record = records + static_cast<long long>(kSplatFloats) * gaussian;
        add4(record + kGradMeanX, g.x, g.y, g.xx, g.xy);
        if constexpr (kAbsGrad)
            add4(record + kGradConicYY, g.yy, g.opacity, absolute.x, absolute.y);
        else
            add2(record + kGradConicYY, g.yy, g.opacity);
        add4(record + kGradColor, v_color[0], v_color[1], v_color[2], v_color[3]);
    }

   private:
    __device__ static void add4(float* address, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(a), "f"(b), "f"(c), "f"(d)
                     : "memory");
#else
        atomicAdd(address, a), atomicAdd(address + 1, b), atomicAdd(address + 2, c), atomicAdd(address + 3, d);
#endif
    }

    __device__ static void add2(float* address, float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(address), "f"(a), "f"(b) : "memory");
#else
        atomicAdd(address, a), atomicAdd(address + 1, b);
#endif
    }
};

// The same into fixed-point records.
struct EmitFixed {
    FixedPoint fixed;

    template <bool kAbsGrad>
    __device__ void add(int gaussian, const SplatGradient& g, const float* v_color, float2 absolute) const {
        float record[kSplatFloats];
        record[kGradMeanX] = g.x, record[kGradMeanY] = g.y;
        record[kGradConicXX] = g.xx, record[kGradConicXY] = g.xy, record[kGradConicYY] = g.yy;
        record[kGradOpacity] = g.opacity, record[kGradAbsX] = absolute.x, record[kGradAbsY] = absolute.y;
#pragma unroll
        for (int k = 0; k < 4; ++k) record[kGradColor + k] = v_color[k];
        auto* sums =
            reinterpret_cast<unsigned long long*>(fixed.sums) + static_cast<long long>(kSplatFloats) * gaussian;
#pragma unroll
        for (int i = 0; i < kSplatFloats; ++i) {
            if (!kAbsGrad && (i == kGradAbsX || i == kGradAbsY)) continue;
            atomicAdd(sums + i, static_cast<unsigned long long>(__float2ll_rn(record[i] * fixed.units(i))));
        }
    }
};

// A pixel of a patch on its way from the farthest Gaussian to the nearest.
template <int kChannels, bool kErrors, bool kAbsGrad, bool kSplit, class Emit>
struct Walk {
    BackwardPixel<kChannels, kErrors> pixel;
    float x;   // from the patch's centre
    int line;  // of the patch's pixels
    Scratch<kChannels, kAbsGrad>& scratch;
    Emit emit;
    int threshold;

    // Leaves a batch's Gaussians from slot `first` on as rows. Plain: all of them are in front of this warp's last
    // contributors and none is so opaque that alpha may reach its cap.
    template <bool kPlain>
    __device__ void visit(const Batch& batch, const PatchSplat& mine, int first, int rows) {
        for (int row = 0; row < rows; row += kGroup) {
            float alpha[kGroup], seen[kGroup], u[kGroup];
            bool capped[kGroup];
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                const int slot = first + row + i;
                float color[4];
                const float u_x = scratch.seen.slope_and_color(slot, color);
                const Sample sample(scratch.seen.row(slot, line), u_x, x);
                const bool hit = sample.hit && (kPlain || slot >= batch.skip);
                alpha[i] = hit ? kPlain ? sample.raw : sample.alpha : 0.0f;
                capped[i] = !kPlain && sample.capped;
                seen[i] = pixel.seen(color);
                u[i] = sample.u;
            }
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                const int slot = first + row + i;
                Unblended here = pixel.unblend(alpha[i], capped[i], seen[i]);
                if (kSplit && few(alpha[i] > 0.0f)) {
                    add_directly(mine, batch.gaussian, slot, alpha[i] > 0.0f, here);
                    here = {0.0f, 0.0f};
                }
                scratch.rows.put(row + i, here.v_sigma, here.weight);
                if constexpr (kAbsGrad) put_absolute(row + i, slot, here.v_sigma, u[i]);
            }
        }
        __syncwarp();
    }

   private:
    __device__ bool few(bool active) const { return __popc(__ballot_sync(kFullWarp, active)) < threshold; }

    __device__ void put_absolute(int row, int slot, float v_sigma, float u) const {
        const float3 slope = scratch.slopes[slot];
        const float v = slope.z + slope.y * (line - 0.5f * (kPatchHeight - 1));
        scratch.rows.put_absolute(row, fabsf(v_sigma * scratch.seen.slope_color[slot].x * u) / kHalfLog2e,
                                  fabsf(v_sigma * (slope.x * u + slope.y * v)) / kHalfLog2e);
    }

    // The lanes of a visit that are too few to reduce: each adds its own share. Lane `source` has fetched the Gaussian.
    __device__ void add_directly(const PatchSplat& fetched, int gaussian, int source, bool active,
                                 const Unblended& here) const {
        const auto theirs = [source](auto value) { return __shfl_sync(kFullWarp, value, source); };
        const PatchSplat splat = {theirs(fetched.dx),  theirs(fetched.dy),          theirs(fetched.u),
                                  theirs(fetched.v),   theirs(fetched.u_x),         theirs(fetched.u_y),
                                  theirs(fetched.v_y), theirs(fetched.log2_opacity)};
        const int id = theirs(gaussian);
        if (!active) return;
        float v_color[4] = {};
#pragma unroll
        for (int k = 0; k < kChannels + kErrors; ++k) v_color[k] = here.weight * pixel.v_color[k];
        const SplatGradient g = splat.gradient(splat.sums_of_one(here.v_sigma, x, line - 0.5f * (kPatchHeight - 1)));
        emit.template add<kAbsGrad>(id, g, v_color, make_float2(fabsf(g.x), fabsf(g.y)));
    }
};

template <int kChannels, bool kErrors, bool kAbsGrad, bool kSplit, class Emit>
__global__ void __launch_bounds__(kThreadsPerBlock, 32 / kWarps)
    blend_transposed_kernel(BlendInputs in, BlendState saved, BlendUpstream upstream, int threshold, Emit emit) {
    __shared__ Scratch<kChannels, kAbsGrad> scratches[kWarps];
    auto& scratch = scratches[threadIdx.x / kWarpSize];
    constexpr int kRows = SumRows<kAbsGrad>::kRows;

    const int warp = blockIdx.x * kWarps + threadIdx.x / kWarpSize;
    const Patch patch(warp / kPatchesPerTile, warp % kPatchesPerTile);
    const Pixel pixel(in, patch);
    const BackwardPixel<kChannels, kErrors> start(in, saved, upstream, pixel);
    const int warp_last = warp_max(start.last);
    if (warp_last < 0) return;
    const TileRange range(in, patch.tile);
    const float2 center = pixel.patch_center();
    const int lane = lane_index();
    scratch.v_color[lane] = start.v_color_padded();
    __syncwarp();
    Walk<kChannels, kErrors, kAbsGrad, kSplit, Emit> walk = {
        start, pixel.patch_offset().x, lane / kPatchWidth, scratch, emit, threshold};

    VisitQueue queue = {in.flatten_ids, patch_visits(saved.visits, range, patch), scratch.positions, range.begin,
                        (warp_last - range.begin) / kWarpSize};
    while (true) {
        const Batch batch = queue.pull(start.last);
        if (batch.count == 0) break;
        const Splat splat = Splat::load_or_nothing(saved.splats, batch.gaussian);
        const PatchSplat mine(splat, center);
        scratch.seen.put(lane, mine, splat.color);
        if constexpr (kAbsGrad) scratch.slopes[lane] = make_float3(mine.u_y, mine.v_y, mine.v);
        const unsigned opaque = __ballot_sync(kFullWarp, mine.log2_opacity > kLog2AlphaCap);
        __syncwarp();

        for (int first = 0; first < batch.count; first += kRows) {
            const int rows = min(kRows, batch.count - first);
            if ((opaque >> first & ((1u << kRows) - 1)) == 0 && __all_sync(kFullWarp, batch.skip <= first))
                walk.template visit<true>(batch, mine, first, rows);
            else
                walk.template visit<false>(batch, mine, first, rows);
            const RowSums sums = sum_rows<kChannels + kErrors>(scratch.rows, scratch.v_color);
            if (lane >= first && lane < first + rows)
                emit.template add<kAbsGrad>(batch.gaussian, mine.gradient(about_mean(mine, sums)), sums.v_color,
                                            sums.absolute);
            __syncwarp();
        }
    }
}

__global__ void unpack_kernel(const float* records, BlendGradients grad, int n_gaussians, int channels) {
    const int gaussian = blockIdx.x * blockDim.x + threadIdx.x;
    if (gaussian >= n_gaussians) return;
    const GradientRecord record = GradientRecord::load(records, gaussian);
    reinterpret_cast<float2*>(grad.v_means2d)[gaussian] = make_float2(record.x, record.y);
    float* conic = grad.v_conics + 3ll * gaussian;
    conic[0] = record.xx, conic[1] = record.xy, conic[2] = record.yy;
    grad.v_opacities[gaussian] = record.opacity;
    if (grad.v_means2d_abs) reinterpret_cast<float2*>(grad.v_means2d_abs)[gaussian] = record.absolute;
    const float color[4] = {record.color.x, record.color.y, record.color.z, record.color.w};
    for (int k = 0; k < channels; ++k) grad.v_colors[static_cast<long long>(gaussian) * channels + k] = color[k];
}

__global__ void from_fixed_kernel(FixedPoint fixed, float* records, int count) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) records[index] = static_cast<float>(fixed.sums[index]) / fixed.units(index % kSplatFloats);
}

}  // namespace

// Always reduced in the warp: sums of few lanes are exact, too, but slower.
void blend_backward_to_exact_records(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                                     float* records, bool absgrad, long long* sums, const float* largest) {
    const FixedPoint fixed = {sums, largest, static_cast<float>(in.width) * in.height};
    const auto launch_for = [&](auto channels, auto errors) {
        with_flag(absgrad, [&](auto absolute) {
            launch(blend_transposed_kernel<channels, errors, absolute, false, EmitFixed>,
                   in.tiles() * (kPatchesPerTile / kWarps), kThreadsPerBlock, in.stream, in, saved, upstream, 1,
                   EmitFixed{fixed});
        });
    };
    for_records(in, upstream, launch_for, std::integer_sequence<int, 3, 4>());
    const int count = kSplatFloats * in.n_gaussians;
    launch(from_fixed_kernel, blocks_for(count), kThreads, in.stream, fixed, records, count);
}

void blend_backward_transposed(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                               float* records, bool absgrad, int threshold) {
    const auto launch_for = [&](auto channels, auto errors) {
        with_flag(absgrad, [&](auto absolute) {
            with_flag(threshold > 1, [&](auto split) {
                launch(blend_transposed_kernel<channels, errors, absolute, split, EmitRecord>,
                       in.tiles() * (kPatchesPerTile / kWarps), kThreadsPerBlock, in.stream, in, saved, upstream,
                       threshold, EmitRecord{records});
            });
        });
    };
    for_records(in, upstream, launch_for, std::integer_sequence<int, 1, 3, 4>());
}

void unpack_records(const BlendInputs& in, const float* records, const BlendGradients& grad) {
    launch(unpack_kernel, blocks_for(in.n_gaussians), kThreads, in.stream, records, grad, in.n_gaussians, in.channels);
}

}  // namespace distwar::DISTWAR_BACKEND

// L1 + D-SSIM and its gradient: two kernels, each a separable 11x11 blur in one pass over the image.
//
// With s = x + y and d = x - y (render x, photo y; means and variances are the window's) SSIM is (1 - A)(1 - B), where
// A = mean(d)^2 / ((mean(s)^2 + mean(d)^2) / 2 + C1) and B = var(d) / ((var(s) + var(d)) / 2 + C2): Wang et al. 2004,
// equation 13, with four maps to blur instead of five, and nothing cancels where the images are nearly equal. `compare`
// blurs s, d, s^2, d^2 and leaves the derivatives of D = A + B - AB by the three moments through which x enters;
// `spread` blurs these (the window is its own adjoint) and adds L1's sign to what each pixel makes of them.
//
// Thread mapping: strip_blur.cuh.
//
// It stores three float maps between the kernels (36 bytes per pixel) and a pair of sums per block, which one more
// block of `spread` adds up: no atomics, so results are bit-equal from run to run. A map of the pixels' errors, if
// asked for, is made by `compare` of the differences in shared memory: 4 bytes per pixel more are written, none read.
//
// Lower bound per pixel: 15 bytes read and 36 written, then 51 read and 12 written, 114 in all: 0.029 ms for 1297x840
// at 4.3 TB/s, less what the L2 keeps. 3 x 154 multiply-adds: 0.016 ms on an H200. As written, with the rows that
// neighbouring chunks blur twice, 3 x 368 instructions over 132 x 4 x 32 x 1.98e9 per second: 0.036 ms, which is the
// bottleneck.
#include <limits>

#include "../launch.cuh"
#include "../warp_reduce.cuh"
#include "photometric.h"
#include "strip_blur.cuh"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr float kWhite = std::numeric_limits<uint8_t>::max();

// ------------------------------------------------------------------------------------------------- render and photo

// Numbers of the render and the photo at one place, as loaded: they become floats when they are needed.
struct Sample {
    float x;
    uint32_t y;  // a byte, or a pixel's four if it has an alpha
};

// A render and its photo.
template <bool kAlpha>
struct Pictures {
    const float* __restrict__ image;
    const uint8_t* __restrict__ target;
    const float* __restrict__ background;

    // Outside of the image both are 0.
    static __device__ Sample outside() { return {0.0f, kAlpha ? 0xff000000u : 0u}; }

    __device__ Sample load(int index) const {
        const float x = __ldg(image + index);
        if constexpr (kAlpha) return {x, __ldg(reinterpret_cast<const uint32_t*>(target) + index / kChannels)};
        return {x, __ldg(target + index)};
    }

    // x + y, less 1 (about 0 for middling grey, so that variances suffer less from rounding), and x - y.
    __device__ float2 sum_and_difference(Sample at, int channel) const {
        float y;
        if constexpr (kAlpha) {
            const float color = part_of_white(at.y >> 8 * channel & 0xffu), alpha = part_of_white(at.y >> 24);
            y = __fadd_rn(__fmul_rn(color, alpha), __fmul_rn(__ldg(background + channel), __fsub_rn(1.0f, alpha)));
        } else {
            y = part_of_white(at.y);
        }
        return {at.x + (y - 1.0f), at.x - y};
    }

   private:
    // byte / 255, rounded as a division rounds it, so that L1 sees equal images as equal.
    static __device__ float part_of_white(uint32_t byte) {
        constexpr float kPart = 1.0f / kWhite;
        const float value = static_cast<float>(byte), guess = value * kPart;
        return __fmaf_rn(__fmaf_rn(-kWhite, guess, value), kPart, guess);
    }
};

// ------------------------------------------------------------------------------------------------- the two passes

// Derivatives of D by the window's moments.
struct Derivatives {
    float2* pairs;  // [height, width, 3] 2 dD/dE[d^2] and 2 dD/dE[s^2]
    float* means;   // [height, width, 3] dD/dE[x]
};

// The moments, SSIM and its derivatives; with kErrors, the pixels' errors.
template <bool kAlpha, bool kErrors>
struct Compare {
    static constexpr int kInputs = 2, kMaps = 4;
    using Loaded = Sample;
    struct Pixel {};
    struct Result {
        float by_mean, by_dd, by_ss;
    };

    Pictures<kAlpha> pictures;
    Derivatives maps;
    float* __restrict__ errors;                     // [height, width]
    float difference = 0.0f, dissimilarity = 0.0f;  // this thread's sums of |d| and D

    static __device__ Sample outside() { return Pictures<kAlpha>::outside(); }
    __device__ Sample load(int index) const { return pictures.load(index); }
    __device__ void convert(Sample at, int channel, float (&inputs)[2]) const {
        const float2 pair = pictures.sum_and_difference(at, channel);
        inputs[0] = pair.x, inputs[1] = pair.y;
    }
    __device__ void count(const float (&inputs)[2], bool own) { difference += own ? fabsf(inputs[1]) : 0.0f; }
    // Rows from `first_row` on, as all threads have put them: a pixel's channels are three neighbours.
    template <class Rows>
    __device__ void inspect(const Rows& rows, const Chunk& chunk, int first_row) const {
        if constexpr (kErrors) {
            constexpr int kPixels = kColumns / kChannels;  // of a strip's row
            for (int i = threadIdx.x; i < kRows * kPixels; i += kColumns) {
                const int row = first_row + i / kPixels, x = chunk.left / kChannels + i % kPixels;
                if (!chunk.owns(row) || kChannels * x >= chunk.floats) continue;
                float sum = 0.0f;
#pragma unroll
                for (int channel = 0; channel < kChannels; ++channel) {
                    float inputs[2];
                    rows.get(i / kPixels, kMargin + kChannels * (i % kPixels) + channel, inputs);
                    sum += fabsf(inputs[1]);
                }
                errors[row * (chunk.floats / kChannels) + x] = sum * (1.0f / kChannels);
            }
        }
    }
    static __device__ void expand(const float (&inputs)[2], float (&moments)[4]) {
        const auto [s, d] = inputs;
        moments[0] = s, moments[1] = d, moments[2] = s * s, moments[3] = d * d;
    }
    static __device__ Pixel load_pixel(int, bool) { return {}; }

    __device__ Result finish(int, const float (&moments)[4], Pixel, bool own) {
        const auto [s, d, ss, dd] = moments;
        const float s_whole = s + 1.0f, d_squared = d * d;
        const float var_s = ss - s * s, var_d = dd - d_squared;
        const float by_luminance = 1.0f / (0.5f * (s_whole * s_whole + d_squared) + kSsimC1);
        const float by_contrast = 1.0f / (0.5f * (var_s + var_d) + kSsimC2);
        const float a = d_squared * by_luminance, b = var_d * by_contrast;
        const float scale = (a - 1.0f) * by_contrast;
        const float by_ss = scale * b, by_dd = by_ss - 2.0f * scale;
        const float by_a = by_luminance - b * by_luminance;
        dissimilarity += own ? a - b * (a - 1.0f) : 0.0f;
        return {by_a * (2.0f * d - a * (s_whole + d)) - d * by_dd - s * by_ss, by_dd, by_ss};
    }

    __device__ void store(int index, const Result& result) const {
        maps.pairs[index] = {result.by_dd, result.by_ss};
        maps.means[index] = result.by_mean;
    }
};

// dL/dx = L1's sign + the blurred derivatives, by the chain rule through E[x], E[d^2] and E[s^2].
template <bool kAlpha>
struct Spread {
    static constexpr int kInputs = 3, kMaps = 3;
    struct Loaded {
        float maps[3];
    };
    using Pixel = Sample;
    using Result = float;

    Pictures<kAlpha> pictures;
    Derivatives maps;
    float* __restrict__ v_image;
    float l1_scale, dssim_scale;

    static __device__ Loaded outside() { return {}; }
    __device__ Loaded load(int index) const {
        const float2 pair = __ldg(maps.pairs + index);
        return {__ldg(maps.means + index), pair.x, pair.y};
    }
    static __device__ void convert(const Loaded& at, int, float (&inputs)[3]) { expand(at.maps, inputs); }
    static __device__ void count(const float (&)[3], bool) {}
    template <class Rows>
    static __device__ void inspect(const Rows&, const Chunk&, int) {}
    static __device__ void expand(const float (&inputs)[3], float (&same)[3]) {
#pragma unroll
        for (int m = 0; m < 3; ++m) same[m] = inputs[m];
    }
    __device__ Sample load_pixel(int index, bool own) const { return own ? pictures.load(index) : pictures.outside(); }

    __device__ float finish(int channel, const float (&sums)[3], Sample here, bool) const {
        const auto [by_mean, by_dd, by_ss] = sums;
        const float2 pair = pictures.sum_and_difference(here, channel);
        const float s = pair.x, d = pair.y;
        const float sign = d == 0.0f ? 0.0f : copysignf(l1_scale, d);
        return sign + dssim_scale * (by_mean + d * by_dd + s * by_ss);
    }

    __device__ void store(int index, float gradient) const { v_image[index] = gradient; }
};

// --------------------------------------------------------------------------------------------------------- the sums

// The block's sum of two numbers, in the same order every time.
__device__ float2 block_sum(float2 value) {
    __shared__ float2 by_warp[kChannels];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value.x += __shfl_xor_sync(kFullWarp, value.x, distance);
        value.y += __shfl_xor_sync(kFullWarp, value.y, distance);
    }
    if (lane_index() == 0) by_warp[threadIdx.x / 32] = value;
    __syncthreads();
    float2 sum = {0.0f, 0.0f};
    for (const float2& part : by_warp) sum.x += part.x, sum.y += part.y;
    return sum;
}

// Where the block of `add_up` writes to, and what it divides by.
struct Totals {
    const float* partials;
    float *loss, *parts;
    int blocks;
    float per_number, lambda_dssim;
};

__device__ void add_up(const Totals& totals) {
    float2 sum = {0.0f, 0.0f};
    for (int block = threadIdx.x; block < totals.blocks; block += kColumns)
        sum.x += totals.partials[2 * block], sum.y += totals.partials[2 * block + 1];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const float l1 = sum.x * totals.per_number, dssim = sum.y * totals.per_number;
    totals.parts[0] = l1, totals.parts[1] = 1.0f - dssim;
    *totals.loss = (1.0f - totals.lambda_dssim) * l1 + totals.lambda_dssim * dssim;
}

template <bool kAlpha, bool kErrors>
__global__ void __launch_bounds__(kColumns, 5) compare(Compare<kAlpha, kErrors> pass, Tiling tiling, float* partials) {
    run_strip(pass, Chunk(tiling, blockIdx.x));
    const float2 sum = block_sum({pass.difference, pass.dissimilarity});
    if (threadIdx.x == 0) partials[2 * blockIdx.x] = sum.x, partials[2 * blockIdx.x + 1] = sum.y;
}

template <bool kAlpha>
__global__ void __launch_bounds__(kColumns, 5) spread(Spread<kAlpha> pass, Tiling tiling, Totals totals) {
    if (static_cast<int>(blockIdx.x) == totals.blocks) return add_up(totals);
    run_strip(pass, Chunk(tiling, blockIdx.x));
}

template <bool kAlpha, bool kErrors>
void run(const PhotometricInputs& in, const PhotometricScratch& scratch, const PhotometricOutputs& out) {
    const Tiling tiling = tiling_of(in.width, in.height);
    const int blocks = tiling.blocks();
    const double per_number = 1.0 / (static_cast<double>(tiling.floats) * tiling.height);
    const Pictures<kAlpha> pictures = {in.image, in.target, in.background};
    const Derivatives maps = {reinterpret_cast<float2*>(scratch.maps),
                              scratch.maps + 2ll * tiling.floats * tiling.height};
    const Spread<kAlpha> spreading = {pictures, maps, out.v_image,
                                      static_cast<float>((1.0 - in.lambda_dssim) * per_number),
                                      static_cast<float>(in.lambda_dssim * per_number)};
    const Totals totals = {scratch.partials,
                           out.loss,
                           out.parts,
                           blocks,
                           static_cast<float>(per_number),
                           static_cast<float>(in.lambda_dssim)};
    launch(compare<kAlpha, kErrors>, blocks, kColumns, in.stream, Compare<kAlpha, kErrors>{pictures, maps, out.errors},
           tiling, scratch.partials);
    launch(spread<kAlpha>, blocks + 1, kColumns, in.stream, spreading, tiling, totals);
}

}  // namespace

int64_t photometric_map_floats(int width, int height) { return 3ll * kChannels * width * height; }

int photometric_blocks(int width, int height) { return tiling_of(width, height).blocks(); }

void photometric_loss(const PhotometricInputs& in, const PhotometricScratch& scratch, const PhotometricOutputs& out) {
    if (in.background)
        out.errors ? run<true, true>(in, scratch, out) : run<true, false>(in, scratch, out);
    else
        out.errors ? run<false, true>(in, scratch, out) : run<false, false>(in, scratch, out);
}

}  // namespace distwar::DISTWAR_BACKEND

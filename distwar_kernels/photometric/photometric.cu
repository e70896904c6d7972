// L1 + D-SSIM and its gradient: two kernels, each a separable 11x11 blur in one pass over the image.
//
// With s = x + y and d = x - y (render x, photo y; means and variances are the window's) SSIM is (1 - A)(1 - B), where
// A = mean(d)^2 / ((mean(s)^2 + mean(d)^2) / 2 + C1) and B = var(d) / ((var(s) + var(d)) / 2 + C2): Wang et al. 2004,
// equation 13, with four maps to blur instead of five, and nothing cancels where the images are nearly equal. `compare`
// blurs s, d, s^2, d^2 and leaves the derivatives of D = A + B - AB by the three moments through which x enters;
// `spread` blurs these (the window is its own adjoint) and adds L1's sign to what each pixel makes of them.
//
// Thread mapping: an image row is 3 W floats, a channel's neighbours are 3 apart, so channels need no planes. A block
// of 96 threads goes down a strip of 32 pixels, 8 rows at a time (run_strip): (1) It loads 8 rows, 15 floats wider on
// both sides, into shared memory. (2) Along x: each warp takes a channel, each lane 8 neighbouring pixels of a row: 18
// reads for 8 sums. (3) Along y: each thread takes a column and adds each row to the 11 sums that it belongs to. The
// sums of 10 unfinished
//     rows stay in registers between batches.
// The next batch's loads are under way meanwhile. Strips are cut into chunks so that the blocks fill a GPU.
//
// It stores three float maps between the kernels (36 bytes per pixel) and a pair of sums per block, which one more
// block of `spread` adds up: no atomics, so results are bit-equal from run to run.
//
// Lower bound per pixel: 15 bytes read and 36 written, then 51 read and 12 written, 114 in all: 0.029 ms for 1297x840
// at 4.3 TB/s, less what the L2 keeps. 3 x 154 multiply-adds: 0.016 ms on an H200. As written, with the rows that
// neighbouring chunks blur twice, 3 x 368 instructions over 132 x 4 x 32 x 1.98e9 per second: 0.036 ms, which is the
// bottleneck.
#include <limits>

#include "../launch.cuh"
#include "../warp_reduce.cuh"
#include "photometric.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr float kWhite = std::numeric_limits<uint8_t>::max();
constexpr int kChannels = 3;
constexpr int kRadius = kSsimRadius, kTaps = kSsimTaps;
constexpr int kUnfinished = kTaps - 1;             // rows whose column sums lack some taps
constexpr int kRows = 8;                           // of a batch
constexpr int kRun = 8;                            // pixels of a row that one lane blurs
constexpr int kColumns = kChannels * 32;           // floats of a strip's row, and threads of a block
constexpr int kMargin = kChannels * kRadius;       // floats on either side that its windows reach
constexpr int kTailRows = (kRows + 2) / 3;         // rows whose floats right of the threads' columns one warp fetches
constexpr int kWideFloats = 129, kOwnFloats = 97;  // rows in shared memory: 1 modulo 32, so that 8 of them do not clash
constexpr int kEnoughBlocks = 600;                 // about five for each SM of a large GPU
constexpr int kFewestBatches = 3, kMostBatches = 16;
static_assert(kColumns == 32 * kChannels && 32 / kRows * kRun * kChannels == kColumns, "one warp per channel");
static_assert(2 * kMargin <= 32 && kColumns + 32 <= kWideFloats, "a warp fetches the rest of a row");

// ------------------------------------------------------------------------------------------------------ the geometry

// How the image is cut: `rows` high, kColumns floats wide.
struct Tiling {
    int floats, height;  // of the image
    int strips, rows;

    int blocks() const { return strips * ((height + rows - 1) / rows); }
};

// As high as leaves enough blocks: 10 of a chunk's rows are blurred for its neighbours.
Tiling tiling_of(int width, int height) {
    Tiling tiling = {kChannels * width, height, (kChannels * width + kColumns - 1) / kColumns, 0};
    for (int batches = kMostBatches; batches >= kFewestBatches; --batches) {
        tiling.rows = kRows * batches - kUnfinished;
        if (tiling.blocks() >= kEnoughBlocks) break;
    }
    return tiling;
}

// A block's part: float columns [left, left + kColumns) of the rows [top, bottom).
struct Chunk {
    int left, top, bottom;
    int floats, height;

    __device__ Chunk(const Tiling& tiling, int block) : floats(tiling.floats), height(tiling.height) {
        left = block % tiling.strips * kColumns;
        top = block / tiling.strips * tiling.rows;
        bottom = min(top + tiling.rows, height);
    }
    __device__ int column() const { return left + static_cast<int>(threadIdx.x); }

    // How many of its rows are in the image at this column, and up to which row it reads there: 0 outside.
    __device__ unsigned owned(int column) const { return column < floats ? bottom - top : 0; }
    __device__ unsigned reach(int column) const {
        return column >= 0 && column < floats ? min(bottom + kRadius, height) : 0;
    }
    __device__ bool owns(int row) const { return row >= top && row < bottom; }
};

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

// --------------------------------------------------------------------------------------------- one pass of a blur

// kCount rows in shared memory, N floats per place, in pieces of 8 bytes: the widest that it serves a lane at full
// speed.
template <int N, int kCount, int kPitch>
struct SharedRows {
    float2 pairs[N / 2][kCount][kPitch];
    float singles[N % 2 ? kCount : 1][kPitch];

    __device__ void put(int row, int column, const float (&values)[N]) {
#pragma unroll
        for (int i = 0; i < N / 2; ++i) pairs[i][row][column] = {values[2 * i], values[2 * i + 1]};
        if constexpr (N % 2) singles[row][column] = values[N - 1];
    }
    __device__ void get(int row, int column, float (&values)[N]) const {
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const float2 pair = pairs[i][row][column];
            values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
        }
        if constexpr (N % 2) values[N - 1] = singles[row][column];
    }
};

// What a block has in shared memory: a batch of rows before and after they are blurred along x.
template <class Pass>
struct Batch {
    using Wide = SharedRows<Pass::kInputs, kChannels * kTailRows, kWideFloats>;  // the last row is not used

    Wide wide;  // from kMargin floats left of the strip on
    SharedRows<Pass::kMaps, kRows, kOwnFloats> blurred;
};

// What a thread loads of a batch of rows: a column, and some of what is right of all columns.
template <class Pass>
struct RowLoads {
    typename Pass::Loaded own[kRows], tail[kTailRows];

    __device__ void load(const Pass& pass, const Chunk& chunk, int first_row) {
        each(chunk, [&](typename Pass::Loaded& value, int row, int, int column, unsigned reach) {
            const bool inside = static_cast<unsigned>(first_row + row) < reach;
            value = inside ? pass.load((first_row + row) * chunk.floats + column) : Pass::outside();
        });
    }

    __device__ void put(Pass& pass, const Chunk& chunk, int first_row, typename Batch<Pass>::Wide& target) {
        each(chunk, [&](const typename Pass::Loaded& value, int row, int place, int column, unsigned) {
            float inputs[Pass::kInputs];
            pass.convert(value, (column + kColumns) % kChannels, inputs);
            const bool in_strip = row < kRows && place >= kMargin && place < kMargin + kColumns;
            pass.count(inputs, in_strip && chunk.owns(first_row + row));
            target.put(row, place, inputs);
        });
    }

   private:
    // f(value, row of the batch, place in a shared row, column of the image, rows that are read there)
    template <class F>
    __device__ void each(const Chunk& chunk, F f) {
        const int warp = threadIdx.x / 32, first = chunk.left - kMargin;
        const int place = threadIdx.x, beyond = kColumns + lane_index();
        const unsigned reach = chunk.reach(first + place), reach_beyond = chunk.reach(first + beyond);
#pragma unroll
        for (int row = 0; row < kRows; ++row) f(own[row], row, place, first + place, reach);
#pragma unroll
        for (int i = 0; i < kTailRows; ++i) f(tail[i], kChannels * i + warp, beyond, first + beyond, reach_beyond);
    }
};

// Along x: a lane blurs kRun pixels of one channel. Eight lanes take the rows, four the runs: no two in one bank.
template <class Pass>
__device__ void blur_rows(Batch<Pass>& rows) {
    const int row = lane_index() % kRows;
    const int first = kChannels * kRun * (lane_index() / kRows) + static_cast<int>(threadIdx.x) / 32;
    float sums[kRun][Pass::kMaps] = {};
#pragma unroll
    for (int tap = 0; tap < kRun + kTaps - 1; ++tap) {
        float inputs[Pass::kInputs], maps[Pass::kMaps];
        rows.wide.get(row, first + kChannels * tap, inputs);
        Pass::expand(inputs, maps);
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
            const int offset = tap - i - kRadius;
            if (offset < -kRadius || offset > kRadius) continue;
#pragma unroll
            for (int m = 0; m < Pass::kMaps; ++m) sums[i][m] += ssim_window(offset) * maps[m];
        }
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) rows.blurred.put(row, first + kChannels * i, sums[i]);
}

// Along y: a thread's column. Row i of the batch is the last of the window around `first_row + i`.
template <class Pass>
__device__ void blur_columns(const Batch<Pass>& rows, float (&unfinished)[kUnfinished][Pass::kMaps], Pass& pass,
                             const Chunk& chunk, int first_row) {
    const int column = chunk.column();
    float sums[kRows + kUnfinished][Pass::kMaps] = {};
    const auto owns = [first = first_row - chunk.top, count = chunk.owned(column)](int i) {
        return static_cast<unsigned>(first + i) < count;
    };
    typename Pass::Pixel here[kRows];
    typename Pass::Result results[kRows];  // stored in the end: branches between the rows would keep them apart
#pragma unroll
    for (int i = 0; i < kRows; ++i) here[i] = pass.load_pixel((first_row + i) * chunk.floats + column, owns(i));
#pragma unroll
    for (int i = 0; i < kUnfinished; ++i)
#pragma unroll
        for (int m = 0; m < Pass::kMaps; ++m) sums[i][m] = unfinished[i][m];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        float maps[Pass::kMaps];
        rows.blurred.get(i, threadIdx.x, maps);
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap)
#pragma unroll
            for (int m = 0; m < Pass::kMaps; ++m) sums[i + tap][m] += ssim_window(tap - kRadius) * maps[m];
        results[i] = pass.finish(column % kChannels, sums[i], here[i], owns(i));
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i)
        if (owns(i)) pass.store((first_row + i) * chunk.floats + column, results[i]);
#pragma unroll
    for (int i = 0; i < kUnfinished; ++i)
#pragma unroll
        for (int m = 0; m < Pass::kMaps; ++m) unfinished[i][m] = sums[kRows + i][m];
}

// A block's pass down its chunk.
template <class Pass>
__device__ void run_strip(Pass& pass, const Chunk& chunk) {
    __shared__ Batch<Pass> rows;
    float unfinished[kUnfinished][Pass::kMaps] = {};
    RowLoads<Pass> loads;
    loads.load(pass, chunk, chunk.top - kRadius);
    for (int row = chunk.top - kRadius; row < chunk.bottom + kRadius; row += kRows) {
        loads.put(pass, chunk, row, rows.wide);
        __syncthreads();
        blur_rows(rows);
        __syncthreads();
        loads.load(pass, chunk, row + kRows);
        blur_columns(rows, unfinished, pass, chunk, row - kRadius);
    }
}

// ------------------------------------------------------------------------------------------------- the two passes

// Derivatives of D by the window's moments.
struct Derivatives {
    float2* pairs;  // [height, width, 3] 2 dD/dE[d^2] and 2 dD/dE[s^2]
    float* means;   // [height, width, 3] dD/dE[x]
};

// The moments, SSIM and its derivatives.
template <bool kAlpha>
struct Compare {
    static constexpr int kInputs = 2, kMaps = 4;
    using Loaded = Sample;
    struct Pixel {};
    struct Result {
        float by_mean, by_dd, by_ss;
    };

    Pictures<kAlpha> pictures;
    Derivatives maps;
    float difference = 0.0f, dissimilarity = 0.0f;  // this thread's sums of |d| and D

    static __device__ Sample outside() { return Pictures<kAlpha>::outside(); }
    __device__ Sample load(int index) const { return pictures.load(index); }
    __device__ void convert(Sample at, int channel, float (&inputs)[2]) const {
        const float2 pair = pictures.sum_and_difference(at, channel);
        inputs[0] = pair.x, inputs[1] = pair.y;
    }
    __device__ void count(const float (&inputs)[2], bool own) { difference += own ? fabsf(inputs[1]) : 0.0f; }
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

template <bool kAlpha>
__global__ void __launch_bounds__(kColumns, 5) compare(Compare<kAlpha> pass, Tiling tiling, float* partials) {
    run_strip(pass, Chunk(tiling, blockIdx.x));
    const float2 sum = block_sum({pass.difference, pass.dissimilarity});
    if (threadIdx.x == 0) partials[2 * blockIdx.x] = sum.x, partials[2 * blockIdx.x + 1] = sum.y;
}

template <bool kAlpha>
__global__ void __launch_bounds__(kColumns, 5) spread(Spread<kAlpha> pass, Tiling tiling, Totals totals) {
    if (static_cast<int>(blockIdx.x) == totals.blocks) return add_up(totals);
    run_strip(pass, Chunk(tiling, blockIdx.x));
}

template <bool kAlpha>
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
    launch(compare<kAlpha>, blocks, kColumns, in.stream, Compare<kAlpha>{pictures, maps}, tiling, scratch.partials);
    launch(spread<kAlpha>, blocks + 1, kColumns, in.stream, spreading, tiling, totals);
}

}  // namespace

int64_t photometric_map_floats(int width, int height) { return 3ll * kChannels * width * height; }

int photometric_blocks(int width, int height) { return tiling_of(width, height).blocks(); }

void photometric_loss(const PhotometricInputs& in, const PhotometricScratch& scratch, const PhotometricOutputs& out) {
    if (in.background)
        run<true>(in, scratch, out);
    else
        run<false>(in, scratch, out);
}

}  // namespace distwar::DISTWAR_BACKEND

// A separable 11x11 blur of an image of three interleaved channels in one pass, for kernels that say what is blurred
// and what comes of it: template <class Pass>, see Compare and Spread of photometric.cu.
//
// Thread mapping: an image row is 3 W floats, a channel's neighbours are 3 apart, so channels need no planes. A block
// of 96 threads goes down a strip of 32 pixels, 8 rows at a time (run_strip): (1) It loads 8 rows, 15 floats wider on
// both sides, into shared memory. (2) Along x: each warp takes a channel, each lane 8 neighbouring pixels of a row: 18
// reads for 8 sums. (3) Along y: each thread takes a column and adds each row to the 11 sums that it belongs to. The
// sums of 10 unfinished
//     rows stay in registers between batches.
// The next batch's loads are under way meanwhile. Strips are cut into chunks so that the blocks fill a GPU.
#pragma once

#include "../warp_reduce.cuh"
#include "photometric.h"

namespace distwar::DISTWAR_BACKEND {

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
inline Tiling tiling_of(int width, int height) {
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
        pass.inspect(rows.wide, chunk, row);
        blur_rows(rows);
        __syncthreads();
        loads.load(pass, chunk, row + kRows);
        blur_columns(rows, unfinished, pass, chunk, row - kRadius);
    }
}

}  // namespace distwar::DISTWAR_BACKEND

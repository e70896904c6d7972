// The fused rasteriser's projection: which Gaussians a camera sees, as splats, and their colours.
//
// Thread mapping. project_kernel, one thread per Gaussian: depth, then projection (gaussian.cuh), then the tiles that
// it touches (footprint.cuh). Gaussians that touch at least one tile are written one behind another in the order of N;
// a prefix sum in one pass (chained_scan.cuh) finds their places, so the result is the same on every run. A Gaussian
// behind the camera costs 12 bytes. color_kernel, one thread per visible Gaussian: a block fetches its rows of shN
// together, whole cache lines at a time; one thread per row of 180 bytes would read it in pieces of 4. With the colour
// it stores the colour's slope along the mean, which saves the backward pass a second read of all coefficients.
//
// It stores what `Visible` holds (fused.h).
//
// Lower bound, for N Gaussians of which V are visible: project_kernel reads 56 N bytes and writes 56 V; color_kernel
// reads (192 + 12) V and writes (16 + 36) V; over the memory's bandwidth.
#include "../chained_scan.cuh"
#include "footprint.cuh"
#include "harmonics.cuh"
#include "lazy_adam.cuh"

namespace distwar::cuda {
namespace {

// One Gaussian as the camera sees it, and the number of tiles it touches: 0 if it does not.
struct Seen {
    Splat splat;
    float depth;
    int tiles = 0;
    bool is_seen = false;

    template <class Lens, bool kLazy, bool kPriced>
    __device__ Seen(const UpToDate<kLazy, kPriced>& parameters, const View& view, const Lens& lens, int row) {
        const Pose pose(view);
        const Vec3 mean = pose.to_camera(parameters.vector(kMeans, row));
        const float along = lens.depth(mean);
        if (!(along >= view.near_plane && along <= view.far_plane) || !lens.sees(mean)) return;
        const ProjectedGaussian<Lens> projected(parameters.shape(row), view, pose, lens, mean);
        if (!projected.is_valid() || !(projected.opacity() >= kAlphaCut)) return;
        splat = projected.splat();
        depth = along;
        is_seen = true;
        tiles = Footprint(splat, view.grid).tiles();
    }
};

// Where an edge wraps around: the same Gaussian's splats at its own place and a width to each side, those that touch a
// tile one behind another. The backward pass knows them by their equal ids.
struct Around {
    int tiles[3] = {};

    __device__ void look(const Seen& seen, const TileGrid& grid, float period) {
        if (!seen.is_seen) return;
        tiles[0] = seen.tiles;
        for (int place = 1; place < 3 && period > 0.0f; ++place) {
            const Splat there = moved(seen.splat, place, period);
            tiles[place] = Footprint(there, grid).tiles();
        }
    }
    __device__ int count() const { return (tiles[0] > 0) + (tiles[1] > 0) + (tiles[2] > 0); }

    __device__ void store(const Visible& visible, int slot, int row, const Splat& splat, float depth,
                          float period) const {
        for (int place = 0; place < 3; ++place) {
            if (tiles[place] == 0) continue;
            if (slot >= visible.capacity) return;
            moved(splat, place, period).store(visible.splats, slot, tiles[place]);
            visible.gaussian_ids[slot] = row;
            visible.depths[slot] = depth;
            ++slot;
        }
    }

   private:
    __device__ static Splat moved(Splat splat, int place, float period) {
        splat.mean.x += place == 0 ? 0.0f : place == 1 ? period : -period;
        return splat;
    }
};

template <class Lens, bool kLazy, bool kPriced>
__global__ void __launch_bounds__(kScanThreads)
    project_kernel(Gaussians g, View view, Visible visible, unsigned* scan_words) {
    __shared__ ChainedScan scan;
    const int block = scan.begin(scan_words), row = block * kScanThreads + threadIdx.x;
    Splat splat;
    float depth = 0.0f;
    int tiles = 0;
    [[maybe_unused]] Around around;
    [[maybe_unused]] float period = 0.0f;
    if (row < g.count) {
        const Lens lens(view.lens, view.intrinsics, view.width, view.height);
        const Seen seen(UpToDate<kLazy, kPriced>(g, row), view, lens, row);
        splat = seen.splat, depth = seen.depth, tiles = seen.tiles;
        if constexpr (Lens::kMayWrap) period = lens.period(), around.look(seen, view.grid, period);
    }
    if constexpr (Lens::kMayWrap) {
        const int slot = scan.exclusive(scan_words, around.count());
        if (threadIdx.x == 0 && block == gridDim.x - 1) *visible.total = scan.total;
        return around.store(visible, slot, row, splat, depth, period);
    }
    const int slot = scan.exclusive(scan_words, tiles > 0);
    if (threadIdx.x == 0 && block == gridDim.x - 1) *visible.total = scan.total;
    if (tiles == 0 || slot >= visible.capacity) return;
    splat.store(visible.splats, slot, tiles);
    visible.gaussian_ids[slot] = row;
    visible.depths[slot] = depth;
}

constexpr int kColorThreads = 128;

// kStoredDepth: depths are taken from the splats.
template <int kDegree, bool kLazy, bool kStoredDepth>
__global__ void __launch_bounds__(kColorThreads) color_kernel(Gaussians g, View view, Visible visible) {
    constexpr int kFloats = 3 * sh_rows_of(kDegree);
    __shared__ float harmonics[kColorThreads * (kFloats > 0 ? kFloats : 1)];
    __shared__ int ids[kColorThreads];
    __shared__ SkippedSteps skipped[kLazy ? kColorThreads : 1];
    const int first = blockIdx.x * kColorThreads, count = min(visible.held() - first, kColorThreads);
    const int thread = threadIdx.x, slot = first + thread;
    if (count <= 0) return;
    if (thread < count) {
        ids[thread] = visible.gaussian_ids[slot];
        if (kLazy) skipped[thread] = UpToDate<kLazy>(g, ids[thread]).skipped;
    }
    __syncthreads();
    if constexpr (kFloats > 0) {
        // Several are under way at once.
        constexpr int kAtOnce = kFloats % 9 == 0 ? 9 : 8;
        static_assert(kFloats % kAtOnce == 0);
        for (int first = thread; first < count * kFloats; first += kAtOnce * kColorThreads) {
            float fetched[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int flat = min(first + i * kColorThreads, count * kFloats - 1), row = flat / kFloats;
                const UpToDate<kLazy> parameters(g, kLazy ? skipped[row] : SkippedSteps::none());
                fetched[i] = parameters.value(kShN, 3ll * g.sh_rows * ids[row] + flat - row * kFloats);
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i)
                if (first + i * kColorThreads < count * kFloats) harmonics[first + i * kColorThreads] = fetched[i];
        }
        __syncthreads();
    }
    if (thread >= count) return;

    const Pose pose(view);
    const UpToDate<kLazy> parameters(g, kLazy ? skipped[thread] : SkippedSteps::none());
    const Vec3 mean = parameters.vector(kMeans, ids[thread]);
    const Direction direction(mean, pose.center());
    Vec3 color = Vec3{0.5f, 0.5f, 0.5f} + kHarmonic0 * parameters.vector(kSh0, ids[thread]);
    Vec3 slopes[3] = {};
    for_harmonics<kDegree>(direction.unit, [&](int k, float value, Vec3 slope) {
        const float* row = harmonics + thread * kFloats + 3 * k;
        color = color + value * Vec3{row[0], row[1], row[2]};
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) slopes[channel] = slopes[channel] + row[channel] * slope;
    });
    const bool valid = 0.0f * (color.x + color.y + color.z) == 0.0f;
    if (!valid) visible.splats[kSplatFloats * static_cast<long long>(slot) + kLog2Opacity] = -INFINITY;
    const float channels[3] = {fmaxf(color.x, 0.0f), fmaxf(color.y, 0.0f), fmaxf(color.z, 0.0f)};
    float depth = 0.0f;
    if (view.with_depth) depth = kStoredDepth ? visible.depths[slot] : pose.to_camera(mean).z;
    *piece_of(visible.splats, slot, kColor) =
        valid ? make_float4(channels[0], channels[1], channels[2], depth) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if constexpr (kDegree > 0) {
        if (!visible.color_slopes) return;
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            const Vec3 slope = channels[channel] > 0.0f ? direction.through(slopes[channel]) : Vec3{};
            float* column = visible.color_slopes + 3ll * channel * visible.capacity + slot;
            column[0] = slope.x, column[visible.capacity] = slope.y, column[2ll * visible.capacity] = slope.z;
        }
    }
}

}  // namespace

int project_words(const Gaussians& g) { return ChainedScan::words_for(blocks_for(g.count)); }

void project(const Gaussians& g, const View& view, const Visible& visible, unsigned* scan_words, void* stream) {
    const int blocks = (visible.capacity + kColorThreads - 1) / kColorThreads;
    for_laziness(g, [&](auto lazy, auto priced) {
        for_lens(view.lens, [&](auto lens) {
            using Lens = typename decltype(lens)::type;
            launch(project_kernel<Lens, lazy, priced>, blocks_for(g.count), kScanThreads, stream, g, view, visible,
                   scan_words);
            for_degree(g.sh_degree, [&](auto degree) {
                launch(color_kernel<degree, lazy, Lens::kStoredDepth>, blocks, kColorThreads, stream, g, view, visible);
            });
        });
    });
}

}  // namespace distwar::cuda

// The fused rasteriser's backward pass: from the blend's gradient records to the parameters, and on into Adam if asked.
//
// Thread mapping: a block takes 128 visible Gaussians. First there is one thread per Gaussian: it projects it again
// (gaussian.cuh), chains the gradient to mean, quaternion, scale, opacity and sh0, and hands these to a sink (an array,
// or Adam). It leaves the two factors of shN's gradient in shared memory: the harmonics of its direction, and the
// colour's gradient. Then all threads go through the block's rows of shN together, whole cache lines at a time: three
// quarters of all bytes are there.
//
// A Gaussian whose gradient is zero contributes to no pixel and is left as it is (though it counts in the statistics,
// as in the reference). Lazy Adam applies what it skips later, prices included: lazy_adam.cuh.
//
// It stores nothing in between.
//
// Where the camera's pose has a gradient, too, each warp sums the parts of its Gaussians by shuffles, a block those of
// its warps, and total_kernel (fused_pose.cu) those of the blocks: no atomics, and an order of additions that neither
// the machine's timing nor the capacity of the buffers changes. Kernels without this part are compiled apart, so that
// they have neither its registers nor its time.
//
// Lower bound with Adam, for K contributing Gaussians: (59 * 6 + 9 + 12 + 1) * 4 K bytes read and written, over the
// memory's bandwidth.
#pragma once

#include "../launch.cuh"
#include "../warp_reduce.cuh"
#include "harmonics.cuh"
#include "lazy_adam.cuh"

namespace distwar::cuda {
namespace {

constexpr int kBackwardThreads = 128;
// Sinks take several numbers of one parameter at once, at indices that may be negative for none: all are fetched before
// any is stored, or each would wait for the one before.
template <bool kAdds>
struct StoreGradients {
    float* arrays[Adam::kParameters];
    explicit StoreGradients(const Gradients& g) : arrays{g.means, g.quats, g.scales, g.opacities, g.sh0, g.shN} {}

    static constexpr bool kTakes = true, kIsLazy = false, kIsPriced = false;
    __device__ void mark(int) const {}

    template <int N>
    __device__ void take(Parameter parameter, const long long (&indices)[N], const float (&gradients)[N],
                         const SkippedSteps (&)[N], int = 0) const {
        float* const sums = arrays[parameter];
        float before[N] = {};
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (kAdds && indices[i] >= 0) before[i] = sums[indices[i]];
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (indices[i] >= 0) sums[indices[i]] = before[i] + gradients[i];
    }
};

template <bool kLazy, bool kPriced>
struct StepAdam {
    Adam adam;

    static constexpr bool kTakes = true, kIsLazy = kLazy, kIsPriced = kPriced;
    __device__ void mark(int row) const {
        if (kLazy) adam.last_steps[row] = adam.step;
    }

    // count: of the steps skipped, for what can have a price.
    template <int N>
    __device__ void take(Parameter parameter, const long long (&indices)[N], const float (&gradients)[N],
                         const SkippedSteps (&skipped)[N], int count = 0) const {
        float *const values = adam.parameters[parameter], *const means = adam.exp_avg[parameter];
        float *const squares = adam.exp_avg_sq[parameter], step_size = adam.step_sizes[parameter];
        AdamState states[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const long long at = indices[i] >= 0 ? indices[i] : 0;
            states[i] = {values[at], means[at], squares[at]};
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (kPriced && is_priced(parameter)) {
                states[i].catch_up_priced(adam, parameter, count, PricedSteps::of(adam, count));
                const float price = Price::of(adam, parameter, states[i].value).gradient;
                states[i].step(adam, step_size, gradients[i] + price);
                continue;
            }
            if (kLazy) states[i].catch_up(adam, step_size, skipped[i]);
            states[i].step(adam, step_size, gradients[i]);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (indices[i] < 0) continue;
            values[indices[i]] = states[i].value, means[indices[i]] = states[i].mean,
            squares[indices[i]] = states[i].square;
        }
    }
};

template <class Sink, int N>
__device__ void take_row(const Sink& sink, Parameter parameter, int row,
                         const UpToDate<Sink::kIsLazy, Sink::kIsPriced>& old, const float (&gradients)[N]) {
    long long indices[N];
    SkippedSteps same[N];
#pragma unroll
    for (int i = 0; i < N; ++i) indices[i] = static_cast<long long>(N) * row + i, same[i] = old.skipped;
    sink.take(parameter, indices, gradients, same, old.count);
}

// dL/dcolour, without the channels that were cut off at 0.
__device__ Vec3 color_gradient(const GradientRecord& g, const float* splats, int slot) {
    const float4 color = __ldg(piece_of(splats, slot, kColor));
    return {color.x > 0.0f ? g.color.x : 0.0f, color.y > 0.0f ? g.color.y : 0.0f, color.z > 0.0f ? g.color.z : 0.0f};
}

__device__ Vec3 through_direction(const Visible& visible, int slot, Vec3 v_color) {
    const auto slope = [&](int channel) {
        const float* column = visible.color_slopes + 3ll * channel * visible.capacity + slot;
        return Vec3{column[0], column[visible.capacity], column[2ll * visible.capacity]};
    };
    return v_color.x * slope(0) + (v_color.y * slope(1) + v_color.z * slope(2));
}

__device__ void count(const Statistics& statistics, const View& view, const GradientRecord& g, int row) {
    if (statistics.grad2d) {
        const float x = statistics.absolute ? g.absolute.x : g.x, y = statistics.absolute ? g.absolute.y : g.y;
        statistics.grad2d[row] += hypotf(0.5f * view.width * x, 0.5f * view.height * y);
    }
    if (statistics.count) statistics.count[row] += 1.0f;
    if (statistics.score) statistics.score[row] += sqrtf(g.error());
}

// A Gaussian at an edge that wraps around has splats one behind another: the first's record gets what the others have.
// Returns whether this slot is the first.
__device__ inline bool add_followers(const Visible& visible, const float* records, int slot, int held,
                                     GradientRecord& record) {
    const int row = visible.gaussian_ids[slot];
    if (slot > 0 && visible.gaussian_ids[slot - 1] == row) return false;
    for (int next = slot + 1; next < held && visible.gaussian_ids[next] == row; ++next)
        record.add(GradientRecord::load(records, next));
    return true;
}

// What a block keeps of its Gaussians: their rows, and the two factors of shN's gradient.
template <int kRows>
struct Factors {
    int rows[kBackwardThreads];                    // -1: nothing to do
    float harmonics[kBackwardThreads][kRows | 1];  // an odd row each, so that banks do not meet
    float v_color[kBackwardThreads][3];
    SkippedSteps skipped[kBackwardThreads];

    template <int kDegree>
    __device__ void put(int thread, int row, const SkippedSteps& its_skipped, Vec3 direction, Vec3 v) {
        rows[thread] = row;
        skipped[thread] = its_skipped;
        for_harmonics<kDegree>(direction, [&](int k, float value, Vec3) { harmonics[thread][k] = value; });
        v_color[thread][0] = v.x, v_color[thread][1] = v.y, v_color[thread][2] = v.z;
    }
};

constexpr int kPoseFloats = 12;  // rows of a viewmat one after another, but for the last

// What a Gaussian adds to dL/d(viewmat). `through_direction`: dL/d(mean) by its colour, which depends on where the
// camera's centre -R^T t is.
template <class Lens>
__device__ void pose_record(const ShapeGradient& v, const ProjectedGaussian<Lens>& projected, const Pose& pose,
                            Vec3 mean, Vec3 through_direction, float (&record)[kPoseFloats]) {
    const Rows2 j = projected.jacobian.times({{{1.0f, 0.0f, 0.0f}, {0.0f, 1.0f, 0.0f}, {0.0f, 0.0f, 1.0f}}});
    const Vec3 turned = pose.rotation.times(through_direction);
    const float camera[3] = {v.mean_camera.x, v.mean_camera.y, v.mean_camera.z};
    const float first[3] = {j.first.x, j.first.y, j.first.z}, second[3] = {j.second.x, j.second.y, j.second.z};
    const float translation[3] = {pose.translation.x, pose.translation.y, pose.translation.z};
    const float direction[3] = {turned.x, turned.y, turned.z};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        const Vec3 row =
            camera[i] * mean + (translation[i] * through_direction + (first[i] * v.t.first + second[i] * v.t.second));
        record[4 * i] = row.x, record[4 * i + 1] = row.y, record[4 * i + 2] = row.z;
        record[4 * i + 3] = camera[i] + direction[i];
    }
}

// Adds up the records of a block's active threads into one row of `sums` [blocks, 12]. All threads of a block call it.
__device__ inline void sum_over_block(float (&record)[kPoseFloats], bool active, float* sums) {
    constexpr int kWarps = kBackwardThreads / 32;
    __shared__ float of_warps[kWarps][kPoseFloats];
    float* const own = of_warps[threadIdx.x / 32];
    if (lane_index() < kPoseFloats) own[lane_index()] = 0.0f;
    __syncwarp();
    Butterfly::add<true>(0, record, active, 0, [&](int, const float (&sum)[kPoseFloats]) {
#pragma unroll
        for (int i = 0; i < kPoseFloats; ++i) own[i] = sum[i];
    });
    __syncthreads();
    if (threadIdx.x >= kPoseFloats) return;
    float total = 0.0f;
    for (int warp = 0; warp < kWarps; ++warp) total += of_warps[warp][threadIdx.x];
    sums[kPoseFloats * static_cast<size_t>(blockIdx.x) + threadIdx.x] = total;
}

// kPosed: whether pose_sums [blocks, 12] gets the sums over blocks of dL/d(viewmat); only blocks with Gaussians write.
template <class Lens, class Sink, int kDegree, bool kPosed>
__global__ void __launch_bounds__(kBackwardThreads)
    project_backward_kernel(Gaussians g, View view, Visible visible, Fit fit, const float* records,
                            Statistics statistics, Sink sink, float* pose_sums) {
    constexpr int kRows = sh_rows_of(kDegree), kFloats = 3 * kRows;
    __shared__ Factors<kRows> factors;
    const int held = visible.held(), thread = threadIdx.x, slot = blockIdx.x * kBackwardThreads + thread;
    if (blockIdx.x * kBackwardThreads >= held || !fit.complete()) return;

    factors.rows[thread] = -1;
    [[maybe_unused]] float of_pose[kPoseFloats];
    [[maybe_unused]] bool has_part = false;
    if (slot < held) {
        const int row = visible.gaussian_ids[slot];
        GradientRecord record = GradientRecord::load(records, slot);
        bool is_first = true;
        if constexpr (Lens::kMayWrap) is_first = add_followers(visible, records, slot, held, record);
        if (is_first) count(statistics, view, record, row);
        if (is_first && !record.is_zero(view.with_depth)) {
            const Pose pose(view);
            const Lens lens(view.lens, view.intrinsics, view.width, view.height);
            const UpToDate<Sink::kIsLazy, Sink::kIsPriced> parameters(g, row);
            const Vec3 mean = parameters.vector(kMeans, row), v_color = color_gradient(record, visible.splats, slot);
            const ProjectedGaussian<Lens> projected(parameters.shape(row), view, pose, lens, pose.to_camera(mean));
            ShapeGradient shape = projected.gradient(record, view, pose, lens);
            [[maybe_unused]] Vec3 by_color = {};
            if constexpr (kDegree > 0) {
                by_color = through_direction(visible, slot, v_color);
                shape.mean = shape.mean + by_color;
                factors.template put<kDegree>(thread, row, parameters.skipped, Direction(mean, pose.center()).unit,
                                              v_color);
            }
            if constexpr (kPosed) {
                pose_record(shape, projected, pose, mean, by_color, of_pose);
                has_part = true;
            }
            sink.mark(row);
            take_row(sink, kMeans, row, parameters, {shape.mean.x, shape.mean.y, shape.mean.z});
            take_row(sink, kQuats, row, parameters, {shape.quat.x, shape.quat.y, shape.quat.z, shape.quat.w});
            take_row(sink, kScales, row, parameters, {shape.log_scale.x, shape.log_scale.y, shape.log_scale.z});
            take_row(sink, kOpacities, row, parameters, {shape.logit});
            take_row(sink, kSh0, row, parameters,
                     {kHarmonic0 * v_color.x, kHarmonic0 * v_color.y, kHarmonic0 * v_color.z});
        }
    }
    if constexpr (kPosed) sum_over_block(of_pose, has_part, pose_sums);
    if constexpr (kDegree > 0 && Sink::kTakes) {
        __syncthreads();
        constexpr int kAtOnce = kFloats % 9 == 0 ? 9 : 8;
        static_assert(kFloats % kAtOnce == 0);
        for (int round = 0; round < kFloats / kAtOnce; ++round) {
            long long indices[kAtOnce];
            float gradients[kAtOnce];
            SkippedSteps skipped[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int flat = (round * kAtOnce + i) * kBackwardThreads + thread;
                const int here = flat / kFloats, column = flat - here * kFloats, row = factors.rows[here];
                skipped[i] = factors.skipped[here];
                indices[i] = row >= 0 ? 3ll * g.sh_rows * row + column : -1;
                gradients[i] = factors.harmonics[here][column / 3] * factors.v_color[here][column % 3];
            }
            sink.take(kShN, indices, gradients, skipped);
        }
    }
}

template <bool kPosed, class Sink>
void launch_backward(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit, const float* records,
                     const Statistics& statistics, const Sink& sink, float* pose_sums, void* stream) {
    const int blocks = (visible.capacity + kBackwardThreads - 1) / kBackwardThreads;
    for_lens(view.lens, [&](auto lens) {
        for_degree(g.sh_degree, [&](auto degree) {
            launch(project_backward_kernel<typename decltype(lens)::type, Sink, degree, kPosed>, blocks,
                   kBackwardThreads, stream, g, view, visible, fit, records, statistics, sink, pose_sums);
        });
    });
}

}  // namespace
}  // namespace distwar::cuda

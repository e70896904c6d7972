// The fused rasteriser's way back: from the blend's packed gradients to the parameters, and into Adam if asked.
//
// A block takes 128 visible Gaussians. First a thread has one: it projects it again (gaussian.cuh), chains the gradient
// to mean, quaternion, scale, opacity and sh0, and hands those to a sink: an array, or Adam. It leaves the harmonics of its
// direction and the colour's gradient in shared memory, whose products are shN's gradient. Then the threads walk the
// block's rows of shN together, whole lines at a time: three quarters of all bytes are there.
//
// A Gaussian whose record is zero has contributed to no pixel. It is left as it is: Adam neither moves it by old momentum
// nor lets its moments decay. (Its view counts in the statistics all the same, as in the reference.)
//
// It stores nothing. Floor with Adam, K contributors: (59 * 6 + 9 + 12 + 1) * 4 K bytes read and written, over the
// memory's bandwidth.
#include "../launch.cuh"
#include "harmonics.cuh"

namespace distwar::cuda {
namespace {

constexpr int kBackwardThreads = 128;
enum Parameter { kMeans, kQuats, kScales, kOpacities, kSh0, kShN };

// Sinks take several numbers of one parameter at once, at indices that may be negative for none: all are fetched before
// any is stored, or each would wait for the one before.
struct StoreGradients {
    float* arrays[Adam::kParameters];
    explicit StoreGradients(const Gradients& g) : arrays{g.means, g.quats, g.scales, g.opacities, g.sh0, g.shN} {}

    template <int N>
    __device__ void take(Parameter parameter, const long long (&indices)[N], const float (&gradients)[N]) const {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (indices[i] >= 0) arrays[parameter][indices[i]] = gradients[i];
    }
};

struct StepAdam {
    Adam adam;

    // As torch.optim.Adam, without weight decay.
    template <int N>
    __device__ void take(Parameter parameter, const long long (&indices)[N], const float (&gradients)[N]) const {
        float *const values = adam.parameters[parameter], *const means = adam.exp_avg[parameter];
        float* const squares = adam.exp_avg_sq[parameter];
        float value[N], mean[N], square[N];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const long long at = indices[i] >= 0 ? indices[i] : 0;
            value[i] = values[at], mean[i] = means[at], square[i] = squares[at];
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float gradient = gradients[i];
            mean[i] = adam.beta1 * mean[i] + (1.0f - adam.beta1) * gradient;
            square[i] = adam.beta2 * square[i] + (1.0f - adam.beta2) * gradient * gradient;
            value[i] -= adam.step_sizes[parameter] * mean[i] / (sqrtf(square[i]) * adam.root_correction + adam.eps);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (indices[i] < 0) continue;
            values[indices[i]] = value[i], means[indices[i]] = mean[i], squares[indices[i]] = square[i];
        }
    }
};

template <class Sink, int N>
__device__ void take_row(const Sink& sink, Parameter parameter, int row, const float (&gradients)[N]) {
    long long indices[N];
#pragma unroll
    for (int i = 0; i < N; ++i) indices[i] = static_cast<long long>(N) * row + i;
    sink.take(parameter, indices, gradients);
}

// dL/dcolour, without the channels that were cut off at 0.
__device__ Vec3 color_gradient(const FlatGradient& g, const float* splats, int slot) {
    const float4 color = __ldg(reinterpret_cast<const float4*>(splats) + 3ll * slot + 2);
    return {color.x > 0.0f ? g.color.x : 0.0f, color.y > 0.0f ? g.color.y : 0.0f, color.z > 0.0f ? g.color.z : 0.0f};
}

__device__ Vec3 through_direction(const Visible& visible, int slot, Vec3 v_color) {
    const auto slope = [&](int channel) {
        const float* column = visible.color_slopes + 3ll * channel * visible.capacity + slot;
        return Vec3{column[0], column[visible.capacity], column[2ll * visible.capacity]};
    };
    return v_color.x * slope(0) + (v_color.y * slope(1) + v_color.z * slope(2));
}

__device__ void count(const Statistics& statistics, const Camera& camera, const FlatGradient& g, int row) {
    if (!statistics.grad2d) return;
    const float x = statistics.absolute ? g.abs_x : g.x, y = statistics.absolute ? g.abs_y : g.y;
    statistics.grad2d[row] += hypotf(0.5f * camera.width * x, 0.5f * camera.height * y);
    statistics.count[row] += 1.0f;
}

// What a block keeps of its Gaussians: their rows, and the two factors of shN's gradient.
template <int kRows>
struct Factors {
    int rows[kBackwardThreads];  // -1: nothing to do
    float harmonics[kBackwardThreads][kRows | 1];  // an odd row each, so that banks do not meet
    float v_color[kBackwardThreads][3];

    template <int kDegree>
    __device__ void put(int thread, int row, Vec3 direction, Vec3 v) {
        rows[thread] = row;
        for_harmonics<kDegree>(direction, [&](int k, float value, Vec3) { harmonics[thread][k] = value; });
        v_color[thread][0] = v.x, v_color[thread][1] = v.y, v_color[thread][2] = v.z;
    }
};

template <class Sink, int kDegree>
__global__ void __launch_bounds__(kBackwardThreads)
    project_backward_kernel(Gaussians g, Camera camera, Visible visible, const float* packed, Statistics statistics, Sink sink) {
    constexpr int kRows = sh_rows_of(kDegree), kFloats = 3 * kRows;
    __shared__ Factors<kRows> factors;
    const int held = visible.held(), thread = threadIdx.x, slot = blockIdx.x * kBackwardThreads + thread;
    if (blockIdx.x * kBackwardThreads >= held || !visible.complete()) return;

    factors.rows[thread] = -1;
    if (slot < held) {
        const int row = visible.gaussian_ids[slot];
        const FlatGradient flat_gradient(packed, slot);
        count(statistics, camera, flat_gradient, row);
        if (!flat_gradient.is_zero()) {
            const Lens lens(camera);
            const Vec3 mean = load3(g.means, row), v_color = color_gradient(flat_gradient, visible.splats, slot);
            ShapeGradient shape = Flat(g, camera, lens, row, lens.to_camera(mean)).gradient(flat_gradient, camera, lens);
            if constexpr (kDegree > 0) {
                shape.mean = shape.mean + through_direction(visible, slot, v_color);
                factors.template put<kDegree>(thread, row, Direction(mean, lens.center()).unit, v_color);
            }
            take_row(sink, kMeans, row, {shape.mean.x, shape.mean.y, shape.mean.z});
            take_row(sink, kQuats, row, {shape.quat.x, shape.quat.y, shape.quat.z, shape.quat.w});
            take_row(sink, kScales, row, {shape.log_scale.x, shape.log_scale.y, shape.log_scale.z});
            take_row(sink, kOpacities, row, {shape.logit});
            take_row(sink, kSh0, row, {kHarmonic0 * v_color.x, kHarmonic0 * v_color.y, kHarmonic0 * v_color.z});
        }
    }
    if constexpr (kDegree > 0) {
        __syncthreads();
        constexpr int kAtOnce = kFloats % 9 == 0 ? 9 : 8;
        static_assert(kFloats % kAtOnce == 0);
        for (int round = 0; round < kFloats / kAtOnce; ++round) {
            long long indices[kAtOnce];
            float gradients[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int flat = (round * kAtOnce + i) * kBackwardThreads + thread;
                const int here = flat / kFloats, column = flat - here * kFloats, row = factors.rows[here];
                indices[i] = row >= 0 ? 3ll * g.sh_rows * row + column : -1;
                gradients[i] = factors.harmonics[here][column / 3] * factors.v_color[here][column % 3];
            }
            sink.take(kShN, indices, gradients);
        }
    }
}

template <class Sink>
void launch_backward(const Gaussians& g, const Camera& camera, const Visible& visible, const float* packed,
                     const Statistics& statistics, const Sink& sink, void* stream) {
    const int blocks = (visible.capacity + kBackwardThreads - 1) / kBackwardThreads;
    for_degree(g.sh_degree, [&](auto degree) {
        launch(project_backward_kernel<Sink, degree>, blocks, kBackwardThreads, stream, g, camera, visible, packed,
               statistics, sink);
    });
}

}  // namespace

void project_backward(const Gaussians& g, const Camera& camera, const Visible& visible, const float* packed,
                      const Statistics& statistics, const Gradients& gradients, void* stream) {
    launch_backward(g, camera, visible, packed, statistics, StoreGradients(gradients), stream);
}

void project_backward_and_step(const Gaussians& g, const Camera& camera, const Visible& visible, const float* packed,
                               const Statistics& statistics, const Adam& adam, void* stream) {
    launch_backward(g, camera, visible, packed, statistics, StepAdam{adam}, stream);
}

}  // namespace distwar::cuda

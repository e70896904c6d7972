// The fused rasteriser's backward pass with the gradient in the camera's pose (project_backward.cuh).
//
// Its kernels are compiled here, apart from those without it. What it costs beside them: 60 shuffles a warp, a row of
// 48 bytes for 128 Gaussians, and total_kernel, one block that reads these rows.
#include "project_backward.cuh"

namespace distwar::cuda {
namespace {

constexpr int kTotalThreads = 32 * kPoseFloats;

// One block: adds up the rows of sums [blocks, 12] in a fixed order.
__global__ void total_kernel(Visible visible, Fit fit, PoseGradient pose) {
    __shared__ float parts[kTotalThreads];
    const int thread = threadIdx.x, rows = (visible.held() + kBackwardThreads - 1) / kBackwardThreads;
    float sum = 0.0f;
    if (fit.complete())
        for (long long at = thread; at < static_cast<long long>(rows) * kPoseFloats; at += kTotalThreads)
            sum += pose.sums[at];
    parts[thread] = sum;
    __syncthreads();
    if (thread >= 16) return;
    float total = 0.0f;
    if (thread < kPoseFloats)
        for (int part = thread; part < kTotalThreads; part += kPoseFloats) total += parts[part];
    pose.viewmat[thread] = total;
}

// A sink for parameters that stay as they are.
struct StoreNothing {
    static constexpr bool kTakes = false, kIsLazy = false, kIsPriced = false;
    __device__ void mark(int) const {}

    template <int N>
    __device__ void take(Parameter, const long long (&)[N], const float (&)[N], const SkippedSteps (&)[N],
                         int = 0) const {}
};

template <class Sink>
void launch_both(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit, const float* records,
                 const Statistics& statistics, const Sink& sink, const PoseGradient& pose, void* stream) {
    launch_backward<true>(g, view, visible, fit, records, statistics, sink, pose.sums, stream);
    launch(total_kernel, 1, kTotalThreads, stream, visible, fit, pose);
}

}  // namespace

size_t pose_sums(int capacity) {
    return static_cast<size_t>(capacity + kBackwardThreads - 1) / kBackwardThreads * kPoseFloats;
}

void project_and_pose_backward(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                               const float* records, const Statistics& statistics, const Gradients& gradients,
                               const PoseGradient& pose, void* stream) {
    launch_both(g, view, visible, fit, records, statistics, StoreGradients<false>(gradients), pose, stream);
}

void project_and_pose_backward_and_step(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                                        const float* records, const Statistics& statistics, const PoseGradient& pose,
                                        void* stream) {
    for_laziness(g, [&](auto lazy, auto priced) {
        launch_both(g, view, visible, fit, records, statistics, StepAdam<lazy, priced>{g.adam}, pose, stream);
    });
}

void pose_backward(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit, const float* records,
                   const PoseGradient& pose, void* stream) {
    launch_both(g, view, visible, fit, records, Statistics{}, StoreNothing(), pose, stream);
}

}  // namespace distwar::cuda

// The fused rasteriser's backward pass (project_backward.cuh), where the camera stays where it is; and lazy Adam's
// catching up with all Gaussians.
#include "project_backward.cuh"

namespace distwar::cuda {
namespace {

// One thread per number.
template <bool kPriced>
__global__ void catch_up_kernel(Adam adam, Parameter parameter, int floats, long long numbers) {
    const long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= numbers) return;
    const int skipped = adam.step - adam.last_steps[index / floats];
    if (skipped <= 0) return;
    AdamState state = {adam.parameters[parameter][index], adam.exp_avg[parameter][index],
                       adam.exp_avg_sq[parameter][index]};
    if (kPriced)
        state.catch_up_priced(adam, parameter, skipped, PricedSteps::of(adam, skipped));
    else
        state.catch_up(adam, adam.step_sizes[parameter], SkippedSteps::of(adam, skipped));
    adam.parameters[parameter][index] = state.value;
    adam.exp_avg[parameter][index] = state.mean, adam.exp_avg_sq[parameter][index] = state.square;
}

__global__ void mark_kernel(int* last_steps, int count, int step) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < count) last_steps[row] = step;
}

}  // namespace

// Compiled apart: fused_pose.cu.
void project_and_pose_backward(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                               const float* records, const Statistics& statistics, const Gradients& gradients,
                               const PoseGradient& pose, void* stream);
void project_and_pose_backward_and_step(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                                        const float* records, const Statistics& statistics, const PoseGradient& pose,
                                        void* stream);

void project_backward(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                      const float* records, const Statistics& statistics, const Gradients& gradients,
                      const PoseGradient& pose, void* stream) {
    if (pose) return project_and_pose_backward(g, view, visible, fit, records, statistics, gradients, pose, stream);
    launch_backward<false>(g, view, visible, fit, records, statistics, StoreGradients<false>(gradients), nullptr,
                           stream);
}

void add_project_backward(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                          const float* records, const Statistics& statistics, const Gradients& sums, void* stream) {
    launch_backward<false>(g, view, visible, fit, records, statistics, StoreGradients<true>(sums), nullptr, stream);
}

void project_backward_and_step(const Gaussians& g, const View& view, const Visible& visible, const Fit& fit,
                               const float* records, const Statistics& statistics, const PoseGradient& pose,
                               void* stream) {
    if (pose) return project_and_pose_backward_and_step(g, view, visible, fit, records, statistics, pose, stream);
    for_laziness(g, [&](auto lazy, auto priced) {
        launch_backward<false>(g, view, visible, fit, records, statistics, StepAdam<lazy, priced>{g.adam}, nullptr,
                               stream);
    });
}

void catch_up(const Adam& adam, int count, int sh_rows, void* stream) {
    const int floats[Adam::kParameters] = {3, 4, 3, 1, 3, 3 * sh_rows};
    for (int i = 0; i < Adam::kParameters; ++i) {
        const long long numbers = static_cast<long long>(floats[i]) * count;
        if (numbers == 0) continue;
        const auto parameter = static_cast<Parameter>(i);
        const bool priced = adam.has_prices() && is_priced(parameter);
        launch(priced ? catch_up_kernel<true> : catch_up_kernel<false>,
               static_cast<int>((numbers + kThreads - 1) / kThreads), kThreads, stream, adam, parameter, floats[i],
               numbers);
    }
    launch(mark_kernel, blocks_for(count), kThreads, stream, adam.last_steps, count, adam.step);
}

}  // namespace distwar::cuda

// Lazy Adam: what dense Adam would have done to a Gaussian in the steps that skipped it, in closed form.
//
// In n steps with zero gradients dense Adam takes m to beta1^n m and v to beta2^n v, and moves the parameter by the sum
// of lr m' / sqrt(v'), a geometric series of ratio beta1 / sqrt(beta2); the learning rate and the bias corrections are
// those of now. Every read of a parameter applies this correction (UpToDate); it is written back only when the Gaussian
// contributes again, or by catch_up.
#pragma once

#include "gaussian.cuh"

namespace distwar::cuda {

// What n steps with zero gradients do to a number under Adam: factors of its moments, and how many steps of its old
// moments it moves on.
struct SkippedSteps {
    float mean, square, steps;

    __device__ static SkippedSteps none() { return {1.0f, 1.0f, 0.0f}; }
    __device__ static SkippedSteps of(const Adam& adam, int n) {
        const float log_mean = log2f(adam.beta1), log_square = log2f(adam.beta2);
        const float log_ratio = log_mean - 0.5f * log_square, ratio = exp2f(log_ratio);
        return {exp2f(n * log_mean), exp2f(n * log_square), ratio * (1.0f - exp2f(n * log_ratio)) / (1.0f - ratio)};
    }
};

// One number and its moments.
struct AdamState {
    float value, mean, square;

    __device__ void catch_up(const Adam& adam, float step_size, const SkippedSteps& skipped) {
        value -= skipped.steps * step_size * mean / (sqrtf(square) * adam.root_correction + adam.eps);
        mean *= skipped.mean, square *= skipped.square;
    }
    // As torch.optim.Adam, without weight decay.
    __device__ void step(const Adam& adam, float step_size, float gradient) {
        mean = adam.beta1 * mean + (1.0f - adam.beta1) * gradient;
        square = adam.beta2 * square + (1.0f - adam.beta2) * gradient * gradient;
        value -= step_size * mean / (sqrtf(square) * adam.root_correction + adam.eps);
    }
};

// A Gaussian's parameters as dense Adam would have them before step t.
template <bool kLazy>
struct UpToDate {
    const Gaussians& g;
    SkippedSteps skipped;

    __device__ UpToDate(const Gaussians& g, int row) : g(g), skipped(SkippedSteps::none()) {
        if (kLazy) skipped = SkippedSteps::of(g.adam, g.adam.step - 1 - g.adam.last_steps[row]);
    }
    __device__ UpToDate(const Gaussians& g, const SkippedSteps& skipped) : g(g), skipped(skipped) {}

    __device__ float value(Parameter parameter, long long index) const {
        const float value = __ldg(g.of(parameter) + index);
        if (!kLazy) return value;
        AdamState state = {value, __ldg(g.adam.exp_avg[parameter] + index),
                           __ldg(g.adam.exp_avg_sq[parameter] + index)};
        state.catch_up(g.adam, g.adam.step_sizes[parameter], skipped);
        return state.value;
    }
    __device__ Vec3 vector(Parameter parameter, int row) const {
        return {value(parameter, 3ll * row), value(parameter, 3ll * row + 1), value(parameter, 3ll * row + 2)};
    }
    __device__ float4 quat(int row) const {
        if (!kLazy) return __ldg(reinterpret_cast<const float4*>(g.quats) + row);
        const long long first = 4ll * row;
        return make_float4(value(kQuats, first), value(kQuats, first + 1), value(kQuats, first + 2),
                           value(kQuats, first + 3));
    }
    __device__ Shape shape(int row) const { return {quat(row), vector(kScales, row), value(kOpacities, row)}; }
};

// Calls f with whether Adam is lazy as a compile-time constant.
template <class F>
void for_laziness(const Gaussians& g, F f) {
    g.adam.last_steps ? f(std::true_type()) : f(std::false_type());
}

}  // namespace distwar::cuda

// Lazy Adam: what dense Adam would have done to a Gaussian in the steps that skipped it, in closed form.
//
// In n steps with zero gradients dense Adam takes m to beta1^n m and v to beta2^n v, and moves the parameter by the sum
// of lr m' / sqrt(v'), a geometric series of ratio beta1 / sqrt(beta2); the learning rate and the bias corrections are
// those of now. Every read of a parameter applies this correction (UpToDate); it is written back only when the Gaussian
// contributes again, or by catch_up.
//
// Regularisation of opacity and scale (here: a price) has a gradient g in the skipped steps, too (PricedSteps;
// docs/kernels.md derives it). Kernels for models without regularisation are compiled without this part.
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

// Whether a parameter can be regularised.
DISTWAR_ON_BOTH constexpr bool is_priced(Parameter parameter) {
    return parameter == kScales || parameter == kOpacities;
}

// The gradient of a regularisation term with respect to the log scale or the logit, and its relative change with it.
struct Price {
    float gradient, decay;

    __device__ static Price of(const Adam& adam, Parameter parameter, float value) {
        if (parameter == kScales) return {adam.scale_price * expf(value), 1.0f};
        const float opacity = 1.0f / (1.0f + expf(-value));
        return {adam.opacity_price * opacity * (1.0f - opacity), fmaxf(1.0f - 2.0f * opacity, 0.0f)};
    }
};

// What n > 0 steps with a gradient g do to a number under Adam, where v is at least g^2:
//   m' = mean m + (1 - mean) g,   v' = square v + (1 - square) g^2,
// and sums over the steps: of a moment's share, sum beta1^k / sqrt(v_k), and of g / sqrt(v_k).
struct PricedSteps {
    float count, mean, square;
    float lost;              // 1 - sqrt(square), for little is lost in few steps
    float moments, average;  // sum beta1^k, and beta2^k at the average k so weighted

    __device__ static PricedSteps of(const Adam& adam, int n) {
        const float log_mean = log2f(adam.beta1), log_square = log2f(adam.beta2), rest = 1.0f - adam.beta1;
        const float mean = exp2f(n * log_mean), lost = -expm1f(n * 0.5f * kLog2 * log_square);
        const float middle = 1.0f / rest - n * mean / (1.0f - mean);
        return {static_cast<float>(n),     mean, (1.0f - lost) * (1.0f - lost), lost, adam.beta1 * (1.0f - mean) / rest,
                exp2f(middle * log_square)};
    }

    // sum beta1^k / (sqrt(v_k) c + eps): v changes little while beta1^k does.
    __device__ float sum_of_moments(const Adam& adam, float v, float g) const {
        return moments / (sqrtf(average * v + (1.0f - average) * g * g) * adam.root_correction + adam.eps);
    }

    // sum |g| / (sqrt(v_k) c + eps), where sum |g| / sqrt(v_k) is an integral over k from 1/2 on.
    __device__ float sum_of_price(const Adam& adam, float v, float g) const {
        constexpr float kTiny = 1e-30f;
        const float kept = 1.0f - lost, root_decay = sqrtf(adam.beta2);
        const float v_first = root_decay * v + (1.0f - root_decay) * g * g, first = sqrtf(v_first);
        const float last = sqrtf(square * v_first + (1.0f - square) * g * g);
        const float growth = g * lost * (1.0f + g * (1.0f + kept) / (last + kept * first + kTiny));
        const float sum = -2.0f / (kLog2 * log2f(adam.beta2)) * log1pf(growth / (kept * (first + g) + kTiny));
        return sum / (adam.root_correction + adam.eps * sum / (count * g + kTiny));
    }

   private:
    static constexpr float kLog2 = 0.69314718f;
};

// One number and its moments.
struct AdamState {
    float value, mean, square;

    __device__ static AdamState load(const Gaussians& g, Parameter parameter, long long index) {
        return {__ldg(g.of(parameter) + index), __ldg(g.adam.exp_avg[parameter] + index),
                __ldg(g.adam.exp_avg_sq[parameter] + index)};
    }

    __device__ void catch_up(const Adam& adam, float step_size, const SkippedSteps& skipped) {
        value -= skipped.steps * step_size * mean / (sqrtf(square) * adam.root_correction + adam.eps);
        mean *= skipped.mean, square *= skipped.square;
    }
    // The same for a number that has a price. of_all: of all the steps skipped.
    __device__ void catch_up_priced(const Adam& adam, Parameter parameter, int skipped, const PricedSteps& of_all) {
        const float step_size = adam.step_sizes[parameter];
        const int left = skipped - take_steep_steps(adam, parameter, skipped);
        if (left <= 0) return;
        const PricedSteps steps = left == skipped ? of_all : PricedSteps::of(adam, left);
        const float g = Price::of(adam, parameter, value).gradient;
        const float by_moments = steps.sum_of_moments(adam, square, g);
        // The price falls with what is paid. (A quarter of the way its decay stands for that of the whole way best.)
        const float paid = step_size * (steps.sum_of_price(adam, square, g) - g * by_moments);
        const float decay = Price::of(adam, parameter, value - 0.25f * paid).decay;
        value -= step_size * mean * by_moments + (decay * paid > 1e-3f ? log1pf(decay * paid) / decay : paid);
        const float last = Price::of(adam, parameter, value).gradient;
        mean = steps.mean * mean + (1.0f - steps.mean) * last;
        square = steps.square * square + (1.0f - steps.square) * g * last;
    }
    // As torch.optim.Adam, without weight decay.
    __device__ void step(const Adam& adam, float step_size, float gradient) {
        mean = adam.beta1 * mean + (1.0f - adam.beta1) * gradient;
        square = adam.beta2 * square + (1.0f - adam.beta2) * gradient * gradient;
        value -= step_size * mean / (sqrtf(square) * adam.root_correction + adam.eps);
    }

   private:
    // Below the price's square the second moment rises steeply (from 0 in a Gaussian without moments): there steps are
    // made one by one. Returns how many.
    __device__ int take_steep_steps(const Adam& adam, Parameter parameter, int skipped) {
        constexpr int kMost = 32;
        const int most = min(skipped, kMost);
        int taken = 0;
#pragma unroll 1
        for (; taken < most; ++taken) {
            const float g = Price::of(adam, parameter, value).gradient;
            if (!(square < g * g)) break;
            step(adam, adam.step_sizes[parameter], g);
        }
        return taken;
    }
};

// A Gaussian's parameters as dense Adam would have them before step t.
template <bool kLazy, bool kPriced = false>
struct UpToDate {
    const Gaussians& g;
    SkippedSteps skipped;
    int count = 0;  // of the steps skipped

    __device__ UpToDate(const Gaussians& g, int row) : g(g), skipped(SkippedSteps::none()) {
        if (!kLazy) return;
        count = g.adam.step - 1 - g.adam.last_steps[row];
        skipped = SkippedSteps::of(g.adam, count);
    }
    __device__ UpToDate(const Gaussians& g, const SkippedSteps& skipped) : g(g), skipped(skipped) {}

    __device__ float value(Parameter parameter, long long index) const {
        if (!kLazy) return __ldg(g.of(parameter) + index);
        AdamState state = AdamState::load(g, parameter, index);
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
    __device__ Shape shape(int row) const {
        if constexpr (kPriced)
            return priced_shape(row);
        else
            return {quat(row), vector(kScales, row), value(kOpacities, row)};
    }

   private:
    // All is fetched before any is caught up with, or each would wait for the one before.
    __device__ Shape priced_shape(int row) const {
        AdamState scales[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) scales[i] = AdamState::load(g, kScales, 3ll * row + i);
        AdamState logit = AdamState::load(g, kOpacities, row);
        const float4 rotation = quat(row);
        const PricedSteps steps = PricedSteps::of(g.adam, count);
#pragma unroll
        for (int i = 0; i < 3; ++i) scales[i].catch_up_priced(g.adam, kScales, count, steps);
        logit.catch_up_priced(g.adam, kOpacities, count, steps);
        return {rotation, {scales[0].value, scales[1].value, scales[2].value}, logit.value};
    }
};

// Calls f with whether Adam is lazy, and whether there are prices to pay, as compile-time constants.
template <class F>
void for_laziness(const Gaussians& g, F f) {
    if (!g.adam.last_steps) return f(std::false_type(), std::false_type());
    g.adam.has_prices() ? f(std::true_type(), std::true_type()) : f(std::true_type(), std::false_type());
}

}  // namespace distwar::cuda

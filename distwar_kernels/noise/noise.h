// The noise of MCMC (Kheradmand et al. 2024, section 3.1), the same for CUDA (noise.cu) and the CPU (noise_cpu.cpp):
// raw pointers and sizes, and what becomes of one Gaussian.
//
// A mean moves by amount * gate * R S^2 x: with the covariance Sigma = R S^2 R^T that is distributed as Sigma x, and is
// one rotation. The gate, sigmoid(100 (0.005 - opacity)), is 0.5 at an opacity of 0.005 and 1e-4 at 0.1. x are three
// normal deviates by Box and Muller from the words of philox.h, whose key is the seed and whose counter is made of row
// and step: nothing is kept between steps, and a run that goes on from a checkpoint meets the numbers it would have
// met.
#pragma once

#include <cmath>

#include "philox.h"

#ifndef DISTWAR_BACKEND
#error "compile with -DDISTWAR_BACKEND=cpu or cuda: it names the namespace, as for the other ops"
#endif

namespace distwar::DISTWAR_BACKEND {

// As trained: log scales, logit opacities, quaternions wxyz of any length. Arrays are dense float32.
struct NoiseInputs {
    float* means;            // [N, 3], moved
    const float* quats;      // [N, 4]
    const float* scales;     // [N, 3]
    const float* opacities;  // [N]
    int count;
    float amount;
    float least_gate;  // a Gaussian whose gate is not above this stays
    uint64_t seed, step;
    int threads;   // CPU only
    void* stream;  // CUDA only
};

void add_noise(const NoiseInputs& in);

// --------------------------------------------------------------------------------------------------- one Gaussian

struct Deviates {
    float x, y, z;
};

// Two numbers of the unit interval, 0 excluded, to a radius and an angle.
DISTWAR_ON_BOTH inline float radius_of(uint32_t word) {
    const float part = fmaf(static_cast<float>(word), 0x1p-32f, 0x1p-33f);
    return sqrtf(fmaxf(-2.0f * logf(part), 0.0f));
}
DISTWAR_ON_BOTH inline float angle_of(uint32_t word) {
    constexpr float kPi = 3.14159265f;
    return fmaf(static_cast<float>(word), 2.0f * kPi * 0x1p-32f, -kPi);
}

// Of a row at a step; independent of others'.
DISTWAR_ON_BOTH inline Deviates deviates_of(uint64_t seed, uint64_t step, int row) {
    const Words words =
        philox({{static_cast<uint32_t>(row), 0, static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32)}}, seed);
    const float radius = radius_of(words.x[0]), angle = angle_of(words.x[1]);
    return {radius * cosf(angle), radius * sinf(angle), radius_of(words.x[2]) * cosf(angle_of(words.x[3]))};
}

DISTWAR_ON_BOTH inline float gate_of(float logit) {
    return 1.0f / (1.0f + expf(kGateSteepness * (1.0f / (1.0f + expf(-logit)) - kGateOpacity)));
}

// v + 2 / |q|^2 (w (u x v) + u x (u x v)) for the quaternion q = (w, u); a zero one is no rotation.
DISTWAR_ON_BOTH inline Deviates rotated(const float (&q)[4], Deviates v) {
    const auto cross = [&q](Deviates a) {
        return Deviates{q[2] * a.z - q[3] * a.y, q[3] * a.x - q[1] * a.z, q[1] * a.y - q[2] * a.x};
    };
    const Deviates once = cross(v), twice = cross(once);
    const float scale = 2.0f / fmaxf(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3], 1e-30f);
    return {v.x + scale * (q[0] * once.x + twice.x), v.y + scale * (q[0] * once.y + twice.y),
            v.z + scale * (q[0] * once.z + twice.z)};
}

DISTWAR_ON_BOTH inline void move(const NoiseInputs& in, int row) {
    const float gate = gate_of(in.opacities[row]);
    if (!(gate > in.least_gate)) return;  // nor where the opacity is NaN
    const int64_t i = row;
    const float* scale = in.scales + 3 * i;
    const float variances[3] = {expf(2.0f * scale[0]), expf(2.0f * scale[1]), expf(2.0f * scale[2])};
    const float quat[4] = {in.quats[4 * i], in.quats[4 * i + 1], in.quats[4 * i + 2], in.quats[4 * i + 3]};
    const Deviates x = deviates_of(in.seed, in.step, row);
    const Deviates by = rotated(quat, {variances[0] * x.x, variances[1] * x.y, variances[2] * x.z});
    float* mean = in.means + 3 * i;
    mean[0] += in.amount * gate * by.x, mean[1] += in.amount * gate * by.y, mean[2] += in.amount * gate * by.z;
}

}  // namespace distwar::DISTWAR_BACKEND

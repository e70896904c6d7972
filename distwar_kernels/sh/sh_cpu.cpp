// Spherical harmonics on the CPU: the basis of sh_torch.py as polynomials of the unit direction, and their derivatives.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../constants.h"
#include "sh.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr int kMostRows = 16;
constexpr float kC1 = 0.4886025119029199f;
constexpr float kC2[3] = {1.0925484305920792f, 0.31539156525252005f, 0.5462742152960396f};
constexpr float kC3[5] = {0.5900435899266435f, 2.890611442640554f, 0.4570457994644658f, 0.3731763325901154f,
                          1.445305721320277f};

// A direction at length 1.
struct Unit {
    float x, y, z, inverse_length;

    explicit Unit(const float* v) {
        inverse_length = 1.0f / std::max(std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), 1e-12f);
        x = v[0] * inverse_length, y = v[1] * inverse_length, z = v[2] * inverse_length;
    }
};

void basis(int degree, const Unit& d, float* values) {
    const float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
    const float all[kMostRows] = {
        kHarmonic0,
        -kC1 * y,
        kC1 * z,
        -kC1 * x,
        kC2[0] * x * y,
        -kC2[0] * y * z,
        kC2[1] * (3.0f * zz - 1.0f),
        -kC2[0] * x * z,
        kC2[2] * (xx - yy),
        -kC3[0] * y * (3.0f * xx - yy),
        kC3[1] * x * y * z,
        -kC3[2] * y * (5.0f * zz - 1.0f),
        kC3[3] * z * (5.0f * zz - 3.0f),
        -kC3[2] * x * (5.0f * zz - 1.0f),
        kC3[4] * z * (xx - yy),
        -kC3[0] * x * (xx - 3.0f * yy),
    };
    std::copy_n(all, (degree + 1) * (degree + 1), values);
}

// The sum of the basis functions' gradients [3] by the unit direction, each times a weight.
void weighted_gradient(int degree, const Unit& d, const float* w, float* sum) {
    const float x = d.x, y = d.y, z = d.z;
    sum[0] = sum[1] = sum[2] = 0.0f;
    if (degree >= 1) sum[0] -= kC1 * w[3], sum[1] -= kC1 * w[1], sum[2] += kC1 * w[2];
    if (degree >= 2) {
        sum[0] += kC2[0] * (y * w[4] - z * w[7]) + 2.0f * kC2[2] * x * w[8];
        sum[1] += kC2[0] * (x * w[4] - z * w[5]) - 2.0f * kC2[2] * y * w[8];
        sum[2] += -kC2[0] * (y * w[5] + x * w[7]) + 6.0f * kC2[1] * z * w[6];
    }
    if (degree >= 3) {
        const float xx = x * x, yy = y * y, zz = z * z;
        sum[0] += -6.0f * kC3[0] * x * y * w[9] + kC3[1] * y * z * w[10] - kC3[2] * (5.0f * zz - 1.0f) * w[13] +
                  2.0f * kC3[4] * x * z * w[14] - 3.0f * kC3[0] * (xx - yy) * w[15];
        sum[1] += -3.0f * kC3[0] * (xx - yy) * w[9] + kC3[1] * x * z * w[10] - kC3[2] * (5.0f * zz - 1.0f) * w[11] -
                  2.0f * kC3[4] * y * z * w[14] + 6.0f * kC3[0] * x * y * w[15];
        sum[2] += kC3[1] * x * y * w[10] - 10.0f * kC3[2] * y * z * w[11] + kC3[3] * (15.0f * zz - 3.0f) * w[12] -
                  10.0f * kC3[2] * x * z * w[13] + kC3[4] * (xx - yy) * w[14];
    }
}

}  // namespace

void harmonics(const HarmonicsInputs& in, float* colors) {
    const int used = (in.degree + 1) * (in.degree + 1);
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int i = 0; i < in.count; ++i) {
        float values[kMostRows], color[3] = {};
        const float* coefficients = in.coefficients + int64_t(i) * in.rows * 3;
        basis(in.degree, Unit(in.directions + 3 * i), values);
        for (int k = 0; k < used && (!in.masks || in.masks[i]); ++k)
            for (int channel = 0; channel < 3; ++channel) color[channel] += values[k] * coefficients[3 * k + channel];
        std::copy_n(color, 3, colors + 3 * i);
    }
}

void harmonics_backward(const HarmonicsInputs& in, const float* v_colors, float* v_directions, float* v_coefficients) {
    const int used = (in.degree + 1) * (in.degree + 1);
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int i = 0; i < in.count; ++i) {
        const float *coefficients = in.coefficients + int64_t(i) * in.rows * 3, *v = v_colors + 3 * i;
        float *v_c = v_coefficients + int64_t(i) * in.rows * 3, *v_direction = v_directions + 3 * i;
        std::fill_n(v_c, 3 * in.rows, 0.0f), std::fill_n(v_direction, 3, 0.0f);
        if (in.masks && !in.masks[i]) continue;
        const Unit d(in.directions + 3 * i);
        float values[kMostRows], weights[kMostRows], slope[3];
        basis(in.degree, d, values);
        for (int k = 0; k < used; ++k) {
            const float* c = coefficients + 3 * k;
            weights[k] = c[0] * v[0] + c[1] * v[1] + c[2] * v[2];
            for (int channel = 0; channel < 3; ++channel) v_c[3 * k + channel] = values[k] * v[channel];
        }
        weighted_gradient(in.degree, d, weights, slope);
        const float along = slope[0] * d.x + slope[1] * d.y + slope[2] * d.z, unit[3] = {d.x, d.y, d.z};
        for (int axis = 0; axis < 3; ++axis) v_direction[axis] = d.inverse_length * (slope[axis] - along * unit[axis]);
    }
}

}  // namespace distwar::DISTWAR_BACKEND

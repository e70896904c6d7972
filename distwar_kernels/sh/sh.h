// The spherical harmonics' interface on the CPU (sh_cpu.cpp): raw pointers and sizes, dense float32 arrays.
#pragma once

#ifndef DISTWAR_BACKEND
#error "compile with -DDISTWAR_BACKEND=cpu: it names the namespace"
#endif

namespace distwar::DISTWAR_BACKEND {

struct HarmonicsInputs {
    int degree;                 // 0 to 3
    const float* directions;    // [M, 3] of any length
    const float* coefficients;  // [M, rows, 3]
    const bool* masks;          // [M] or null; where false, zeros are written
    int count, rows;            // M; at least (degree + 1)^2
    int threads;
};

// colors: [M, 3].
void harmonics(const HarmonicsInputs& in, float* colors);

// v_colors: [M, 3]. v_directions [M, 3] and v_coefficients [M, rows, 3] are written.
void harmonics_backward(const HarmonicsInputs& in, const float* v_colors, float* v_directions, float* v_coefficients);

}  // namespace distwar::DISTWAR_BACKEND

// Sixteen floats side by side: the pixels of one tile row as one value (GCC and Clang vector extensions, so the
// compiler picks AVX-512, AVX2, NEON, ... and splits the value where the machine's registers are narrower).
#pragma once

#include <cstdint>
#include <cstring>

#include "constants.h"

namespace distwar {

using Lanes = float __attribute__((vector_size(kTileSize * sizeof(float))));
using Mask = int32_t __attribute__((vector_size(kTileSize * sizeof(int32_t))));  // -1 where true, 0 where false

inline Lanes lanes(float value) { return value - Lanes{}; }
inline Mask mask(int32_t value) { return value - Mask{}; }

// 0, 1, 2, ... 15
inline Lanes ramp() {
    Lanes out;
    for (int i = 0; i < kTileSize; ++i) out[i] = i;
    return out;
}

inline Lanes minimum(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes absolute(Lanes a) { return a < 0.0f ? -a : a; }

using Lanes8 = float __attribute__((vector_size(32)));
using Lanes4 = float __attribute__((vector_size(16)));
using Mask8 = int32_t __attribute__((vector_size(32)));
using Mask4 = int32_t __attribute__((vector_size(16)));

// A value's upper half added to its lower one: sixteen lanes are summed in four steps instead of fifteen.
template <class Half, class Whole>
inline Half fold(Whole a) {
    Half halves[2];
    static_assert(sizeof halves == sizeof a);
    std::memcpy(halves, &a, sizeof a);
    return halves[0] + halves[1];
}

inline float sum(Lanes a) {
    const auto four = fold<Lanes4>(fold<Lanes8>(a));
    return (four[0] + four[1]) + (four[2] + four[3]);
}

// True lanes hold -1, so the sum is minus their number.
inline bool any(Mask a) {
    const auto four = fold<Mask4>(fold<Mask8>(a));
    return (four[0] + four[1]) + (four[2] + four[3]) != 0;
}

// exp(-x) for x >= 0: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2] (Cody and Waite's reduction, Taylor
// coefficients); relative error below 3e-7. Other x give garbage, but no trap.
inline Lanes exp_negative(Lanes x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to an integer
    const Lanes y = -minimum(x, lanes(87.0f));
    const Lanes n = (y * 1.44269504f + kRound) - kRound;
    const Lanes r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    Lanes p = lanes(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    // The cast reads the bits, as vector casts do.
    const Mask exponent = (__builtin_convertvector(n, Mask) + 127) << 23;
    return p * (Lanes)exponent;
}

}  // namespace distwar

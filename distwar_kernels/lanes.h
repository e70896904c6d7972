// Floats side by side, as many as a register of this machine holds (GCC and Clang vector extensions). They would take
// wider values too, but take their comparisons and choices apart, lane by lane: five times slower with AVX2.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE__)
#include <immintrin.h>
#endif

#include "constants.h"

namespace distwar {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using Mask = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));  // -1 where true, 0 where false

inline Lanes lanes(float value) { return value - Lanes{}; }
inline Mask mask(int32_t value) { return value - Mask{}; }

// first, first + 1, first + 2, ...
inline Lanes ramp(int first = 0) {
    Lanes out;
    for (int i = 0; i < kLanes; ++i) out[i] = static_cast<float>(first + i);
    return out;
}

inline Lanes minimum(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes absolute(Lanes a) { return a < 0.0f ? -a : a; }

// In a fixed order: neighbours first.
inline float sum(Lanes a) {
    float partial[kLanes];
    std::memcpy(partial, &a, sizeof a);
    for (int count = kLanes / 2; count > 0; count /= 2)
        for (int i = 0; i < count; ++i) partial[i] = partial[2 * i] + partial[2 * i + 1];
    return partial[0];
}

// Whether a lane is true.
inline bool any(Mask a) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)a, (__m512i)a) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)a) != 0;
#elif defined(__SSE__)
    return _mm_movemask_ps((__m128)a) != 0;
#else
    int64_t words[sizeof a / sizeof(int64_t)], seen = 0;
    std::memcpy(words, &a, sizeof a);
    for (const int64_t word : words) seen |= word;
    return seen != 0;
#endif
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

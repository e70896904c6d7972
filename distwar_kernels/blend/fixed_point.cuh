// Sums that do not depend on the order of their addends: in 64-bit integers, in units small beside the largest they can
// be.
//
// No |sum| exceeds a bound that follows from the largest |dL/dcolour| of a pixel and the number of pixels: what is left
// of 62 bits is precision. Some fields of a record may grow larger by nature (by distances squared, or by 1 / opacity),
// and their units are coarser. Adding is exact, so runs are bit-equal whichever warp comes first.
#pragma once

#include "../constants.h"

namespace distwar::DISTWAR_BACKEND {

struct FixedPoint {
    long long* sums;       // [G, kSplatFloats], zeroed
    const float* largest;  // |dL/dcolour| of any pixel and channel
    float pixels;

    // What one unit is worth in field `index` of a record (blend_transposed.cu: mean, conic, opacity, |mean|, colours).
    __device__ float units(int index) const {
        const bool conic = index >= 2 && index < 5, opacity = index == 5;
        const int slack = conic ? 30 : opacity ? 14 : 8;
        const float bound = fmaxf(*largest * pixels, 1e-30f);
        return exp2f(fminf(floorf(62.0f - slack - log2f(bound)), 120.0f));
    }
};

}  // namespace distwar::DISTWAR_BACKEND

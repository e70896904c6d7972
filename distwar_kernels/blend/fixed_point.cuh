// Sums that do not depend on the order of their addends: in 64-bit integers, in units small beside the largest they can
// be.
//
// No |sum| exceeds a bound that follows from the largest |dL/dcolour| (for errors: from the largest of them) of a pixel
// and the number of pixels: what is left of 62 bits is precision. Some fields of a record may grow larger by nature (by
// distances squared, or by 1 / opacity), and their units are coarser. Adding is exact, so runs are bit-equal whichever
// warp comes first.
#pragma once

#include "../records.cuh"

namespace distwar::DISTWAR_BACKEND {

struct FixedPoint {
    long long* sums;       // [G, kSplatFloats], zeroed
    const float* largest;  // [2] |dL/dcolour| of any pixel and channel, and what ends in the fourth channel's word
    float pixels;

    // What one unit is worth in a word of a record.
    __device__ float units(int word) const {
        const bool conic = word >= kGradConicXX && word <= kGradConicYY, opacity = word == kGradOpacity;
        const int slack = conic ? 30 : opacity ? 14 : 8;
        const float bound = fmaxf(largest[word == kErrorSum] * pixels, 1e-30f);
        return exp2f(fminf(floorf(62.0f - slack - log2f(bound)), 120.0f));
    }
};

}  // namespace distwar::DISTWAR_BACKEND

// The photometric loss's interface, the same for CUDA (photometric.cu) and the CPU (photometric_cpu.cpp): raw pointers
// and sizes. Arrays are dense float32 unless said otherwise.
#pragma once

#include <cstdint>

#include "../constants.h"

#ifndef DISTWAR_BACKEND
#error "compile with -DDISTWAR_BACKEND=cpu or cuda: it names the namespace, as for the other ops"
#endif

namespace distwar::DISTWAR_BACKEND {

constexpr int kSsimTaps = 2 * kSsimRadius + 1;

// The normalised Gaussian of kSsimSigma, `offset` pixels from its middle (a test compares).
DISTWAR_ON_BOTH constexpr float ssim_window(int offset) {
    constexpr float kHalf[] = {0.26601172486179436f, 0.2130055377112537f,   0.10936068950970002f,
                               0.03600077212843083f, 0.007598758135239185f, 0.00102838008447911f};
    return kHalf[offset < 0 ? -offset : offset];
}

struct PhotometricInputs {
    const float* image;       // [height, width, 3]
    const uint8_t* target;    // [height, width, 3], or [height, width, 4] with straight alpha
    const float* background;  // [3] that a target with alpha is laid on; null says that the target has none
    int width, height;
    double lambda_dssim;
    int threads;   // CPU only
    void* stream;  // CUDA only
};

struct PhotometricOutputs {
    float* loss;     // [1] (1 - lambda_dssim) L1 + lambda_dssim (1 - SSIM)
    float* parts;    // [2] mean L1, mean SSIM
    float* v_image;  // [height, width, 3] dL/dimage
    float* errors;   // [height, width] mean |difference| of a pixel's channels, or null
};

// What the first kernel leaves for the second.
struct PhotometricScratch {
    float* maps;      // [photometric_map_floats(...)] derivatives of 1 - SSIM by the window's moments
    float* partials;  // [photometric_blocks(...), 2] sums of |difference| and of 1 - SSIM
};

int64_t photometric_map_floats(int width, int height);
int photometric_blocks(int width, int height);

void photometric_loss(const PhotometricInputs& in, const PhotometricScratch& scratch, const PhotometricOutputs& out);

}  // namespace distwar::DISTWAR_BACKEND

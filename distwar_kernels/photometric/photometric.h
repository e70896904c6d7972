// The photometric loss's interface (photometric.cu): raw pointers and sizes. Arrays are dense float32 unless said
// otherwise.
#pragma once

#include <cstdint>

#ifndef DISTWAR_BACKEND
#error "compile with -DDISTWAR_BACKEND=cuda: it names the namespace, as for the other ops"
#endif

namespace distwar::DISTWAR_BACKEND {

struct PhotometricInputs {
    const float* image;       // [height, width, 3]
    const uint8_t* target;    // [height, width, 3], or [height, width, 4] with straight alpha
    const float* background;  // [3] that a target with alpha is laid on; null says that the target has none
    int width, height;
    double lambda_dssim;
    void* stream;
};

struct PhotometricOutputs {
    float* loss;     // [1] (1 - lambda_dssim) L1 + lambda_dssim (1 - SSIM)
    float* parts;    // [2] mean L1, mean SSIM
    float* v_image;  // [height, width, 3] dL/dimage
};

// What the first kernel leaves for the second.
struct PhotometricScratch {
    float* maps;      // [3, height, width, 3] derivatives of 1 - SSIM by the window's moments
    float* partials;  // [photometric_blocks(...), 2] sums of |difference| and of 1 - SSIM
};

int photometric_blocks(int width, int height);

void photometric_loss(const PhotometricInputs& in, const PhotometricScratch& scratch, const PhotometricOutputs& out);

}  // namespace distwar::DISTWAR_BACKEND

// The photometric loss's CUDA kernels behind a C function, for tests/emulated_photometric.py.
#include "photometric/photometric.h"

using namespace distwar::cuda;

extern "C" {

int blocks(int width, int height) { return photometric_blocks(width, height); }

struct Call {
    const float* image;
    const uint8_t* target;
    const float* background;
    float *maps, *partials, *loss, *parts, *v_image, *errors;
    int width, height;
    double lambda_dssim;
};

void run(const Call* call) {
    const PhotometricInputs in = {
        call->image, call->target, call->background, call->width, call->height, call->lambda_dssim, 1, nullptr};
    photometric_loss(in, {call->maps, call->partials}, {call->loss, call->parts, call->v_image, call->errors});
}

}  // extern "C"

// The blend op's CUDA kernels behind a C function each, for tests/emulated_cuda.py. (The kernels' files are compiled by
// themselves, as on a GPU.)
#include "blend/blend.h"

using namespace distwar;
using namespace distwar::cuda;

extern "C" {

struct Call {
    const float *means2d, *conics, *colors, *opacities, *backgrounds;
    const bool* masks;
    const int *isect_offsets, *flatten_ids;
    float *colors_out, *transmittances;
    int* last_ids;
    float* splats;
    int* visits;
    const float *v_colors_out, *v_transmittances;
    float *v_means2d, *v_conics, *v_colors, *v_opacities, *v_means2d_abs, *records;
    int64_t* counts;
    const float *errors, *largest;
    int64_t* exact;
    int images, n_isects, width, height, tile_width, tile_height, n_gaussians, channels, strategy, threshold;
};

static BlendInputs inputs_of(const Call& call) {
    BlendInputs in{};
    in.isect_offsets = call.isect_offsets, in.flatten_ids = call.flatten_ids;
    in.images = call.images, in.n_isects = call.n_isects, in.width = call.width, in.height = call.height;
    in.tile_width = call.tile_width, in.tile_height = call.tile_height;
    in.means2d = call.means2d, in.conics = call.conics, in.colors = call.colors, in.opacities = call.opacities;
    in.backgrounds = call.backgrounds, in.masks = call.masks;
    in.n_gaussians = call.n_gaussians, in.channels = call.channels;
    return in;
}

static BlendState state_of(const Call& call) { return {call.transmittances, call.last_ids, call.splats, call.visits}; }

void forward(const Call* call) { blend_forward(inputs_of(*call), state_of(*call), call->colors_out); }

void backward(const Call* call) {
    const BlendGradients grad = {call->v_means2d, call->v_conics, call->v_colors, call->v_opacities,
                                 call->v_means2d_abs};
    const auto strategy = static_cast<Strategy>(call->strategy);
    float* records = sums_in_records(strategy, call->channels) ? call->records : nullptr;
    blend_backward(inputs_of(*call), state_of(*call), {call->v_colors_out, call->v_transmittances}, grad, records,
                   strategy, call->threshold);
}

// Into records, with errors; exactly where there are sums for that.
void to_records(const Call* call) {
    const BlendUpstream upstream = {call->v_colors_out, call->v_transmittances, call->errors};
    const bool absgrad = call->v_means2d_abs != nullptr;
    if (call->exact)
        blend_backward_to_exact_records(inputs_of(*call), state_of(*call), upstream, call->records, absgrad,
                                        reinterpret_cast<long long*>(call->exact), call->largest);
    else
        blend_backward_to_records(inputs_of(*call), state_of(*call), upstream, call->records, absgrad,
                                  static_cast<Strategy>(call->strategy), call->threshold);
}

void traffic(const Call* call) { blend_traffic(inputs_of(*call), state_of(*call), call->counts); }

}  // extern "C"

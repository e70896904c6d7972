// What one pixel carries through the blend's backward walk, farthest Gaussian first.
//
// T is un-blended by division. The colour enters dL/dalpha only through c.v (v = dL/dcolour of the pixel), so one
// running scalar, `behind`, the colour behind the Gaussian as the pixel's loss sees it, replaces a buffer of channels:
//   dL/dalpha = T (c.v - behind),   behind += alpha (c.v - behind)
//
// An error is one more channel of v, in which all colours are 0: it has a part in the sums of weight times v only.
#pragma once

#include "blend_cuda.cuh"

namespace distwar::DISTWAR_BACKEND {

struct Unblended {
    float weight;   // alpha T: dL/dcolour of the Gaussian is this times v
    float v_sigma;  // dL/dsigma
};

template <int kChannels, bool kErrors>
struct BackwardPixel {
    static constexpr int kSums = kChannels + kErrors;  // of weight times v_color
    float v_color[kSums] = {};
    float transmittance = 0.0f, behind = 0.0f;
    int last = -1;  // position of the farthest contributor

    __device__ BackwardPixel(const BlendInputs& in, const BlendState& saved, const BlendUpstream& upstream,
                             const Pixel& pixel) {
        if (!pixel.inside) return;
        const float* background = background_of(in, pixel, kChannels);
        transmittance = saved.transmittances[pixel.index];
        last = saved.last_ids[pixel.index];
        if (upstream.v_transmittances) behind = upstream.v_transmittances[pixel.index];
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
            v_color[k] = upstream.v_colors_out[pixel.index * kChannels + k];
            if (background) behind += background[k] * v_color[k];
        }
        if constexpr (kErrors) v_color[kChannels] = upstream.errors[pixel.index];
    }

    __device__ float4 v_color_padded() const {
        float v[4] = {};
#pragma unroll
        for (int k = 0; k < min(kSums, 4); ++k) v[k] = v_color[k];
        return make_float4(v[0], v[1], v[2], v[3]);
    }

    __device__ float seen(const float* color) const {
        float dot = 0.0f;
#pragma unroll
        for (int k = 0; k < kChannels; ++k) dot += color[k] * v_color[k];
        return dot;
    }

    // Takes off a Gaussian of colour c, seen = c.v; an alpha of 0 changes nothing.
    __device__ Unblended unblend(float alpha, bool capped, float seen) {
        transmittance *= 1.0f / (1.0f - alpha);
        const float weight = alpha * transmittance, ahead = seen - behind;
        behind += alpha * ahead;
        return {weight, capped ? 0.0f : -weight * ahead};  // at the cap alpha is a constant
    }
};

}  // namespace distwar::DISTWAR_BACKEND

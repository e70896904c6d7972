// Soft spheres, forward and backward (after Pulsar, Lassner and Zollhoefer 2021, one of the renderers DISTWAR speeds
// up).
//
// A sphere seen along a ray that passes its centre at distance b has alpha = opacity * (1 - b^2 / radius^2). A pixel
// blends the nearest kSphereFragments spheres that its ray meets and remembers which they were.
//
// In the backward pass each pixel goes through its own short list. So at each step the lanes of a warp add to
// *different* spheres, or to the same one where a sphere covers the patch: the general case of warp_reduce.cuh. The
// blend is the special case, in which a warp visits one Gaussian at a time.
//
// Thread mapping: one block per tile, one thread per pixel; a warp is a patch of 8x4 pixels (tile_threads.cuh).
#include <cuda_runtime.h>

#include "../launch.cuh"
#include "../tiles/tile_threads.cuh"
#include "../warp_reduce.cuh"
#include "../warp_traffic.cuh"
#include "spheres.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr int kRecord = 8;  // colour 3, centre 3, radius, opacity

__device__ float dot(float3 a, float3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

__device__ float3 load3(const float* array, long long index) {
    return make_float3(array[3 * index], array[3 * index + 1], array[3 * index + 2]);
}

// From the camera through a pixel's centre.
struct Ray {
    float3 direction;    // of unit length
    float2 slope, rest;  // x / z and y / z, and what their rounding has left over

    __device__ Ray(const SphereInputs& in, const Pixel& pixel) {
        const float* f = in.intrinsics + 4 * pixel.image;
        const float* c = f + 2;
        divide(pixel.x + 0.5f - c[0], f[0], slope.x, rest.x);
        divide(pixel.y + 0.5f - c[1], f[1], slope.y, rest.y);
        const float scale = rsqrtf(1.0f + slope.x * slope.x + slope.y * slope.y);
        direction = make_float3(slope.x * scale, slope.y * scale, scale);
    }

    // The vector from the ray to a point, perpendicular to the ray. The two are far from the camera and near each
    // other: with plain rounding little would be left of a small distance.
    __device__ float3 offset(float3 point) const {
        const float x = fmaf(-point.z, slope.x, point.x) - point.z * rest.x;
        const float y = fmaf(-point.z, slope.y, point.y) - point.z * rest.y;
        const float along = x * direction.x + y * direction.y;
        return make_float3(x - along * direction.x, y - along * direction.y, -along * direction.z);
    }

   private:
    static __device__ void divide(float a, float b, float& quotient, float& rest) {
        quotient = a / b;
        rest = fmaf(-quotient, b, a) / b;
    }
};

// One sphere seen along one ray.
struct Fragment {
    float3 offset;  // from the ray to the centre, perpendicular to the ray
    float closeness, alpha;
    bool hit;

    __device__ Fragment(const SphereInputs& in, int id, const Ray& ray) {
        const float radius = in.radii[id];
        offset = ray.offset(load3(in.centers, id));
        closeness = 1.0f - dot(offset, offset) / (radius * radius);
        alpha = fminf(kAlphaCap, in.opacities[id] * closeness);
        hit = closeness > 0.0f && alpha >= kAlphaCut;  // false for NaN
    }
};

__global__ void __launch_bounds__(kBlockSize) spheres_forward_kernel(SphereInputs in, SphereOutputs out) {
    const Pixel pixel(in);
    if (!pixel.inside) return;
    const TileRange range(in);
    const Ray ray(in, pixel);

    float transmittance = 1.0f;
    float3 color = make_float3(0.0f, 0.0f, 0.0f);
    int* ids = out.ids + pixel.index * kSphereFragments;
    int count = 0;
    for (int i = range.begin; i < range.end && count < kSphereFragments; ++i) {
        const int id = in.flatten_ids[i];
        const Fragment fragment(in, id, ray);
        if (!fragment.hit) continue;
        const float weight = fragment.alpha * transmittance;
        const float3 c = load3(in.colors, id);
        color = make_float3(color.x + weight * c.x, color.y + weight * c.y, color.z + weight * c.z);
        transmittance *= 1.0f - fragment.alpha;
        ids[count++] = id;
    }
    while (count < kSphereFragments) ids[count++] = -1;
    if (in.backgrounds) {
        const float3 b = load3(in.backgrounds, pixel.image);
        color =
            make_float3(color.x + transmittance * b.x, color.y + transmittance * b.y, color.z + transmittance * b.z);
    }
    float* out_color = out.colors + 3 * pixel.index;
    out_color[0] = color.x, out_color[1] = color.y, out_color[2] = color.z;
    out.transmittances[pixel.index] = transmittance;
}

struct EmitGradients {
    SphereGradients grad;

    __device__ void operator()(int sphere, const float (&record)[kRecord]) const {
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            atomicAdd(grad.v_colors + 3ll * sphere + i, record[i]);
            atomicAdd(grad.v_centers + 3ll * sphere + i, record[3 + i]);
        }
        atomicAdd(grad.v_radii + sphere, record[6]);
        atomicAdd(grad.v_opacities + sphere, record[7]);
    }
};

// What one pixel carries from its farthest fragment to its nearest.
struct BackwardPixel {
    Ray ray;
    float3 v_color;
    int ids[kSphereFragments];
    float before[kSphereFragments];  // transmittance in front of each fragment
    float behind;                    // sum over farther fragments of (c.v) alpha T, and the background's share

    __device__ BackwardPixel(const SphereInputs& in, const SphereUpstream& upstream, const Pixel& pixel)
        : ray(in, pixel), v_color(load3(upstream.v_colors_out, pixel.index)) {
        float transmittance = 1.0f;
#pragma unroll
        for (int k = 0; k < kSphereFragments; ++k) {
            ids[k] = pixel.inside ? upstream.ids[pixel.index * kSphereFragments + k] : -1;
            before[k] = transmittance;
            if (ids[k] >= 0) transmittance *= 1.0f - Fragment(in, ids[k], ray).alpha;
        }
        float v_transmittance = upstream.v_transmittances[pixel.index];
        if (in.backgrounds) v_transmittance += dot(load3(in.backgrounds, pixel.image), v_color);
        behind = transmittance * v_transmittance;
    }

    // Writes the gradients of fragment k from this pixel into `record`.
    __device__ void step(const SphereInputs& in, int id, float before, float (&record)[kRecord]) {
        const Fragment fragment(in, id, ray);
        const float weight = fragment.alpha * before;
        const float color_dot = dot(load3(in.colors, id), v_color);
        const float v_alpha = color_dot * before - behind / (1.0f - fragment.alpha);
        behind += color_dot * weight;
        record[0] = weight * v_color.x, record[1] = weight * v_color.y, record[2] = weight * v_color.z;

        // At the cap alpha is a constant: nothing flows further back.
        const float opacity = in.opacities[id], inverse_radius = 1.0f / in.radii[id];
        const bool capped = opacity * fragment.closeness > kAlphaCap;
        const float v_closeness = capped ? 0.0f : opacity * v_alpha;
        const float v_offset = -2.0f * v_closeness * inverse_radius * inverse_radius;
        record[3] = v_offset * fragment.offset.x;
        record[4] = v_offset * fragment.offset.y;
        record[5] = v_offset * fragment.offset.z;
        record[6] = 2.0f * v_closeness * (1.0f - fragment.closeness) * inverse_radius;
        record[7] = capped ? 0.0f : fragment.closeness * v_alpha;
    }
};

template <class Policy, class Emit>
__global__ void __launch_bounds__(kBlockSize)
    spheres_backward_kernel(SphereInputs in, SphereUpstream upstream, int threshold, Emit emit) {
    const Pixel pixel(in);
    BackwardPixel state(in, upstream, pixel);
#pragma unroll
    for (int k = kSphereFragments - 1; k >= 0; --k) {
        const bool active = state.ids[k] >= 0;
        if (!__any_sync(kFullWarp, active)) {
            Policy::idle(emit);
            continue;
        }
        float record[kRecord];
        if (active) state.step(in, state.ids[k], state.before[k], record);
        Policy::template add<false>(state.ids[k], record, active, threshold, emit);
    }
}

}  // namespace

void spheres_forward(const SphereInputs& in, const SphereOutputs& out) {
    launch(spheres_forward_kernel, in.tiles(), kBlockSize, in.stream, in, out);
}

void spheres_backward(const SphereInputs& in, const SphereUpstream& upstream, const SphereGradients& grad,
                      Strategy strategy, int threshold) {
    const auto kernel = strategy == Strategy::kAtomic       ? spheres_backward_kernel<Atomic, EmitGradients>
                        : strategy == Strategy::kSerialized ? spheres_backward_kernel<Serialized, EmitGradients>
                                                            : spheres_backward_kernel<Butterfly, EmitGradients>;
    launch(kernel, in.tiles(), kBlockSize, in.stream, in, upstream, threshold, EmitGradients{grad});
}

void spheres_traffic(const SphereInputs& in, const SphereUpstream& upstream, int64_t* counts) {
    const TrafficTally tally{reinterpret_cast<unsigned long long*>(counts)};
    launch(spheres_backward_kernel<CountTraffic, TrafficTally>, in.tiles(), kBlockSize, in.stream, in, upstream, 0,
           tally);
}

}  // namespace distwar::DISTWAR_BACKEND

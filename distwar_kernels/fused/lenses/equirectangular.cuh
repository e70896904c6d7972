// A panorama of all directions (projection/lenses/equirectangular.py): longitude across, latitude down.
#pragma once

#include "../vectors.cuh"

namespace distwar::cuda {

struct Equirectangular {
    static constexpr bool kAlongRay = true;
    const float* numbers;  // fx, fy, cx, cy

    // How many pixels it is around.
    __device__ float period() const { return 6.2831853f * __ldg(numbers); }

    __device__ bool sees(Vec3 p) const {
        const float aside = p.x * p.x + p.z * p.z;
        return aside > kPole * kPole * (aside + p.y * p.y);
    }

    __device__ float2 project(Vec3 p) const {
        return {__ldg(numbers) * atan2f(p.x, p.z) + __ldg(numbers + 2),
                __ldg(numbers + 1) * atan2f(p.y, sqrtf(p.x * p.x + p.z * p.z)) + __ldg(numbers + 3)};
    }

    __device__ Rows2 jacobian(Vec3 p) const {
        const Polar at(p, __ldg(numbers + 1));
        const float across = __ldg(numbers) / at.kept, down = __ldg(numbers + 1) * at.inverse_square;
        return {{across * at.z, 0.0f, -across * at.x}, {-down * p.y * at.x, down * at.rho, -down * p.y * at.z}};
    }

    // The Jacobian of an angle is its gradient, so what its own derivative adds is the angle's second derivative times
    // v.
    __device__ Vec3 vjp(Vec3 p, float2 v_pixel, const Rows2& v_j) const {
        const Polar at(p, __ldg(numbers + 1));
        const float fx = __ldg(numbers), fy = __ldg(numbers + 1), inverse_rho = 1.0f / at.rho;
        const float v_longitude = fx * v_pixel.x * inverse_rho, v_latitude = fy * v_pixel.y * at.inverse_square;
        Vec3 v = {v_longitude * at.z - v_latitude * p.y * at.x, v_latitude * at.rho,
                  -v_longitude * at.x - v_latitude * p.y * at.z};
        if (at.rho < at.kept) return v;
        const float twist = fx * inverse_rho * inverse_rho, mixed = 2.0f * at.x * at.z,
                    even = at.x * at.x - at.z * at.z;
        v.x += twist * (-mixed * v_j.first.x + even * v_j.first.z);
        v.z += twist * (even * v_j.first.x + mixed * v_j.first.z);
        // Of the latitude, by rho and y.
        const Vec3 w = fy * v_j.second;
        const float fourth = at.inverse_square * at.inverse_square, out = at.x * w.x + at.z * w.z;
        const float by_rho = 2.0f * p.y * at.rho * fourth, by_both = (p.y * p.y - at.rho * at.rho) * fourth;
        const float around = -p.y * at.inverse_square * inverse_rho;
        const float along = (by_rho - around) * out + by_both * w.y;
        v.x += at.x * along + around * w.x;
        v.y += by_both * out - by_rho * w.y;
        v.z += at.z * along + around * w.z;
        return v;
    }

   private:
    static constexpr float kPole = 1e-6f;  // as in equirectangular.py

    struct Polar {
        float rho, kept;  // distance from the axis through the poles; the same, at least half a row of pixels from them
        float x, z;       // over rho
        float inverse_square;

        __device__ Polar(Vec3 p, float fy) {
            const float square = dot(p, p);
            rho = sqrtf(p.x * p.x + p.z * p.z);
            kept = fmaxf(rho, sqrtf(square) * 0.5f / fy);
            x = p.x / rho, z = p.z / rho, inverse_square = 1.0f / square;
        }
    };
};

}  // namespace distwar::cuda

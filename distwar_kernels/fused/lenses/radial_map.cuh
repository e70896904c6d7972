// Lenses that move a point straight away from the axis: q = g(rho, z) (x, y), rho = |(x, y)|. What each of them says is
// g and its derivatives; what follows from these is here.
#pragma once

#include "distortion.cuh"

namespace distwar::cuda {

struct RadialMap {
    float g;      // the factor
    float h;      // dg/drho / rho
    float g_z;    // dg/dz
    float h_rho;  // dh/drho / rho
    float h_z;    // dh/dz, which is (d g_z / drho) / rho
    float g_zz;

    // dq/d(point).
    __device__ Rows2 jacobian(Vec3 p) const {
        return {{g + h * p.x * p.x, h * p.x * p.y, g_z * p.x}, {h * p.x * p.y, g + h * p.y * p.y, g_z * p.y}};
    }

    // dL/d(point) from dL/dq and dL/d(jacobian).
    __device__ Vec3 vjp(Vec3 p, float2 v_q, const Rows2& v) const {
        const float trace = v.first.x + v.second.y, out = p.x * v_q.x + p.y * v_q.y;
        const float vx = v.first.x * p.x + v.first.y * p.y, vy = v.second.x * p.x + v.second.y * p.y;  // v p
        const float wx = v.first.x * p.x + v.second.x * p.y, wy = v.first.y * p.x + v.second.y * p.y;  // v^T p
        const float both = p.x * vx + p.y * vy, depth = p.x * v.first.z + p.y * v.second.z;
        const float along = h * (out + trace) + h_rho * both + h_z * depth;
        return {g * v_q.x + along * p.x + h * (vx + wx) + g_z * v.first.z,
                g * v_q.y + along * p.y + h * (vy + wy) + g_z * v.second.z,
                g_z * (out + trace) + h_z * both + g_zz * depth};
    }
};

}  // namespace distwar::cuda

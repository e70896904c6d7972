// Vectors of three and matrices, for one thread.
#pragma once

#include <cuda_runtime.h>

#include "../constants.h"

namespace distwar::cuda {

struct Vec3 {
    float x, y, z;
};
__device__ inline Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
__device__ inline Vec3 operator*(float s, Vec3 a) { return {s * a.x, s * a.y, s * a.z}; }
__device__ inline float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

// Rows of a 3x3 matrix.
struct Mat3 {
    Vec3 rows[3];
    __device__ Vec3 times(Vec3 v) const { return {dot(rows[0], v), dot(rows[1], v), dot(rows[2], v)}; }
    __device__ Vec3 transposed_times(Vec3 v) const { return v.x * rows[0] + (v.y * rows[1] + v.z * rows[2]); }
};

// Rows of a 2x3 matrix.
struct Rows2 {
    Vec3 first, second;
};

}  // namespace distwar::cuda

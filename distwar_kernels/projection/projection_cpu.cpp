// Gaussians through pinhole cameras on the CPU, and the way back: the mathematics of projection_torch.py for one
// Gaussian after another, with nothing kept in between. Autograd would go through memory some hundred times.
//
//   covariance2d = A A^T + blur,  A = J W M,  M = R(q) diag(s),  W the camera's rotation, J the lens's Jacobian
#include <algorithm>
#include <cmath>

#include "../constants.h"
#include "projection.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

struct Vec3 {
    float x, y, z;
};
Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
Vec3 operator*(float s, Vec3 a) { return {s * a.x, s * a.y, s * a.z}; }
Vec3 times(Vec3 a, Vec3 b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }  // number by number
float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
Vec3 vec3(const float* numbers) { return {numbers[0], numbers[1], numbers[2]}; }
void store(Vec3 v, float* numbers) { numbers[0] = v.x, numbers[1] = v.y, numbers[2] = v.z; }

struct Mat3 {
    Vec3 rows[3];
    Vec3 apply(Vec3 v) const { return {dot(rows[0], v), dot(rows[1], v), dot(rows[2], v)}; }
    Vec3 apply_transposed(Vec3 v) const { return v.x * rows[0] + (v.y * rows[1] + v.z * rows[2]); }
};

// A quaternion at length 1.
struct Rotation {
    float w, x, y, z, inverse_length;

    explicit Rotation(const float* q) {
        const float length = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
        inverse_length = 1.0f / std::max(length, 1e-12f);
        w = q[0] * inverse_length, x = q[1] * inverse_length, y = q[2] * inverse_length, z = q[3] * inverse_length;
    }

    Mat3 matrix() const {
        return {{{1.0f - 2.0f * (y * y + z * z), 2.0f * (x * y - w * z), 2.0f * (x * z + w * y)},
                 {2.0f * (x * y + w * z), 1.0f - 2.0f * (x * x + z * z), 2.0f * (y * z - w * x)},
                 {2.0f * (x * z - w * y), 2.0f * (y * z + w * x), 1.0f - 2.0f * (x * x + y * y)}}};
    }

    // Adds dL/dq, of the quaternion as it was, given dL/d(matrix).
    void add_gradient(const Mat3& v, float* v_quat) const {
        const auto [a, b, c] = v.rows;
        const float v_w = 2.0f * (x * (c.y - b.z) + y * (a.z - c.x) + z * (b.x - a.y));
        const float v_x = 2.0f * (y * (a.y + b.x) + z * (a.z + c.x) + w * (c.y - b.z) - 2.0f * x * (b.y + c.z));
        const float v_y = 2.0f * (x * (a.y + b.x) + z * (b.z + c.y) + w * (a.z - c.x) - 2.0f * y * (a.x + c.z));
        const float v_z = 2.0f * (x * (a.z + c.x) + y * (b.z + c.y) + w * (b.x - a.y) - 2.0f * z * (a.x + b.y));
        const float along = w * v_w + x * v_x + y * v_y + z * v_z;
        v_quat[0] += inverse_length * (v_w - along * w), v_quat[1] += inverse_length * (v_x - along * x);
        v_quat[2] += inverse_length * (v_y - along * y), v_quat[3] += inverse_length * (v_z - along * z);
    }
};

struct Clamped {
    float value;
    bool free;
    Clamped(float x, float low, float high) : value(std::min(std::max(x, low), high)), free(x >= low && x <= high) {}
};

// A camera's pose and lens. pixel = f (x, y) / z + c; J = f / z (1, -t), t = (x, y) / z clamped as in
// lenses/pinhole.py.
struct Pinhole {
    Mat3 rotation;
    Vec3 translation;
    float fx, fy, cx, cy;
    int width, height;

    Pinhole(const Cameras& cameras, int index) : width(cameras.width), height(cameras.height) {
        const float *m = cameras.viewmats + 16 * index, *k = cameras.intrinsics + 4 * index;
        rotation = {{vec3(m), vec3(m + 4), vec3(m + 8)}};
        translation = {m[3], m[7], m[11]};
        fx = k[0], fy = k[1], cx = k[2], cy = k[3];
    }
    Vec3 to_camera(Vec3 mean) const { return rotation.apply(mean) + translation; }
    Clamped tx(Vec3 p) const { return bounded(p.x / p.z, fx, cx, width); }
    Clamped ty(Vec3 p) const { return bounded(p.y / p.z, fy, cy, height); }

   private:
    static Clamped bounded(float tangent, float focal, float center, int size) {
        const float margin = kFrustumMargin * 0.5f * size / focal;
        return {tangent, -(center / focal + margin), (size - center) / focal + margin};
    }
};

// A Gaussian in front of a camera.
struct Projected {
    Vec3 p, scale;  // in camera axes; standard deviations
    Rotation rotation;
    Mat3 axes;  // R(q)
    Clamped tx, ty;
    float jx, jy;      // f / z
    Vec3 t0, t1;       // rows of J W
    Vec3 a0, a1;       // rows of A
    float xx, xy, yy;  // covariance, blurred
    double determinant, exact_determinant;

    Projected(const ProjectionInputs& in, const Pinhole& camera, int g, Vec3 p)
        : p(p),
          scale(vec3(in.scales + 3 * g)),
          rotation(in.quats + 4 * g),
          axes(rotation.matrix()),
          tx(camera.tx(p)),
          ty(camera.ty(p)),
          jx(camera.fx / p.z),
          jy(camera.fy / p.z) {
        const Vec3* w = camera.rotation.rows;
        t0 = jx * (w[0] + -tx.value * w[2]), t1 = jy * (w[1] + -ty.value * w[2]);
        a0 = times(axes.apply_transposed(t0), scale), a1 = times(axes.apply_transposed(t1), scale);
        const float exact_xx = dot(a0, a0), exact_yy = dot(a1, a1);
        xy = dot(a0, a1), xx = exact_xx + kBlur, yy = exact_yy + kBlur;
        determinant = double(xx) * yy - double(xy) * xy;
        exact_determinant = double(exact_xx) * exact_yy - double(xy) * xy;
    }

    static constexpr double kLeastRatio = 1e-12;  // keeps the slope of the root finite
    double ratio() const { return std::max(exact_determinant / determinant, kLeastRatio); }
};

struct Visible {
    float means2d[2], conic[3], compensation;
    int radii[2];
};

bool all_finite(const float* numbers, int count) {
    float probe = 0.0f;  // 0 * x is 0 for finite numbers and NaN for the others
    for (int i = 0; i < count; ++i) probe += 0.0f * numbers[i];
    return probe == 0.0f;
}

bool is_whole(const ProjectionInputs& in, int g) {
    return all_finite(in.means + 3 * g, 3) && all_finite(in.quats + 4 * g, 4) && all_finite(in.scales + 3 * g, 3);
}

bool is_in_depth(const ProjectionInputs& in, float z) { return z >= in.near_plane && z <= in.far_plane; }

// The box in which alpha can reach 1/255; false where that is nowhere in the image.
bool reaches(const ProjectionInputs& in, const Projected& g, float opacity, Visible& seen) {
    const float visible = opacity * seen.compensation;
    if (!(visible >= kAlphaCut)) return false;
    const float extent = std::min(std::sqrt(2.0f * std::log(visible / kAlphaCut)), kExtent);
    const float variances[2] = {g.xx, g.yy}, sizes[2] = {float(in.cameras.width), float(in.cameras.height)};
    for (int i = 0; i < 2; ++i) {
        const float half = std::ceil(extent * std::sqrt(variances[i]));
        if (!(seen.means2d[i] + half > 0.0f && seen.means2d[i] - half < sizes[i])) return false;
        seen.radii[i] = static_cast<int>(std::min(half, 0x1p30f));
    }
    return seen.radii[0] > 0 && seen.radii[1] > 0;
}

bool is_visible(const ProjectionInputs& in, const Pinhole& camera, const Projected& g, float opacity, Visible& seen) {
    if (!(g.determinant > 0.0)) return false;
    const double inverse = 1.0 / g.determinant;
    seen.means2d[0] = camera.fx * g.p.x / g.p.z + camera.cx, seen.means2d[1] = camera.fy * g.p.y / g.p.z + camera.cy;
    seen.conic[0] = g.yy * inverse, seen.conic[1] = -g.xy * inverse, seen.conic[2] = g.xx * inverse;
    seen.compensation = in.antialiased ? std::sqrt(g.ratio()) : 1.0;
    return all_finite(seen.means2d, 2) && all_finite(seen.conic, 3) && reaches(in, g, opacity, seen);
}

// ----------------------------------------------------------------------------------------------------- backward

// dL/d(covariance) from dL/d(conic) = (xx, xy, yy) and dL/d(compensation); [1] is half of what both places of xy get.
struct CovarianceGradient {
    float xx, xy, yy;

    CovarianceGradient(const Projected& g, const float* v_conic, float v_compensation, bool antialiased) {
        // -conic V conic, V the symmetric matrix of dL/d(conic).
        const float inverse = 1.0 / g.determinant, p = g.yy * inverse, q = -g.xy * inverse, r = g.xx * inverse;
        const float half = 0.5f * v_conic[1];
        const float m00 = v_conic[0] * p + half * q, m01 = v_conic[0] * q + half * r;
        const float m10 = half * p + v_conic[2] * q, m11 = half * q + v_conic[2] * r;
        xx = -(p * m00 + q * m10), xy = -(p * m01 + q * m11), yy = -(q * m01 + r * m11);
        if (!antialiased || g.exact_determinant <= Projected::kLeastRatio * g.determinant) return;
        const float ratio = g.ratio(), v_ratio = v_compensation * 0.5f / std::sqrt(ratio) * inverse;
        xx += v_ratio * ((g.yy - kBlur) - ratio * g.yy);
        yy += v_ratio * ((g.xx - kBlur) - ratio * g.xx);
        xy += v_ratio * (ratio - 1.0f) * g.xy;
    }
};

// dL/d(point in camera axes), from dL/d(pixel) and dL/dJ (its rows).
Vec3 through_lens(const Projected& g, const float* v_pixel, Vec3 v_j0, Vec3 v_j1) {
    const float inverse_z = 1.0f / g.p.z;
    Vec3 v = {g.jx * v_pixel[0], g.jy * v_pixel[1], 0.0f};
    v.z = -inverse_z * (g.p.x * v.x + g.p.y * v.y);
    v.z -= inverse_z * (g.jx * (v_j0.x - g.tx.value * v_j0.z) + g.jy * (v_j1.y - g.ty.value * v_j1.z));
    const float v_tx = g.tx.free ? -g.jx * v_j0.z * inverse_z : 0.0f;
    const float v_ty = g.ty.free ? -g.jy * v_j1.z * inverse_z : 0.0f;
    return v + Vec3{v_tx, v_ty, -inverse_z * (g.p.x * v_tx + g.p.y * v_ty)};
}

struct Gradient {
    Vec3 mean = {}, scale = {};
    float quat[4] = {};

    void add(const Projected& g, const Pinhole& camera, const CovarianceGradient& v, const float* v_pixel,
             float v_depth) {
        const Vec3 v_a0 = 2.0f * (v.xx * g.a0 + v.xy * g.a1), v_a1 = 2.0f * (v.xy * g.a0 + v.yy * g.a1);
        const float t0[3] = {g.t0.x, g.t0.y, g.t0.z}, t1[3] = {g.t1.x, g.t1.y, g.t1.z};
        Mat3 v_axes;  // A = T M, M = R diag(s)
        for (int i = 0; i < 3; ++i) {
            const Vec3 v_m = t0[i] * v_a0 + t1[i] * v_a1;
            scale = scale + times(g.axes.rows[i], v_m);
            v_axes.rows[i] = times(v_m, g.scale);
        }
        g.rotation.add_gradient(v_axes, quat);
        const Vec3 v_t0 = g.axes.apply(times(v_a0, g.scale)), v_t1 = g.axes.apply(times(v_a1, g.scale));
        // T = J W
        Vec3 v_p = through_lens(g, v_pixel, camera.rotation.apply(v_t0), camera.rotation.apply(v_t1));
        v_p.z += v_depth;
        mean = mean + camera.rotation.apply_transposed(v_p);
    }
};

}  // namespace

void project(const ProjectionInputs& in, const ProjectionOutputs& out) {
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int64_t i = 0; i < int64_t(in.cameras.count) * in.gaussians; ++i) {
        const int g = i % in.gaussians;
        const Pinhole camera(in.cameras, i / in.gaussians);
        const bool whole = is_whole(in, g);
        const Vec3 p = whole ? camera.to_camera(vec3(in.means + 3 * g)) : camera.translation;
        Visible seen = {};
        if (!whole || !is_in_depth(in, p.z) ||
            !is_visible(in, camera, Projected(in, camera, g, p), in.opacities[g], seen))
            seen = {};
        out.depths[i] = p.z, out.compensations[i] = seen.compensation;
        std::copy_n(seen.radii, 2, out.radii + 2 * i);
        std::copy_n(seen.means2d, 2, out.means2d + 2 * i);
        std::copy_n(seen.conic, 3, out.conics + 3 * i);
    }
}

void project_backward(const ProjectionInputs& in, const ProjectionUpstream& up, const ProjectionGradients& grad) {
#pragma omp parallel for num_threads(in.threads) schedule(static)
    for (int g = 0; g < in.gaussians; ++g) {
        Gradient sum;
        for (int c = 0; c < in.cameras.count && is_whole(in, g); ++c) {
            const Pinhole camera(in.cameras, c);
            const int64_t i = int64_t(c) * in.gaussians + g;
            const Vec3 p = camera.to_camera(vec3(in.means + 3 * g));
            Visible seen = {};
            if (!is_in_depth(in, p.z)) continue;
            const Projected at(in, camera, g, p);
            if (!is_visible(in, camera, at, in.opacities[g], seen)) continue;
            const CovarianceGradient v(at, up.v_conics + 3 * i, up.v_compensations[i], in.antialiased);
            sum.add(at, camera, v, up.v_means2d + 2 * i, up.v_depths[i]);
        }
        store(sum.mean, grad.v_means + 3 * g);
        store(sum.scale, grad.v_scales + 3 * g);
        std::copy_n(sum.quat, 4, grad.v_quats + 4 * g);
    }
}

}  // namespace distwar::DISTWAR_BACKEND

// L1 + D-SSIM and its gradient on the CPU: the mathematics of photometric.cu, a row of the image at a time.
//
// Thread mapping: rows, in equal parts. A row is 3 W floats, a channel's neighbours are 3 apart, so channels need no
// planes, and every loop runs over neighbouring floats as wide as the machine can. The blur is separable: columns
// first, straight from the rows around, then along the row.
//
// It keeps s = x + y - 1 and d = x - y of all pixels and three maps of derivatives, with margins as wide as the
// window's radius, so that no loop asks where the image ends. Sums are made by row, and of rows in order: results are
// bit-equal from run to run, whatever the number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "photometric.h"

namespace distwar::DISTWAR_BACKEND {
namespace {

constexpr int kChannels = 3;
constexpr int kMargin = kChannels * kSsimRadius;  // floats beside a row
constexpr float kWhite = std::numeric_limits<uint8_t>::max();

// Rows of 3 W floats with margins beside them; what is above and below the image is one row that all of it shares.
class Map {
   public:
    Map(int width, int height, float outside)
        : height_(height),
          pitch_(kChannels * width + 2 * kMargin),
          values_(static_cast<size_t>(height) * pitch_, outside),
          outside_(pitch_, outside) {}

    // From the margin's first float on.
    float* wide(int row) { return values_.data() + static_cast<size_t>(row) * pitch_; }
    const float* wide(int row) const {
        const bool inside = row >= 0 && row < height_;
        return inside ? values_.data() + static_cast<size_t>(row) * pitch_ : outside_.data();
    }
    float* row(int row) { return wide(row) + kMargin; }
    const float* row(int row) const { return wide(row) + kMargin; }
    int pitch() const { return pitch_; }

   private:
    int height_, pitch_;
    std::vector<float> values_, outside_;
};

// The photo's row as floats. Products and sums in loops of their own, or the compiler would fuse them: then a photo
// that equals the render would not be found equal.
void load_photo(const PhotometricInputs& in, int row, float* photo, float* behind) {
    const int64_t first = static_cast<int64_t>(row) * in.width;
    if (!in.background) {
        const uint8_t* bytes = in.target + kChannels * first;
        for (int i = 0; i < kChannels * in.width; ++i) photo[i] = bytes[i] / kWhite;
        return;
    }
    const uint8_t* bytes = in.target + (kChannels + 1) * first;
    for (int x = 0; x < in.width; ++x) {
        const float alpha = bytes[4 * x + 3] / kWhite;
        for (int k = 0; k < kChannels; ++k) {
            photo[kChannels * x + k] = bytes[4 * x + k] / kWhite * alpha;
            behind[kChannels * x + k] = in.background[k] * (1.0f - alpha);
        }
    }
    for (int i = 0; i < kChannels * in.width; ++i) photo[i] += behind[i];
}

// Along the row: `blurred` has 3 W floats, `wide` margins on both sides.
void blur_row(const float* __restrict__ wide, float* __restrict__ blurred, int floats) {
#pragma omp simd
    for (int i = 0; i < floats; ++i) {
        const float* middle = wide + i + kMargin;
        float sum = ssim_window(0) * middle[0];
        for (int tap = 1; tap <= kSsimRadius; ++tap)
            sum += ssim_window(tap) * (middle[kChannels * tap] + middle[-kChannels * tap]);
        blurred[i] = sum;
    }
}

// What a thread needs of one row.
struct Line {
    std::vector<float> wide[4], blurred[4];

    Line(int pitch) {
        for (auto& row : wide) row.resize(pitch);
        for (auto& row : blurred) row.resize(pitch - 2 * kMargin);
    }
    void blur_rows(int count, int floats) {
        for (int m = 0; m < count; ++m) blur_row(wide[m].data(), blurred[m].data(), floats);
    }
};

// The window's moments of s and d around a row: means of s, d, s^2, d^2.
void moments(const Map& sums, const Map& differences, int row, Line& line, int floats) {
    float* __restrict__ by_s = line.wide[0].data(), * __restrict__ by_d = line.wide[1].data();
    float* __restrict__ by_ss = line.wide[2].data(), * __restrict__ by_dd = line.wide[3].data();
    const float *s[kSsimTaps], *d[kSsimTaps];
    for (int tap = 0; tap < kSsimTaps; ++tap) {
        s[tap] = sums.wide(row + tap - kSsimRadius);
        d[tap] = differences.wide(row + tap - kSsimRadius);
    }
#pragma omp simd
    for (int i = 0; i < sums.pitch(); ++i) {
        float mean_s = 0.0f, mean_d = 0.0f, mean_ss = 0.0f, mean_dd = 0.0f;
        for (int tap = 0; tap < kSsimTaps; ++tap) {
            const float weight = ssim_window(tap - kSsimRadius), a = s[tap][i], b = d[tap][i];
            mean_s += weight * a, mean_d += weight * b, mean_ss += weight * (a * a), mean_dd += weight * (b * b);
        }
        by_s[i] = mean_s, by_d[i] = mean_d, by_ss[i] = mean_ss, by_dd[i] = mean_dd;
    }
    line.blur_rows(4, floats);
}

// The mean of |d| over the channels of each pixel of a row.
void mean_errors(const float* __restrict__ d, float* __restrict__ errors, int width) {
    for (int x = 0; x < width; ++x) {
        const float* pixel = d + kChannels * x;
        errors[x] = (std::fabs(pixel[0]) + std::fabs(pixel[1]) + std::fabs(pixel[2])) * (1.0f / kChannels);
    }
}

// D = 1 - SSIM of a row, summed, and its derivatives by the moments: as Compare::finish of photometric.cu.
float compare_row(const Line& line, float* __restrict__ by_mean, float* __restrict__ by_dd, float* __restrict__ by_ss,
                  int floats) {
    const float* __restrict__ mean_s = line.blurred[0].data(), * __restrict__ mean_d = line.blurred[1].data();
    const float* __restrict__ mean_ss = line.blurred[2].data(), * __restrict__ mean_dd = line.blurred[3].data();
    float dissimilarity = 0.0f;
#pragma omp simd reduction(+ : dissimilarity)
    for (int i = 0; i < floats; ++i) {
        const float s = mean_s[i], d = mean_d[i], s_whole = s + 1.0f, d_squared = d * d;
        const float var_s = mean_ss[i] - s * s, var_d = mean_dd[i] - d_squared;
        const float by_luminance = 1.0f / (0.5f * (s_whole * s_whole + d_squared) + kSsimC1);
        const float by_contrast = 1.0f / (0.5f * (var_s + var_d) + kSsimC2);
        const float a = d_squared * by_luminance, b = var_d * by_contrast;
        const float scale = (a - 1.0f) * by_contrast;
        const float v_ss = scale * b, v_dd = v_ss - 2.0f * scale, by_a = by_luminance - b * by_luminance;
        by_mean[i] = by_a * (2.0f * d - a * (s_whole + d)) - d * v_dd - s * v_ss;
        by_dd[i] = v_dd, by_ss[i] = v_ss;
        dissimilarity += a - b * (a - 1.0f);
    }
    return dissimilarity;
}

// Blurs a row of one map of derivatives.
void blur_around(const Map& map, int row, std::vector<float>& wide, std::vector<float>& blurred, int floats) {
    float* __restrict__ out = wide.data();
    const float* rows[kSsimTaps];
    for (int tap = 0; tap < kSsimTaps; ++tap) rows[tap] = map.wide(row + tap - kSsimRadius);
#pragma omp simd
    for (int i = 0; i < map.pitch(); ++i) {
        float sum = 0.0f;
        for (int tap = 0; tap < kSsimTaps; ++tap) sum += ssim_window(tap - kSsimRadius) * rows[tap][i];
        out[i] = sum;
    }
    blur_row(wide.data(), blurred.data(), floats);
}

}  // namespace

int photometric_blocks(int, int height) { return height; }

int64_t photometric_map_floats(int, int) { return 0; }  // they have margins here, and are made below

void photometric_loss(const PhotometricInputs& in, const PhotometricScratch& scratch, const PhotometricOutputs& out) {
    const int floats = kChannels * in.width, height = in.height;
    const double per_number = 1.0 / (static_cast<double>(floats) * height);
    const float l1_scale = static_cast<float>((1.0 - in.lambda_dssim) * per_number);
    const float dssim_scale = static_cast<float>(in.lambda_dssim * per_number);
    Map sums(in.width, height, -1.0f), differences(in.width, height, 0.0f);  // outside of the image both are black
    Map by_mean(in.width, height, 0.0f), by_dd(in.width, height, 0.0f), by_ss(in.width, height, 0.0f);
#pragma omp parallel num_threads(in.threads)
    {
        Line line(sums.pitch());
#pragma omp for schedule(static)
        for (int row = 0; row < height; ++row) {
            float* __restrict__ photo = line.wide[0].data(), *s = sums.row(row), *d = differences.row(row);
            load_photo(in, row, photo, line.wide[1].data());
            const float* __restrict__ image = in.image + static_cast<int64_t>(row) * floats;
            float difference = 0.0f;
#pragma omp simd reduction(+ : difference)
            for (int i = 0; i < floats; ++i) {
                s[i] = image[i] + (photo[i] - 1.0f), d[i] = image[i] - photo[i];
                difference += std::fabs(d[i]);
            }
            scratch.partials[2 * row] = difference;
            if (out.errors) mean_errors(d, out.errors + static_cast<int64_t>(row) * in.width, in.width);
        }
#pragma omp for schedule(static)
        for (int row = 0; row < height; ++row) {
            moments(sums, differences, row, line, floats);
            scratch.partials[2 * row + 1] = compare_row(line, by_mean.row(row), by_dd.row(row), by_ss.row(row), floats);
        }
#pragma omp for schedule(static)
        for (int row = 0; row < height; ++row) {
            const Map* maps[] = {&by_mean, &by_dd, &by_ss};
            for (int m = 0; m < 3; ++m) blur_around(*maps[m], row, line.wide[m], line.blurred[m], floats);
            const float* __restrict__ mean = line.blurred[0].data(), * __restrict__ dd = line.blurred[1].data();
            const float* __restrict__ ss = line.blurred[2].data(), *s = sums.row(row), *d = differences.row(row);
            float* __restrict__ v_image = out.v_image + static_cast<int64_t>(row) * floats;
#pragma omp simd
            for (int i = 0; i < floats; ++i) {
                const float sign = d[i] == 0.0f ? 0.0f : std::copysign(l1_scale, d[i]);
                v_image[i] = sign + dssim_scale * (mean[i] + d[i] * dd[i] + s[i] * ss[i]);
            }
        }
    }
    double l1 = 0.0, dssim = 0.0;
    for (int row = 0; row < height; ++row) l1 += scratch.partials[2 * row], dssim += scratch.partials[2 * row + 1];
    l1 *= per_number, dssim *= per_number;
    out.parts[0] = static_cast<float>(l1), out.parts[1] = static_cast<float>(1.0 - dssim);
    *out.loss = static_cast<float>((1.0 - in.lambda_dssim) * l1 + in.lambda_dssim * dssim);
}

}  // namespace distwar::DISTWAR_BACKEND

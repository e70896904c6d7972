// The constants of the splatting model, named once: CUDA and C++ include this file, Python parses it (constants.py).
// The blend's equal gsplat 1.5.3's, so that images agree.
#pragma once

#ifdef __CUDACC__
#define DISTWAR_ON_BOTH __host__ __device__
#else
#define DISTWAR_ON_BOTH
#endif

namespace distwar {

constexpr int kTileSize = 16;   // pixels along a tile's edge
constexpr int kPatchWidth = 8;  // a backward warp covers kPatchWidth x kPatchHeight pixels
constexpr int kPatchHeight = 4;
constexpr int kWarpSize = 32;
constexpr int kPatchesPerTile = 8;            // kTileSize * kTileSize / kWarpSize
constexpr float kAlphaCut = 1.0f / 255.0f;    // a fainter contribution is skipped
constexpr float kAlphaCap = 0.999f;           // so that 1 - alpha stays invertible in the backward pass
constexpr float kTransmittanceCut = 1.0e-4f;  // a pixel this opaque is finished
constexpr float kBlur = 0.3f;                 // px^2 added to the projected covariance's diagonal
constexpr float kExtent = 3.33f;              // standard deviations until alpha < 1/255 at opacity 1
constexpr float kFrustumMargin = 0.3f;        // of tan(fov / 2): the Jacobian is clamped that far outside the image
constexpr int kSphereFragments = 8;           // spheres a pixel blends; those behind them are not seen
constexpr int kSplatFloats = 12;              // of a Gaussian, or its gradient, packed for the CUDA kernels
constexpr float kHarmonic0 = 0.28209479177387814f;  // 1 / (2 sqrt(pi)), the spherical harmonic of degree 0
constexpr int kSsimRadius = 5;                      // pixels that SSIM's window reaches: 11x11
constexpr float kSsimSigma = 1.5f;                  // its standard deviation, pixels
constexpr float kSsimC1 = 1.0e-4f;                  // (0.01, 0.03)^2 as Wang et al. 2004 chose them
constexpr float kSsimC2 = 9.0e-4f;
constexpr float kGateSteepness = 100.0f;  // MCMC's noise is scaled by sigmoid(steepness (kGateOpacity - opacity))
constexpr float kGateOpacity = 0.005f;
constexpr int kMaxChannels = 32;  // colour channels blended in one pass; more go in several

}  // namespace distwar

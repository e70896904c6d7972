// What the ops' bindings share: checks of tensors, names of strategies.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>
#include <optional>
#include <string>

#include "backend.h"
#include "strategy.h"

namespace distwar::DISTWAR_BACKEND {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Messages are put together from strings, not by streams: printing a number through a stream crashes where a toolchain
// links the C++ library into every shared object (seen on a machine whose compiler has no shared one).
inline std::string text(const std::string& part) { return part; }
inline std::string text(int64_t part) { return std::to_string(part); }
inline std::string text(c10::Device part) { return part.str(); }
inline std::string text(at::ScalarType part) { return c10::toString(part); }
inline std::string text(at::IntArrayRef part) {
    std::string sizes;
    for (const int64_t size : part) sizes += (sizes.empty() ? "[" : ", ") + std::to_string(size);
    return sizes.empty() ? "[]" : sizes + "]";
}

template <class... Parts>
std::string message(const Parts&... parts) {
    return (std::string() + ... + text(parts));
}

template <class T>
const T* data_or_null(const OptionalTensor& tensor) {
    return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

// Raises unless the tensor is dense, of this type, on the device of `like` and of this last size (any if negative).
inline void check(const Tensor& tensor, const char* name, at::ScalarType type, int64_t last_size, const Tensor& like) {
    TORCH_CHECK(tensor.device() == like.device(),
                message(name, " is on ", tensor.device(), ", another tensor on ", like.device()));
    TORCH_CHECK(tensor.scalar_type() == type, message(name, " must be ", type, ", not ", tensor.scalar_type()));
    TORCH_CHECK(tensor.is_contiguous(), message(name, " must be contiguous"));
    TORCH_CHECK(last_size < 0 || tensor.size(-1) == last_size,
                message(name, " must have last size ", last_size, ", not ", tensor.sizes()));
}

// How many Gaussians these are: means [N, 3], quats [N, 4], scales [N, 3] and opacities [N]. Raises where they
// disagree.
inline int checked_count(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities) {
    check(means, "means", at::kFloat, 3, means);
    check(quats, "quats", at::kFloat, 4, means);
    check(scales, "scales", at::kFloat, 3, means);
    check(opacities, "opacities", at::kFloat, -1, means);
    const int64_t count = opacities.numel();
    TORCH_CHECK(means.numel() == 3 * count && quats.numel() == 4 * count && scales.numel() == 3 * count,
                "means, quats, scales and opacities are not of as many Gaussians");
    TORCH_CHECK(count <= std::numeric_limits<int>::max(), message(count, " Gaussians are too many"));
    return static_cast<int>(count);
}

inline Strategy strategy_named(c10::string_view name) {
    if (name == "atomic") return Strategy::kAtomic;
    if (name == "sw_s") return Strategy::kSerialized;
    if (name == "sw_b") return Strategy::kButterfly;
    if (name == "sw_t") return Strategy::kTransposed;
    TORCH_CHECK(false, message("no kernel for reduction strategy '", std::string(name), "'"));
}

}  // namespace distwar::DISTWAR_BACKEND

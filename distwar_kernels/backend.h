// What differs between the CPU and the CUDA build of a binding: stream, device guard, launch check, dispatch key.
#pragma once

#include <c10/core/Device.h>

#ifdef DISTWAR_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define DISTWAR_DISPATCH_KEY CUDA
#else
#define DISTWAR_DISPATCH_KEY CPU
#endif

namespace distwar::DISTWAR_BACKEND {

#ifdef DISTWAR_CUDA
using DeviceGuard = c10::cuda::CUDAGuard;
inline void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
inline void check_launch(const char*) { C10_CUDA_KERNEL_LAUNCH_CHECK(); }
#else
struct DeviceGuard {
    explicit DeviceGuard(c10::Device) {}
};
inline void* current_stream() { return nullptr; }
inline void check_launch(const char*) {}
#endif

}  // namespace distwar::DISTWAR_BACKEND

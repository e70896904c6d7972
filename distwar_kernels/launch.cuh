// How kernels are launched, in one place, so that tests can run them without a GPU (tests/emulated_cuda).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#ifndef __CUDACC__
#include <cstring>
#endif

namespace distwar {

constexpr int kThreads = 256;  // of a block where it does not matter
inline int blocks_for(int work) { return (work + kThreads - 1) / kThreads; }

#ifdef __CUDACC__
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, void* stream, const Arguments&... arguments) {
    if (blocks > 0) kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
}
inline void fill_bytes(void* target, int value, size_t bytes, void* stream) {
    if (bytes > 0) cudaMemsetAsync(target, value, bytes, static_cast<cudaStream_t>(stream));
}
#else
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, void*, const Arguments&... arguments) {
    emulate(blocks, threads, [&] { kernel(arguments...); });
}
inline void fill_bytes(void* target, int value, size_t bytes, void*) {
    if (bytes > 0) std::memset(target, value, bytes);
}
#endif

}  // namespace distwar

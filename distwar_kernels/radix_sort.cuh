// Sorting pairs by a radix of their keys: CUB's on a GPU, the standard library's where kernels are emulated.
#pragma once

#include <cuda_runtime.h>

#ifdef __CUDACC__
#include <cub/device/device_radix_sort.cuh>
#else
#include <algorithm>
#include <numeric>
#include <vector>
#endif

namespace distwar {

// Stable, by the lowest `bits` of the keys. With no scratch memory it only says how much it needs.
template <class Key>
void sort_pairs(void* scratch, size_t& scratch_bytes, const Key* keys_in, Key* keys_out, const int* values_in,
                int* values_out, int count, int bits, void* stream) {
#ifdef __CUDACC__
    cub::DeviceRadixSort::SortPairs(scratch, scratch_bytes, keys_in, keys_out, values_in, values_out, count, 0, bits,
                                    static_cast<cudaStream_t>(stream));
#else
    scratch_bytes = 1;
    if (!scratch) return;
    const auto digits = [=](int i) { return keys_in[i] & static_cast<Key>((1ull << bits) - 1); };
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return digits(a) < digits(b); });
    for (int i = 0; i < count; ++i) keys_out[i] = keys_in[order[i]], values_out[i] = values_in[order[i]];
#endif
}

}  // namespace distwar

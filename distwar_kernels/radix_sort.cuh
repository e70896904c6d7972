// Sorting pairs by a radix of their keys: CUB's on a GPU, the standard library's where kernels are emulated.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <utility>

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

// What sort_pairs needs, asked once for each size: asking takes as long as a launch.
template <class Key>
size_t sort_bytes(int count, int bits) {
    thread_local std::map<std::pair<int, int>, size_t> known;
    const auto [entry, is_new] = known.try_emplace({count, bits}, 0);
    if (is_new) {
        const Key* keys = nullptr;
        int* values = nullptr;
        sort_pairs(nullptr, entry->second, keys, static_cast<Key*>(nullptr), values, values, count, bits, nullptr);
    }
    return entry->second;
}

}  // namespace distwar

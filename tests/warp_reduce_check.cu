// Runs every policy of warp_reduce.cuh on random warps and compares with the host: the sums per key, which are exact
// because the values are small integers, and the number of emits, which is what DISTWAR saves. Exit code 0 if all
// agree.
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "warp_reduce.cuh"

namespace {

constexpr int kRecord = 3, kWarps = 512, kLanes = 32 * kWarps, kKeys = 32;

__host__ __device__ float value(int thread, int k) { return static_cast<float>(thread % 11 + 3 * k - 5); }

struct Emit {
    float* sums;  // [kWarps][kKeys][kRecord]
    int* emits;   // [kWarps]

    __device__ void operator()(int key, const float (&record)[kRecord]) const {
        const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
        for (int k = 0; k < kRecord; ++k) atomicAdd(sums + (warp * kKeys + key) * kRecord + k, record[k]);
        atomicAdd(emits + warp, 1);
    }
};

template <class Policy, bool kUniformKey>
__global__ void reduce(const int* keys, const int* active, int threshold, Emit emit) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    float record[kRecord];
    // Idle lanes hold garbage, which must not leak into the sums.
    for (int k = 0; k < kRecord; ++k) record[k] = active[thread] ? value(thread, k) : nanf("");
    Policy::template add<kUniformKey>(keys[thread], record, active[thread] != 0, threshold, emit);
}

struct Warps {
    std::vector<int> keys = std::vector<int>(kLanes), active = std::vector<int>(kLanes);
};

// Warps with 0 to 32 active lanes and up to `distinct` keys each; idle lanes carry keys too.
Warps random_warps(int distinct) {
    std::mt19937 random(distinct);
    Warps warps;
    for (int warp = 0; warp < kWarps; ++warp) {
        const unsigned density = random() % 5;  // none to all lanes
        const int first_key = random() % kKeys;
        for (int thread = 32 * warp; thread < 32 * (warp + 1); ++thread) {
            warps.active[thread] = random() % 4 < density;
            warps.keys[thread] = (first_key + random() % distinct) % kKeys;
        }
    }
    return warps;
}

// How many lanes of a warp are active for each key.
std::map<int, int> groups_of(const Warps& warps, int warp) {
    std::map<int, int> groups;
    for (int thread = 32 * warp; thread < 32 * (warp + 1); ++thread)
        if (warps.active[thread]) ++groups[warps.keys[thread]];
    return groups;
}

int lanes_in(const std::map<int, int>& groups) {
    int lanes = 0;
    for (const auto& group : groups) lanes += group.second;
    return lanes;
}

int expected_emits(distwar::Atomic, const std::map<int, int>& groups, int) { return lanes_in(groups); }

int expected_emits(distwar::Serialized, const std::map<int, int>& groups, int threshold) {
    int emits = 0;
    for (const auto& group : groups) emits += group.second >= threshold ? 1 : group.second;
    return emits;
}

int expected_emits(distwar::Butterfly, const std::map<int, int>& groups, int threshold) {
    const int lanes = lanes_in(groups);
    return groups.size() == 1 && lanes >= threshold ? 1 : lanes;
}

template <class T>
T* device_copy(const std::vector<T>& host) {
    T* device = nullptr;
    cudaMalloc(&device, host.size() * sizeof(T));
    cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return device;
}

template <class T>
std::vector<T> host_copy_and_free(T* device, size_t count) {
    std::vector<T> host(count);
    cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost);
    cudaFree(device);
    return host;
}

template <class Policy>
int mismatches(const Warps& warps, int threshold, const std::vector<float>& sums, const std::vector<int>& emits) {
    std::vector<float> expected(sums.size(), 0.0f);
    for (int thread = 0; thread < kLanes; ++thread)
        for (int k = 0; k < kRecord && warps.active[thread]; ++k)
            expected[(thread / 32 * kKeys + warps.keys[thread]) * kRecord + k] += value(thread, k);
    int wrong = 0;
    for (size_t i = 0; i < sums.size(); ++i) wrong += !(sums[i] == expected[i]);
    for (int warp = 0; warp < kWarps; ++warp)
        wrong += emits[warp] != expected_emits(Policy(), groups_of(warps, warp), threshold);
    return wrong;
}

template <class Policy, bool kUniformKey>
bool check(const char* name, int distinct, int threshold) {
    const Warps warps = random_warps(distinct);
    const size_t n_sums = size_t(kWarps) * kKeys * kRecord;
    int* keys = device_copy(warps.keys);
    int* active = device_copy(warps.active);
    const Emit emit{device_copy(std::vector<float>(n_sums, 0.0f)), device_copy(std::vector<int>(kWarps, 0))};
    reduce<Policy, kUniformKey><<<kLanes / 256, 256>>>(keys, active, threshold, emit);
    const cudaError_t error = cudaDeviceSynchronize();
    const auto sums = host_copy_and_free(emit.sums, n_sums);
    const auto emits = host_copy_and_free(emit.emits, kWarps);
    cudaFree(keys);
    cudaFree(active);
    const int wrong = mismatches<Policy>(warps, threshold, sums, emits);
    if (error == cudaSuccess && wrong == 0) return true;
    std::printf("%s, %d keys a warp, threshold %d: %d wrong numbers, %s\n", name, distinct, threshold, wrong,
                cudaGetErrorString(error));
    return false;
}

template <class Policy>
bool check_policy(const char* name) {
    bool good = true;
    for (int threshold : {0, 1, 2, 8, 16, 31, 32}) {
        good &= check<Policy, true>((name + std::string(", key known to be uniform")).c_str(), 1, threshold);
        for (int distinct : {1, 2, 5, 32}) good &= check<Policy, false>(name, distinct, threshold);
    }
    return good;
}

}  // namespace

int main() {
    bool good = check_policy<distwar::Atomic>("atomic");
    good &= check_policy<distwar::Serialized>("sw_s");
    good &= check_policy<distwar::Butterfly>("sw_b");
    return good ? 0 : 1;
}

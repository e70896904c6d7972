// The threads of a block as threads of the operating system: slow, and what a thread sanitizer understands.
#pragma once

#include <atomic>
#include <barrier>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#pragma GCC visibility push(hidden)
inline thread_local Index threadIdx, blockIdx;

namespace emulator {

struct Warp {
    std::mutex mutex;
    std::map<unsigned, std::unique_ptr<std::barrier<>>> barriers;  // by mask of the lanes that meet
    uint32_t words[kLanes];

    void meet(unsigned mask) {
        std::unique_lock lock(mutex);
        auto& barrier = barriers[mask];
        if (!barrier) barrier = std::make_unique<std::barrier<>>(__builtin_popcount(mask));
        lock.unlock();
        barrier->arrive_and_wait();
    }
};

inline std::vector<std::unique_ptr<Warp>> warps;
inline std::unique_ptr<std::barrier<>> block;
inline std::mutex launching;
inline Warp& warp() { return *warps[threadIdx.x / kLanes]; }

template <class F>
void run_blocks(int blocks, int threads, F& kernel) {
    const std::lock_guard lock(launching);
    for (int index = 0; index < blocks; ++index) {
        warps.clear();
        for (int i = 0; i < threads; i += kLanes) warps.push_back(std::make_unique<Warp>());
        block = std::make_unique<std::barrier<>>(threads);
        std::vector<std::thread> running;
        for (int i = 0; i < threads; ++i)
            running.emplace_back([=, &kernel] {
                threadIdx.x = i, blockIdx.x = index;
                kernel();
                block->arrive_and_drop();
            });
        for (std::thread& thread : running) thread.join();
    }
}

inline bool any_of_block(bool value) {
    static std::atomic<bool> any{false};
    block->arrive_and_wait();
    any = false;
    block->arrive_and_wait();
    if (value) any = true;
    block->arrive_and_wait();
    return any;
}

inline void meet(unsigned mask) { warp().meet(mask); }

// What `f` makes of the words of the lanes in the mask, read while nobody changes them.
template <class F>
auto exchange(unsigned mask, uint32_t word, F f) {
    warp().words[threadIdx.x % kLanes] = word;
    meet(mask);
    const auto result = f(warp().words);
    meet(mask);
    return result;
}

inline unsigned ballot(unsigned mask, bool value) {
    return exchange(mask, value, [=](const uint32_t* words) {
        unsigned votes = 0;
        for (int i = 0; i < kLanes; ++i)
            if (mask >> i & 1) votes |= words[i] << i;
        return votes;
    });
}

}  // namespace emulator
#pragma GCC visibility pop

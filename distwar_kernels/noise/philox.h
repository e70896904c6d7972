// Random numbers without a state: a function of a key and a counter, the same on every machine, in any order.
//
// Philox 4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 4.3.
#pragma once

#include <cstdint>

#include "../constants.h"

namespace distwar {

struct Words {
    uint32_t x[4];
};

DISTWAR_ON_BOTH inline Words philox(Words counter, uint64_t key) {
    auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * counter.x[0];
        const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * counter.x[2];
        counter = {{static_cast<uint32_t>(b >> 32) ^ counter.x[1] ^ low, static_cast<uint32_t>(b),
                    static_cast<uint32_t>(a >> 32) ^ counter.x[3] ^ high, static_cast<uint32_t>(a)}};
        low += 0x9E3779B9u, high += 0xBB67AE85u;
    }
    return counter;
}

}  // namespace distwar

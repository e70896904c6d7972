// An atomic traffic count: counts[kTrafficRows][kWarpSize + 1], each row by number of lanes:
//   0  visits: warps that came with n active lanes (at n = 0 those that came with none)
//   1  groups: sets of n active lanes of one warp that share an address, which SW-S serialises
//   2  shared: visits whose n active lanes all share one address, which SW-B reduces
// What each strategy sends to memory at every threshold follows from these (traffic.py).
#pragma once

#include "constants.h"

namespace distwar {

constexpr int kTrafficRows = 3;

}  // namespace distwar

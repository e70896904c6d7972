// Counts what warps bring to a reduction instead of reducing it: a policy for the place of those in warp_reduce.cuh, so
// that a kernel's atomic traffic is measured by the kernel itself.
#pragma once

#include "traffic.h"
#include "warp_reduce.cuh"

namespace distwar {

struct TrafficTally {
    unsigned long long* counts;  // as traffic.h lays them out

    __device__ void visit(int lanes) const { add(0, lanes); }
    __device__ void group(int lanes) const { add(1, lanes); }
    __device__ void shared(int lanes) const { add(2, lanes); }

   private:
    __device__ void add(int row, int lanes) const { atomicAdd(counts + row * (kWarpSize + 1) + lanes, 1ull); }
};

struct CountTraffic {
    template <bool kUniformKey, int N>
    static __device__ void add(int key, float (&)[N], bool active, int, TrafficTally tally) {
        const unsigned actives = __ballot_sync(kFullWarp, active);
        // Matched even if the kernel promises a uniform key: the count is to show that it keeps its promise.
        const unsigned group = __match_any_sync(kFullWarp, key) & actives;
        if (!active) return;
        if (lane_index() == first_lane(group)) tally.group(__popc(group));
        if (lane_index() != first_lane(actives)) return;
        tally.visit(__popc(actives));
        if (group == actives) tally.shared(__popc(actives));
    }

    static __device__ void idle(TrafficTally tally) {
        if (lane_index() == 0) tally.visit(0);
    }
};

}  // namespace distwar

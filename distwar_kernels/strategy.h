// The reduction strategies that are kernels of ours (reduction.py names them all).
#pragma once

namespace distwar {

enum class Strategy { kAtomic, kSerialized, kButterfly, kTransposed };

}  // namespace distwar

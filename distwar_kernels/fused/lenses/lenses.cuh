// The table of lenses for kernels: the pinhole, for which they are compiled apart, and all others (curved.cuh).
#pragma once

#include "../../cameras.h"
#include "curved.cuh"
#include "pinhole.cuh"

namespace distwar::cuda {

template <class T>
struct Type {
    using type = T;
};

// Calls f with Type<what kernels have for the lens of this model>.
template <class F>
void for_lens(LensModel model, F f) {
    if (model == LensModel::kPinhole) return f(Type<Pinhole>());
    return f(Type<Curved>());
}

}  // namespace distwar::cuda

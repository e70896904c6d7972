// The table of lenses for kernels that are compiled for each: the only place that names them all.
#pragma once

#include "../../cameras.h"
#include "pinhole.cuh"

namespace distwar::cuda {

template <class T>
struct Type {
    using type = T;
};

// Calls f with Type<the lens of this model>.
template <class F>
void for_lens(LensModel model, F f) {
    switch (model) {
        case LensModel::kPinhole:
            return f(Type<Pinhole>());
    }
}

}  // namespace distwar::cuda

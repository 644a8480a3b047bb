// Reductions over the samples of one ray (see gs_ir/packed.py).
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

// out[c] = sum over `count` samples of w_i v_ic
template <typename T>
GS_IR_HD void accumulate_ray(const T* weights, const T* values, int64_t count, int64_t channels, T* out) {
    for (int64_t c = 0; c < channels; ++c) out[c] = T(0);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < channels; ++c) out[c] += weights[i] * values[i * channels + c];
}

// Adjoint of one term: dw = <g, v>, dv = w g
template <typename T>
GS_IR_HD void adj_accumulate_sample(const T* grad, T weight, const T* value, int64_t channels, T& grad_weight, T* grad_value) {
    grad_weight = T(0);
    for (int64_t c = 0; c < channels; ++c) {
        grad_weight += grad[c] * value[c];
        grad_value[c] = weight * grad[c];
    }
}

}  // namespace gs_ir

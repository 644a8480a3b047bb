// The tensors of pose_surfels as arrays, for the loops on either device.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <array>
#include <optional>
#include <string_view>

#include "gs_ir/posing.h"

namespace gs_ir {

constexpr int kPosedTensors = 9;
using PosedTensors = std::array<at::Tensor, kPosedTensors>;
using PosedTuple = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                              at::Tensor, at::Tensor>;

// Surfels at rest, or the gradients of them.
template <typename T>
struct RestArrays {
    T *positions, *log_scales, *quaternions, *opacity_logits;  // [N, 3], [N, 2], [N, 4], [N]
};

template <typename T>
GS_IR_HD RestSurfel<T> load_rest(const RestArrays<const T>& a, int64_t i) {
    const T *s = a.log_scales + 2 * i, *q = a.quaternions + 4 * i;
    return {load3(a.positions + 3 * i), s[0], s[1], {q[0], q[1], q[2], q[3]}, a.opacity_logits[i]};
}

template <typename T>
GS_IR_HD void store_rest(const RestArrays<T>& a, int64_t i, const RestSurfel<T>& s) {
    store3(a.positions + 3 * i, s.position);
    a.log_scales[2 * i] = s.log_scale_u, a.log_scales[2 * i + 1] = s.log_scale_v;
    T* q = a.quaternions + 4 * i;
    q[0] = s.quaternion.w, q[1] = s.quaternion.x, q[2] = s.quaternion.y, q[3] = s.quaternion.z;
    a.opacity_logits[i] = s.opacity_logit;
}

// Members of PosedSurfel in order; a gradient that nobody gave is null.
template <typename T>
struct PosedArrays {
    T* vectors[7];  // [N, 3]
    T* numbers[2];  // [N]
};

template <typename T>
GS_IR_HD void store_posed(const PosedArrays<T>& a, int64_t i, const PosedSurfel<T>& s) {
    const Vec3<T> vectors[7] = {s.center, s.tangent_u, s.tangent_v, s.normal, s.normal_canonical, s.to_viewer, s.oriented};
    for (int k = 0; k < 7; ++k) store3(a.vectors[k] + 3 * i, vectors[k]);
    a.numbers[0][i] = s.cosine, a.numbers[1][i] = s.opacity;
}

template <typename T>
GS_IR_HD PosedSurfel<T> load_gradient(const PosedArrays<const T>& a, int64_t i) {
    Vec3<T> vectors[7] = {};
    T numbers[2] = {};
    for (int k = 0; k < 7; ++k)
        if (a.vectors[k]) vectors[k] = load3(a.vectors[k] + 3 * i);
    for (int k = 0; k < 2; ++k)
        if (a.numbers[k]) numbers[k] = a.numbers[k][i];
    return {vectors[0], vectors[1], vectors[2], vectors[3], vectors[4], vectors[5], vectors[6], numbers[0], numbers[1]};
}

// How surfels are carried and seen, before a thread reads the camera.
template <typename T>
struct PosingArrays {
    const T *weights, *bones;                 // [N, J], [J, 3, 4]
    const T *camera_from_world, *intrinsics;  // [4, 4], [3, 3]
    int32_t joints;
    T samples;
    NormalRule normals;
    bool area_opacity;
};

template <typename T>
GS_IR_HD PosingView<T> load_view(const PosingArrays<T>& a) {
    return {camera_center(a.camera_from_world), a.intrinsics[0] * a.intrinsics[4] * a.samples, a.normals, a.area_opacity};
}

template <typename T>
RestArrays<const T> rest_arrays(const at::Tensor& p, const at::Tensor& s, const at::Tensor& q, const at::Tensor& o) {
    return {p.const_data_ptr<T>(), s.const_data_ptr<T>(), q.const_data_ptr<T>(), o.const_data_ptr<T>()};
}

template <typename T>
RestArrays<T> rest_arrays(const std::array<at::Tensor, 4>& x) {
    return {x[0].mutable_data_ptr<T>(), x[1].mutable_data_ptr<T>(), x[2].mutable_data_ptr<T>(), x[3].mutable_data_ptr<T>()};
}

template <typename T>
PosingArrays<T> posing_arrays(
    const at::Tensor& weights, const at::Tensor& bones, const at::Tensor& camera_from_world, const at::Tensor& intrinsics,
    int64_t normals, bool area_opacity, double samples) {
    return {weights.const_data_ptr<T>(), bones.const_data_ptr<T>(), camera_from_world.const_data_ptr<T>(),
            intrinsics.const_data_ptr<T>(), int32_t(bones.size(0)), T(samples), NormalRule(normals), area_opacity};
}

inline PosedTensors empty_posed(const at::Tensor& positions) {
    const int64_t count = positions.size(0);
    PosedTensors out;
    for (int k = 0; k < 7; ++k) out[k] = at::empty({count, 3}, positions.options());
    out[7] = at::empty({count, 1}, positions.options());
    out[8] = at::empty({count}, positions.options());
    return out;
}

template <typename T>
PosedArrays<T> posed_arrays(const PosedTensors& tensors) {
    PosedArrays<T> out;
    for (int k = 0; k < 7; ++k) out.vectors[k] = tensors[k].mutable_data_ptr<T>();
    for (int k = 0; k < 2; ++k) out.numbers[k] = tensors[7 + k].mutable_data_ptr<T>();
    return out;
}

template <typename T>
PosedArrays<const T> gradient_arrays(const c10::List<std::optional<at::Tensor>>& gradients) {
    TORCH_CHECK(gradients.size() == kPosedTensors, "pose_surfels_backward: ", kPosedTensors, " gradients expected");
    PosedArrays<const T> out = {};
    for (int k = 0; k < kPosedTensors; ++k) {
        // the list's owner keeps the tensor alive
        const std::optional<at::Tensor> gradient = gradients.get(k);
        if (!gradient.has_value()) continue;
        (k < 7 ? out.vectors[k] : out.numbers[k - 7]) = gradient->template const_data_ptr<T>();
    }
    return out;
}

}  // namespace gs_ir

// CPU loops of gs_ir/posing.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "posing_arrays.h"

namespace {

using namespace gs_ir;

constexpr int64_t kSurfelsPerTask = 512;

// Calls body(i, blended transform, view) for every surfel.
template <typename T, class Body>
void for_each_surfel(const PosingArrays<T>& a, int64_t count, Body body) {
    const PosingView<T> view = load_view(a);
    const auto* bones = reinterpret_cast<const Transform<T>*>(a.bones);
    at::parallel_for(0, count, kSurfelsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) body(i, blend_bones(a.weights + a.joints * i, bones, a.joints), view);
    });
}

PosedTuple pose_surfels(
    const at::Tensor& positions, const at::Tensor& log_scales, const at::Tensor& quaternions,
    const at::Tensor& opacity_logits, const at::Tensor& weights, const at::Tensor& bones,
    const at::Tensor& camera_from_world, const at::Tensor& intrinsics, int64_t normals, bool area_opacity, double samples) {
    const PosedTensors out = empty_posed(positions);
    AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "pose_surfels", [&] {
        const auto rest = rest_arrays<scalar_t>(positions, log_scales, quaternions, opacity_logits);
        const auto posing =
            posing_arrays<scalar_t>(weights, bones, camera_from_world, intrinsics, normals, area_opacity, samples);
        const auto posed = posed_arrays<scalar_t>(out);
        for_each_surfel(posing, positions.size(0), [&](int64_t i, const Transform<scalar_t>& blended, const auto& view) {
            store_posed(posed, i, pose_surfel(load_rest(rest, i), blended, view));
        });
    });
    return std::tuple_cat(out);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> pose_surfels_backward(
    const c10::List<std::optional<at::Tensor>>& gradients, const at::Tensor& positions, const at::Tensor& log_scales,
    const at::Tensor& quaternions, const at::Tensor& opacity_logits, const at::Tensor& weights, const at::Tensor& bones,
    const at::Tensor& camera_from_world, const at::Tensor& intrinsics, int64_t normals, bool area_opacity, double samples) {
    const std::array<at::Tensor, 4> out = {
        at::empty_like(positions), at::empty_like(log_scales), at::empty_like(quaternions), at::empty_like(opacity_logits)};
    AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "pose_surfels_backward", [&] {
        const auto rest = rest_arrays<scalar_t>(positions, log_scales, quaternions, opacity_logits);
        const auto posing =
            posing_arrays<scalar_t>(weights, bones, camera_from_world, intrinsics, normals, area_opacity, samples);
        const auto grad = gradient_arrays<scalar_t>(gradients);
        const auto grad_rest = rest_arrays<scalar_t>(out);
        for_each_surfel(posing, positions.size(0), [&](int64_t i, const Transform<scalar_t>& blended, const auto& view) {
            store_rest(grad_rest, i, adj_pose_surfel(load_gradient(grad, i), load_rest(rest, i), blended, view));
        });
    });
    return std::tuple_cat(out);
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("pose_surfels", pose_surfels);
    m.impl("pose_surfels_backward", pose_surfels_backward);
}

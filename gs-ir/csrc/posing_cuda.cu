// CUDA loops of gs_ir/posing.h: one thread a surfel, bones in shared memory.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "posing_arrays.h"

namespace {

using namespace gs_ir;

constexpr int kThreads = 128;
constexpr int64_t kMostJoints = 256;  // bones of so many fit into 48 KiB of shared memory, in double precision too

// Calls body(i, blended transform, view) for every surfel.
template <typename T, class Body>
__global__ void __launch_bounds__(kThreads) for_each_surfel_kernel(PosingArrays<T> a, int64_t count, Body body) {
    extern __shared__ double shared[];
    T* numbers = reinterpret_cast<T*>(shared);
    for (int32_t t = threadIdx.x; t < 12 * a.joints; t += kThreads) numbers[t] = a.bones[t];
    __syncthreads();
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    body(i, blend_bones(a.weights + a.joints * i, reinterpret_cast<const Transform<T>*>(numbers), a.joints), load_view(a));
}

template <typename T, class Body>
void for_each_surfel(const at::Tensor& like, const PosingArrays<T>& a, Body body) {
    const int64_t count = like.size(0);
    TORCH_CHECK(a.joints <= kMostJoints, "pose_surfels: at most ", kMostJoints, " joints on a GPU, found ", a.joints);
    if (count == 0) return;
    const c10::cuda::CUDAGuard guard(like.device());
    for_each_surfel_kernel<<<blocks_for(count, kThreads), kThreads, 12 * a.joints * sizeof(T),
                             c10::cuda::getCurrentCUDAStream()>>>(a, count, body);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
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
        for_each_surfel(
            positions, posing,
            [=] __device__(int64_t i, const Transform<scalar_t>& blended, const PosingView<scalar_t>& view) {
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
        for_each_surfel(
            positions, posing,
            [=] __device__(int64_t i, const Transform<scalar_t>& blended, const PosingView<scalar_t>& view) {
                store_rest(grad_rest, i, adj_pose_surfel(load_gradient(grad, i), load_rest(rest, i), blended, view));
            });
    });
    return std::tuple_cat(out);
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("pose_surfels", pose_surfels);
    m.impl("pose_surfels_backward", pose_surfels_backward);
}

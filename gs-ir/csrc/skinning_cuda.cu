// CUDA loops of gs_ir/skinning.h: one thread a point.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "cuda_vector.cuh"
#include "transform_volumes.cuh"

namespace {

constexpr int kChannels = gs_ir::kTransformSize;

at::Tensor sample_transforms(
    const at::Tensor& points, const at::Tensor& any_volume, const at::Tensor& box, const at::Tensor& frame_index) {
    at::Tensor out = at::empty({points.size(0), 3, 4}, points.options());
    const at::Tensor volume = gs_ir::vector_aligned(any_volume);
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "sample_transforms", [&] {
        const gs_ir::TransformVolumes<scalar_t> volumes(volume, box, frame_index);
        const auto* p = points.const_data_ptr<scalar_t>();
        const auto* v = volume.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        gs_ir::for_each(points, points.size(0), [=] __device__(int64_t i) {
            scalar_t transform[kChannels];
            gs_ir::sample_transform(v + volumes.begin(i), volumes.lattice(), p + 3 * i, transform);
            gs_ir::store_pack<kChannels>(o + kChannels * i, transform);
        });
    });
    return out;
}

at::Tensor sample_transforms_backward_points(
    const at::Tensor& any_grad, const at::Tensor& points, const at::Tensor& any_volume, const at::Tensor& box,
    const at::Tensor& frame_index) {
    at::Tensor out = at::empty_like(points);
    const at::Tensor grad = gs_ir::vector_aligned(any_grad), volume = gs_ir::vector_aligned(any_volume);
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "sample_transforms_backward_points", [&] {
        const gs_ir::TransformVolumes<scalar_t> volumes(volume, box, frame_index);
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* p = points.const_data_ptr<scalar_t>();
        const auto* v = volume.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        gs_ir::for_each(points, points.size(0), [=] __device__(int64_t i) {
            scalar_t cotangent[kChannels];
            gs_ir::load_pack<kChannels>(g + kChannels * i, cotangent);
            gs_ir::adj_sample_transform_point(
                cotangent, v + volumes.begin(i), volumes.lattice(), p + 3 * i, o + 3 * i);
        });
    });
    return out;
}

// Added atomically, hence in no fixed order, also where deterministic algorithms are asked for.
at::Tensor sample_transforms_backward_volume(
    const at::Tensor& any_grad, const at::Tensor& points, const at::Tensor& volume, const at::Tensor& box,
    const at::Tensor& frame_index) {
    at::Tensor out = at::zeros_like(volume);
    const at::Tensor grad = gs_ir::vector_aligned(any_grad);
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "sample_transforms_backward_volume", [&] {
        const gs_ir::TransformVolumes<scalar_t> volumes(volume, box, frame_index);
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* p = points.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        gs_ir::for_each(points, points.size(0), [=] __device__(int64_t i) {
            scalar_t cotangent[kChannels];
            gs_ir::load_pack<kChannels>(g + kChannels * i, cotangent);
            gs_ir::adj_sample_transform_volume(
                cotangent, volumes.lattice(), p + 3 * i, o + volumes.begin(i),
                [](scalar_t* address, const scalar_t* values) { gs_ir::add_pack<kChannels>(address, values); });
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("sample_transforms", sample_transforms);
    m.impl("sample_transforms_backward_points", sample_transforms_backward_points);
    m.impl("sample_transforms_backward_volume", sample_transforms_backward_volume);
}

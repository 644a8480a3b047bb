// CPU loops of gs_ir/equirect.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "gs_ir/equirect.h"

namespace {

constexpr int64_t kTexelsPerTask = 1024;

template <typename T>
gs_ir::EquirectImage<T> view(const at::Tensor& image) {
    return {image.const_data_ptr<T>(), int32_t(image.size(0)), int32_t(image.size(1))};
}

at::Tensor shrink_equirect(const at::Tensor& image, int64_t factor) {
    at::Tensor out = at::empty({image.size(0) / factor, image.size(1) / factor, 3}, image.options());
    AT_DISPATCH_FLOATING_TYPES(image.scalar_type(), "shrink_equirect", [&] {
        const auto source = view<scalar_t>(image);
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, out.numel() / 3, kTexelsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                gs_ir::store3(o + 3 * i, gs_ir::shrink_equirect(source, i, int32_t(factor)));
        });
    });
    return out;
}

at::Tensor resample_equirect(const at::Tensor& image, const at::Tensor& solid_angles, int64_t resolution) {
    at::Tensor out = at::empty({6, resolution, resolution, 3}, image.options());
    AT_DISPATCH_FLOATING_TYPES(image.scalar_type(), "resample_equirect", [&] {
        const auto source = view<scalar_t>(image);
        const auto* w = solid_angles.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        const auto r = int32_t(resolution), samples = int32_t(solid_angles.size(0) / resolution);
        at::parallel_for(0, out.numel() / 3, kTexelsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                gs_ir::store3(o + 3 * i, gs_ir::resample_equirect(source, w, int32_t(i), r, samples));
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("shrink_equirect", shrink_equirect);
    m.impl("resample_equirect", resample_equirect);
}

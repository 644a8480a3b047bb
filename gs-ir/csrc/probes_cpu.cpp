// CPU loops of gs_ir/probes.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "gs_ir/probes.h"

namespace {

constexpr int64_t kPointsPerTask = 256;
constexpr int kHarmonics = gs_ir::kHarmonics;

// Reads probes stored in half precision.
struct HalfProbes {
    const at::Half* coefficients;

    template <typename T>
    void operator()(int64_t probe, T (&out)[kHarmonics]) const {
        const at::Half* c = coefficients + probe * kHarmonics;
#if defined(__F16C__)
        float eight[8];
        _mm256_storeu_ps(eight, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(c))));
        for (int k = 0; k < 8; ++k) out[k] = T(eight[k]);
        out[8] = T(_cvtsh_ss(c[8].x));
#else
        for (int k = 0; k < kHarmonics; ++k) out[k] = T(static_cast<float>(c[k]));
#endif
    }
};

template <typename T>
gs_ir::Probes<T, HalfProbes> view(
    const at::Tensor& coefficients, const at::Tensor& offsets, const at::Tensor& origins, const at::Tensor& shapes,
    double cell) {
    return {HalfProbes{coefficients.const_data_ptr<at::Half>()}, offsets.const_data_ptr<int64_t>(),
            origins.const_data_ptr<float>(), shapes.const_data_ptr<int64_t>(), T(cell), origins.size(0)};
}

at::Tensor query_own_probes(
    const at::Tensor& coefficients, const at::Tensor& offsets, const at::Tensor& origins, const at::Tensor& shapes,
    double cell, const at::Tensor& points, const at::Tensor& normals, const at::Tensor& own_part, double shift) {
    at::Tensor out = at::empty({points.size(0)}, points.options());
    const int64_t* own = own_part.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "query_own_probes", [&] {
        const auto probes = view<scalar_t>(coefficients, offsets, origins, shapes, cell);
        const auto *p = points.const_data_ptr<scalar_t>(), *n = normals.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, points.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                o[i] = gs_ir::own_visibility(
                    probes, own[i], gs_ir::load3(p + 3 * i), gs_ir::load3(n + 3 * i), scalar_t(shift));
        });
    });
    return out;
}

at::Tensor query_other_probes(
    const at::Tensor& coefficients, const at::Tensor& offsets, const at::Tensor& origins, const at::Tensor& shapes,
    double cell, const at::Tensor& points, const at::Tensor& normals, const at::Tensor& own_part,
    const at::Tensor& part_from_world, double shift, bool published) {
    at::Tensor out = at::empty({points.size(0)}, points.options());
    const int64_t* own = own_part.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "query_other_probes", [&] {
        const auto probes = view<scalar_t>(coefficients, offsets, origins, shapes, cell);
        const auto *p = points.const_data_ptr<scalar_t>(), *n = normals.const_data_ptr<scalar_t>();
        const auto* transforms = part_from_world.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, points.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                o[i] = gs_ir::other_visibility(
                    probes, own[i], gs_ir::load3(p + 3 * i), gs_ir::load3(n + 3 * i), transforms, scalar_t(shift), published);
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("query_own_probes", query_own_probes);
    m.impl("query_other_probes", query_other_probes);
}

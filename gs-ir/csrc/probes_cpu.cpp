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
    int64_t stride;

    template <typename T>
    void operator()(int64_t probe, T (&out)[kHarmonics]) const {
        const at::Half* c = coefficients + probe * stride;
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

// volumes: coefficients, offsets, origins, shapes.
template <typename T>
gs_ir::Probes<T, HalfProbes> view(at::TensorList volumes, double cell) {
    const HalfProbes load{volumes[0].const_data_ptr<at::Half>(), volumes[0].stride(0)};
    return {load, volumes[1].const_data_ptr<int64_t>(), volumes[2].const_data_ptr<float>(),
            volumes[3].const_data_ptr<int64_t>(), T(cell), volumes[2].size(0)};
}

// visibility(point, normal, own part) for each element of `surface`: points, normals, own parts.
template <typename T, typename Visibility>
void for_each_point(at::TensorList surface, at::Tensor& out, const Visibility& visibility) {
    const auto *p = surface[0].const_data_ptr<T>(), *n = surface[1].const_data_ptr<T>();
    const auto* own = surface[2].const_data_ptr<int64_t>();
    auto* o = out.mutable_data_ptr<T>();
    at::parallel_for(0, out.numel(), kPointsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            o[i] = visibility(gs_ir::load3(p + 3 * i), gs_ir::load3(n + 3 * i), own[i]);
    });
}

at::Tensor own_visibility(at::TensorList volumes, double cell, at::TensorList surface, double shift) {
    at::Tensor out = at::empty({surface[0].size(0)}, surface[0].options());
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "own_visibility", [&] {
        const auto probes = view<scalar_t>(volumes, cell);
        for_each_point<scalar_t>(surface, out, [&](auto point, auto normal, int64_t own) {
            return gs_ir::own_visibility(probes, own, point, normal, scalar_t(shift));
        });
    });
    return out;
}

at::Tensor other_visibility(
    at::TensorList volumes, double cell, at::TensorList surface, const at::Tensor& part_from_world, double shift,
    bool published) {
    at::Tensor out = at::empty({surface[0].size(0)}, surface[0].options());
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "other_visibility", [&] {
        const auto probes = view<scalar_t>(volumes, cell);
        const auto* transforms = part_from_world.const_data_ptr<scalar_t>();
        for_each_point<scalar_t>(surface, out, [&](auto point, auto normal, int64_t own) {
            return gs_ir::other_visibility(probes, own, point, normal, transforms, scalar_t(shift), published);
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("own_visibility", own_visibility);
    m.impl("other_visibility", other_visibility);
}

// CUDA loops of gs_ir/marching.h: one thread a ray.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <cub/cub.cuh>

#include "cuda_launch.cuh"
#include "gs_ir/marching.h"

namespace {

using at::Tensor;

constexpr int kThreads = 64;  // a batch has few rays: small blocks spread them over the GPU

using SampleTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // starts, ends, rays, packed_info, total

// Turns counts [R + 1], the last of them 0, into the first sample of each ray and the number of all samples.
void scan_counts(const Tensor& counts) {
    const c10::cuda::CUDAGuard guard(counts.device());
    const auto stream = c10::cuda::getCurrentCUDAStream();
    auto* values = counts.mutable_data_ptr<int64_t>();
    size_t bytes = 0;
    C10_CUDA_CHECK(cub::DeviceScan::ExclusiveSum(nullptr, bytes, values, values, counts.size(0), stream));
    const Tensor storage = at::empty({int64_t(bytes)}, counts.options().dtype(at::kByte));
    void* scratch = storage.mutable_data_ptr<uint8_t>();
    C10_CUDA_CHECK(cub::DeviceScan::ExclusiveSum(scratch, bytes, values, values, counts.size(0), stream));
}

// Where the samples of rays with these first samples [R + 1] go: as many as there are, for which the host waits, or as
// many as the capacity, all of them zero.
SampleTensors new_samples(const Tensor& first, int64_t capacity, const at::TensorOptions& depth) {
    const int64_t rays = first.size(0) - 1;
    const Tensor total = first.select(0, rays), packed_info = at::empty({rays, 2}, first.options());
    if (capacity > 0)
        return {at::zeros({capacity}, depth), at::zeros({capacity}, depth), at::zeros({capacity}, first.options()),
                packed_info, total};
    const int64_t samples = total.item<int64_t>();
    return {at::empty({samples}, depth), at::empty({samples}, depth), at::empty({samples}, first.options()),
            packed_info, total};
}

// Where a pass over the rays writes; without samples it only counts.
template <typename T>
struct Samples {
    T *starts = nullptr, *ends = nullptr;
    int64_t *ray_indices = nullptr, *packed_info = nullptr, room = 0;

    Samples() = default;
    explicit Samples(const SampleTensors& out)
        : starts(std::get<0>(out).mutable_data_ptr<T>()),
          ends(std::get<1>(out).mutable_data_ptr<T>()),
          ray_indices(std::get<2>(out).mutable_data_ptr<int64_t>()),
          packed_info(std::get<3>(out).mutable_data_ptr<int64_t>()),
          room(std::get<0>(out).size(0)) {}

    // Writes the ray's packed_info; false where it has no samples or does not fit whole and so gets none.
    __device__ bool open(int64_t r, int64_t begin, int64_t end) const {
        const bool fits = end <= room;
        packed_info[2 * r] = fits ? begin : room;
        packed_info[2 * r + 1] = fits ? end - begin : 0;
        return fits && end > begin;
    }
};

// Counts the samples of each ray into first[R + 1], or fills them in from first[r] on. Both passes run this one
// kernel, so that rounding cannot make them disagree.
template <typename T, bool kFill>
void march_pass(const Tensor& like, const gs_ir::MarchScene<T>& scene, int64_t rays, int64_t frames, int64_t* first,
                const Samples<T>& out) {
    gs_ir::for_each<kThreads>(like, kFill ? rays : rays + 1, [=] __device__(int64_t r) {
        int64_t i = kFill ? first[r] : 0;
        if (kFill && !out.open(r, i, first[r + 1])) return;
        if (r < rays) {
            CUDA_KERNEL_ASSERT(scene.frames[r] >= 0 && scene.frames[r] < frames);
            const gs_ir::LatticeRay<T> ray = scene.ray(r);
            gs_ir::march_ray(ray, scene.grid(r), [&](int32_t k) {
                if (kFill) {
                    out.starts[i] = ray.start(k);
                    out.ends[i] = ray.end(k);
                    out.ray_indices[i] = r;
                }
                ++i;
            });
        }
        if (!kFill) first[r] = i;
    });
}

SampleTensors march(const Tensor& origins, const Tensor& directions, const Tensor& occupancy, const Tensor& boxes,
                    const Tensor& frame_index, double step, const Tensor& jitter, int64_t capacity) {
    const int64_t rays = origins.size(0), frames = occupancy.size(0);
    const Tensor first = at::empty({rays + 1}, frame_index.options());
    SampleTensors out;
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "march", [&] {
        using T = scalar_t;
        const gs_ir::MarchScene<T> scene{
            origins.const_data_ptr<T>(), directions.const_data_ptr<T>(), boxes.const_data_ptr<T>(),
            jitter.const_data_ptr<T>(), occupancy.const_data_ptr<uint8_t>(), frame_index.const_data_ptr<int64_t>(),
            occupancy.size(1), occupancy.size(2), occupancy.size(3), T(step)};
        auto* first_of = first.mutable_data_ptr<int64_t>();
        march_pass<T, false>(origins, scene, rays, frames, first_of, {});
        scan_counts(first);
        out = new_samples(first, capacity, origins.options());
        march_pass<T, true>(origins, scene, rays, frames, first_of, Samples<T>(out));
    });
    return out;
}

std::tuple<Tensor, Tensor> resample(const Tensor& t_starts, const Tensor& t_ends, const Tensor& packed_info,
                                    const Tensor& weights, const Tensor& positions) {
    const int64_t rays = packed_info.size(0), draws = positions.size(1);
    const int64_t row = positions.size(0) == 1 ? 0 : draws;  // one row of positions may serve all rays
    Tensor t = at::empty({rays, draws}, t_starts.options());
    Tensor interval = at::empty({rays, draws}, packed_info.options());
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    int64_t* drawn = interval.mutable_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(t_starts.scalar_type(), "resample", [&] {
        const auto* start = t_starts.const_data_ptr<scalar_t>();
        const auto* end = t_ends.const_data_ptr<scalar_t>();
        const auto* weight = weights.const_data_ptr<scalar_t>();
        const auto* position = positions.const_data_ptr<scalar_t>();
        auto* depth = t.mutable_data_ptr<scalar_t>();
        gs_ir::for_each<kThreads>(t_starts, rays, [=] __device__(int64_t r) {
            const int64_t first = info[2 * r];
            gs_ir::resample_ray(start + first, end + first, weight + first, info[2 * r + 1], first, position + r * row,
                                draws, depth + r * draws, drawn + r * draws);
        });
    });
    return {t, interval};
}

// The number of samples of each ray with its draws, and 0 at the end.
Tensor refined_counts(const Tensor& packed_info, const Tensor& interval) {
    const int64_t rays = packed_info.size(0), draws = interval.size(1);
    Tensor counts = at::empty({rays + 1}, packed_info.options());
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    const int64_t* drawn = interval.const_data_ptr<int64_t>();
    auto* count = counts.mutable_data_ptr<int64_t>();
    gs_ir::for_each<kThreads>(packed_info, rays + 1, [=] __device__(int64_t r) {
        int64_t sum = r < rays ? info[2 * r + 1] : 0;
        for (int64_t k = 0; r < rays && k < draws; ++k) sum += drawn[r * draws + k] >= 0;
        count[r] = sum;
    });
    return counts;
}

SampleTensors insert_samples(const Tensor& t_starts, const Tensor& t_ends, const Tensor& packed_info, const Tensor& t,
                             const Tensor& interval, int64_t capacity) {
    const int64_t rays = packed_info.size(0), draws = t.size(1);
    const Tensor first = refined_counts(packed_info, interval);
    scan_counts(first);
    const SampleTensors out = new_samples(first, capacity, t_starts.options());
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    const int64_t* drawn = interval.const_data_ptr<int64_t>();
    const int64_t* first_of = first.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(t_starts.scalar_type(), "insert_samples", [&] {
        const auto* old_start = t_starts.const_data_ptr<scalar_t>();
        const auto* old_end = t_ends.const_data_ptr<scalar_t>();
        const auto* depth = t.const_data_ptr<scalar_t>();
        const Samples<scalar_t> refined(out);
        gs_ir::for_each<kThreads>(t_starts, rays, [=] __device__(int64_t r) {
            const int64_t from = info[2 * r], to = first_of[r], end = first_of[r + 1];
            if (!refined.open(r, to, end)) return;
            gs_ir::insert_ray(old_start + from, old_end + from, info[2 * r + 1], from, depth + r * draws,
                              drawn + r * draws, draws, end - to, refined.starts + to, refined.ends + to);
            for (int64_t i = to; i < end; ++i) refined.ray_indices[i] = r;
        });
    });
    return out;
}

Tensor render_weights(const Tensor& alphas, const Tensor& packed_info) {
    Tensor weights = at::zeros_like(alphas);  // rows of no ray stay zero
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(alphas.scalar_type(), "render_weights", [&] {
        const auto* alpha = alphas.const_data_ptr<scalar_t>();
        auto* weight = weights.mutable_data_ptr<scalar_t>();
        gs_ir::for_each<kThreads>(alphas, packed_info.size(0), [=] __device__(int64_t r) {
            gs_ir::render_weights_ray(alpha + info[2 * r], info[2 * r + 1], weight + info[2 * r]);
        });
    });
    return weights;
}

Tensor render_weights_backward(const Tensor& grad, const Tensor& alphas, const Tensor& packed_info) {
    Tensor grad_alphas = at::zeros_like(alphas);
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(alphas.scalar_type(), "render_weights_backward", [&] {
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* alpha = alphas.const_data_ptr<scalar_t>();
        auto* out = grad_alphas.mutable_data_ptr<scalar_t>();
        gs_ir::for_each<kThreads>(alphas, packed_info.size(0), [=] __device__(int64_t r) {
            const int64_t first = info[2 * r];
            gs_ir::adj_render_weights_ray(g + first, alpha + first, info[2 * r + 1], out + first);
        });
    });
    return grad_alphas;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("march", march);
    m.impl("resample", resample);
    m.impl("insert_samples", insert_samples);
    m.impl("render_weights", render_weights);
    m.impl("render_weights_backward", render_weights_backward);
}

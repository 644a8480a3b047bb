// CPU loops of gs_ir/marching.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "gs_ir/marching.h"

namespace {

using at::Tensor;

constexpr int64_t kRaysPerTask = 256;

using SampleTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // starts, ends, rays, packed_info, total

// Turns counts in info[r][1] into first samples in info[r][0]; returns the number of all samples. With a capacity rays
// that do not fit whole lose their samples.
int64_t scan_counts(int64_t* info, int64_t rays, int64_t capacity) {
    int64_t total = 0;
    for (int64_t r = 0; r < rays; ++r) {
        info[2 * r] = total;
        total += info[2 * r + 1];
        if (capacity > 0 && total > capacity) {
            info[2 * r] = capacity;
            info[2 * r + 1] = 0;
        }
    }
    return total;
}

// Where the samples go: as many as there are, or as many as the capacity, all of them zero.
struct NewSamples {
    Tensor starts, ends, ray_indices;

    NewSamples(int64_t total, int64_t capacity, const at::TensorOptions& depth, const at::TensorOptions& index)
        : starts(capacity > 0 ? at::zeros({capacity}, depth) : at::empty({total}, depth)),
          ends(capacity > 0 ? at::zeros({capacity}, depth) : at::empty({total}, depth)),
          ray_indices(capacity > 0 ? at::zeros({capacity}, index) : at::empty({total}, index)) {}
};

SampleTensors march(const Tensor& origins, const Tensor& directions, const Tensor& occupancy, const Tensor& boxes,
                    const Tensor& frame_index, double step, const Tensor& jitter, int64_t capacity) {
    const int64_t rays = origins.size(0), tasks = (rays + kRaysPerTask - 1) / kRaysPerTask;
    const int64_t* frames = frame_index.const_data_ptr<int64_t>();
    for (int64_t r = 0; r < rays; ++r)
        TORCH_CHECK_INDEX(frames[r] >= 0 && frames[r] < occupancy.size(0), "march: ray ", r, " names frame ", frames[r],
                          ", there are ", occupancy.size(0));
    Tensor packed_info = at::empty({rays, 2}, frame_index.options());
    int64_t* info = packed_info.mutable_data_ptr<int64_t>();
    // The lattice indices that each task met, so that rays are marched once and not to count and to fill.
    std::vector<std::vector<int32_t>> met(tasks);
    SampleTensors out;
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "march", [&] {
        using T = scalar_t;
        const gs_ir::MarchScene<T> scene{
            origins.const_data_ptr<T>(), directions.const_data_ptr<T>(), boxes.const_data_ptr<T>(),
            jitter.const_data_ptr<T>(), occupancy.const_data_ptr<uint8_t>(), frames, occupancy.size(1),
            occupancy.size(2), occupancy.size(3), T(step)};
        const auto each_ray = [&](const auto& body) {
            at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
                for (int64_t task = begin; task < end; ++task)
                    for (int64_t r = task * kRaysPerTask; r < std::min(rays, (task + 1) * kRaysPerTask); ++r)
                        body(r, met[task]);
            });
        };
        each_ray([&](int64_t r, std::vector<int32_t>& lattice) {
            const size_t before = lattice.size();
            gs_ir::march_ray(scene.ray(r), scene.grid(r), [&](int32_t k) { lattice.push_back(k); });
            info[2 * r + 1] = int64_t(lattice.size() - before);
        });
        const int64_t total = scan_counts(info, rays, capacity);
        const NewSamples made(total, capacity, origins.options(), frame_index.options());
        T *start = made.starts.mutable_data_ptr<T>(), *end = made.ends.mutable_data_ptr<T>();
        int64_t* ray_index = made.ray_indices.mutable_data_ptr<int64_t>();
        each_ray([&](int64_t r, const std::vector<int32_t>& lattice) {
            const auto ray = scene.ray(r);
            const int64_t task_first = info[2 * (r / kRaysPerTask * kRaysPerTask)];
            for (int64_t i = info[2 * r]; i < info[2 * r] + info[2 * r + 1]; ++i) {
                start[i] = ray.start(lattice[i - task_first]);
                end[i] = ray.end(lattice[i - task_first]);
                ray_index[i] = r;
            }
        });
        out = {made.starts, made.ends, made.ray_indices, packed_info, at::scalar_tensor(total, packed_info.options())};
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
        at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t stop) {
            for (int64_t r = begin; r < stop; ++r) {
                const int64_t first = info[2 * r];
                gs_ir::resample_ray(start + first, end + first, weight + first, info[2 * r + 1], first,
                                    position + r * row, draws, depth + r * draws, drawn + r * draws);
            }
        });
    });
    return {t, interval};
}

SampleTensors insert_samples(const Tensor& t_starts, const Tensor& t_ends, const Tensor& packed_info, const Tensor& t,
                             const Tensor& interval, int64_t capacity) {
    const int64_t rays = packed_info.size(0), draws = t.size(1);
    Tensor new_info = at::empty_like(packed_info);
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    const int64_t* drawn = interval.const_data_ptr<int64_t>();
    int64_t* refined = new_info.mutable_data_ptr<int64_t>();
    for (int64_t r = 0; r < rays; ++r) {
        refined[2 * r + 1] = info[2 * r + 1];
        for (int64_t k = 0; k < draws; ++k) refined[2 * r + 1] += drawn[r * draws + k] >= 0;
    }
    const int64_t total = scan_counts(refined, rays, capacity);
    const NewSamples made(total, capacity, t_starts.options(), packed_info.options());
    int64_t* ray_index = made.ray_indices.mutable_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(t_starts.scalar_type(), "insert_samples", [&] {
        const auto* old_start = t_starts.const_data_ptr<scalar_t>();
        const auto* old_end = t_ends.const_data_ptr<scalar_t>();
        const auto* depth = t.const_data_ptr<scalar_t>();
        auto* start = made.starts.mutable_data_ptr<scalar_t>();
        auto* end = made.ends.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t stop) {
            for (int64_t r = begin; r < stop; ++r) {
                if (refined[2 * r + 1] == 0) continue;
                const int64_t from = info[2 * r], to = refined[2 * r];
                gs_ir::insert_ray(old_start + from, old_end + from, info[2 * r + 1], from, depth + r * draws,
                                  drawn + r * draws, draws, refined[2 * r + 1], start + to, end + to);
                std::fill(ray_index + to, ray_index + to + refined[2 * r + 1], r);
            }
        });
    });
    return {made.starts, made.ends, made.ray_indices, new_info, at::scalar_tensor(total, packed_info.options())};
}

Tensor render_weights(const Tensor& alphas, const Tensor& packed_info) {
    Tensor weights = at::zeros_like(alphas);  // rows of no ray stay zero
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(alphas.scalar_type(), "render_weights", [&] {
        const auto* alpha = alphas.const_data_ptr<scalar_t>();
        auto* weight = weights.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, packed_info.size(0), kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
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
        at::parallel_for(0, packed_info.size(0), kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const int64_t first = info[2 * r];
                gs_ir::adj_render_weights_ray(g + first, alpha + first, info[2 * r + 1], out + first);
            }
        });
    });
    return grad_alphas;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("march", march);
    m.impl("resample", resample);
    m.impl("insert_samples", insert_samples);
    m.impl("render_weights", render_weights);
    m.impl("render_weights_backward", render_weights_backward);
}

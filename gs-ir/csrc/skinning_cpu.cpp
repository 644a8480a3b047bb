// CPU loops of gs_ir/skinning.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <numeric>
#include <vector>

#include "gs_ir/skinning.h"

namespace {

constexpr int64_t kPointsPerTask = 1024;
constexpr int kChannels = gs_ir::kTransformSize;

template <typename T>
gs_ir::Lattice<T> lattice_of(const at::Tensor& volume, const at::Tensor& box) {
    return gs_ir::make_lattice(box.const_data_ptr<T>(), volume.sizes().data() + 1);
}

// Also the guard against reading outside the volume.
int64_t frame_of(const int64_t* frame_index, int64_t point, int64_t frames) {
    const int64_t frame = frame_index[point];
    TORCH_CHECK_INDEX(frame >= 0 && frame < frames, "frame_index ", frame, " outside [0, ", frames, ")");
    return frame;
}

at::Tensor sample_transforms(
    const at::Tensor& points, const at::Tensor& volume, const at::Tensor& box, const at::Tensor& frame_index) {
    const int64_t count = points.size(0), frames = volume.size(0);
    at::Tensor out = at::empty({count, 3, 4}, points.options());
    const int64_t* frame = frame_index.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "sample_transforms", [&] {
        const auto lattice = lattice_of<scalar_t>(volume, box);
        const auto* p = points.const_data_ptr<scalar_t>();
        const auto* v = volume.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, count, kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const auto* of_frame = v + frame_of(frame, i, frames) * lattice.size() * kChannels;
                gs_ir::sample_transform(of_frame, lattice, p + 3 * i, o + kChannels * i);
            }
        });
    });
    return out;
}

at::Tensor sample_transforms_backward_points(
    const at::Tensor& grad, const at::Tensor& points, const at::Tensor& volume, const at::Tensor& box,
    const at::Tensor& frame_index) {
    const int64_t count = points.size(0), frames = volume.size(0);
    at::Tensor out = at::empty_like(points);
    const int64_t* frame = frame_index.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "sample_transforms_backward_points", [&] {
        const auto lattice = lattice_of<scalar_t>(volume, box);
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* p = points.const_data_ptr<scalar_t>();
        const auto* v = volume.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, count, kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const auto* of_frame = v + frame_of(frame, i, frames) * lattice.size() * kChannels;
                gs_ir::adj_sample_transform_point(g + kChannels * i, of_frame, lattice, p + 3 * i, o + 3 * i);
            }
        });
    });
    return out;
}

// Points sorted by slab (frame, z layer), by counting; starts: first point of each slab.
template <typename T>
void sort_by_slab(
    const gs_ir::Lattice<T>& lattice, const T* points, const int64_t* frame, int64_t count, int64_t frames,
    std::vector<int64_t>& order, std::vector<int64_t>& starts) {
    std::vector<int64_t> slab(count);
    starts.assign(frames * lattice.points[2] + 1, 0);
    for (int64_t i = 0; i < count; ++i) {
        slab[i] = frame_of(frame, i, frames) * lattice.points[2] + gs_ir::locate(lattice, points + 3 * i).layer;
        ++starts[slab[i] + 1];
    }
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    order.resize(count);
    for (int64_t i = 0; i < count; ++i) order[next[slab[i]]++] = i;
}

// A point writes to its own z layer and the next. So all even slabs run in parallel, then all odd ones, without
// atomics and with the same order of additions for any number of threads.
at::Tensor sample_transforms_backward_volume(
    const at::Tensor& grad, const at::Tensor& points, const at::Tensor& volume, const at::Tensor& box,
    const at::Tensor& frame_index) {
    const int64_t count = points.size(0), frames = volume.size(0);
    at::Tensor out = at::zeros_like(volume);
    const int64_t* frame = frame_index.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "sample_transforms_backward_volume", [&] {
        const auto lattice = lattice_of<scalar_t>(volume, box);
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* p = points.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        const auto add = [](scalar_t* address, const scalar_t* values) {
            for (int c = 0; c < kChannels; ++c) address[c] += values[c];
        };
        std::vector<int64_t> order, starts;
        sort_by_slab(lattice, p, frame, count, frames, order, starts);
        const int64_t layers = lattice.points[2], pairs = (layers + 1) / 2;
        for (int64_t parity = 0; parity < 2; ++parity)
            at::parallel_for(0, frames * pairs, 1, [&](int64_t begin, int64_t end) {
                for (int64_t task = begin; task < end; ++task) {
                    const int64_t layer = 2 * (task % pairs) + parity;
                    if (layer >= layers) continue;
                    auto* of_frame = o + task / pairs * lattice.size() * kChannels;
                    const int64_t slab = task / pairs * layers + layer;
                    for (int64_t k = starts[slab]; k < starts[slab + 1]; ++k)
                        gs_ir::adj_sample_transform_volume(
                            g + kChannels * order[k], lattice, p + 3 * order[k], of_frame, add);
                }
            });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("sample_transforms", sample_transforms);
    m.impl("sample_transforms_backward_points", sample_transforms_backward_points);
    m.impl("sample_transforms_backward_volume", sample_transforms_backward_volume);
}

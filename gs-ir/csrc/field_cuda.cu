// A hash grid and its small network in one kernel, values only: gs_ir/field.py.
//
// Two lanes fetch a point's features, even and odd levels; no feature goes through global memory.
#include <ATen/ops/empty.h>
#include <cuda_fp16.h>
#include <torch/library.h>

#include <optional>

#include "cuda_vector.cuh"
#include "hash_cell.cuh"
#include "mlp_launch.cuh"

namespace {

using at::IntArrayRef;
using at::Tensor;
using at::TensorList;
using gs_ir::Activation;
using gs_ir::Network;
using gs_ir::Vec3;

constexpr int kMaxLevels = 32, kFeatures = 2;

// Rows of features and coordinates in [-1, 1] at points of the unit cube.
template <typename S>
struct StageGrid {
    const float* points;
    const S* table;
    int levels, active;
    gs_ir::HashLevel level[kMaxLevels];

    __device__ void operator()(const Network& net, int64_t first, float* all_rows) const {
        const int stride = net.stride(), lane = gs_ir::Lane().lane, half = lane / gs_ir::kRows;
        const int64_t n = first + lane % gs_ir::kRows;
        const bool exists = n < net.points;
        const Vec3<float> point = exists ? gs_ir::load3(points + 3 * n) : Vec3<float>{0.0f, 0.0f, 0.0f};
        float* row = all_rows + lane % gs_ir::kRows * stride;
#pragma unroll 2
        for (int l = half; l < levels; l += 2) {
            float value[kFeatures] = {};
            if (l < active && exists) interpolate(level[l], point, value);
            for (int f = 0; f < kFeatures; ++f) row[l * kFeatures + f] = value[f];
        }
        if (half == 0)
            gs_ir::store3(row + levels * kFeatures, point * 2.0f - Vec3<float>{1.0f, 1.0f, 1.0f});
        gs_ir::pad_rows(all_rows, stride, net.inputs, net.steps());
    }
    __device__ void interpolate(const gs_ir::HashLevel& at, Vec3<float> point, float* value) const {
        constexpr uint32_t kCorners[8] = {0, 1, 2, 3, 4, 5, 6, 7};
        gs_ir::LoadedCell<kFeatures, float> loaded(at, point);
        loaded.load(table + at.offset * kFeatures);
        gs_ir::interpolate_cell<kFeatures>(loaded.values, kCorners, loaded.cell.fraction, value);
    }
};

template <typename S>
StageGrid<S> stage_of(const Tensor& points, const Tensor& values, IntArrayRef resolutions, IntArrayRef offsets,
                      int64_t active) {
    const int levels = int(resolutions.size());
    TORCH_CHECK(levels <= kMaxLevels && values.size(1) == kFeatures, "field_values: at most ", kMaxLevels,
                " levels of ", kFeatures, " features expected");
    const S* table = static_cast<const S*>(values.const_data_ptr());
    StageGrid<S> stage{points.const_data_ptr<float>(), table, levels, int(active)};
    for (int l = 0; l < levels; ++l) stage.level[l] = gs_ir::hash_level(resolutions[l], offsets[l], offsets[l + 1]);
    return stage;
}

template <int kLayers, Activation kActivation, typename S>
void launch(const Network& net, const StageGrid<S>& stage, const Tensor& outputs) {
    gs_ir::launch_mlp(gs_ir::mlp_forward_kernel<kLayers, kActivation, StageGrid<S>>,
                      gs_ir::ForwardLayout(net, kLayers).bytes(), net.points, net, stage,
                      outputs.mutable_data_ptr<float>());
}

template <typename S>
void run(const Network& net, const StageGrid<S>& stage, bool two_layers, bool smooth, const Tensor& outputs) {
    if (two_layers && smooth) return launch<2, Activation::kSoftplus>(net, stage, outputs);
    if (two_layers) return launch<2, Activation::kRelu>(net, stage, outputs);
    if (smooth) return launch<1, Activation::kSoftplus>(net, stage, outputs);
    launch<1, Activation::kRelu>(net, stage, outputs);
}

Tensor field_values(const Tensor& points, const Tensor& table, const std::optional<Tensor>& compact,
                    IntArrayRef resolutions, IntArrayRef offsets, int64_t active, TensorList layers, bool smooth) {
    Network net = gs_ir::network_of({}, layers, points.size(0));
    net.inputs = int(resolutions.size()) * kFeatures + 3;
    net.rotation = 3;  // the weights' first columns are the coordinates'
    gs_ir::check_inputs(net, layers[0]);
    Tensor outputs = at::empty({net.points, net.outputs}, points.options());
    if (net.points == 0) return outputs;
    const c10::cuda::CUDAGuard guard(points.device());
    const Tensor values =
        compact ? gs_ir::vector_aligned(*compact, 2 * kFeatures) : gs_ir::vector_aligned(table);
    const bool two_layers = layers.size() == 6;
    if (compact)
        run(net, stage_of<__half>(points, values, resolutions, offsets, active), two_layers, smooth, outputs);
    else
        run(net, stage_of<float>(points, values, resolutions, offsets, active), two_layers, smooth, outputs);
    return outputs;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("field_values", field_values); }

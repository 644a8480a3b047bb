// Small networks on the GPU, of float32 tensors: gs_ir/mlp.py.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <type_traits>

#include "mlp_launch.cuh"

namespace {

using at::Tensor;
using at::TensorList;
using gs_ir::Activation;

// Calls body(number of hidden layers, activation) with both as compile-time constants.
template <typename Body>
void dispatch(TensorList layers, bool smooth, const Body& body) {
    using One = std::integral_constant<int, 1>;
    using Two = std::integral_constant<int, 2>;
    using Relu = std::integral_constant<Activation, Activation::kRelu>;
    using Softplus = std::integral_constant<Activation, Activation::kSoftplus>;
    if (layers.size() == 4) return smooth ? body(One(), Softplus()) : body(One(), Relu());
    return smooth ? body(Two(), Softplus()) : body(Two(), Relu());
}

Tensor forward(TensorList parts, TensorList layers, bool smooth) {
    const int64_t points = parts[0].size(0);
    const gs_ir::Network net = gs_ir::network_of(parts, layers, points);
    gs_ir::check_inputs(net, layers[0]);
    Tensor outputs = at::empty({points, net.outputs}, parts[0].options());
    if (points == 0) return outputs;
    const c10::cuda::CUDAGuard guard(outputs.device());
    dispatch(layers, smooth, [&](auto count, auto activation) {
        constexpr int kLayers = decltype(count)::value;
        const auto kernel = gs_ir::mlp_forward_kernel<kLayers, decltype(activation)::value, gs_ir::StageParts>;
        gs_ir::launch_mlp(kernel, gs_ir::ForwardLayout(net, kLayers).bytes(), points, net, gs_ir::StageParts(),
                          outputs.mutable_data_ptr<float>());
    });
    return outputs;
}

// Gradients of the parts (empty tensors for those that are not wanted), then of the layers.
std::vector<Tensor> backward(const Tensor& grad, TensorList parts, TensorList layers, bool smooth,
                             std::array<bool, gs_ir::kMaxParts> wanted) {
    const int64_t points = parts[0].size(0);
    gs_ir::Network net = gs_ir::network_of(parts, layers, points);
    gs_ir::check_inputs(net, layers[0]);
    std::vector<Tensor> results;
    for (size_t i = 0; i < parts.size(); ++i) {
        results.push_back(wanted[i] ? at::empty_like(parts[i]) : at::empty({0}, parts[i].options()));
        if (wanted[i]) net.part[i].gradient = results[i].mutable_data_ptr<float>();
    }
    const std::vector<Tensor> of_layers = gs_ir::zeros_like_all(layers);
    results.insert(results.end(), of_layers.begin(), of_layers.end());
    if (points == 0) return results;
    const c10::cuda::CUDAGuard guard(grad.device());
    dispatch(layers, smooth, [&](auto count, auto activation) {
        constexpr int kLayers = decltype(count)::value;
        const auto kernel = gs_ir::mlp_backward_kernel<kLayers, decltype(activation)::value>;
        gs_ir::launch_mlp(kernel, gs_ir::BackwardLayout(net, kLayers).bytes(), points, net,
                          grad.const_data_ptr<float>(), gs_ir::gradients_of(of_layers));
    });
    return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("mlp", forward);
    m.impl("mlp_backward", backward);
}

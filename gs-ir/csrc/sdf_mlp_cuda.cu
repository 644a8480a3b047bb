// Signed-distance networks with their spatial gradient on the GPU, of float32 tensors: gs_ir/mlp.py.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "mlp_launch.cuh"
#include "sdf_mlp.cuh"

namespace {

using at::Tensor;
using at::TensorList;

gs_ir::Network network_of(const Tensor& coordinates, const Tensor& features, TensorList layers) {
    TORCH_CHECK(layers.size() == 4, "sdf_mlp: one hidden layer expected");
    const Tensor parts[2] = {features, coordinates};
    gs_ir::Network net = gs_ir::network_of(parts, layers, coordinates.size(0));
    gs_ir::check_inputs(net, layers[0]);
    TORCH_CHECK(net.inputs <= 16 * gs_ir::kSdfSteps, "sdf_mlp: at most 48 inputs expected, found ", net.inputs);
    net.rotation = 3;  // the weights' first columns are the coordinates'
    return net;
}

gs_ir::SdfInputs inputs_of(const Tensor& features, const Tensor& jacobian, double scale) {
    return {jacobian.const_data_ptr<float>(), int(features.size(1)), float(scale)};
}

std::tuple<Tensor, Tensor> forward(const Tensor& coordinates, const Tensor& features, const Tensor& jacobian,
                                   TensorList layers, double scale) {
    const gs_ir::Network net = network_of(coordinates, features, layers);
    Tensor outputs = at::empty({net.points, net.outputs}, features.options());
    Tensor gradient = at::empty({net.points, 3}, features.options());
    if (net.points == 0) return {outputs, gradient};
    const c10::cuda::CUDAGuard guard(features.device());
    gs_ir::launch_mlp(gs_ir::sdf_forward_kernel, gs_ir::SdfForwardLayout(net).bytes(), net.points, net,
                      inputs_of(features, jacobian, scale), outputs.mutable_data_ptr<float>(),
                      gradient.mutable_data_ptr<float>());
    return {outputs, gradient};
}

// Gradients of coordinates, features, jacobian, and of the layers.
std::vector<Tensor> backward(const Tensor& grad_outputs, const Tensor& grad_gradient, const Tensor& coordinates,
                             const Tensor& features, const Tensor& jacobian, TensorList layers, double scale) {
    gs_ir::Network net = network_of(coordinates, features, layers);
    std::vector<Tensor> results{at::empty_like(coordinates), at::empty_like(features), at::empty_like(jacobian)};
    net.part[0].gradient = results[1].mutable_data_ptr<float>();
    net.part[1].gradient = results[0].mutable_data_ptr<float>();
    const std::vector<Tensor> of_layers = gs_ir::zeros_like_all(layers);
    results.insert(results.end(), of_layers.begin(), of_layers.end());
    if (net.points == 0) return results;
    const c10::cuda::CUDAGuard guard(features.device());
    gs_ir::launch_mlp(gs_ir::sdf_backward_kernel, gs_ir::BackwardLayout(net, 1).bytes(), net.points, net,
                      inputs_of(features, jacobian, scale), grad_outputs.const_data_ptr<float>(),
                      grad_gradient.const_data_ptr<float>(), gs_ir::gradients_of(of_layers),
                      results[2].mutable_data_ptr<float>());
    return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("sdf_mlp", forward);
    m.impl("sdf_mlp_backward", backward);
}

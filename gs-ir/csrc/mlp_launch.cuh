// From tensors to the kernels of small networks, and their launch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "cuda_launch.cuh"
#include "mlp_backward.cuh"

namespace gs_ir {

// layers: weight and bias of each, all contiguous.
inline Network network_of(at::TensorList parts, at::TensorList layers, int64_t points) {
    Network net{};
    TORCH_CHECK(parts.size() <= kMaxParts, "mlp: at most ", kMaxParts, " parts expected, found ", parts.size());
    TORCH_CHECK(layers.size() == 4 || layers.size() == 6, "mlp: one or two hidden layers expected");
    for (const at::Tensor& part : parts) {
        net.part[net.parts++] = {part.const_data_ptr<float>(), nullptr, int(part.size(1))};
        net.inputs += int(part.size(1));
    }
    for (size_t i = 0; i < layers.size() / 2; ++i) {
        net.weight[i] = layers[2 * i].const_data_ptr<float>();
        net.bias[i] = layers[2 * i + 1].const_data_ptr<float>();
    }
    net.outputs = int(layers[layers.size() - 2].size(0));
    net.points = points;
    TORCH_CHECK(layers[0].size(0) == kHidden && net.outputs <= kMaxOutputs, "mlp: unsupported sizes");
    return net;
}

// Call where all parts are known.
inline void check_inputs(const Network& net, const at::Tensor& first_weight) {
    TORCH_CHECK(net.inputs == first_weight.size(1) && net.inputs <= kMaxInputs, "mlp: ", first_weight.size(1),
                " inputs expected, at most ", kMaxInputs, ", found ", net.inputs);
}

// Gradients of `layers`, zero, and where they are.
inline Gradients gradients_of(const std::vector<at::Tensor>& layers) {
    Gradients to{};
    for (size_t i = 0; i < layers.size() / 2; ++i) {
        to.weight[i] = layers[2 * i].mutable_data_ptr<float>();
        to.bias[i] = layers[2 * i + 1].mutable_data_ptr<float>();
    }
    return to;
}

inline std::vector<at::Tensor> zeros_like_all(at::TensorList tensors) {
    std::vector<at::Tensor> zeros;
    for (const at::Tensor& tensor : tensors) zeros.push_back(at::zeros_like(tensor));
    return zeros;
}

// As many blocks as the device runs at once, or as there are 128 points; each walks over its share.
template <typename... Parameters, typename... Arguments>
void launch_mlp(void (*kernel)(Parameters...), int bytes, int64_t points, const Arguments&... arguments) {
    int device = 0, processors = 0, blocks = 0;
    C10_CUDA_CHECK(cudaGetDevice(&device));
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    C10_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kMlpBlock, bytes));
    const int64_t wanted = (points + kBlockRows - 1) / kBlockRows;
    const int grid = int(std::min<int64_t>(wanted, int64_t(processors) * std::max(blocks, 1)));
    kernel<<<grid, kMlpBlock, bytes, c10::cuda::getCurrentCUDAStream()>>>(arguments...);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace gs_ir

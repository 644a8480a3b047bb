// Values of a small network: its arguments, what a block keeps in shared memory, and the kernel.
#pragma once

#include "mlp_layers.cuh"

namespace gs_ir {

constexpr int kMaxParts = 4, kMaxInputs = 96;

// One of the tensors [N, columns] that are the network's inputs, side by side.
struct Part {
    const float* values;
    float* gradient;  // null where none is wanted
    int columns;
};

struct Network {
    Part part[kMaxParts];
    int parts, inputs, outputs;
    int rotation;  // input i has the weights of column (i + rotation) % inputs
    int64_t points;
    const float* weight[3];  // [64, inputs], [64, 64] where there are two hidden layers, [outputs, 64]
    const float* bias[3];

    GS_IR_HD int steps() const { return (inputs + 15) / 16; }
    // Of staged rows: a multiple of 8 but not of 16, so that fragments are read without bank conflicts.
    GS_IR_HD int stride() const { return 16 * steps() + 8; }
    GS_IR_HD int column(int input) const {
        return input + rotation < inputs ? input + rotation : input + rotation - inputs;
    }
};

// Calls write(row, input, value) for inputs of the points first.. first + 15; zeros beyond the last point.
template <typename Write>
__device__ void each_input(const Network& net, int64_t first, const Write& write) {
    int begin = 0;
    for (int p = 0; p < net.parts; ++p) {
        const int columns = net.part[p].columns;
        const float* values = net.part[p].values + first * columns;
        const int64_t available = (net.points - first) * columns;
#pragma unroll 4
        for (int i = Lane().lane; i < kRows * columns; i += 32) {
            const int row = i / columns;
            write(row, begin + i - row * columns, i < available ? __ldg(values + i) : 0.0f);
        }
        begin += columns;
    }
}

// Zeros between the last input and the next multiple of 16.
__device__ inline void pad_rows(float* rows, int stride, int inputs, int steps) {
    const int padding = 16 * steps - inputs;
    for (int i = Lane().lane; i < kRows * padding; i += 32) rows[i / padding * stride + inputs + i % padding] = 0.0f;
}

// Rows come from tensors.
struct StageParts {
    __device__ void operator()(const Network& net, int64_t first, float* rows) const {
        const int stride = net.stride();
        each_input(net, first, [&](int row, int input, float value) { rows[row * stride + input] = value; });
        pad_rows(rows, stride, net.inputs, net.steps());
    }
};

// Shared memory, in order: weights as the tensor cores read them, biases, rows of each warp.
struct ForwardLayout {
    int input, hidden, output;  // uint4
    int biases, rows;           // floats

    GS_IR_HD ForwardLayout(const Network& net, int layers)
        : input(32 * net.steps() * kHiddenTiles), hidden(layers == 2 ? 32 * kHiddenSteps * kHiddenTiles : 0),
          output(32 * kHiddenSteps * kOutputTiles), biases(2 * kHidden + kMaxOutputs), rows(kRows * net.stride()) {}
    GS_IR_HD int weights() const { return input + hidden + output; }
    GS_IR_HD int bytes() const { return 16 * weights() + 4 * (biases + kWarps * rows); }
};

__device__ inline void pack_input_layer(const Network& net, uint4* to) {
    pack_weights(to, net.steps(), kHiddenTiles, [&](int k, int n) {
        return k < net.inputs ? net.weight[0][n * net.inputs + net.column(k)] : 0.0f;
    });
}

__device__ inline void pack_hidden_layer(const float* weight, uint4* to) {
    pack_weights(to, kHiddenSteps, kHiddenTiles, [&](int k, int n) { return weight[n * kHidden + k]; });
}

__device__ inline void pack_output_layer(const Network& net, const float* weight, uint4* to) {
    pack_weights(to, kHiddenSteps, kOutputTiles,
                 [&](int k, int n) { return n < net.outputs ? weight[n * kHidden + k] : 0.0f; });
}

// Copies the biases of the hidden layers, then those of the output layer.
__device__ inline void load_biases(const Network& net, int layers, float* to) {
    for (int i = threadIdx.x; i < 2 * kHidden + kMaxOutputs; i += kMlpBlock) {
        if (i < layers * kHidden) to[i] = net.bias[i / kHidden][i % kHidden];
        if (i >= 2 * kHidden) to[i] = i - 2 * kHidden < net.outputs ? net.bias[layers][i - 2 * kHidden] : 0.0f;
    }
}

__device__ inline void store_outputs(const Network& net, int64_t first, const Outputs& c, float* outputs) {
    each_number(c, [&](int row, int column, float value) {
        if (column < net.outputs && first + row < net.points) outputs[(first + row) * net.outputs + column] = value;
    });
}

template <int kLayers, Activation kActivation, typename Stage>
__global__ void __launch_bounds__(kMlpBlock, 2)
    mlp_forward_kernel(const Network net, const Stage stage, float* outputs) {
    extern __shared__ uint4 shared[];
    const ForwardLayout layout(net, kLayers);
    uint4 *input = shared, *hidden = input + layout.input, *output = hidden + layout.hidden;
    float* biases = reinterpret_cast<float*>(shared + layout.weights());
    float* rows = biases + layout.biases + Lane().warp * layout.rows;
    pack_input_layer(net, input);
    if (kLayers == 2) pack_hidden_layer(net.weight[1], hidden);
    pack_output_layer(net, net.weight[kLayers], output);
    load_biases(net, kLayers, biases);
    __syncthreads();
    const int64_t step = int64_t(gridDim.x) * kWarps * kRows;
    for (int64_t first = (int64_t(blockIdx.x) * kWarps + Lane().warp) * kRows; first < net.points; first += step) {
        stage(net, first, rows);
        __syncwarp();
        Hidden h;
        set_bias(h, biases);
        multiply_rows(h, rows, net.stride(), net.steps(), input);
        activate_all<kActivation>(h);
        if constexpr (kLayers == 2) {
            Hidden next;
            set_bias(next, biases + kHidden);
            multiply(next, h, hidden);
            activate_all<kActivation>(next);
            memcpy(h, next, sizeof(Hidden));
        }
        Outputs c;
        set_bias(c, biases + 2 * kHidden);
        multiply(c, h, output);
        store_outputs(net, first, c, outputs);
        __syncwarp();
    }
}

}  // namespace gs_ir

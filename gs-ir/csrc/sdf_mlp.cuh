// A signed-distance network of one softplus layer on features and coordinates, with the distance's spatial gradient:
//   v = W1^T s, s = w2 sigmoid(100 a), a = W1 x + b1, gradient = scale v[coordinates] + J^T v[features],
// where w2 is the first row of the output layer and J the features' Jacobian; and its adjoint.
#pragma once

#include "mlp_backward.cuh"

namespace gs_ir {

constexpr int kSdfSteps = 3;  // up to 48 inputs

// The network's parts are the features and the three coordinates.
struct SdfInputs {
    const float* jacobian;  // [N, features, 3]
    int features;
    float scale;  // d coordinate / d point

    __device__ Vec3<float> slope(int64_t point, int feature) const {
        const float* from = jacobian + (point * features + feature) * 3;
        return {__ldg(from), __ldg(from + 1), __ldg(from + 2)};
    }
    // Derivative of an input along `direction`.
    __device__ float along(int64_t point, int input, Vec3<float> direction) const {
        if (input < features) return dot(slope(point, input), direction);
        const int axis = input - features;
        return scale * (axis == 0 ? direction.x : axis == 1 ? direction.y : direction.z);
    }
};

struct Sigmoid {
    float value, slope;  // at 100 a; slope by that argument

    __device__ explicit Sigmoid(float a) {
        const float e = __expf(-kSharpness * fabsf(a)), r = __fdividef(1.0f, 1.0f + e);
        value = a >= 0.0f ? r : e * r;
        slope = e * r * r;
    }
};

// Calls body(tile, i, hidden unit) for this lane's numbers of a Hidden.
template <typename Body>
__device__ void each_unit(const Body& body) {
#pragma unroll
    for (int tile = 0; tile < kHiddenTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) body(tile, i, 8 * tile + 2 * Lane().t + (i & 1));
}

// to = s, from a
__device__ inline void weighted_sigmoids(Hidden& to, const Hidden& a, const float* first_row) {
    each_unit([&](int tile, int i, int unit) { to[tile][i] = first_row[unit] * Sigmoid(a[tile][i]).value; });
}

// The spatial gradient from v, 16 columns of it at a time.
struct SpatialGradient {
    Vec3<float> sum[2] = {};  // of rows g and g + 8

    __device__ void add(const Network& net, const SdfInputs& sdf, int64_t first, int begin, const float (&v)[2][4]) {
        const Lane at;
#pragma unroll
        for (int tile = 0; tile < 2; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int64_t point = first + at.g + 8 * (i >> 1);
                const int input = begin + 8 * tile + 2 * at.t + (i & 1), axis = input - sdf.features;
                const Vec3<float> slope =
                    axis < 0 && point < net.points
                        ? sdf.slope(point, input)
                        : Vec3<float>{axis == 0 ? sdf.scale : 0.0f, axis == 1 ? sdf.scale : 0.0f,
                                      axis == 2 ? sdf.scale : 0.0f};
                sum[i >> 1] = sum[i >> 1] + slope * v[tile][i];
            }
    }
    __device__ static float over_columns(float value) {
        value += __shfl_xor_sync(0xffffffffu, value, 1);
        return value + __shfl_xor_sync(0xffffffffu, value, 2);
    }
    __device__ void store(const Network& net, int64_t first, float* gradient) {
        const Lane at;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Vec3<float> total{over_columns(sum[half].x), over_columns(sum[half].y), over_columns(sum[half].z)};
            const int64_t point = first + at.g + 8 * half;
            if (at.t == 0 && point < net.points) store3(gradient + 3 * point, total);
        }
    }
};

struct SdfForwardLayout {
    int input, output, input_transposed;  // uint4
    int biases, first_row, rows;          // floats

    GS_IR_HD explicit SdfForwardLayout(const Network& net)
        : input(32 * net.steps() * kHiddenTiles), output(32 * kHiddenSteps * kOutputTiles),
          input_transposed(32 * kHiddenSteps * 2 * net.steps()), biases(2 * kHidden + kMaxOutputs),
          first_row(kHidden), rows(kRows * net.stride()) {}
    GS_IR_HD int weights() const { return input + output + input_transposed; }
    GS_IR_HD int bytes() const { return 16 * weights() + 4 * (biases + first_row + kWarps * rows); }
};

__device__ inline void load_first_row(const Network& net, float* to) {
    for (int i = threadIdx.x; i < kHidden; i += kMlpBlock) to[i] = net.weight[1][i];
}

static __global__ void __launch_bounds__(kMlpBlock)
    sdf_forward_kernel(const Network net, const SdfInputs sdf, float* outputs, float* gradient) {
    extern __shared__ uint4 shared[];
    const SdfForwardLayout layout(net);
    uint4 *input = shared, *output = input + layout.input, *input_t = output + layout.output;
    float *biases = reinterpret_cast<float*>(shared + layout.weights()), *first_row = biases + layout.biases;
    float* rows = first_row + layout.first_row + Lane().warp * layout.rows;
    pack_input_layer(net, input);
    pack_output_layer(net, net.weight[1], output);
    pack_input_transposed(net, input_t);
    load_biases(net, 1, biases);
    load_first_row(net, first_row);
    __syncthreads();
    const int64_t step = int64_t(gridDim.x) * kWarps * kRows;
    for (int64_t first = (int64_t(blockIdx.x) * kWarps + Lane().warp) * kRows; first < net.points; first += step) {
        StageParts()(net, first, rows);
        __syncwarp();
        Hidden a, s;
        set_bias(a, biases);
        multiply_rows(a, rows, net.stride(), net.steps(), input);
        weighted_sigmoids(s, a, first_row);
        activate_all<Activation::kSoftplus>(a);
        Outputs c;
        set_bias(c, biases + 2 * kHidden);
        multiply(c, a, output);
        store_outputs(net, first, c, outputs);
        SpatialGradient sum;
        pull_back(net, s, input_t,
                  [&](int begin, const float (&v)[2][4]) { sum.add(net, sdf, first, begin, v); });
        sum.store(net, first, gradient);
        __syncwarp();
    }
}

// Calls write(row, input, derivative of the input along the point's direction); zeros beyond the last point.
template <typename Write>
__device__ void each_derivative(const Network& net, const SdfInputs& sdf, int64_t first, const float* directions,
                                const Write& write) {
#pragma unroll 4
    for (int i = Lane().lane; i < kRows * net.inputs; i += 32) {
        const int row = i / net.inputs, column = i - row * net.inputs;
        const int64_t point = first + row;
        write(row, column, point < net.points ? sdf.along(point, column, load3(directions + 3 * point)) : 0.0f);
    }
}

// Gradient of the Jacobian: v times the direction.
__device__ inline void store_jacobian_gradient(const Network& net, const SdfInputs& sdf, int64_t first,
                                               const float* directions, const Hidden& s, const uint4* input_t,
                                               float* grad_jacobian) {
    const Lane at;
    Vec3<float> direction[2] = {};
    for (int half = 0; half < 2; ++half) {
        const int64_t point = first + at.g + 8 * half;
        if (point < net.points) direction[half] = load3(directions + 3 * point);
    }
    pull_back(net, s, input_t, [&](int begin, const float (&v)[2][4]) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int64_t point = first + at.g + 8 * (i >> 1 & 1);
            const int input = begin + 8 * (i >> 2) + 2 * at.t + (i & 1);
            if (point >= net.points || input >= sdf.features) continue;
            store3(grad_jacobian + (point * sdf.features + input) * 3, direction[i >> 1 & 1] * v[i >> 2][i & 3]);
        }
    });
}

// directions: [N, 3] cotangents of the spatial gradient.
static __global__ void __launch_bounds__(kMlpBlock)
    sdf_backward_kernel(const Network net, const SdfInputs sdf, const float* grad_outputs, const float* directions,
                        const Gradients gradients, float* grad_jacobian) {
    extern __shared__ uint4 shared[];
    const BackwardLayout layout(net, 1);
    uint4 *input = shared, *output_t = input + layout.input, *input_t = output_t + layout.output_transposed;
    float *biases = reinterpret_cast<float*>(shared + layout.weights()), *staging = biases + layout.biases;
    float* first_row = biases + kHidden;  // the place of a second layer's bias
    float* rows = staging + Lane().warp * layout.rows;
    const Columns left{reinterpret_cast<uint16_t*>(staging)}, right{left.data + layout.left};
    pack_input_layer(net, input);
    pack_input_transposed(net, input_t);
    pack_output_transposed(net, net.weight[1], output_t);
    load_biases(net, 1, biases);
    load_first_row(net, first_row);
    LayerGradient<kSdfSteps> of_input;
    OutputGradient of_output;
    __syncthreads();
    for (int64_t block = blockIdx.x; block * kBlockRows < net.points; block += gridDim.x) {
        const int64_t first = block * kBlockRows + Lane().warp * kRows;
        const int stride = net.stride();
        Hidden a, by_s, by_h;  // a, and the loss by s and by the activations
        StageParts()(net, first, rows);
        __syncwarp();
        set_bias(a, biases);
        multiply_rows(a, rows, stride, net.steps(), input);
        __syncwarp();
        each_derivative(net, sdf, first, directions,
                        [&](int row, int column, float value) { rows[row * stride + column] = value; });
        __syncwarp();
        set_all(by_s, 0.0f);
        multiply_rows(by_s, rows, stride, net.steps(), input);
        Outputs cotangent;
        load_output_gradient(net, first, grad_outputs, cotangent);
        set_all(by_h, 0.0f);
        multiply(by_h, cotangent, output_t);
        __syncthreads();  // rows and columns share their memory

        // Output layer: from the outputs, then from s
        left.put_tiles(cotangent);
        each_unit([&](int tile, int i, int unit) {
            right.put(Lane().g + 8 * (i >> 1), unit, activate<Activation::kSoftplus>(a[tile][i]));
        });
        __syncthreads();
        of_output.add(left, right);
        __syncthreads();
        each_unit([&](int tile, int i, int unit) {
            const Sigmoid sigmoid(a[tile][i]);
            right.put(Lane().g + 8 * (i >> 1), unit, by_s[tile][i] * sigmoid.value);
            // The loss by a takes the place of that by the activations, s that of the loss by s.
            const float through_s = by_s[tile][i] * first_row[unit] * kSharpness * sigmoid.slope;
            by_h[tile][i] = by_h[tile][i] * sigmoid.value + through_s;
            by_s[tile][i] = first_row[unit] * sigmoid.value;
        });
        __syncthreads();
        of_output.add_to_first(right);
        __syncthreads();

        // Input layer: from s, then from a
        left.put_tiles(by_s);
        each_derivative(net, sdf, first, directions,
                        [&](int row, int column, float value) { right.put(row, column, value); });
        store_jacobian_gradient(net, sdf, first, directions, by_s, input_t, grad_jacobian);
        __syncthreads();
        of_input.add_without_bias(net.steps(), left, right);
        __syncthreads();
        left.put_tiles(by_h);
        each_input(net, first, [&](int row, int column, float value) { right.put(row, column, value); });
        store_input_gradients(net, first, by_h, input_t);
        __syncthreads();
        of_input.add(net.steps(), left, right);
        __syncthreads();
    }
    of_output.finish(gradients.weight[1], gradients.bias[1], net.outputs);
    of_input.finish(gradients.weight[0], gradients.bias[0], net.steps(), net.inputs,
                    [&](int n) { return net.column(n); });
}

}  // namespace gs_ir

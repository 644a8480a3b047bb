// Gradients of a small network: it is evaluated again, then gone through backwards.
//
// Gradients of the weights are products over points: a block lays 128 points' activations and gradients out in shared
// memory, column by column and rounded to bfloat16 (the rounding averages out over points), and each warp keeps some
// 16 x 8 tiles of the weights' gradients in registers until the end, where blocks add theirs atomically.
#pragma once

#include "mlp_forward.cuh"

namespace gs_ir {

constexpr int kBlockRows = kWarps * kRows;
constexpr int kColumnStride = kBlockRows + 8;  // bfloat16 numbers; 4 words more than the banks, against conflicts
constexpr int kMaxSteps = kMaxInputs / 16;

struct Gradients {
    float* weight[3];
    float* bias[3];
};

using Tile = float[4];

// A block's points by column.
struct Columns {
    uint16_t* data;

    // Column `column` at this warp's point `row`.
    __device__ void put(int row, int column, float value) const {
        data[column * kColumnStride + Lane().warp * kRows + row] = uint16_t(pack_bf16(value, 0.0f));
    }
    template <int kTiles>
    __device__ void put_tiles(const float (&c)[kTiles][4]) const {
        each_number(c, [&](int row, int column, float value) { put(row, column, value); });
    }
    // Points 16 step + 2 t, + 1 of a column.
    __device__ uint32_t pair(int column, int step) const {
        return *reinterpret_cast<const uint32_t*>(data + column * kColumnStride + 16 * step + 2 * Lane().t);
    }
};

__device__ inline void left_operand(const Columns& columns, int first, int step, uint32_t (&a)[4]) {
    const Columns further{columns.data + 8};
    const int g = Lane().g;
    a[0] = columns.pair(first + g, step);
    a[1] = columns.pair(first + g + 8, step);
    a[2] = further.pair(first + g, step);
    a[3] = further.pair(first + g + 8, step);
}

__device__ inline void add_product(Tile& c, const uint32_t (&a)[4], const Columns& right, int first, int step) {
    const Columns further{right.data + 8};
    mma(c, a, right.pair(first + Lane().g, step), further.pair(first + Lane().g, step));
}

// Ones in the first column of B, zeros in the others: a product with it sums A's rows.
__device__ inline uint32_t ones_column() { return Lane().g == 0 ? 0x3f803f80u : 0u; }

// tiles[i] += left^T right at rows 16 block.. and columns 8 (first + stride i).., sums[row] += left^T 1
template <int kTiles>
__device__ void add_products(Tile (&tiles)[kTiles], Tile& sums, int count, const Columns& left, int block,
                             const Columns& right, int first, int stride) {
    const uint32_t ones = ones_column();
    for (int step = 0; step < kBlockRows / 16; ++step) {
        uint32_t a[4];
        left_operand(left, 16 * block, step, a);
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
            if (i < count) add_product(tiles[i], a, right, 8 * (first + stride * i), step);
        mma(sums, a, ones, ones);
    }
}

// Adds a tile of a weight's gradient, of which rows and columns below the limits exist, to that of all blocks.
template <typename Column>
__device__ void add_tile(const Tile& tile, float* gradient, int row, int rows, int first, int columns,
                         const Column& column_of) {
    const Lane at;
    for (int i = 0; i < 4; ++i) {
        const int m = row + at.g + 8 * (i >> 1), n = first + 2 * at.t + (i & 1);
        if (m < rows && n < columns) atomicAdd(gradient + m * columns + column_of(n), tile[i]);
    }
}

// Adds sums of rows (see ones_column) to a bias's gradient.
__device__ inline void add_sums(const Tile& sums, float* gradient, int row, int rows) {
    const Lane at;
    if (at.t != 0) return;
    if (row + at.g < rows) atomicAdd(gradient + row + at.g, sums[0]);
    if (row + at.g + 8 < rows) atomicAdd(gradient + row + at.g + 8, sums[2]);
}

// What a warp keeps of the gradients of one layer with 64 outputs: rows 16 (warp % 4).., every other column of tiles.
template <int kTiles>
struct LayerGradient {
    Tile tiles[kTiles], sums;

    __device__ LayerGradient() {
        set_all(tiles, 0.0f);
        for (int i = 0; i < 4; ++i) sums[i] = 0.0f;
    }
    __device__ void add(int count, const Columns& left, const Columns& right) {
        const int warp = Lane().warp;
        add_products(tiles, sums, count, left, warp % 4, right, warp / 4, 2);
    }
    __device__ void add_without_bias(int count, const Columns& left, const Columns& right) {
        const int warp = Lane().warp;
        Tile unused = {};
        add_products(tiles, unused, count, left, warp % 4, right, warp / 4, 2);
    }
    template <typename Column>
    __device__ void finish(float* weight, float* bias, int count, int columns, const Column& column_of) const {
        const int warp = Lane().warp, row = 16 * (warp % 4);
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
            if (i < count) add_tile(tiles[i], weight, row, kHidden, 8 * (warp / 4 + 2 * i), columns, column_of);
        if (warp < 4) add_sums(sums, bias, row, kHidden);
    }
};

// The same of the output layer: each warp has 8 columns.
struct OutputGradient {
    Tile tiles[1], sums;

    __device__ OutputGradient() {
        for (int i = 0; i < 4; ++i) tiles[0][i] = sums[i] = 0.0f;
    }
    __device__ void add(const Columns& left, const Columns& right) {
        add_products(tiles, sums, 1, left, 0, right, Lane().warp, 1);
    }
    // Adds the sums of `right` to row 0.
    __device__ void add_to_first(const Columns& right) {
        const uint32_t ones = ones_column(), first_row[4] = {ones, 0u, ones, 0u};
        for (int step = 0; step < kBlockRows / 16; ++step)
            add_product(tiles[0], first_row, right, 8 * Lane().warp, step);
    }
    __device__ void finish(float* weight, float* bias, int outputs) const {
        const int warp = Lane().warp;
        add_tile(tiles[0], weight, 0, outputs, 8 * warp, kHidden, [](int n) { return n; });
        if (warp == 0) add_sums(sums, bias, 0, outputs);
    }
};

__device__ inline void load_output_gradient(const Network& net, int64_t first, const float* gradient, Outputs& c) {
    const Lane at;
    for (int tile = 0; tile < kOutputTiles; ++tile)
        for (int i = 0; i < 4; ++i) {
            const int64_t row = first + at.g + 8 * (i >> 1);
            const int column = 8 * tile + 2 * at.t + (i & 1);
            c[tile][i] = column < net.outputs && row < net.points ? gradient[row * net.outputs + column] : 0.0f;
        }
}

__device__ inline void pack_output_transposed(const Network& net, const float* weight, uint4* to) {
    pack_weights(to, 1, kHiddenTiles, [&](int k, int n) { return k < net.outputs ? weight[k * kHidden + n] : 0.0f; });
}

__device__ inline void pack_input_transposed(const Network& net, uint4* to) {
    pack_weights(to, kHiddenSteps, 2 * net.steps(), [&](int k, int n) {
        return n < net.inputs ? net.weight[0][k * net.inputs + net.column(n)] : 0.0f;
    });
}

// Calls body(first column, tiles) for 16 columns at a time of h B [16, inputs], B as pack_input_transposed has it.
template <typename Body>
__device__ void pull_back(const Network& net, const Hidden& h, const uint4* transposed, const Body& body) {
    Fragment a[kHiddenSteps];
#pragma unroll
    for (int k = 0; k < kHiddenSteps; ++k) a[k] = fragment_of_tiles(h, k);
    const int steps = net.steps();
    for (int step = 0; step < steps; ++step) {
        float c[2][4];
        set_all(c, 0.0f);
#pragma unroll
        for (int k = 0; k < kHiddenSteps; ++k)
            multiply_step(c, a[k], transposed + 32 * (2 * steps * k + 2 * step) + Lane().lane);
        body(16 * step, c);
    }
}

// Stores the gradients of an input at the points of rows g and g + 8.
__device__ inline void store_input_gradient(const Network& net, int64_t point, int input, float value, float further) {
    for (int p = 0; p < net.parts; ++p) {
        const Part& part = net.part[p];
        if (input >= 0 && input < part.columns && part.gradient) {
            float* to = part.gradient + point * part.columns + input;
            if (point < net.points) to[0] = value;
            if (point + 8 < net.points) to[8 * part.columns] = further;
        }
        input -= part.columns;
    }
}

// Gradients of the inputs of points first.., where h is that of the first layer before its activation.
__device__ inline void store_input_gradients(const Network& net, int64_t first, const Hidden& h,
                                             const uint4* transposed) {
    pull_back(net, h, transposed, [&](int begin, const float (&c)[2][4]) {
        const Lane at;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* rows = c[i >> 1] + (i & 1);
            store_input_gradient(net, first + at.g, begin + 8 * (i >> 1) + 2 * at.t + (i & 1), rows[0], rows[2]);
        }
    });
}

// Shared memory, in order: weights, weights transposed, biases; then rows of each warp, or two sets of columns.
struct BackwardLayout {
    int input, hidden, output_transposed, hidden_transposed, input_transposed;  // uint4
    int biases, rows;                                                          // floats
    int left, right;                                                           // bfloat16 numbers

    GS_IR_HD BackwardLayout(const Network& net, int layers)
        : input(32 * net.steps() * kHiddenTiles), hidden(layers == 2 ? 32 * kHiddenSteps * kHiddenTiles : 0),
          output_transposed(32 * kHiddenTiles), hidden_transposed(hidden),
          input_transposed(32 * kHiddenSteps * 2 * net.steps()), biases(2 * kHidden + kMaxOutputs),
          rows(kRows * net.stride()), left(kHidden * kColumnStride),
          right((16 * net.steps() > kHidden ? 16 * net.steps() : kHidden) * kColumnStride) {}
    GS_IR_HD int weights() const {
        return input + hidden + output_transposed + hidden_transposed + input_transposed;
    }
    GS_IR_HD int bytes() const {
        const int by_row = 4 * kWarps * rows, by_column = 2 * (left + right);
        return 16 * weights() + 4 * biases + (by_row > by_column ? by_row : by_column);
    }
};

template <int kLayers, Activation kActivation>
__global__ void __launch_bounds__(kMlpBlock)
    mlp_backward_kernel(const Network net, const float* grad_outputs, const Gradients gradients) {
    extern __shared__ uint4 shared[];
    const BackwardLayout layout(net, kLayers);
    uint4 *input = shared, *hidden = input + layout.input, *output_t = hidden + layout.hidden;
    uint4 *hidden_t = output_t + layout.output_transposed, *input_t = hidden_t + layout.hidden_transposed;
    float *biases = reinterpret_cast<float*>(shared + layout.weights()), *staging = biases + layout.biases;
    float* rows = staging + Lane().warp * layout.rows;
    const Columns left{reinterpret_cast<uint16_t*>(staging)}, right{left.data + layout.left};
    pack_input_layer(net, input);
    pack_input_transposed(net, input_t);
    pack_output_transposed(net, net.weight[kLayers], output_t);
    if constexpr (kLayers == 2) {
        pack_hidden_layer(net.weight[1], hidden);
        pack_weights(hidden_t, kHiddenSteps, kHiddenTiles,
                     [&](int k, int n) { return net.weight[1][k * kHidden + n]; });
    }
    load_biases(net, kLayers, biases);
    LayerGradient<kMaxSteps> of_input;
    LayerGradient<kLayers == 2 ? kHiddenSteps : 1> of_hidden;
    OutputGradient of_output;
    __syncthreads();
    for (int64_t block = blockIdx.x; block * kBlockRows < net.points; block += gridDim.x) {
        const int64_t first = block * kBlockRows + Lane().warp * kRows;
        Hidden h, h2, gradient;
        StageParts()(net, first, rows);
        __syncwarp();
        set_bias(h, biases);
        multiply_rows(h, rows, net.stride(), net.steps(), input);
        activate_all<kActivation>(h);
        if constexpr (kLayers == 2) {
            set_bias(h2, biases + kHidden);
            multiply(h2, h, hidden);
            activate_all<kActivation>(h2);
        }
        __syncthreads();  // rows and columns share their memory

        // Output layer
        Hidden& last = kLayers == 2 ? h2 : h;
        Outputs cotangent;
        load_output_gradient(net, first, grad_outputs, cotangent);
        left.put_tiles(cotangent);
        right.put_tiles(last);
        set_all(gradient, 0.0f);
        multiply(gradient, cotangent, output_t);
        times_slopes<kActivation>(gradient, last);
        __syncthreads();
        of_output.add(left, right);
        __syncthreads();

        // Hidden layer
        if constexpr (kLayers == 2) {
            left.put_tiles(gradient);
            right.put_tiles(h);
            set_all(h2, 0.0f);
            multiply(h2, gradient, hidden_t);
            times_slopes<kActivation>(h2, h);
            memcpy(gradient, h2, sizeof(Hidden));
            __syncthreads();
            of_hidden.add(kHiddenSteps, left, right);
            __syncthreads();
        }

        // Input layer
        left.put_tiles(gradient);
        each_input(net, first, [&](int row, int column, float value) { right.put(row, column, value); });
        store_input_gradients(net, first, gradient, input_t);
        __syncthreads();
        of_input.add(net.steps(), left, right);
        __syncthreads();
    }
    of_output.finish(gradients.weight[kLayers], gradients.bias[kLayers], net.outputs);
    if constexpr (kLayers == 2)
        of_hidden.finish(gradients.weight[1], gradients.bias[1], kHiddenSteps, kHidden, [](int n) { return n; });
    of_input.finish(gradients.weight[0], gradients.bias[0], net.steps(), net.inputs,
                    [&](int n) { return net.column(n); });
}

}  // namespace gs_ir

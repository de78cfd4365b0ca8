// Multilayer perceptrons on rows of float32 features, forward and backward.
#pragma once

#include "numerics.h"
#include "products.h"

#include <cstdint>
#include <vector>

namespace ntm_rl {

enum Activation : int64_t { kTanh = 0, kRelu = 1 };

struct LinearLayer {
  Strips<float> weight;
  const float* bias;
  int64_t size;
};

inline void activate(Activation activation, float* x, int64_t n) {
  if (activation == kTanh) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) x[i] = tanh_(x[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) x[i] = x[i] < 0 ? 0 : x[i];  // keeps NaN
  }
}

// Multiplies d by the slopes of the activations y.
inline void activate_backward(Activation activation, const float* __restrict y, int64_t n, float* __restrict d) {
  if (activation == kTanh) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) d[i] *= 1 - y[i] * y[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) d[i] = y[i] <= 0 ? 0 : d[i];
  }
}

// Runs rows of inputs, `row` apart, through layers with activations between them; `outputs` gets each layer's outputs.
// Returns the last ones, or the inputs where there is no layer.
inline const float* run_layers(const std::vector<LinearLayer>& layers, Activation activation, int64_t rows,
                               const float* x, int64_t row, std::vector<std::vector<float>>& outputs) {
  outputs.resize(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    outputs[i].resize(rows * layer.size);
    float* to = outputs[i].data();
    layer.weight.multiply(rows, x, row, layer.bias, 0, to, layer.size);
    if (i + 1 < layers.size()) activate(activation, to, rows * layer.size);
    x = to, row = layer.size;
  }
  return x;
}

// Backward of `run_layers`. d: the gradients of the last outputs, overwritten. backward: the layers' weights for the
// products of the backward pass. Adds to `gradients`, those of weights [n, k] and biases [n] of each layer in turn, and
// writes those of the inputs [rows, k].
inline void run_layers_backward(const std::vector<LinearLayer>& layers, const std::vector<Strips<float>>& backward,
                                Activation activation, int64_t rows, const float* inputs, int64_t inputs_size,
                                std::vector<std::vector<float>>& outputs, std::vector<float>& d,
                                const std::vector<float*>& gradients, float* d_inputs) {
  std::vector<float> strips, next;
  for (size_t i = layers.size(); i-- > 0;) {
    const int64_t n = layers[i].size, k = i ? layers[i - 1].size : inputs_size;
    const float* x = i ? outputs[i - 1].data() : inputs;
    for (int64_t row = 0; row < rows; ++row) add_scaled(gradients[2 * i + 1], 1.0f, &d[row * n], n);
    strips.resize(Strips<float>::size(rows, k) + kLanes<float>);
    Strips<float>(x, rows, k, k, false, aligned(strips.data())).add_transposed(n, d.data(), n, gradients[2 * i]);
    next.resize(rows * k);
    backward[i].multiply(rows, d.data(), n, nullptr, 0, i ? next.data() : d_inputs, k);
    if (i) activate_backward(activation, x, rows * k, next.data());
    d.swap(next);
  }
}

}  // namespace ntm_rl

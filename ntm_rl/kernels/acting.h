// The networks of an actor-critic policy after its core, for steps without gradients, and actions from given noise.
#pragma once

#include "numerics.h"
#include "products.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace ntm_rl {

enum ActionKind : int64_t { kDiscrete = 0, kMultiDiscrete = 1, kMultiBinary = 2, kBox = 3 };
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

// Runs rows of inputs, `row` apart, through layers with activations between them. Returns the last outputs, which are
// in one of the buffers.
inline const float* run_layers(const std::vector<LinearLayer>& layers, Activation activation, int64_t rows,
                               const float* x, int64_t row, std::vector<float> (&buffers)[2]) {
  for (size_t i = 0; i < layers.size(); ++i) {
    const LinearLayer& layer = layers[i];
    std::vector<float>& to = buffers[i % 2];
    to.resize(rows * layer.size);
    layer.weight.multiply(rows, x, row, layer.bias, 0, to.data(), layer.size);
    if (i + 1 < layers.size()) activate(activation, to.data(), rows * layer.size);
    x = to.data(), row = layer.size;
  }
  return x;
}

// Draws one of n values by the exponential race, see agents/policy/categorical.py, and adds its log probability.
inline int64_t draw_value(const float* logits, const float* noise, int64_t n, float& log_prob) {
  float top = -std::numeric_limits<float>::infinity(), sum = 0, first = top;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, logits[i]);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += exp_(logits[i] - top);
  const float log_sum = log_(sum);
  int64_t winner = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float race = logits[i] - top - log_sum - log_(noise[i]);
    if (race > first) first = race, winner = i;
  }
  log_prob += logits[winner] - top - log_sum;
  return winner;
}

// Draws the values [k] of a MultiDiscrete action; returns its log probability.
inline float draw_values(const float* logits, const float* noise, const int64_t* sizes, int64_t k, int64_t* action) {
  float log_prob = 0;
  for (int64_t i = 0; i < k; logits += sizes[i], noise += sizes[i], ++i)
    action[i] = draw_value(logits, noise, sizes[i], log_prob);
  return log_prob;
}

// Draws n bits with uniform noise; returns their log probability.
inline float draw_bits(const float* logits, const float* noise, int64_t n, float* action) {
  float log_prob = 0;
  for (int64_t i = 0; i < n; ++i) {
    action[i] = noise[i] < sigmoid(logits[i]) ? 1 : 0;
    log_prob -= std::max(logits[i], 0.0f) - logits[i] * action[i] + log1p_(exp_(-std::abs(logits[i])));
  }
  return log_prob;
}

// Draws n numbers with standard normal noise; returns their log probability.
inline float draw_numbers(const float* means, const float* log_std, const float* noise, int64_t n, float* action) {
  constexpr float kLogRootTwoPi = 0.918938533f;
  float log_prob = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float std = exp_(log_std[i]);
    action[i] = means[i] + noise[i] * std;
    const float distance = action[i] - means[i];
    log_prob -= distance * distance / (2 * std * std) + log_std[i] + kLogRootTwoPi;
  }
  return log_prob;
}

}  // namespace ntm_rl

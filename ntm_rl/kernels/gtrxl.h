// One step of a Gated Transformer-XL without gradients; cores/gtrxl.py is the specification.
#pragma once

#include "layers.h"
#include "products.h"

#include <cstdint>
#include <vector>

namespace ntm_rl {

// B batch, I inputs, D features, K heads of width M, W past steps of a window, E = K * M.
struct TransformerSizes {
  int64_t B, I, D, K, M, W, layers, E;

  int64_t state() const { return 2 + layers * W * D; }
};

// The weights of a gate (GruGate) and of a layer.
template <typename s>
struct Gate {
  Strips<s> from_update, from_stream, from_reset;
  const s* bias;
};

template <typename s>
struct TransformerLayer {
  const s *norm, *norm_bias;
  Strips<s> query;
  const s *key, *value, *content_bias, *distance_bias;
  Strips<s> merge;
  Gate<s> attention_gate;
  const s *perceptron_norm, *perceptron_norm_bias;
  Strips<s> wide;
  const s* wide_bias;
  Strips<s> narrow;
  const s* narrow_bias;
  Gate<s> perceptron_gate;
  const s* distance_keys;  // [W + 1, E], from the farthest step to the current one
};

// x [rows, D] = gate(x, update [rows, D]).
template <typename s>
void mix_gate(const Gate<s>& w, int64_t rows, int64_t D, const s* update, s* x, std::vector<s>& work) {
  work.resize(rows * 7 * D);
  s *sums = work.data(), *stream = sums + rows * 3 * D, *reset = stream + rows * 2 * D, *candidate = reset + rows * D;
  w.from_update.multiply(rows, update, D, nullptr, 0, sums, 3 * D);
  w.from_stream.multiply(rows, x, D, nullptr, 0, stream, 2 * D);
  for (int64_t b = 0; b < rows; ++b)
#pragma omp simd
    for (int64_t i = 0; i < D; ++i)
      reset[b * D + i] = sigmoid(sums[b * 3 * D + i] + stream[b * 2 * D + i]) * x[b * D + i];
  w.from_reset.multiply(rows, reset, D, nullptr, 0, candidate, D);
  for (int64_t b = 0; b < rows; ++b)
#pragma omp simd
    for (int64_t i = 0; i < D; ++i) {
      const s gate = sigmoid(sums[b * 3 * D + D + i] + stream[b * 2 * D + D + i] - w.bias[i]);
      const s proposed = tanh_(sums[b * 3 * D + 2 * D + i] + candidate[b * D + i]);
      x[b * D + i] += gate * (proposed - x[b * D + i]);
    }
}

// Attention of one sequence over its normalised context [W + 1, D], of which the rows from `first` on are visible.
// queries [E]; means [E] of the heads' values; `work` has W + 1 + 2 D elements.
template <typename s>
void attend(const TransformerSizes& z, const TransformerLayer<s>& w, const s* queries, const s* context, int64_t first,
            s* means, s* work) {
  const s scale = 1 / std::sqrt(s(z.M));
  s *scores = work, *projected = scores + z.W + 1, *mean = projected + z.D;
  for (int64_t k = 0; k < z.K; ++k) {
    std::fill_n(projected, 2 * z.D, s(0));
    for (int64_t m = k * z.M; m < (k + 1) * z.M; ++m)
      add_scaled(projected, scale * (queries[m] + w.content_bias[m]), w.key + m * z.D, z.D);
    for (int64_t i = first; i <= z.W; ++i) {
      s by_distance = 0;
      const s* keys = w.distance_keys + i * z.E;
      for (int64_t m = k * z.M; m < (k + 1) * z.M; ++m) by_distance += (queries[m] + w.distance_bias[m]) * keys[m];
      scores[i] = scale * by_distance + dot(projected, context + i * z.D, z.D);
    }
    softmax(scores + first, scores + first, s(1), z.W + 1 - first);
    for (int64_t i = first; i <= z.W; ++i) add_scaled(mean, scores[i], context + i * z.D, z.D);
    for (int64_t m = k * z.M; m < (k + 1) * z.M; ++m) means[m] = dot(mean, w.value + m * z.D, z.D);
  }
}

template <typename s>
inline void rectify(s* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] < 0 ? s(0) : x[i];  // NaN stays
}

// Runs a layer on rows x [rows, D] in place. windows[b]: [W, D] rows before the step, visible from firsts[b] on.
template <typename s>
void run_layer(const TransformerSizes& z, const TransformerLayer<s>& w, int64_t rows, const s* const* windows,
               const int64_t* firsts, s* x, std::vector<s>& work) {
  const int64_t D = z.D, length = (z.W + 1) * D;
  std::vector<s> contexts(rows * length), queries(rows * z.E), means(rows * z.E), update(rows * D), wide(rows * 2 * D),
      own(z.W + 1 + 2 * D);
  for (int64_t b = 0; b < rows; ++b) {
    s* context = &contexts[b * length];
    for (int64_t i = firsts[b]; i <= z.W; ++i) {
      s* row = context + i * D;
      std::copy_n(i < z.W ? windows[b] + i * D : x + b * D, D, row);
      normalize(row, D);
      scale_and_shift(row, w.norm, w.norm_bias, D, row);
    }
  }
  w.query.multiply(rows, &contexts[z.W * D], length, nullptr, 0, queries.data(), z.E);
  for (int64_t b = 0; b < rows; ++b)
    attend(z, w, &queries[b * z.E], &contexts[b * length], firsts[b], &means[b * z.E], own.data());
  w.merge.multiply(rows, means.data(), z.E, nullptr, 0, update.data(), D);
  rectify(update.data(), rows * D);
  mix_gate(w.attention_gate, rows, D, update.data(), x, work);
  std::copy_n(x, rows * D, update.data());
  for (int64_t b = 0; b < rows; ++b) {
    s* row = &update[b * D];
    normalize(row, D);
    scale_and_shift(row, w.perceptron_norm, w.perceptron_norm_bias, D, row);
  }
  w.wide.multiply(rows, update.data(), D, w.wide_bias, 0, wide.data(), 2 * D);
  rectify(wide.data(), rows * 2 * D);
  w.narrow.multiply(rows, wide.data(), 2 * D, w.narrow_bias, 0, update.data(), D);
  rectify(update.data(), rows * D);
  mix_gate(w.perceptron_gate, rows, D, update.data(), x, work);
}

}  // namespace ntm_rl

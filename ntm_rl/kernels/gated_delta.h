// One step of gated delta nets without gradients; cores/gated_delta.py is the specification.
#pragma once

#include "layers.h"
#include "products.h"

#include <cstdint>
#include <vector>

namespace ntm_rl {

// B batch, I inputs, H features, K heads of width M, C lags of the convolution, P projections, E = K * M.
struct DeltaSizes {
  int64_t B, I, H, K, M, C, layers, E, P;

  int64_t memory() const { return E * M; }        // elements of a layer's memory, keys by values
  int64_t recent() const { return (C - 1) * 3 * E; }  // of its recent projections
  int64_t state() const { return 1 + layers * (memory() + recent()); }
};

template <typename s>
struct DeltaLayer {
  const s *norm, *norm_bias;
  Strips<s> project;
  const s *kernel, *output_norm, *output_norm_bias;
  Strips<s> output;
  const s *log_rates, *time_bias;
};

// The convolution of a sequence's current projections [3 E] and their activation; `after` gets the recent ones.
template <typename s>
void convolve(const DeltaSizes& z, const DeltaLayer<s>& w, const s* current, const s* recent, s* after, s* to) {
  const int64_t n = 3 * z.E, past = z.C - 1;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = w.kernel[i] * current[i];
  for (int64_t lag = 1; lag <= past; ++lag) multiply_add(w.kernel + lag * n, recent + (past - lag) * n, n, to);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = silu(to[i]);
  if (past > 0) {
    std::copy_n(recent + n, (past - 1) * n, after);
    std::copy_n(current, n, after + (past - 1) * n);
  }
}

template <typename s>
inline void normalize_direction(s* x, int64_t n) {
  const s scale = 1 / std::sqrt(dot(x, x, n) + s(1e-6));  // NORM_EPSILON in cores/gated_delta.py
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

// One head: query, key and value [M], memory [M, M] from keys to values.
template <typename s>
struct DeltaRule {
  int64_t M;
  const s *query, *key, *value;
  s rate, decay;
  const s* memory;
  s *after, *read;
};

// Applies the rule to the columns from j on that fill vectors of BYTES; they are independent. Returns the next column.
template <int64_t BYTES, typename s>
int64_t apply_to_columns(const DeltaRule<s>& of, int64_t j) {
  using Columns = typename VectorOf<s, BYTES>::type;
  constexpr int64_t columns = BYTES / sizeof(s);
  for (; j + columns <= of.M; j += columns) {
    Columns row, value, found = {}, read = {};
    for (int64_t i = 0; i < of.M; ++i) {
      std::memcpy(&row, of.memory + i * of.M + j, BYTES);
      found += of.key[i] * row;
    }
    std::memcpy(&value, of.value + j, BYTES);
    const Columns change = of.rate * (value - of.decay * found);
    for (int64_t i = 0; i < of.M; ++i) {
      std::memcpy(&row, of.memory + i * of.M + j, BYTES);
      row = of.decay * row + of.key[i] * change;
      read += of.query[i] * row;
      std::memcpy(of.after + i * of.M + j, &row, BYTES);
    }
    std::memcpy(of.read + j, &read, BYTES);
  }
  return j;
}

template <typename s>
void apply_delta(const DeltaRule<s>& of) {
  const int64_t rest = apply_to_columns<kVectorBytes>(of, 0);
  apply_to_columns<sizeof(s)>(of, apply_to_columns<16>(of, rest));
}

// Mixes the projections [P] of a sequence with its memory into `mixed` [E]; `work` has 3 E elements.
template <typename s>
void mix(const DeltaSizes& z, const DeltaLayer<s>& w, const s* projections, const s* memory, const s* recent,
         s* memory_after, s* recent_after, s* mixed, s* work) {
  const int64_t E = z.E, M = z.M;
  convolve(z, w, projections, recent, recent_after, work);
  const s *gates = projections + 3 * E, *rates = gates + E, *time_steps = rates + z.K;
  for (int64_t k = 0; k < z.K; ++k) {
    s *query = work + k * M, *key = query + E, *value = key + E, *read = mixed + k * M;
    normalize_direction(query, M);
    normalize_direction(key, M);
    const s time = time_steps[k] + w.time_bias[k], softplus = std::max(time, s(0)) + log1p_(exp_(-std::abs(time)));
    const s decay = exp_(std::max(-exp_(w.log_rates[k]) * softplus, s(-20)));  // LEAST_LOG_DECAY
    const int64_t at = k * M * M;
    apply_delta<s>({M, query, key, value, sigmoid(rates[k]), decay, memory + at, memory_after + at, read});
    normalize(read, M);
    scale_and_shift(read, w.output_norm, w.output_norm_bias, M, read);
  }
#pragma omp simd
  for (int64_t i = 0; i < E; ++i) mixed[i] *= silu(gates[i]);
}

// Runs a layer on rows x [rows, H] in place; memories and recent projections are `row` apart.
template <typename s>
void run_layer(const DeltaSizes& z, const DeltaLayer<s>& w, int64_t rows, s* x, const s* const* memory,
               const s* const* recent, s* memory_after, s* recent_after, int64_t row, std::vector<s>& work) {
  work.resize(rows * (z.H + z.P + z.E) + 3 * z.E);
  s *normalized = work.data(), *projections = normalized + rows * z.H, *mixed = projections + rows * z.P,
    *own = mixed + rows * z.E;
  std::copy_n(x, rows * z.H, normalized);
  for (int64_t b = 0; b < rows; ++b) {
    s* each = normalized + b * z.H;
    normalize(each, z.H);
    scale_and_shift(each, w.norm, w.norm_bias, z.H, each);
  }
  w.project.multiply(rows, normalized, z.H, nullptr, 0, projections, z.P);
  for (int64_t b = 0; b < rows; ++b)
    mix(z, w, projections + b * z.P, memory[b], recent[b], memory_after + b * row, recent_after + b * row,
        mixed + b * z.E, own);
  w.output.multiply(rows, mixed, z.E, x, z.H, x, z.H);
}

}  // namespace ntm_rl

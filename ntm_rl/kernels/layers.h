// Layers on rows of features, forward and backward.
#pragma once

#include "numerics.h"

#include <vector>

namespace ntm_rl {

constexpr double kLayerNormEpsilon = 1e-5;  // torch's default

// Normalises a row [n] in place to mean 0 and variance 1; returns the factor.
template <typename s>
inline s normalize(s* __restrict x, int64_t n) {
  s sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const s mean = sum / n;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) {
    x[i] -= mean;
    squares += x[i] * x[i];
  }
  const s scale = 1 / std::sqrt(squares / n + s(kLayerNormEpsilon));
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
  return scale;
}

// to [n] = x [n] over the root of its mean square plus epsilon.
template <typename s>
inline void rms_norm(const s* x, s epsilon, int64_t n, s* to) {
  s squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  const s scale = 1 / std::sqrt(squares / n + epsilon);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = x[i] * scale;
}

// to [n] = normalized [n] * weight + bias; to may be normalized.
template <typename s>
inline void scale_and_shift(const s* normalized, const s* weight, const s* bias, int64_t n, s* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = normalized[i] * weight[i] + bias[i];
}

// Backward of a layer norm, from its normalised row and the factor of `normalize`. d: in, the gradient of the row out;
// out, of the row in. Adds to d_weight and d_bias.
template <typename s>
inline void layer_norm_backward(const s* __restrict normalized, s scale, const s* __restrict weight, int64_t n,
                                s* __restrict d, s* __restrict d_weight, s* __restrict d_bias) {
  s sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
  for (int64_t i = 0; i < n; ++i) {
    d_weight[i] += d[i] * normalized[i];
    d_bias[i] += d[i];
    d[i] *= weight[i];
    sum += d[i];
    along += d[i] * normalized[i];
  }
  const s mean = sum / n, slope = along / n;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = scale * (d[i] - mean - slope * normalized[i]);
}

template <typename s>
[[gnu::always_inline]] inline s silu(s x) {
  return x * sigmoid(x);
}

template <typename s>
[[gnu::always_inline]] inline s silu_slope(s x) {
  const s gate = sigmoid(x);
  return gate * (1 + x * (1 - gate));
}

}  // namespace ntm_rl

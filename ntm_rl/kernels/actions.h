// Actions of stochastic policies from given noise, and the gradients of their log probabilities and entropies. The
// parameters of a row are logits, or for a Box means and logarithms of standard deviations.
#pragma once

#include "numerics.h"

#include <cmath>
#include <cstdint>
#include <limits>

namespace ntm_rl {

enum ActionKind : int64_t { kDiscrete = 0, kMultiDiscrete = 1, kMultiBinary = 2, kBox = 3 };

constexpr float kLogRootTwoPi = 0.918938533f;

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
  float log_prob = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float std = exp_(log_std[i]);
    action[i] = means[i] + noise[i] * std;
    const float distance = action[i] - means[i];
    log_prob -= distance * distance / (2 * std * std) + log_std[i] + kLogRootTwoPi;
  }
  return log_prob;
}

// A log probability and an entropy, or the gradients of a loss with respect to them.
struct Likelihood {
  float log_prob = 0, entropy = 0;
};

// Adds those of one of n values; log_probs [n] gets the values' log probabilities.
inline void evaluate_value(const float* logits, int64_t n, int64_t value, Likelihood& sum, float* log_probs) {
  float top = -std::numeric_limits<float>::infinity(), total = 0, entropy = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, logits[i]);
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += exp_(logits[i] - top);
  const float log_total = log_(total);
#pragma omp simd reduction(+ : entropy)
  for (int64_t i = 0; i < n; ++i) {
    log_probs[i] = std::max(logits[i] - top - log_total, std::numeric_limits<float>::lowest());  // keeps NaN
    entropy -= exp_(log_probs[i]) * log_probs[i];
  }
  sum.log_prob += log_probs[value], sum.entropy += entropy;
}

// Turns log_probs [n] into the gradients of the logits.
inline void evaluate_value_backward(int64_t n, int64_t value, const Likelihood& d, float* log_probs) {
  float entropy = 0;
#pragma omp simd reduction(+ : entropy)
  for (int64_t i = 0; i < n; ++i) entropy -= exp_(log_probs[i]) * log_probs[i];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    log_probs[i] = -exp_(log_probs[i]) * (d.log_prob + d.entropy * (log_probs[i] + entropy));
  log_probs[value] += d.log_prob;
}

inline float softplus(float x) { return std::max(x, 0.0f) + log1p_(exp_(-std::abs(x))); }

inline Likelihood evaluate_bits(const float* logits, const float* action, int64_t n) {
  Likelihood sum;
  for (int64_t i = 0; i < n; ++i) {
    sum.log_prob += logits[i] * action[i] - softplus(logits[i]);
    sum.entropy += softplus(logits[i]) - logits[i] * sigmoid(logits[i]);
  }
  return sum;
}

inline void evaluate_bits_backward(const float* logits, const float* action, int64_t n, const Likelihood& d,
                                   float* d_logits) {
  for (int64_t i = 0; i < n; ++i) {
    const float p = sigmoid(logits[i]);
    d_logits[i] = d.log_prob * (action[i] - p) - d.entropy * logits[i] * p * (1 - p);
  }
}

inline Likelihood evaluate_numbers(const float* means, const float* log_std, const float* action, int64_t n) {
  Likelihood sum;
  for (int64_t i = 0; i < n; ++i) {
    const float distance = (action[i] - means[i]) * exp_(-log_std[i]);
    sum.log_prob -= 0.5f * distance * distance + log_std[i] + kLogRootTwoPi;
    sum.entropy += 0.5f + kLogRootTwoPi + log_std[i];
  }
  return sum;
}

// Adds to d_log_std.
inline void evaluate_numbers_backward(const float* means, const float* log_std, const float* action, int64_t n,
                                      const Likelihood& d, float* d_means, float* d_log_std) {
  for (int64_t i = 0; i < n; ++i) {
    const float scale = exp_(-log_std[i]), distance = (action[i] - means[i]) * scale;
    d_means[i] = d.log_prob * distance * scale;
    d_log_std[i] += d.log_prob * (distance * distance - 1) + d.entropy;
  }
}

}  // namespace ntm_rl

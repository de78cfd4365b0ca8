// A step of a sparse access memory without gradients; cores/sam_sequence.py is the specification.
#pragma once

#include "controllers.h"
#include "numerics.h"
#include "products.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace ntm_rl {

constexpr double kSamNormEpsilon = 1e-6;  // NORM_EPSILON in addressing/ntm.py
constexpr double kNegligible = 0.005, kTie = 1e-10;

// N slots of width M, R heads that read K slots, H units. A state is: alive flag, memory, last accesses [N], clock,
// slots read [R, K], their weights [R, K], reads [R, M], hidden state, cell.
struct SamSizes {
  int64_t B, I, N, M, R, K, H;
  double clip;

  int64_t accesses_at() const { return 1 + N * M; }
  int64_t clock_at() const { return accesses_at() + N; }
  int64_t slots_at() const { return clock_at() + 1; }
  int64_t weights_at() const { return slots_at() + R * K; }
  int64_t reads_at() const { return weights_at() + R * K; }
  int64_t hidden_at() const { return reads_at() + R * M; }
  int64_t state() const { return hidden_at() + 2 * H; }
  int64_t P() const { return 2 * R * M + 3 * R; }
};

template <typename s>
inline s reciprocal_norm(const s* row, int64_t n) {
  return 1 / std::sqrt(dot(row, row, n) + s(kSamNormEpsilon));
}

// Writes the indices of the `count` largest of n values in descending order.
template <typename s>
inline void find_largest(const s* values, int64_t n, int64_t count, std::vector<int64_t>& indices) {
  indices.resize(n);
  std::iota(indices.begin(), indices.end(), 0);
  const auto is_larger = [&](int64_t a, int64_t b) {
    const bool of_nan = std::isnan(values[a]) && !std::isnan(values[b]);
    return of_nan || values[a] > values[b] || (values[a] == values[b] && a < b);
  };
  std::partial_sort(indices.begin(), indices.begin() + count, indices.end(), is_larger);
}

// Accesses the memory of one batch element. `before` and `after` are states, of which the controller's parts of `after`
// are written; raw [P]: the interface layer's output.
template <typename s>
void access_sparse(const SamSizes& z, const s* before, bool starts, s* raw, s* after) {
  const int64_t N = z.N, M = z.M, R = z.R, K = z.K, written = R * (1 + K);
  s *memory = after + 1, *accesses = after + z.accesses_at(), clock = starts ? 0 : std::nearbyint(before[z.clock_at()]);
  std::vector<s> scales(N), scores(N), shares(written);
  std::vector<int64_t> order, rows(written);
  for (int64_t i = 0; i < z.P(); ++i) raw[i] = clamp(raw[i], s(z.clip));
  const s *queries = raw, *adds = raw + R * M, *strengths = adds + R * M, *gates = strengths + R;
  if (starts)
    std::fill_n(memory, N * M, s(0));
  else
    std::copy_n(before + 1, N * M, memory);
  for (int64_t j = 0; j < N; ++j) {
    const s last = starts ? 0 : before[z.accesses_at() + j];
    accesses[j] = last < s(0.5) ? s(j - N) : std::nearbyint(last);
    scales[j] = starts ? 0 : std::max(reciprocal_norm(memory + j * M, M), std::numeric_limits<s>::min());
    scores[j] = -accesses[j];
  }
  find_largest(scores.data(), N, R, order);
  for (int64_t r = 0; r < R; ++r) {
    const s gate = sigmoid(gates[r]), interpolation = sigmoid(gates[R + r]);
    rows[r * (1 + K)] = order[r], shares[r * (1 + K)] = gate * (1 - interpolation);
    scales[order[r]] = 0;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t at = r * K + k;
      const s slot = starts ? 0 : before[z.slots_at() + at], weight = starts ? 0 : before[z.weights_at() + at];
      rows[r * (1 + K) + 1 + k] = std::isnan(slot) ? 0 : int64_t(std::clamp(std::nearbyint(slot), s(0), s(N - 1)));
      shares[r * (1 + K) + 1 + k] = gate * (interpolation * weight);
    }
  }
  for (const int64_t row : rows)
    if (scales[row] == 0) std::fill_n(memory + row * M, M, s(0));
  for (int64_t a = 0; a < written; ++a) add_scaled(memory + rows[a] * M, shares[a], adds + a / (1 + K) * M, M);
  for (const int64_t row : rows)
    scales[row] = std::max(reciprocal_norm(memory + row * M, M), std::numeric_limits<s>::min());
  const auto touch = [&](int64_t slot, s weight, int64_t tick) {
    if (weight > s(kNegligible)) accesses[slot] = std::max(accesses[slot], clock + s(tick));
  };
  for (int64_t a = 0; a < written; ++a) touch(rows[a], shares[a], a + 1);
  for (int64_t r = 0; r < R; ++r) {
    const s* query = queries + r * M;
    for (int64_t j = 0; j < N; ++j)
      scores[j] = s(-kTie) * (1 + j) + (scales[j] == 0 ? 0 : dot(query, memory + j * M, M) * scales[j]);
    find_largest(scores.data(), N, K, order);
    std::sort(order.begin(), order.begin() + K);
    s *weights = after + z.weights_at() + r * K, *read = after + z.reads_at() + r * M;
    const s strength = 1 + (std::max(strengths[r], s(0)) + log1p_(exp_(-std::abs(strengths[r]))));
    for (int64_t k = 0; k < K; ++k) {
      const s* row = memory + order[k] * M;
      after[z.slots_at() + r * K + k] = order[k];
      weights[k] = dot(query, row, M) * reciprocal_norm(query, M) * reciprocal_norm(row, M);
    }
    softmax(weights, weights, strength, K);
    std::fill_n(read, M, s(0));
    for (int64_t k = 0; k < K; ++k) {
      add_scaled(read, weights[k], memory + order[k] * M, M);
      touch(order[k], weights[k], written + r * K + k + 1);
    }
  }
  for (int64_t j = 0; j < N; ++j) accesses[j] = std::max(accesses[j], s(0));
  after[0] = 1;
  after[z.clock_at()] = clock + s(R * (1 + 2 * K));
}

// The weights: of inputs, their bias, of the feedback; of the interface layer and its bias.
template <typename s>
struct SamWeights {
  Strips<s> input, feedback, interface;
  const s *bias, *interface_bias;
};

// Runs a step of `rows` batch elements, whose states are z.state() apart.
template <typename s>
void run_sparse(const SamSizes& z, const SamWeights<s>& w, int64_t rows, const s* inputs, const s* before,
                const bool* resets, s* outputs, s* after) {
  const int64_t S = z.state(), F = z.R * z.M + z.H, O = F, G = 4 * z.H;
  std::vector<s> feedback(rows * F), gates(rows * G), raw(rows * z.P()), hidden(rows * z.H), zeros(z.H);
  for (int64_t b = 0; b < rows; ++b)
    if (!(resets && resets[b])) std::copy_n(before + b * S + z.reads_at(), F, &feedback[b * F]);
  w.input.multiply(rows, inputs, z.I, w.bias, 0, gates.data(), G);
  w.feedback.multiply(rows, feedback.data(), F, gates.data(), G, gates.data(), G);
  for (int64_t b = 0; b < rows; ++b) {
    const s* cell = resets && resets[b] ? zeros.data() : before + b * S + z.hidden_at() + z.H;
    s* to = after + b * S + z.hidden_at();
    control<s>(kLstm, z.H, &gates[b * G], nullptr, cell, to, to + z.H);
    std::copy_n(to, z.H, &hidden[b * z.H]);
  }
  w.interface.multiply(rows, hidden.data(), z.H, w.interface_bias, 0, raw.data(), z.P());
  for (int64_t b = 0; b < rows; ++b) {
    access_sparse(z, before + b * S, resets && resets[b], &raw[b * z.P()], after + b * S);
    std::copy_n(&hidden[b * z.H], z.H, outputs + b * O);
    std::copy_n(after + b * S + z.reads_at(), z.R * z.M, outputs + b * O + z.H);
  }
}

}  // namespace ntm_rl

// The NTM over whole sequences on a CPU, forward and backward; ntm_rl/ntm.py is the specification.
//
// Letters as there: T steps, B batch, I inputs, N slots, M width, R read heads, W write heads, K = R + W, S shifts, H
// units of the controller, P head parameters, G rows of the controller's gates, F = R * M (+ H) what is fed back to the
// controller.
// All matrix products are ATen's and run over the batch; what happens at the memory is done an element of the batch at
// a time, while its memory is in the cache.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <optional>
#include <vector>

namespace {

using at::Tensor;

constexpr double kNormEpsilon = 1e-6;  // addressing.NORM_EPSILON
constexpr double kLogEpsilon = 1e-8;   // addressing.LOG_EPSILON
enum Controller : int64_t { kLstm = 0, kGru = 1, kFeedforward = 2 };

struct Sizes {
  int64_t T, B, I, N, M, R, W, K, S, H, P, G, F, O;
  int64_t memory, weightings, reads, state;  // elements of one batch element
  Controller controller;
  double clip;

  Sizes(const Tensor& inputs, at::IntArrayRef shape, double clip_) : clip(clip_) {
    T = inputs.size(0), B = inputs.size(1), I = inputs.size(2);
    N = shape[0], M = shape[1], R = shape[2], W = shape[3], S = shape[4], H = shape[5];
    controller = static_cast<Controller>(shape[6]);
    G = H * (controller == kFeedforward ? 1 : 4);
    K = R + W;
    P = K * (M + 3 + S) + 2 * W * M;
    F = R * M + (controller == kFeedforward ? 0 : H);
    O = H + R * M;
    memory = N * M, weightings = K * N, reads = R * M;
    state = 1 + memory + weightings + reads + H + (controller == kLstm ? H : 0);
  }
};

// exp and log as polynomials that the compiler turns into vector code; errors below 2 units in the last place.
inline float exp_(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = std::nearbyint(x * 1.44269504088896341f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

inline float log_(float x) {  // x > 0 and not denormal
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int32_t shifted = bits - 0x3f3504f3;  // sqrt(1/2): mantissas end up in [sqrt(1/2), sqrt(2))
  const int32_t exponent = shifted >> 23;
  const int32_t mantissa_bits = bits - (exponent << 23);
  float m;
  std::memcpy(&m, &mantissa_bits, sizeof m);
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const float series = 2.0f + z * (0.66666666f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
  return s * series + static_cast<float>(exponent) * 0.69314718f;
}

inline double exp_(double x) { return std::exp(x); }
inline double log_(double x) { return std::log(x); }

template <typename s>
inline s sigmoid(s x) {
  return s(1) / (s(1) + exp_(-x));
}

template <typename s>
inline s tanh_(s x) {  // by a polynomial where the formula would cancel
  const s z = x * x;
  s p = s(-5.70498872745e-3);
  p = p * z + s(2.06390887954e-2);
  p = p * z + s(-5.37397155531e-2);
  p = p * z + s(1.33314422036e-1);
  p = p * z + s(-3.33332819422e-1);
  const s formula = s(1) - s(2) / (s(1) + exp_(s(2) * x));
  return z < s(0.625 * 0.625) ? x + x * z * p : formula;
}

template <>
inline double tanh_(double x) {
  return std::tanh(x);
}

template <typename s>
inline s softplus(s x) {
  return std::max(x, s(0)) + std::log1p(std::exp(-std::abs(x)));
}

template <typename s>
inline s clamp(s x, s bound) {
  return std::min(std::max(x, -bound), bound);
}

template <typename s>
inline s dot(const s* __restrict a, const s* __restrict b, int64_t n) {
  s sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename s>
inline void add_scaled(s* __restrict to, s factor, const s* __restrict from, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

// x -> softmax(scale * x), in place.
template <typename s>
inline void softmax(s* __restrict x, s scale, int64_t n) {
  s top = x[0] * scale;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) top = std::max(top, x[i] * scale);
  s sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    x[i] = exp_(x[i] * scale - top);
    sum += x[i];
  }
  const s inverse = s(1) / sum;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= inverse;
}

// shifted[i] = sum_j shift[j] * x[i - (j - reach)], circularly.
template <typename s>
inline void rotate(s* __restrict shifted, const s* __restrict x, const s* shift, int64_t count, int64_t n) {
  std::fill_n(shifted, n, s(0));
  for (int64_t j = 0; j < count; ++j) {
    const int64_t by = ((j - count / 2) % n + n) % n;
    add_scaled(shifted + by, shift[j], x, n - by);
    add_scaled(shifted, shift[j], x + n - by, by);
  }
}

// What the controller says to the heads, activated. One per thread, filled for one batch element at a time.
template <typename s>
struct Heads {
  std::vector<s> values;
  s *keys, *strengths, *gates, *shifts, *exponents, *erases, *adds;

  explicit Heads(const Sizes& z) : values(z.P) { place(z, values.data()); }

  void place(const Sizes& z, s* at) {
    keys = at, at += z.K * z.M;
    strengths = at, at += z.K;
    gates = at, at += z.K;
    shifts = at, at += z.K * z.S;
    exponents = at, at += z.K;
    erases = at, at += z.W * z.M;
    adds = at;
  }

  void activate(const Sizes& z, const s* raw) {
    const s bound = static_cast<s>(z.clip);
#pragma omp simd
    for (int64_t i = 0; i < z.P; ++i) values[i] = clamp(raw[i], bound);
    for (int64_t k = 0; k < z.K; ++k) {
      strengths[k] = softplus(strengths[k]);
      gates[k] = sigmoid(gates[k]);
      exponents[k] = 1 + softplus(exponents[k]);
      softmax(shifts + k * z.S, s(1), z.S);
    }
#pragma omp simd
    for (int64_t i = 0; i < z.W * z.M; ++i) erases[i] = sigmoid(erases[i]);
  }
};

// The controller's part of a step for one batch element: the gates are activated in place.
template <typename s>
inline void control(const Sizes& z, s* __restrict g, const s* hidden_in, const s* cell_in, s* __restrict hidden,
                    s* cell) {
  const int64_t H = z.H;
  if (z.controller == kFeedforward) {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) hidden[i] = g[i] = tanh_(g[i]);
  } else if (z.controller == kLstm) {
#pragma omp simd
    for (int64_t i = 0; i < 2 * H; ++i) g[i] = sigmoid(g[i]);
#pragma omp simd
    for (int64_t i = 2 * H; i < 3 * H; ++i) g[i] = tanh_(g[i]);
#pragma omp simd
    for (int64_t i = 3 * H; i < 4 * H; ++i) g[i] = sigmoid(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      cell[i] = g[H + i] * cell_in[i] + g[i] * g[2 * H + i];
      hidden[i] = g[3 * H + i] * tanh_(cell[i]);
    }
  } else {  // gates: reset, update, candidate from the input, candidate from the hidden state
#pragma omp simd
    for (int64_t i = 0; i < 2 * H; ++i) g[i] = sigmoid(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      g[2 * H + i] = tanh_(g[2 * H + i] + g[i] * g[3 * H + i]);
      hidden[i] = g[2 * H + i] + g[H + i] * (hidden_in[i] - g[2 * H + i]);
    }
  }
}

// Where a batch element's state lies: in the flat start state, the flat state given, or the blocks of the last step.
template <typename s>
struct Parts {
  const s *memory, *weightings, *reads, *hidden, *cell;

  static Parts of(const s* flat, const Sizes& z) {
    Parts parts;
    parts.memory = flat + 1;
    parts.weightings = parts.memory + z.memory;
    parts.reads = parts.weightings + z.weightings;
    parts.hidden = parts.reads + z.reads;
    parts.cell = parts.hidden + z.H;
    return parts;
  }
};

// Rows of what a sequence computes, one a batch element; of every step, or of the last one alone (step = 0).
template <typename s>
struct Block {
  s* data;
  int64_t step, row;
  s* at(int64_t t, int64_t b) const { return data + t * step + b * row; }
};

template <typename s>
struct Blocks {
  Block<s> gates, fed, raw, outputs, memory, weightings, content, similarity, norms, cell;
  const bool* fresh;
  const s *state, *start;

  Parts<s> entering(const Sizes& z, int64_t t, int64_t b) const {
    if (fresh[t * z.B + b]) return Parts<s>::of(start, z);
    if (t == 0) return Parts<s>::of(state + b * z.state, z);
    return {memory.at(t - 1, b), weightings.at(t - 1, b), outputs.at(t - 1, b) + z.H, outputs.at(t - 1, b),
            cell.at(t - 1, b)};
  }
};

template <typename s>
struct Scratch {
  Heads<s> heads, d_heads;
  std::vector<s> gated, shifted, key_norms, d_slots, d_shifted, d_gated, kept, d_kept;

  explicit Scratch(const Sizes& z)
      : heads(z), d_heads(z), gated(z.N), shifted(z.N), key_norms(z.K), d_slots(z.N), d_shifted(z.N),
        d_gated(z.N), kept(z.M), d_kept(z.M) {}
};

// norms[i] = sqrt(|vectors[i]|^2 + epsilon).
template <typename s, int64_t WIDTH>
void norms_of(s* __restrict norms, const s* vectors, int64_t count, int64_t width) {
  const int64_t M = WIDTH ? WIDTH : width;
  for (int64_t i = 0; i < count; ++i) norms[i] = dot(vectors + i * M, vectors + i * M, M);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) norms[i] = std::sqrt(norms[i] + s(kNormEpsilon));
}

// A step at the memory of one batch element. WIDTH is M where it is known when this is compiled, else 0.
template <typename s, int64_t WIDTH>
void address(const Sizes& z, const Parts<s>& in, const s* raw, s* memory, s* weightings, s* content, s* similarity,
             s* slot_norms, s* reads, Scratch<s>& x) {
  const int64_t N = z.N, M = WIDTH ? WIDTH : z.M;
  Heads<s>& heads = x.heads;
  heads.activate(z, raw);
  norms_of<s, WIDTH>(slot_norms, in.memory, N, M);
  norms_of<s, WIDTH>(x.key_norms.data(), heads.keys, z.K, M);
  for (int64_t k = 0; k < z.K; ++k) {
    s *sim = similarity + k * N, *con = content + k * N, *out = weightings + k * N;
    const s *key = heads.keys + k * M, *last = in.weightings + k * N;
    for (int64_t n = 0; n < N; ++n) sim[n] = dot(in.memory + n * M, key, M);
    const s key_norm = x.key_norms[k], gate = heads.gates[k];
#pragma omp simd
    for (int64_t n = 0; n < N; ++n) con[n] = sim[n] = sim[n] / (key_norm * slot_norms[n]);
    softmax(con, heads.strengths[k], N);
#pragma omp simd
    for (int64_t n = 0; n < N; ++n) x.gated[n] = last[n] + gate * (con[n] - last[n]);
    rotate(out, x.gated.data(), heads.shifts + k * z.S, z.S, N);
#pragma omp simd
    for (int64_t n = 0; n < N; ++n) out[n] = log_(out[n] + s(kLogEpsilon));
    softmax(out, heads.exponents[k], N);
  }
  for (int64_t n = 0; n < N; ++n) {
    s* slot = memory + n * M;
    const s* old = in.memory + n * M;
    std::copy_n(old, M, slot);
    for (int64_t h = 0; h < z.W; ++h) {
      const s weight = weightings[(z.R + h) * N + n];
      const s* erase = heads.erases + h * M;
#pragma omp simd
      for (int64_t m = 0; m < M; ++m) slot[m] *= 1 - weight * erase[m];
    }
    for (int64_t h = 0; h < z.W; ++h) add_scaled(slot, weightings[(z.R + h) * N + n], heads.adds + h * M, M);
  }
  for (int64_t r = 0; r < z.R; ++r) {
    std::fill_n(reads + r * M, M, s(0));
    for (int64_t n = 0; n < N; ++n) add_scaled(reads + r * M, weightings[r * N + n], memory + n * M, M);
  }
}

// The gradients that flow from a step to the one before it, of one batch element.
template <typename s>
struct Carried {
  s *memory, *weightings, *reads, *hidden, *cell;
};

// Backward of `address`. carried: in, gradients of this step's memory and weightings; out, of those that entered it.
template <typename s, int64_t WIDTH>
void address_backward(const Sizes& z, const Parts<s>& in, const s* raw, const s* memory, const s* weightings,
                      const s* content, const s* similarity, const s* slot_norms, const s* d_reads, Carried<s> carried,
                      s* d_raw, Scratch<s>& x) {
  const int64_t N = z.N, M = WIDTH ? WIDTH : z.M;
  Heads<s>&heads = x.heads, &d = x.d_heads;
  heads.activate(z, raw);
  norms_of<s, WIDTH>(x.key_norms.data(), heads.keys, z.K, M);
  std::fill(d.values.begin(), d.values.end(), s(0));

  for (int64_t r = 0; r < z.R; ++r) {  // reading
    s* d_weighting = carried.weightings + r * N;
    for (int64_t n = 0; n < N; ++n) {
      d_weighting[n] += dot(memory + n * M, d_reads + r * M, M);
      add_scaled(carried.memory + n * M, weightings[r * N + n], d_reads + r * M, M);
    }
  }
  for (int64_t n = 0; n < N; ++n) {  // writing
    s* d_slot = carried.memory + n * M;
    const s* old = in.memory + n * M;
    for (int64_t h = 0; h < z.W; ++h) {
      const s weight = weightings[(z.R + h) * N + n];
      const s* erase = heads.erases + h * M;
      // The gradient of what this head keeps: all that the other heads keep of it.
      s d_weight = dot(d_slot, heads.adds + h * M, M);
      add_scaled(d.adds + h * M, weight, d_slot, M);
#pragma omp simd
      for (int64_t m = 0; m < M; ++m) x.d_kept[m] = d_slot[m] * old[m];
      for (int64_t other = 0; other < z.W; ++other) {
        if (other == h) continue;
        const s other_weight = weightings[(z.R + other) * N + n];
        const s* other_erase = heads.erases + other * M;
#pragma omp simd
        for (int64_t m = 0; m < M; ++m) x.d_kept[m] *= 1 - other_weight * other_erase[m];
      }
      d_weight -= dot(x.d_kept.data(), erase, M);
      add_scaled(d.erases + h * M, -weight, x.d_kept.data(), M);
      carried.weightings[(z.R + h) * N + n] += d_weight;
    }
    for (int64_t h = 0; h < z.W; ++h) {
      const s weight = weightings[(z.R + h) * N + n];
      const s* erase = heads.erases + h * M;
#pragma omp simd
      for (int64_t m = 0; m < M; ++m) d_slot[m] *= 1 - weight * erase[m];
    }
  }
  std::fill(x.d_slots.begin(), x.d_slots.end(), s(0));  // of the slots' squared norms, times -2
  for (int64_t k = 0; k < z.K; ++k) {
    const s *out = weightings + k * N, *con = content + k * N, *sim = similarity + k * N, *last = in.weightings + k * N;
    const s gate = heads.gates[k], gamma = heads.exponents[k], beta = heads.strengths[k];
    s* d_out = carried.weightings + k * N;
#pragma omp simd
    for (int64_t n = 0; n < N; ++n) x.gated[n] = last[n] + gate * (con[n] - last[n]);
    rotate(x.shifted.data(), x.gated.data(), heads.shifts + k * z.S, z.S, N);
    const s mean = dot(out, d_out, N);  // sharpening
    s d_gamma = 0;
#pragma omp simd reduction(+ : d_gamma)
    for (int64_t n = 0; n < N; ++n) {
      const s base = x.shifted[n] + s(kLogEpsilon), d_power = out[n] * (d_out[n] - mean);
      d_gamma += d_power * log_(base);
      x.d_shifted[n] = gamma * d_power / base;
    }
    d.exponents[k] = d_gamma;
    std::fill(x.d_gated.begin(), x.d_gated.end(), s(0));
    for (int64_t j = 0; j < z.S; ++j) {  // shifting
      const int64_t by = ((j - z.S / 2) % N + N) % N;
      const s weight = heads.shifts[k * z.S + j];
      d.shifts[k * z.S + j] = dot(x.d_shifted.data() + by, x.gated.data(), N - by) +
                              dot(x.d_shifted.data(), x.gated.data() + N - by, by);
      add_scaled(x.d_gated.data(), weight, x.d_shifted.data() + by, N - by);
      add_scaled(x.d_gated.data() + N - by, weight, x.d_shifted.data(), by);
    }
    s d_gate = 0, d_mean = 0;
#pragma omp simd reduction(+ : d_gate, d_mean)
    for (int64_t n = 0; n < N; ++n) {  // interpolating
      d_gate += x.d_gated[n] * (con[n] - last[n]);
      d_mean += con[n] * x.d_gated[n];
      d_out[n] = (1 - gate) * x.d_gated[n];
    }
    d.gates[k] = d_gate;
    const s *key = heads.keys + k * M, key_norm = x.key_norms[k];
    s d_beta = 0, along_key = 0;
#pragma omp simd reduction(+ : d_beta, along_key)
    for (int64_t n = 0; n < N; ++n) {  // content addressing
      const s d_score = gate * con[n] * (x.d_gated[n] - d_mean);
      const s d_similarity = beta * d_score;
      d_beta += d_score * sim[n];
      along_key += d_similarity * sim[n];
      x.d_slots[n] += d_similarity * sim[n];
      x.d_shifted[n] = d_similarity / (key_norm * slot_norms[n]);  // of the product of key and slot
    }
    d.strengths[k] = d_beta;
    s* d_key = d.keys + k * M;
    for (int64_t n = 0; n < N; ++n) {
      add_scaled(d_key, x.d_shifted[n], in.memory + n * M, M);
      add_scaled(carried.memory + n * M, x.d_shifted[n], key, M);
    }
    add_scaled(d_key, -along_key / (key_norm * key_norm), key, M);
  }
  for (int64_t n = 0; n < N; ++n)
    add_scaled(carried.memory + n * M, -x.d_slots[n] / (slot_norms[n] * slot_norms[n]), in.memory + n * M, M);

  for (int64_t k = 0; k < z.K; ++k) {  // back through the activations; of softplus it is 1 - exp(-softplus)
    d.strengths[k] *= 1 - std::exp(-heads.strengths[k]);
    d.exponents[k] *= 1 - std::exp(1 - heads.exponents[k]);
    d.gates[k] *= heads.gates[k] * (1 - heads.gates[k]);
    s *d_shift = d.shifts + k * z.S, *shift = heads.shifts + k * z.S;
    const s mean = dot(shift, d_shift, z.S);
    for (int64_t j = 0; j < z.S; ++j) d_shift[j] = shift[j] * (d_shift[j] - mean);
  }
#pragma omp simd
  for (int64_t i = 0; i < z.W * M; ++i) d.erases[i] *= heads.erases[i] * (1 - heads.erases[i]);
  const s bound = static_cast<s>(z.clip);
#pragma omp simd
  for (int64_t i = 0; i < z.P; ++i) d_raw[i] = std::abs(raw[i]) <= bound ? d.values[i] : s(0);
}

template <typename s>
inline void control_backward(const Sizes& z, const s* g, const Parts<s>& in, const s* cell, const s* __restrict d_hidden,
                             s* __restrict d_cell, s* __restrict d_gates, s* __restrict d_hidden_in) {
  const int64_t H = z.H;
  if (z.controller == kFeedforward) {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) d_gates[i] = d_hidden[i] * (1 - g[i] * g[i]);
  } else if (z.controller == kLstm) {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      const s input = g[i], forget = g[H + i], candidate = g[2 * H + i], output = g[3 * H + i], squashed = tanh_(cell[i]);
      const s d = d_cell[i] + d_hidden[i] * output * (1 - squashed * squashed);
      d_gates[i] = d * candidate * input * (1 - input);
      d_gates[H + i] = d * in.cell[i] * forget * (1 - forget);
      d_gates[2 * H + i] = d * input * (1 - candidate * candidate);
      d_gates[3 * H + i] = d_hidden[i] * squashed * output * (1 - output);
      d_cell[i] = d * forget;
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      const s reset = g[i], update = g[H + i], candidate = g[2 * H + i], recurrent = g[3 * H + i];
      const s d_candidate = d_hidden[i] * (1 - update) * (1 - candidate * candidate);
      d_gates[i] = d_candidate * recurrent * reset * (1 - reset);
      d_gates[H + i] = d_hidden[i] * (in.hidden[i] - candidate) * update * (1 - update);
      d_gates[2 * H + i] = d_candidate;
      d_gates[3 * H + i] = d_candidate * reset;
      d_hidden_in[i] = d_hidden[i] * update;
    }
  }
}

#define BY_WIDTH(M, ...)                       \
  switch (M) {                                 \
    case 16: { constexpr int64_t WIDTH = 16; __VA_ARGS__; break; } \
    case 20: { constexpr int64_t WIDTH = 20; __VA_ARGS__; break; } \
    default: { constexpr int64_t WIDTH = 0; __VA_ARGS__; }         \
  }

int64_t grain(const Sizes& z) { return std::max<int64_t>(1, 16384 / (z.memory * z.K)); }

// to [m, n] = keep * to + a [m, k] b [k, n]; their rows are a_row, b_row and to_row elements apart. a_transposed,
// b_transposed: it lies there as [k, m], as [n, k].
template <typename s>
void multiply(int64_t m, int64_t n, int64_t k, const s* a, int64_t a_row, bool a_transposed, const s* b, int64_t b_row,
              bool b_transposed, s keep, s* to, int64_t to_row) {
  const auto lies = [](const s* data, int64_t rows, int64_t columns, int64_t row, bool transposed) {
    const int64_t across = transposed ? row : 1, down = transposed ? 1 : row;
    return at::from_blob(const_cast<s*>(data), {rows, columns}, {down, across}, c10::CppTypeToScalarType<s>::value);
  };
  Tensor result = lies(to, m, n, to_row, false);
  at::addmm_out(result, result, lies(a, m, k, a_row, a_transposed), lies(b, k, n, b_row, b_transposed), keep);
}

void make_contiguous(std::initializer_list<Tensor*> tensors) {
  for (Tensor* tensor : tensors) *tensor = tensor->contiguous();
}

// Steps that begin with the start state: at resets, and at t = 0 where the state is not alive; [T, B].
Tensor starts(const Sizes& z, const Tensor& state, const std::optional<Tensor>& resets) {
  Tensor fresh = at::empty({z.T, z.B}, state.options().dtype(at::kBool));
  bool* is_fresh = fresh.data_ptr<bool>();
  if (resets) {
    const Tensor given = resets->contiguous();
    std::copy_n(given.data_ptr<bool>(), z.T * z.B, is_fresh);
  } else {
    std::fill_n(is_fresh, z.T * z.B, false);
  }
  AT_DISPATCH_FLOATING_TYPES(state.scalar_type(), "ntm_starts", [&] {
    for (int64_t b = 0; b < z.B; ++b) is_fresh[b] |= state.data_ptr<scalar_t>()[b * z.state] == 0;
  });
  return fresh;
}

template <typename s>
Blocks<s> every_step(const Sizes& z, const Tensor& fresh, const Tensor& state, const Tensor& start,
                     const Tensor& gates, const Tensor& fed, const Tensor& raw, const Tensor& outputs,
                     const Tensor& memory, const Tensor& weightings, const Tensor& content, const Tensor& similarity,
                     const Tensor& norms, const Tensor& cell) {
  auto block = [&](const Tensor& of) { return Block<s>{of.data_ptr<s>(), of.stride(0), of.size(2)}; };
  return {block(gates), block(fed), block(raw), block(outputs), block(memory), block(weightings), block(content),
          block(similarity), block(norms), block(cell), fresh.data_ptr<bool>(), state.data_ptr<s>(),
          start.data_ptr<s>()};
}

// Runs the sequence and fills the blocks.
template <typename s>
void run(const Sizes& z, const Blocks<s>& at_, const Tensor& inputs, const Tensor& weight_input, const Tensor& bias,
         const Tensor& feedback, const Tensor& head_weight, const Tensor& head_bias) {
  for (int64_t row = 0; row < z.T * z.B; ++row) std::copy_n(bias.data_ptr<s>(), z.G, at_.gates.data + row * z.G);
  multiply(z.T * z.B, z.G, z.I, inputs.data_ptr<s>(), z.I, false, weight_input.data_ptr<s>(), z.I, true, s(1),
           at_.gates.at(0, 0), z.G);
  for (int64_t t = 0; t < z.T; ++t) {
    at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
      for (int64_t b = from; b < to; ++b) {
        const Parts<s> in = at_.entering(z, t, b);
        s* row = at_.fed.at(t, b);
        std::copy_n(in.reads, z.reads, row);
        if (z.controller != kFeedforward) std::copy_n(in.hidden, z.H, row + z.reads);
        std::copy_n(head_bias.data_ptr<s>(), z.P, at_.raw.at(t, b));
      }
    });
    multiply(z.B, z.G, z.F, at_.fed.at(t, 0), z.F, false, feedback.data_ptr<s>(), z.F, true, s(1), at_.gates.at(t, 0),
             z.G);
    at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
      for (int64_t b = from; b < to; ++b) {
        const Parts<s> in = at_.entering(z, t, b);
        control(z, at_.gates.at(t, b), in.hidden, in.cell, at_.outputs.at(t, b), at_.cell.at(t, b));
      }
    });
    multiply(z.B, z.P, z.H, at_.outputs.at(t, 0), z.O, false, head_weight.data_ptr<s>(), z.H, true, s(1),
             at_.raw.at(t, 0), z.P);
    at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
      Scratch<s> scratch(z);
      for (int64_t b = from; b < to; ++b) {
        BY_WIDTH(z.M, address<s, WIDTH>(z, at_.entering(z, t, b), at_.raw.at(t, b), at_.memory.at(t, b),
                                        at_.weightings.at(t, b), at_.content.at(t, b), at_.similarity.at(t, b),
                                        at_.norms.at(t, b), at_.outputs.at(t, b) + z.H, scratch))
      }
    });
  }
}

// A state of the last step's parts that are not written there yet.
template <typename s>
void finish(const Sizes& z, const Blocks<s>& at_, s* last) {
  for (int64_t b = 0; b < z.B; ++b) {
    s* to = last + b * z.state;
    *to = 1;
    to = std::copy_n(at_.outputs.at(z.T - 1, b) + z.H, z.reads, to + 1 + z.memory + z.weightings);
    std::copy_n(at_.outputs.at(z.T - 1, b), z.H, to);
  }
}

using Saved =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Returns outputs [T, B, O], the last state [B, state], and what the backward needs.
Saved ntm_forward(Tensor inputs, Tensor state, Tensor start, const std::optional<Tensor>& resets, Tensor weight_input,
                  Tensor bias, Tensor feedback, Tensor head_weight, Tensor head_bias, at::IntArrayRef shape,
                  double clip) {
  const at::AutoDispatchBelowADInplaceOrView guard;  // gradients are ours: the calls below need not look for theirs
  make_contiguous({&inputs, &state, &start, &weight_input, &bias, &feedback, &head_weight, &head_bias});
  const Sizes z(inputs, shape, clip);
  auto block = [&](int64_t width) { return at::empty({z.T, z.B, width}, inputs.options()); };
  Tensor gates = block(z.G), fed = block(z.F), raw = block(z.P), outputs = block(z.O), memory = block(z.memory),
         weightings = block(z.weightings), content = block(z.weightings), similarity = block(z.weightings),
         norms = block(z.N), cell = block(z.controller == kLstm ? z.H : 0),
         last = at::empty({z.B, z.state}, inputs.options()), fresh = starts(z, state, resets);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_forward", [&] {
    using s = scalar_t;
    const Blocks<s> at_ = every_step<s>(z, fresh, state, start, gates, fed, raw, outputs, memory, weightings, content,
                                        similarity, norms, cell);
    run<s>(z, at_, inputs, weight_input, bias, feedback, head_weight, head_bias);
    for (int64_t b = 0; b < z.B; ++b) {
      s* to = last.data_ptr<s>() + b * z.state + 1;
      to = std::copy_n(at_.memory.at(z.T - 1, b), z.memory, to);
      to = std::copy_n(at_.weightings.at(z.T - 1, b), z.weightings, to);
      if (z.controller == kLstm) std::copy_n(at_.cell.at(z.T - 1, b), z.H, to + z.reads + z.H);
    }
    finish(z, at_, last.data_ptr<s>());
  });
  return {outputs, last, fresh, gates, fed, raw, memory, weightings, content, similarity, norms, cell};
}

// The same where nobody will ask for gradients: of most blocks the last step alone is kept, in the last state itself.
std::tuple<Tensor, Tensor> ntm_infer(Tensor inputs, Tensor state, Tensor start, const std::optional<Tensor>& resets,
                                     Tensor weight_input, Tensor bias, Tensor feedback, Tensor head_weight,
                                     Tensor head_bias, at::IntArrayRef shape, double clip) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  make_contiguous({&inputs, &state, &start, &weight_input, &bias, &feedback, &head_weight, &head_bias});
  const Sizes z(inputs, shape, clip);
  Tensor outputs = at::empty({z.T, z.B, z.O}, inputs.options()), last = at::empty({z.B, z.state}, inputs.options()),
         fresh = starts(z, state, resets),
         scratch = at::empty({z.B * (z.T * z.G + z.F + z.P + 2 * z.weightings + z.N)}, inputs.options());
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_infer", [&] {
    using s = scalar_t;
    s *free = scratch.data_ptr<s>(), *flat = last.data_ptr<s>();
    auto take = [&](int64_t steps, int64_t row) {
      const Block<s> block{free, steps == 1 ? 0 : z.B * row, row};
      free += steps * z.B * row;
      return block;
    };
    auto within = [&](int64_t offset) { return Block<s>{flat + offset, 0, z.state}; };
    const Blocks<s> at_{take(z.T, z.G), take(1, z.F), take(1, z.P), {outputs.data_ptr<s>(), z.B * z.O, z.O},
                        within(1), within(1 + z.memory), take(1, z.weightings), take(1, z.weightings), take(1, z.N),
                        within(z.state - z.H), fresh.data_ptr<bool>(), state.data_ptr<s>(), start.data_ptr<s>()};
    run<s>(z, at_, inputs, weight_input, bias, feedback, head_weight, head_bias);
    finish(z, at_, flat);
  });
  return {outputs, last};
}

// Returns gradients of inputs (empty where nobody needs them), state, start (a row a batch element), weight_input,
// bias, feedback, head_weight and head_bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> ntm_backward(
    Tensor d_outputs, Tensor d_last, bool needs_inputs, Tensor inputs, Tensor state, Tensor start, Tensor weight_input,
    Tensor feedback, Tensor head_weight, const Tensor& outputs, const Tensor& fresh, const Tensor& gates, const Tensor& fed, const Tensor& raw,
    const Tensor& memory, const Tensor& weightings, const Tensor& content, const Tensor& similarity,
    const Tensor& norms, const Tensor& cell, at::IntArrayRef shape, double clip) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  make_contiguous({&d_outputs, &d_last, &inputs, &state, &start, &weight_input, &feedback, &head_weight});
  const Sizes z(inputs, shape, clip);
  const auto options = inputs.options();
  const int64_t rows = z.T * z.B;
  Tensor d_gates = at::empty({rows, z.G}, options), d_raw = at::empty({rows, z.P}, options),
         d_start = at::zeros({z.B, z.state}, options), d_hidden = at::empty({z.B, z.H}, options),
         d_fed = at::empty({z.B, z.F}, options), d_inputs = at::empty({needs_inputs ? z.T : 0, z.B, z.I}, options),
         d_weight_input = at::empty({z.G, z.I}, options), d_feedback = at::empty({z.G, z.F}, options),
         d_head_weight = at::empty({z.P, z.H}, options);
  // What flows backwards in time lies in a flat state, gradient of the last state first, of the given state last.
  Tensor carried = d_last.clone();
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_backward", [&] {
    using s = scalar_t;
    const Blocks<s> at_ = every_step<s>(z, fresh, state, start, gates, fed, raw, outputs, memory, weightings, content,
                                        similarity, norms, cell);
    const s* d_out = d_outputs.data_ptr<s>();
    s *flow = carried.data_ptr<s>(), *d_hidden_ = d_hidden.data_ptr<s>(), *d_fed_ = d_fed.data_ptr<s>(),
      *d_gates_ = d_gates.data_ptr<s>(), *d_raw_ = d_raw.data_ptr<s>();
    auto flowing = [&](int64_t b) {
      const Parts<s> parts = Parts<s>::of(flow + b * z.state, z);
      return Carried<s>{const_cast<s*>(parts.memory), const_cast<s*>(parts.weightings), const_cast<s*>(parts.reads),
                        const_cast<s*>(parts.hidden), const_cast<s*>(parts.cell)};
    };
    for (int64_t t = z.T - 1; t >= 0; --t) {
      at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
        Scratch<s> scratch(z);
        for (int64_t b = from; b < to; ++b) {
          const int64_t row = t * z.B + b;
          Carried<s> carry = flowing(b);
          add_scaled(carry.reads, s(1), d_out + row * z.O + z.H, z.reads);
          BY_WIDTH(z.M, address_backward<s, WIDTH>(z, at_.entering(z, t, b), at_.raw.at(t, b), at_.memory.at(t, b),
                                                   at_.weightings.at(t, b), at_.content.at(t, b),
                                                   at_.similarity.at(t, b), at_.norms.at(t, b), carry.reads, carry,
                                                   d_raw_ + row * z.P, scratch))
          s* d_h = d_hidden_ + b * z.H;
          for (int64_t i = 0; i < z.H; ++i) d_h[i] = carry.hidden[i] + d_out[row * z.O + i];
        }
      });
      multiply(z.B, z.H, z.P, d_raw_ + t * z.B * z.P, z.P, false, head_weight.data_ptr<s>(), z.H, false, s(1),
               d_hidden_, z.H);
      at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const Carried<s> carry = flowing(b);
          std::fill_n(carry.hidden, z.H, s(0));
          control_backward(z, at_.gates.at(t, b), at_.entering(z, t, b), at_.cell.at(t, b), d_hidden_ + b * z.H,
                           carry.cell, d_gates_ + (t * z.B + b) * z.G, carry.hidden);
        }
      });
      multiply(z.B, z.F, z.G, d_gates_ + t * z.B * z.G, z.G, false, feedback.data_ptr<s>(), z.F, false, s(0), d_fed_,
               z.F);
      at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const Carried<s> carry = flowing(b);
          std::copy_n(d_fed_ + b * z.F, z.reads, carry.reads);
          if (z.controller != kFeedforward) add_scaled(carry.hidden, s(1), d_fed_ + b * z.F + z.reads, z.H);
          if (at_.fresh[t * z.B + b]) {  // the episode began here: what came before is not its cause
            add_scaled(d_start.data_ptr<s>() + b * z.state, s(1), flow + b * z.state, z.state);
            std::fill_n(flow + b * z.state, z.state, s(0));
          }
        }
      });
    }
    for (int64_t b = 0; b < z.B; ++b)  // nothing depends on the alive flag's size
      flow[b * z.state] = d_start.data_ptr<s>()[b * z.state] = 0;
    if (needs_inputs)
      multiply(rows, z.I, z.G, d_gates_, z.G, false, weight_input.data_ptr<s>(), z.I, false, s(0),
               d_inputs.data_ptr<s>(), z.I);
    multiply(z.G, z.I, rows, d_gates_, z.G, true, inputs.data_ptr<s>(), z.I, false, s(0),
             d_weight_input.data_ptr<s>(), z.I);
    multiply(z.G, z.F, rows, d_gates_, z.G, true, fed.data_ptr<s>(), z.F, false, s(0), d_feedback.data_ptr<s>(), z.F);
    multiply(z.P, z.H, rows, d_raw_, z.P, true, outputs.data_ptr<s>(), z.O, false, s(0), d_head_weight.data_ptr<s>(),
             z.H);
  });
  return {d_inputs, carried, d_start, d_weight_input, d_gates.sum(0), d_feedback, d_head_weight, d_raw.sum(0)};
}

}  // namespace

TORCH_LIBRARY(ntm_rl, library) {
  library.def(
      "ntm_forward(Tensor inputs, Tensor state, Tensor start, Tensor? resets, Tensor weight_input, Tensor bias, "
      "Tensor feedback, Tensor head_weight, Tensor head_bias, int[] shape, float clip) -> (Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "ntm_infer(Tensor inputs, Tensor state, Tensor start, Tensor? resets, Tensor weight_input, Tensor bias, "
      "Tensor feedback, Tensor head_weight, Tensor head_bias, int[] shape, float clip) -> (Tensor, Tensor)");
  library.def(
      "ntm_backward(Tensor d_outputs, Tensor d_last, bool needs_inputs, Tensor inputs, Tensor state, Tensor start, "
      "Tensor weight_input, Tensor feedback, Tensor head_weight, Tensor outputs, Tensor fresh, Tensor gates, "
      "Tensor fed, Tensor raw, Tensor memory, Tensor weightings, Tensor content, Tensor similarity, Tensor norms, "
      "Tensor cell, int[] shape, float clip) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(ntm_rl, CPU, library) {
  library.impl("ntm_forward", ntm_forward);
  library.impl("ntm_infer", ntm_infer);
  library.impl("ntm_backward", ntm_backward);
}

// The NTM over whole sequences on a CPU, forward and backward; ntm_rl/ntm.py is the specification.
//
// Letters as there: T steps, B batch, N slots, M width, R read heads, W write heads, K = R + W, S shifts, H units of the
// controller, P head parameters, G rows of the controller's gates, F = R * M (+ H) what is fed back to the controller.
// All matrix products are ATen's and run over the batch; what happens at the memory is done an element of the batch at
// a time, while its memory is in the cache.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
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
  int64_t T, B, N, M, R, W, K, S, H, P, G, F, O;
  int64_t memory, weightings, reads, state;  // elements of one batch element
  Controller controller;
  double clip;

  Sizes(const Tensor& projected, at::IntArrayRef shape, double clip_) : clip(clip_) {
    T = projected.size(0), B = projected.size(1), G = projected.size(2);
    N = shape[0], M = shape[1], R = shape[2], W = shape[3], S = shape[4], H = shape[5];
    controller = static_cast<Controller>(shape[6]);
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

// The controller's part of a step for one batch element: what the inputs say is added to the gates, which are activated
// in place.
template <typename s>
inline void control(const Sizes& z, s* __restrict g, const s* __restrict p, const s* hidden_in, const s* cell_in,
                    s* __restrict hidden, s* cell) {
  const int64_t H = z.H;
  if (z.controller == kFeedforward) {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) hidden[i] = g[i] = tanh_(g[i] + p[i]);
  } else if (z.controller == kLstm) {
#pragma omp simd
    for (int64_t i = 0; i < 2 * H; ++i) g[i] = sigmoid(g[i] + p[i]);
#pragma omp simd
    for (int64_t i = 2 * H; i < 3 * H; ++i) g[i] = tanh_(g[i] + p[i]);
#pragma omp simd
    for (int64_t i = 3 * H; i < 4 * H; ++i) g[i] = sigmoid(g[i] + p[i]);
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      cell[i] = g[H + i] * cell_in[i] + g[i] * g[2 * H + i];
      hidden[i] = g[3 * H + i] * tanh_(cell[i]);
    }
  } else {  // gates: reset, update, candidate from the input, candidate from the hidden state
#pragma omp simd
    for (int64_t i = 0; i < 2 * H; ++i) g[i] = sigmoid(g[i] + p[i]);
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      g[3 * H + i] += p[3 * H + i];
      g[2 * H + i] = tanh_(g[2 * H + i] + p[2 * H + i] + g[i] * g[3 * H + i]);
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

// Every block that a sequence fills, one row a step and batch element.
template <typename s>
struct Blocks {
  s *gates, *fed, *raw, *outputs, *memory, *weightings, *content, *similarity, *norms, *cell;

  Parts<s> entering(const Sizes& z, int64_t t, int64_t b, const bool* fresh, const s* state, const s* start) const {
    if (fresh[t * z.B + b]) return Parts<s>::of(start, z);
    if (t == 0) return Parts<s>::of(state + b * z.state, z);
    const int64_t row = (t - 1) * z.B + b;
    return {memory + row * z.memory, weightings + row * z.weightings, outputs + row * z.O + z.H,
            outputs + row * z.O, cell + row * z.H};
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

using Saved =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

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

// Returns outputs [T, B, O], the last state [B, state], and what the backward needs.
Saved ntm_forward(const Tensor& projected, const Tensor& state, const Tensor& start, const std::optional<Tensor>& resets,
                  const Tensor& feedback, const Tensor& head_weight, const Tensor& head_bias, at::IntArrayRef shape,
                  double clip) {
  const at::AutoDispatchBelowADInplaceOrView guard;  // gradients are ours: the calls below need not look for theirs
  const Sizes z(projected, shape, clip);
  auto block = [&](int64_t width) { return at::empty({z.T, z.B, width}, projected.options()); };
  Tensor gates = block(z.G), fed = block(z.F), raw = block(z.P), outputs = block(z.O), memory = block(z.memory),
         weightings = block(z.weightings), content = block(z.weightings), similarity = block(z.weightings), norms = block(z.N),
         cell = block(z.controller == kLstm ? z.H : 0), last = at::empty({z.B, z.state}, projected.options()), fresh = starts(z, state, resets);
  const Tensor feedback_t = feedback.t(), head_t = head_weight.t();
  const std::vector<Tensor> gates_at = gates.unbind(0), fed_at = fed.unbind(0),
                            raw_at = raw.unbind(0), hidden_at = outputs.narrow(2, 0, z.H).unbind(0);
  AT_DISPATCH_FLOATING_TYPES(projected.scalar_type(), "ntm_forward", [&] {
    using s = scalar_t;
    const Blocks<s> at_{gates.data_ptr<s>(), fed.data_ptr<s>(), raw.data_ptr<s>(), outputs.data_ptr<s>(),
                        memory.data_ptr<s>(), weightings.data_ptr<s>(), content.data_ptr<s>(),
                        similarity.data_ptr<s>(), norms.data_ptr<s>(), cell.data_ptr<s>()};
    const bool* is_fresh = fresh.data_ptr<bool>();
    const s *state_ = state.data_ptr<s>(), *start_ = start.data_ptr<s>(), *inputs_ = projected.data_ptr<s>();
    auto entering = [&](int64_t t, int64_t b) { return at_.entering(z, t, b, is_fresh, state_, start_); };
    auto over_batch = [&](auto&& body) {
      at::parallel_for(0, z.B, grain(z), body);
    };
    for (int64_t t = 0; t < z.T; ++t) {
      over_batch([&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const Parts<s> in = entering(t, b);
          s* row = at_.fed + (t * z.B + b) * z.F;
          std::copy_n(in.reads, z.reads, row);
          if (z.controller != kFeedforward) std::copy_n(in.hidden, z.H, row + z.reads);
        }
      });
      at::mm_out(const_cast<Tensor&>(gates_at[t]), fed_at[t], feedback_t);
      over_batch([&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const Parts<s> in = entering(t, b);
          const int64_t row = t * z.B + b;
          control(z, at_.gates + row * z.G, inputs_ + row * z.G, in.hidden, in.cell, at_.outputs + row * z.O, at_.cell + row * z.H);
        }
      });
      at::addmm_out(const_cast<Tensor&>(raw_at[t]), head_bias, hidden_at[t], head_t);
      over_batch([&](int64_t from, int64_t to) {
        Scratch<s> scratch(z);
        for (int64_t b = from; b < to; ++b) {
          const Parts<s> in = entering(t, b);
          const int64_t row = t * z.B + b, w = row * z.weightings;
          BY_WIDTH(z.M, address<s, WIDTH>(z, in, at_.raw + row * z.P, at_.memory + row * z.memory, at_.weightings + w,
                                          at_.content + w, at_.similarity + w, at_.norms + row * z.N,
                                          at_.outputs + row * z.O + z.H, scratch))
        }
      });
    }
    s* flat = last.data_ptr<s>();
    for (int64_t b = 0; b < z.B; ++b) {
      const int64_t row = (z.T - 1) * z.B + b;
      s* to = flat + b * z.state;
      *to++ = 1;
      to = std::copy_n(at_.memory + row * z.memory, z.memory, to);
      to = std::copy_n(at_.weightings + row * z.weightings, z.weightings, to);
      to = std::copy_n(at_.outputs + row * z.O + z.H, z.reads, to);
      to = std::copy_n(at_.outputs + row * z.O, z.H, to);
      if (z.controller == kLstm) std::copy_n(at_.cell + row * z.H, z.H, to);
    }
  });
  return {outputs, last, fresh, gates, fed, raw, memory, weightings, content, similarity, norms, cell};
}

// The same where nobody will ask for gradients.
std::tuple<Tensor, Tensor> ntm_infer(const Tensor& projected, const Tensor& state, const Tensor& start,
                                     const std::optional<Tensor>& resets, const Tensor& feedback,
                                     const Tensor& head_weight, const Tensor& head_bias, at::IntArrayRef shape,
                                     double clip) {
  const Saved all = ntm_forward(projected, state, start, resets, feedback, head_weight, head_bias, shape, clip);
  return {std::get<0>(all), std::get<1>(all)};
}

// Returns gradients of projected, state, start (a row a batch element), feedback, head_weight and head_bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> ntm_backward(
    const Tensor& d_outputs, const Tensor& d_last, const Tensor& projected, const Tensor& state, const Tensor& start,
    const Tensor& feedback, const Tensor& head_weight, const Tensor& outputs, const Tensor& fresh, const Tensor& gates,
    const Tensor& fed, const Tensor& raw, const Tensor& memory, const Tensor& weightings, const Tensor& content,
    const Tensor& similarity, const Tensor& norms, const Tensor& cell, at::IntArrayRef shape, double clip) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  const Sizes z(projected, shape, clip);
  const auto options = projected.options();
  Tensor d_gates = at::empty({z.T, z.B, z.G}, options), d_raw = at::empty({z.T, z.B, z.P}, options),
         d_state = at::zeros({z.B, z.state}, options), d_start = at::zeros({z.B, z.state}, options),
         d_hidden = at::empty({z.B, z.H}, options), d_fed = at::empty({z.B, z.F}, options);
  // What flows backwards in time lies in a flat state, gradient of the last state first.
  Tensor carried = d_last.clone();
  const std::vector<Tensor> d_gates_at = d_gates.unbind(0), d_raw_at = d_raw.unbind(0);
  AT_DISPATCH_FLOATING_TYPES(projected.scalar_type(), "ntm_backward", [&] {
    using s = scalar_t;
    const Blocks<s> at_{gates.data_ptr<s>(), fed.data_ptr<s>(), raw.data_ptr<s>(), outputs.data_ptr<s>(),
                        memory.data_ptr<s>(), weightings.data_ptr<s>(), content.data_ptr<s>(),
                        similarity.data_ptr<s>(), norms.data_ptr<s>(), cell.data_ptr<s>()};
    const bool* is_fresh = fresh.data_ptr<bool>();
    const s *state_ = state.data_ptr<s>(), *start_ = start.data_ptr<s>(), *d_out = d_outputs.data_ptr<s>();
    s *flow = carried.data_ptr<s>(), *d_hidden_ = d_hidden.data_ptr<s>(), *d_fed_ = d_fed.data_ptr<s>();
    auto flowing = [&](int64_t b) {
      const Parts<s> parts = Parts<s>::of(flow + b * z.state, z);
      return Carried<s>{const_cast<s*>(parts.memory), const_cast<s*>(parts.weightings), const_cast<s*>(parts.reads),
                        const_cast<s*>(parts.hidden), const_cast<s*>(parts.cell)};
    };
    auto entering = [&](int64_t t, int64_t b) { return at_.entering(z, t, b, is_fresh, state_, start_); };
    for (int64_t t = z.T - 1; t >= 0; --t) {
      at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
        Scratch<s> scratch(z);
        for (int64_t b = from; b < to; ++b) {
          const Parts<s> in = entering(t, b);
          const int64_t row = t * z.B + b, w = row * z.weightings;
          Carried<s> carry = flowing(b);
          add_scaled(carry.reads, s(1), d_out + row * z.O + z.H, z.reads);
          BY_WIDTH(z.M, address_backward<s, WIDTH>(z, in, at_.raw + row * z.P, at_.memory + row * z.memory,
                                                   at_.weightings + w, at_.content + w, at_.similarity + w,
                                                   at_.norms + row * z.N, carry.reads, carry, d_raw.data_ptr<s>() + row * z.P, scratch))
          s* d_h = d_hidden_ + b * z.H;
          for (int64_t i = 0; i < z.H; ++i) d_h[i] = carry.hidden[i] + d_out[row * z.O + i];
        }
      });
      d_hidden.addmm_(d_raw_at[t], head_weight);
      at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const int64_t row = t * z.B + b;
          const Carried<s> carry = flowing(b);
          std::fill_n(carry.hidden, z.H, s(0));
          control_backward(z, at_.gates + row * z.G, entering(t, b), at_.cell + row * z.H, d_hidden_ + b * z.H,
                           carry.cell, d_gates.data_ptr<s>() + row * z.G, carry.hidden);
        }
      });
      at::mm_out(d_fed, d_gates_at[t], feedback);
      at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t to) {
        for (int64_t b = from; b < to; ++b) {
          const Carried<s> carry = flowing(b);
          std::copy_n(d_fed_ + b * z.F, z.reads, carry.reads);
          if (z.controller != kFeedforward) add_scaled(carry.hidden, s(1), d_fed_ + b * z.F + z.reads, z.H);
          if (is_fresh[t * z.B + b]) {  // the episode began here: what came before is not its cause
            add_scaled(d_start.data_ptr<s>() + b * z.state, s(1), flow + b * z.state, z.state);
            std::fill_n(flow + b * z.state, z.state, s(0));
          }
        }
      });
    }
    std::copy_n(flow, z.B * z.state, d_state.data_ptr<s>());
    for (int64_t b = 0; b < z.B; ++b)  // nothing depends on the alive flag's size
      d_state.data_ptr<s>()[b * z.state] = d_start.data_ptr<s>()[b * z.state] = 0;
  });
  const int64_t rows = z.T * z.B;
  const Tensor gates_rows = d_gates.view({rows, z.G}), raw_rows = d_raw.view({rows, z.P});
  return {d_gates,
          d_state,
          d_start,
          gates_rows.t().mm(fed.view({rows, z.F})),
          raw_rows.t().mm(outputs.view({rows, z.O}).narrow(1, 0, z.H)),
          raw_rows.sum(0)};
}

}  // namespace

TORCH_LIBRARY(ntm_rl, library) {
  library.def(
      "ntm_forward(Tensor projected, Tensor state, Tensor start, Tensor? resets, Tensor feedback, Tensor head_weight, "
      "Tensor head_bias, int[] shape, float clip) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "ntm_infer(Tensor projected, Tensor state, Tensor start, Tensor? resets, Tensor feedback, Tensor head_weight, "
      "Tensor head_bias, int[] shape, float clip) -> (Tensor, Tensor)");
  library.def(
      "ntm_backward(Tensor d_outputs, Tensor d_last, Tensor projected, Tensor state, Tensor start, "
      "Tensor feedback, Tensor head_weight, Tensor outputs, Tensor fresh, Tensor gates, Tensor fed, Tensor raw, Tensor memory, "
      "Tensor weightings, Tensor content, Tensor similarity, Tensor norms, Tensor cell, int[] shape, float clip) -> (Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(ntm_rl, CPU, library) {
  library.impl("ntm_forward", ntm_forward);
  library.impl("ntm_infer", ntm_infer);
  library.impl("ntm_backward", ntm_backward);
}

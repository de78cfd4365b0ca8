// A step of the NTM's heads at the memory of one batch element, forward and backward (Graves et al. 2014, section 3).
#pragma once

#include "slots.h"

#include <vector>

namespace ntm_rl {

// R read and W write heads, K = R + W, S shifts, P head parameters.
struct MemorySizes : SlotSizes {
  int64_t R, W, K, S, P;
  double clip;  // range of the head parameters
};

// Activated head parameters.
template <typename s>
struct Heads {
  std::vector<s> values, powers, softpluses;
  s *keys, *strengths, *gates, *shifts, *exponents, *erases, *adds;

  explicit Heads(const MemorySizes& z)
      : values(z.P + kLanes<s>), powers(padded<s>(z.K * (3 + z.S))), softpluses(powers.size()) {
    s* at = values.data();
    keys = at, at += z.K * z.M;
    strengths = at, at += z.K;
    gates = at, at += z.K;
    shifts = at, at += z.K * z.S;
    exponents = at, at += z.K;
    erases = at, at += z.W * z.M;
    adds = at;
  }

  void activate(const MemorySizes& z, const s* raw) {
    const s bound = static_cast<s>(z.clip);
#pragma omp simd
    for (int64_t i = 0; i < z.P; ++i) values[i] = clamp(raw[i], bound);
    // Strengths, gates, shifts and exponents are few and contiguous: processed together in whole vectors.
    s* x = strengths;
    for (int64_t k = 0; k < z.K; ++k) {
      s* shift = shifts + k * z.S;
      const s top = *std::max_element(shift, shift + z.S);
      for (int64_t j = 0; j < z.S; ++j) shift[j] -= top;
    }
    const int64_t few = padded<s>(z.K * (3 + z.S));
#pragma omp simd
    for (int64_t i = 0; i < few; ++i) {
      const s power = exp_(-std::abs(x[i]));
      powers[i] = power;
      softpluses[i] = std::max(x[i], s(0)) + log1p_(power);
    }
    for (int64_t k = 0; k < z.K; ++k) {
      const int64_t gate = z.K + k, exponent = z.K * (2 + z.S) + k;
      strengths[k] = softpluses[k];
      gates[k] = (gates[k] < 0 ? powers[gate] : s(1)) / (1 + powers[gate]);
      exponents[k] = 1 + softpluses[exponent];
      s sum = 0, *shift = shifts + k * z.S;
      for (int64_t j = 0; j < z.S; ++j) sum += shift[j] = powers[2 * z.K + k * z.S + j];
      for (int64_t j = 0; j < z.S; ++j) shift[j] /= sum;
    }
#pragma omp simd
    for (int64_t i = 0; i < z.W * z.M; ++i) erases[i] = sigmoid(erases[i]);
  }
};

template <typename s>
struct Scratch {
  Heads<s> heads, d_heads;
  std::vector<s> gated, shifted, along_keys, d_products, d_slots, d_shifted, d_gated;

  explicit Scratch(const MemorySizes& z)
      : heads(z), d_heads(z), gated(z.L + z.S), shifted(z.L), along_keys(z.K), d_products(z.K * z.L), d_slots(z.L),
        d_shifted(z.L + z.S), d_gated(z.L) {}
};

// Results of a step of one batch element: memory, weightings and content weightings [K, L], cosine similarities [K, L]
// and the slots' norms [L].
template <typename s>
struct MemoryStep {
  s *memory, *weightings, *content, *similarity, *norms;
};

// Continues a weighting [N] after `reach` elements of `x` circularly on both sides.
template <typename s>
inline void wrap(s* x, int64_t N, int64_t reach) {
  std::copy_n(x + N, reach, x);
  std::copy_n(x + reach, reach, x + N + reach);
}

// to[n] = sum_j shift[j] * x[n + j * step], for whole vectors.
template <typename s>
inline void rotate(const MemorySizes& z, const s* shift, const s* x, int64_t step, s* to) {
  for (int64_t n = 0; n < z.L; n += kLanes<s>) {
    Vector<s> sum{};
    for (int64_t j = 0; j < z.S; ++j) sum += shift[j] * load(x + n + j * step);
    store(to + n, sum);
  }
}

// Interpolates head k's weighting with its last one and shifts it; leaves the interpolated one wrapped in x.gated.
template <typename s>
void interpolate_and_shift(const MemorySizes& z, int64_t k, const s* content, const s* last, Scratch<s>& x) {
  const int64_t reach = z.S / 2;
  const s gate = x.heads.gates[k];
  s* gated = x.gated.data() + reach;
#pragma omp simd
  for (int64_t n = 0; n < z.L; ++n) gated[n] = (1 - gate) * last[n] + gate * content[n];
  wrap(x.gated.data(), z.N, reach);
  rotate(z, x.heads.shifts + k * z.S, x.gated.data() + z.S - 1, -1, x.shifted.data());
}

// Runs a step from in_memory and in_weightings, which may be those of `to`.
template <typename s>
void address(const MemorySizes& z, const s* in_memory, const s* in_weightings, const s* raw, const MemoryStep<s>& to,
             s* reads, Scratch<s>& x) {
  constexpr int64_t lanes = kLanes<s>;
  const int64_t N = z.N, M = z.M, L = z.L;
  Heads<s>& heads = x.heads;
  heads.activate(z, raw);
  for (int64_t n = 0; n < L; n += lanes) {
    Vector<s> sum{};
    for (int64_t m = 0; m < M; ++m) {
      const Vector<s> slots = load(in_memory + n * M + m * lanes);
      sum += slots * slots;
    }
    store(to.norms + n, sum);
  }
#pragma omp simd
  for (int64_t n = 0; n < L; ++n) to.norms[n] = std::sqrt(to.norms[n] + s(kNormEpsilon));
  multiply_slots(z, z.K, heads.keys, in_memory, to.similarity);
  for (int64_t k = 0; k < z.K; ++k) {
    s *similarity = to.similarity + k * L, *content = to.content + k * L, *out = to.weightings + k * L;
    const s* key = heads.keys + k * M;
    const s inverse_norm = 1 / std::sqrt(dot(key, key, M) + s(kNormEpsilon));
#pragma omp simd
    for (int64_t n = 0; n < L; ++n) similarity[n] *= inverse_norm / to.norms[n];
    softmax(content, similarity, heads.strengths[k], N);
    std::fill(content + N, content + L, s(0));
    interpolate_and_shift(z, k, content, in_weightings + k * L, x);
#pragma omp simd
    for (int64_t n = 0; n < N; ++n) x.shifted[n] = log_(x.shifted[n] + s(kLogEpsilon));
    softmax(out, x.shifted.data(), heads.exponents[k], N);
    std::fill(out + N, out + L, s(0));
  }
  const s* written = to.weightings + z.R * L;
  for (int64_t n = 0; n < L; n += lanes) {
    for (int64_t m = 0; m < M; ++m) {
      const int64_t i = n * M + m * lanes;
      Vector<s> slots = load(in_memory + i);
      for (int64_t h = 0; h < z.W; ++h) slots *= 1 - load(written + h * L + n) * heads.erases[h * M + m];
      for (int64_t h = 0; h < z.W; ++h) slots += load(written + h * L + n) * heads.adds[h * M + m];
      store(to.memory + i, slots);
    }
  }
  sum_slots(z, z.R, to.weightings, to.memory, reads);
}

// Backward of writing and reading, without the gradient of the old memory. d_memory: in, the gradient of the new
// memory; out, plus that through the reads. d_weightings: in, the step's gradients; out, plus those through reads and
// writes.
template <typename s>
void write_read_backward(const MemorySizes& z, const s* in_memory, const MemoryStep<s>& of, const s* d_reads,
                         s* d_memory, s* d_weightings, const Heads<s>& heads, Heads<s>& d) {
  constexpr int64_t lanes = kLanes<s>;
  const int64_t M = z.M, L = z.L;
  read_backward(z, z.R, of.weightings, of.memory, d_reads, d_weightings, d_memory);
  const s* written = of.weightings + z.R * L;
  s* d_written = d_weightings + z.R * L;
  for (int64_t h = 0; h < z.W; ++h) {
    // Gradient of the share that head h keeps of coordinate m: the product of the other heads' shares.
    const auto d_kept = [&](int64_t n, int64_t m, const Vector<s>& d_slots) {
      Vector<s> kept = d_slots * load(in_memory + n * M + m * lanes);
      for (int64_t other = 0; other < z.W; ++other)
        if (other != h) kept *= 1 - load(written + other * L + n) * heads.erases[other * M + m];
      return kept;
    };
    const s *erase = heads.erases + h * M, *add = heads.adds + h * M, *weights = written + h * L;
    for (int64_t n = 0; n < L; n += lanes) {
      Vector<s> d_weights = load(d_written + h * L + n);
      for (int64_t m = 0; m < M; ++m) {
        const Vector<s> d_slots = load(d_memory + n * M + m * lanes);
        d_weights += add[m] * d_slots - erase[m] * d_kept(n, m, d_slots);
      }
      store(d_written + h * L + n, d_weights);
    }
    for (int64_t m = 0; m < M; ++m) {
      Vector<s> d_add{}, d_erase{};
      for (int64_t n = 0; n < L; n += lanes) {
        const Vector<s> d_slots = load(d_memory + n * M + m * lanes);
        d_add += load(weights + n) * d_slots;
        d_erase -= load(weights + n) * d_kept(n, m, d_slots);
      }
      d.adds[h * M + m] = sum_of<s>(d_add);
      d.erases[h * M + m] = sum_of<s>(d_erase);
    }
  }
}

// Backward of head k's addressing. d_out [L]: in, the gradient of its weighting; out, of its last weighting. d_products
// [L]: gradients of key times slot. d_slots [L]: adds the gradients of the slots' squared norms, times -2.
template <typename s>
void addressing_backward(const MemorySizes& z, int64_t k, const s* in_weightings, const MemoryStep<s>& of, s* d_out,
                         s* d_products, s* d_slots, Scratch<s>& x) {
  const int64_t N = z.N, L = z.L;
  const Heads<s>& heads = x.heads;
  Heads<s>& d = x.d_heads;
  const s *out = of.weightings + k * L, *content = of.content + k * L, *similarity = of.similarity + k * L,
          *last = in_weightings + k * L;
  const s gate = heads.gates[k], gamma = heads.exponents[k], beta = heads.strengths[k];
  const int64_t reach = z.S / 2;
  s *d_shifted = x.d_shifted.data() + reach, *d_gated = x.d_gated.data();
  interpolate_and_shift(z, k, content, last, x);
  const s mean = dot(out, d_out, L);  // sharpening
  s d_gamma = 0;
#pragma omp simd reduction(+ : d_gamma)
  for (int64_t n = 0; n < N; ++n) {
    const s base = x.shifted[n] + s(kLogEpsilon), d_power = out[n] * (d_out[n] - mean);
    d_gamma += d_power * log_(base);
    d_shifted[n] = gamma * d_power / base;
  }
  d.exponents[k] = d_gamma;
  for (int64_t j = 0; j < z.S; ++j)  // shifting
    d.shifts[k * z.S + j] = dot(d_shifted, x.gated.data() + z.S - 1 - j, N);
  wrap(x.d_shifted.data(), N, reach);
  rotate(z, heads.shifts + k * z.S, x.d_shifted.data(), 1, d_gated);
  std::fill(d_gated + N, d_gated + L, s(0));
  s d_gate = 0, d_mean = 0;
#pragma omp simd reduction(+ : d_gate, d_mean)
  for (int64_t n = 0; n < L; ++n) {  // interpolating
    d_gate += d_gated[n] * (content[n] - last[n]);
    d_mean += content[n] * d_gated[n];
    d_out[n] = (1 - gate) * d_gated[n];
  }
  d.gates[k] = d_gate;
  const s* key = heads.keys + k * z.M;
  const s square = dot(key, key, z.M) + s(kNormEpsilon), inverse_norm = 1 / std::sqrt(square);
  s d_beta = 0, along_key = 0;
#pragma omp simd reduction(+ : d_beta, along_key)
  for (int64_t n = 0; n < L; ++n) {  // content addressing
    const s d_score = gate * content[n] * (d_gated[n] - d_mean), d_similarity = beta * d_score;
    d_beta += d_score * similarity[n];
    along_key += d_similarity * similarity[n];
    d_slots[n] += d_similarity * similarity[n];
    d_products[n] = d_similarity * inverse_norm / of.norms[n];
  }
  d.strengths[k] = d_beta;
  x.along_keys[k] = along_key / square;  // minus the key's coefficient in the gradient through its norm
}

// Backward of `address`. d_memory, d_weightings: in, gradients after this step; out, before it.
template <typename s>
void address_backward(const MemorySizes& z, const s* in_memory, const s* in_weightings, const s* raw,
                      const MemoryStep<s>& of, const s* d_reads, s* d_memory, s* d_weightings, s* d_raw,
                      Scratch<s>& x) {
  constexpr int64_t lanes = kLanes<s>;
  const int64_t M = z.M, L = z.L;
  Heads<s>&heads = x.heads, &d = x.d_heads;
  heads.activate(z, raw);
  write_read_backward(z, in_memory, of, d_reads, d_memory, d_weightings, heads, d);
  s *d_slots = x.d_slots.data(), *d_products = x.d_products.data();
  std::fill_n(d_slots, L, s(0));
  for (int64_t k = 0; k < z.K; ++k) {
    addressing_backward(z, k, in_weightings, of, d_weightings + k * L, d_products + k * L, d_slots, x);
  }
  sum_slots(z, z.K, d_products, in_memory, d.keys);
  for (int64_t k = 0; k < z.K; ++k) add_scaled(d.keys + k * M, -x.along_keys[k], heads.keys + k * M, M);
  const s* written = of.weightings + z.R * L;
  for (int64_t n = 0; n < L; n += lanes) {
    const Vector<s> norms = load(of.norms + n), of_norm = load(d_slots + n) / (norms * norms);
    for (int64_t m = 0; m < M; ++m) {
      const int64_t i = n * M + m * lanes;
      Vector<s> d_slot = load(d_memory + i);
      for (int64_t h = 0; h < z.W; ++h) d_slot *= 1 - load(written + h * L + n) * heads.erases[h * M + m];
      for (int64_t k = 0; k < z.K; ++k) d_slot += load(d_products + k * L + n) * heads.keys[k * M + m];
      store(d_memory + i, d_slot - of_norm * load(in_memory + i));
    }
  }
  // The activations. The slope of softplus is a sigmoid, from the power exp(-|x|): 1 - exp(-softplus) would cancel.
  const s* few = raw + z.K * M;
  const auto slope = [&](int64_t i) { return (few[i] < 0 ? heads.powers[i] : s(1)) / (1 + heads.powers[i]); };
  for (int64_t k = 0; k < z.K; ++k) {
    d.strengths[k] *= slope(k);
    d.exponents[k] *= slope(z.K * (2 + z.S) + k);
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

}  // namespace ntm_rl

// A step of the DNC's memory of one batch element, forward and backward (Graves et al. 2016, and arXiv:1904.10278).
#pragma once

#include "slots.h"

#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace ntm_rl {

constexpr double kUsageEpsilon = 1e-6;  // USAGE_EPSILON in addressing/dnc.py
constexpr double kTie = 1e-6;           // TIE in addressing/dnc.py

// R read heads; K = R + 1 heads with the write head, which comes last; P interface parameters.
struct DncSizes : SlotSizes {
  int64_t R, K, P;
  bool masks, wipes, sharpens;
  double clip;  // range of the interface parameters
};

// Activated interface parameters, in the order of the interface layer's rows. Without masks they are 1.
template <typename s>
struct Interface {
  std::vector<s> values, slopes, squares, masked;  // squares of the masks, and keys times squares
  s *keys, *add, *modes, *strengths, *sharpness, *erase, *free, *allocate, *write, *masks;

  explicit Interface(const DncSizes& z)
      : values(z.P + (z.masks ? 0 : z.K * z.M), s(1)), slopes(z.P), squares(z.K * z.M), masked(z.K * z.M) {
    s* at = values.data();
    const auto take = [&](int64_t size) { return std::exchange(at, at + size); };
    keys = take(z.K * z.M), add = take(z.M), modes = take(3 * z.R);
    strengths = take(z.K), sharpness = take(z.sharpens ? 2 * z.R : 0);
    erase = take(z.M), free = take(z.R), allocate = take(1), write = take(1), masks = take(z.K * z.M);
  }

  void activate(const DncSizes& z, const s* raw) {
    const s bound = static_cast<s>(z.clip);
#pragma omp simd
    for (int64_t i = 0; i < z.P; ++i) values[i] = clamp(raw[i], bound);
    for (int64_t r = 0; r < z.R; ++r) softmax(modes + 3 * r, modes + 3 * r, s(1), 3);
    // The slopes come from the power exp(-|x|): one minus a sigmoid near 1 would cancel.
    const int64_t few = strengths - values.data(), positive = erase - strengths, gates = z.P - few - positive;
    s *x = strengths, *slope = &slopes[few];
#pragma omp simd
    for (int64_t i = 0; i < positive; ++i) {
      const s power = exp_(-std::abs(x[i]));
      slope[i] = (x[i] < 0 ? power : s(1)) / (1 + power);
      x[i] = 1 + (std::max(x[i], s(0)) + log1p_(power));
    }
    x += positive, slope += positive;
#pragma omp simd
    for (int64_t i = 0; i < gates; ++i) {
      const s power = exp_(-std::abs(x[i])), inverse = 1 / (1 + power);
      slope[i] = power * inverse * inverse;
      x[i] = x[i] < 0 ? power * inverse : inverse;
    }
#pragma omp simd
    for (int64_t i = 0; i < z.K * z.M; ++i) {
      squares[i] = masks[i] * masks[i];
      masked[i] = keys[i] * squares[i];
    }
  }

  // Writes d_raw from the gradients d of the parameters activated from `raw`.
  void backward(const DncSizes& z, const s* raw, Interface& d, s* d_raw) {
    for (int64_t r = 0; r < z.R; ++r) {
      const s *mode = modes + 3 * r, mean = dot(mode, d.modes + 3 * r, 3);
      for (int64_t i = 0; i < 3; ++i) d.modes[3 * r + i] = mode[i] * (d.modes[3 * r + i] - mean);
    }
    for (int64_t i = strengths - values.data(); i < z.P; ++i) d.values[i] *= slopes[i];
    const s bound = static_cast<s>(z.clip);
#pragma omp simd
    for (int64_t i = 0; i < z.P; ++i) d_raw[i] = std::abs(raw[i]) <= bound ? d.values[i] : s(0);
  }
};

template <typename s>
struct DncScratch {
  Interface<s> interface, d_interface;
  std::vector<s> retention, d_retention, others, d_content, d_products, d_squares, d_allocation, d_directions, keys,
      left;
  std::vector<int64_t> order;

  explicit DncScratch(const DncSizes& z)
      : interface(z), d_interface(z), retention(z.L), d_retention(z.L), others(z.L), d_content(z.L), d_products(z.L),
        d_squares(z.L), d_allocation(z.L), d_directions(2 * z.R * z.L), keys(z.L), left(z.L), order(z.N) {}
};

// The parts of a row (see dnc.cpp): memory, usage [L], links [N, L], precedence [L], write and read weightings [R, L].
template <typename s>
struct DncRow {
  s *memory, *usage, *links, *precedence, *written, *readings;

  DncRow(const DncSizes& z, s* at)
      : memory(at), usage(at + z.L * z.M), links(usage + z.L), precedence(links + z.N * z.L),
        written(precedence + z.L), readings(written + z.L) {}

  static int64_t size(const DncSizes& z) { return z.L * (z.M + 3 + z.N + z.R); }
};

// The values that a step keeps: content weightings, similarities and the slots' norms, [K, L] each; the slots' places
// in the free list and the allocation weighting, [L]; and the backward and forward weightings [2 R, L], plain and
// sharpened.
template <typename s>
struct DncKept {
  s *content, *similarity, *norms, *places, *allocation, *directions, *sharpened;

  DncKept(const DncSizes& z, s* at)
      : content(at), similarity(content + z.K * z.L), norms(similarity + z.K * z.L), places(norms + z.K * z.L),
        allocation(places + z.L), directions(allocation + z.L),
        sharpened(directions + (z.sharpens ? 2 * z.R * z.L : 0)) {}

  static int64_t size(const DncSizes& z) { return z.L * (3 * z.K + 2 + (z.sharpens ? 4 : 2) * z.R); }
};

// Content weighting of head k.
template <typename s>
void look_up(const DncSizes& z, int64_t k, const s* memory, const Interface<s>& interface, const DncKept<s>& to) {
  const s *squares = &interface.squares[k * z.M], *masked = &interface.masked[k * z.M];
  s *content = to.content + k * z.L, *similarity = to.similarity + k * z.L, *norms = to.norms + k * z.L;
  for (int64_t n = 0; n < z.L; n += kLanes<s>) {
    Vector<s> products{}, sums{};
    for (int64_t m = 0; m < z.M; ++m) {
      const Vector<s> slots = load(memory + n * z.M + m * kLanes<s>);
      products += masked[m] * slots;
      sums += squares[m] * (slots * slots);
    }
    store(similarity + n, products);
    store(norms + n, sums);
  }
  const s inverse_norm = 1 / std::sqrt(dot(interface.keys + k * z.M, masked, z.M) + s(kNormEpsilon));
#pragma omp simd
  for (int64_t n = 0; n < z.L; ++n) {
    norms[n] = std::sqrt(norms[n] + s(kNormEpsilon));
    similarity[n] *= inverse_norm / norms[n];
  }
  softmax(content, similarity, interface.strengths[k], z.N);
  std::fill(content + z.N, content + z.L, s(0));
}

// Backward of `look_up`; adds to d_memory.
template <typename s>
void look_up_backward(const DncSizes& z, int64_t k, const s* memory, const DncKept<s>& of, const s* d_content,
                      s* d_memory, DncScratch<s>& x) {
  const Interface<s>& interface = x.interface;
  const s *content = of.content + k * z.L, *similarity = of.similarity + k * z.L, *norms = of.norms + k * z.L,
          *key = interface.keys + k * z.M, *squares = &interface.squares[k * z.M], *masked = &interface.masked[k * z.M];
  s *d_products = x.d_products.data(), *d_squares = x.d_squares.data();  // gradients of the slots' squared norms
  const s square = dot(key, masked, z.M) + s(kNormEpsilon), inverse_norm = 1 / std::sqrt(square);
  const s mean = dot(content, d_content, z.L), beta = interface.strengths[k];
  s d_beta = 0, along_key = 0;
#pragma omp simd reduction(+ : d_beta, along_key)
  for (int64_t n = 0; n < z.L; ++n) {
    const s d_score = content[n] * (d_content[n] - mean), d_similarity = beta * d_score;
    d_beta += d_score * similarity[n];
    along_key += d_similarity * similarity[n];
    d_products[n] = d_similarity * inverse_norm / norms[n];
    d_squares[n] = -s(0.5) * d_similarity * similarity[n] / (norms[n] * norms[n]);
  }
  x.d_interface.strengths[k] = d_beta;
  s *d_key = x.d_interface.keys + k * z.M, *d_mask = x.d_interface.masks + k * z.M;
  const s of_norm = along_key / square;  // minus the key's coefficient in the gradient through its norm
  for (int64_t m = 0; m < z.M; ++m) {
    Vector<s> along{}, along_square{};
    for (int64_t n = 0; n < z.L; n += kLanes<s>) {
      const int64_t i = n * z.M + m * kLanes<s>;
      const Vector<s> slots = load(memory + i), d_product = load(d_products + n), d_square = load(d_squares + n);
      along += d_product * slots;
      along_square += d_square * (slots * slots);
      store(d_memory + i, load(d_memory + i) + d_product * masked[m] + 2 * squares[m] * (d_square * slots));
    }
    const s d_masked = sum_of<s>(along);
    d_key[m] = squares[m] * (d_masked - of_norm * key[m]);
    d_mask[m] = 2 * interface.masks[k * z.M + m] *
                (key[m] * (d_masked - s(0.5) * of_norm * key[m]) + sum_of<s>(along_square));
  }
}

// Allocation weighting. Places are found by counting: the links cost N squared anyway.
template <typename s>
void allocate(const DncSizes& z, const s* usage, const DncKept<s>& to, DncScratch<s>& x) {
  s *keys = x.keys.data(), *places = to.places;
#pragma omp simd
  for (int64_t n = 0; n < z.N; ++n) {
    const s key = usage[n] + s(kTie) * static_cast<s>(n);
    keys[n] = key == key ? key : std::numeric_limits<s>::infinity();
  }
  std::fill_n(places, z.L, s(0));
  for (int64_t other = 0; other < z.N; ++other) {
    const s key = keys[other];
#pragma omp simd
    for (int64_t n = 0; n < other; ++n) places[n] += key < keys[n] ? s(1) : s(0);
#pragma omp simd
    for (int64_t n = other + 1; n < z.N; ++n) places[n] += key <= keys[n] ? s(1) : s(0);
  }
  for (int64_t n = 0; n < z.N; ++n) x.order[static_cast<int64_t>(places[n])] = n;
  s left = 1;
  for (const int64_t n : x.order) {
    const s used = s(kUsageEpsilon) + s(1 - kUsageEpsilon) * usage[n];
    to.allocation[n] = (1 - used) * left;
    left *= used;
  }
  std::fill(to.allocation + z.N, to.allocation + z.L, s(0));
}

// Backward of `allocate`; adds to d_usage. The order has no gradient.
template <typename s>
void allocate_backward(const DncSizes& z, const s* usage, const DncKept<s>& of, const s* d_allocation, s* d_usage,
                       DncScratch<s>& x) {
  for (int64_t n = 0; n < z.N; ++n) x.order[static_cast<int64_t>(of.places[n])] = n;
  s *left = x.left.data(), product = 1, after = 0;
  for (const int64_t n : x.order) {
    left[n] = product;
    product *= s(kUsageEpsilon) + s(1 - kUsageEpsilon) * usage[n];
  }
  for (int64_t i = z.N - 1; i >= 0; --i) {
    const int64_t n = x.order[i];
    const s used = s(kUsageEpsilon) + s(1 - kUsageEpsilon) * usage[n];
    d_usage[n] += s(1 - kUsageEpsilon) * (after / used - d_allocation[n] * left[n]);
    after += d_allocation[n] * of.allocation[n];
  }
}

// Links, precedence, backward and forward weightings.
template <typename s>
void link(const DncSizes& z, const DncRow<const s>& in, const DncRow<s>& out, const DncKept<s>& to) {
  const int64_t L = z.L;
  const s *written = out.written, *last = in.precedence;
  std::fill_n(to.directions, 2 * z.R * L, s(0));
  for (int64_t i = 0; i < z.N; ++i) {
    const s own = written[i], left = 1 - own, *from = in.links + i * L;
    s* row = out.links + i * L;
#pragma omp simd
    for (int64_t j = 0; j < L; ++j) row[j] = std::max(left - written[j], s(0)) * from[j] + own * last[j];
    row[i] = 0;
    for (int64_t r = 0; r < z.R; ++r) {
      const s* readings = in.readings + r * L;
      add_scaled(to.directions + r * L, readings[i], row, L);
      to.directions[(z.R + r) * L + i] = dot(row, readings, L);
    }
  }
  const s left = 1 - std::accumulate(written, written + z.N, s(0));
#pragma omp simd
  for (int64_t n = 0; n < L; ++n) out.precedence[n] = left * last[n] + written[n];
}

// Backward of `link`. d: in, the gradients of `out`; out, those of links and precedence of `in`; adds to that of the
// write weighting. d_readings [R, L]: gradients of the last read weightings.
template <typename s>
void link_backward(const DncSizes& z, const DncRow<const s>& in, const DncRow<s>& out, const s* d_directions,
                   const DncRow<s>& d, s* d_readings) {
  const int64_t L = z.L;
  const s *written = out.written, *last = in.precedence;
  const s along = dot(d.precedence, last, L), kept = 1 - std::accumulate(written, written + z.N, s(0));
#pragma omp simd
  for (int64_t n = 0; n < L; ++n) {
    d.written[n] += d.precedence[n] - along;
    d.precedence[n] *= kept;
  }
  std::fill_n(d_readings, z.R * L, s(0));
  for (int64_t i = 0; i < z.N; ++i) {
    const s own = written[i], left = 1 - own, *from = in.links + i * L, *row = out.links + i * L;
    s* d_row = d.links + i * L;
    for (int64_t r = 0; r < z.R; ++r) {
      const s *readings = in.readings + r * L, *d_before = d_directions + r * L, d_after = d_before[z.R * L + i],
              reading = readings[i];
      s *d_last = d_readings + r * L, d_own = 0;
#pragma omp simd reduction(+ : d_own)
      for (int64_t j = 0; j < L; ++j) {
        d_row[j] += reading * d_before[j] + d_after * readings[j];
        d_last[j] += d_after * row[j];
        d_own += d_before[j] * row[j];
      }
      d_last[i] += d_own;
    }
    d_row[i] = 0;
    s d_own = 0;
#pragma omp simd reduction(+ : d_own)
    for (int64_t j = 0; j < L; ++j) {
      const s d_link = d_row[j], of_links = d_link * from[j];
      d_own += d_link * last[j] - of_links;
      d.written[j] -= of_links;
      d.precedence[j] += own * d_link;
      d_row[j] = std::max(left - written[j], s(0)) * d_link;
    }
    d.written[i] += d_own;
  }
}

}  // namespace ntm_rl

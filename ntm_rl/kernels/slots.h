// The memory of one batch element, N slots of width M, in its internal layout.
//
// Rows over slots have length L, N rounded up to a multiple of a vector's lanes; elements past N are 0. The memory has
// the layout [L / lanes, M, lanes], so that a vector is one coordinate of `lanes` slots.
#pragma once

#include "numerics.h"
#include "products.h"

#include <type_traits>

namespace ntm_rl {

constexpr double kNormEpsilon = 1e-6;  // NORM_EPSILON in addressing/ntm.py
constexpr double kLogEpsilon = 1e-8;   // LOG_EPSILON in addressing/ntm.py

struct SlotSizes {
  int64_t N, M, L;
};

// Calls f(i, heads) for all of `count` heads in groups of 4, 2 and 1, which read the memory once.
template <typename F>
inline void for_groups(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) f(i, std::integral_constant<int64_t, 4>());
  if (i + 2 <= count) f(i, std::integral_constant<int64_t, 2>()), i += 2;
  if (i < count) f(i, std::integral_constant<int64_t, 1>());
}

template <int64_t HEADS, typename s>
inline void multiply_slots_of(const SlotSizes& z, const s* keys, const s* memory, s* products) {
  for (int64_t n = 0; n < z.L; n += kLanes<s>) {
    Vector<s> sums[HEADS] = {};
    for (int64_t m = 0; m < z.M; ++m) {
      const Vector<s> slots = load(memory + n * z.M + m * kLanes<s>);
#pragma GCC unroll 4
      for (int64_t h = 0; h < HEADS; ++h) sums[h] += keys[h * z.M + m] * slots;
    }
#pragma GCC unroll 4
    for (int64_t h = 0; h < HEADS; ++h) store(products + h * z.L + n, sums[h]);
  }
}

// products [count, L] = keys [count, M] * slots.
template <typename s>
inline void multiply_slots(const SlotSizes& z, int64_t count, const s* keys, const s* memory, s* products) {
  for_groups(count, [&](int64_t first, auto heads) {
    multiply_slots_of<heads>(z, keys + first * z.M, memory, products + first * z.L);
  });
}

template <int64_t HEADS, typename s>
inline void sum_slots_of(const SlotSizes& z, const s* weights, const s* memory, s* sums) {
  for (int64_t m = 0; m < z.M; ++m) {
    Vector<s> totals[HEADS] = {};
    for (int64_t n = 0; n < z.L; n += kLanes<s>) {
      const Vector<s> slots = load(memory + n * z.M + m * kLanes<s>);
#pragma GCC unroll 4
      for (int64_t h = 0; h < HEADS; ++h) totals[h] += load(weights + h * z.L + n) * slots;
    }
#pragma GCC unroll 4
    for (int64_t h = 0; h < HEADS; ++h) sums[h * z.M + m] = sum_of<s>(totals[h]);
  }
}

// sums [count, M] = weights [count, L] * memory.
template <typename s>
inline void sum_slots(const SlotSizes& z, int64_t count, const s* weights, const s* memory, s* sums) {
  for_groups(count, [&](int64_t first, auto heads) {
    sum_slots_of<heads>(z, weights + first * z.L, memory, sums + first * z.M);
  });
}

template <int64_t HEADS, typename s>
inline void read_backward_of(const SlotSizes& z, const s* weightings, const s* memory, const s* d_reads,
                             s* d_weightings, s* d_memory) {
  for (int64_t n = 0; n < z.L; n += kLanes<s>) {
    Vector<s> weights[HEADS], d_weights[HEADS];
#pragma GCC unroll 4
    for (int64_t h = 0; h < HEADS; ++h) {
      weights[h] = load(weightings + h * z.L + n);
      d_weights[h] = load(d_weightings + h * z.L + n);
    }
    for (int64_t m = 0; m < z.M; ++m) {
      const int64_t i = n * z.M + m * kLanes<s>;
      const Vector<s> slots = load(memory + i);
      Vector<s> d_slots = load(d_memory + i);
#pragma GCC unroll 4
      for (int64_t h = 0; h < HEADS; ++h) {
        d_weights[h] += d_reads[h * z.M + m] * slots;
        d_slots += d_reads[h * z.M + m] * weights[h];
      }
      store(d_memory + i, d_slots);
    }
#pragma GCC unroll 4
    for (int64_t h = 0; h < HEADS; ++h) store(d_weightings + h * z.L + n, d_weights[h]);
  }
}

// Backward of reading `reads` [count, M] = weightings [count, L] * memory; adds to d_weightings and d_memory.
template <typename s>
inline void read_backward(const SlotSizes& z, int64_t count, const s* weightings, const s* memory, const s* d_reads,
                          s* d_weightings, s* d_memory) {
  for_groups(count, [&](int64_t first, auto heads) {
    const int64_t row = first * z.L;
    read_backward_of<heads>(z, weightings + row, memory, d_reads + first * z.M, d_weightings + row, d_memory);
  });
}

// From [N, M] to the internal layout, and back.
template <typename s>
inline void lay_out_memory(const SlotSizes& z, const s* from, s* to) {
  Strips<s>(from, z.M, z.N, z.M, true, to);
}

template <typename s>
inline void lay_back_memory(const SlotSizes& z, const s* from, s* to) {
  constexpr int64_t lanes = kLanes<s>;
  for (int64_t first = 0; first < z.N; first += lanes, from += z.M * lanes) {
    const int64_t slots = std::min(lanes, z.N - first);
    for (int64_t n = 0; n < slots; ++n, to += z.M)
      for (int64_t m = 0; m < z.M; ++m) to[m] = from[m * lanes + n];
  }
}

// From `count` rows of length N to length L, and back.
template <typename s>
inline void lay_out_rows(const SlotSizes& z, int64_t count, const s* from, s* to) {
  for (int64_t k = 0; k < count; ++k) {
    std::copy_n(from + k * z.N, z.N, to + k * z.L);
    std::fill(to + k * z.L + z.N, to + (k + 1) * z.L, s(0));
  }
}

template <typename s>
inline void lay_back_rows(const SlotSizes& z, int64_t count, const s* from, s* to) {
  for (int64_t k = 0; k < count; ++k) std::copy_n(from + k * z.L, z.N, to + k * z.N);
}

}  // namespace ntm_rl

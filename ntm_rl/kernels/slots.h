// The memory of one batch element, N slots of width M, in its internal layout.
//
// Rows over slots have length L, N rounded up to a multiple of a vector's lanes; elements past N are 0. The memory has
// the layout [L / lanes, M, lanes], so that a vector is one coordinate of `lanes` slots.
#pragma once

#include "numerics.h"
#include "products.h"

namespace ntm_rl {

constexpr double kNormEpsilon = 1e-6;  // NORM_EPSILON in addressing/ntm.py
constexpr double kLogEpsilon = 1e-8;   // LOG_EPSILON in addressing/ntm.py

struct SlotSizes {
  int64_t N, M, L;
};

// sums [M] = weights [L] * memory.
template <typename s>
inline void sum_slots(const SlotSizes& z, const s* weights, const s* memory, s* sums) {
  for (int64_t m = 0; m < z.M; ++m) {
    Vector<s> sum{};
    for (int64_t n = 0; n < z.L; n += kLanes<s>) sum += load(weights + n) * load(memory + n * z.M + m * kLanes<s>);
    sums[m] = sum_of<s>(sum);
  }
}

// Backward of reading `reads` [M] = weighting [L] * memory; adds to d_weighting and d_memory.
template <typename s>
inline void read_backward(const SlotSizes& z, const s* weighting, const s* memory, const s* d_reads, s* d_weighting,
                          s* d_memory) {
  for (int64_t n = 0; n < z.L; n += kLanes<s>) {
    const Vector<s> weights = load(weighting + n);
    Vector<s> d_weights = load(d_weighting + n);
    for (int64_t m = 0; m < z.M; ++m) {
      const int64_t i = n * z.M + m * kLanes<s>;
      d_weights += d_reads[m] * load(memory + i);
      store(d_memory + i, load(d_memory + i) + d_reads[m] * weights);
    }
    store(d_weighting + n, d_weights);
  }
}

// From [N, M] to the internal layout, and back.
template <typename s>
inline void lay_out_memory(const SlotSizes& z, const s* from, s* to) {
  Strips<s>(from, z.M, z.N, z.M, true, to);
}

template <typename s>
inline void lay_back_memory(const SlotSizes& z, const s* from, s* to) {
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t m = 0; m < z.M; ++m)
      to[n * z.M + m] = from[(n / kLanes<s> * z.M + m) * kLanes<s> + n % kLanes<s>];
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

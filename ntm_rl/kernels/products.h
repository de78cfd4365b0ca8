// Matrix products with few rows, as in each step of a sequence; the weights are laid out once for all steps.
#pragma once

#include "aten.h"
#include "numerics.h"


#include <type_traits>
#include <vector>

namespace ntm_rl {

constexpr int64_t kMostInPlace = 32;  // rows of a single product that is faster in place

// Weights [k, n] as strips of columns [n / lanes, k, lanes], the last one padded with zeros; or in place, as [n, k].
template <typename s>
class Strips {
 public:
  Strips() = default;

  static int64_t size(int64_t k, int64_t n) { return k * padded<s>(n); }

  // Copies weights [k, n] (transposed: [n, k]), whose rows are `row` apart, to strips in `to`.
  Strips(const s* weights, int64_t k, int64_t n, int64_t row, bool transposed, s* to);

  // In place, [n, k]: slower, but a single product takes less time than the copy.
  Strips(const s* weights, int64_t k, int64_t n) : data(weights), k(k), n(n), is_laid_out(false) {}

  // to [m, n] = from [m, n] + a [m, k] * weights, or without `from` a * weights. Rows are a_row, from_row (0: one row
  // for all) and to_row apart.
  void multiply(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to, int64_t to_row) const;

 private:
  void multiply_in_place(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                         int64_t to_row) const;
  void multiply_in_torch(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                         int64_t to_row) const;

  const s* data = nullptr;
  int64_t k = 0, n = 0;
  bool is_laid_out = true;
};

extern template class Strips<float>;  // see products.cpp
extern template class Strips<double>;

constexpr size_t kKeptBytes = 8 << 20;  // of strips that each thread keeps

// Weights from `lay_out`; `own` has those too large to keep per thread.
template <typename s>
struct LaidOut {
  std::vector<Strips<s>> strips;
  std::vector<s> own;
  const Strips<s>& operator[](size_t i) const { return strips[i]; }
};

// Lays out weights [n, k] (transposed) or [k, n], valid until this thread's next call; `in_place` leaves transposed
// ones where they are.
template <typename s>
LaidOut<s> lay_out(const std::vector<const at::Tensor*>& weights, bool transposed, bool in_place = false) {
  thread_local std::vector<s> kept;  // faults of newly allocated pages cost more than the copy
  const auto columns = [&](const at::Tensor& each) { return each.size(transposed ? 0 : 1); };
  const auto depth = [&](const at::Tensor& each) { return each.size(transposed ? 1 : 0); };
  size_t size = 0;
  for (const at::Tensor* each : weights) size += in_place ? 0 : Strips<s>::size(depth(*each), columns(*each));
  LaidOut<s> laid_out;
  std::vector<s>& memory = size * sizeof(s) > kKeptBytes ? laid_out.own : kept;
  if (memory.size() < size) memory.resize(size);
  s* to = memory.data();
  for (const at::Tensor* each : weights) {
    const s* from = each->template data_ptr<s>();
    const int64_t k = depth(*each), n = columns(*each);
    laid_out.strips.push_back(in_place ? Strips<s>(from, k, n) : Strips<s>(from, k, n, each->size(1), transposed, to));
    to += Strips<s>::size(k, n);
  }
  return laid_out;
}

}  // namespace ntm_rl

// Matrix products with few rows, as in each step of a sequence; the weights are laid out once for all steps.
#pragma once

#include "aten.h"
#include "numerics.h"


#include <optional>
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

  // In place, [n, k]: slower, but a single product takes less time than the copy. Or strips from an earlier copy.
  Strips(const s* weights, int64_t k, int64_t n, bool is_laid_out = false)
      : data(weights), k(k), n(n), is_laid_out(is_laid_out) {}

  // to [m, n] = from [m, n] + a [m, k] * weights, or without `from` a * weights. Rows are a_row, from_row (0: one row
  // for all) and to_row apart.
  void multiply(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to, int64_t to_row) const;

  // to [m, n] += a * weights, which are laid out, for a transposed: [k, m] with rows a_row apart.
  void add_transposed(int64_t m, const s* a, int64_t a_row, s* to) const;

 private:
  template <bool TRANSPOSED>
  void multiply_strips(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                       int64_t to_row) const;
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
  if (memory.size() < size + kLanes<s>) memory.resize(size + kLanes<s>);
  s* to = aligned(memory.data());
  for (const at::Tensor* each : weights) {
    const s* from = each->template data_ptr<s>();
    const int64_t k = depth(*each), n = columns(*each);
    laid_out.strips.push_back(in_place ? Strips<s>(from, k, n) : Strips<s>(from, k, n, each->size(1), transposed, to));
    to += Strips<s>::size(k, n);
  }
  return laid_out;
}

// Returns weights [n, k] as strips in one tensor, for the steps in which they do not change.
template <typename s>
at::Tensor lay_out_once(at::TensorList weights) {
  int64_t size = 0;
  for (const at::Tensor& each : weights) size += Strips<s>::size(each.size(1), each.size(0));
  const at::Tensor laid_out = at::empty({size}, weights[0].options());
  s* to = laid_out.data_ptr<s>();
  for (const at::Tensor& each : weights) {
    const at::Tensor weight = each.contiguous();
    const int64_t k = weight.size(1), n = weight.size(0);
    Strips<s>(weight.data_ptr<s>(), k, n, k, true, to);
    to += Strips<s>::size(k, n);
  }
  return laid_out;
}

// The strips of weights [n, k] from `lay_out_once`.
template <typename s>
std::vector<Strips<s>> strips_of(const at::Tensor& laid_out, const std::vector<const at::Tensor*>& weights) {
  std::vector<Strips<s>> strips;
  const s* from = laid_out.data_ptr<s>();
  for (const at::Tensor* each : weights) {
    strips.emplace_back(from, each->size(1), each->size(0), true);
    from += Strips<s>::size(each->size(1), each->size(0));
  }
  TORCH_CHECK_VALUE(from == laid_out.data_ptr<s>() + laid_out.numel(), "weights and their strips differ in size");
  return strips;
}

// The strips of weights [n, k] from `lay_out_once` if given, else from `lay_out`.
template <typename s>
LaidOut<s> laid_out_or_lay_out(const std::optional<at::Tensor>& laid_out,
                               const std::vector<const at::Tensor*>& weights, bool in_place) {
  if (laid_out) return {strips_of<s>(*laid_out, weights), {}};
  return lay_out<s>(weights, true, in_place);
}

// Returns the gradient [n, k] of a weight from its inputs x [rows, k] and the gradients d [rows, n] of its products.
at::Tensor weight_gradient(const at::Tensor& d, const at::Tensor& x);

}  // namespace ntm_rl

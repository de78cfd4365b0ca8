// Matrix products with few rows, as in each step of a sequence; the weights are laid out once for all steps.
#pragma once

#include "numerics.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <type_traits>
#include <vector>

namespace ntm_rl {

// Size of a block of a product, kRows x kStrips vectors: with its operands it fills the registers.
#if defined(__AVX512F__)
constexpr int64_t kRows = 8, kStrips = 3;
#else
constexpr int64_t kRows = 4, kStrips = 3;
#endif

constexpr int64_t kMostDots = 2;      // rows of a product in place that is faster than torch's
constexpr int64_t kMostInPlace = 32;  // rows of a single product that is faster in place

// Weights [k, n] as strips of columns [n / lanes, k, lanes], the last one padded with zeros; or in place, as [n, k].
template <typename s>
class Strips {
 public:
  Strips() = default;

  static int64_t size(int64_t k, int64_t n) { return k * padded<s>(n); }

  // Copies weights [k, n] (transposed: [n, k]), whose rows are `row` apart, to strips in `to`.
  Strips(const s* weights, int64_t k, int64_t n, int64_t row, bool transposed, s* to) : data(to), k(k), n(n) {
    constexpr int64_t lanes = kLanes<s>;
    const int64_t full = n / lanes * lanes;
    for (int64_t first = 0; first < full; first += lanes) {
      s* __restrict strip = to + first * k;
      const s* __restrict from = weights + first * (transposed ? row : 1);
      for (int64_t i = 0; transposed && i < k; ++i)
#pragma GCC unroll 16
        for (int64_t j = 0; j < lanes; ++j) strip[i * lanes + j] = from[j * row + i];
      for (int64_t i = 0; !transposed && i < k; ++i) store(strip + i * lanes, load(from + i * row));
    }
    s* strip = to + full * k;
    for (int64_t i = 0; full < n && i < k; ++i)
      for (int64_t j = 0; j < lanes; ++j, ++strip)
        *strip = full + j >= n ? s(0) : weights[transposed ? (full + j) * row + i : i * row + full + j];
  }

  // In place, [n, k]: slower, but a single product takes less time than the copy. Or strips from an earlier copy.
  Strips(const s* weights, int64_t k, int64_t n, bool is_laid_out = false)
      : data(weights), k(k), n(n), is_laid_out(is_laid_out) {}

  // to [m, n] = from [m, n] + a [m, k] * weights, or without `from` a * weights. Rows are a_row, from_row (0: one row
  // for all) and to_row apart.
  void multiply(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to, int64_t to_row) const {
    if (!is_laid_out) return multiply_in_place(m, a, a_row, from, from_row, to, to_row);
    multiply_strips<false>(m, a, a_row, from, from_row, to, to_row);
  }

  // to [m, n] += a * weights, which are laid out, for a transposed: [k, m] with rows a_row apart.
  void add_transposed(int64_t m, const s* a, int64_t a_row, s* to) const {
    multiply_strips<true>(m, a, a_row, to, n, to, n);
  }

 private:
  struct Block {
    const s* strips;
    int64_t k;
    const s* a;
    int64_t a_row;
    const s* from;
    int64_t from_row;
    s* to;
    int64_t to_row;
  };

  template <bool TRANSPOSED>
  void multiply_strips(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                       int64_t to_row) const {
    for (int64_t first = 0; first < n; first += kStrips * kLanes<s>) {
      const int64_t columns = std::min(kStrips * kLanes<s>, n - first);
      const Block block{data + first * k, k, a, a_row, from ? from + first : nullptr, from_row, to + first, to_row};
      if (columns == kStrips * kLanes<s>)
        all_rows<kStrips, TRANSPOSED>(block, m);
      else
        last_columns<TRANSPOSED>(block, m, columns);
    }
  }

  void multiply_in_place(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                         int64_t to_row) const {
    if (m > kMostDots) return multiply_in_torch(m, a, a_row, from, from_row, to, to_row);
    for (int64_t i = 0; i < m; ++i, a += a_row, to += to_row) {
      const s* added = from ? from + i * from_row : nullptr;
      int64_t j = 0;
      for (; j + 4 <= n; j += 4) dots<4>(j, a, added, to);
      for (; j < n; ++j) dots<1>(j, a, added, to);
    }
  }

  void multiply_in_torch(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                         int64_t to_row) const {
    const auto view = [](const s* values, int64_t rows, int64_t columns, int64_t row) {
      return at::from_blob(const_cast<s*>(values), {rows, columns}, {row, 1}, at::CppTypeToScalarType<s>::value);
    };
    at::Tensor product = view(to, m, n, to_row);
    const at::Tensor left = view(a, m, k, a_row), right = view(data, n, k, k).t();
    if (from)
      at::addmm_out(product, from == to ? product : view(from, from_row ? m : 1, n, from_row), left, right);
    else
      at::mm_out(product, left, right);
  }

  // COLUMNS columns from j on of a row.
  template <int64_t COLUMNS>
  void dots(int64_t j, const s* a, const s* from, s* to) const {
    const s* weights = data + j * k;
    Vector<s> sums[COLUMNS] = {};
    int64_t i = 0;
    for (; i + kLanes<s> <= k; i += kLanes<s>) {
      const Vector<s> row = load(a + i);
#pragma GCC unroll 4
      for (int64_t c = 0; c < COLUMNS; ++c) sums[c] += row * load(weights + c * k + i);
    }
#pragma GCC unroll 4
    for (int64_t c = 0; c < COLUMNS; ++c) {
      s sum = sum_of<s>(sums[c]) + (from ? from[j + c] : s(0));
      for (int64_t rest = i; rest < k; ++rest) sum += a[rest] * weights[c * k + rest];
      to[j + c] = sum;
    }
  }

  // Columns that do not fill whole vectors go through a buffer.
  template <bool TRANSPOSED>
  static void last_columns(Block block, int64_t m, int64_t columns) {
    constexpr int64_t width = kStrips * kLanes<s>;
    s buffer[kRows * width] = {};
    for (int64_t i = 0; i < m; i += kRows) {
      const int64_t rows = std::min(kRows, m - i);
      for (int64_t r = 0; block.from && r < rows; ++r)
        std::copy_n(block.from + (i + r) * block.from_row, columns, buffer + r * width);
      const Block part{block.strips, block.k, block.a + i * (TRANSPOSED ? 1 : block.a_row), block.a_row,
                       block.from ? buffer : nullptr, width, buffer, width};
      if (columns > 2 * kLanes<s>)
        all_rows<3, TRANSPOSED>(part, rows);
      else if (columns > kLanes<s>)
        all_rows<2, TRANSPOSED>(part, rows);
      else
        all_rows<1, TRANSPOSED>(part, rows);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(buffer + r * width, columns, block.to + (i + r) * block.to_row);
    }
  }

  template <int64_t STRIPS, bool TRANSPOSED>
  static void all_rows(Block block, int64_t m) {
    const auto run = [&](auto rows) {
      for (; m >= rows; m -= rows) {
        some_rows<rows, STRIPS, TRANSPOSED>(block);
        block.a += rows * (TRANSPOSED ? 1 : block.a_row), block.to += rows * block.to_row;
        if (block.from) block.from += rows * block.from_row;
      }
    };
    run(std::integral_constant<int64_t, kRows>());
    if constexpr (kRows > 4) run(std::integral_constant<int64_t, 4>());
    run(std::integral_constant<int64_t, 2>());
    run(std::integral_constant<int64_t, 1>());
  }

  template <int64_t ROWS, int64_t STRIPS, bool TRANSPOSED>
  static void some_rows(const Block& block) {
    Vector<s> sums[ROWS][STRIPS] = {};
    const s *strip = block.strips, *a = block.a;
    const int64_t a_row = block.a_row, next = block.k * kLanes<s>;
    for (int64_t i = 0; i < block.k; ++i, a += TRANSPOSED ? a_row : 1, strip += kLanes<s>) {
      Vector<s> weights[STRIPS];
#pragma GCC unroll 8
      for (int64_t v = 0; v < STRIPS; ++v) weights[v] = load(strip + v * next);
#pragma GCC unroll 8
      for (int64_t r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
        for (int64_t v = 0; v < STRIPS; ++v) sums[r][v] += a[TRANSPOSED ? r : r * a_row] * weights[v];
      }
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
      for (int64_t v = 0; v < STRIPS; ++v) {
        Vector<s> sum = sums[r][v];
        if (block.from) sum += load(block.from + r * block.from_row + v * kLanes<s>);
        store(block.to + r * block.to_row + v * kLanes<s>, sum);
      }
    }
  }

  const s* data = nullptr;
  int64_t k = 0, n = 0;
  bool is_laid_out = true;
};

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

// Returns the gradient [n, k] of a weight from its inputs x [rows, k] and the gradients d [rows, n] of its products.
at::Tensor weight_gradient(const at::Tensor& d, const at::Tensor& x);

}  // namespace ntm_rl

// See products.h.

#include "products.h"

#include "aten.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace ntm_rl {
namespace {

// Size of a block of a product, kRows x kStrips vectors: with its operands it fills the registers.
#if defined(__AVX512F__)
constexpr int64_t kRows = 8, kStrips = 3;
#else
constexpr int64_t kRows = 4, kStrips = 3;
#endif

constexpr int64_t kMostDots = 2;       // rows of a product in place that is faster than torch's
constexpr int64_t kLeastColumns = 32;  // of a gradient for which strips are faster than torch's products
constexpr int64_t kGradientRows = 128;  // whose strips stay in the cache

template <typename s>
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

template <int64_t ROWS, int64_t STRIPS, bool TRANSPOSED, typename s>
void some_rows(const Block<s>& block) {
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

template <int64_t STRIPS, bool TRANSPOSED, typename s>
void all_rows(Block<s> block, int64_t m) {
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

// Columns that do not fill whole vectors go through a buffer.
template <bool TRANSPOSED, typename s>
void last_columns(Block<s> block, int64_t m, int64_t columns) {
  constexpr int64_t width = kStrips * kLanes<s>;
  s buffer[kRows * width] = {};
  for (int64_t i = 0; i < m; i += kRows) {
    const int64_t rows = std::min(kRows, m - i);
    for (int64_t r = 0; block.from && r < rows; ++r)
      std::copy_n(block.from + (i + r) * block.from_row, columns, buffer + r * width);
    const Block<s> part{block.strips, block.k, block.a + i * (TRANSPOSED ? 1 : block.a_row), block.a_row,
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

// COLUMNS columns from j on of a row.
template <int64_t COLUMNS, typename s>
void dots(const s* weights, int64_t k, int64_t j, const s* a, const s* from, s* to) {
  weights += j * k;
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

}  // namespace

template <typename s>
Strips<s>::Strips(const s* weights, int64_t k, int64_t n, int64_t row, bool transposed, s* to) : data(to), k(k), n(n) {
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

template <typename s>
void Strips<s>::multiply(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to, int64_t to_row) const {
  if (!is_laid_out) return multiply_in_place(m, a, a_row, from, from_row, to, to_row);
  multiply_strips<false>(m, a, a_row, from, from_row, to, to_row);
}

template <typename s>
void Strips<s>::add_transposed(int64_t m, const s* a, int64_t a_row, s* to) const {
  multiply_strips<true>(m, a, a_row, to, n, to, n);
}

template <typename s>
template <bool TRANSPOSED>
void Strips<s>::multiply_strips(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                                int64_t to_row) const {
  for (int64_t first = 0; first < n; first += kStrips * kLanes<s>) {
    const int64_t columns = std::min(kStrips * kLanes<s>, n - first);
    const Block<s> block{data + first * k, k, a, a_row, from ? from + first : nullptr, from_row, to + first, to_row};
    if (columns == kStrips * kLanes<s>)
      all_rows<kStrips, TRANSPOSED>(block, m);
    else
      last_columns<TRANSPOSED>(block, m, columns);
  }
}

template <typename s>
void Strips<s>::multiply_in_place(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                       int64_t to_row) const {
  if (m > kMostDots) return multiply_in_torch(m, a, a_row, from, from_row, to, to_row);
  for (int64_t i = 0; i < m; ++i, a += a_row, to += to_row) {
    const s* added = from ? from + i * from_row : nullptr;
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) dots<4>(data, k, j, a, added, to);
    for (; j < n; ++j) dots<1>(data, k, j, a, added, to);
  }
}

template <typename s>
void Strips<s>::multiply_in_torch(int64_t m, const s* a, int64_t a_row, const s* from, int64_t from_row, s* to,
                       int64_t to_row) const {
  constexpr at::ScalarType type = at::type_of<s>;
  const at::Matrix product(to, m, n, to_row, 1, type), left(a, m, k, a_row, 1, type), right(data, k, n, 1, k, type);
  if (!from)
    at::mm_out(product, left, right);
  else if (from == to)
    at::addmm_out(product, product, left, right);
  else
    at::addmm_out(product, at::Matrix(from, m, n, from_row, 1, type), left, right);
}

at::Tensor weight_gradient(const at::Tensor& d, const at::Tensor& x) {
  const int64_t rows = d.size(0), n = d.size(1), k = x.size(1);
  // torch's product with the longer side last is up to ten times as fast.
  if (k < kLeastColumns && k < n) return x.t().mm(d).t().contiguous();
  if (k < kLeastColumns || d.scalar_type() != at::kFloat || d.stride(1) != 1 || x.stride(1) != 1) return d.t().mm(x);
  const at::Tensor gradient = at::zeros({n, k}, d.options());
  at::parallel_for(0, n, std::max<int64_t>(8, (1 << 21) / (rows * k + 1)), [&](int64_t from, int64_t until) {
    std::vector<float> memory(Strips<float>::size(kGradientRows, k) + kLanes<float>);
    float* const strips = aligned(memory.data());
    for (int64_t row = 0; row < rows; row += kGradientRows) {
      const int64_t chunk = std::min(kGradientRows, rows - row);
      Strips<float>(x.data_ptr<float>() + row * x.stride(0), chunk, k, x.stride(0), false, strips)
          .add_transposed(until - from, d.data_ptr<float>() + row * d.stride(0) + from, d.stride(0),
                          gradient.data_ptr<float>() + from * k);
    }
  });
  return gradient;
}

template class Strips<float>;
template class Strips<double>;

}  // namespace ntm_rl

// Vectors of the machine's width, elementary functions that the compiler vectorises, and loops over arrays.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ntm_rl {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

template <typename s, int64_t BYTES>
struct VectorOf {
  typedef s type __attribute__((vector_size(BYTES)));
};
template <typename s>
using Vector = typename VectorOf<s, kVectorBytes>::type;
template <typename s>
constexpr int64_t kLanes = kVectorBytes / sizeof(s);

// n rounded up to a multiple of the lanes.
template <typename s>
constexpr int64_t padded(int64_t n) {
  return (n + kLanes<s> - 1) / kLanes<s> * kLanes<s>;
}

// The first element from `from` on at which a vector is aligned: loads that cross a cache line take twice as long.
template <typename s>
inline s* aligned(s* from) {
  return reinterpret_cast<s*>((reinterpret_cast<uintptr_t>(from) + kVectorBytes - 1) / kVectorBytes * kVectorBytes);
}

template <typename s>
inline Vector<s> load(const s* from) {
  Vector<s> vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <typename s>
inline void store(s* to, const Vector<s>& vector) {
  std::memcpy(to, &vector, sizeof vector);
}

// The sum of a vector's lanes.
template <typename s, int64_t BYTES = kVectorBytes>
[[gnu::always_inline]] inline s sum_of(typename VectorOf<s, BYTES>::type vector) {
  if constexpr (BYTES == sizeof(s)) {
    return vector[0];
  } else {
    typename VectorOf<s, BYTES / 2>::type halves[2];
    std::memcpy(halves, &vector, BYTES);
    return sum_of<s, BYTES / 2>(halves[0] + halves[1]);
  }
}

// exp and log as polynomials; errors are below 2 units in the last place. NaN and infinity are handled as in torch;
// denormal powers, which are slow on some processors, become 0.
constexpr float kLeastExponent = -86.6f, kLargestExponent = 88.7228394f;

[[gnu::always_inline]] inline float exp_(float x) {
  const float bounded = std::min(std::max(x, kLeastExponent), kLargestExponent);
  const float n = std::nearbyint(bounded * 1.44269504088896341f);
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 126) << 23;  // of 2^(n - 1): 2^128 is not a float
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const float power = (p + p) * scale;
  return x < kLeastExponent ? 0.0f : x > kLargestExponent ? std::numeric_limits<float>::infinity() : power;
}

[[gnu::always_inline]] inline float log_(float x) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const bool is_denormal = x < std::numeric_limits<float>::min();
  const float normal = is_denormal ? x * 8388608.0f : x;  // 2^23
  int32_t bits;
  std::memcpy(&bits, &normal, sizeof bits);
  const int32_t shifted = bits - 0x3f3504f3;  // sqrt(1/2): mantissas lie in [sqrt(1/2), sqrt(2))
  const int32_t exponent = shifted >> 23;
  const int32_t mantissa_bits = bits - (exponent << 23);
  float m;
  std::memcpy(&m, &mantissa_bits, sizeof m);
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const float series = 2.0f + z * (0.66666666f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
  const float power = static_cast<float>(exponent) - (is_denormal ? 23.0f : 0.0f);
  const float logarithm = s * series + power * 0.69314718f;
  const float of_no_positive = x == 0.0f ? -infinity : std::numeric_limits<float>::quiet_NaN();
  return x > 0.0f ? (x < infinity ? logarithm : x) : of_no_positive;
}

[[gnu::always_inline]] inline double exp_(double x) { return std::exp(x); }
[[gnu::always_inline]] inline double log_(double x) { return std::log(x); }

template <typename s>
[[gnu::always_inline]] inline s sigmoid(s x) {
  return s(1) / (s(1) + exp_(-x));
}

template <typename s>
[[gnu::always_inline]] inline s tanh_(s x) {  // a polynomial where the formula would cancel
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
[[gnu::always_inline]] inline double tanh_(double x) {
  return std::tanh(x);
}

template <typename s>
[[gnu::always_inline]] inline s log1p_(s x) {  // x >= 0; corrects the rounding of 1 + x
  const s rounded = 1 + x;
  return log_(rounded) + (x - (rounded - 1)) / rounded;
}

template <typename s>
[[gnu::always_inline]] inline s clamp(s x, s bound) {
  return std::min(std::max(x, -bound), bound);
}

template <typename s>
[[gnu::always_inline]] inline s dot(const s* __restrict a, const s* __restrict b, int64_t n) {
  s sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename s>
[[gnu::always_inline]] inline void add_scaled(s* __restrict to, s factor, const s* __restrict from, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

// to += a * b, element by element.
template <typename s>
[[gnu::always_inline]] inline void multiply_add(const s* __restrict a, const s* __restrict b, int64_t n,
                                                s* __restrict to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += a[i] * b[i];
}

// to = softmax(scale * x); to may be x.
template <typename s>
[[gnu::always_inline]] inline void softmax(s* to, const s* x, s scale, int64_t n) {
  s top = x[0] * scale;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) top = std::max(top, x[i] * scale);
  s sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    to[i] = exp_(x[i] * scale - top);
    sum += to[i];
  }
  const s inverse = s(1) / sum;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] *= inverse;
}

}  // namespace ntm_rl

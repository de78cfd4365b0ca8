// The part of ATen's interface that the kernels use, under its names, over PyTorch's stable C interface. Operations
// take no part in autograd and autocast.
#pragma once

#include "torch_abi.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace ntm_rl::at {

// Throws ValueError in Python.
#define TORCH_CHECK_VALUE(condition, ...) \
  if (!(condition)) throw std::invalid_argument(::ntm_rl::at::message(__VA_ARGS__))

// Throws IndexError in Python.
#define TORCH_CHECK_INDEX(condition, ...) \
  if (!(condition)) throw std::out_of_range(::ntm_rl::at::message(__VA_ARGS__))

// Throws RuntimeError in Python for a call of PyTorch that failed.
void check_torch(AOTITorchError error, const char* operation);

// Does not own its elements: those of a list in braces live until the end of the expression.
template <typename T>
class ArrayRef {
 public:
  ArrayRef(const T* data, size_t size) : data_(data), size_(size) {}
  ArrayRef(const std::vector<T>& all) : ArrayRef(all.data(), all.size()) {}
  ArrayRef(const std::initializer_list<T>& all) : ArrayRef(all.begin(), all.size()) {}
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  const T& operator[](size_t i) const { return data_[i]; }
  const T& back() const { return data_[size_ - 1]; }
  std::vector<T> vec() const { return {begin(), end()}; }
  bool operator==(ArrayRef other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

 private:
  const T* data_;
  size_t size_;
};

using IntArrayRef = ArrayRef<int64_t>;

enum ScalarType : int32_t { kLong = 4, kHalf = 5, kFloat = 6, kDouble = 7, kBool = 11, kBFloat16 = 15 };

template <typename s>
constexpr ScalarType type_of = std::is_same_v<s, float> ? kFloat : std::is_same_v<s, double> ? kDouble : kBool;

inline std::string text(const char* part) { return part; }
inline std::string text(int64_t number) { return std::to_string(number); }
std::string text(ScalarType type);
std::string text(IntArrayRef sizes);

template <typename... Parts>
[[gnu::cold]] std::string message(const Parts&... parts) {
  return (text(parts) + ...);
}

// The type of new tensors, which are on the CPU.
struct TensorOptions {
  ScalarType type;
  TensorOptions dtype(ScalarType other) const { return {other}; }
};

constexpr int64_t kMostDims = 4;  // sizes beyond are not read: no kernel takes more than 3

// A tensor in memory, or a view of one: operations that return views do not call PyTorch.
class Tensor {
 public:
  Tensor();
  Tensor(const Tensor&);
  Tensor(Tensor&&);
  Tensor& operator=(const Tensor&);
  Tensor& operator=(Tensor&&);
  ~Tensor();
  explicit Tensor(AtenTensorHandle handle);  // takes the reference over

  bool defined() const { return owner_ != nullptr; }
  bool is_cpu() const { return is_cpu_; }
  int64_t dim() const { return dim_; }
  int64_t size(int64_t i) const { return sizes_[i]; }
  int64_t stride(int64_t i) const { return strides_[i]; }
  IntArrayRef sizes() const { return {sizes_.data(), static_cast<size_t>(std::min(dim_, kMostDims))}; }
  ScalarType scalar_type() const { return type_; }
  TensorOptions options() const { return {type_}; }
  int64_t itemsize() const { return type_ == kDouble || type_ == kLong ? 8 : type_ == kFloat ? 4 : 1; }
  int64_t numel() const;
  size_t nbytes() const { return numel() * itemsize(); }
  bool is_contiguous() const;

  void* data_ptr() const { return data_; }
  template <typename s>
  s* data_ptr() const {
    return reinterpret_cast<s*>(data_);
  }

  Tensor narrow(int64_t dim, int64_t start, int64_t length) const;
  Tensor select(int64_t dim, int64_t index) const;
  Tensor operator[](int64_t index) const { return select(0, index); }
  Tensor transpose(int64_t first, int64_t second) const;
  Tensor t() const { return transpose(0, 1); }
  Tensor view(IntArrayRef sizes) const;  // of a contiguous tensor

  Tensor contiguous() const;
  Tensor clone() const;  // contiguous
  Tensor reshape(IntArrayRef sizes) const { return contiguous().view(sizes); }
  const Tensor& copy_(const Tensor& from) const;
  const Tensor& add_(const Tensor& from) const;
  Tensor mm(const Tensor& right) const;
  Tensor sum(int64_t dim) const;  // dim = 0, of a contiguous tensor

  AtenTensorHandle handle() const;  // a new reference to this tensor or view

 private:
  std::shared_ptr<AtenTensorOpaque> owner_;
  char* data_ = nullptr;
  int64_t dim_ = 0;
  std::array<int64_t, kMostDims> sizes_{}, strides_{};
  ScalarType type_ = kFloat;
  bool is_cpu_ = true, is_view_ = false;
};

using TensorList = ArrayRef<Tensor>;

Tensor empty(IntArrayRef sizes, TensorOptions options);
Tensor empty_like(const Tensor& like);  // contiguous
Tensor zeros(IntArrayRef sizes, TensorOptions options);

// A matrix in memory as PyTorch's products read it.
class Matrix {
 public:
  Matrix(const void* data, int64_t rows, int64_t columns, int64_t row, int64_t column, ScalarType type);
  Matrix(const Tensor& of);
  Matrix(const Matrix&) = delete;
  ~Matrix();
  operator AtenTensorHandle() const { return handle_; }

 private:
  AtenTensorHandle handle_;
};

Matrix as_rows(const Tensor& vector, int64_t n);  // [n, size], each row the vector
void mm_out(const Matrix& out, const Matrix& left, const Matrix& right);
void addmm_out(const Matrix& out, const Matrix& added, const Matrix& left, const Matrix& right);
Tensor mm(const Tensor& left, const Tensor& right);
Tensor addmm(const Tensor& bias, const Tensor& left, const Tensor& right);

// Calls f(from, until) for parts of [begin, end) of at least `grain`, on PyTorch's threads.
void parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc f, void* context);

template <typename F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (begin < end && end - begin <= grain) return f(begin, end);
  const auto call = [](int64_t from, int64_t until, void* context) { (*static_cast<const F*>(context))(from, until); };
  parallel_for(begin, end, grain, call, const_cast<F*>(&f));
}

// Calls f with `scalar_t` as the type's C++ type.
#define AT_DISPATCH_FLOATING_TYPES(type, name, ...)                                           \
  [&] {                                                                                       \
    const ::ntm_rl::at::ScalarType dispatched = type;                                         \
    if (dispatched == ::ntm_rl::at::kFloat) {                                                 \
      using scalar_t = float;                                                                 \
      return __VA_ARGS__();                                                                   \
    }                                                                                         \
    TORCH_CHECK_VALUE(dispatched == ::ntm_rl::at::kDouble, name, " is not implemented for ", dispatched); \
    using scalar_t = double;                                                                  \
    return __VA_ARGS__();                                                                     \
  }()

}  // namespace ntm_rl::at

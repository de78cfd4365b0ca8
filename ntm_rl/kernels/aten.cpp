// See aten.h. Compiled once, so that the kernels' sources stay small.

#include "aten.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace ntm_rl::at {
namespace {

// Calls f for each pair of elements of two tensors of the same sizes.
template <typename s, typename F>
void for_each(const Tensor& to, const Tensor& from, const F& f, int64_t dim = 0, int64_t to_at = 0,
              int64_t from_at = 0) {
  const bool is_inside = dim < to.dim();
  const int64_t n = is_inside ? to.size(dim) : 1, to_row = is_inside ? to.stride(dim) : 0,
                from_row = is_inside ? from.stride(dim) : 0;
  if (dim + 1 < to.dim()) {
    for (int64_t i = 0; i < n; ++i) for_each<s>(to, from, f, dim + 1, to_at + i * to_row, from_at + i * from_row);
    return;
  }
  s* row = to.data_ptr<s>() + to_at;
  const s* values = from.data_ptr<s>() + from_at;
  for (int64_t i = 0; i < n; ++i) f(row[i * to_row], values[i * from_row]);
}

// Sums n rows of `width` into `to`, pairwise so that errors grow with log n.
template <typename s>
void sum_rows(const s* rows, int64_t n, int64_t width, s* to) {
  constexpr int64_t kFew = 32;
  std::fill_n(to, width, s(0));
  if (n > kFew) {
    const int64_t half = n / 2;
    std::vector<s> second(width);
    sum_rows(rows, half, width, to);
    sum_rows(rows + half * width, n - half, width, second.data());
    for (int64_t i = 0; i < width; ++i) to[i] += second[i];
    return;
  }
  for (int64_t row = 0; row < n; ++row, rows += width)
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) to[i] += rows[i];
}

}  // namespace

void check_torch(AOTITorchError error, const char* operation) {
  if (error != 0) throw std::runtime_error(std::string("PyTorch failed to ") + operation);
}

std::string text(ScalarType type) {
  switch (type) {
    case kLong: return "Long";
    case kHalf: return "Half";
    case kFloat: return "Float";
    case kDouble: return "Double";
    case kBool: return "Bool";
    case kBFloat16: return "BFloat16";
  }
  return "number " + std::to_string(static_cast<int32_t>(type));
}

std::string text(IntArrayRef sizes) {
  std::string all;
  for (const int64_t size : sizes) all += (all.empty() ? "" : ", ") + std::to_string(size);
  return "[" + all + "]";
}

Tensor::Tensor() = default;
Tensor::Tensor(const Tensor&) = default;
Tensor::Tensor(Tensor&&) = default;
Tensor& Tensor::operator=(const Tensor&) = default;
Tensor& Tensor::operator=(Tensor&&) = default;
Tensor::~Tensor() = default;

Tensor::Tensor(AtenTensorHandle handle) : owner_(handle, &aoti_torch_delete_tensor_object) {
  void* data;
  int32_t type, device;
  int64_t *sizes, *strides;
  const bool failed = aoti_torch_get_device_type(handle, &device) || aoti_torch_get_dtype(handle, &type) ||
                      aoti_torch_get_dim(handle, &dim_) || aoti_torch_get_sizes(handle, &sizes) ||
                      aoti_torch_get_strides(handle, &strides) || aoti_torch_get_data_ptr(handle, &data);
  check_torch(failed, "read a tensor");
  std::copy_n(sizes, std::min(dim_, kMostDims), sizes_.begin());
  std::copy_n(strides, std::min(dim_, kMostDims), strides_.begin());
  data_ = static_cast<char*>(data), type_ = static_cast<ScalarType>(type);
  is_cpu_ = device == aoti_torch_device_type_cpu();
}

int64_t Tensor::numel() const {
  int64_t product = 1;
  for (const int64_t size : sizes()) product *= size;
  return product;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int64_t i = sizes().size() - 1; i >= 0; expected *= sizes_[i], --i)
    if (sizes_[i] != 1 && strides_[i] != expected) return numel() == 0;
  return true;
}

Tensor Tensor::narrow(int64_t dim, int64_t start, int64_t length) const {
  Tensor part = *this;
  part.is_view_ = true;
  part.sizes_[dim] = length;
  part.data_ += start * strides_[dim] * itemsize();
  return part;
}

Tensor Tensor::select(int64_t dim, int64_t index) const {
  Tensor part = narrow(dim, index, 1);
  std::copy(part.sizes_.begin() + dim + 1, part.sizes_.end(), part.sizes_.begin() + dim);
  std::copy(part.strides_.begin() + dim + 1, part.strides_.end(), part.strides_.begin() + dim);
  --part.dim_;
  return part;
}

Tensor Tensor::transpose(int64_t first, int64_t second) const {
  Tensor other = *this;
  other.is_view_ = true;
  std::swap(other.sizes_[first], other.sizes_[second]);
  std::swap(other.strides_[first], other.strides_[second]);
  return other;
}

Tensor Tensor::view(IntArrayRef sizes) const {
  Tensor other = *this;
  other.is_view_ = true;
  other.dim_ = sizes.size();
  std::copy(sizes.begin(), sizes.end(), other.sizes_.begin());
  int64_t stride = 1;
  for (int64_t i = other.dim_ - 1; i >= 0; stride *= other.sizes_[i], --i) other.strides_[i] = stride;
  return other;
}

Tensor Tensor::contiguous() const { return is_contiguous() ? *this : clone(); }
Tensor Tensor::clone() const { return empty_like(*this).copy_(*this); }

const Tensor& Tensor::copy_(const Tensor& from) const {
  const auto copy = [](auto& to, auto value) { to = value; };
  if (numel() == 0) return *this;
  if (is_contiguous() && from.is_contiguous())
    std::memcpy(data_, from.data_, nbytes());
  else if (itemsize() == 8)
    for_each<uint64_t>(*this, from, copy);
  else if (itemsize() == 4)
    for_each<uint32_t>(*this, from, copy);
  else
    for_each<uint8_t>(*this, from, copy);
  return *this;
}

const Tensor& Tensor::add_(const Tensor& from) const {
  const auto add = [](auto& to, auto value) { to += value; };
  if (type_ == kDouble)
    for_each<double>(*this, from, add);
  else
    for_each<float>(*this, from, add);
  return *this;
}

Tensor Tensor::mm(const Tensor& right) const {
  const Tensor product = empty({size(0), right.size(1)}, options());
  mm_out(product, *this, right);
  return product;
}

Tensor Tensor::sum([[maybe_unused]] int64_t dim) const {
  const Tensor total = empty({sizes_.data() + 1, static_cast<size_t>(dim_ - 1)}, options());
  if (type_ == kDouble)
    sum_rows(data_ptr<double>(), size(0), total.numel(), total.data_ptr<double>());
  else
    sum_rows(data_ptr<float>(), size(0), total.numel(), total.data_ptr<float>());
  return total;
}

AtenTensorHandle Tensor::handle() const {
  AtenTensorHandle made;
  if (!is_view_) {
    check_torch(aoti_torch_new_tensor_handle(owner_.get(), &made), "return a tensor");
    return made;
  }
  void* base;
  check_torch(aoti_torch_get_data_ptr(owner_.get(), &base), "read a tensor");
  const int64_t offset = (data_ - static_cast<char*>(base)) / itemsize();
  check_torch(aoti_torch__reinterpret_tensor(owner_.get(), dim_, sizes_.data(), strides_.data(), offset, &made),
              "return a view");
  return made;
}

Tensor empty(IntArrayRef sizes, TensorOptions options) {
  std::array<int64_t, kMostDims> strides;
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride *= std::max<int64_t>(1, sizes[i])) strides[i] = stride;
  AtenTensorHandle handle;
  check_torch(aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides.data(), options.type,
                                       aoti_torch_device_type_cpu(), 0, &handle),
              "allocate a tensor");
  return Tensor(handle);
}

Tensor empty_like(const Tensor& like) { return empty(like.sizes(), like.options()); }

Tensor zeros(IntArrayRef sizes, TensorOptions options) {
  const Tensor all = empty(sizes, options);
  if (all.nbytes() > 0) std::memset(all.data_ptr(), 0, all.nbytes());
  return all;
}

Matrix::Matrix(const void* data, int64_t rows, int64_t columns, int64_t row, int64_t column, ScalarType type) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row, column};
  check_torch(aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2, sizes, strides, 0, type,
                                                 aoti_torch_device_type_cpu(), 0, &handle_),
              "read a matrix");
}

Matrix::Matrix(const Tensor& of)
    : Matrix(of.data_ptr(), of.size(0), of.size(1), of.stride(0), of.stride(1), of.scalar_type()) {}

Matrix::~Matrix() { aoti_torch_delete_tensor_object(handle_); }

Matrix as_rows(const Tensor& vector, int64_t n) {
  return {vector.data_ptr(), n, vector.size(0), 0, vector.stride(0), vector.scalar_type()};
}

void mm_out(const Matrix& out, const Matrix& left, const Matrix& right) {
  check_torch(aoti_torch_cpu_mm_out(out, left, right), "multiply matrices");
}

void addmm_out(const Matrix& out, const Matrix& added, const Matrix& left, const Matrix& right) {
  check_torch(aoti_torch_cpu_addmm_out(out, added, left, right, 1, 1), "multiply matrices");
}

Tensor mm(const Tensor& left, const Tensor& right) { return left.mm(right); }

Tensor addmm(const Tensor& bias, const Tensor& left, const Tensor& right) {
  const Tensor product = empty({left.size(0), right.size(1)}, left.options());
  addmm_out(product, as_rows(bias, left.size(0)), left, right);
  return product;
}

void parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc f, void* context) {
  if (begin < end) check_torch(torch_parallel_for(begin, end, grain, f, context), "run a kernel");
}

}  // namespace ntm_rl::at

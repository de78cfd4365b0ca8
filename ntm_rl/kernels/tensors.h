// Checks and conversions of tensors.
#pragma once

#include "aten.h"

#include <optional>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ntm_rl {

// Throws for a tensor of another shape, type or device, which a kernel would read out of bounds.
inline void check(const char* name, const at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType type) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, name, " of shape ", tensor.sizes(), ": must be ", shape);
  TORCH_CHECK_VALUE(tensor.scalar_type() == type, name, " of type ", tensor.scalar_type(), ": must be ", type);
  TORCH_CHECK_VALUE(tensor.is_cpu(), name, " on another device: must be on the CPU");
}

inline void check(const char* name, const std::optional<at::Tensor>& tensor, at::IntArrayRef shape,
                  at::ScalarType type) {
  if (tensor) check(name, *tensor, shape, type);
}

inline void make_contiguous(std::initializer_list<at::Tensor*> tensors) {
  for (at::Tensor* tensor : tensors) *tensor = tensor->contiguous();
}

inline std::optional<at::Tensor> contiguous(const std::optional<at::Tensor>& tensor) {
  return tensor ? std::optional<at::Tensor>(tensor->contiguous()) : std::nullopt;
}

template <typename s>
s* data_or_null(const std::optional<at::Tensor>& tensor) {
  return tensor ? tensor->data_ptr<s>() : nullptr;
}

// Tensors too large for malloc to reuse are mapped anew each time, and the faults of small pages cost more than the
// kernel.
inline void use_large_pages([[maybe_unused]] const at::Tensor& fresh) {
#if defined(__linux__)
  constexpr uintptr_t page = 1 << 12, reused = 32 << 20;  // glibc's largest M_MMAP_THRESHOLD
  const auto begin = (reinterpret_cast<uintptr_t>(fresh.data_ptr()) + page - 1) / page * page;
  if (fresh.nbytes() >= reused) madvise(reinterpret_cast<void*>(begin), fresh.nbytes() - page, MADV_HUGEPAGE);
#endif
}

}  // namespace ntm_rl

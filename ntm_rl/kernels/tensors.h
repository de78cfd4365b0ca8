// What kernels do to the tensors they are given.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ntm_rl {

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

// What is too large for malloc to hand out again comes from the system each time, and in small pages its faults cost more
// than what a kernel does in it.
inline void use_large_pages([[maybe_unused]] const at::Tensor& fresh) {
#if defined(__linux__)
  constexpr uintptr_t page = 1 << 12, reused = 32 << 20;  // glibc's largest M_MMAP_THRESHOLD
  const auto begin = (reinterpret_cast<uintptr_t>(fresh.data_ptr()) + page - 1) / page * page;
  if (fresh.nbytes() >= reused) madvise(reinterpret_cast<void*>(begin), fresh.nbytes() - page, MADV_HUGEPAGE);
#endif
}

}  // namespace ntm_rl

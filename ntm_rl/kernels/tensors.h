// What kernels do to the tensors they are given.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

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

}  // namespace ntm_rl

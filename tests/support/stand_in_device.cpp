// A device for tests on machines without a GPU. Its memory is the host's and its operators are the CPU's, but as on a
// GPU, tensors of two devices do not mix, and reads by the host are counted.
#include <ATen/EmptyTensor.h>
#include <ATen/TensorOperators.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using std::optional;

constexpr auto kDevice = c10::DeviceType::PrivateUse1;
const c10::Device device(kDevice, 0);
const c10::Stream default_stream(c10::Stream::DEFAULT, device);

// Operators that wait for the device on a GPU, as their result is on the host or its size depends on values.
const std::set<std::string> waiting = {"aten::_local_scalar_dense", "aten::equal",   "aten::is_nonzero",
                                       "aten::masked_select",       "aten::nonzero", "aten::_unique2"};
std::mutex lock;
std::vector<std::string> waits;
thread_local bool is_falling_back = false;

void count_wait(const std::string& name) {
  const std::lock_guard<std::mutex> guard(lock);
  if (!is_falling_back) waits.push_back(name);
}

struct HostAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = c10::alloc_cpu(size);
    return {data, data, &c10::free_cpu, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
} allocator;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kDevice> {
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  c10::Stream getStream(c10::Device) const noexcept override { return default_stream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return default_stream; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
} hooks;

Tensor empty(at::IntArrayRef sizes, optional<at::ScalarType> dtype, optional<at::Layout>, optional<at::Device>,
             optional<bool>, optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, optional<at::ScalarType> dtype,
                     optional<at::Layout>, optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(sizes, strides, &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

Tensor on_host(const Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (from.device() == device && to.is_cpu()) count_wait("copy to the host");
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

void check_device(const c10::OperatorHandle& op, const Tensor& tensor, bool is_index) {
  const bool fits = !tensor.defined() || tensor.device() == device || tensor.dim() == 0 || is_index;
  TORCH_CHECK(fits, op.schema().name(), ": expected all tensors to be on the same device, but found at least two ",
              "devices, ", device, " and ", tensor.device());
}

// Runs an operator of the CPU on copies.
void fall_back(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string& name = op.schema().name();
  const bool is_indexing = name == "aten::index" || name.rfind("aten::index_put", 0) == 0 ||
                           name.rfind("aten::_index_put_impl", 0) == 0;
  bool must_wait = waiting.count(name) > 0;
  for (const auto& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor()) check_device(op, argument.toTensor(), false);
    if (argument.isTensorList()) {
      for (const Tensor& each : argument.toTensorVector()) check_device(op, each, false);
    } else if (argument.isOptionalTensorList()) {
      for (const optional<Tensor>& each : argument.toOptionalTensorList()) {
        if (each.has_value()) {
          check_device(op, *each, is_indexing);
          must_wait |= is_indexing && each->scalar_type() == at::kBool && each->dim() > 0;
        }
      }
    }
  }
  if (must_wait) count_wait(name);
  const bool before = is_falling_back;
  is_falling_back = true;
  try {
    at::native::cpu_fallback(op, stack, true);
  } catch (...) {
    is_falling_back = before;
    throw;
  }
  is_falling_back = before;
}

Tensor sum_of(const Tensor& gates, const optional<Tensor>& bias) { return bias.has_value() ? gates + *bias : gates; }

// The cells of the recurrent modules, for which torch expects fused operators of each accelerator.
std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& from_input, const Tensor& from_hidden, const Tensor& cell,
                                             const optional<Tensor>& bias_input, const optional<Tensor>& bias_hidden) {
  const auto gates = (sum_of(from_input, bias_input) + sum_of(from_hidden, bias_hidden)).chunk(4, 1);
  const Tensor after = at::sigmoid(gates[1]) * cell + at::sigmoid(gates[0]) * at::tanh(gates[2]);
  return {at::sigmoid(gates[3]) * at::tanh(after), after, at::cat(gates, 1)};
}

std::tuple<Tensor, Tensor> gru_cell(const Tensor& from_input, const Tensor& from_hidden, const Tensor& hidden,
                                    const optional<Tensor>& bias_input, const optional<Tensor>& bias_hidden) {
  const auto inputs = sum_of(from_input, bias_input).chunk(3, 1), hiddens = sum_of(from_hidden, bias_hidden).chunk(3, 1);
  const Tensor reset = at::sigmoid(inputs[0] + hiddens[0]), update = at::sigmoid(inputs[1] + hiddens[1]);
  return {at::lerp(at::tanh(inputs[2] + reset * hiddens[2]), hidden, update), at::cat(inputs, 1)};
}

Tensor on_device(const Tensor& tensor) { return tensor.defined() ? tensor.to(device) : tensor; }

Tensor convolution(const Tensor& input, const Tensor& weight, const optional<Tensor>& bias, at::IntArrayRef stride,
                   at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                   int64_t groups) {
  const optional<Tensor> host_bias = bias.has_value() ? optional<Tensor>(on_host(*bias)) : std::nullopt;
  return on_device(at::convolution(on_host(input), on_host(weight), host_bias, stride, padding, dilation, transposed,
                                   output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& gradient, const Tensor& input,
                                                        const Tensor& weight, at::IntArrayRef stride,
                                                        at::IntArrayRef padding, at::IntArrayRef dilation,
                                                        bool transposed, at::IntArrayRef output_padding, int64_t groups,
                                                        std::array<bool, 3> mask) {
  const auto found = at::convolution_backward(on_host(gradient), on_host(input), on_host(weight), weight.sizes()[0],
                                              stride, padding, dilation, transposed, output_padding, groups, mask);
  return {on_device(std::get<0>(found)), on_device(std::get<1>(found)), on_device(std::get<2>(found))};
}

// The names of the operations that waited for the device since the last call.
std::vector<std::string> take_waits() {
  const std::lock_guard<std::mutex> guard(lock);
  return std::exchange(waits, {});
}

const bool is_registered = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator)

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>()); }
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("resize_", TORCH_FN(at::native::resize_));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_cpu_));
  library.impl("set_.source_Storage", TORCH_FN(at::native::set_));
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_thnn_fused_lstm_cell", &lstm_cell);
  library.impl("_thnn_fused_gru_cell", &gru_cell);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
  // By default it would resize a scalar, of which torch warns.
  library.impl("mse_loss", torch::CppFunction::makeFromBoxedFunction<&fall_back>());
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, library) {
  library.impl("_thnn_fused_lstm_cell", &lstm_cell);
  library.impl("_thnn_fused_gru_cell", &gru_cell);
}

TORCH_LIBRARY(stand_in, library) { library.def("take_waits() -> str[]", &take_waits); }

// Registration of operators with PyTorch's dispatcher.
#pragma once

#include "aten.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace ntm_rl {

constexpr uint64_t kTorchVersion = 0x020A000000000000;  // 2.10: the oldest release whose stable interface has lists

// Conversion of arguments from the dispatcher's values and of results to them. Arguments own what they refer to.
template <typename T>
struct Value {
  static T take(StableIValue value) {
    T to;
    std::memcpy(&to, &value, sizeof to);
    return to;
  }
  static StableIValue give(T from) {
    StableIValue value = 0;
    std::memcpy(&value, &from, sizeof from);
    return value;
  }
};

template <>
struct Value<at::Tensor> {
  static at::Tensor take(StableIValue value) { return at::Tensor(Value<AtenTensorHandle>::take(value)); }
  static StableIValue give(const at::Tensor& tensor) { return Value<AtenTensorHandle>::give(tensor.handle()); }
};

template <typename T>
struct Value<std::optional<T>> {
  static std::optional<T> take(StableIValue value) {
    const std::unique_ptr<StableIValue> inner(Value<StableIValue*>::take(value));
    return inner ? std::optional<T>(Value<T>::take(*inner)) : std::nullopt;
  }
};

template <typename T>
struct Value<std::vector<T>> {
  static std::vector<T> take(StableIValue value) {
    struct Deleter {
      void operator()(StableListOpaque* list) const { torch_delete_list(list); }
    };
    const std::unique_ptr<StableListOpaque, Deleter> list(Value<StableListHandle>::take(value));
    size_t size;
    at::check_torch(torch_list_size(list.get(), &size), "read a list");
    std::vector<T> all;
    all.reserve(size);
    for (size_t i = 0; i < size; ++i) {
      StableIValue item;
      at::check_torch(torch_list_get_item(list.get(), i, &item), "read a list");
      all.push_back(Value<T>::take(item));
    }
    return all;
  }
  static StableIValue give(const std::vector<T>& all) {
    StableListHandle list;
    at::check_torch(torch_new_list_reserve_size(all.size(), &list), "make a list");
    for (const T& each : all) at::check_torch(torch_list_push_back(list, Value<T>::give(each)), "make a list");
    return Value<StableListHandle>::give(list);
  }
};

template <typename T>
struct Value<at::ArrayRef<T>> : Value<std::vector<T>> {};

template <typename... Results, size_t... I>
void give_all(StableIValue* stack, const std::tuple<Results...>& results, std::index_sequence<I...>) {
  ((stack[I] = Value<Results>::give(std::get<I>(results))), ...);
}

// The kernel that the dispatcher calls for a function.
template <auto function>
struct Boxed;

template <typename Result, typename... Arguments, Result (*function)(Arguments...)>
struct Boxed<function> {
  static void call(StableIValue* stack, uint64_t, uint64_t) { call(stack, std::index_sequence_for<Arguments...>()); }

  template <size_t... I>
  static void call(StableIValue* stack, std::index_sequence<I...>) {
    auto arguments = std::tuple{Value<std::decay_t<Arguments>>::take(stack[I])...};
    give(stack, function(std::get<I>(arguments)...));
  }

  template <typename... Results>
  static void give(StableIValue* stack, const std::tuple<Results...>& results) {
    give_all(stack, results, std::index_sequence_for<Results...>());
  }
  template <typename T>
  static void give(StableIValue* stack, const T& result) {
    *stack = Value<T>::give(result);
  }
};

// The operators torch.ops.ntm_rl, to which each source adds some when the library is loaded.
class Library {
 public:
  Library() {
    at::check_torch(aoti_torch_library_init_fragment("ntm_rl", __FILE__, __LINE__, &definitions_), "register kernels");
    at::check_torch(aoti_torch_library_init_impl("ntm_rl", "CPU", __FILE__, __LINE__, &on_cpu_), "register kernels");
    at::check_torch(
        aoti_torch_library_init_impl("ntm_rl", "CompositeExplicitAutograd", __FILE__, __LINE__, &anywhere_),
        "register kernels");
  }

  // Defines `name`, with the schema's arguments and results.
  template <auto function>
  void define(const std::string& name, const char* schema, bool on_cpu = true) {
    at::check_torch(aoti_torch_library_def(definitions_, (name + schema).c_str()), "define an operator");
    at::check_torch(torch_library_impl(on_cpu ? on_cpu_ : anywhere_, name.c_str(), &Boxed<function>::call,
                                       kTorchVersion),
                    "define an operator");
  }

 private:
  TorchLibraryHandle definitions_, on_cpu_, anywhere_;  // never deleted: that would remove the operators
};

// Defines operators when the library is loaded.
struct Operators {
  explicit Operators(void (*define)(Library&)) {
    Library library;
    define(library);
  }
};

}  // namespace ntm_rl

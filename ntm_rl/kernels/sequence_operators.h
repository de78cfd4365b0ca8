// The operators of a controller with a memory (`sequence.h`): checks of arguments, allocation, threads, registration.
#pragma once

#include "library.h"
#include "sequence.h"
#include "tensors.h"


#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace ntm_rl {

using at::Tensor;

// Arguments of a sequence. Rows of the state may be apart; without a start [1, state] episodes start with zeros. The
// backward pass needs no biases.
struct Arguments {
  Tensor inputs, state;
  std::optional<Tensor> start, resets;
  Tensor weight_input, weight_feedback, weight_interface;
  std::optional<Tensor> bias, bias_interface;

  // Throws for tensors of other shapes, types or devices than the kernel reads; makes the others contiguous.
  template <class Memory>
  void prepare(const Sizes<Memory>& z) {
    const at::ScalarType type = inputs.scalar_type();
    check("state", state, {z.B, z.state}, type);
    check("the initial state", start, {1, z.state}, type);
    check("resets", resets, {z.T, z.B}, at::kBool);
    check("the controller's weight of inputs", weight_input, {z.G, z.I}, type);
    check("the controller's weight of the feedback", weight_feedback, {z.G, z.F}, type);
    check("the weight of the interface layer", weight_interface, {z.P, z.H}, type);
    check("the controller's bias", bias, {z.G}, type);
    check("the bias of the interface layer", bias_interface, {z.P}, type);
    make_contiguous({&inputs, &weight_input, &weight_feedback, &weight_interface});
    if (state.stride(1) != 1) state = state.contiguous();
    for (std::optional<Tensor>* each : {&start, &resets, &bias, &bias_interface}) *each = contiguous(*each);
  }

  // `zeros` is the start of episodes without one.
  template <typename s>
  Episodes<s> episodes(const Tensor& zeros) const {
    return {state.data_ptr<s>(),      (start ? *start : zeros).data_ptr<s>(),
            data_or_null<bool>(resets), inputs.size(1),
            state.stride(0),            start.has_value()};
  }

  Tensor zeros() const { return start ? Tensor() : at::zeros({1, state.size(1)}, inputs.options()); }
};

template <typename s>
Rows<s> rows_of(const Tensor& states) {
  return states.defined() ? Rows<s>{states.data_ptr<s>(), states.stride(0)} : Rows<s>{nullptr, 0};
}

// Elements that the forward keeps: [computed by a step, entering a step, of the initial memory], see `Blocks`.
template <class Memory>
std::vector<int64_t> sequence_kept(at::IntArrayRef shape, at::ScalarType type) {
  const Sizes<Memory> z({0, 0, 0}, type, shape, 0);
  return {z.computed(), z.entering(), z.row};
}

// Writes outputs [T, B, O] and the last states; returns, if `keeps`, the values for the backward pass. laid_out: the
// weights of inputs, feedback and interface from `lay_out`.
template <class Memory>
Tensor forward_into(const Sizes<Memory>& z, const Arguments& of, const Tensor& outputs, const Tensor& last, bool keeps,
                    const std::optional<Tensor>& laid_out = std::nullopt) {
  const Tensor zeros = of.zeros();
  Tensor kept;
  AT_DISPATCH_FLOATING_TYPES(of.inputs.scalar_type(), "sequence_forward", [&] {
    using s = scalar_t;
    kept = at::empty({Blocks<s>::size(z, keeps)}, of.inputs.options());
    use_large_pages(kept);
    const Blocks<s> blocks(z, kept.data_ptr<s>(), keeps);
    const Episodes<s> episodes = of.episodes<s>(zeros);
    Memory::lay_out(z, episodes.start + 1, blocks.start);
    const std::vector<const Tensor*> matrices = {&of.weight_input, &of.weight_feedback, &of.weight_interface};
    const auto weights = laid_out_or_lay_out<s>(laid_out, matrices, z.T == 1 && z.B <= kMostInPlace);
    at::parallel_for(0, z.B, z.grain(), [&](int64_t from, int64_t until) {
      run(z, blocks, episodes, of.inputs.data_ptr<s>(), weights[0], of.bias->data_ptr<s>(), weights[1], weights[2],
          of.bias_interface->data_ptr<s>(), outputs.data_ptr<s>(), rows_of<s>(last), from, until);
    });
  });
  return kept;
}

// Writes the gradients of state and start (a row per batch element), unless undefined; returns those of inputs
// (undefined unless `needs_inputs`), weight_input, bias, weight_feedback, weight_interface and bias_interface. d_last
// may be undefined.
template <class Memory>
std::array<Tensor, 6> backward_into(const Sizes<Memory>& z, const Arguments& of, const std::optional<Tensor>& d_outputs,
                                    const Tensor& d_last, const Tensor& outputs, const Tensor& kept, bool needs_inputs,
                                    const Tensor& d_state, const Tensor& d_start) {
  const auto options = of.inputs.options();
  const int64_t rows = z.T * z.B;
  const Tensor zeros = of.zeros(), d_gates = at::empty({rows, z.G}, options), d_raw = at::empty({rows, z.P}, options),
               d_inputs = needs_inputs ? at::empty({z.T, z.B, z.I}, options) : Tensor();
  AT_DISPATCH_FLOATING_TYPES(of.inputs.scalar_type(), "sequence_backward", [&] {
    using s = scalar_t;
    const Blocks<s> blocks(z, kept.data_ptr<s>(), true);
    const Episodes<s> episodes = of.episodes<s>(zeros);
    const Gradients<s> d{d_gates.data_ptr<s>(), d_raw.data_ptr<s>(), needs_inputs ? d_inputs.data_ptr<s>() : nullptr,
                         rows_of<s>(d_state), rows_of<s>(d_start)};
    const auto weights = lay_out<s>({&of.weight_input, &of.weight_feedback, &of.weight_interface}, false);
    at::parallel_for(0, z.B, z.grain(), [&](int64_t from, int64_t until) {
      run_backward(z, blocks, episodes, outputs.data_ptr<s>(), data_or_null<s>(d_outputs), rows_of<s>(d_last),
                   weights[0], weights[1], weights[2], d, from, until);
    });
  });
  const Tensor feedback = kept.narrow(0, rows * z.G, rows * z.F).view({rows, z.F}),  // as `Blocks` has them
      hidden = outputs.view({rows, z.O}).narrow(1, 0, z.H);
  return {d_inputs,
          weight_gradient(d_gates, of.inputs.view({rows, z.I})),
          d_gates.sum(0),
          weight_gradient(d_gates, feedback),
          weight_gradient(d_raw, hidden),
          d_raw.sum(0)};
}

// Returns outputs [T, B, O], the last state [B, state] and, if `keeps`, the values for the backward pass.
template <class Memory>
std::tuple<Tensor, Tensor, Tensor> sequence_forward(const Tensor& inputs, const Tensor& state,
                                                    const std::optional<Tensor>& start,
                                                    const std::optional<Tensor>& resets, const Tensor& weight_input,
                                                    const Tensor& bias, const Tensor& weight_feedback,
                                                    const Tensor& weight_interface, const Tensor& bias_interface,
                                                    at::IntArrayRef shape, double clip, bool keeps,
                                                    const std::optional<Tensor>& laid_out) {
  const Sizes<Memory> z(inputs.sizes(), inputs.scalar_type(), shape, clip);
  Arguments of{inputs, state, start, resets, weight_input, weight_feedback, weight_interface, bias, bias_interface};
  of.prepare(z);
  const Tensor outputs = at::empty({z.T, z.B, z.O}, inputs.options()),
               last = at::empty({z.B, z.state}, inputs.options()),
               kept = forward_into(z, of, outputs, last, keeps, laid_out);
  return {outputs, last, kept};
}

// Returns the gradients of inputs, state and start (a row per batch element; empty where `needs` is false), and of
// weight_input, bias, weight_feedback, weight_interface and bias_interface.
template <class Memory>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sequence_backward(
    const std::optional<Tensor>& d_outputs, const std::optional<Tensor>& d_last, const std::vector<bool>& needs,
    const Tensor& inputs, const Tensor& state, const std::optional<Tensor>& start, const std::optional<Tensor>& resets,
    const Tensor& weight_input, const Tensor& weight_feedback, const Tensor& weight_interface, const Tensor& outputs,
    const Tensor& kept, at::IntArrayRef shape, double clip) {
  const Sizes<Memory> z(inputs.sizes(), inputs.scalar_type(), shape, clip);
  Arguments of{inputs, state, start, resets, weight_input, weight_feedback, weight_interface, {}, {}};
  of.prepare(z);
  check("the gradient of the outputs", d_outputs, {z.T, z.B, z.O}, inputs.scalar_type());
  check("the gradient of the last state", d_last, {z.B, z.state}, inputs.scalar_type());
  const auto empty_if = [&](bool is_needed, at::IntArrayRef sizes) {
    return is_needed ? at::empty(sizes, inputs.options()) : Tensor();
  };
  const Tensor d_state = empty_if(needs[1], {z.B, z.state}), d_start = empty_if(needs[2], {z.B, z.state});
  const auto [d_inputs, d_weight_input, d_bias, d_feedback, d_interface, d_bias_interface] =
      backward_into(z, of, contiguous(d_outputs), d_last ? d_last->contiguous() : Tensor(), outputs, kept, needs[0],
                    d_state, d_start);
  const auto or_empty = [&](const Tensor& each) { return each.defined() ? each : at::empty({0}, inputs.options()); };
  return {or_empty(d_inputs), or_empty(d_state), or_empty(d_start),  d_weight_input,
          d_bias,             d_feedback,        d_interface,        d_bias_interface};
}

// Registers the operators `name`_forward, `name`_backward and `name`_kept.
template <class Memory>
void define_sequence(Library& library, const std::string& name) {
  library.define<sequence_forward<Memory>>(
      name + "_forward",
      "(Tensor inputs, Tensor state, Tensor? start, Tensor? resets, Tensor weight_input, Tensor bias, "
      "Tensor weight_feedback, Tensor weight_interface, Tensor bias_interface, int[] shape, float clip, bool keeps, "
      "Tensor? laid_out=None) -> (Tensor, Tensor, Tensor)");
  library.define<sequence_backward<Memory>>(
      name + "_backward",
      "(Tensor? d_outputs, Tensor? d_last, bool[] needs, Tensor inputs, Tensor state, Tensor? start, Tensor? resets, "
      "Tensor weight_input, Tensor weight_feedback, Tensor weight_interface, Tensor outputs, Tensor kept, int[] shape, "
      "float clip) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.define<sequence_kept<Memory>>(name + "_kept", "(int[] shape, ScalarType type) -> int[]", false);
}

}  // namespace ntm_rl

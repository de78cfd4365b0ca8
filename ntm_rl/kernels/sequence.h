// A controller with a memory over whole sequences on a CPU, forward and backward.
//
// Letters: T steps, B batch, I inputs, H units of the controller, P interface parameters, G rows of its gates,
// F = R * M (+ H) feedback to the controller (read vectors, then the hidden state), O = H + R * M outputs.
// A `Memory` is a class of static functions on one batch element, as `NtmMemory` (ntm.cpp). Its `Sizes` have P, the
// elements of the read vectors (`reads`), of its share of a flat state (`parts`), of its internal layout (`row`) and of
// the values of a step for the backward pass (`kept`), and the `work` of a step. A state is: alive flag, parts, reads,
// hidden, cell.
// Sequences are independent: each thread runs some of the batch through all steps.
#pragma once

#include "controllers.h"
#include "numerics.h"
#include "products.h"
#include "tensors.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace ntm_rl {

using at::Tensor;

template <class Memory>
struct Sizes : Memory::Sizes {
  int64_t T, B, I, H, G, F, O, cell, state;
  Controller controller;

  // shape: the memory's sizes, then H and the controller.
  Sizes(at::IntArrayRef inputs, at::ScalarType type, at::IntArrayRef shape, double clip)
      : Memory::Sizes(shape, type == at::kFloat ? kLanes<float> : kLanes<double>, clip) {
    T = inputs[0], B = inputs[1], I = inputs[2], H = shape[shape.size() - 2];
    controller = static_cast<Controller>(shape.back());
    G = gate_rows(controller, H);
    F = this->reads + (controller == kFeedforward ? 0 : H);
    O = H + this->reads;
    cell = controller == kLstm ? H : 0;
    state = cell_at() + cell;
  }

  // Offsets in a flat state.
  int64_t reads_at() const { return 1 + this->parts; }
  int64_t hidden_at() const { return reads_at() + this->reads; }
  int64_t cell_at() const { return hidden_at() + H; }

  // Elements that are kept of a step: those that it computes, and those that enter it.
  int64_t computed() const { return G + F + this->P + this->kept; }
  int64_t entering() const { return this->row + cell; }

  // Least number of sequences per thread.
  int64_t grain() const {
    const int64_t each = T * (G * (I + F) + this->P * H + this->work);
    return std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, each));
  }
};

// Rows that a sequence computes, one per batch element; of every step, or only of the last one (step = 0).
template <typename s>
struct Block {
  s* data;
  int64_t step, row;
  s* at(int64_t t, int64_t b) const { return data + t * step + b * row; }
};

// The values for the backward pass besides the outputs, in one tensor. Row t of memory and cell enters step t. Without
// gradients only the last step is kept.
template <typename s>
struct Blocks {
  Block<s> gates, feedback, raw, memory, cell, kept;
  s* start;  // the initial memory, in its layout

  template <class Z>
  static int64_t size(const Z& z, bool keeps) {
    const int64_t steps = keeps ? z.T : 1;
    return z.B * (steps * z.computed() + (steps + keeps) * z.entering()) + z.row;
  }

  template <class Z>
  Blocks(const Z& z, s* at, bool keeps) {
    const auto take = [&](int64_t row, bool enters) {
      const Block<s> block{at, keeps ? z.B * row : 0, row};
      at += z.B * row * (keeps ? z.T + enters : 1);
      return block;
    };
    gates = take(z.G, false), feedback = take(z.F, false), raw = take(z.P, false);
    memory = take(z.row, true), cell = take(z.cell, true), kept = take(z.kept, false);
    start = at;
  }
};

// The states with which episodes start.
template <typename s>
struct Episodes {
  const s *state, *start;
  const bool* resets;  // or null
  int64_t batch, size;
  bool checks_alive;  // false where the initial state is all zeros, as is a state that is not alive

  bool starts(int64_t t, int64_t b) const {
    return (resets && resets[t * batch + b]) || (checks_alive && t == 0 && state[b * size] == 0);
  }
};

// Inputs of a step of one batch element from the step before it.
template <typename s>
struct Entering {
  const s *memory, *reads, *hidden, *cell;
};

template <class Memory, typename s>
Entering<s> entering(const Sizes<Memory>& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* outputs,
                     int64_t t, int64_t b) {
  if (episodes.starts(t, b)) {
    const s* start = episodes.start;
    return {blocks.start, start + z.reads_at(), start + z.hidden_at(), start + z.cell_at()};
  }
  const s* last = t == 0 ? episodes.state + b * z.state + z.reads_at() : outputs + ((t - 1) * z.B + b) * z.O + z.H;
  return {blocks.memory.at(t, b), last, t == 0 ? last + z.reads : last - z.H, blocks.cell.at(t, b)};
}

// Runs the sequences [from, until) and writes their last state.
template <class Memory, typename s>
void run(const Sizes<Memory>& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* inputs,
         const Strips<s>& weight_input, const s* bias, const Strips<s>& weight_feedback,
         const Strips<s>& weight_interface, const s* bias_interface, s* outputs, s* last, int64_t from, int64_t until) {
  typename Memory::template Scratch<s> scratch(z);
  const int64_t rows = until - from;
  for (int64_t b = from; b < until; ++b) {
    const s* state = episodes.state + b * z.state;
    Memory::lay_out(z, state + 1, blocks.memory.at(0, b));
    std::copy_n(state + z.cell_at(), z.cell, blocks.cell.at(0, b));
  }
  for (int64_t t = 0; t < z.T; ++t) {
    for (int64_t b = from; b < until; ++b) {
      const Entering<s> in = entering(z, blocks, episodes, outputs, t, b);
      s* feedback = blocks.feedback.at(t, b);
      std::copy_n(in.reads, z.reads, feedback);
      std::copy_n(in.hidden, z.F - z.reads, feedback + z.reads);
    }
    s *gates = blocks.gates.at(t, from), *out = outputs + (t * z.B + from) * z.O;
    weight_input.multiply(rows, inputs + (t * z.B + from) * z.I, z.I, bias, 0, gates, z.G);
    weight_feedback.multiply(rows, blocks.feedback.at(t, from), z.F, gates, z.G, gates, z.G);
    for (int64_t b = from; b < until; ++b)
      control(z.controller, z.H, blocks.gates.at(t, b), blocks.feedback.at(t, b) + z.reads,
              entering(z, blocks, episodes, outputs, t, b).cell, out + (b - from) * z.O, blocks.cell.at(t + 1, b));
    weight_interface.multiply(rows, out, z.O, bias_interface, 0, blocks.raw.at(t, from), z.P);
    for (int64_t b = from; b < until; ++b)
      Memory::step(z, entering(z, blocks, episodes, outputs, t, b).memory, blocks.raw.at(t, b),
                   blocks.memory.at(t + 1, b), blocks.kept.at(t, b), out + (b - from) * z.O + z.H, scratch);
  }
  for (int64_t b = from; b < until; ++b) {
    s* state = last + b * z.state;
    const s* output = outputs + ((z.T - 1) * z.B + b) * z.O;
    *state = 1;
    Memory::lay_back(z, blocks.memory.at(z.T, b), state + 1);
    std::copy_n(output + z.H, z.reads, state + z.reads_at());
    std::copy_n(output, z.H, state + z.hidden_at());
    std::copy_n(blocks.cell.at(z.T, b), z.cell, state + z.cell_at());
  }
}

// The gradients that flow from a step to the one before it, of one batch element.
template <class Memory, typename s>
struct Flow {
  s *memory, *reads, *hidden, *cell;

  static int64_t size(const Sizes<Memory>& z) { return z.row + z.reads + z.H + z.cell; }

  Flow(const Sizes<Memory>& z, s* row) : memory(row), reads(row + z.row), hidden(reads + z.reads), cell(hidden + z.H) {}

  // From and to a flat state.
  void take(const Sizes<Memory>& z, const s* state) const {
    Memory::lay_out(z, state + 1, memory);
    std::copy_n(state + z.reads_at(), z.reads + z.H + z.cell, reads);
  }

  void give(const Sizes<Memory>& z, s* state) const {
    *state = 0;  // the alive flag has no gradient
    Memory::lay_back(z, memory, state + 1);
    std::copy_n(reads, z.reads + z.H + z.cell, state + z.reads_at());
  }
};

// Gradients that the backward pass of the steps writes: of the sums of gates [T, B, G] and interface parameters
// [T, B, P], and where they are needed of inputs, state and start (a row per batch element), else null.
template <typename s>
struct Gradients {
  s *gates, *raw, *inputs, *state, *start;
};

// Backward of `run`; d_outputs and d_last may be null. The weights are laid out for the backward products.
template <class Memory, typename s>
void run_backward(const Sizes<Memory>& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* outputs,
                  const s* d_outputs, const s* d_last, const Strips<s>& weight_input, const Strips<s>& weight_feedback,
                  const Strips<s>& weight_interface, const Gradients<s>& d, int64_t from, int64_t until) {
  typename Memory::template Scratch<s> scratch(z);
  const int64_t rows = until - from, size = Flow<Memory, s>::size(z);
  std::vector<s> flows(rows * size), starts(d.start ? rows * size : 0), d_feedback(rows * z.F);
  const auto flow = [&](int64_t b) { return Flow<Memory, s>(z, &flows[(b - from) * size]); };
  for (int64_t b = from; d_last && b < until; ++b) flow(b).take(z, d_last + b * z.state);
  for (int64_t t = z.T - 1; t >= 0; --t) {
    for (int64_t b = from; b < until; ++b) {
      const int64_t row = t * z.B + b;
      const Flow<Memory, s> carried = flow(b);
      if (d_outputs) {
        add_scaled(carried.hidden, s(1), d_outputs + row * z.O, z.H);
        add_scaled(carried.reads, s(1), d_outputs + row * z.O + z.H, z.reads);
      }
      Memory::step_backward(z, entering(z, blocks, episodes, outputs, t, b).memory, blocks.raw.at(t, b),
                            blocks.memory.at(t + 1, b), blocks.kept.at(t, b), carried.reads, carried.memory,
                            d.raw + row * z.P, scratch);
    }
    s *d_hidden = flow(from).hidden, *d_gates = d.gates + (t * z.B + from) * z.G;
    weight_interface.multiply(rows, d.raw + (t * z.B + from) * z.P, z.P, d_hidden, size, d_hidden, size);
    for (int64_t b = from; b < until; ++b)
      control_backward(z.controller, z.H, blocks.gates.at(t, b), blocks.feedback.at(t, b) + z.reads,
                       entering(z, blocks, episodes, outputs, t, b).cell, blocks.cell.at(t + 1, b), flow(b).hidden,
                       flow(b).cell, d_gates + (b - from) * z.G);
    weight_feedback.multiply(rows, d_gates, z.G, nullptr, 0, d_feedback.data(), z.F);
    if (d.inputs)
      weight_input.multiply(rows, d_gates, z.G, nullptr, 0, d.inputs + (t * z.B + from) * z.I, z.I);
    for (int64_t b = from; b < until; ++b) {
      const Flow<Memory, s> carried = flow(b);
      const s* d_row = &d_feedback[(b - from) * z.F];
      std::copy_n(d_row, z.reads, carried.reads);
      add_scaled(carried.hidden, s(1), d_row + z.reads, z.F - z.reads);
      if (episodes.starts(t, b)) {  // no gradient flows to the episode before
        if (d.start) add_scaled(&starts[(b - from) * size], s(1), carried.memory, size);
        std::fill_n(carried.memory, size, s(0));
      }
    }
  }
  for (int64_t b = from; d.state && b < until; ++b) flow(b).give(z, d.state + b * z.state);
  for (int64_t b = from; d.start && b < until; ++b)
    Flow<Memory, s>(z, &starts[(b - from) * size]).give(z, d.start + b * z.state);
}

// Throws for tensors of other shapes, types or devices than the kernel reads.
template <class Memory>
void check_all(const Sizes<Memory>& z, const Tensor& inputs, const Tensor& state, const std::optional<Tensor>& start,
               const std::optional<Tensor>& resets, const Tensor& weight_input, const Tensor& weight_feedback,
               const Tensor& weight_interface) {
  const at::ScalarType type = inputs.scalar_type();
  check("state", state, {z.B, z.state}, type);
  check("the initial state", start, {1, z.state}, type);
  check("resets", resets, {z.T, z.B}, at::kBool);
  check("the controller's weight of inputs", weight_input, {z.G, z.I}, type);
  check("the controller's weight of the feedback", weight_feedback, {z.G, z.F}, type);
  check("the weight of the interface layer", weight_interface, {z.P, z.H}, type);
}

// Elements that the forward keeps: [computed by a step, entering a step, of the initial memory], see `Blocks`.
template <class Memory>
std::vector<int64_t> sequence_kept(at::IntArrayRef shape, at::ScalarType type) {
  const Sizes<Memory> z({0, 0, 0}, type, shape, 0);
  return {z.computed(), z.entering(), z.row};
}

// Returns outputs [T, B, O], the last state [B, state] and, if `keeps`, the values for the backward pass. Without a
// start [1, state] episodes start with zeros.
template <class Memory>
std::tuple<Tensor, Tensor, Tensor> sequence_forward(Tensor inputs, Tensor state, const std::optional<Tensor>& start_,
                                                    const std::optional<Tensor>& resets_, Tensor weight_input,
                                                    Tensor bias, Tensor weight_feedback, Tensor weight_interface,
                                                    Tensor bias_interface,
                                                    at::IntArrayRef shape, double clip, bool keeps) {
  const PlainOperators guard;
  const Sizes<Memory> z(inputs.sizes(), inputs.scalar_type(), shape, clip);
  check_all(z, inputs, state, start_, resets_, weight_input, weight_feedback, weight_interface);
  check("the controller's bias", bias, {z.G}, inputs.scalar_type());
  check("the bias of the interface layer", bias_interface, {z.P}, inputs.scalar_type());
  make_contiguous({&inputs, &state, &weight_input, &bias, &weight_feedback, &weight_interface, &bias_interface});
  const std::optional<Tensor> resets = contiguous(resets_);
  const auto options = inputs.options();
  const Tensor start = start_ ? start_->contiguous() : at::zeros({1, z.state}, options);
  Tensor outputs = at::empty({z.T, z.B, z.O}, options), last = at::empty({z.B, z.state}, options), kept;
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "sequence_forward", [&] {
    using s = scalar_t;
    kept = at::empty({Blocks<s>::size(z, keeps)}, options);
    use_large_pages(kept);
    const Blocks<s> blocks(z, kept.data_ptr<s>(), keeps);
    const Episodes<s> episodes{state.data_ptr<s>(), start.data_ptr<s>(), data_or_null<bool>(resets),
                               z.B,                 z.state,             start_.has_value()};
    Memory::lay_out(z, episodes.start + 1, blocks.start);
    const auto weights = lay_out<s, 3>({&weight_input, &weight_feedback, &weight_interface}, true, z.T * z.B);
    at::parallel_for(0, z.B, z.grain(), [&](int64_t from, int64_t until) {
      run(z, blocks, episodes, inputs.data_ptr<s>(), weights[0], bias.data_ptr<s>(), weights[1], weights[2],
          bias_interface.data_ptr<s>(), outputs.data_ptr<s>(), last.data_ptr<s>(), from, until);
    });
  });
  return {outputs, last, kept};
}

// Returns the gradients of inputs, state and start (a row per batch element; empty where `needs` is false), and of
// weight_input, bias, weight_feedback, weight_interface and bias_interface.
template <class Memory>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sequence_backward(
    const std::optional<Tensor>& d_outputs_, const std::optional<Tensor>& d_last_, c10::List<bool> needs, Tensor inputs,
    Tensor state, const std::optional<Tensor>& start_, const std::optional<Tensor>& resets_, Tensor weight_input,
    Tensor weight_feedback, Tensor weight_interface, const Tensor& outputs, const Tensor& kept, at::IntArrayRef shape,
    double clip) {
  const PlainOperators guard;
  const Sizes<Memory> z(inputs.sizes(), inputs.scalar_type(), shape, clip);
  check_all(z, inputs, state, start_, resets_, weight_input, weight_feedback, weight_interface);
  check("the gradient of the outputs", d_outputs_, {z.T, z.B, z.O}, inputs.scalar_type());
  check("the gradient of the last state", d_last_, {z.B, z.state}, inputs.scalar_type());
  make_contiguous({&inputs, &state, &weight_input, &weight_feedback, &weight_interface});
  const std::optional<Tensor> resets = contiguous(resets_), d_outputs = contiguous(d_outputs_),
                              d_last = contiguous(d_last_);
  const auto options = inputs.options();
  const Tensor start = start_ ? start_->contiguous() : at::zeros({1, z.state}, options);
  const int64_t rows = z.T * z.B;
  const auto empty_if = [&](bool is_needed, at::IntArrayRef sizes) {
    return is_needed ? at::empty(sizes, options) : at::empty({0}, options);
  };
  Tensor d_gates = at::empty({rows, z.G}, options), d_raw = at::empty({rows, z.P}, options),
         d_inputs = empty_if(needs[0], {z.T, z.B, z.I}), d_state = empty_if(needs[1], {z.B, z.state}),
         d_start = empty_if(needs[2], {z.B, z.state});
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "sequence_backward", [&] {
    using s = scalar_t;
    const Blocks<s> blocks(z, kept.data_ptr<s>(), true);
    const Episodes<s> episodes{state.data_ptr<s>(), start.data_ptr<s>(), data_or_null<bool>(resets),
                               z.B,                 z.state,             start_.has_value()};
    const auto data_if = [](bool is_needed, Tensor& tensor) { return is_needed ? tensor.data_ptr<s>() : nullptr; };
    const Gradients<s> d{d_gates.data_ptr<s>(), d_raw.data_ptr<s>(), data_if(needs[0], d_inputs),
                         data_if(needs[1], d_state), data_if(needs[2], d_start)};
    const auto weights = lay_out<s, 3>({&weight_input, &weight_feedback, &weight_interface}, false, rows);
    at::parallel_for(0, z.B, z.grain(), [&](int64_t from, int64_t until) {
      run_backward(z, blocks, episodes, outputs.data_ptr<s>(), data_or_null<s>(d_outputs), data_or_null<s>(d_last),
                   weights[0], weights[1], weights[2], d, from, until);
    });
  });
  const Tensor feedback = kept.narrow(0, rows * z.G, rows * z.F).view({rows, z.F}),  // as `Blocks` has them
      hidden = outputs.view({rows, z.O}).narrow(1, 0, z.H), of_gates = d_gates.t();
  return {d_inputs, d_state, d_start, of_gates.mm(inputs.view({rows, z.I})), d_gates.sum(0), of_gates.mm(feedback),
          d_raw.t().mm(hidden), d_raw.sum(0)};
}

// Registers the operators `name`_forward, `name`_backward and `name`_kept.
template <class Memory>
void define_sequence(torch::Library& library, const std::string& name) {
  library.def(
      (name +
       "_forward(Tensor inputs, Tensor state, Tensor? start, Tensor? resets, Tensor weight_input, Tensor bias, "
       "Tensor weight_feedback, Tensor weight_interface, Tensor bias_interface, int[] shape, float clip, bool keeps) "
       "-> (Tensor, Tensor, Tensor)")
          .c_str());
  library.def(
      (name +
       "_backward(Tensor? d_outputs, Tensor? d_last, bool[] needs, Tensor inputs, Tensor state, Tensor? start, "
       "Tensor? resets, Tensor weight_input, Tensor weight_feedback, Tensor weight_interface, Tensor outputs, "
       "Tensor kept, int[] shape, float clip) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
          .c_str());
  library.def((name + "_kept(int[] shape, ScalarType type) -> int[]").c_str(), sequence_kept<Memory>);
  library.impl((name + "_forward").c_str(), torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(sequence_forward<Memory>)));
  library.impl((name + "_backward").c_str(),
               torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(sequence_backward<Memory>)));
}

}  // namespace ntm_rl

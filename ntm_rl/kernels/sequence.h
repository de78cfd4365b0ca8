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

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ntm_rl {

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
  int64_t batch, row;  // states are `row` apart
  bool checks_alive;  // false where the initial state is all zeros, as is a state that is not alive

  bool starts(int64_t t, int64_t b) const {
    return (resets && resets[t * batch + b]) || (checks_alive && t == 0 && state[b * row] == 0);
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
  const s* last = t == 0 ? episodes.state + b * episodes.row + z.reads_at() : outputs + ((t - 1) * z.B + b) * z.O + z.H;
  return {blocks.memory.at(t, b), last, t == 0 ? last + z.reads : last - z.H, blocks.cell.at(t, b)};
}

// Rows of flat states, or null.
template <typename s>
struct Rows {
  s* data;
  int64_t row;
  s* at(int64_t b) const { return data + b * row; }
};

// Runs the sequences [from, until) and writes their last state.
template <class Memory, typename s>
void run(const Sizes<Memory>& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* inputs,
         const Strips<s>& weight_input, const s* bias, const Strips<s>& weight_feedback,
         const Strips<s>& weight_interface, const s* bias_interface, s* outputs, const Rows<s>& last, int64_t from,
         int64_t until) {
  typename Memory::template Scratch<s> scratch(z);
  const int64_t rows = until - from;
  for (int64_t b = from; b < until; ++b) {
    const s* state = episodes.state + b * episodes.row;
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
    s* state = last.at(b);
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
// [T, B, P], and where they are needed of inputs, state and start (a row per batch element).
template <typename s>
struct Gradients {
  s *gates, *raw, *inputs;
  Rows<s> state, start;
};

// Backward of `run`; d_outputs and d_last may be null. The weights are laid out for the backward products.
template <class Memory, typename s>
void run_backward(const Sizes<Memory>& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* outputs,
                  const s* d_outputs, const Rows<s>& d_last, const Strips<s>& weight_input,
                  const Strips<s>& weight_feedback, const Strips<s>& weight_interface, const Gradients<s>& d,
                  int64_t from, int64_t until) {
  typename Memory::template Scratch<s> scratch(z);
  const int64_t rows = until - from, size = Flow<Memory, s>::size(z);
  std::vector<s> flows(rows * size), starts(d.start.data ? rows * size : 0), d_feedback(rows * z.F);
  const auto flow = [&](int64_t b) { return Flow<Memory, s>(z, &flows[(b - from) * size]); };
  for (int64_t b = from; d_last.data && b < until; ++b) flow(b).take(z, d_last.at(b));
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
    if (d.inputs) weight_input.multiply(rows, d_gates, z.G, nullptr, 0, d.inputs + (t * z.B + from) * z.I, z.I);
    for (int64_t b = from; b < until; ++b) {
      const Flow<Memory, s> carried = flow(b);
      const s* d_row = &d_feedback[(b - from) * z.F];
      std::copy_n(d_row, z.reads, carried.reads);
      add_scaled(carried.hidden, s(1), d_row + z.reads, z.F - z.reads);
      if (episodes.starts(t, b)) {  // no gradient flows to the episode before
        if (d.start.data) add_scaled(&starts[(b - from) * size], s(1), carried.memory, size);
        std::fill_n(carried.memory, size, s(0));
      }
    }
  }
  for (int64_t b = from; d.state.data && b < until; ++b) flow(b).give(z, d.state.at(b));
  for (int64_t b = from; d.start.data && b < until; ++b)
    Flow<Memory, s>(z, &starts[(b - from) * size]).give(z, d.start.at(b));
}

}  // namespace ntm_rl

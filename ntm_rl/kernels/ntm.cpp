// The NTM over whole sequences on a CPU, forward and backward; ntm_rl/ntm.py is the specification.
//
// Letters as there: T steps, B batch, I inputs, N slots, M width, R read heads, W write heads, K = R + W, S shifts, H
// units of the controller, P head parameters, G rows of the controller's gates, F = R * M (+ H) what is fed back to the
// controller. L: N rounded up to whole vectors (memory.h).
// Sequences know nothing of each other: each thread takes some of the batch through all steps.

#include "controllers.h"
#include "memory.h"
#include "numerics.h"
#include "products.h"
#include "tensors.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

namespace ntm_rl {
namespace {

using at::Tensor;

struct Sizes : MemorySizes {
  int64_t T, B, I, H, G, F, O;
  int64_t reads, cell, state;  // elements of one batch element
  Controller controller;

  Sizes(const Tensor& inputs, at::IntArrayRef shape, double clip_) {
    T = inputs.size(0), B = inputs.size(1), I = inputs.size(2);
    N = shape[0], M = shape[1], R = shape[2], W = shape[3], S = shape[4], H = shape[5];
    controller = static_cast<Controller>(shape[6]);
    clip = clip_;
    G = gate_rows(controller, H);
    K = R + W;
    P = K * (M + 3 + S) + 2 * W * M;
    reads = R * M;
    F = reads + (controller == kFeedforward ? 0 : H);
    O = H + reads;
    cell = controller == kLstm ? H : 0;
    L = inputs.scalar_type() == at::kFloat ? padded<float>(N) : padded<double>(N);
    state = 1 + N * M + K * N + reads + H + cell;
  }

  // Where the parts of a flat state begin.
  int64_t weightings_at() const { return 1 + N * M; }
  int64_t reads_at() const { return weightings_at() + K * N; }
  int64_t hidden_at() const { return reads_at() + reads; }
  int64_t cell_at() const { return hidden_at() + H; }
};

// Rows of what a sequence computes, one a batch element; of every step, or of the last one alone (step = 0).
template <typename s>
struct Block {
  s* data;
  int64_t step, row;
  s* at(int64_t t, int64_t b) const { return data + t * step + b * row; }
};

// What the backward needs beside the outputs, in one tensor. Of memory, weightings and cell, row t is what enters step
// t. Without gradients one step is kept of all, the last one.
template <typename s>
struct Blocks {
  Block<s> gates, fed, raw, memory, weightings, cell, content, similarity, norms;
  s *start_memory, *start_weightings;

  static int64_t size(const Sizes& z, bool keeps) {
    const int64_t step = z.G + z.F + z.P + 2 * z.K * z.L + z.L, entering = z.L * z.M + z.K * z.L + z.cell;
    return z.B * (keeps ? z.T * step + (z.T + 1) * entering : step + entering) + z.L * z.M + z.K * z.L;
  }

  Blocks(const Sizes& z, s* at, bool keeps) {
    const auto take = [&](int64_t row, bool enters) {
      const Block<s> block{at, keeps ? z.B * row : 0, row};
      at += z.B * row * (keeps ? z.T + enters : 1);
      return block;
    };
    gates = take(z.G, false), fed = take(z.F, false), raw = take(z.P, false);
    memory = take(z.L * z.M, true), weightings = take(z.K * z.L, true), cell = take(z.cell, true);
    content = take(z.K * z.L, false), similarity = take(z.K * z.L, false), norms = take(z.L, false);
    start_memory = at, start_weightings = at + z.L * z.M;
  }

  MemoryStep<s> step(int64_t t, int64_t b) const {
    return {memory.at(t + 1, b), weightings.at(t + 1, b), content.at(t, b), similarity.at(t, b), norms.at(t, b)};
  }
};

// Where sequences begin, and begin anew.
template <typename s>
struct Episodes {
  const s *state, *start;
  const bool* resets;  // or null
  int64_t batch, size;

  bool begins(int64_t t, int64_t b) const {
    return (resets && resets[t * batch + b]) || (t == 0 && state[b * size] == 0);  // not alive
  }
};

// What enters a step of one batch element.
template <typename s>
struct Entering {
  const s *memory, *weightings, *reads, *hidden, *cell;
};

template <typename s>
Entering<s> entering(const Sizes& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* outputs, int64_t t,
                     int64_t b) {
  if (episodes.begins(t, b)) {
    const s* start = episodes.start;
    return {blocks.start_memory, blocks.start_weightings, start + z.reads_at(), start + z.hidden_at(),
            start + z.cell_at()};
  }
  const s* last = t == 0 ? episodes.state + b * z.state + z.reads_at() : outputs + ((t - 1) * z.B + b) * z.O + z.H;
  const s* hidden = t == 0 ? last + z.reads : last - z.H;
  return {blocks.memory.at(t, b), blocks.weightings.at(t, b), last, hidden, blocks.cell.at(t, b)};
}

int64_t grain(const Sizes& z) {
  const int64_t work = z.T * (z.G * (z.I + z.F) + z.P * z.H + z.L * z.M * z.K);
  return std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, work));
}

// Runs the sequences [from, until) and writes their last state.
template <typename s>
void run(const Sizes& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* inputs,
         const Strips<s>& weight_input, const s* bias, const Strips<s>& feedback, const Strips<s>& head_weight,
         const s* head_bias, s* outputs, s* last, int64_t from, int64_t until) {
  Scratch<s> scratch(z);
  const int64_t rows = until - from;
  for (int64_t b = from; b < until; ++b) {
    const s* state = episodes.state + b * z.state;
    lay_out_memory(z, state + 1, blocks.memory.at(0, b));
    lay_out_weightings(z, state + z.weightings_at(), blocks.weightings.at(0, b));
    std::copy_n(state + z.cell_at(), z.cell, blocks.cell.at(0, b));
  }
  for (int64_t t = 0; t < z.T; ++t) {
    for (int64_t b = from; b < until; ++b) {
      const Entering<s> in = entering(z, blocks, episodes, outputs, t, b);
      s* fed = std::copy_n(in.reads, z.reads, blocks.fed.at(t, b));
      std::copy_n(in.hidden, z.F - z.reads, fed);
    }
    s *gates = blocks.gates.at(t, from), *out = outputs + (t * z.B + from) * z.O;
    weight_input.multiply(rows, inputs + (t * z.B + from) * z.I, z.I, bias, 0, gates, z.G);
    feedback.multiply(rows, blocks.fed.at(t, from), z.F, gates, z.G, gates, z.G);
    for (int64_t b = from; b < until; ++b)
      control(z.controller, z.H, blocks.gates.at(t, b), blocks.fed.at(t, b) + z.reads,
              entering(z, blocks, episodes, outputs, t, b).cell, out + (b - from) * z.O, blocks.cell.at(t + 1, b));
    head_weight.multiply(rows, out, z.O, head_bias, 0, blocks.raw.at(t, from), z.P);
    for (int64_t b = from; b < until; ++b) {
      const Entering<s> in = entering(z, blocks, episodes, outputs, t, b);
      address(z, in.memory, in.weightings, blocks.raw.at(t, b), blocks.step(t, b), out + (b - from) * z.O + z.H,
              scratch);
    }
  }
  for (int64_t b = from; b < until; ++b) {
    s* state = last + b * z.state;
    const s* output = outputs + ((z.T - 1) * z.B + b) * z.O;
    *state = 1;
    lay_back_memory(z, blocks.memory.at(z.T, b), state + 1);
    lay_back_weightings(z, blocks.weightings.at(z.T, b), state + z.weightings_at());
    std::copy_n(output + z.H, z.reads, state + z.reads_at());
    std::copy_n(output, z.H, state + z.hidden_at());
    std::copy_n(blocks.cell.at(z.T, b), z.cell, state + z.cell_at());
  }
}

// The gradients that flow from a step to the one before it, of one batch element.
template <typename s>
struct Flow {
  s *memory, *weightings, *reads, *hidden, *cell;

  static int64_t size(const Sizes& z) { return z.L * z.M + z.K * z.L + z.reads + z.H + z.cell; }

  Flow(const Sizes& z, s* row) : memory(row) {
    weightings = memory + z.L * z.M, reads = weightings + z.K * z.L, hidden = reads + z.reads, cell = hidden + z.H;
  }

  // From and to a flat state.
  void take(const Sizes& z, const s* state) const {
    lay_out_memory(z, state + 1, memory);
    lay_out_weightings(z, state + z.weightings_at(), weightings);
    std::copy_n(state + z.reads_at(), z.reads + z.H + z.cell, reads);
  }

  void give(const Sizes& z, s* state) const {
    *state = 0;  // nothing depends on the alive flag's size
    lay_back_memory(z, memory, state + 1);
    lay_back_weightings(z, weightings, state + z.weightings_at());
    std::copy_n(reads, z.reads + z.H + z.cell, state + z.reads_at());
  }
};

// What the backward of the steps writes: gradients of the sums behind gates and head parameters, [T, B, G] and
// [T, B, P], and where they are asked for of inputs, state and start (a row a batch element), else null.
template <typename s>
struct Gradients {
  s *gates, *raw, *inputs, *state, *start;
};

// Backward of `run`; d_outputs and d_last may be null. The weights are those of the products backwards.
template <typename s>
void run_backward(const Sizes& z, const Blocks<s>& blocks, const Episodes<s>& episodes, const s* outputs,
                  const s* d_outputs, const s* d_last, const Strips<s>& weight_input, const Strips<s>& feedback,
                  const Strips<s>& head_weight, const Gradients<s>& d, int64_t from, int64_t until) {
  Scratch<s> scratch(z);
  const int64_t rows = until - from, size = Flow<s>::size(z);
  std::vector<s> flows(rows * size), starts(d.start ? rows * size : 0), d_fed(rows * z.F);
  const auto flow = [&](int64_t b) { return Flow<s>(z, &flows[(b - from) * size]); };
  for (int64_t b = from; d_last && b < until; ++b) flow(b).take(z, d_last + b * z.state);
  for (int64_t t = z.T - 1; t >= 0; --t) {
    for (int64_t b = from; b < until; ++b) {
      const int64_t row = t * z.B + b;
      const Entering<s> in = entering(z, blocks, episodes, outputs, t, b);
      const Flow<s> carried = flow(b);
      if (d_outputs) {
        add_scaled(carried.hidden, s(1), d_outputs + row * z.O, z.H);
        add_scaled(carried.reads, s(1), d_outputs + row * z.O + z.H, z.reads);
      }
      address_backward(z, in.memory, in.weightings, blocks.raw.at(t, b), blocks.step(t, b), carried.reads,
                       carried.memory, carried.weightings, d.raw + row * z.P, scratch);
    }
    s *d_hidden = flow(from).hidden, *d_gates = d.gates + (t * z.B + from) * z.G;
    head_weight.multiply(rows, d.raw + (t * z.B + from) * z.P, z.P, d_hidden, size, d_hidden, size);
    for (int64_t b = from; b < until; ++b)
      control_backward(z.controller, z.H, blocks.gates.at(t, b), blocks.fed.at(t, b) + z.reads,
                       entering(z, blocks, episodes, outputs, t, b).cell, blocks.cell.at(t + 1, b), flow(b).hidden,
                       flow(b).cell, d_gates + (b - from) * z.G);
    feedback.multiply(rows, d_gates, z.G, nullptr, 0, d_fed.data(), z.F);
    if (d.inputs)
      weight_input.multiply(rows, d_gates, z.G, nullptr, 0, d.inputs + (t * z.B + from) * z.I, z.I);
    for (int64_t b = from; b < until; ++b) {
      const Flow<s> carried = flow(b);
      const s* fed = &d_fed[(b - from) * z.F];
      std::copy_n(fed, z.reads, carried.reads);
      add_scaled(carried.hidden, s(1), fed + z.reads, z.F - z.reads);
      if (episodes.begins(t, b)) {  // what came before is not its cause
        if (d.start) add_scaled(&starts[(b - from) * size], s(1), carried.memory, size);
        std::fill_n(carried.memory, size, s(0));
      }
    }
  }
  for (int64_t b = from; d.state && b < until; ++b) flow(b).give(z, d.state + b * z.state);
  for (int64_t b = from; d.start && b < until; ++b)
    Flow<s>(z, &starts[(b - from) * size]).give(z, d.start + b * z.state);
}

// Returns outputs [T, B, O], the last state [B, state] and, where it `keeps` it, what the backward needs.
std::tuple<Tensor, Tensor, Tensor> ntm_forward(Tensor inputs, Tensor state, Tensor start,
                                               const std::optional<Tensor>& resets_, Tensor weight_input, Tensor bias,
                                               Tensor feedback, Tensor head_weight, Tensor head_bias,
                                               at::IntArrayRef shape, double clip, bool keeps) {
  const at::AutoDispatchBelowADInplaceOrView guard;  // gradients are ours: the calls below need not look for theirs
  make_contiguous({&inputs, &state, &start, &weight_input, &bias, &feedback, &head_weight, &head_bias});
  const std::optional<Tensor> resets = contiguous(resets_);
  const Sizes z(inputs, shape, clip);
  const auto options = inputs.options();
  Tensor outputs = at::empty({z.T, z.B, z.O}, options), last = at::empty({z.B, z.state}, options), kept;
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_forward", [&] {
    using s = scalar_t;
    kept = at::empty({Blocks<s>::size(z, keeps)}, options);
    const Blocks<s> blocks(z, kept.data_ptr<s>(), keeps);
    const Episodes<s> episodes{state.data_ptr<s>(), start.data_ptr<s>(), data_or_null<bool>(resets), z.B, z.state};
    lay_out_memory(z, episodes.start + 1, blocks.start_memory);
    lay_out_weightings(z, episodes.start + z.weightings_at(), blocks.start_weightings);
    const auto weights = lay_out<s, 3>({&weight_input, &feedback, &head_weight}, true, z.T * z.B);
    at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t until) {
      run(z, blocks, episodes, inputs.data_ptr<s>(), weights[0], bias.data_ptr<s>(), weights[1], weights[2],
          head_bias.data_ptr<s>(), outputs.data_ptr<s>(), last.data_ptr<s>(), from, until);
    });
  });
  return {outputs, last, kept};
}

// Returns gradients of inputs, state and start (a row a batch element), each empty where nobody `needs` it, then of
// weight_input, bias, feedback, head_weight and head_bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> ntm_backward(
    const std::optional<Tensor>& d_outputs_, const std::optional<Tensor>& d_last_, c10::List<bool> needs, Tensor inputs,
    Tensor state, Tensor start, const std::optional<Tensor>& resets_, Tensor weight_input, Tensor feedback,
    Tensor head_weight, const Tensor& outputs, const Tensor& kept, at::IntArrayRef shape, double clip) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  make_contiguous({&inputs, &state, &start, &weight_input, &feedback, &head_weight});
  const std::optional<Tensor> resets = contiguous(resets_), d_outputs = contiguous(d_outputs_),
                              d_last = contiguous(d_last_);
  const Sizes z(inputs, shape, clip);
  const auto options = inputs.options();
  const int64_t rows = z.T * z.B;
  const auto where = [&](bool is_needed, at::IntArrayRef sizes) {
    return is_needed ? at::empty(sizes, options) : at::empty({0}, options);
  };
  Tensor d_gates = at::empty({rows, z.G}, options), d_raw = at::empty({rows, z.P}, options),
         d_inputs = where(needs[0], {z.T, z.B, z.I}), d_state = where(needs[1], {z.B, z.state}),
         d_start = where(needs[2], {z.B, z.state});
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "ntm_backward", [&] {
    using s = scalar_t;
    const Blocks<s> blocks(z, kept.data_ptr<s>(), true);
    const Episodes<s> episodes{state.data_ptr<s>(), start.data_ptr<s>(), data_or_null<bool>(resets), z.B, z.state};
    const auto asked = [](bool is_needed, Tensor& tensor) { return is_needed ? tensor.data_ptr<s>() : nullptr; };
    const Gradients<s> d{d_gates.data_ptr<s>(), d_raw.data_ptr<s>(), asked(needs[0], d_inputs),
                         asked(needs[1], d_state), asked(needs[2], d_start)};
    const auto weights = lay_out<s, 3>({&weight_input, &feedback, &head_weight}, false, rows);
    at::parallel_for(0, z.B, grain(z), [&](int64_t from, int64_t until) {
      run_backward(z, blocks, episodes, outputs.data_ptr<s>(), data_or_null<s>(d_outputs), data_or_null<s>(d_last),
                   weights[0], weights[1], weights[2], d, from, until);
    });
  });
  const Tensor fed = kept.narrow(0, rows * z.G, rows * z.F).view({rows, z.F}),  // as `Blocks` has them
      hidden = outputs.view({rows, z.O}).narrow(1, 0, z.H), of_gates = d_gates.t();
  return {d_inputs, d_state, d_start, of_gates.mm(inputs.view({rows, z.I})), d_gates.sum(0), of_gates.mm(fed),
          d_raw.t().mm(hidden), d_raw.sum(0)};
}

}  // namespace

TORCH_LIBRARY(ntm_rl, library) {
  library.def(
      "ntm_forward(Tensor inputs, Tensor state, Tensor start, Tensor? resets, Tensor weight_input, Tensor bias, "
      "Tensor feedback, Tensor head_weight, Tensor head_bias, int[] shape, float clip, bool keeps) -> (Tensor, Tensor, "
      "Tensor)");
  library.def(
      "ntm_backward(Tensor? d_outputs, Tensor? d_last, bool[] needs, Tensor inputs, Tensor state, Tensor start, "
      "Tensor? resets, Tensor weight_input, Tensor feedback, Tensor head_weight, Tensor outputs, Tensor kept, "
      "int[] shape, float clip) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(ntm_rl, CPU, library) {
  library.impl("ntm_forward", ntm_forward);
  library.impl("ntm_backward", ntm_backward);
}

}  // namespace ntm_rl

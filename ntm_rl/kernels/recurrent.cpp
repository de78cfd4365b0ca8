// An LSTM or GRU layer over whole sequences on a CPU, forward and backward; torch.nn.LSTM and torch.nn.GRU, restarted
// at each reset, are the specification.
//
// T steps, B batch, I inputs, H units, G = 4 H rows of the gates, W rows of torch's weights: 4 H, or 3 H of the GRU,
// whose candidate has the hidden state's share in rows of its own. The inputs' share in the gates is one product for
// all steps, and so are the weights' gradients; only the hidden state's share is computed step by step.
// Sequences are independent: each thread runs some of the batch through all steps.

#include "controllers.h"
#include "library.h"
#include "numerics.h"
#include "products.h"
#include "tensors.h"


#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace ntm_rl {
namespace {

using at::Tensor;

int64_t weight_rows(Controller controller, int64_t H) { return (controller == kLstm ? 4 : 3) * H; }

// Rows of the hidden state's weights that add to the inputs' share.
int64_t shared_rows(Controller controller, int64_t H) { return (controller == kLstm ? 4 : 2) * H; }

// The rows of the hidden state's weight: those that add to the inputs' share, and the others.
std::vector<Tensor> parts_of(Controller controller, const Tensor& weight_hidden) {
  const int64_t H = weight_hidden.size(1), shared = shared_rows(controller, H);
  if (controller == kLstm) return {weight_hidden};
  return {weight_hidden.narrow(0, 0, shared), weight_hidden.narrow(0, shared, H)};
}

std::vector<const Tensor*> pointers(const std::vector<Tensor>& tensors) {
  std::vector<const Tensor*> all;
  for (const Tensor& each : tensors) all.push_back(&each);
  return all;
}

// gates [rows, G]: the inputs' share in the first rows of the weights, plus the hidden state's share.
template <typename s>
void add_hidden(Controller controller, int64_t H, int64_t rows, const s* hidden, int64_t row, const Strips<s>* weights,
                const s* candidate_bias, s* gates) {
  weights[0].multiply(rows, hidden, row, gates, 4 * H, gates, 4 * H);
  if (controller == kGru) weights[1].multiply(rows, hidden, row, candidate_bias, 0, gates + 3 * H, 4 * H);
}

// The values for the backward pass besides the outputs.
template <typename s>
struct Kept {
  Controller controller;
  int64_t T, B, H, G;
  const bool* resets;  // [T, B], or null
  s* gates;            // [T, B, G]; the forward starts with the inputs' share in their sums
  s* entered;          // [T, B, H], hidden states that enter the steps: zeros at a reset
  s* cells;            // [T + 1, B, H], cells that enter the steps, and the last ones; null without
  std::vector<s> zeros;

  Kept(Controller controller, const Tensor& gates_, const Tensor& entered_, const Tensor& cells_,
       const std::optional<Tensor>& resets_)
      : controller(controller), T(entered_.size(0)), B(entered_.size(1)), H(entered_.size(2)), G(4 * H),
        resets(data_or_null<bool>(resets_)), gates(gates_.data_ptr<s>()), entered(entered_.data_ptr<s>()),
        cells(controller == kLstm ? cells_.data_ptr<s>() : nullptr), zeros(H) {}

  bool resets_at(int64_t t, int64_t b) const { return resets && resets[t * B + b]; }
  s* gates_at(int64_t t, int64_t b) const { return gates + (t * B + b) * G; }
  s* entered_at(int64_t t, int64_t b) const { return entered + (t * B + b) * H; }
  s* cell_at(int64_t t, int64_t b) const { return cells ? cells + (t * B + b) * H : nullptr; }
  const s* cell_entering(int64_t t, int64_t b) const { return resets_at(t, b) ? zeros.data() : cell_at(t, b); }

  // Least number of sequences per thread.
  int64_t grain() const { return std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, T * G * H)); }
};

// Runs the sequences [from, until). `cell` may be null.
template <typename s>
void run(const Kept<s>& z, const s* hidden, const s* cell, const Strips<s>* weights, const s* candidate_bias,
         s* outputs, int64_t from, int64_t until) {
  if (cell) std::copy(cell + from * z.H, cell + until * z.H, z.cell_at(0, from));
  for (int64_t t = 0; t < z.T; ++t) {
    const s* last = t == 0 ? hidden : outputs + (t - 1) * z.B * z.H;
    for (int64_t b = from; b < until; ++b)
      std::copy_n(z.resets_at(t, b) ? z.zeros.data() : last + b * z.H, z.H, z.entered_at(t, b));
    add_hidden(z.controller, z.H, until - from, z.entered_at(t, from), z.H, weights, candidate_bias,
               z.gates_at(t, from));
    for (int64_t b = from; b < until; ++b)
      control<s>(z.controller, z.H, z.gates_at(t, b), z.entered_at(t, b), z.cell_entering(t, b),
                 outputs + (t * z.B + b) * z.H, z.cell_at(t + 1, b));
  }
}

// Backward of `run`. d_outputs may be null. d_hidden and d_cell: in, zeros and the gradient of the last cells; out, the
// gradients of the initial ones. d_gates: gradients of the gates' sums.
template <typename s>
void run_backward(const Kept<s>& z, const s* d_outputs, const Strips<s>* weights, s* d_gates, s* d_hidden, s* d_cell,
                  int64_t from, int64_t until) {
  for (int64_t t = z.T - 1; t >= 0; --t) {
    s *d_step = d_gates + t * z.B * z.G, *d_rows = d_hidden + from * z.H;
    for (int64_t b = from; b < until; ++b) {
      if (d_outputs) add_scaled(d_hidden + b * z.H, s(1), d_outputs + (t * z.B + b) * z.H, z.H);
      control_backward<s>(z.controller, z.H, z.gates_at(t, b), z.entered_at(t, b), z.cell_entering(t, b),
                          z.cell_at(t + 1, b), d_hidden + b * z.H, d_cell + b * z.H, d_step + b * z.G);
    }
    weights[0].multiply(until - from, d_step + from * z.G, z.G, d_rows, z.H, d_rows, z.H);
    if (z.controller == kGru)
      weights[1].multiply(until - from, d_step + from * z.G + 3 * z.H, z.G, d_rows, z.H, d_rows, z.H);
    for (int64_t b = from; b < until; ++b) {
      if (!z.resets_at(t, b)) continue;  // no gradient flows to the episode before
      std::fill_n(d_hidden + b * z.H, z.H, s(0));
      if (z.cells) std::fill_n(d_cell + b * z.H, z.H, s(0));
    }
  }
}

// Throws for weights or resets of other shapes or types than the kernel reads.
void check_layer(Controller controller, const Tensor& inputs, const Tensor& weight_input, const Tensor& weight_hidden,
                 const std::optional<Tensor>& resets) {
  TORCH_CHECK_VALUE(weight_hidden.dim() == 2, "weight_hh of shape ", weight_hidden.sizes(), ": must have 2 dimensions");
  const int64_t H = weight_hidden.size(1), rows = weight_rows(controller, H);
  check("weight_ih", weight_input, {rows, inputs.size(2)}, inputs.scalar_type());
  check("weight_hh", weight_hidden, {rows, H}, inputs.scalar_type());
  check("resets", resets, {inputs.size(0), inputs.size(1)}, at::kBool);
}

// Returns the bias of the gates [G] from torch's two biases.
Tensor gate_bias(Controller controller, const Tensor& bias_input, const Tensor& bias_hidden) {
  const int64_t W = bias_input.size(0), H = W / (controller == kLstm ? 4 : 3), shared = shared_rows(controller, H);
  const Tensor bias = at::empty({4 * H}, bias_input.options());
  bias.narrow(0, 0, W).copy_(bias_input);
  bias.narrow(0, 0, shared).add_(bias_hidden.narrow(0, 0, shared));
  if (controller == kGru) bias.narrow(0, W, H).copy_(bias_hidden.narrow(0, shared, H));
  return bias;
}

// An LSTM if there is a `cell`, else a GRU. Returns outputs [T, B, H], the last cells [B, H] (empty without), and the
// values for the backward pass (see `Kept`).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrent_forward(
    Tensor inputs, Tensor hidden, const std::optional<Tensor>& cell_, const std::optional<Tensor>& resets_,
    const Tensor& weight_input, Tensor weight_hidden, const Tensor& bias_input, const Tensor& bias_hidden) {
  const Controller controller = cell_ ? kLstm : kGru;
  check_layer(controller, inputs, weight_input, weight_hidden, resets_);
  const int64_t units = weight_hidden.size(1);
  const at::ScalarType type = inputs.scalar_type();
  check("hidden state", hidden, {inputs.size(1), units}, type);
  check("cell state", cell_, {inputs.size(1), units}, type);
  check("bias_ih", bias_input, {weight_hidden.size(0)}, type);
  check("bias_hh", bias_hidden, {weight_hidden.size(0)}, type);
  make_contiguous({&inputs, &hidden, &weight_hidden});
  const std::optional<Tensor> resets = contiguous(resets_), cell = contiguous(cell_);
  const int64_t T = inputs.size(0), B = inputs.size(1), I = inputs.size(2), H = units, W = weight_input.size(0);
  const auto options = inputs.options();
  const Tensor gates = at::empty({T * B, 4 * H}, options), entered = at::empty({T, B, H}, options),
               cells = cell ? at::empty({T + 1, B, H}, options) : at::empty({0}, options),
               outputs = at::empty({T, B, H}, options), bias = gate_bias(controller, bias_input, bias_hidden);
  Tensor from_inputs = gates.narrow(1, 0, W);
  at::addmm_out(from_inputs, at::as_rows(bias.narrow(0, 0, W), T * B), inputs.view({T * B, I}), weight_input.t());
  const std::vector<Tensor> parts = parts_of(controller, weight_hidden);
  AT_DISPATCH_FLOATING_TYPES(type, "recurrent_forward", [&] {
    using s = scalar_t;
    const Kept<s> kept(controller, gates, entered, cells, resets);
    const auto weights = lay_out<s>(pointers(parts), true, T == 1 && B <= kMostInPlace);
    at::parallel_for(0, B, kept.grain(), [&](int64_t from, int64_t until) {
      run(kept, hidden.data_ptr<s>(), data_or_null<s>(cell), weights.strips.data(), bias.data_ptr<s>() + 3 * H,
          outputs.data_ptr<s>(), from, until);
    });
  });
  return {outputs, cell ? cells.select(0, T).clone() : at::empty({0}, options), gates, entered, cells};
}

// Throws for tensors of a step of other shapes or types than the kernel reads.
void check_step(Controller controller, const Tensor& inputs, const Tensor& state, const std::optional<Tensor>& resets,
                const std::vector<Tensor>& weights, int64_t H) {
  const int64_t rows = weight_rows(controller, H), I = inputs.size(2), layers = weights.size() / 4;
  const at::ScalarType type = inputs.scalar_type();
  check("state", state, {inputs.size(1), 1 + (controller == kLstm ? 2 : 1) * layers * H}, type);
  check("resets", resets, {1, inputs.size(1)}, at::kBool);
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Tensor* of_layer = &weights[4 * layer];
    check("weight_ih", of_layer[0], {rows, layer == 0 ? I : H}, type);
    check("weight_hh", of_layer[1], {rows, H}, type);
    check("bias_ih", of_layer[2], {rows}, type);
    check("bias_hh", of_layer[3], {rows}, type);
  }
}

// Runs a step of the sequences [from, until) in all layers; states are `S` apart.
template <typename s>
void run_step(Controller controller, int64_t H, const std::vector<Tensor>& tensors, const Strips<s>* weights,
              const s* input, int64_t input_row, const s* last, s* next, int64_t S, int64_t rows) {
  const int64_t layers = tensors.size() / 4, shared = shared_rows(controller, H);
  std::vector<s> gates(rows * 4 * H);
  for (int64_t layer = 0; layer < layers; ++layer) {
    const s *bias_input = tensors[4 * layer + 2].template data_ptr<s>(),
            *bias_hidden = tensors[4 * layer + 3].template data_ptr<s>();
    const int64_t hidden_at = 1 + layer * H, cell_at = hidden_at + layers * H;
    weights[0].multiply(rows, input, input_row, bias_input, 0, gates.data(), 4 * H);
    add_hidden(controller, H, rows, last + hidden_at, S, weights + 1, bias_hidden + shared, gates.data());
    for (int64_t b = 0; b < rows; ++b) {
      s *sums = &gates[b * 4 * H], *row = next + b * S;
      const s* before = last + b * S;
      add_scaled(sums, s(1), bias_hidden, shared);
      control<s>(controller, H, sums, before + hidden_at, before + cell_at, row + hidden_at, row + cell_at);
    }
    weights += controller == kLstm ? 2 : 3;
    input = next + hidden_at, input_row = S;
  }
}

// One step of all layers without gradients. inputs [1, B, I], resets [1, B]; the state is that of cores/recurrent.py:
// alive flag, the layers' hidden states, their cells; weights: torch's four of each layer; laid_out: their matrices
// from `lay_out`, those of a GRU's hidden state in two parts. Returns outputs [1, B, H] and the new state.
std::tuple<Tensor, Tensor> recurrent_step(Tensor inputs, Tensor state, const std::optional<Tensor>& resets_,
                                          at::TensorList weights_, bool has_cell,
                                          const std::optional<Tensor>& laid_out) {
  const Controller controller = has_cell ? kLstm : kGru;
  std::vector<Tensor> weights = weights_.vec(), parts;
  const int64_t B = inputs.size(1), I = inputs.size(2), H = weights[1].size(1), S = state.size(1),
                layers = weights.size() / 4;
  check_step(controller, inputs, state, resets_, weights, H);
  for (Tensor& weight : weights) weight = weight.contiguous();
  for (int64_t layer = 0; layer < layers; ++layer) {
    parts.push_back(weights[4 * layer]);
    for (const Tensor& part : parts_of(controller, weights[4 * layer + 1])) parts.push_back(part);
  }
  make_contiguous({&inputs, &state});
  const std::optional<Tensor> resets = contiguous(resets_);
  const Tensor outputs = at::empty({1, B, H}, inputs.options()), after = at::empty({B, S}, inputs.options());
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "recurrent_step", [&] {
    using s = scalar_t;
    const bool* is_reset = data_or_null<bool>(resets);
    if (is_reset && std::any_of(is_reset, is_reset + B, [](bool reset) { return reset; })) {
      state = state.clone();
      for (int64_t b = 0; b < B; ++b)
        if (is_reset[b]) std::fill_n(state.data_ptr<s>() + b * S, S, s(0));
    }
    const auto strips = laid_out_or_lay_out<s>(laid_out, pointers(parts), B <= kMostInPlace);
    const int64_t grain = std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, layers * 4 * H * (I + H)));
    at::parallel_for(0, B, grain, [&](int64_t from, int64_t until) {
      s* next = after.data_ptr<s>() + from * S;
      run_step(controller, H, weights, strips.strips.data(), inputs.data_ptr<s>() + from * I, I,
               state.data_ptr<s>() + from * S, next, S, until - from);
      for (int64_t b = from; b < until; ++b, next += S) {
        *next = 1;
        std::copy_n(next + 1 + (layers - 1) * H, H, outputs.data_ptr<s>() + b * H);
      }
    });
  });
  return {outputs, after};
}

// Returns the gradients of inputs (empty unless `needs_inputs`), hidden, cell (empty without), weight_input,
// weight_hidden and the two biases.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> recurrent_backward(
    const std::optional<Tensor>& d_outputs_, const std::optional<Tensor>& d_last_cell, bool needs_inputs,
    bool has_cell, Tensor inputs, const std::optional<Tensor>& resets_, const Tensor& weight_input,
    Tensor weight_hidden, const Tensor& gates, const Tensor& entered, const Tensor& cells) {
  const Controller controller = has_cell ? kLstm : kGru;
  check_layer(controller, inputs, weight_input, weight_hidden, resets_);
  const int64_t units = weight_hidden.size(1);
  check("the gradient of the outputs", d_outputs_, {inputs.size(0), inputs.size(1), units}, inputs.scalar_type());
  if (has_cell) check("the gradient of the last cells", d_last_cell, {inputs.size(1), units}, inputs.scalar_type());
  make_contiguous({&inputs, &weight_hidden});
  const std::optional<Tensor> resets = contiguous(resets_), d_outputs = contiguous(d_outputs_);
  const int64_t T = inputs.size(0), B = inputs.size(1), I = inputs.size(2), H = units, W = weight_input.size(0);
  const auto options = inputs.options();
  const Tensor d_gates = at::empty_like(gates), d_hidden = at::zeros({B, H}, options),
               d_cell = has_cell && d_last_cell ? d_last_cell->clone()
                                                : at::zeros({has_cell ? B : 0, H}, options);
  const std::vector<Tensor> parts = parts_of(controller, weight_hidden);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "recurrent_backward", [&] {
    using s = scalar_t;
    const Kept<s> kept(controller, gates, entered, cells, resets);
    const auto weights = lay_out<s>(pointers(parts), false);
    at::parallel_for(0, B, kept.grain(), [&](int64_t from, int64_t until) {
      run_backward(kept, data_or_null<s>(d_outputs), weights.strips.data(), d_gates.data_ptr<s>(),
                   d_hidden.data_ptr<s>(), d_cell.data_ptr<s>(), from, until);
    });
  });
  const Tensor d_sums = d_gates.sum(0), of_inputs = d_gates.narrow(1, 0, W), entered_rows = entered.view({T * B, H}),
               d_inputs = needs_inputs ? of_inputs.mm(weight_input).view({T, B, I}) : at::empty({0}, options);
  const int64_t shared = shared_rows(controller, H);
  const Tensor d_weight_input = weight_gradient(of_inputs, inputs.view({T * B, I})),
               d_bias_input = d_sums.narrow(0, 0, W);
  Tensor d_weight_hidden = weight_gradient(d_gates.narrow(1, 0, shared), entered_rows),
         d_bias_hidden = d_bias_input.clone();
  if (controller == kGru) {
    const Tensor d_shared = d_weight_hidden;
    d_weight_hidden = at::empty({W, H}, options);
    d_weight_hidden.narrow(0, 0, shared).copy_(d_shared);
    d_weight_hidden.narrow(0, shared, H).copy_(weight_gradient(d_gates.narrow(1, W, H), entered_rows));
    d_bias_hidden.narrow(0, shared, H).copy_(d_sums.narrow(0, W, H));
  }
  return {d_inputs, d_hidden, d_cell, d_weight_input, d_weight_hidden, d_bias_input, d_bias_hidden};
}

}  // namespace

const Operators operators([](Library& library) {
  library.define<recurrent_forward>(
      "recurrent_forward",
      "(Tensor inputs, Tensor hidden, Tensor? cell, Tensor? resets, Tensor weight_input, Tensor weight_hidden, "
      "Tensor bias_input, Tensor bias_hidden) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.define<recurrent_step>(
      "recurrent_step",
      "(Tensor inputs, Tensor state, Tensor? resets, Tensor[] weights, bool has_cell, Tensor? laid_out=None) -> "
      "(Tensor, Tensor)");
  library.define<recurrent_backward>(
      "recurrent_backward",
      "(Tensor? d_outputs, Tensor? d_last_cell, bool needs_inputs, bool has_cell, Tensor inputs, Tensor? resets, "
      "Tensor weight_input, Tensor weight_hidden, Tensor gates, Tensor entered, Tensor cells) -> (Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor)");
});

}  // namespace ntm_rl

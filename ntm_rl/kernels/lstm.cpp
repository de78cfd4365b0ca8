// An LSTM layer over whole sequences on a CPU, forward and backward; torch.nn.LSTM, restarted at each reset, is the
// specification.
//
// T steps, B batch, I inputs, H units, G = 4 H rows of the gates. The inputs' share in the gates is one product for all
// steps, and so are the weights' gradients; only the hidden state's share is computed step by step.
// Sequences are independent: each thread runs some of the batch through all steps.

#include "controllers.h"
#include "numerics.h"
#include "products.h"
#include "tensors.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace ntm_rl {
namespace {

using at::Tensor;

// The values for the backward pass besides the outputs.
template <typename s>
struct Kept {
  int64_t T, B, H, G;
  const bool* resets;  // [T, B], or null
  s* gates;            // [T, B, G]; the forward starts with the inputs' share in their sums
  s* entered;          // [T, B, H], hidden states that enter the steps: zeros at a reset
  s* cells;            // [T + 1, B, H], cells that enter the steps, and the last ones
  std::vector<s> zeros;

  Kept(const Tensor& gates_, const Tensor& entered_, const Tensor& cells_, const std::optional<Tensor>& resets_)
      : T(entered_.size(0)), B(entered_.size(1)), H(entered_.size(2)), G(gate_rows(kLstm, H)),
        resets(data_or_null<bool>(resets_)), gates(gates_.data_ptr<s>()), entered(entered_.data_ptr<s>()),
        cells(cells_.data_ptr<s>()), zeros(H) {}

  bool resets_at(int64_t t, int64_t b) const { return resets && resets[t * B + b]; }
  s* gates_at(int64_t t, int64_t b) const { return gates + (t * B + b) * G; }
  s* entered_at(int64_t t, int64_t b) const { return entered + (t * B + b) * H; }
  s* cell_at(int64_t t, int64_t b) const { return cells + (t * B + b) * H; }
  const s* cell_entering(int64_t t, int64_t b) const { return resets_at(t, b) ? zeros.data() : cell_at(t, b); }

  // Least number of sequences per thread.
  int64_t grain() const { return std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, T * G * H)); }
};

// Runs the sequences [from, until).
template <typename s>
void run(const Kept<s>& z, const s* hidden, const s* cell, const Strips<s>& weight_hidden, s* outputs, int64_t from,
         int64_t until) {
  std::copy(cell + from * z.H, cell + until * z.H, z.cell_at(0, from));
  for (int64_t t = 0; t < z.T; ++t) {
    const s* last = t == 0 ? hidden : outputs + (t - 1) * z.B * z.H;
    for (int64_t b = from; b < until; ++b)
      std::copy_n(z.resets_at(t, b) ? z.zeros.data() : last + b * z.H, z.H, z.entered_at(t, b));
    s* gates = z.gates_at(t, from);
    weight_hidden.multiply(until - from, z.entered_at(t, from), z.H, gates, z.G, gates, z.G);
    for (int64_t b = from; b < until; ++b)
      control<s>(kLstm, z.H, z.gates_at(t, b), nullptr, z.cell_entering(t, b), outputs + (t * z.B + b) * z.H,
                 z.cell_at(t + 1, b));
  }
}

// Backward of `run`. d_outputs may be null. d_hidden and d_cell: in, zeros and the gradient of the last cells; out, the
// gradients of the initial ones. d_gates: gradients of the gates' sums.
template <typename s>
void run_backward(const Kept<s>& z, const s* d_outputs, const Strips<s>& weight_hidden, s* d_gates, s* d_hidden,
                  s* d_cell, int64_t from, int64_t until) {
  for (int64_t t = z.T - 1; t >= 0; --t) {
    s* d_step = d_gates + t * z.B * z.G;
    for (int64_t b = from; b < until; ++b) {
      if (d_outputs) add_scaled(d_hidden + b * z.H, s(1), d_outputs + (t * z.B + b) * z.H, z.H);
      control_backward<s>(kLstm, z.H, z.gates_at(t, b), nullptr, z.cell_entering(t, b), z.cell_at(t + 1, b),
                          d_hidden + b * z.H, d_cell + b * z.H, d_step + b * z.G);
    }
    weight_hidden.multiply(until - from, d_step + from * z.G, z.G, nullptr, 0, d_hidden + from * z.H, z.H);
    for (int64_t b = from; b < until; ++b) {
      if (!z.resets_at(t, b)) continue;  // no gradient flows to the episode before
      std::fill_n(d_hidden + b * z.H, z.H, s(0));
      std::fill_n(d_cell + b * z.H, z.H, s(0));
    }
  }
}

// Throws for weights or resets of other shapes or types than the kernel reads.
void check_layer(const Tensor& inputs, const Tensor& weight_input, const Tensor& weight_hidden,
                 const std::optional<Tensor>& resets) {
  TORCH_CHECK_VALUE(weight_hidden.dim() == 2, "weight_hh of shape ", weight_hidden.sizes(), ": must be [4 H, H]");
  const int64_t H = weight_hidden.size(1), G = gate_rows(kLstm, H);
  check("weight_ih", weight_input, {G, inputs.size(2)}, inputs.scalar_type());
  check("weight_hh", weight_hidden, {G, H}, inputs.scalar_type());
  check("resets", resets, {inputs.size(0), inputs.size(1)}, at::kBool);
}

// Returns outputs [T, B, H], the last cells [B, H], and the values for the backward pass (see `Kept`). `bias` [G] is
// the sum of torch's two biases.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_forward(Tensor inputs, Tensor hidden, Tensor cell,
                                                                const std::optional<Tensor>& resets_,
                                                                const Tensor& weight_input, Tensor weight_hidden,
                                                                const Tensor& bias) {
  const PlainOperators guard;
  check_layer(inputs, weight_input, weight_hidden, resets_);
  const int64_t units = weight_hidden.size(1);
  check("hidden state", hidden, {inputs.size(1), units}, inputs.scalar_type());
  check("cell state", cell, {inputs.size(1), units}, inputs.scalar_type());
  check("the sum of the biases", bias, {weight_hidden.size(0)}, inputs.scalar_type());
  make_contiguous({&inputs, &hidden, &cell, &weight_hidden});
  const std::optional<Tensor> resets = contiguous(resets_);
  const int64_t T = inputs.size(0), B = inputs.size(1), I = inputs.size(2), H = hidden.size(1);
  const auto options = inputs.options();
  const Tensor gates = at::addmm(bias, inputs.view({T * B, I}), weight_input.t()),
               entered = at::empty({T, B, H}, options), cells = at::empty({T + 1, B, H}, options),
               outputs = at::empty({T, B, H}, options);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "lstm_forward", [&] {
    using s = scalar_t;
    const Kept<s> kept(gates, entered, cells, resets);
    const auto weights = lay_out<s, 1>({&weight_hidden}, true, T == 1);
    at::parallel_for(0, B, kept.grain(), [&](int64_t from, int64_t until) {
      run(kept, hidden.data_ptr<s>(), cell.data_ptr<s>(), weights[0], outputs.data_ptr<s>(), from, until);
    });
  });
  return {outputs, cells.select(0, T).clone(), gates, entered, cells};
}

// Throws for tensors of a step of other shapes or types than the kernel reads.
void check_step(const Tensor& inputs, const Tensor& state, const std::optional<Tensor>& resets,
                const std::vector<Tensor>& weights, int64_t H) {
  const int64_t G = gate_rows(kLstm, H), I = inputs.size(2), layers = weights.size() / 4;
  const at::ScalarType type = inputs.scalar_type();
  check("state", state, {inputs.size(1), 1 + 2 * layers * H}, type);
  check("resets", resets, {1, inputs.size(1)}, at::kBool);
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Tensor* of_layer = &weights[4 * layer];
    check("weight_ih", of_layer[0], {G, layer == 0 ? I : H}, type);
    check("weight_hh", of_layer[1], {G, H}, type);
    check("bias_ih", of_layer[2], {G}, type);
    check("bias_hh", of_layer[3], {G}, type);
  }
}

// One step of all layers without gradients. inputs [1, B, I], resets [1, B]; the state is that of cores/recurrent.py:
// alive flag, the layers' hidden states, their cells; weights: torch's four of each layer, used in place. Returns
// outputs [1, B, H] and the new state.
std::tuple<Tensor, Tensor> lstm_step(Tensor inputs, Tensor state, const std::optional<Tensor>& resets_,
                                     at::TensorList weights_) {
  const PlainOperators guard;
  std::vector<Tensor> weights = weights_.vec();
  const int64_t B = inputs.size(1), I = inputs.size(2), H = weights[1].size(-1), G = gate_rows(kLstm, H),
                layers = weights.size() / 4, S = 1 + 2 * layers * H;
  check_step(inputs, state, resets_, weights, H);
  for (Tensor& weight : weights) weight = weight.contiguous();
  make_contiguous({&inputs, &state});
  const std::optional<Tensor> resets = contiguous(resets_);
  const Tensor outputs = at::empty({1, B, H}, inputs.options()), after = at::empty({B, S}, inputs.options());
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "lstm_step", [&] {
    using s = scalar_t;
    const bool* is_reset = data_or_null<bool>(resets);
    if (is_reset && std::any_of(is_reset, is_reset + B, [](bool reset) { return reset; })) {
      state = state.clone();
      for (int64_t b = 0; b < B; ++b)
        if (is_reset[b]) std::fill_n(state.data_ptr<s>() + b * S, S, s(0));
    }
    const int64_t grain = std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, layers * G * (I + H)));
    at::parallel_for(0, B, grain, [&](int64_t from, int64_t until) {
      const int64_t rows = until - from;
      std::vector<s> gates(rows * G);
      const s *input = inputs.data_ptr<s>() + from * I, *last = state.data_ptr<s>() + from * S;
      s* next = after.data_ptr<s>() + from * S;
      int64_t width = I, input_row = I;
      for (int64_t layer = 0; layer < layers; ++layer) {
        const Tensor* of_layer = &weights[4 * layer];
        const int64_t hidden_at = 1 + layer * H, cell_at = hidden_at + layers * H;
        const Strips<s> from_input(of_layer[0].data_ptr<s>(), width, G), from_hidden(of_layer[1].data_ptr<s>(), H, G);
        from_input.multiply(rows, input, input_row, of_layer[2].data_ptr<s>(), 0, gates.data(), G);
        from_hidden.multiply(rows, last + hidden_at, S, gates.data(), G, gates.data(), G);
        for (int64_t b = 0; b < rows; ++b) {
          s *sums = &gates[b * G], *row = next + b * S;
          add_scaled(sums, s(1), of_layer[3].data_ptr<s>(), G);
          control<s>(kLstm, H, sums, nullptr, last + b * S + cell_at, row + hidden_at, row + cell_at);
        }
        input = next + hidden_at, width = H, input_row = S;
      }
      for (int64_t b = 0; b < rows; ++b) {
        next[b * S] = 1;
        std::copy_n(input + b * S, H, outputs.data_ptr<s>() + (from + b) * H);
      }
    });
  });
  return {outputs, after};
}

// Returns the gradients of inputs (empty unless `needs_inputs`), hidden, cell, weight_input, weight_hidden and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const std::optional<Tensor>& d_outputs_, const std::optional<Tensor>& d_last_cell, bool needs_inputs, Tensor inputs,
    const std::optional<Tensor>& resets_, const Tensor& weight_input, Tensor weight_hidden, const Tensor& gates,
    const Tensor& entered, const Tensor& cells) {
  const PlainOperators guard;
  check_layer(inputs, weight_input, weight_hidden, resets_);
  const int64_t units = weight_hidden.size(1);
  check("the gradient of the outputs", d_outputs_, {inputs.size(0), inputs.size(1), units}, inputs.scalar_type());
  check("the gradient of the last cells", d_last_cell, {inputs.size(1), units}, inputs.scalar_type());
  make_contiguous({&inputs, &weight_hidden});
  const std::optional<Tensor> resets = contiguous(resets_), d_outputs = contiguous(d_outputs_);
  const int64_t T = inputs.size(0), B = inputs.size(1), I = inputs.size(2), H = weight_hidden.size(1);
  const auto options = inputs.options();
  const Tensor d_gates = at::empty_like(gates), d_hidden = at::zeros({B, H}, options),
               d_cell = d_last_cell ? d_last_cell->clone(at::MemoryFormat::Contiguous) : at::zeros({B, H}, options);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "lstm_backward", [&] {
    using s = scalar_t;
    const Kept<s> kept(gates, entered, cells, resets);
    const auto weights = lay_out<s, 1>({&weight_hidden}, false);
    at::parallel_for(0, B, kept.grain(), [&](int64_t from, int64_t until) {
      run_backward(kept, data_or_null<s>(d_outputs), weights[0], d_gates.data_ptr<s>(), d_hidden.data_ptr<s>(),
                   d_cell.data_ptr<s>(), from, until);
    });
  });
  const Tensor of_gates = d_gates.t(),
               d_inputs = needs_inputs ? d_gates.mm(weight_input).view({T, B, I}) : at::empty({0}, options);
  return {d_inputs, d_hidden, d_cell, of_gates.mm(inputs.view({T * B, I})), of_gates.mm(entered.view({T * B, H})),
          d_gates.sum(0)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(ntm_rl, library) {
  library.def(
      "lstm_forward(Tensor inputs, Tensor hidden, Tensor cell, Tensor? resets, Tensor weight_input, "
      "Tensor weight_hidden, Tensor bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("lstm_step(Tensor inputs, Tensor state, Tensor? resets, Tensor[] weights) -> (Tensor, Tensor)");
  library.def(
      "lstm_backward(Tensor? d_outputs, Tensor? d_last_cell, bool needs_inputs, Tensor inputs, Tensor? resets, "
      "Tensor weight_input, Tensor weight_hidden, Tensor gates, Tensor entered, Tensor cells) -> (Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(ntm_rl, CPU, library) {
  library.impl("lstm_forward", lstm_forward);
  library.impl("lstm_step", lstm_step);
  library.impl("lstm_backward", lstm_backward);
}

}  // namespace ntm_rl

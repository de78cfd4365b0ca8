// One step of an LSTM, a GRU or a feedforward layer for one batch element, from the sums of its gates.
#pragma once

#include <cstdint>

namespace ntm_rl {

enum Controller : int64_t { kLstm = 0, kGru = 1, kFeedforward = 2 };

// Rows of the gates, in PyTorch's order. The GRU has four: the hidden state's share in its candidate is separate.
inline int64_t gate_rows(Controller controller, int64_t units) {
  return units * (controller == kFeedforward ? 1 : 4);
}

// The gates g are activated in place; hidden and cell may be hidden_in and cell_in.
template <typename s>
void control(Controller controller, int64_t H, s* g, const s* hidden_in, const s* cell_in, s* hidden, s* cell);

// Backward of `control`. d_cell: in, the gradient of this step's cell; out, of the last one. d_hidden: in, the gradient
// of this step's hidden state; out, of the last one without the path through the gates.
template <typename s>
void control_backward(Controller controller, int64_t H, const s* g, const s* hidden_in, const s* cell_in, const s* cell,
                      s* d_hidden, s* d_cell, s* d_gates);

}  // namespace ntm_rl

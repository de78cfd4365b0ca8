// See controllers.h.

#include "controllers.h"

#include "numerics.h"

namespace ntm_rl {

template <typename s>
void control(Controller controller, int64_t H, s* __restrict g, const s* hidden_in, const s* cell_in, s* hidden,
                    s* cell) {
  if (controller == kFeedforward) {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) hidden[i] = g[i] = tanh_(g[i]);
  } else if (controller == kLstm) {  // gates: input, forget, candidate, output
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      const s input = sigmoid(g[i]), forget = sigmoid(g[H + i]), candidate = tanh_(g[2 * H + i]),
              output = sigmoid(g[3 * H + i]), new_cell = forget * cell_in[i] + input * candidate;
      g[i] = input, g[H + i] = forget, g[2 * H + i] = candidate, g[3 * H + i] = output;
      cell[i] = new_cell;
      hidden[i] = output * tanh_(new_cell);
    }
  } else {  // gates: reset, update, candidate from the input, candidate from the hidden state
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      const s reset = sigmoid(g[i]), update = sigmoid(g[H + i]), candidate = tanh_(g[2 * H + i] + reset * g[3 * H + i]);
      g[i] = reset, g[H + i] = update, g[2 * H + i] = candidate;
      hidden[i] = candidate + update * (hidden_in[i] - candidate);
    }
  }
}

template <typename s>
void control_backward(Controller controller, int64_t H, const s* __restrict g, const s* hidden_in,
                             const s* cell_in, const s* cell, s* __restrict d_hidden, s* __restrict d_cell,
                             s* __restrict d_gates) {
  if (controller == kFeedforward) {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      d_gates[i] = d_hidden[i] * (1 - g[i] * g[i]);
      d_hidden[i] = 0;
    }
  } else if (controller == kLstm) {  // gates: input, forget, candidate, output
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      const s input = g[i], forget = g[H + i], candidate = g[2 * H + i], output = g[3 * H + i],
              squashed = tanh_(cell[i]);
      const s d = d_cell[i] + d_hidden[i] * output * (1 - squashed * squashed);
      d_gates[i] = d * candidate * input * (1 - input);
      d_gates[H + i] = d * cell_in[i] * forget * (1 - forget);
      d_gates[2 * H + i] = d * input * (1 - candidate * candidate);
      d_gates[3 * H + i] = d_hidden[i] * squashed * output * (1 - output);
      d_cell[i] = d * forget;
      d_hidden[i] = 0;
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < H; ++i) {
      const s reset = g[i], update = g[H + i], candidate = g[2 * H + i], recurrent = g[3 * H + i];
      const s d_candidate = d_hidden[i] * (1 - update) * (1 - candidate * candidate);
      d_gates[i] = d_candidate * recurrent * reset * (1 - reset);
      d_gates[H + i] = d_hidden[i] * (hidden_in[i] - candidate) * update * (1 - update);
      d_gates[2 * H + i] = d_candidate;
      d_gates[3 * H + i] = d_candidate * reset;
      d_hidden[i] *= update;
    }
  }
}

template void control(Controller, int64_t, float*, const float*, const float*, float*, float*);
template void control(Controller, int64_t, double*, const double*, const double*, double*, double*);
template void control_backward(Controller, int64_t, const float*, const float*, const float*, const float*, float*,
                               float*, float*);
template void control_backward(Controller, int64_t, const double*, const double*, const double*, const double*, double*,
                               double*, double*);

}  // namespace ntm_rl

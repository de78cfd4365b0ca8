// The NTM as a residual block over whole sequences on a CPU, forward and backward; cores/ntm_block.py is the
// specification.
//
// Letters of sequence.h, with I = H, and X features of the block's inputs, C lags of the convolution.
#pragma once

#include "layers.h"
#include "sequence_operators.h"


#include <algorithm>
#include <tuple>
#include <vector>

namespace ntm_rl {

constexpr double kReadEpsilon = 1e-4;  // READ_EPSILON in cores/ntm_block.py
constexpr int64_t kChunk = 64;         // rows of a partial sum, so that sums do not depend on the number of threads

// The block's weights, in the order of the operators' list.
struct BlockWeights {
  Tensor embed, embed_bias, embed_norm, embed_norm_bias, kernel, input, bias, feedback, interface, interface_bias,
      project, norm, norm_bias;

  explicit BlockWeights(at::TensorList list) {
    TORCH_CHECK_VALUE(list.size() == all().size(), "weights of the block: must be ", all().size());
    for (size_t i = 0; i < list.size(); ++i) *all()[i] = list[i].contiguous();
  }

  std::vector<Tensor*> all() {
    return {&embed,    &embed_bias, &embed_norm,     &embed_norm_bias, &kernel, &input,    &bias,
            &feedback, &interface,  &interface_bias, &project,         &norm,   &norm_bias};
  }
};

template <class Memory>
struct BlockSizes : Sizes<Memory> {
  int64_t X, C, rows, whole;  // whole: elements of the state, the NTM's and the recent embedded inputs [C - 1, H]

  BlockSizes(const Tensor& inputs, const Tensor& kernel, at::IntArrayRef shape, double clip)
      : Sizes<Memory>({inputs.size(0), inputs.size(1), kernel.size(1)}, inputs.scalar_type(), shape, clip),
        X(inputs.size(2)), C(kernel.size(0)), rows(this->T * this->B), whole(this->state + (C - 1) * this->H) {}

  void check_all(const Tensor& state, BlockWeights& w) const {
    const at::ScalarType type = state.scalar_type();
    const int64_t H = this->H;
    check("state", state, {this->B, whole}, type);
    check("the weight of the embedding", w.embed, {H, X}, type);
    check("the weight of the projection", w.project, {H, this->O}, type);
    check("the kernel", w.kernel, {C, H}, type);
    for (const Tensor* each : {&w.embed_bias, &w.embed_norm, &w.embed_norm_bias, &w.norm, &w.norm_bias})
      check("a bias or norm", *each, {H}, type);
  }
};

// Calls f(from, until) for parts of n rows of `width` elements.
template <typename F>
void for_rows(int64_t n, int64_t width, const F& f) {
  at::parallel_for(0, n, std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, width)), f);
}

// Normalises rows [n, H] of `x` in place after adding those of `added`, if any; writes the factors [n], and to `to` the
// rows scaled and shifted.
template <typename s>
void layer_norm(Tensor& x, const s* added, const Tensor& weight, const Tensor& bias, const Tensor& scales, s* to) {
  const int64_t n = x.size(0), H = x.size(1);
  for_rows(n, H, [&](int64_t from, int64_t until) {
    for (int64_t i = from; i < until; ++i) {
      s* row = x.data_ptr<s>() + i * H;
      if (added) add_scaled(row, s(1), added + i * H, H);
      scales.data_ptr<s>()[i] = normalize(row, H);
      scale_and_shift(row, weight.data_ptr<s>(), bias.data_ptr<s>(), H, to + i * H);
    }
  });
}

// Backward of `layer_norm` for gradients d [n, H], in place; returns the gradients of weight and bias, [2, H].
template <typename s>
Tensor layer_norm_backward(const Tensor& normalized, const Tensor& scales, const Tensor& weight, s* d) {
  const int64_t n = normalized.size(0), H = normalized.size(1), chunks = (n + kChunk - 1) / kChunk;
  const Tensor sums = at::zeros({chunks, 2, H}, normalized.options());
  at::parallel_for(0, chunks, 4, [&](int64_t from, int64_t until) {
    for (int64_t i = from * kChunk; i < std::min(until * kChunk, n); ++i) {
      s* sum = sums.data_ptr<s>() + i / kChunk * 2 * H;
      layer_norm_backward(normalized.data_ptr<s>() + i * H, scales.data_ptr<s>()[i], weight.data_ptr<s>(), H, d + i * H,
                          sum, sum + H);
    }
  });
  return sums.sum(0);
}

// Where the episode of each step of sequence b begins among its C - 1 recent and T steps.
inline std::vector<int64_t> episode_begins(const bool* resets, int64_t T, int64_t B, int64_t C, int64_t b) {
  std::vector<int64_t> begins(T);
  int64_t begin = 0;
  for (int64_t t = 0; t < T; ++t) begins[t] = begin = resets && resets[t * B + b] ? t + C - 1 : begin;
  return begins;
}

// The short convolution and its activation. `seen` [C - 1 + T, B, H] are the recent and the embedded inputs.
template <class Memory, typename s>
struct Convolution {
  const BlockSizes<Memory>& z;
  const bool* resets;
  s *seen, *convolved;
  const s* kernel;

  s* at(s* rows, int64_t t, int64_t b) const { return rows + (t * z.B + b) * z.H; }

  // Writes activated [T, B, H] and the new recent inputs.
  void run(const Rows<s>& state, const Rows<s>& after, s* activated) const {
    const int64_t H = z.H, past = z.C - 1;
    for_rows(z.B, z.T * z.C * H, [&](int64_t from, int64_t until) {
      for (int64_t b = from; b < until; ++b) {
        const std::vector<int64_t> begins = episode_begins(resets, z.T, z.B, z.C, b);
        for (int64_t i = 0; i < past; ++i) std::copy_n(state.at(b) + z.state + i * H, H, at(seen, i, b));
        for (int64_t t = 0; t < z.T; ++t) {
          s *__restrict sum = at(convolved, t, b), *__restrict to = at(activated, t, b);
          std::fill_n(sum, H, s(0));
          for (int64_t i = t + past; i >= std::max(t, begins[t]); --i)
            multiply_add(kernel + (t + past - i) * H, at(seen, i, b), H, sum);
#pragma omp simd
          for (int64_t h = 0; h < H; ++h) to[h] = silu(sum[h]);
        }
        for (int64_t i = z.T; i < z.T + past; ++i) {
          s* recent = after.at(b) + z.state + (i - z.T) * H;
          if (i >= begins.back())
            std::copy_n(at(seen, i, b), H, recent);
          else
            std::fill_n(recent, H, s(0));
        }
      }
    });
  }

  // Backward of `run`. d_seen: in, gradients of the embedded inputs; out, plus those through the convolution. d: in,
  // the gradient of activated; overwritten. Returns the kernel's gradient.
  Tensor run_backward(const Rows<s>& d_after, s* d, s* d_seen, const Tensor& like) const {
    const int64_t H = z.H, past = z.C - 1;
    const Tensor d_kernels = at::zeros({z.B, z.C, H}, like.options());
    for_rows(z.B, z.T * z.C * H, [&](int64_t from, int64_t until) {
      for (int64_t b = from; b < until; ++b) {
        const std::vector<int64_t> begins = episode_begins(resets, z.T, z.B, z.C, b);
        s* d_kernel = d_kernels.data_ptr<s>() + b * z.C * H;
        for (int64_t i = z.T; d_after.data && i < z.T + past; ++i)
          if (i >= begins.back()) add_scaled(at(d_seen, i, b), s(1), d_after.at(b) + z.state + (i - z.T) * H, H);
        for (int64_t t = 0; t < z.T; ++t) {
          s *__restrict d_sum = at(d, t, b), *__restrict sum = at(convolved, t, b);
#pragma omp simd
          for (int64_t h = 0; h < H; ++h) d_sum[h] *= silu_slope(sum[h]);
          for (int64_t i = t + past; i >= std::max(t, begins[t]); --i) {
            const int64_t lag = t + past - i;
            multiply_add(kernel + lag * H, d_sum, H, at(d_seen, i, b));
            multiply_add(at(seen, i, b), d_sum, H, d_kernel + lag * H);
          }
        }
      }
    });
    return d_kernels.sum(0);
  }
};

// Divides each read vector [n, R * M] after the hidden units by its root mean square; writes the factors [n, R].
template <class Memory, typename s>
void normalize_reads(const BlockSizes<Memory>& z, s* rows, s* scales) {
  for_rows(z.rows, z.O, [&](int64_t from, int64_t until) {
    for (int64_t i = from * z.R; i < until * z.R; ++i) {
      s* read = rows + i / z.R * z.O + z.H + i % z.R * z.M;
      scales[i] = 1 / std::sqrt(dot(read, read, z.M) / z.M + s(kReadEpsilon));
      for (int64_t m = 0; m < z.M; ++m) read[m] *= scales[i];
    }
  });
}

template <class Memory, typename s>
void normalize_reads_backward(const BlockSizes<Memory>& z, const s* rows, const s* scales, s* d) {
  for_rows(z.rows, z.O, [&](int64_t from, int64_t until) {
    for (int64_t i = from * z.R; i < until * z.R; ++i) {
      const int64_t at = i / z.R * z.O + z.H + i % z.R * z.M;
      const s slope = dot(rows + at, d + at, z.M) / z.M;
      for (int64_t m = 0; m < z.M; ++m) d[at + m] = scales[i] * (d[at + m] - slope * rows[at + m]);
    }
  });
}

// Returns outputs [T, B, H], the last state and the values for the backward pass (empty unless `keeps`): normalised
// embedded inputs and their factors, seen and convolved steps, the NTM's inputs, outputs and values, normalised reads
// and their factors, normalised sums and their factors. laid_out: see `forward_into`.
template <class Memory>
std::tuple<Tensor, Tensor, std::vector<Tensor>> block_forward(const Tensor& inputs_, const Tensor& state_,
                                                              const std::optional<Tensor>& start,
                                                              const std::optional<Tensor>& resets,
                                                              at::TensorList weights, at::IntArrayRef shape,
                                                              double clip, bool keeps,
                                                              const std::optional<Tensor>& laid_out) {
  BlockWeights w(weights);
  const BlockSizes<Memory> z(inputs_, w.kernel, shape, clip);
  z.check_all(state_, w);
  const auto options = inputs_.options();
  const Tensor inputs = inputs_.contiguous(), state = state_.contiguous(),
               seen = at::empty({z.C - 1 + z.T, z.B, z.H}, options), convolved = at::empty({z.T, z.B, z.H}, options),
               activated = at::empty_like(convolved), scales = at::empty({z.rows}, options),
               read_scales = at::empty({z.rows, z.R}, options), sum_scales = at::empty({z.rows}, options),
               last = at::empty({z.B, z.whole}, options), read = at::empty({z.T, z.B, z.O}, options),
               outputs = at::empty({z.T, z.B, z.H}, options);
  Arguments of{activated, state.narrow(1, 0, z.state), start, resets, w.input, w.feedback, w.interface, w.bias,
               w.interface_bias};
  of.prepare(z);
  Tensor embedded = at::addmm(w.embed_bias, inputs.view({z.rows, z.X}), w.embed.t()), kept, normalized, sums;
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "block_forward", [&] {
    using s = scalar_t;
    s* embedded_rows = seen.data_ptr<s>() + (z.C - 1) * z.B * z.H;
    layer_norm<s>(embedded, nullptr, w.embed_norm, w.embed_norm_bias, scales, embedded_rows);
    const Convolution<Memory, s> convolution{z, data_or_null<bool>(of.resets), seen.data_ptr<s>(),
                                             convolved.data_ptr<s>(), w.kernel.data_ptr<s>()};
    convolution.run(rows_of<s>(state), rows_of<s>(last), activated.data_ptr<s>());
    kept = forward_into<Memory>(z, of, read, last, keeps, laid_out);
    normalized = keeps ? read.clone() : read;
    normalize_reads(z, normalized.data_ptr<s>(), read_scales.data_ptr<s>());
    sums = at::mm(normalized.view({z.rows, z.O}), w.project.t());
    layer_norm<s>(sums, embedded_rows, w.norm, w.norm_bias, sum_scales, outputs.data_ptr<s>());
  });
  if (!keeps) return {outputs, last, {}};
  return {outputs,
          last,
          {embedded, scales, seen, convolved, activated, read, kept, normalized, read_scales, sums, sum_scales}};
}

// Returns the gradients of inputs, state and start (a row per batch element; empty where `needs` is false), and those
// of the weights.
template <class Memory>
std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> block_backward(
    const std::optional<Tensor>& d_outputs, const std::optional<Tensor>& d_last, const std::vector<bool>& needs,
    const Tensor& inputs_, const Tensor& state_, const std::optional<Tensor>& start,
    const std::optional<Tensor>& resets, at::TensorList weights, at::TensorList kept, at::IntArrayRef shape,
    double clip) {
  BlockWeights w(weights);
  const BlockSizes<Memory> z(inputs_, w.kernel, shape, clip);
  z.check_all(state_, w);
  check("the gradient of the outputs", d_outputs, {z.T, z.B, z.H}, inputs_.scalar_type());
  check("the gradient of the last state", d_last, {z.B, z.whole}, inputs_.scalar_type());
  const auto options = inputs_.options();
  const Tensor &embedded = kept[0], &scales = kept[1], &seen = kept[2], &convolved = kept[3], &activated = kept[4],
               &read = kept[5], &of_memory = kept[6], &normalized = kept[7], &read_scales = kept[8], &sums = kept[9],
               &sum_scales = kept[10];
  const Tensor inputs = inputs_.contiguous(), state = state_.contiguous(), d_seen = at::zeros(seen.sizes(), options),
               d_state = needs[1] ? at::empty({z.B, z.whole}, options) : Tensor(),
               d_start = needs[2] ? at::empty({z.B, z.state}, options) : Tensor(),
               d_after = d_last ? d_last->contiguous() : Tensor();
  Arguments of{activated, state.narrow(1, 0, z.state), start, resets, w.input, w.feedback, w.interface, {}, {}};
  of.prepare(z);
  const Tensor d_sums = d_seen.narrow(0, z.C - 1, z.T);  // the residual connection
  if (d_outputs) d_sums.copy_(*d_outputs);
  const auto ntm_part = [&](const Tensor& states) { return states.defined() ? states.narrow(1, 0, z.state) : states; };
  Tensor d_norms, d_embed_norms, d_kernel, d_project;
  std::array<Tensor, 6> of_memory_weights;
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "block_backward", [&] {
    using s = scalar_t;
    d_norms = layer_norm_backward<s>(sums, sum_scales, w.norm, d_sums.data_ptr<s>());
    const Tensor d_rows = d_sums.view({z.rows, z.H}), d_read = d_rows.mm(w.project);
    d_project = weight_gradient(d_rows, normalized.view({z.rows, z.O}));
    normalize_reads_backward(z, normalized.data_ptr<s>(), read_scales.data_ptr<s>(), d_read.data_ptr<s>());
    of_memory_weights = backward_into<Memory>(z, of, d_read, ntm_part(d_after), read, of_memory, true,
                                              ntm_part(d_state), d_start);
    const Convolution<Memory, s> convolution{z, data_or_null<bool>(of.resets), seen.data_ptr<s>(),
                                             convolved.data_ptr<s>(), w.kernel.data_ptr<s>()};
    d_kernel = convolution.run_backward(rows_of<s>(d_after), of_memory_weights[0].data_ptr<s>(), d_seen.data_ptr<s>(),
                                        inputs);
    d_embed_norms = layer_norm_backward<s>(embedded, scales, w.embed_norm, d_sums.data_ptr<s>());
  });
  if (needs[1])
    d_state.narrow(1, z.state, z.whole - z.state)
        .copy_(d_seen.narrow(0, 0, z.C - 1).transpose(0, 1).reshape({z.B, (z.C - 1) * z.H}));
  const Tensor d_embedded = d_sums.view({z.rows, z.H}), nothing = at::empty({0}, options);
  const auto& [_, d_input, d_bias, d_feedback, d_interface, d_interface_bias] = of_memory_weights;
  return {needs[0] ? d_embedded.mm(w.embed).view(inputs.sizes()) : nothing,
          needs[1] ? d_state : nothing,
          needs[2] ? d_start : nothing,
          {weight_gradient(d_embedded, inputs.view({z.rows, z.X})), d_embedded.sum(0), d_embed_norms[0],
           d_embed_norms[1], d_kernel, d_input, d_bias, d_feedback, d_interface, d_interface_bias, d_project,
           d_norms[0], d_norms[1]}};
}

// Registers the operators `name`_forward and `name`_backward.
template <class Memory>
void define_block(Library& library, const std::string& name) {
  library.define<block_forward<Memory>>(
      name + "_forward",
      "(Tensor inputs, Tensor state, Tensor? start, Tensor? resets, Tensor[] weights, int[] shape, float clip, "
      "bool keeps, Tensor? laid_out=None) -> (Tensor, Tensor, Tensor[])");
  library.define<block_backward<Memory>>(
      name + "_backward",
      "(Tensor? d_outputs, Tensor? d_last, bool[] needs, Tensor inputs, Tensor state, Tensor? start, Tensor? resets, "
      "Tensor[] weights, Tensor[] kept, int[] shape, float clip) -> (Tensor, Tensor, Tensor, Tensor[])");
}

}  // namespace ntm_rl

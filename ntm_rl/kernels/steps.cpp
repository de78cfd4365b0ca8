// Single steps of cores without gradients, for agents that act, and the networks of actor and critic.

#include "gated_delta.h"
#include "gtrxl.h"
#include "layers.h"
#include "library.h"
#include "ppo.h"
#include "sam.h"
#include "tensors.h"

#include <iterator>
#include <optional>
#include <tuple>
#include <vector>

namespace ntm_rl {

using at::Tensor;

namespace {

constexpr size_t kLayerWeights = 9;         // of a gated delta net, see `DeltaLayer`
constexpr size_t kDeltaMatrices[] = {2, 6};  // its weights of matrix products
constexpr size_t kTransformerWeights = 23;  // of a Gated Transformer-XL, see `TransformerLayer`
constexpr size_t kTransformerMatrices[] = {2, 7, 8, 9, 10, 14, 16, 18, 19, 20};

// The weights of matrix products: that of the embedding and those of each layer.
template <size_t COUNT>
std::vector<const Tensor*> matrices_of(const std::vector<Tensor>& weights, int64_t layers, size_t layer_weights,
                                       const size_t (&of_layer)[COUNT]) {
  std::vector<const Tensor*> matrices{&weights[0]};
  for (int64_t layer = 0; layer < layers; ++layer)
    for (const size_t i : of_layer) matrices.push_back(&weights[2 + layer * layer_weights + i]);
  return matrices;
}

void check_delta(const DeltaSizes& z, const Tensor& state, const std::optional<Tensor>& resets,
                 const std::vector<Tensor>& weights) {
  const at::ScalarType type = state.scalar_type();
  check("state", state, {z.B, z.state()}, type);
  check("resets", resets, {1, z.B}, at::kBool);
  check("the weight of the embedding", weights[0], {z.H, z.I}, type);
  check("a bias", weights[1], {z.H}, type);
  for (int64_t layer = 0; layer < z.layers; ++layer) {
    const Tensor* of = &weights[2 + layer * kLayerWeights];
    check("a norm", of[0], {z.H}, type);
    check("a norm's bias", of[1], {z.H}, type);
    check("the weight of the projections", of[2], {z.P, z.H}, type);
    check("the kernel", of[3], {z.C, 3 * z.E}, type);
    check("the norm of reads", of[4], {z.M}, type);
    check("the norm's bias", of[5], {z.M}, type);
    check("the weight of the output", of[6], {z.H, z.E}, type);
    check("the rates", of[7], {z.K}, type);
    check("the bias of time steps", of[8], {z.K}, type);
  }
  for (const size_t i : {weights.size() - 2, weights.size() - 1}) check("the last norm", weights[i], {z.H}, type);
}

// inputs [1, B, I], resets [1, B]; the state and the weights are those of cores/gated_delta.py: of the embedding, of
// each layer, of the last norm; laid_out: the matrices of `matrices_of` from `lay_out`. Returns outputs [1, B, H] and
// the new state.
std::tuple<Tensor, Tensor> gated_delta_step(Tensor inputs, Tensor state, const std::optional<Tensor>& resets_,
                                            at::TensorList weights_, int64_t heads, int64_t width,
                                            const std::optional<Tensor>& laid_out) {
  std::vector<Tensor> weights = weights_.vec();
  const int64_t layers = (weights.size() - 4) / kLayerWeights, E = heads * width;
  const DeltaSizes z{inputs.size(1), inputs.size(2), weights[0].size(0),   heads, width, weights[5].size(0),
                     layers,         E,              4 * E + 2 * heads};
  check_delta(z, state, resets_, weights);
  for (Tensor& weight : weights) weight = weight.contiguous();
  make_contiguous({&inputs, &state});
  const std::optional<Tensor> resets = contiguous(resets_);
  const Tensor outputs = at::empty({1, z.B, z.H}, inputs.options()), after = at::empty_like(state);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "gated_delta_step", [&] {
    using s = scalar_t;
    std::vector<const s*> at;
    for (const Tensor& weight : weights) at.push_back(weight.data_ptr<s>());
    const bool* is_reset = data_or_null<bool>(resets);
    const std::vector<s> zeros(z.state());
    const auto strips = laid_out_or_lay_out<s>(laid_out, matrices_of(weights, layers, kLayerWeights, kDeltaMatrices),
                                               z.B <= kMostInPlace);
    const int64_t grain = std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, z.H * (z.I + layers * (z.P + E))));
    at::parallel_for(0, z.B, grain, [&](int64_t from, int64_t until) {
      const int64_t rows = until - from, S = z.state();
      s *x = outputs.data_ptr<s>() + from * z.H, *next = after.data_ptr<s>() + from * S;
      strips[0].multiply(rows, inputs.data_ptr<s>() + from * z.I, z.I, at[1], 0, x, z.H);
      std::vector<const s*> memory(rows), recent(rows);
      std::vector<s> work;
      for (int64_t layer = 0; layer < layers; ++layer) {
        const s* const* w = &at[2 + layer * kLayerWeights];
        const int64_t memory_at = 1 + layer * z.memory(), recent_at = 1 + layers * z.memory() + layer * z.recent();
        for (int64_t b = 0; b < rows; ++b) {
          const bool starts = is_reset && is_reset[from + b];
          const s* before = starts ? zeros.data() : state.data_ptr<s>() + (from + b) * S;
          memory[b] = before + memory_at, recent[b] = before + recent_at;
        }
        const DeltaLayer<s> of{w[0], w[1], strips[1 + 2 * layer], w[3], w[4], w[5], strips[2 + 2 * layer], w[7], w[8]};
        run_layer(z, of, rows, x, memory.data(), recent.data(), next + memory_at, next + recent_at, S, work);
      }
      for (int64_t b = 0; b < rows; ++b) {
        next[b * S] = 1;
        normalize(x + b * z.H, z.H);
        scale_and_shift(x + b * z.H, at[at.size() - 2], at[at.size() - 1], z.H, x + b * z.H);
      }
    });
  });
  return {outputs, after};
}

// Shapes of a layer's weights in the order of `TransformerLayer`.
std::vector<std::vector<int64_t>> transformer_shapes(const TransformerSizes& z) {
  const int64_t D = z.D, E = z.E;
  const std::vector<std::vector<int64_t>> gate = {{3 * D, D}, {2 * D, D}, {D, D}, {D}},
                                          perceptron = {{D}, {D}, {2 * D, D}, {2 * D}, {D, 2 * D}, {D}};
  std::vector<std::vector<int64_t>> shapes = {{D},    {D},        {E, D},     {E, D},
                                              {E, D}, {z.K, z.M}, {z.K, z.M}, {D, E}};
  for (const auto* part : {&gate, &perceptron, &gate}) shapes.insert(shapes.end(), part->begin(), part->end());
  shapes.push_back({z.W + 1, E});
  return shapes;
}

void check_transformer(const TransformerSizes& z, const Tensor& state, const std::optional<Tensor>& resets,
                       const std::vector<Tensor>& weights) {
  const at::ScalarType type = state.scalar_type();
  check("state", state, {z.B, z.state()}, type);
  check("resets", resets, {1, z.B}, at::kBool);
  check("the weight of the embedding", weights[0], {z.D, z.I}, type);
  check("the bias of the embedding", weights[1], {z.D}, type);
  const auto shapes = transformer_shapes(z);
  for (size_t i = 2; i < weights.size(); ++i)
    check("a weight of a layer", weights[i], shapes[(i - 2) % kTransformerWeights], type);
}

// Runs a step of the sequences [from, until); `at` are the weights' data, `strips` those of `matrices_of`.
template <typename s>
void run_transformer(const TransformerSizes& z, const std::vector<const s*>& at, const std::vector<Strips<s>>& strips,
                     const s* inputs, const s* state, const bool* resets, s* outputs, s* after, int64_t from,
                     int64_t until) {
  const int64_t rows = until - from, S = z.state(), window = z.W * z.D;
  s* x = outputs + from * z.D;
  std::vector<const s*> windows(rows);
  std::vector<int64_t> firsts(rows);
  std::vector<s> work;
  for (int64_t b = 0; b < rows; ++b) {
    const s* before = state + (from + b) * S;
    s *next = after + (from + b) * S, filled = resets && resets[from + b] ? s(0) : std::nearbyint(before[1]);
    firsts[b] = filled < z.W ? z.W - std::max<int64_t>(0, static_cast<int64_t>(filled)) : 0;
    next[0] = 1;
    next[1] = filled < z.W ? filled + 1 : s(z.W);
  }
  strips[0].multiply(rows, inputs + from * z.I, z.I, at[1], 0, x, z.D);
  for (int64_t layer = 0; layer < z.layers; ++layer) {
    const s* const* w = &at[2 + layer * kTransformerWeights];
    const Strips<s>* m = &strips[1 + layer * std::size(kTransformerMatrices)];
    for (int64_t b = 0; b < rows; ++b) {
      windows[b] = state + (from + b) * S + 2 + layer * window;
      s* next = after + (from + b) * S + 2 + layer * window;
      const int64_t first = std::max<int64_t>(1, firsts[b]) * z.D;  // rows of another episode are not kept
      std::fill_n(next, first - z.D, s(0));
      std::copy_n(windows[b] + first, window - first, next + first - z.D);
      std::copy_n(x + b * z.D, z.D, next + window - z.D);
    }
    const TransformerLayer<s> of{w[0],  w[1],  m[0], w[3],  w[4], w[5],  w[6], m[1], {m[2], m[3], m[4], w[11]},
                                 w[12], w[13], m[5], w[15], m[6], w[17], {m[7], m[8], m[9], w[21]}, w[22]};
    run_layer(z, of, rows, windows.data(), firsts.data(), x, work);
  }
}

// As `gated_delta_step`, of cores/gtrxl.py; the last weight of each layer are its keys of distances [W + 1, K * M].
// laid_out: the matrices of `matrices_of` from `lay_out`.
std::tuple<Tensor, Tensor> gtrxl_step(Tensor inputs, Tensor state, const std::optional<Tensor>& resets_,
                                      at::TensorList weights_, int64_t heads, int64_t width,
                                      const std::optional<Tensor>& laid_out) {
  std::vector<Tensor> weights = weights_.vec();
  const int64_t layers = (weights.size() - 2) / kTransformerWeights, past = weights.back().size(0) - 1;
  const TransformerSizes z{inputs.size(1), inputs.size(2), weights[0].size(0), heads, width, past, layers,
                           heads * width};
  check_transformer(z, state, resets_, weights);
  for (Tensor& weight : weights) weight = weight.contiguous();
  make_contiguous({&inputs, &state});
  const std::optional<Tensor> resets = contiguous(resets_);
  const Tensor outputs = at::empty({1, z.B, z.D}, inputs.options()), after = at::empty_like(state);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "gtrxl_step", [&] {
    using s = scalar_t;
    std::vector<const s*> at;
    for (const Tensor& weight : weights) at.push_back(weight.data_ptr<s>());
    const auto strips = laid_out_or_lay_out<s>(
        laid_out, matrices_of(weights, layers, kTransformerWeights, kTransformerMatrices), z.B <= kMostInPlace);
    const int64_t each = z.D * (z.I + layers * (8 * z.E + 16 * z.D + 3 * z.K * z.W));
    at::parallel_for(0, z.B, std::max<int64_t>(1, (1 << 21) / std::max<int64_t>(1, each)),
                     [&](int64_t from, int64_t until) {
                       run_transformer(z, at, strips.strips, inputs.data_ptr<s>(), state.data_ptr<s>(),
                                       data_or_null<bool>(resets), outputs.data_ptr<s>(), after.data_ptr<s>(), from,
                                       until);
                     });
  });
  return {outputs, after};
}

Tensor lay_out_weights(at::TensorList weights) {
  for (const Tensor& each : weights)
    TORCH_CHECK_VALUE(each.dim() == 2 && each.scalar_type() == at::kFloat, "weights: must be float32 matrices");
  return lay_out_once<float>(weights);
}

// As `gated_delta_step`, of cores/sam.py. weights: of inputs, its bias, of the feedback, of the interface layer and its
// bias. shape: N, M, R, K.
std::tuple<Tensor, Tensor> sam_step(Tensor inputs, Tensor state, const std::optional<Tensor>& resets_,
                                    at::TensorList weights_, at::IntArrayRef shape, double clip) {
  std::vector<Tensor> weights = weights_.vec();
  const SamSizes z{inputs.size(1), inputs.size(2), shape[0], shape[1], shape[2], shape[3], weights[3].size(1), clip};
  const at::ScalarType type = state.scalar_type();
  const int64_t F = z.R * z.M + z.H;
  check("state", state, {z.B, z.state()}, type);
  check("resets", resets_, {1, z.B}, at::kBool);
  check("the weight of inputs", weights[0], {4 * z.H, z.I}, type);
  check("the bias", weights[1], {4 * z.H}, type);
  check("the weight of the feedback", weights[2], {4 * z.H, F}, type);
  check("the weight of the interface layer", weights[3], {z.P(), z.H}, type);
  check("the bias of the interface layer", weights[4], {z.P()}, type);
  for (Tensor& weight : weights) weight = weight.contiguous();
  make_contiguous({&inputs, &state});
  const std::optional<Tensor> resets = contiguous(resets_);
  const Tensor outputs = at::empty({1, z.B, F}, inputs.options()), after = at::empty_like(state);
  AT_DISPATCH_FLOATING_TYPES(inputs.scalar_type(), "sam_step", [&] {
    using s = scalar_t;
    const auto strips = lay_out<s>({&weights[0], &weights[2], &weights[3]}, true, z.B <= kMostInPlace);
    const SamWeights<s> w{strips[0], strips[1], strips[2], weights[1].data_ptr<s>(), weights[4].data_ptr<s>()};
    const int64_t each = z.N * z.M * (z.R + 2) + 4 * z.H * (z.I + F);
    at::parallel_for(0, z.B, std::max<int64_t>(1, (1 << 21) / each), [&](int64_t from, int64_t until) {
      const bool* starts = data_or_null<bool>(resets);
      run_sparse(z, w, until - from, inputs.data_ptr<s>() + from * z.I, state.data_ptr<s>() + from * z.state(),
                 starts ? starts + from : nullptr, outputs.data_ptr<s>() + from * F,
                 after.data_ptr<s>() + from * z.state());
    });
  });
  return {outputs, after};
}

// outputs [1, B, H + R * M] of an NTM: its hidden states and read vectors. Returns hidden + weight * RMSNorm(reads) +
// skip * inputs [1, B, H], with a norm for each read vector, as cores/ntm_block.py; laid_out: both matrices from
// `lay_out`.
Tensor add_reads(Tensor outputs, const Tensor& weight, Tensor inputs, const Tensor& skip, const Tensor& laid_out,
                 int64_t width, double epsilon) {
  const int64_t B = outputs.size(1), H = weight.size(0), F = weight.size(1), I = inputs.size(2);
  TORCH_CHECK_VALUE(width > 0 && F % width == 0, "columns of the weight: must be a multiple of ", width);
  check("the weight of reads", weight, {H, F}, at::kFloat);
  check("the weight of inputs", skip, {H, I}, at::kFloat);
  check("outputs", outputs, {1, B, H + F}, at::kFloat);
  check("inputs", inputs, {1, B, I}, at::kFloat);
  make_contiguous({&outputs, &inputs});
  const std::vector<Strips<float>> strips = strips_of<float>(laid_out, {&weight, &skip});
  const Tensor sums = at::empty({1, B, H}, outputs.options());
  at::parallel_for(0, B, std::max<int64_t>(1, (1 << 21) / (H * (F + I))), [&](int64_t from, int64_t until) {
    const float* rows = outputs.data_ptr<float>() + from * (H + F);
    float* to = sums.data_ptr<float>() + from * H;
    std::vector<float> reads((until - from) * F);
    for (int64_t b = 0; b < until - from; ++b)
      for (int64_t i = 0; i < F; i += width)
        rms_norm<float>(rows + b * (H + F) + H + i, epsilon, width, &reads[b * F + i]);
    strips[0].multiply(until - from, reads.data(), F, rows, H + F, to, H);
    strips[1].multiply(until - from, inputs.data_ptr<float>() + from * I, I, to, H, to, H);
  });
  return sums;
}

}  // namespace

const Operators operators([](Library& library) {
  library.define<gated_delta_step>(
      "gated_delta_step",
      "(Tensor inputs, Tensor state, Tensor? resets, Tensor[] weights, int heads, int width, Tensor? laid_out=None) -> "
      "(Tensor, Tensor)");
  library.define<gtrxl_step>(
      "gtrxl_step",
      "(Tensor inputs, Tensor state, Tensor? resets, Tensor[] weights, int heads, int width, Tensor? laid_out=None) -> "
      "(Tensor, Tensor)");
  library.define<sam_step>(
      "sam_step",
      "(Tensor inputs, Tensor state, Tensor? resets, Tensor[] weights, int[] shape, float clip) -> (Tensor, Tensor)");
  library.define<add_reads>(
      "add_reads",
      "(Tensor outputs, Tensor weight, Tensor inputs, Tensor skip, Tensor laid_out, int width, float epsilon) -> "
      "Tensor");
  library.define<lay_out_weights>("lay_out", "(Tensor[] weights) -> Tensor");
  library.define<act>(
      "act",
      "(Tensor actor_inputs, Tensor critic_inputs, Tensor[] actor, Tensor[] critic, Tensor laid_out, int activation, "
      "Tensor factor, Tensor offset, Tensor? log_std, Tensor noise, int kind, int[] sizes) -> (Tensor, Tensor, Tensor)");
  library.define<ppo_gradients>(
      "ppo_gradients",
      "(Tensor actor_inputs, Tensor critic_inputs, Tensor[] actor, Tensor[] critic, int activation, "
      "Tensor factor, Tensor offset, Tensor? log_std, int kind, int[] sizes, Tensor actions, Tensor old_log_probs, "
      "Tensor old_values, Tensor advantages, Tensor returns, Tensor? all_advantages, float clip_range, "
      "float? clip_range_vf, float ent_coef, float vf_coef) -> (Tensor, Tensor, Tensor, Tensor[])");
  library.define<clip_gradients>("clip_gradients", "(Tensor(a!)[] gradients, float max_norm) -> Tensor");
});

}  // namespace ntm_rl

// The networks of actor and critic after their cores: acting, and the gradients of PPO's loss. Features, actions and
// weights are float32. agents/policy/policies.py and agents/ppo/loss.py are the specification.
#pragma once

#include "actions.h"
#include "perceptron.h"
#include "tensors.h"


#include <algorithm>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

namespace ntm_rl {

using at::Tensor;
using Outputs = std::vector<std::vector<float>>;  // of each layer

// Both networks. Weights [n, k] and biases [n] of consecutive layers in turn; laid_out: all weights from `lay_out`;
// factor, offset: of the values; log_std: of a Box; sizes: the numbers of values of discrete actions.
struct ActorCritic {
  std::vector<LinearLayer> actor, critic;
  Activation activation;
  float factor, offset;
  std::optional<Tensor> log_std;
  ActionKind kind;
  at::IntArrayRef sizes;
  int64_t O, N = 1, A;  // inputs, outputs of the actor, components of an action

  ActorCritic(int64_t inputs, at::TensorList actor_weights, at::TensorList critic_weights, const Tensor& laid_out,
              int64_t activation, const Tensor& factor_, const Tensor& offset_, const std::optional<Tensor>& log_std_,
              int64_t kind, at::IntArrayRef sizes)
      : activation(static_cast<Activation>(activation)), log_std(contiguous(log_std_)),
        kind(static_cast<ActionKind>(kind)), sizes(sizes), O(inputs) {
    check("the factor of values", factor_, {}, at::kFloat);
    check("the offset of values", offset_, {}, at::kFloat);
    factor = *factor_.data_ptr<float>(), offset = *offset_.data_ptr<float>();
    std::vector<const Tensor*> matrices;
    for (const at::TensorList network : {actor_weights, critic_weights})
      for (size_t i = 0; i < network.size(); i += 2) matrices.push_back(&network[i]);
    const std::vector<Strips<float>> strips = strips_of<float>(laid_out, matrices);
    actor = layers_of(actor_weights, strips.data());
    critic = layers_of(critic_weights, strips.data() + actor.size());
    N = actor.back().size, A = is_discrete() ? sizes.size() : N;
    TORCH_CHECK_VALUE(critic.back().size == 1, "outputs of the critic: must be 1");
    TORCH_CHECK_VALUE(!is_discrete() || std::accumulate(sizes.begin(), sizes.end(), int64_t(0)) == N,
                      "values of the actions: must be ", N);
    TORCH_CHECK_VALUE(kind != kBox || log_std, "log_std: must be given for a Box");
    check("log_std", log_std, {N}, at::kFloat);
  }

  bool is_discrete() const { return kind == kDiscrete || kind == kMultiDiscrete; }
  std::vector<int64_t> action_shape(int64_t rows) const {
    return kind == kDiscrete ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, A};
  }
  at::ScalarType action_type() const { return is_discrete() ? at::kLong : at::kFloat; }
  float value(float normalized) const { return normalized * factor + offset; }

 private:
  std::vector<LinearLayer> layers_of(at::TensorList network, const Strips<float>* strips) const {
    TORCH_CHECK_VALUE(network.size() >= 2 && network.size() % 2 == 0, "weights of a network: must be pairs");
    std::vector<LinearLayer> layers;
    for (size_t i = 0; i < network.size(); i += 2) {
      const int64_t n = network[i].size(0);
      check("a weight", network[i], {n, layers.empty() ? O : layers.back().size}, at::kFloat);
      check("a bias", network[i + 1], {n}, at::kFloat);
      TORCH_CHECK_VALUE(network[i + 1].is_contiguous(), "a bias: must be contiguous");
      layers.push_back({strips[i / 2], network[i + 1].data_ptr<float>(), n});
    }
    return layers;
  }
};

// Runs both networks after the outputs [1, B, O] of their cores, and draws actions with noise [B, N]: Exp(1) for
// discrete values, uniform for bits, standard normal for numbers. Returns actions, values [B] and log probabilities
// [B].
inline std::tuple<Tensor, Tensor, Tensor> act(Tensor actor_inputs, Tensor critic_inputs, at::TensorList actor,
                                              at::TensorList critic, const Tensor& laid_out, int64_t activation,
                                              const Tensor& factor, const Tensor& offset,
                                              const std::optional<Tensor>& log_std, Tensor noise, int64_t kind,
                                              at::IntArrayRef sizes) {
  const ActorCritic of(actor_inputs.size(2), actor, critic, laid_out, activation, factor, offset, log_std, kind, sizes);
  const int64_t B = actor_inputs.size(1), O = of.O, N = of.N;
  for (const Tensor& inputs : {actor_inputs, critic_inputs}) check("a core's outputs", inputs, {1, B, O}, at::kFloat);
  check("noise", noise, {B, N}, at::kFloat);
  make_contiguous({&actor_inputs, &critic_inputs, &noise});
  const Tensor actions = at::empty(of.action_shape(B), noise.options().dtype(of.action_type())),
               values = at::empty({B}, noise.options()), log_probs = at::empty({B}, noise.options());
  at::parallel_for(0, B, std::max<int64_t>(1, (1 << 22) / (1 + laid_out.numel())), [&](int64_t from, int64_t until) {
    Outputs outputs;
    const auto run = [&](const std::vector<LinearLayer>& layers, const Tensor& inputs) {
      return run_layers(layers, of.activation, until - from, inputs.data_ptr<float>() + from * O, O, outputs);
    };
    const float* normalized = run(of.critic, critic_inputs);
    for (int64_t b = from; b < until; ++b) values.data_ptr<float>()[b] = of.value(*normalized++);
    const float* parameters = run(of.actor, actor_inputs);
    for (int64_t b = from; b < until; ++b, parameters += N) {
      const float* drawn = noise.data_ptr<float>() + b * N;
      float& log_prob = log_probs.data_ptr<float>()[b];
      if (of.is_discrete())
        log_prob = draw_values(parameters, drawn, sizes.data(), of.A, actions.data_ptr<int64_t>() + b * of.A);
      else if (kind == kMultiBinary)
        log_prob = draw_bits(parameters, drawn, N, actions.data_ptr<float>() + b * N);
      else
        log_prob =
            draw_numbers(parameters, of.log_std->data_ptr<float>(), drawn, N, actions.data_ptr<float>() + b * N);
    }
  });
  const float *first = log_probs.data_ptr<float>(), *last = first + B;
  // As torch's distributions, without which Discrete actions are drawn.
  TORCH_CHECK_VALUE(kind == kDiscrete || std::none_of(first, last, [](float each) { return std::isnan(each); }),
                    "the log probability of an action is NaN: an observation or a weight is not finite");
  return {actions, values, log_probs};
}

}  // namespace ntm_rl

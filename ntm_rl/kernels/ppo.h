// The loss of PPO and its gradients; agents/ppo/loss.py is the specification.
#pragma once

#include "actor_critic.h"


#include <array>

namespace ntm_rl {

constexpr int64_t kChunkRows = 128;  // whose activations stay in the cache
constexpr int64_t kPartRows = 512, kMostParts = 8;  // a part is one thread's; sums do not depend on their number

struct PpoOptions {
  double clip_range;
  std::optional<double> clip_range_vf;
  double ent_coef, vf_coef;
};

// A minibatch of n rows.
struct PpoBatch {
  Tensor actions, old_log_probs, old_values, advantages, returns;
  float shift = 0, scale = 1;  // of the advantages
  int64_t n;

  PpoBatch(const ActorCritic& of, const Tensor& actions_, const Tensor& old_log_probs_, const Tensor& old_values_,
           const Tensor& advantages_, const Tensor& returns_, const std::optional<Tensor>& all_advantages)
      : actions(actions_.contiguous()), old_log_probs(old_log_probs_.contiguous()),
        old_values(old_values_.contiguous()), advantages(advantages_.contiguous()), returns(returns_.contiguous()),
        n(advantages.size(0)) {
    check("actions", actions, of.action_shape(n), of.action_type());
    for (const Tensor& each : {old_log_probs, old_values, advantages, returns})
      check("estimates", each, {n}, at::kFloat);
    if (all_advantages) check("advantages", *all_advantages, all_advantages->sizes(), at::kFloat);
    if (of.is_discrete()) check_values(of);
    if (all_advantages && all_advantages->numel() > 1) normalize(all_advantages->contiguous());
  }

 private:
  void check_values(const ActorCritic& of) const {
    const int64_t* action = actions.data_ptr<int64_t>();
    for (int64_t i = 0; i < n * of.A; ++i)
      TORCH_CHECK_INDEX(action[i] >= 0 && action[i] < of.sizes[i % of.A], "action ", action[i], ": not in its space");
  }

  void normalize(const Tensor& all) {
    const float *first = all.data_ptr<float>(), *last = first + all.numel();
    const double count = all.numel(), mean = std::accumulate(first, last, 0.0) / count;
    const double squares =
        std::accumulate(first, last, 0.0, [&](double sum, float x) { return sum + (x - mean) * (x - mean); });
    shift = mean, scale = 1 / (std::sqrt(squares / (count - 1)) + 1e-8);
  }
};

// The sums of a part of the minibatch, and its gradients of all weights.
struct PpoPart {
  double policy = 0, value = 0, entropy = 0, divergence = 0, clipped = 0;
  std::vector<float> gradients;
  std::vector<float*> actor, critic;  // in `gradients`
  float* log_std;

  explicit PpoPart(const ActorCritic& of) {
    int64_t size = of.N;
    for (const auto* network : {&of.actor, &of.critic}) size += elements(*network, of.O);
    gradients.assign(size, 0.0f);
    float* next = gradients.data();
    actor = take(of.actor, of.O, next), critic = take(of.critic, of.O, next), log_std = next;
  }

  static int64_t elements(const std::vector<LinearLayer>& layers, int64_t k) {
    int64_t size = 0;
    for (const LinearLayer& layer : layers) size += layer.size * (k + 1), k = layer.size;
    return size;
  }

 private:
  static std::vector<float*> take(const std::vector<LinearLayer>& layers, int64_t k, float*& next) {
    std::vector<float*> all;
    for (const LinearLayer& layer : layers) {
      all.push_back(next), all.push_back(next + layer.size * k);
      next += layer.size * (k + 1), k = layer.size;
    }
    return all;
  }
};

class Ppo {
 public:
  Ppo(const ActorCritic& of, const PpoBatch& batch, const PpoOptions& options, at::TensorList actor,
      at::TensorList critic)
      : of(of), batch(batch), options(options), actor_backward(backward_of(actor)),
        critic_backward(backward_of(critic)) {}

  // Runs the rows [from, until); writes the gradients of the inputs and adds to the part.
  void run(const float* actor_inputs, const float* critic_inputs, float* d_actor_inputs, float* d_critic_inputs,
           int64_t from, int64_t until, PpoPart& part) const {
    Outputs outputs;
    std::vector<float> d;
    for (int64_t first = from; first < until; first += kChunkRows) {
      const int64_t rows = std::min(kChunkRows, until - first), at = first * of.O;
      d.resize(rows);
      value_loss(run_layers(of.critic, of.activation, rows, critic_inputs + at, of.O, outputs), first, rows, d.data(),
                 part);
      run_layers_backward(of.critic, critic_backward.strips, of.activation, rows, critic_inputs + at, of.O, outputs, d,
                          part.critic, d_critic_inputs + at);
      d.resize(rows * of.N);
      policy_loss(run_layers(of.actor, of.activation, rows, actor_inputs + at, of.O, outputs), first, rows, d.data(),
                  part);
      run_layers_backward(of.actor, actor_backward.strips, of.activation, rows, actor_inputs + at, of.O, outputs, d,
                          part.actor, d_actor_inputs + at);
    }
  }

  // Returns the loss and its parts: entropy loss, policy loss, value loss, divergence and fraction of clipped ratios.
  std::array<double, 6> losses(const std::vector<PpoPart>& parts) const {
    PpoPart sum(of);
    for (const PpoPart& each : parts) {
      sum.policy += each.policy, sum.value += each.value, sum.entropy += each.entropy;
      sum.divergence += each.divergence, sum.clipped += each.clipped;
    }
    const double n = batch.n, entropy = -sum.entropy / n, policy = sum.policy / n, value = sum.value / n;
    const double loss = policy + options.ent_coef * entropy + options.vf_coef * value / variance();
    return {entropy, policy, value, sum.divergence / n, sum.clipped / n, loss};
  }

 private:
  double variance() const { return double(of.factor) * of.factor; }

  // The weights for products with gradients.
  struct Backward {
    std::vector<float> memory;
    std::vector<Strips<float>> strips;
  };

  static Backward backward_of(at::TensorList network) {
    Backward backward;
    int64_t size = kLanes<float>;
    for (size_t i = 0; i < network.size(); i += 2) size += Strips<float>::size(network[i].size(0), network[i].size(1));
    backward.memory.resize(size);
    float* to = aligned(backward.memory.data());
    for (size_t i = 0; i < network.size(); i += 2) {
      const Tensor weight = network[i].contiguous();
      const int64_t k = weight.size(0), n = weight.size(1);
      backward.strips.emplace_back(weight.data_ptr<float>(), k, n, n, false, to);
      to += Strips<float>::size(k, n);
    }
    return backward;
  }

  void value_loss(const float* normalized, int64_t first, int64_t rows, float* d, PpoPart& part) const {
    const float *old = batch.old_values.data_ptr<float>() + first, *target = batch.returns.data_ptr<float>() + first;
    const float slope = 2 * options.vf_coef / variance() / batch.n * of.factor;
    for (int64_t i = 0; i < rows; ++i) {
      float value = of.value(normalized[i]), passes = 1;
      if (options.clip_range_vf) {
        const float range = *options.clip_range_vf, change = value - old[i];
        passes = change < -range || change > range ? 0 : 1;
        value = old[i] + clamp(change, range);
      }
      const float error = value - target[i];
      part.value += double(error) * error;
      d[i] = slope * error * passes;
    }
  }

  void policy_loss(const float* parameters, int64_t first, int64_t rows, float* d, PpoPart& part) const {
    const float *old = batch.old_log_probs.data_ptr<float>() + first,
                *advantages = batch.advantages.data_ptr<float>() + first;
    const float low = 1 - options.clip_range, high = 1 + options.clip_range, weight = 1.0 / batch.n;
    for (int64_t i = 0; i < rows; ++i, parameters += of.N, d += of.N) {
      const Likelihood likelihood = evaluate(parameters, first + i, d);
      const float change = likelihood.log_prob - old[i], ratio = exp_(change),
                  advantage = (advantages[i] - batch.shift) * batch.scale, gain = advantage * ratio,
                  bounded = advantage * std::min(std::max(ratio, low), high);
      const bool is_bounded = bounded < gain;  // false for NaN
      part.policy -= is_bounded ? bounded : gain;
      part.entropy += likelihood.entropy;
      part.divergence += (ratio - 1) - change;
      part.clipped += std::abs(ratio - 1) > float(options.clip_range);
      const Likelihood slopes{is_bounded ? 0.0f : -gain * weight, -float(options.ent_coef) * weight};
      evaluate_backward(parameters, first + i, slopes, d, part.log_std);
    }
  }

  // d is the scratch of `evaluate_backward`, which turns it into the gradient of the parameters.
  Likelihood evaluate(const float* parameters, int64_t row, float* d) const {
    if (of.kind == kMultiBinary) return evaluate_bits(parameters, numbers(row), of.N);
    if (of.kind == kBox) return evaluate_numbers(parameters, of.log_std->data_ptr<float>(), numbers(row), of.N);
    Likelihood sum;
    const int64_t* action = values(row);
    for (int64_t i = 0; i < of.A; parameters += of.sizes[i], d += of.sizes[i], ++i)
      evaluate_value(parameters, of.sizes[i], action[i], sum, d);
    return sum;
  }

  void evaluate_backward(const float* parameters, int64_t row, const Likelihood& slopes, float* d,
                         float* d_log_std) const {
    if (of.kind == kMultiBinary) return evaluate_bits_backward(parameters, numbers(row), of.N, slopes, d);
    if (of.kind == kBox)
      return evaluate_numbers_backward(parameters, of.log_std->data_ptr<float>(), numbers(row), of.N, slopes, d,
                                       d_log_std);
    const int64_t* action = values(row);
    for (int64_t i = 0; i < of.A; d += of.sizes[i], ++i) evaluate_value_backward(of.sizes[i], action[i], slopes, d);
  }

  const float* numbers(int64_t row) const { return batch.actions.data_ptr<float>() + row * of.A; }
  const int64_t* values(int64_t row) const { return batch.actions.data_ptr<int64_t>() + row * of.A; }

  const ActorCritic& of;
  const PpoBatch& batch;
  const PpoOptions& options;
  const Backward actor_backward, critic_backward;
};

// The loss of a minibatch of n rows and its gradients. Arguments as of `act`, for inputs [n, O]; advantages are
// normalised by all_advantages, if any. Returns the metrics of `Ppo::losses`, the gradients of the inputs of actor and
// critic, and those of the actor's weights, the critic's weights and log_std.
inline std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> ppo_gradients(
    Tensor actor_inputs, Tensor critic_inputs, at::TensorList actor, at::TensorList critic, int64_t activation,
    const Tensor& factor, const Tensor& offset, const std::optional<Tensor>& log_std, int64_t kind,
    at::IntArrayRef sizes, const Tensor& actions, const Tensor& old_log_probs, const Tensor& old_values,
    const Tensor& advantages, const Tensor& returns, const std::optional<Tensor>& all_advantages, double clip_range,
    std::optional<double> clip_range_vf, double ent_coef, double vf_coef) {
  std::vector<Tensor> matrices;
  for (const at::TensorList network : {actor, critic})
    for (size_t i = 0; i < network.size(); i += 2) matrices.push_back(network[i]);
  const Tensor laid_out = lay_out_once<float>(matrices);
  const ActorCritic of(actor_inputs.size(1), actor, critic, laid_out, activation, factor, offset, log_std, kind, sizes);
  const PpoBatch batch(of, actions, old_log_probs, old_values, advantages, returns, all_advantages);
  const int64_t n = batch.n;
  for (const Tensor& each : {actor_inputs, critic_inputs}) check("a core's outputs", each, {n, of.O}, at::kFloat);
  make_contiguous({&actor_inputs, &critic_inputs});
  const PpoOptions options{clip_range, clip_range_vf, ent_coef, vf_coef};
  const Ppo ppo(of, batch, options, actor, critic);
  const Tensor d_actor_inputs = at::empty_like(actor_inputs), d_critic_inputs = at::empty_like(critic_inputs);
  const int64_t rows = std::max(kPartRows, (n + kMostParts - 1) / kMostParts);
  std::vector<PpoPart> parts;
  for (int64_t from = 0; from < n; from += rows) parts.emplace_back(of);
  at::parallel_for(0, parts.size(), 1, [&](int64_t from, int64_t until) {
    for (int64_t i = from; i < until; ++i)
      ppo.run(actor_inputs.data_ptr<float>(), critic_inputs.data_ptr<float>(), d_actor_inputs.data_ptr<float>(),
              d_critic_inputs.data_ptr<float>(), i * rows, std::min(n, (i + 1) * rows), parts[i]);
  });
  const auto options_of = actor_inputs.options();
  const Tensor all = at::zeros({int64_t(PpoPart(of).gradients.size())}, options_of),
               metrics = at::empty({6}, options_of);
  for (const PpoPart& each : parts) add_scaled(all.data_ptr<float>(), 1.0f, each.gradients.data(), all.numel());
  const std::array<double, 6> losses = ppo.losses(parts);
  std::copy(losses.begin(), losses.end(), metrics.data_ptr<float>());
  std::vector<Tensor> gradients;
  int64_t at = 0;
  for (const at::TensorList network : {actor, critic})
    for (const Tensor& each : network) {
      gradients.push_back(all.narrow(0, at, each.numel()).view(each.sizes()));
      at += each.numel();
    }
  if (log_std) gradients.push_back(all.narrow(0, at, of.N));
  return {metrics, d_actor_inputs, d_critic_inputs, gradients};
}

// Scales gradients such that their norm is at most max_norm, as torch's clip_grad_norm_, unless the norm is not finite;
// returns the norm before.
inline Tensor clip_gradients(at::TensorList gradients, double max_norm) {
  double squares = 0;
  for (const Tensor& each : gradients) {
    TORCH_CHECK_VALUE(each.is_cpu() && each.scalar_type() == at::kFloat && each.is_contiguous(),
                      "gradients: must be contiguous, float32 and on the CPU");
    const float* x = each.data_ptr<float>();
    for (int64_t from = 0; from < each.numel(); from += kChunkRows) {
      const int64_t count = std::min(kChunkRows, each.numel() - from);
      squares += dot(x + from, x + from, count);
    }
  }
  const double norm = std::sqrt(squares), scale = max_norm / (norm + 1e-6);
  if (std::isfinite(norm) && scale < 1) {
    for (const Tensor& each : gradients) {
      float* x = each.data_ptr<float>();
      const float factor = scale;
      const int64_t count = each.numel();
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) x[i] *= factor;
    }
  }
  const Tensor result = at::empty({}, gradients[0].options());
  *result.data_ptr<float>() = norm;
  return result;
}

}  // namespace ntm_rl

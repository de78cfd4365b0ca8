"""Actor-critic policies with a memory core, for `MemoryPPO` and for the unmodified `sb3_contrib.RecurrentPPO`."""

from copy import copy, deepcopy
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from ntm_rl.agents import defaults
from ntm_rl.agents.parallel.ranks import SINGLE, Ranks
from ntm_rl.agents.policy import categorical
from ntm_rl.agents.policy.actions import ActionConverter
from ntm_rl.agents.policy.arguments import Critic, check_critic, check_keywords, check_net_arch, check_policy_options
from ntm_rl.agents.policy.core_check import make_checked_core
from ntm_rl.agents.policy.features import extract
from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor
from ntm_rl.agents.policy.masked_logits import mask_logits
from ntm_rl.agents.policy.return_scale import ReturnScale
from ntm_rl.agents.policy.sb3_contrib_adapter import RecurrentPolicyAdapter
from ntm_rl.agents.policy.sb3_names import check_lstm_options, check_numbers, check_observation_kind
from ntm_rl.agents.policy.shared_core import balance
from ntm_rl.cores.registry import make_core
from ntm_rl.envs.wrappers.actions import check_action_space
from ntm_rl.envs.wrappers.images import is_image

# The fused kernel updates all parameters at once.
FAST_ADAM = {"eps": defaults.ADAM_EPSILON, "fused": True}


class MlpNtmPolicy(RecurrentPolicyAdapter):
    """Actor-critic policy with a memory core, for vector, Discrete, MultiDiscrete and MultiBinary observations.

    Features -> memory core -> actor and critic networks. The methods here take time-major sequences and flat memory
    states; those that sb3-contrib calls are in `RecurrentPolicyAdapter`.

    To give the policy its previous action and reward, wrap the environment in `ntm_rl.envs.PreviousStep` and use
    `MultiInputNtmPolicy`. It then reads the same observations in every algorithm, `predict` and evaluations.

    Args:
        observation_space: The environment's observation space.
        action_space: Discrete, Box, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate as a function of the remaining progress (1 to 0).
        net_arch: Layers after the core, as in SB3; None: `ntm_rl.agents.defaults.NET_ARCH`.
        core: Name of a registered memory core; `ntm-rl list cores` lists them.
        core_kwargs: The core's options, e.g. `dict(slots=64, width=20)`.
        critic: "shared" (one core, trained by both losses; the critic's gradient is scaled down to at most a tenth of
            the actor's norm), "joint" (one core, trained by the sum of both losses as in SB3), "detached" (one core; no
            gradient of the value loss) or "separate" (the critic has its own core, at twice the time).
        popart: Normalise the critic's targets by running statistics of the returns.
        **kwargs: As in SB3's `ActorCriticPolicy` (`activation_fn`, `ortho_init`, `features_extractor_class`, ...).

    Attributes:
        core: The memory core, of the actor alone with a separate critic.
        critic_core: The critic's memory core; None unless it is separate.
        return_scale: Running statistics of the returns, which `MemoryPPO` updates with `popart`; values are in the
            returns' units.
        action_converter: Converts sampled actions to the environment's.
        ranks: The ranks of the training, which `MemoryPPO` sets.

    Raises:
        InputError: an unknown core, option or `critic`, or an unsupported space.
    """

    default_features_extractor: type[BaseFeaturesExtractor] = FlattenExtractor
    ranks: Ranks = SINGLE

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        core: str = defaults.CORE,
        core_kwargs: dict[str, Any] | None = None,
        critic: Critic = defaults.CRITIC,
        popart: bool = defaults.POPART,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        share_features_extractor: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_lstm_options(kwargs)
        check_policy_options(type(self), core, kwargs, core_kwargs=core_kwargs, optimizer_kwargs=optimizer_kwargs)
        check_critic(critic, popart, share_features_extractor)
        check_action_space(action_space)
        check_numbers(observation_space)
        if features_extractor_class is None:
            check_observation_kind(type(self).__name__, self.default_features_extractor, observation_space)
        extractor = features_extractor_class or self.default_features_extractor
        extractor_kwargs = kwargs.get("features_extractor_kwargs")
        check_keywords("features_extractor_kwargs", extractor, extractor_kwargs, ["observation_space"])
        check_keywords("optimizer_kwargs", optimizer_class, optimizer_kwargs, ["params", "lr"])
        net_arch = deepcopy(defaults.NET_ARCH) if net_arch is None else net_arch
        check_net_arch(net_arch)
        if optimizer_kwargs is None and optimizer_class is torch.optim.Adam:
            optimizer_kwargs = FAST_ADAM
        kwargs.setdefault("activation_fn", getattr(nn, defaults.ACTIVATION))
        self.core_name = core
        self.core_kwargs = core_kwargs or {}
        self.critic_kind: Critic = critic
        self.popart = popart
        # Not super().__init__: RecurrentActorCriticPolicy's builds LSTMs.
        ActorCriticPolicy.__init__(
            self,
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            features_extractor_class=extractor,
            share_features_extractor=share_features_extractor,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **kwargs,
        )
        self.lstm_hidden_state_shape = (1, 1, self.core.state_size)
        self.action_converter = ActionConverter(action_space, self.squash_output)

    @property
    def state_size(self) -> int:
        """Size of one environment's memory state: of both cores if the critic has its own."""
        return self.core.state_size * (1 if self.critic_core is None else 2)

    def initial_state(self, batch: int) -> Tensor:
        """Returns the memory state `[batch, state_size]` at the start of episodes."""
        return self.core.initial_state(batch).new_zeros(batch, self.state_size)

    def step(
        self,
        obs: PyTorchObs,
        state: Tensor,
        resets: Tensor,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Acts once in each of B environments.

        Args:
            obs: Observations `[B, ...]`.
            state: Memory states `[B, state_size]`.
            resets: `[B]` bool, true where an episode begins with `obs`.
            deterministic: Take the most likely action instead of a sample.
            action_masks: Allowed values of discrete actions, `[B, sum of choices]` bool; None: all.

        Returns:
            Sampled actions (`[B, A]`, `[B]` if Discrete; see `action_converter`), values
            `[B]`, log probabilities `[B]` and the new states.
        """
        latent_pi, latent_vf, state = self._latents_and_state(obs, state, resets.unsqueeze(0))
        if isinstance(self.action_space, spaces.Discrete):
            logits = self._logits(latent_pi, action_masks)
            actions, log_prob = categorical.sample(logits, deterministic, self.ranks)
        else:
            masks = None if action_masks is None else self.ranks.padded(action_masks)
            distribution = self._distribution(self.ranks.padded(latent_pi), masks)
            every = distribution.get_actions(deterministic=deterministic)
            actions, log_prob = self.ranks.own(every), self.ranks.own(distribution.log_prob(every))
        return actions, self._values(latent_vf), log_prob, state

    def evaluate_sequences(
        self, obs: PyTorchObs, actions: Tensor, state: Tensor, resets: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluates the actions of B sequences of T steps.

        Args:
            obs: Observations `[T * B, ...]`, time-major.
            actions: As sampled, `[T * B, A]`, `[T * B]` if Discrete.
            state: Memory states before the first step, `[B, state_size]`.
            resets: `[T, B]` bool, true where an episode begins.
            action_masks: Allowed values, `[T * B, sum of choices]` bool; None: all.

        Returns:
            Values, log probabilities and entropies, each `[T * B]`; entropy is None without a closed form.
        """
        return self.evaluate_latents(*self._latents(obs, state, resets), actions, action_masks)

    def evaluate_latents(
        self, latent_pi: Tensor, latent_vf: Tensor, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `evaluate_sequences`, from outputs `[T * B, F]` of the networks of actor and critic."""
        values = self._values(latent_vf)
        if isinstance(self.action_space, spaces.Discrete):
            return values, *categorical.evaluate(self._logits(latent_pi, action_masks), actions)
        distribution = self._distribution(latent_pi, action_masks)
        return values, distribution.log_prob(actions), distribution.entropy()

    def actor_outputs(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the outputs `[B, F]` of the actor's network, the values `[B]` and the new states of one step.

        `action_net` maps the outputs to the parameters of the actions' distribution. Arguments as in `step`.
        """
        latent_pi, latent_vf, state = self._latents_and_state(obs, state, resets.unsqueeze(0))
        return latent_pi, self._values(latent_vf), state

    def action_distribution(
        self, obs: PyTorchObs, actor_state: Tensor, resets: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Distribution, Tensor]:
        """Returns the distribution of the actions of B environments, and the new states of the actor's core.

        Args:
            obs: Observations `[B, ...]`.
            actor_state: States of the actor's core `[B, core.state_size]`.
            resets: `[B]` bool, true where an episode begins with `obs`.
            action_masks: Allowed values, `[B, sum of choices]` bool; None: all.
        """
        features = self._features(obs, self.pi_features_extractor)
        output, state = self.core(features.unsqueeze(0), actor_state, resets.unsqueeze(0))
        return self._distribution(self.mlp_extractor.forward_actor(output[0]), action_masks), state

    def action_scores(
        self, obs: PyTorchObs, actions: Tensor, state: Tensor, resets: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the factors of the policy gradient of the last layer; arguments as in `evaluate_sequences`.

        Returns:
            The last layer's inputs `[T * B, F]`, and the gradients of the actions' log probabilities with respect to
            its outputs, `[T * B, A]`.
        """
        with torch.no_grad():
            latent, _ = self._latents(obs, state, resets)
        outputs: list[Tensor] = []

        def detach(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_())  # also of a frozen layer
            return outputs[0]

        handle, kept = self.action_net.register_forward_hook(detach), self.action_dist
        self.action_dist = copy(kept)  # it keeps the graph, with which a policy has no deepcopy
        try:
            with torch.enable_grad():
                log_prob = self._distribution(latent, action_masks).log_prob(actions).sum()
        finally:
            handle.remove()
            self.action_dist = kept
        (scores,) = torch.autograd.grad(log_prob, outputs)
        return latent, scores

    def values(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> Tensor:
        """Returns the values `[B]` of observations `[B, ...]`.

        Args:
            obs: Observations `[B, ...]`.
            state: Memory states `[B, state_size]`, or those of the critic's core alone.
            resets: `[B]` bool, true where an episode begins with `obs`.
        """
        core = self.core if self.critic_core is None else self.critic_core
        features = self._features(obs, self.vf_features_extractor)
        output, _ = core(features.unsqueeze(0), state[:, -core.state_size :], resets.unsqueeze(0))
        return self._values(self.mlp_extractor.forward_critic(output[0]))

    def advance(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> Tensor:
        """Returns the memory states after `[T * B, ...]` observations; arguments as in `evaluate_sequences`."""
        return self._latents_and_state(obs, state, resets)[2]

    def _latents_and_state(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs features, core(s) and networks over `[T * B, ...]` observations with `[T, B]` resets."""
        features = self._core_inputs(obs, resets)
        if self.critic_core is None:
            output, state = self.core(features[0], state, resets)
            return *self._heads(output, output), state
        states = state.chunk(2, dim=1)
        actor_output, actor_state = self.core(features[0], states[0], resets)
        critic_output, critic_state = self.critic_core(features[1], states[1], resets)
        return *self._heads(actor_output, critic_output), torch.cat([actor_state, critic_state], dim=1)

    def _latents(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """As `_latents_and_state` without the last state, which some cores then do not compute."""
        return self._networks(*self.core_outputs(obs, state, resets))

    def core_outputs(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the inputs `[T * B, O]` of the actor's and of the critic's network, with balanced gradients.

        Arguments as in `evaluate_sequences`.
        """
        features = self._core_inputs(obs, resets)
        if self.critic_core is None:
            output = self.core.outputs(features[0], state, resets)
            return self._balanced(output, output)
        states = state.chunk(2, dim=1)
        return self._balanced(
            self.core.outputs(features[0], states[0], resets), self.critic_core.outputs(features[1], states[1], resets)
        )

    def _core_inputs(self, obs: PyTorchObs, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the features `[T, B, F]` for the actor's and for the critic's core."""
        features = self._features(obs, self.pi_features_extractor).view(*resets.shape, -1)
        if self.share_features_extractor:
            return features, features
        return features, self._features(obs, self.vf_features_extractor).view(*resets.shape, -1)

    def _heads(self, actor_output: Tensor, critic_output: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the networks after the core(s) over outputs `[T, B, O]`; returns two blocks `[T * B, ...]`."""
        return self._networks(*self._balanced(actor_output, critic_output))

    def scale_returns(self, returns: Tensor) -> None:
        """Updates the running statistics with a rollout's returns, with `popart`."""
        if self.popart:
            self.return_scale.update(self.value_net, returns)

    def _networks(self, actor_input: Tensor, critic_input: Tensor) -> tuple[Tensor, Tensor]:
        return self.mlp_extractor.forward_actor(actor_input), self.mlp_extractor.forward_critic(critic_input)

    def _balanced(self, actor_output: Tensor, critic_output: Tensor) -> tuple[Tensor, Tensor]:
        """Returns outputs `[T, B, O]` as `[T * B, O]`, with the gradients that `critic` asks for."""
        if self.critic_kind == "detached":
            critic_output = critic_output.detach()
        elif self.critic_kind == "shared":
            actor_output, critic_output = balance(actor_output, self.ranks)
        return actor_output.flatten(0, 1), critic_output.flatten(0, 1)

    def _logits(self, latent_pi: Tensor, action_masks: Tensor | None) -> Tensor:
        """Returns the logits of discrete actions for outputs `[B, F]` of the actor network."""
        logits: Tensor = self.action_net(latent_pi)
        return logits if action_masks is None else mask_logits(logits, action_masks, self.action_space)

    def _distribution(self, latent_pi: Tensor, action_masks: Tensor | None) -> Distribution:
        """Returns the distribution of the actions for outputs `[B, F]` of the actor network."""
        if action_masks is None:
            return self._get_action_dist_from_latent(latent_pi)
        return self.action_dist.proba_distribution(self._logits(latent_pi, action_masks))

    def _values(self, latent_vf: Tensor) -> Tensor:
        """Returns the values `[B]` of outputs `[B, F]` of the critic network."""
        values: Tensor = self.return_scale(self.value_net(latent_vf).flatten())
        return values

    def _features(self, obs: PyTorchObs, extractor: BaseFeaturesExtractor) -> Tensor:
        return extract(obs, extractor, self.observation_space, self.normalize_images)

    def _build_mlp_extractor(self) -> None:
        # ActorCriticPolicy calls this before it makes the optimizer, which needs the cores' parameters.
        self.core = make_checked_core(self.core_name, self.features_dim, **self.core_kwargs)
        separate = self.critic_kind == "separate"
        self.critic_core = make_core(self.core_name, self.features_dim, **self.core_kwargs) if separate else None
        self.return_scale = ReturnScale()
        self.mlp_extractor = MlpExtractor(
            self.core.output_size, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            core=self.core_name,
            core_kwargs=self.core_kwargs,
            critic=self.critic_kind,
            popart=self.popart,
            share_features_extractor=self.share_features_extractor,
        )
        return data


class CnnNtmPolicy(MlpNtmPolicy):
    """`MlpNtmPolicy` for image observations, with an `ImageExtractor`: the Nature CNN or IMPALA's ResNet.

    `features_extractor_kwargs=dict(architecture="impala", precision="bf16", features_dim=256)` sets its options.
    """

    default_features_extractor = ImageExtractor


class MultiInputNtmPolicy(MlpNtmPolicy):
    """`MlpNtmPolicy` for Dict observations: an `ImageExtractor` per image, everything else flattened.

    `features_extractor_kwargs=dict(architecture="impala", precision="bf16", cnn_output_dim=256)` sets its options.
    """

    default_features_extractor = MultiInputExtractor


POLICIES: dict[str, type[MlpNtmPolicy]] = {
    policy.__name__: policy for policy in (MlpNtmPolicy, CnnNtmPolicy, MultiInputNtmPolicy)
}
# Makes RecurrentPPO("MlpNtmPolicy", env) work; MemoryPPO inherits the table.
RecurrentPPO.policy_aliases.update(POLICIES)


def policy_class_for(space: spaces.Space[Any]) -> type[MlpNtmPolicy]:
    """Returns the policy class that reads the observations of a space."""
    if isinstance(space, spaces.Dict):
        return MultiInputNtmPolicy
    return CnnNtmPolicy if is_image(space) else MlpNtmPolicy

"""Actor-critic policies with a memory core, for `MemoryPPO` and for the unmodified `sb3_contrib.RecurrentPPO`."""

from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from ntm_rl.agents.policy import categorical
from ntm_rl.agents.policy.actions import ActionConverter
from ntm_rl.agents.policy.arguments import check_keywords, check_net_arch, check_policy_options
from ntm_rl.agents.policy.features import extract
from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor
from ntm_rl.agents.policy.recurrent_states import (
    LstmStates,
    as_lstm_states,
    batch_major,
    episode_starts,
    lstm_states_of,
    map_parts,
    readable,
    refuse_stateless,
    require_finite,
    time_major,
)
from ntm_rl.agents.policy.sb3_names import check_numbers, check_observation_kind, check_options
from ntm_rl.checks import require_one_of
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import make_core
from ntm_rl.envs.wrappers.actions import check_action_space
from ntm_rl.errors import InputError

Critic = Literal["shared", "detached", "separate"]
# SB3's epsilon; one kernel for all parameters where torch's default would loop over them.
FAST_ADAM = {"eps": 1e-5, "fused": True}


class MlpNtmPolicy(RecurrentActorCriticPolicy):
    """Actor-critic policy around a memory core, for vector, Discrete, MultiDiscrete and MultiBinary observations.

    Features -> memory core -> actor and critic networks. The core's flat state travels as the hidden state of
    sb3-contrib's `RNNStates` (`[1, B, S]`, its cell state all zeros), so the class runs in `MemoryPPO` and in
    `sb3_contrib.RecurrentPPO` alike.

    To give the policy its previous action and reward, wrap the environment in
    `ntm_rl.envs.PreviousStep` and use `MultiInputNtmPolicy`: what the policy sees is then the same in every
    algorithm, in `predict` and in an evaluation.

    Args:
        observation_space: The environment's observation space.
        action_space: Discrete, Box, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate as a function of the remaining progress (1 to 0).
        net_arch: Layers after the core, as in SB3; default `dict(pi=[64], vf=[64])`.
        core: Name of a registered memory core, of those that `ntm-rl list cores` lists or your own.
        core_kwargs: The core's options, e.g. `dict(slots=64, width=20)`.
        critic: "shared" (one core, trained by both losses), "detached" (one core, the value loss stops at its
            output) or "separate" (a second core for the critic, which costs twice the time).
        **kwargs: As in SB3's `ActorCriticPolicy` (`activation_fn`, `ortho_init`, `features_extractor_class`, ...).

    Raises:
        InputError: an unknown core, option or `critic`, or spaces that the policy cannot read or act in.
    """

    default_features_extractor: type[BaseFeaturesExtractor] = FlattenExtractor
    core: MemoryCore
    critic_core: MemoryCore | None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        core: str = "ntm",
        core_kwargs: dict[str, Any] | None = None,
        critic: Critic = "shared",
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        share_features_extractor: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_options(kwargs)
        check_policy_options(type(self), core, kwargs, core_kwargs=core_kwargs, optimizer_kwargs=optimizer_kwargs)
        require_one_of(get_args(Critic), critic=critic)
        check_action_space(action_space)
        check_numbers(observation_space)
        if features_extractor_class is None:
            check_observation_kind(type(self).__name__, self.default_features_extractor, observation_space)
        if not share_features_extractor and critic != "separate":
            raise InputError(
                f"share_features_extractor = False: one core cannot read two feature extractors; "
                f"use critic = 'separate' (now {critic!r}) or share the extractor"
            )
        extractor = features_extractor_class or self.default_features_extractor
        check_keywords(
            "features_extractor_kwargs", extractor, kwargs.get("features_extractor_kwargs"), ["observation_space"]
        )
        check_keywords("optimizer_kwargs", optimizer_class, optimizer_kwargs, ["params", "lr"])
        net_arch = dict(pi=[64], vf=[64]) if net_arch is None else net_arch
        check_net_arch(net_arch)
        if optimizer_kwargs is None and optimizer_class is torch.optim.Adam:
            optimizer_kwargs = FAST_ADAM
        self.core_name = core
        self.core_kwargs = core_kwargs or {}
        self.critic_kind: Critic = critic
        # RecurrentActorCriticPolicy.__init__ would build LSTMs that nobody uses.
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
        self.playable = ActionConverter(action_space, self.squash_output)

    @property
    def lstm_actor(self) -> Any:  # type: ignore[override]
        """The sizes that `sb3_contrib.RecurrentPPO` asks for to allocate states."""
        return SimpleNamespace(num_layers=1, hidden_size=self.core.state_size)

    @property
    def state_size(self) -> int:
        """Elements of one environment's memory state, of both cores if the critic has its own."""
        return self.core.state_size * (1 if self.critic_core is None else 2)

    def initial_state(self, batch: int) -> Tensor:
        """Returns the memory state `[batch, state_size]` in which episodes begin."""
        return torch.zeros(batch, self.state_size, device=self.device)

    # Sequences and flat states: what MemoryPPO uses.

    def step(
        self, obs: PyTorchObs, state: Tensor, resets: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Acts once in each of B environments.

        Args:
            obs: Observations `[B, ...]`.
            state: Memory states `[B, state_size]`.
            resets: `[B]` bool, true where an episode begins with `obs`.
            deterministic: Take the most likely action instead of a sample.

        Returns:
            Actions as they were sampled (`[B, A]`, `[B]` if Discrete; `playable` makes them the environment's), values
            `[B]`, log probabilities `[B]` and the new states.
        """
        latent_pi, latent_vf, state = self._latents(obs, state, resets.unsqueeze(0))
        if isinstance(self.action_space, spaces.Discrete):
            actions, log_prob = categorical.sample(self.action_net(latent_pi), deterministic)
        else:
            distribution = self._get_action_dist_from_latent(latent_pi)
            actions = distribution.get_actions(deterministic=deterministic)
            log_prob = distribution.log_prob(actions)
        return actions, self.value_net(latent_vf).flatten(), log_prob, state

    def evaluate_sequences(
        self, obs: PyTorchObs, actions: Tensor, state: Tensor, resets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluates the actions of B sequences of T steps.

        Args:
            obs: Observations of all steps, `[T * B, ...]`, time-major.
            actions: As they were sampled, `[T * B, A]`, `[T * B]` if Discrete.
            state: Memory states before the first step, `[B, state_size]`.
            resets: `[T, B]` bool, true where an episode begins.

        Returns:
            Values, log probabilities and entropies, each `[T * B]`; entropy is None where it has no closed form.
        """
        latent_pi, latent_vf = self._latents_alone(obs, state, resets)
        values: Tensor = self.value_net(latent_vf)
        if isinstance(self.action_space, spaces.Discrete):
            return values.flatten(), *categorical.evaluate(self.action_net(latent_pi), actions)
        distribution = self._get_action_dist_from_latent(latent_pi)
        return values.flatten(), distribution.log_prob(actions), distribution.entropy()

    def values(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> Tensor:
        """Returns the values `[B]` of observations `[B, ...]` seen in the memory states `[B, state_size]`."""
        core, core_state = self._critic_core(), state[:, -self.core.state_size :]
        features = self._features(obs, self.vf_features_extractor)
        output, _ = core(features.unsqueeze(0), core_state, resets.unsqueeze(0))
        values: Tensor = self.value_net(self.mlp_extractor.forward_critic(output[0]))
        return values.flatten()

    def advance(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> Tensor:
        """Returns the memory states after `[T * B, ...]` observations; arguments as in `evaluate_sequences`."""
        return self._latents(obs, state, resets)[2]

    def _latents(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs features, core(s) and networks over `[T * B, ...]` observations with `[T, B]` resets."""
        features = self._core_inputs(obs, resets)
        if self.critic_core is None:
            output, state = self.core(features[0], state, resets)
            return *self._heads(output, output), state
        states = state.chunk(2, dim=1)
        for_actor, actor_state = self.core(features[0], states[0], resets)
        for_critic, critic_state = self.critic_core(features[1], states[1], resets)
        return *self._heads(for_actor, for_critic), torch.cat([actor_state, critic_state], dim=1)

    def _latents_alone(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """As `_latents` where nobody asks for the state after the last step, which some cores can leave out."""
        features = self._core_inputs(obs, resets)
        if self.critic_core is None:
            output = self.core.outputs(features[0], state, resets)
            return self._heads(output, output)
        states = state.chunk(2, dim=1)
        return self._heads(
            self.core.outputs(features[0], states[0], resets), self.critic_core.outputs(features[1], states[1], resets)
        )

    def _core_inputs(self, obs: PyTorchObs, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the features `[T, B, F]` for the actor's and for the critic's core."""
        features = self._features(obs, self.pi_features_extractor).view(*resets.shape, -1)
        if self.share_features_extractor:
            return features, features
        return features, self._features(obs, self.vf_features_extractor).view(*resets.shape, -1)

    def _heads(self, for_actor: Tensor, for_critic: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the networks behind the cores' outputs `[T, B, O]`; returns two blocks `[T * B, ...]`."""
        if self.critic_kind == "detached":
            for_critic = for_critic.detach()
        latent_pi = self.mlp_extractor.forward_actor(for_actor.flatten(0, 1))
        return latent_pi, self.mlp_extractor.forward_critic(for_critic.flatten(0, 1))

    def _features(self, obs: PyTorchObs, extractor: BaseFeaturesExtractor) -> Tensor:
        return extract(obs, extractor, self.observation_space, self.normalize_images)

    def _critic_core(self) -> MemoryCore:
        return self.core if self.critic_core is None else self.critic_core

    def _build_mlp_extractor(self) -> None:
        # The first thing that ActorCriticPolicy builds: the cores must exist before the optimizer is made.
        self.core = make_core(self.core_name, self.features_dim, **self.core_kwargs)
        separate = self.critic_kind == "separate"
        self.critic_core = make_core(self.core_name, self.features_dim, **self.core_kwargs) if separate else None
        self.mlp_extractor = MlpExtractor(
            self.core.output_size, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            core=self.core_name,
            core_kwargs=self.core_kwargs,
            critic=self.critic_kind,
            share_features_extractor=self.share_features_extractor,
        )
        return data

    # The vocabulary of sb3_contrib.RecurrentPPO: states as RNNStates, sequences flattened batch-major.

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: RNNStates | None = None,
        episode_starts: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Acts once in each of B environments, for `sb3_contrib.RecurrentPPO`.

        Raises:
            InputError: called by an algorithm that carries no state, such as `stable_baselines3.PPO`.
            ValueError: a probability is not finite, as where torch's distributions check their parameters.
        """
        if not isinstance(lstm_states, RNNStates) or episode_starts is None:
            refuse_stateless(self)
        actions, values, log_prob, state = self.step(obs, self._flat(lstm_states), episode_starts.bool(), deterministic)
        require_finite(log_prob)
        if self.playable.start is not None:
            actions = actions + self._of_actions(self.playable.start)
        actions = actions.reshape(-1, *(self.action_space.shape or ()))
        return actions, values.unsqueeze(1), log_prob, self._rnn_states(state)

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        actions: Tensor,
        lstm_states: RNNStates | None = None,
        episode_starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluates actions of padded sequences `[B * T, ...]`, batch-major, for RecurrentPPO; raises as `forward`."""
        if not isinstance(lstm_states, RNNStates) or episode_starts is None:
            refuse_stateless(self)
        state = self._flat(lstm_states)
        batch = len(state)
        if self.playable.start is not None:  # the zeros of the padding become valid actions too
            actions = (actions - self._of_actions(self.playable.start)) % self._of_actions(self.playable.sizes)
        if isinstance(self.action_space, (spaces.Box, spaces.MultiBinary)):
            actions = actions.float()  # RecurrentPPO keeps them in the space's dtype
        values, log_prob, entropy = self.evaluate_sequences(
            map_parts(obs, lambda x: time_major(x, batch)),
            time_major(actions, batch),
            state,
            episode_starts.bool().view(batch, -1).t(),
        )
        require_finite(log_prob)
        entropy = None if entropy is None else batch_major(entropy, batch)
        return batch_major(values, batch).unsqueeze(1), batch_major(log_prob, batch), entropy

    def get_distribution(  # type: ignore[override]
        self, obs: PyTorchObs, lstm_states: LstmStates | None = None, episode_starts: Tensor | None = None
    ) -> tuple[Distribution, tuple[Tensor, ...]]:
        """Returns the action distribution and the new states `(h, c)`, each `[1, B, S]`."""
        if lstm_states is None or episode_starts is None:
            refuse_stateless(self)
        features = self._features(obs, self.pi_features_extractor)
        output, state = self.core(features.unsqueeze(0), lstm_states[0][0], episode_starts.bool().unsqueeze(0))
        latent_pi = self.mlp_extractor.forward_actor(output[0])
        return self._get_action_dist_from_latent(latent_pi), as_lstm_states(state)

    def predict_values(
        self, obs: PyTorchObs, lstm_states: LstmStates | None = None, episode_starts: Tensor | None = None
    ) -> Tensor:
        """Returns the values `[B, 1]` of observations in the critic's states `(h, c)`, each `[1, B, S]`."""
        if lstm_states is None or episode_starts is None:
            refuse_stateless(self)
        return self.values(obs, lstm_states[0][0], episode_starts.bool()).unsqueeze(1)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Chooses actions for one observation or a batch of B, as the environment takes them.

        Args:
            observation: In the shape of the space, or `[B, ...]`.
            state: What the last call returned; None where episodes begin.
            episode_start: Whether an episode begins: one truth value for all, or B of them. None: no.
            deterministic: Take the most likely action instead of a sample.

        Returns:
            The actions and the new state.

        Raises:
            InputError: an observation that the space does not have, or a state or episode starts of another number.
        """
        self.set_training_mode(False)
        tensors, is_batch = self.obs_to_tensor(readable(observation, self.observation_space))
        batch = len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)
        starts = torch.from_numpy(episode_starts(episode_start, batch)).to(self.device)
        with torch.no_grad():
            before = lstm_states_of(state, batch, self.core.state_size, self.device)
            sampled, after = self._predict(tensors, before, starts, deterministic)  # type: ignore[arg-type]
        actions = self.playable(sampled.cpu().numpy())
        return actions if is_batch else actions.squeeze(axis=0), tuple(part.cpu().numpy() for part in after)

    def _of_actions(self, numbers: Any) -> Tensor:
        return torch.as_tensor(numbers, dtype=torch.int64, device=self.device)

    def _flat(self, states: RNNStates) -> Tensor:
        if self.critic_core is None:
            return states.pi[0][0]
        return torch.cat([states.pi[0][0], states.vf[0][0]], dim=1)

    def _rnn_states(self, state: Tensor) -> RNNStates:
        size = self.core.state_size
        return RNNStates(as_lstm_states(state[:, :size]), as_lstm_states(state[:, -size:]))


class CnnNtmPolicy(MlpNtmPolicy):
    """`MlpNtmPolicy` for image observations, through an `ImageExtractor`: the Nature CNN or IMPALA's ResNet.

    `features_extractor_kwargs=dict(architecture="impala", precision="bf16", features_dim=256)` changes it.
    """

    default_features_extractor = ImageExtractor


class MultiInputNtmPolicy(MlpNtmPolicy):
    """`MlpNtmPolicy` for Dict observations: images through an `ImageExtractor` each, everything else flattened.

    `features_extractor_kwargs=dict(architecture="impala", precision="bf16", cnn_output_dim=256)` changes it.
    """

    default_features_extractor = MultiInputExtractor


POLICIES: dict[str, type[MlpNtmPolicy]] = {
    policy.__name__: policy for policy in (MlpNtmPolicy, CnnNtmPolicy, MultiInputNtmPolicy)
}
# So that RecurrentPPO("MlpNtmPolicy", env) finds them; MemoryPPO inherits the table.
RecurrentPPO.policy_aliases.update(POLICIES)

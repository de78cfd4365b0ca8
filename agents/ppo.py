"""Recurrent PPO on time-major rollouts, for any policy with a memory core."""

import math
from collections.abc import Mapping
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ntm_rl.agents.nonfinite import NonFiniteError, check_observations, check_rollout, update_error
from ntm_rl.agents.policies import MlpNtmPolicy
from ntm_rl.agents.rollout import Minibatch, Rollout
from ntm_rl.envs.guard import Guarded
from ntm_rl.errors import InputError


class MemoryPPO(RecurrentPPO):
    """Proximal policy optimisation (Schulman et al. 2017) with truncated backpropagation through time.

    The constructor speaks SB3's vocabulary; only the arguments below differ from `stable_baselines3.PPO`'s. A rollout
    of `n_steps` x `n_envs` is cut into chunks of `sequence_length`; a minibatch is whole chunks, started from the
    memory states that the rollout had there, with episode starts handled inside. Gradients end at a chunk's start.

    Args:
        policy: `"MlpNtmPolicy"`, `"CnnNtmPolicy"`, `"MultiInputNtmPolicy"` or a subclass of `MlpNtmPolicy`.
        env: A Gymnasium environment, its id, or an SB3 `VecEnv`.
        sequence_length: Steps L of a chunk; divides `n_steps`. None: all of `n_steps`.
        batch_size: Transitions in a minibatch, a multiple of `sequence_length`.
        recompute_states: Recompute the chunks' first states with the current weights before every epoch but the
            first, since they go stale while the policy learns; costs one forward pass an epoch.

    Raises:
        InputError: sizes that do not fit, or a policy without a memory core.
    """

    policy: MlpNtmPolicy
    rollout: Rollout

    def __init__(
        self,
        policy: str | type[MlpNtmPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 128,
        sequence_length: int | None = None,
        batch_size: int = 128,
        n_epochs: int = 4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        recompute_states: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.sequence_length = n_steps if sequence_length is None else sequence_length
        self.recompute_states = recompute_states
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        self._check_sizes()
        if not issubclass(self.policy_class, MlpNtmPolicy):
            raise InputError(
                f"policy = {self.policy_class.__name__}: MemoryPPO needs a policy with a memory core: MlpNtmPolicy, "
                "CnnNtmPolicy, MultiInputNtmPolicy or a subclass (policy_kwargs=dict(core='lstm') gives an LSTM)"
            )
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, use_sde=self.use_sde, **self.policy_kwargs
        )
        self.policy = policy.to(self.device)
        self.rollout = Rollout(
            self.observation_space,
            self.action_space,
            n_steps=self.n_steps,
            n_envs=self.n_envs,
            sequence_length=self.sequence_length,
            state_size=self.policy.state_size,
            device=self.device,
        )
        self.rollout_buffer = None  # type: ignore[assignment]  # what SB3's learn() hands to collect_rollouts
        self.memory_state = self.policy.initial_state(self.n_envs)
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As SB3's, and what a single environment returns is checked against Gymnasium's interface and its spaces."""
        if isinstance(env, gym.Env):
            env = Guarded(env, f"env = {type(env.unwrapped).__name__}", bounds=False)
        return RecurrentPPO._wrap_env(env, verbose, monitor_wrapper)

    def _check_sizes(self) -> None:
        length, batch_size, total = self.sequence_length, self.batch_size, self.n_steps * self.n_envs
        if length < 1 or self.n_steps % length:
            raise InputError(f"sequence_length = {length}: must divide n_steps = {self.n_steps}")
        if batch_size is None or batch_size < length or batch_size % length:
            raise InputError(f"batch_size = {batch_size}: must be a multiple of sequence_length = {length}")
        if batch_size > total:
            raise InputError(f"batch_size = {batch_size}: must be at most n_steps * n_envs = {total}")
        if self.n_epochs < 1:
            raise InputError(f"n_epochs = {self.n_epochs}: must be at least 1")
        if isinstance(self.clip_range_vf, (int, float)) and self.clip_range_vf <= 0:
            raise InputError(f"clip_range_vf = {self.clip_range_vf}: must be above 0, or None for no clipping")

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Plays `n_rollout_steps` in every environment; False if a callback stopped it.

        Raises:
            NonFiniteError: an observation, a reward or a value is not finite.
        """
        assert self._last_obs is not None and self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        rollout, state = self.rollout, self.memory_state
        callback.on_rollout_start()
        for step in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and step > 0 and step % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            obs = rollout.store_observation(step, self._last_obs)  # type: ignore[arg-type]
            resets = rollout.store_resets(step, self._last_episode_starts)
            rollout.store_state(step, state)
            try:
                with torch.no_grad():
                    actions, values, log_probs, state = self.policy.step(obs, state, resets)
            except ValueError:  # so torch's distributions refuse parameters that are not finite
                check_observations(rollout, step + 1)
                raise
            rollout.actions[step], rollout.values[step], rollout.log_probs[step] = actions, values, log_probs

            new_obs, rewards, dones, infos = env.step(self._playable(actions))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                self.memory_state = state
                return False
            if dones.any():
                self._update_info_buffer(infos, dones)
                rewards = rewards + self._truncation_bonus(infos, dones, state)
            rollout.rewards[step], rollout.ends[step] = rewards, dones
            self._last_obs = new_obs  # type: ignore[assignment]  # SB3 says Tuple spaces are possible; they are not
            self._last_episode_starts = dones
        check_rollout(rollout, n_rollout_steps)
        self.memory_state = state

        with torch.no_grad():
            last_values = self.policy.values(_as_tensors(new_obs, self.device), state, self._resets(dones))
        rollout.compute_advantages(last_values, self.gamma, self.gae_lambda)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _playable(self, actions: Tensor) -> np.ndarray:
        """Actions as the environment takes them: arrays, inside the bounds of a Box."""
        array: np.ndarray = actions.cpu().numpy()
        if isinstance(self.action_space, spaces.Box):
            if self.policy.squash_output:
                array = self.policy.unscale_action(array)
            array = np.clip(array, self.action_space.low, self.action_space.high)
        return array

    def _truncation_bonus(self, infos: list[dict[str, Any]], dones: np.ndarray, state: Tensor) -> np.ndarray:
        """Discounted values of the observations at which a time limit cut an episode short, 0 elsewhere; `[E]`.

        The memory has already seen everything up to that observation, so `state` is the one after the last step.
        """
        bonus = np.zeros(len(dones), dtype=np.float32)
        cut = [
            int(index)
            for index in np.flatnonzero(dones)
            if infos[index].get("TimeLimit.truncated") and infos[index].get("terminal_observation") is not None
        ]
        if cut:
            observations = [infos[index]["terminal_observation"] for index in cut]
            space = self.observation_space  # whose shape copies in a vector environment may give another form of
            if isinstance(space, spaces.Dict):
                stacked: Any = {
                    key: np.stack([obs[key] for obs in observations]).reshape(-1, *(part.shape or ()))
                    for key, part in space.spaces.items()
                }
            else:
                stacked = np.stack(observations).reshape(-1, *(space.shape or ()))
            with torch.no_grad():
                no_reset = torch.zeros(len(cut), dtype=torch.bool, device=self.device)
                values = self.policy.values(_as_tensors(stacked, self.device), state[cut], no_reset)
            bonus[cut] = self.gamma * values.cpu().numpy()
        return bonus

    def _resets(self, dones: np.ndarray) -> Tensor:
        return torch.from_numpy(dones).to(self.device)

    def train(self) -> None:
        """Updates the policy with `n_epochs` passes over the rollout.

        Raises:
            NonFiniteError: a loss or a gradient is not finite; the update that it belongs to has not been made.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        metrics: list[dict[str, Tensor]] = []
        continue_training = True
        for epoch in range(self.n_epochs):
            divergences: list[Tensor] = []  # of the last epoch, as SB3 logs them
            if epoch > 0 and self.recompute_states:
                self._recompute_states()
            for batch in self.rollout.minibatches(self.batch_size):  # type: ignore[arg-type]
                loss, measured = self._loss(batch)
                parts = dict(measured)
                divergences.append(measured.pop("approx_kl"))
                metrics.append(measured)
                if self.target_kl is not None and divergences[-1] > 1.5 * self.target_kl:
                    continue_training = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {divergences[-1]:.2f}")
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                if not math.isfinite(norm + loss.detach()):  # the one look of the host at the device
                    raise self._update_error(batch, parts)
                self.policy.optimizer.step()
            self._n_updates += 1
            if not continue_training:
                break
        self._log_training(metrics, torch.stack(divergences))

    @torch.no_grad()
    def _update_error(self, batch: Minibatch, measured: Mapping[str, Tensor]) -> NonFiniteError:
        values, *_ = self.policy.evaluate_sequences(batch.observations, batch.actions, batch.states, batch.resets)
        return update_error(self.policy, batch, values, measured, self.sequence_length, self.n_envs)

    def _loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO's clipped surrogate (equation 7), value and entropy losses of one minibatch, and what to log of them."""
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        values, log_probs, entropy = self.policy.evaluate_sequences(
            batch.observations, batch.actions, batch.states, batch.resets
        )
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_probs - batch.old_log_probs
        ratio = torch.exp(log_ratio)
        clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
            values = batch.old_values + torch.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
        value_loss = torch.nn.functional.mse_loss(batch.returns, values)
        # Without a closed form, minus the log probability estimates the entropy.
        entropy_loss = log_probs.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            measured = {
                "entropy_loss": entropy_loss.detach(),
                "policy_gradient_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "approx_kl": ((ratio - 1) - log_ratio).mean(),  # Schulman, "Approximating KL divergence" (2020)
                "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(),
                "loss": loss.detach(),
            }
        return loss, measured

    @torch.no_grad()
    def _recompute_states(self) -> None:
        """Plays the rollout's observations through the current core(s) to renew the state before each chunk."""
        rollout, length = self.rollout, self.sequence_length
        state = rollout.states[0]
        for chunk in range(1, len(rollout.states)):
            steps = slice((chunk - 1) * length, chunk * length)
            observations = rollout.observations
            block: PyTorchObs = (
                {key: value[steps].flatten(0, 1) for key, value in observations.items()}
                if isinstance(observations, dict)
                else observations[steps].flatten(0, 1)
            )
            state = self.policy.advance(block, state, rollout.resets[steps])
            rollout.states[chunk] = state

    def _log_training(self, metrics: list[dict[str, Tensor]], divergences: Tensor) -> None:
        # One transfer for all numbers, after the last update.
        table = torch.stack([torch.stack(list(row.values())) for row in metrics]).cpu().numpy()
        for name, column in zip(metrics[0], table.T, strict=True):
            self.logger.record(f"train/{name}", float(column[-1] if name == "loss" else column.mean()))
        self.logger.record("train/approx_kl", divergences.mean().item())
        rollout, progress = self.rollout, self._current_progress_remaining
        explained = explained_variance(rollout.values.cpu().numpy().ravel(), rollout.returns.cpu().numpy().ravel())
        self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", self.clip_range(progress))  # type: ignore[operator]
        if self.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", self.clip_range_vf(progress))  # type: ignore[operator]

    def dump_logs(self, iteration: int = 0) -> None:
        """See `OnPolicyAlgorithm.dump_logs`; iterations are those of the training, not of this call of `learn`."""
        super().dump_logs(iteration and self.num_timesteps // (self.n_steps * self.n_envs))

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MemoryPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """See `stable_baselines3.PPO.learn`."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout", "memory_state"]


def _as_tensors(obs: Any, device: torch.device) -> PyTorchObs:
    if isinstance(obs, Mapping):
        return {key: torch.as_tensor(value, device=device) for key, value in obs.items()}
    return torch.as_tensor(obs, device=device)

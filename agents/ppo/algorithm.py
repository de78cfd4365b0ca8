"""Recurrent PPO on time-major rollouts, for any policy with a memory core."""

import math
from functools import partial
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ntm_rl.agents import defaults
from ntm_rl.agents.parallel.gradients import sum_gradients
from ntm_rl.agents.parallel.joining import join
from ntm_rl.agents.parallel.ranks import Ranks
from ntm_rl.agents.policy.acting import make_actor
from ntm_rl.agents.policy.description import warn_of_spaces
from ntm_rl.agents.policy.kernel_networks import KernelNetworks, kernel_networks
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.policy.sb3_names import check_policy_class, check_policy_name
from ntm_rl.agents.ppo.arguments import (
    check_device,
    check_hyperparameters,
    check_learning,
    check_rollout_steps,
    check_spaces,
    made_env,
    make_by_id,
)
from ntm_rl.agents.ppo.credit import CreditHorizon, compute_advantages, critic_lambda
from ntm_rl.agents.ppo.diagnosis import (
    check_observations,
    check_rollout,
    check_unnormalized,
    shared_update_error,
)
from ntm_rl.agents.ppo.episode_infos import step_vec_env, valid_infos
from ntm_rl.agents.ppo.kernel_loss import clip_gradients, minibatch_loss
from ntm_rl.agents.ppo.masked import MaskedRecurrentPPO
from ntm_rl.agents.ppo.rollout import Minibatch, Rollout, warn_of_sizes
from ntm_rl.agents.ppo.rollout_view import RolloutBufferView
from ntm_rl.agents.ppo.schedules import DEFAULT_LEARNING_RATE
from ntm_rl.agents.ppo.sharing import EndedEpisodes, seed_ranks, share_generator, share_training
from ntm_rl.agents.ppo.sizes import fitting_length
from ntm_rl.agents.ppo.training_metrics import record_training
from ntm_rl.agents.ppo.truncation import truncation_bonus
from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.envs.wrappers.guard import Guarded


# MemoryPPO overrides nearly all of RecurrentPPO. It stays a subclass because user code checks
# `isinstance(model, RecurrentPPO)` to decide whether to pass the memory state to `predict`; without it the agent would
# start every step with an empty memory.
class MemoryPPO(MaskedRecurrentPPO):
    """Proximal policy optimisation (Schulman et al. 2017) with truncated backpropagation through time.

    Takes the arguments of `sb3_contrib.RecurrentPPO` in the same order; those that differ are below. Sizes that are
    "auto" are chosen by `ntm_rl.agents.ppo.sizes` and then have that value. A rollout of `n_steps` x `n_envs` is cut
    into sequences of `sequence_length` steps. A minibatch consists of complete sequences, which start from the memory
    states stored in the rollout and reset where episodes begin. Gradients stop at the start of a sequence.

    The policy learns from actions as sampled; the environment gets them clipped and, if its Box holds integers or
    bools, rounded.

    Under torchrun, or in a `torch.distributed` process group, the models of all ranks are one training on the
    environments of all ranks: `batch_size` and `total_timesteps` count the transitions of all, and the weights are
    those of one process with all environments. All ranks need the same arguments and number of environments.

    Args:
        policy: `"MlpNtmPolicy"`, `"CnnNtmPolicy"`, `"MultiInputNtmPolicy"` or a subclass of `MlpNtmPolicy`.
        env: A Gymnasium environment, its id, a Gymnasium `VectorEnv` or an SB3 `VecEnv`.
        learning_rate: A number or a schedule; by default it decays linearly to 0 over the training.
        n_steps: Steps of each environment in a rollout. "auto": `sequence_length`.
        batch_size: Transitions per minibatch, preferably a multiple of `sequence_length`; at least one sequence. None,
            or more than `n_steps * n_envs`: the whole rollout. "auto": a quarter of the rollout.
        n_epochs: Epochs per rollout. "auto": 4, with fewer than 8 environments 10.
        gae_lambda: Lambda of generalised advantage estimation. "auto": measured during the training from how late
            rewards follow the actions that they depend on (see `CreditHorizon`); costs one forward pass per rollout.
        sequence_length: Steps L of a sequence. If L does not divide `n_steps`, the last one is shorter. None:
            `n_steps`, or a part of it that fits into a minibatch. "auto": an episode if it has 128 to 512 steps.
        schedule_at: Evaluate schedules at the progress of a rollout's "start", or of its "end", as SB3 does.
        recompute_states: Recompute the states at the start of sequences with the current weights before each epoch but
            the first, as they go stale during the update; costs one forward pass per epoch.
        action_masks: Exclude actions that the environments exclude by `action_masks()`, as for
            `sb3_contrib.MaskablePPO`, or `info["action_mask"]`. "auto": if they have one of these, with a warning.
            True: `learn` raises an error if they have none.

    Raises:
        InputError: an argument of a wrong type or out of range, or a policy without a memory core.
    """

    rollout: Rollout
    ranks: Ranks
    _networks: KernelNetworks | None = None  # of the current update

    def __init__(
        self,
        policy: str | type[MlpNtmPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = DEFAULT_LEARNING_RATE,
        n_steps: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] | None = "auto",
        n_epochs: int | Literal["auto"] = "auto",
        gamma: float = defaults.GAMMA,
        gae_lambda: float | Literal["auto"] = defaults.GAE_LAMBDA,
        clip_range: float | Schedule = defaults.CLIP_RANGE,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = defaults.NORMALIZE_ADVANTAGE,
        ent_coef: float = defaults.ENT_COEF,
        vf_coef: float = defaults.VF_COEF,
        max_grad_norm: float = defaults.MAX_GRAD_NORM,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        sequence_length: int | Literal["auto"] | None = "auto",
        schedule_at: Literal["start", "end"] = "start",
        recompute_states: bool = defaults.RECOMPUTE_STATES,
        action_masks: UseMasks = "auto",
    ):
        if isinstance(policy, str):
            valid = [name for name, each in self.policy_aliases.items() if issubclass(each, MlpNtmPolicy)]
            check_policy_name(policy, valid)
        check_device(device)
        self.ranks = join()
        self.sequence_length: int | None = sequence_length  # type: ignore[assignment]
        self.schedule_at = schedule_at
        self.recompute_states, self.action_masks = recompute_states, action_masks
        super().__init__(
            policy,
            make_by_id(env) if isinstance(env, str) else env,
            learning_rate=learning_rate,
            n_steps=n_steps,  # type: ignore[arg-type]
            batch_size=batch_size,  # type: ignore[arg-type]
            n_epochs=n_epochs,  # type: ignore[arg-type]
            gamma=gamma,
            gae_lambda=gae_lambda,  # type: ignore[arg-type]
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

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        # Called by the constructor, `load` and `set_env`.
        env = made_env(env)
        check_spaces(env)
        if isinstance(env, VectorEnv):
            env = VectorEnvAdapter(env)
        elif isinstance(env, gym.Env):
            env = Guarded(env, f"env = {type(env.unwrapped).__name__}", strict=False)
        return RecurrentPPO._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self.ranks.check_device(self.device)
        is_chosen = self.batch_size == "auto"  # type: ignore[comparison-overlap]
        check_hyperparameters(self)
        check_policy_class(self.policy_class, MlpNtmPolicy)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        policy: Any = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, use_sde=self.use_sde, **self.policy_kwargs
        )
        self.policy = policy.to(self.device)
        self.policy.ranks = self.ranks
        warn_of_spaces(self.policy, self.env)
        length = self.sequence_length or fitting_length(self.n_steps, self._minibatch_size())
        spaces = self.observation_space, self.action_space
        self.rollout = Rollout(
            *spaces,
            n_steps=self.n_steps,
            n_envs=self.n_envs,
            sequence_length=min(length, self.n_steps),
            state_size=self.policy.state_size,
            device=self.device,
            ranks=self.ranks,
        )
        self.credit = CreditHorizon().to(self.device) if isinstance(self.gae_lambda, str) else None
        self.rollout_buffer = RolloutBufferView(  # type: ignore[assignment]
            self.rollout, *spaces, self.gamma, critic_lambda(self.gae_lambda), self.credit
        )
        if not is_chosen:
            warn_of_sizes(self.rollout, self._minibatch_size())
        self.memory_state = self.policy.initial_state(self.n_envs)
        self._ended = EndedEpisodes()
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    @property
    def all_envs(self) -> int:
        """Number of environments of all ranks."""
        return self.n_envs * self.ranks.size

    def set_random_seed(self, seed: int | None = None) -> None:
        """See `BaseAlgorithm.set_random_seed`; environments have the seeds of a training of one process."""
        super().set_random_seed(seed)
        seed_ranks(self.ranks, self.env, seed)

    def _minibatch_size(self) -> int:
        return self.n_steps * self.all_envs if self.batch_size is None else self.batch_size

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Collects `n_rollout_steps` steps in every environment; returns False if a callback stopped the training.

        Raises:
            NonFiniteError: an observation, a reward or a value is not finite.
        """
        assert self._last_obs is not None and self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        if self.use_sde:
            self.policy.reset_noise(self.all_envs)
        check_rollout_steps(n_rollout_steps, self.rollout.n_steps)
        rollout, state, normalizer = self.rollout, self.memory_state, self._vec_normalize_env
        if normalizer is not None:
            check_unnormalized(normalizer, 0)
        callback.on_rollout_start()
        act, is_stopped = make_actor(self.policy), False
        # Callbacks read the locals, which have SB3's names.
        for n_steps in range(n_rollout_steps):
            rollout.pos = n_steps
            if self.use_sde and self.sde_sample_freq > 0 and n_steps > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(self.all_envs)
            obs_tensor = rollout.store_observation(n_steps, self._last_obs)
            episode_starts = rollout.store_resets(n_steps, self._last_episode_starts)
            mask = rollout.store_action_masks(n_steps, self._masks)
            rollout.store_state(n_steps, state)
            try:
                with torch.no_grad():
                    sampled, values, log_probs, state = act(obs_tensor, state, episode_starts, mask)
            except ValueError:  # raised by torch's distributions if parameters are not finite
                check_observations(rollout, n_steps + 1)
                raise
            rollout.actions[n_steps], rollout.values[n_steps], rollout.log_probs[n_steps] = sampled, values, log_probs
            values, actions = values.unsqueeze(1), sampled.cpu().numpy()
            clipped_actions = self.policy.action_converter(actions)

            new_obs, rewards, dones, infos = step_vec_env(env, clipped_actions)
            self._masks = self._mask_reader.step(infos, dones)
            if normalizer is not None:
                check_unnormalized(normalizer, n_steps + 1)
            self.num_timesteps += self.all_envs
            callback.update_locals(locals())
            continue_training = callback.on_step()
            if any(infos):
                self._update_info_buffer(valid_infos(infos), dones)  # type: ignore[arg-type]
            # Before a callback can stop the rollout, so that the next one continues from here.
            self._last_obs, self._last_episode_starts, self.memory_state = new_obs, dones, state
            is_stopped |= not continue_training
            # Ranks agree on an end only after the first and last step, as this takes time.
            if (self.ranks.size == 1 or n_steps in (0, n_rollout_steps - 1)) and self.ranks.any(is_stopped):
                self._share_episodes()
                return False
            if dones.any():
                rewards = rewards + truncation_bonus(self.policy, rollout, infos, dones, state, self.gamma)
            rollout.rewards[n_steps], rollout.ends[n_steps] = rewards, dones
        rollout.pos = n_rollout_steps

        with torch.no_grad():
            obs_tensor = rollout.tensors(new_obs)
            last_values = self.policy.values(obs_tensor, state, torch.from_numpy(dones).to(self.device))
        self.ranks.agree(partial(check_rollout, rollout, obs_tensor, last_values, normalizer))
        compute_advantages(self.policy, rollout, last_values, self.gamma, self.gae_lambda, self.credit)
        values = last_values.unsqueeze(1)
        self._share_episodes()
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        if self.ranks.size == 1:
            super()._update_info_buffer(infos, dones)
        else:
            self._ended.add(self.rollout.pos, self.rollout.first_env, infos, dones)

    def _share_episodes(self) -> None:
        if self.ranks.size > 1:
            self._ended.share(self.ranks, self.ep_info_buffer, self.ep_success_buffer)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        if self.schedule_at == "start":  # else a schedule that ends at 0 wastes the last update
            num_timesteps -= self.n_steps * self.all_envs
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)

    @torch.enable_grad()  # environments may have switched gradients off
    def train(self) -> None:
        """Updates the policy with `n_epochs` passes over the rollout.

        Raises:
            NonFiniteError: a loss or a gradient is not finite; the weights are those before that update.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self.rollout.gather()
        self.policy.scale_returns(self.rollout.all_returns)
        self._networks = kernel_networks(self.policy)
        share_generator(self.ranks)
        metrics: list[dict[str, Tensor]] = []
        parameters, continue_training = list(self.policy.parameters()), True
        clip = torch.nn.utils.clip_grad_norm_ if self._networks is None else clip_gradients
        for epoch in range(self.n_epochs):
            first_of_epoch = len(metrics)
            if epoch > 0 and self.recompute_states:
                self.rollout.recompute_states(self.policy.advance)
            for batch in self.rollout.minibatches(self._minibatch_size()):
                loss, measured = self._loss(batch)
                metrics.append(measured)
                if self.target_kl is not None:
                    divergence = self.ranks.total(measured["approx_kl"].clone())
                    if divergence > 1.5 * self.target_kl:
                        continue_training = False
                        if self.verbose >= 1:
                            print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                        break
                for parameter in parameters:  # faster than `optimizer.zero_grad`
                    parameter.grad = None
                loss.backward()
                loss = sum_gradients(self.ranks, parameters, loss.detach())
                norm = clip(parameters, self.max_grad_norm)
                if not math.isfinite(norm + loss):  # the only host-device synchronisation of an update
                    raise shared_update_error(self.policy, batch, measured, self.rollout)
                self.policy.optimizer.step()
            self._n_updates += 1
            if not continue_training:
                break
        record_training(self, metrics, first_of_epoch)

    def _loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        options: Any = {
            "clip_range": self.current(self.clip_range),
            "clip_range_vf": None if self.clip_range_vf is None else self.current(self.clip_range_vf),
            **{name: getattr(self, name) for name in ("ent_coef", "vf_coef", "normalize_advantage")},
        }
        loss, measured = minibatch_loss(self.policy, self._networks, batch, **options)
        if self.ranks.size == 1:
            return loss, measured
        return loss * batch.share, {name: value * batch.share for name, value in measured.items()}

    def current(self, schedule: float | Schedule) -> float:
        """Returns the current value of a schedule, which a callback may have replaced by a number."""
        return schedule(self._current_progress_remaining) if callable(schedule) else schedule

    def dump_logs(self, iteration: int = 0) -> None:
        """See `OnPolicyAlgorithm.dump_logs`; iterations are counted over all calls of `learn`."""
        super().dump_logs(iteration and self.num_timesteps // (self.n_steps * self.all_envs))

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MemoryPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """See `stable_baselines3.PPO.learn`.

        Raises:
            InputError: the model has no environment, or `total_timesteps` is not a number.
        """
        check_learning(total_timesteps, self.env)
        assert self.env is not None
        if not reset_num_timesteps:
            self._warn_of_decay(total_timesteps)
        share_training(self.ranks, self.env, self.policy, self._vec_normalize_env)
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout", "memory_state", "ranks", "_ended", "_networks"]

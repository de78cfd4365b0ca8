"""The rollout block: advantages against the definition, chunks against hand-made indices."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ntm_rl.agents.ppo.rollout import Rollout
from ntm_rl.errors import InputError


def make_rollout(n_steps: int, n_envs: int, length: int, observation_space: spaces.Space | None = None) -> Rollout:
    return Rollout(
        observation_space or spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Discrete(3),
        n_steps=n_steps,
        n_envs=n_envs,
        sequence_length=length,
        state_size=4,
        device=torch.device("cpu"),
    )


def test_advantages_equal_the_sum_of_discounted_errors_up_to_the_episodes_end():
    rng = np.random.default_rng(0)
    steps, envs, gamma, decay = 7, 3, 0.9, 0.8
    rollout = make_rollout(steps, envs, 7)
    rewards, values = rng.normal(size=(steps, envs)), rng.normal(size=(steps + 1, envs))
    ends = rng.random((steps, envs)) < 0.3
    rollout.rewards[:], rollout.ends[:] = rewards, ends
    rollout.values[:] = torch.as_tensor(values[:-1])
    rollout.compute_advantages(torch.as_tensor(values[-1], dtype=torch.float32), gamma, decay)

    expected = np.zeros((steps, envs))
    for env in range(envs):
        for start in range(steps):
            for step in range(start, steps):
                following = 0.0 if ends[step, env] else values[step + 1, env]
                error = rewards[step, env] + gamma * following - values[step, env]
                expected[start, env] += (gamma * decay) ** (step - start) * error
                if ends[step, env]:
                    break
    np.testing.assert_allclose(rollout.advantages.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rollout.returns.numpy(), expected + values[:-1], rtol=1e-5, atol=1e-6)


def test_minibatches_hold_every_transition_once_in_time_order_with_its_chunks_state():
    steps, envs, length = 12, 3, 4
    rollout = make_rollout(steps, envs, length)
    for step in range(steps):
        marks = np.array([[step, env] for env in range(envs)], dtype=np.float32)
        rollout.store_observation(step, marks)
        rollout.store_resets(step, np.array([step == 5, False, False]))
        rollout.store_state(step, torch.tensor([[step, env, 0.0, 0.0] for env in range(envs)]))
    seen = []
    for batch in rollout.minibatches(batch_size=2 * length):
        observations = batch.observations.view(length, -1, 2)
        for chunk in range(observations.shape[1]):
            start, env = observations[0, chunk].int().tolist()
            assert start % length == 0
            assert observations[:, chunk, 0].tolist() == list(range(start, start + length))
            assert observations[:, chunk, 1].tolist() == [env] * length
            assert batch.states[chunk].tolist() == [start, env, 0, 0]
            assert batch.resets[:, chunk].tolist() == [step == 5 and env == 0 for step in range(start, start + length)]
            seen.append((start, env))
    assert sorted(seen) == [(start, env) for start in (0, 4, 8) for env in range(envs)]


def test_a_shorter_last_chunk_comes_in_minibatches_of_its_own():
    rollout = make_rollout(7, 3, 3)
    for step in range(7):
        marks = np.array([[step, env] for env in range(3)], dtype=np.float32)
        rollout.store_observation(step, marks)
        rollout.store_state(step, torch.tensor([[step, env, 0.0, 0.0] for env in range(3)]))
    batches = list(rollout.minibatches(batch_size=6))
    assert [batch.resets.shape for batch in batches] == [(3, 2)] * 3 + [(1, 3)]
    assert rollout.minibatch_sizes(6) == [6, 6, 6, 3]
    seen = []
    for batch in batches:
        length = len(batch.resets)
        for chunk, (observations, state) in enumerate(
            zip(batch.observations.view(length, -1, 2).unbind(1), batch.states, strict=True)
        ):
            start, env = state[:2].int().tolist()
            assert observations.tolist() == [[step, env] for step in range(start, start + length)]
            assert batch.indices[chunk] == start // 3 * 3 + env
            seen.append((start, env))
    assert sorted(seen) == [(start, env) for start in (0, 3, 6) for env in range(3)]


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float16, np.float64])
def test_numbers_of_other_types_are_kept_as_the_float32_that_policies_read(kind):
    values = np.array([[1, 50_000]], kind)
    rollout = make_rollout(2, 1, 2, spaces.Box(0, 50_000, (2,), kind))
    row = rollout.store_observation(0, values)
    assert row.dtype == torch.float32 and row.tolist() == values.tolist()


def test_floats_for_a_space_of_integers_are_kept_from_the_first_on():
    rollout = make_rollout(3, 1, 3, spaces.Dict(ram=spaces.Box(0, 255, (2,), np.uint8), card=spaces.Discrete(4)))
    rollout.store_observation(0, {"ram": np.array([[3, 7]], np.uint8), "card": np.array([2])})
    assert rollout.observations["ram"].dtype == torch.uint8
    rollout.store_observation(1, {"ram": np.array([[0.25, -1.5]], np.float32), "card": np.array([3])})
    assert rollout.observations["ram"][:2, 0].tolist() == [[3, 7], [0.25, -1.5]]
    assert rollout.observations["card"][:2, 0].tolist() == [2, 3] and rollout.observations["card"].dtype == torch.int64
    assert rollout.tensors({"ram": np.array([[0.5, 1]]), "card": np.array([1])})["ram"].tolist() == [[0.5, 1]]


def test_reversed_and_strided_arrays_are_stored_as_they_read():
    rollout = make_rollout(2, 2, 2)
    array = np.arange(8, dtype=np.float32).reshape(2, 4)[::-1, ::2]
    assert rollout.store_observation(0, array).tolist() == [[4, 6], [0, 2]]


def test_dict_observations_stay_dicts_and_keep_their_dtype():
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 4, 4), np.uint8), "suit": spaces.Discrete(4)})
    rollout = make_rollout(4, 2, 2, space)
    rollout.store_observation(1, {"image": np.full((2, 1, 4, 4), 7, np.uint8), "suit": np.array([1, 3])})
    batch = next(rollout.minibatches(8))
    assert batch.observations["image"].dtype == torch.uint8
    assert batch.observations["image"].shape == (8, 1, 4, 4)
    assert sorted(batch.observations["suit"].tolist()) == [0, 0, 0, 0, 0, 0, 1, 3]


def test_a_tuple_space_is_refused_with_what_would_be_valid():
    with pytest.raises(InputError, match=r"Tuple.*valid are Box, Discrete"):
        make_rollout(2, 1, 2, spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))))


@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (2, 3)])
def test_observations_of_another_size_are_refused_and_not_spread(shape):
    rollout = Rollout(
        spaces.Box(-1, 1, (2,)), spaces.Discrete(2), n_steps=2, n_envs=2, sequence_length=2, state_size=1, device="cpu"
    )
    with pytest.raises(InputError, match=r"observations have shape .*, but \(2,\) each in the observation space"):
        rollout.store_observation(0, np.zeros(shape, np.float32))

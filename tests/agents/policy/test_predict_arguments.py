"""States and episode starts of `predict`, with the shapes and types that users pass."""

import numpy as np
import pytest

from ntm_rl.errors import InputError
from small_models import lstm_model


@pytest.mark.parametrize("start", [True, np.True_, [True], (1,), np.ones(1), np.ones((1, 1), np.uint8), 1])
def test_an_episode_start_may_be_a_bool_of_any_type(start):
    model = lstm_model()
    observation = np.ones(4, np.float32)
    first, state = model.predict(observation, deterministic=True)
    _, later = model.predict(observation, state, deterministic=True)
    again, restarted = model.predict(observation, later, episode_start=start, deterministic=True)
    assert first.shape == again.shape == ()
    np.testing.assert_array_equal(restarted[0], state[0])
    assert not np.array_equal(later[0], state[0])


@pytest.mark.parametrize("start", [False, None, [False], 0.0])
def test_an_episode_continues_without_an_episode_start(start):
    model = lstm_model()
    _, state = model.predict(np.ones(4, np.float32))
    expected = model.predict(np.ones(4, np.float32), state, episode_start=np.zeros(1, dtype=bool))[1]
    found = model.predict([1.0, 1.0, 1.0, 1.0], list(state), episode_start=start)[1]
    np.testing.assert_array_equal(expected[0], found[0])


def test_one_bool_applies_to_the_whole_batch_and_a_list_to_each_observation():
    model = lstm_model()
    batch = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    actions, state = model.predict(batch)
    assert actions.shape == (3,) and state[0].shape == (1, 3, model.policy.core.state_size)
    _, later = model.predict(batch, state)
    np.testing.assert_allclose(model.predict(batch, later, episode_start=True)[1][0], state[0], atol=1e-6)
    mixed = model.predict(batch, state, episode_start=[True, False, False])[1][0]
    np.testing.assert_allclose(mixed[:, 0], state[0][:, 0], atol=1e-6)
    np.testing.assert_allclose(mixed[:, 1:], later[0][:, 1:], atol=1e-6)


def test_states_and_starts_of_another_number_of_observations_are_refused():
    model = lstm_model()
    batch = np.zeros((3, 4), np.float32)
    _, state = model.predict(batch[:2])
    with pytest.raises(
        InputError, match=r"state of shapes \[1, 2, \d+\] and .*: must be two of \[1, 3, \d+\] for 3 observation"
    ):
        model.predict(batch, state)
    with pytest.raises(InputError, match="episode_start of 2 values: must be one bool, or one for each of 3"):
        model.predict(batch, episode_start=[True, False])

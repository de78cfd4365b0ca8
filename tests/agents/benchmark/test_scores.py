"""Scores on constructed numbers."""

import sys

import numpy as np
import pytest

from ntm_rl.agents.benchmark.scores import (
    Curve,
    epoch_returns,
    interquartile_means,
    mean_intervals,
    mmer,
    probability_of_improvement,
    read_curve,
    read_speed,
    read_success_rate,
)
from ntm_rl.agents.tracking.csv_log import write_table
from ntm_rl.errors import InputError


def test_mmer_is_the_best_epoch_and_not_the_best_rollout():
    steps = np.arange(1, 9) * 16_384.0  # four rollouts an epoch of 65,536
    returns = np.array([0.0, 1.0, 0.0, 0.0, 0.4, 0.5, 0.5, 0.6])
    np.testing.assert_allclose(epoch_returns(Curve(steps, returns)), [0.25, 0.5])
    assert mmer(Curve(steps, returns)) == pytest.approx(0.5)
    assert mmer(Curve(steps, -returns)) == pytest.approx(-0.25)


def test_epochs_are_equal_parts_of_the_training():
    steps = np.arange(1, 101) * 10_000.0  # 15.3 of POPGym's epochs
    assert len(epoch_returns(Curve(steps, steps))) == 15
    np.testing.assert_allclose(np.diff(epoch_returns(Curve(steps, steps))), 1e6 / 15, atol=10_000)


def test_a_short_training_is_one_epoch_and_epochs_without_episodes_are_skipped():
    assert epoch_returns(Curve(np.array([512.0, 1024.0]), np.array([0.0, 1.0]))).tolist() == [0.5]
    late = Curve(np.array([150_000.0, 196_608.0]), np.array([0.2, 0.4]))  # of three epochs the last alone
    np.testing.assert_allclose(epoch_returns(late), [0.3])


def test_curves_and_speeds_are_read_from_the_log_of_a_run(tmp_path):
    columns = ["rollout/ep_rew_mean", "time/fps", "time/total_timesteps"]
    values = [("", "100", "64"), ("0.5", "300", "128"), ("0.75", "200", "192")]
    write_table(tmp_path / "progress.csv", columns, [dict(zip(columns, row, strict=True)) for row in values])
    curve = read_curve(tmp_path)
    assert curve.steps.tolist() == [128, 192] and curve.returns.tolist() == [0.5, 0.75]
    assert read_speed(tmp_path) == 200


def test_a_training_in_which_no_episode_ended_has_no_score(tmp_path):
    with pytest.raises(InputError, match="no episode ended in this training; raise timesteps"):
        read_curve(tmp_path)


def test_interquartile_means_drop_a_quarter_at_either_end():
    scores = {"a": [[0.0, 1.0], [2.0, 3.0]], "b": [[-1.0, 0.5, 0.6, 9.0]]}
    means = interquartile_means(scores)
    assert means["a"].estimate == pytest.approx((1 + 2) / 2)
    assert means["b"].estimate == pytest.approx((0.5 + 0.6) / 2)


def test_intervals_resample_the_seeds_of_each_task():
    means = interquartile_means({"sure": [[0.3], [0.3]], "one seed": [[0.1, 0.5]], "unsure": [[0.0], [1.0]]})
    assert means["sure"] == pytest.approx((0.3, 0.3, 0.3))
    assert means["one seed"] == pytest.approx((0.3, 0.3, 0.3))  # nothing to resample
    assert means["unsure"] == pytest.approx((0.5, 0.0, 1.0))  # two equal draws of two come up in one of four
    # Within tasks only: no resample mixes a bad task's seeds with a good one's.
    assert interquartile_means({"strata": [[0.0, 1.0], [0.0, 1.0]]})["strata"] == pytest.approx((0.5, 0.5, 0.5))


def test_a_seed_makes_intervals_reproducible():
    scores = {"a": np.random.default_rng(0).random((3, 5)).tolist()}
    assert interquartile_means(scores) == interquartile_means(scores)


def test_statistics_are_those_of_rliable():
    from rliable import metrics

    rng = np.random.default_rng(0)
    for seeds, tasks in ((1, 3), (3, 7), (4, 2)):
        scores, others = rng.integers(0, 4, (seeds, tasks)) / 4, rng.integers(0, 4, (2, tasks)) / 4
        assert interquartile_means({"a": scores})["a"].estimate == pytest.approx(metrics.aggregate_iqm(scores))
        found = probability_of_improvement(scores, others)
        assert found.estimate == pytest.approx(metrics.probability_of_improvement(scores, others))
        assert 0 <= found.low <= found.high <= 1


def test_the_interval_of_an_improvement_is_a_bootstrap_over_seeds():
    rng, reps = np.random.default_rng(1), 4000
    scores, others = rng.random((4, 3)), rng.random((5, 3)) + 0.1
    drawn = np.zeros(reps)
    for rep in range(reps):
        first = np.stack([rng.choice(column, 4) for column in scores.T], axis=1)
        second = np.stack([rng.choice(column, 5) for column in others.T], axis=1)
        drawn[rep] = (first[:, None] > second).mean() + (first[:, None] == second).mean() / 2
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = probability_of_improvement(scores, others)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))


def test_means_of_groups_have_intervals_over_their_values():
    groups = {"three": [0.0, 0.5, 1.0], "one": [0.5], "two": [1.0, 2.0], "equal": [0.25] * 3}
    means = mean_intervals(groups)
    assert [*means] == ["three", "two", "equal"]
    assert means["three"] == pytest.approx((0.5, 0.0, 1.0))
    assert means["two"] == pytest.approx((1.5, 1.0, 2.0))
    assert means["equal"] == pytest.approx((0.25, 0.25, 0.25))


def test_the_success_rate_is_that_of_the_last_epoch(tmp_path):
    columns = ["rollout/ep_rew_mean", "rollout/success_rate", "time/total_timesteps"]
    values = [("0.5", "0.25", "65536"), ("0.5", "0.5", "98304"), ("0.5", "1.0", "131072")]
    write_table(tmp_path / "progress.csv", columns, [dict(zip(columns, row, strict=True)) for row in values])
    assert read_success_rate(tmp_path) == pytest.approx(0.75)
    write_table(tmp_path / "progress.csv", columns[:1], [{columns[0]: "0.5"}])
    assert read_success_rate(tmp_path) is None


def test_without_rliable_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rliable", None)
    monkeypatch.delitem(sys.modules, "rliable.library", raising=False)
    with pytest.raises(InputError, match=r'run: pip install "ntm-rl\[stats\]"'):
        interquartile_means({"a": [[0.0]]})

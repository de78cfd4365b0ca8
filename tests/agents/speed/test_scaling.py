"""The scaling benchmark and its cost model."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from command_line import run
from ntm_rl.agents.speed.cost_model import Costs, Line, Sizes, predict
from sessions import kill_session, session, start
from small_trainings import TINY_LSTM
from waiting import wait_until

SIZES = Sizes(n_envs=8, n_steps=10, n_epochs=2, minibatches=4, sequences=2, gradient_bytes=1000, small_exchanges=3)
COSTS = Costs(rollout_step=Line(0.1, 0.01), update=Line(0.2, 0.3), latency=0.05, seconds_per_byte=1e-4)


def test_a_line_is_fitted_with_coefficients_that_are_not_negative():
    line = Line.fit([1, 2, 4], [5.0, 7.0, 11.0])
    assert (line.constant, line.slope) == pytest.approx((3, 2))
    assert Line.fit([1, 2], [3.0, 1.0]) == Line(2.0, 0.0)
    assert Line.fit([1, 2], [1.0, 3.0]) == Line(0.0, pytest.approx(7 / 5))


def test_the_seconds_of_a_rollout_are_those_of_a_calculation_by_hand():
    alone, two = predict(SIZES, COSTS, 1), predict(SIZES, COSTS, 2)
    assert (alone.rollout, alone.update, alone.exchange) == pytest.approx((10 * 0.18, 8 * 0.8, 0))
    # Two messages of 500 bytes for each of 8 minibatches, and two for each of 3 small exchanges.
    exchange = 8 * 2 * (0.05 + 0.05) + 3 * 2 * 0.05
    assert (two.rollout, two.update, two.exchange) == pytest.approx((10 * 0.14, 8 * 0.5, exchange))
    assert two.steps_per_second == pytest.approx(80 / (1.4 + 4 + exchange))


def test_a_grown_training_costs_each_rank_as_much_as_before():
    alone, grown = predict(SIZES, COSTS, 1), predict(SIZES.times(64), COSTS, 64)
    assert (grown.rollout, grown.update) == pytest.approx((alone.rollout, alone.update))


def test_the_link_explains_the_times_of_all_reduces():
    times = [(size, COSTS.all_reduce(size, 4)) for size in (1000, 50_000)]
    found = Costs(COSTS.rollout_step, COSTS.update).of_link(4, times)
    assert (found.latency, found.seconds_per_byte) == pytest.approx((COSTS.latency, COSTS.seconds_per_byte))


SMALL = ("n_envs=8", "ppo.n_steps=16", "ppo.sequence_length=16", "ppo.batch_size=64", "ppo.n_epochs=1")


def test_two_processes_are_measured_beside_one():
    command = ["benchmark", "scaling", "popgym-RepeatPreviousEasy-v0", *TINY_LSTM, *SMALL, "--json"]
    done = subprocess.run([sys.executable, "-m", "ntm_rl.agents", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["sizes"]["minibatches"] == 2 and result["sizes"]["sequences"] == 4
    assert [each["ranks"] for each in result["divided"]] == [1, 2, 8]
    assert [each["ranks"] for each in result["grown"]] == [1, 2, 8, 64, 512]
    assert all(result[name][part] > 0 for name in ("alone", "together") for part in ("rollout", "update"))
    # The single process is what the model is fitted to.
    alone = 128 / (result["alone"]["rollout"] + result["alone"]["update"])
    assert result["divided"][0]["steps_per_second"] == pytest.approx(alone, rel=0.5)


def has_loaded_torch(pid: int) -> bool:
    """Whether a process has begun to import torch; a signal while Python itself starts gives Python's own message."""
    with suppress(OSError):
        return "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()
    return False


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_signal_ends_all_processes_at_once(tmp_path, is_terminal):
    process = start("benchmark", "scaling", "CartPole-v1", "processes=2", *TINY_LSTM, log=tmp_path / "log")
    try:
        wait_until(lambda: sum(map(has_loaded_torch, session(process.pid))) >= 4)  # command, ranks, and one alone
        if is_terminal:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        assert process.wait(15) == 128 + (signal.SIGINT if is_terminal else signal.SIGTERM)
        wait_until(lambda: not list(session(process.pid)), 5)
        assert "Traceback" not in (log := (tmp_path / "log").read_text()) and "leaked" not in log
    finally:
        kill_session(process)


def test_wrong_input_is_one_line(capsys):
    code, out, error = run(capsys, "benchmark", "scaling", "algorithmic/copy")
    assert (code, out) == (2, "")
    assert error.splitlines()[-1] == "algorithmic/copy: must be a PPO training"
    code, _, error = run(capsys, "benchmark", "scaling", "CartPole-v1", "processes=1")
    assert code == 2
    assert "processes = 1: must be at least 2" in error.splitlines()[-1]

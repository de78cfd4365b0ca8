"""Figures of runs: learning curves, answers, and the use of a memory, for every core."""

import json

import numpy as np
import pytest
import torch

from episodes import memory_of
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection.episode import answer
from ntm_rl.agents.inspection.figures import MAX_ROWS, inspect, learning_curve, memory_use
from ntm_rl.agents.inspection.plotting import curve_marker
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.storage import files
from ntm_rl.envs.algorithmic.registry import make_task
from ntm_rl.errors import InputError
from small_trainings import TINY_COPY, TINY_PPO, train_copy, train_run

OPTIONS = {"ntm": {"read_heads": 2}, "dnc": {}, "sam": {"slots": 300}, "mann": {"heads": 2}}


@pytest.mark.parametrize("core", OPTIONS)
def test_a_sequence_has_each_heads_weighting_and_vector_at_every_step(core):
    torch.manual_seed(0)
    network = SequenceNetwork(core, 5, 3, width=4, hidden_size=5, **OPTIONS[core])
    batch = make_task("copy", bits=3, max_length=3).sample(1, np.random.default_rng(0))
    inputs = torch.from_numpy(np.pad(batch.inputs, [(0, 0), (0, 0), (0, 5 - batch.inputs.shape[2])]))
    answered = answer(network, batch._replace(inputs=inputs.numpy()))
    with torch.no_grad():
        outputs, state = network.core(inputs, network.core.initial_state(1))
        expected = torch.sigmoid(network.output(outputs))[:, 0]
    np.testing.assert_allclose(answered.answers, expected, atol=1e-6)
    heads = answered.memory.heads
    for name, weighting in network.core.weightings(state).items():
        assert heads[name].weighting.shape == (len(inputs), network.core.slots)
        # Sorted, as a step and a sequence of SAM may choose different ones of slots with equal contents.
        np.testing.assert_allclose(np.sort(heads[name].weighting[-1]), np.sort(weighting[0]), atol=1e-6)
    for number, read in enumerate(network.core.unpack(state).reads[0], start=1):
        np.testing.assert_allclose(heads[f"read {number}"].vectors[-1], read, atol=1e-5)


def test_the_figure_has_a_row_for_each_head():
    memory = memory_of("sam", 5, slots=1000, heads=2, width=4, hidden_size=5)
    figure = memory_use(memory, {"inputs": np.zeros((5, 2), np.float32), "answers": np.zeros((5, 3), np.float32)})
    heads = [f"{kind} {number}" for kind in ("read", "write") for number in (1, 2)]
    names = ["inputs", "answers", *(f"{head}: {picture}" for head in heads for picture in ("vector", "weighting"))]
    assert [axes.get_ylabel() for axes in figure.axes] == names
    assert figure.axes[-1].images[0].get_array().shape[0] <= MAX_ROWS


@pytest.mark.parametrize("core", ["ntm", "lstm"])
def test_the_memory_of_an_episode_of_a_ppo_run_is_drawn(core, tmp_path, capsys):
    small = (f"core={core}", f"memory.{core}.hidden_size=8", "total_timesteps=256")
    run = train_run("popgym/repeat_previous_easy", tmp_path, *TINY_PPO, *small)
    capsys.readouterr()
    assert sorted(inspect(run)) == ["learning_curve", *(["memory_use"] if core == "ntm" else [])]
    assert ("note: core 'lstm' has no weightings: memory_use is not drawn" in capsys.readouterr().err) == (
        core == "lstm"
    )


@pytest.mark.parametrize("core", [*OPTIONS, "lstm"])
def test_the_command_line_draws_the_memory_of_every_core_that_has_heads(core, tmp_path, capsys):
    arguments = [*TINY_COPY, f"core={core}", f"memory.{core}.hidden_size=8", f"run_dir={tmp_path}", "--json"]
    assert main(["train", "algorithmic/copy", *arguments]) == 0
    printed = capsys.readouterr()
    run = json.loads(printed.out)["run"]
    assert ("note: optimizer.weighting_entropy: core 'lstm' has no weightings" in printed.err) == (core == "lstm")
    assert main(["inspect", run, "--json"]) == 0
    printed = capsys.readouterr()
    paths = json.loads(printed.out)
    assert sorted(paths) == ["answers", "learning_curve", *([] if core == "lstm" else ["memory_use"])]
    assert ("note: core 'lstm' has no weightings: memory_use is not drawn" in printed.err) == (core == "lstm")
    for file in paths.values():
        with open(file, "rb") as picture:
            assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_folder_that_cannot_be_written_is_an_error_before_an_episode_is_played(tmp_path, capsys, monkeypatch):
    run = train_copy(tmp_path)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    capsys.readouterr()
    monkeypatch.setattr(files, "open", denied, raising=False)
    assert main(["inspect", str(run.path)]) == 3
    assert capsys.readouterr().err == f"{run.path}/figures/learning_curve.png: cannot be written: Permission denied\n"


def test_a_curve_of_a_single_point_is_shown_as_a_dot():
    assert (curve_marker([4096.0]), curve_marker(np.full(3, 4096.0)), curve_marker([1.0, 2.0])) == (".", ".", "")


def test_a_learning_curve_names_what_tells_runs_apart(tmp_path):
    lstm = ("core=lstm", "memory.lstm.hidden_size=6")
    ntm, other_seed, other_core = (train_copy(tmp_path, *overrides) for overrides in ((), ("seed=1",), lstm))

    def labels(*runs):
        return [line.get_label() for line in learning_curve(runs).axes[0].lines]

    assert labels(ntm) == [ntm.path.name]
    assert labels(ntm, other_seed) == ["seed 0", "seed 1", "median"]
    assert labels(ntm, other_core) == ["ntm", "lstm"]
    assert labels(ntm, other_seed, other_core) == ["ntm, seed 0", "ntm, seed 1", "lstm, seed 0"]
    assert labels(ntm, ntm)[:2] == [ntm.path.name] * 2


def test_figures_need_a_memory_and_a_log(tmp_path):
    run = train_copy(tmp_path, "core=lstm", "memory.lstm.hidden_size=6")
    assert sorted(inspect(run)) == ["answers", "learning_curve"]
    table = run.path / "progress.csv"
    table.write_text("sequences\n")
    with pytest.raises(InputError, match=r"progress.csv has no validation/bits_per_sequence yet"):
        inspect(run)
    table.unlink()
    with pytest.raises(InputError, match=r"no progress.csv, .* which `ntm-rl pull` does not download"):
        inspect(run)

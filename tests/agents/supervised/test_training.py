import json
import math

import numpy as np
import pytest
import torch

from ntm_rl.agents import training
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection import figures as inspection
from ntm_rl.agents.inspection.evaluation import evaluate, evaluate_supervised
from ntm_rl.agents.policy.files import load_agent
from ntm_rl.agents.policy.network_files import load_network, save_network
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.ppo.making import make_model
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.ppo.warm_start import warm_start
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import check_settings, load_settings
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors, write_tensors
from ntm_rl.agents.supervised.scores import score
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.agents.training import resume, train
from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.algorithmic import curriculum as curriculum_module
from ntm_rl.envs.algorithmic.registry import make_task
from ntm_rl.errors import InputError

SMALL = [
    *("memory.ntm.slots=8", "memory.ntm.width=4", "memory.ntm.hidden_size=12", "task.copy.max_length=3"),
    *("task.copy.bits=2", "total_sequences=60", "validation.every=20", "validation.sequences=8", "log_every=20"),
    *("validation.longer=[{length: 5}]", "checkpoint.every=20", "wandb=disabled"),
]


def small(tmp_path, *more):
    return load_settings("algorithmic/copy", [*SMALL, f"run_dir={tmp_path}", *more])


def train_small(tmp_path, *more):
    return train(small(tmp_path, *more), "algorithmic/copy", show_progress=False)


def test_the_cost_is_the_cross_entropy_in_bits_of_the_masked_steps():
    task, network = make_task("copy", bits=3, max_length=4), SequenceNetwork("lstm", 4, 3, hidden_size=5)
    batch = task.sample(6, np.random.default_rng(0))
    result = score(network, batch, task)
    logits = network(torch.from_numpy(batch.inputs)).detach().numpy()
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    total, wrong, asked = 0.0, 0, 0
    for step, sequence, bit in np.ndindex(*batch.targets.shape):
        if batch.mask[step, sequence]:
            target = batch.targets[step, sequence, bit]
            total -= math.log2(probability[step, sequence, bit] if target else 1 - probability[step, sequence, bit])
            wrong += (probability[step, sequence, bit] > 0.5) != bool(target)
            asked += 1
    assert result.bits == pytest.approx(total / 6, rel=1e-5)
    assert result.wrong == pytest.approx(wrong / asked)
    assert result.floor == 0


def test_a_training_learns_and_leaves_a_whole_run(tmp_path):
    result = train_small(
        tmp_path,
        "total_sequences=1500",
        "validation.every=100",
        "validation.sequences=300",
        "log_every=100",
        "optimizer.name=adam",
        "optimizer.learning_rate=0.01",
        "batch_size=5",
        "optimizer.averaging=0.9",
        "biased_fraction=0",  # so few sequences are for what is validated
    )
    columns, rows = read_table(result.run / "progress.csv")
    costs = [float(row["validation/bits_per_sequence"]) for row in rows]
    assert len(rows) == 15
    assert costs[-1] < 0.6 * costs[0]
    assert result.score == costs[-1]
    assert "validation/length=5/bits_per_sequence" in columns
    assert {path.name for path in result.run.iterdir()} >= {
        "agent",
        "best",
        "checkpoints",
        "config.yaml",
        "tensorboard",
    }
    network, card = load_network(result.run / "best")
    assert card["extra"]["bits"] == min(costs)
    assert network.core.slots == 8


def test_two_halves_with_a_resume_between_are_one_training(tmp_path):
    through = train_small(tmp_path / "a", "seed=3", "total_sequences=80", "optimizer.learning_rate_schedule=constant")
    half = train_small(tmp_path / "b", "seed=3", "total_sequences=40", "optimizer.learning_rate_schedule=constant")
    run = Run.open(half.run)
    settings = load_settings(str(run.config_file), ["total_sequences=80"])
    whole = resume(run, settings, show_progress=False)
    ours, theirs = (load_network(each.run / "agent")[0].state_dict() for each in (whole, through))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [read_table(each.run / "progress.csv")[1] for each in (whole, through)]
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in each] for each in rows]
    assert timeless[0] == timeless[1]


def test_biased_bits_are_for_training_alone(tmp_path, monkeypatch):
    trainer = SupervisedTrainer(small(tmp_path, "task.copy.bits=8", "batch_size=200", "biased_fraction=0.5"))
    seen = {}

    def note(name, task):
        sample = task.sample

        def noting(batch, *rest):
            seen[name] = sample(batch, *rest)
            return seen[name]

        monkeypatch.setattr(task, "sample", noting)

    note("training", trainer._training_task)
    note("validation", trainer.task)
    trainer.update()
    trainer.validate({"length": 20})
    trainer._training_task.sample(200, np.random.default_rng(0), {"length": 20})

    def extreme(batch):
        """Share of sequences with hardly any bits, or nearly all."""
        share = batch.targets[batch.mask.any(axis=1)].mean(axis=(0, 2))
        return ((share < 0.25) | (share > 0.75)).mean()

    assert 0.15 < extreme(seen["training"]) < 0.35  # half of half of them
    assert extreme(seen["validation"]) == 0


@pytest.mark.parametrize("core", ["ntm", "dnc", "sam", "mann"])
def test_the_entropy_of_weightings_is_the_mean_after_the_given_steps_and_the_last(core):
    torch.manual_seed(0)
    network = SequenceNetwork(core, 4, 3, slots=6, width=3, hidden_size=5)
    inputs = torch.randn(7, 2, 4)
    logits, found = network.with_entropy(inputs, [2, 3])
    torch.testing.assert_close(logits, network(inputs))
    state, expected = network.core.initial_state(2), []
    for step in range(7):
        _, state = network.core(inputs[step : step + 1], state)
        if step + 1 in (2, 3, 7):
            for weighting in network.core.weightings(state).values():
                weights = weighting.detach().double().numpy()
                expected.append(-(weights * np.log2(weights + (weights == 0))).sum(-1).mean())
    assert found.item() == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize("core", ["ntm", "dnc"])
def test_the_entropy_penalty_makes_weightings_sharper(core, tmp_path):
    inputs = torch.randn(9, 50, 3)
    plain, sharp = (trained(tmp_path, core, weight).with_entropy(inputs, [3, 6])[1].item() for weight in (0, 10))
    assert sharp < plain / 2


def test_the_entropy_penalty_does_nothing_to_a_core_without_weightings(tmp_path):
    plain, penalised = (trained(tmp_path, "lstm", weight).parameters() for weight in (0, 10))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain, penalised, strict=True))


def trained(tmp_path, core, weight):
    more = (f"core={core}", f"optimizer.weighting_entropy={weight}", "optimizer.learning_rate=1e-3")
    trainer = SupervisedTrainer(small(tmp_path, *more))
    for _ in range(60):
        trainer.update()
    return trainer.network


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    result = train_small(tmp_path)
    run = Run.open(result.run)
    settings = load_settings(
        str(run.config_file), ["task.name=reverse", "task.reverse.max_length=3", "task.reverse.bits=2"]
    )
    with pytest.raises(StorageError, match="a checkpoint of task 'copy'; the config's is 'reverse'"):
        SupervisedTrainer(settings).load(latest_checkpoint(run.checkpoints))
    with pytest.raises(InputError, match=r"task.name = 'reverse': the run's weights were made with the old value"):
        resume(run, settings, show_progress=False)
    with pytest.raises(InputError, match=r"task.copy.bits = 3: .*tensor 'core.weight_input' has shape"):
        resume(run, load_settings(str(run.config_file), ["task.copy.bits=3"]), show_progress=False)


def test_a_cost_that_is_not_finite_ends_the_training_in_one_line(tmp_path, monkeypatch):
    settings = small(tmp_path)
    trainer = SupervisedTrainer(settings)
    with torch.no_grad():
        trainer.network.output.weight.fill_(math.nan)
    monkeypatch.setattr(training, "SupervisedTrainer", lambda *_: trainer)
    with pytest.raises(InputError, match=r"after 0 sequences: the cost is not finite; lower optimizer.learning_rate"):
        train(settings, "algorithmic/copy", show_progress=False)


def test_a_gradient_that_overflows_is_left_out_and_twenty_in_a_row_end_the_training(tmp_path):
    trainer = SupervisedTrainer(small(tmp_path))
    trainer.update()
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    hook = trainer.network.output.weight.register_hook(lambda gradient: gradient * math.inf)
    trainer.update()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    hook.remove()
    trainer.update()
    assert not torch.equal(before[0], next(trainer.network.parameters()))
    trainer.network.output.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(InputError, match="the gradients of 20 batches in a row are not finite"):
        for _ in range(20):
            trainer.update()


def test_what_is_wrong_with_a_supervised_config_comes_in_one_line_each():
    def check(*overrides):
        return load_settings("algorithmic/copy", overrides)

    for override, message in {
        "task.copy.max_length=-1": r"task.copy.max_length = -1: must be an integer of at least 1",
        "task.name=copi": r"task.name = 'copi': must be .* Did you mean copy\?",
        "validation.longer=[{items: 3}]": r"validation.longer.items: unknown; a difficulty of this task has",
        "optimizer.name=adagrad": r"optimizer.name = 'adagrad': must be 'rmsprop', 'adam' or 'sgd'",
        "ppo.gamma=0.9": r"ppo = .*: unknown key",
        "task.copy.size=3": r"task.copy.size = 3: unknown key. Valid keys are bits, min_length, max_length",
    }.items():
        with pytest.raises(InputError, match=message):
            check(override)
    with pytest.raises(InputError, match=r"mine: task.name: missing"):
        check_settings({"task": {}}, "mine")


def test_evaluation_scores_each_difficulty_and_refuses_what_there_is_not(tmp_path):
    run = Run.open(train_small(tmp_path).run)
    scores = evaluate_supervised(run, 5).scores
    assert list(scores) == ["as in training", "length=5"]
    assert scores["length=5"].bits > 0
    assert list(evaluate_supervised(run, 5, [{"length": 2}], best=True).scores) == ["length=2"]
    with pytest.raises(InputError, match="items: unknown; a difficulty of this task has"):
        evaluate_supervised(run, 5, [{"items": 2}])
    with pytest.raises(InputError, match="episodes = 0: must be at least 1"):
        evaluate_supervised(run, 0)
    with pytest.raises(InputError, match="a supervised run plays no episodes"):
        evaluate(run)


def test_the_command_line_trains_evaluates_and_draws(tmp_path, capsys):
    assert main(["train", "algorithmic/copy", *SMALL, f"run_dir={tmp_path}", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert main(["evaluate", run, "--difficulty", "length=2", "--episodes", "4"]) == 0
    assert "length=2: " in capsys.readouterr().out
    assert main(["evaluate", run, "--difficulty", "length"]) == 2
    assert "must be like length=10,repeats=20" in capsys.readouterr().err
    assert main(["evaluate", run, "--difficulty", "length=2,length=3"]) == 2
    assert "length=2,length=3: a name occurs twice" in capsys.readouterr().err
    assert main(["resume", run, "total_sequences=80"]) == 0
    assert "Finished after 80 sequences" in capsys.readouterr().out
    assert main(["inspect", run, run, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)
    assert sorted(files) == ["answers", "learning_curve", "memory_use"]
    for file in files.values():
        with open(file, "rb") as picture:
            assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_learning_curve_names_what_tells_runs_apart(tmp_path):
    lstm = ("core=lstm", "memory.lstm.hidden_size=6")
    ntm, other_seed, other_core = (
        Run.open(train_small(tmp_path, *overrides).run) for overrides in ((), ("seed=1",), lstm)
    )

    def labels(*runs):
        return [line.get_label() for line in inspection.learning_curve(runs).axes[0].lines]

    assert labels(ntm) == [ntm.path.name]
    assert labels(ntm, other_seed) == ["seed 0", "seed 1", "median"]
    assert labels(ntm, other_core) == ["ntm", "lstm"]
    assert labels(ntm, other_seed, other_core) == ["ntm, seed 0", "ntm, seed 1", "lstm, seed 0"]
    assert labels(ntm, ntm)[:2] == [ntm.path.name] * 2


def test_pictures_need_a_memory_and_a_log(tmp_path):
    result = train_small(tmp_path, "core=lstm", "memory.lstm.hidden_size=6")
    assert sorted(inspection.inspect(Run.open(result.run))) == ["answers", "learning_curve"]
    (result.run / "progress.csv").unlink()
    with pytest.raises(InputError, match=r"progress.csv has no validation/bits_per_sequence yet"):
        inspection.inspect(Run.open(result.run))


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["arguments"].update(core="lst"),
        lambda card: card["arguments"].update(input_size=10**9),
        lambda card: card["arguments"].update(core_kwargs={"slots": 10**12}),
        lambda card: card.pop("arguments"),
        lambda card: card.update(kind="agent"),
        lambda card: card.update(format=1),
    ],
)
def test_a_hostile_card_is_one_clear_error(tmp_path, change):
    save_network(SequenceNetwork("ntm", 3, 2, slots=6, width=4, hidden_size=5), tmp_path, {})
    tensors, card = read_tensors(tmp_path / "weights.safetensors")
    change(card)
    write_tensors(tmp_path / "weights.safetensors", tensors, card)
    with pytest.raises(StorageError, match=r"weights\.safetensors: "):
        load_network(tmp_path)


def ppo_settings(tmp_path, *overrides):
    core = ("memory.ntm.slots=8", "memory.ntm.width=4", "memory.ntm.hidden_size=12", "memory.ntm.controller=lstm")
    kwargs = "env.kwargs={bits: 2, max_length: 3}"
    return load_settings(
        "algorithmic/copy_ppo", [*core, kwargs, "n_envs=16", "wandb=disabled", f"run_dir={tmp_path}", *overrides]
    )


def test_a_warm_started_policy_answers_as_the_supervised_network_does(tmp_path):
    run = Run.open(train_small(tmp_path).run)
    network, _ = load_network(run.agent)
    settings = ppo_settings(tmp_path)
    env = make_vec_env(EnvSettings("ntm_rl/Copy-v0", kwargs={"bits": 2, "max_length": 3}), 16, 0)
    policy = make_model(settings, env).policy
    warm_start(policy, run)
    inputs = torch.from_numpy(make_task("copy", bits=2).sample(4, np.random.default_rng(0)).inputs)
    state, resets = policy.initial_state(4), torch.ones(4, dtype=torch.bool)
    expected = (network(inputs) > 0).float()
    for step in range(len(inputs)):
        actions, _, _, state = policy.step(inputs[step], state, resets, deterministic=True)
        resets = torch.zeros(4, dtype=torch.bool)
        assert torch.equal(actions.float(), expected[step])


def test_a_training_begins_with_the_weights_of_init_from(tmp_path):
    supervised_run = train_small(tmp_path).run
    overrides = (f"policy.init_from={supervised_run}", "total_timesteps=1024", "ppo.learning_rate=1e-12")
    result = train(ppo_settings(tmp_path, *overrides), "algorithmic/copy_ppo", show_progress=False)
    again = train(
        ppo_settings(tmp_path, f"policy.init_from={result.run}", *overrides[1:]),
        "algorithmic/copy_ppo",
        show_progress=False,
    )
    network, _ = load_network(supervised_run / "agent")
    for run in (result.run, again.run):
        core = load_agent(run / "agent", "cpu").policy.core
        assert torch.allclose(core.weight_input, network.core.weight_input, atol=1e-6)


@pytest.mark.parametrize("task", ["associative_recall", "repeat_copy"])
def test_the_packaged_configs_of_a_task_have_the_same_memory(task):
    """A PPO config that says it can begin with a supervised run's network must fit it as it is."""
    supervised, ppo = (load_settings(f"algorithmic/{name}", []) for name in (task, f"{task}_ppo"))
    assert supervised.core == ppo.core
    assert supervised.core_kwargs == ppo.core_kwargs


def test_a_run_that_does_not_fit_is_refused(tmp_path):
    run = train_small(tmp_path).run
    with pytest.raises(InputError, match=r"tensor '.*' has shape .* was the config changed"):
        train(ppo_settings(tmp_path, f"policy.init_from={run}", "memory.ntm.width=5"), "x", show_progress=False)
    with pytest.raises(InputError, match="no such folder"):
        train(ppo_settings(tmp_path, "policy.init_from=nowhere"), "x", show_progress=False)


def test_the_level_of_a_curriculum_survives_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(curriculum_module, "ADVANCE_BELOW", 1.1)  # whoever plays advances
    trained = train(
        ppo_settings(tmp_path, "env.kwargs={bits: 1, max_length: 5, curriculum: lookahead}", "total_timesteps=1024"),
        "x",
        show_progress=False,
    )
    _, rows = read_table(trained.run / "progress.csv")
    assert float(rows[-1]["rollout/level"]) > 1
    document = read_tensors(latest_checkpoint(trained.run / "checkpoints"))[1]
    [saved] = document["environment"]["curricula"]
    assert saved["level"] == float(rows[-1]["rollout/level"])
    settings = Run.open(trained.run).settings()
    model = make_model(settings, make_vec_env(settings.env_settings, settings.n_envs, 9))
    load_checkpoint(latest_checkpoint(trained.run / "checkpoints"), model)
    [curriculum] = curricula(model.get_env())
    assert (curriculum.level, curriculum.errors) == (saved["level"], saved["errors"])

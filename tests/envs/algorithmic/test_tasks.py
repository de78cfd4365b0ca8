import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_rl.envs.algorithmic.curriculum import ADVANCE_BELOW, EPISODES, Curriculum
from ntm_rl.envs.algorithmic.dynamic_ngrams import optimal_bits
from ntm_rl.envs.algorithmic.registry import TASKS, make_task
from ntm_rl.errors import InputError


def generate(name, difficulty, seed=0, **options):
    task = make_task(name, **options)
    return task, task.generate(np.random.default_rng(seed), difficulty)


def test_copy_shows_vectors_then_a_delimiter_and_asks_for_them_again():
    _, (inputs, targets, mask) = generate("copy", {"length": 5})
    assert inputs.shape == (11, 9)
    assert targets.shape == (11, 8)
    assert inputs[5].tolist() == [0] * 8 + [1]
    assert not inputs[:5, 8].any()
    assert not inputs[6:].any()
    assert np.array_equal(targets[6:], inputs[:5, :8])
    assert mask.tolist() == [False] * 6 + [True] * 5
    assert 0 < inputs[:5].mean() < 1


def test_reverse_asks_for_the_last_vector_first():
    _, (inputs, targets, _) = generate("reverse", {"length": 4})
    assert [row.tolist() for row in targets[5:]] == [inputs[step, :8].tolist() for step in (3, 2, 1, 0)]


def test_sort_by_key_asks_for_ascending_binary_numbers():
    _, (inputs, targets, _) = generate("sort_by_key", {"length": 9})
    numbers = [int("".join(str(int(bit)) for bit in row), 2) for row in inputs[:9, :8]]
    answered = [int("".join(str(int(bit)) for bit in row), 2) for row in targets[10:]]
    assert answered == sorted(numbers)
    assert len(set(numbers)) > 5


def test_repeat_copy_asks_for_all_copies_and_then_the_end_marker():
    task, (inputs, targets, mask) = generate("repeat_copy", {"length": 3, "repeats": 4})
    assert inputs.shape == (3 + 1 + 12 + 1, 10)
    for step in range(12):
        assert targets[4 + step].tolist() == [*inputs[step % 3, :8], 0]
    assert targets[16].tolist() == [0] * 8 + [1]
    assert mask.tolist() == [False] * 4 + [True] * 13
    shown = [task.scale(repeats) for repeats in range(1, 11)]
    assert inputs[3, 8:].tolist() == pytest.approx([1, shown[3]])
    assert np.mean(shown) == pytest.approx(0)
    assert np.var(shown) == pytest.approx(1)


def test_associative_recall_asks_for_the_item_after_the_one_queried():
    for seed in range(20):
        _, (inputs, targets, mask) = generate("associative_recall", {"items": 4}, seed)
        assert inputs.shape == (24, 8)
        assert np.flatnonzero(inputs[:, 6]).tolist() == [0, 4, 8, 12]
        assert np.flatnonzero(inputs[:, 7]).tolist() == [16, 20]
        items = [inputs[4 * item + 1 : 4 * item + 4, :6].tolist() for item in range(4)]
        position = items.index(inputs[17:20, :6].tolist())
        assert position < 3
        assert targets[21:].tolist() == items[position + 1]
        assert mask.tolist() == [False] * 21 + [True] * 3


def test_priority_sort_asks_for_the_highest_priorities_in_order():
    _, (inputs, targets, mask) = generate("priority_sort", {"items": 20})
    assert inputs.shape == (37, 10)
    ranked = sorted(range(20), key=lambda item: -inputs[item, 8])[:16]
    assert [row.tolist() for row in targets[21:]] == [inputs[item, :8].tolist() for item in ranked]
    assert inputs[20].tolist() == [0] * 9 + [1]
    assert mask.sum() == 16
    assert -1 <= inputs[:20, 8].min() < 0 < inputs[:20, 8].max() <= 1


def test_addition_asks_for_the_sum():
    for seed in range(20):
        _, (inputs, targets, mask) = generate("addition", {"digits": 6}, seed)
        assert inputs.shape == (21, 4)
        first, second = (inputs[start : start + 6, 1] for start in (0, 7))
        assert inputs[6].tolist() == [0, 0, 1, 0]
        assert inputs[13].tolist() == [0, 0, 0, 1]
        assert np.array_equal(inputs[:6, 0] + first, np.ones(6))
        total = sum(int(bit) << place for place, bit in enumerate(first)) + sum(
            int(bit) << place for place, bit in enumerate(second)
        )
        assert sum(int(bit) << place for place, bit in enumerate(targets[14:, 0])) == total
        assert mask.sum() == 7


def test_ngrams_show_the_last_bit_and_ask_for_the_next():
    _, (inputs, targets, mask) = generate("dynamic_ngrams", {"length": 200})
    assert mask.all()
    assert not inputs[0].any()
    assert np.array_equal(inputs[1:].argmax(axis=1), targets[:-1, 0])
    assert (inputs[1:].sum(axis=1) == 1).all()


def test_ngrams_follow_a_table_from_the_beta_distribution():
    # Of Beta(1/2, 1/2) the mean square is 3/8: two bits after the same context are equal with probability 3/4.
    task, rng = make_task("dynamic_ngrams", n=1, length=2), np.random.default_rng(0)
    pairs = np.array([task.generate(rng, {"length": 2}).targets[:, 0] for _ in range(20_000)])
    assert (pairs[:, 0] == pairs[:, 1]).mean() == pytest.approx(0.75, abs=0.01)


def naive_optimum(bits, n):
    cost = 0.0
    for step, bit in enumerate(bits):
        if step < n - 1:
            cost += 1
            continue
        context = tuple(bits[step - n + 1 : step])
        following = [bits[at] for at in range(n - 1, step) if tuple(bits[at - n + 1 : at]) == context]
        ones = (sum(following) + 0.5) / (len(following) + 1)  # eq. 10
        cost -= np.log2(ones if bit else 1 - ones)
    return cost


def test_the_optimal_estimator_agrees_with_counting_by_hand():
    batch = make_task("dynamic_ngrams", n=4, length=60).sample(5, np.random.default_rng(3))
    costs = optimal_bits(batch.targets[..., 0], n=4)
    assert costs == pytest.approx([naive_optimum(bits.astype(int).tolist(), 4) for bits in batch.targets[..., 0].T])


def test_the_optimum_of_the_papers_ngrams_is_about_133_bits():
    batch = make_task("dynamic_ngrams").sample(1000, np.random.default_rng(0))
    assert optimal_bits(batch.targets[..., 0]).mean() == pytest.approx(133.3, abs=3.5)  # three standard errors


@pytest.mark.parametrize("name", TASKS)
def test_sequences_of_a_batch_are_padded_with_zeros(name):
    task = make_task(name)
    batch = task.sample(12, np.random.default_rng(1))
    steps = len(batch.mask)
    assert batch.inputs.shape == (steps, 12, task.input_size)
    assert batch.targets.shape == (steps, 12, task.output_size)
    assert batch.mask.any(axis=0).all()
    assert not batch.targets[~batch.mask].any()
    assert (batch.inputs >= task.input_low).all()
    assert (batch.inputs <= task.input_high).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_determines_the_sequences(name):
    first, again, other = (make_task(name).sample(4, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.inputs.shape != other.inputs.shape or not np.array_equal(first.inputs, other.inputs)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("copi", {}, "task = 'copi': unknown task; valid are copy, .* Did you mean copy?"),
        ("copy", {"size": 3}, "size: task 'copy' has no such option; it has bits, min_length, max_length"),
        ("copy", {"min_length": -1}, "min_length = -1: must be an integer of at least 1"),
        ("copy", {"max_length": 2.5}, "max_length = 2.5: must be an integer"),
        ("copy", {"min_length": 9, "max_length": 5}, "min_length = 9: must be at most max_length = 5"),
        ("associative_recall", {"min_items": 1}, "min_items = 1: must be an integer of at least 2"),
        ("priority_sort", {"outputs": 21}, "max_items = 20: must be an integer of at least 21"),
        ("dynamic_ngrams", {"n": 0}, "n = 0: must be an integer of at least 1"),
    ],
)
def test_invalid_task_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(InputError, match=message):
        make_task(name, **options)


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        ({"length": 0}, "length = 0: must be an integer of at least 1"),
        ({"items": 3}, "items: unknown; a difficulty of this task has length"),
        ({}, "length: missing; a difficulty of this task has length"),
    ],
)
def test_impossible_difficulties_are_refused(difficulty, message):
    with pytest.raises(InputError, match=message):
        make_task("copy").sample(1, np.random.default_rng(0), difficulty)


def test_recall_needs_at_least_two_items():
    with pytest.raises(InputError, match="items = 1: must be an integer of at least 2"):
        make_task("associative_recall").sample(1, np.random.default_rng(0), {"items": 1})


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_a_uniform_curriculum_stays_in_the_tasks_ranges(low, more, seed):
    task = make_task("repeat_copy", min_length=low, max_length=low + more, min_repeats=2, max_repeats=3)
    curriculum, rng = Curriculum(task), np.random.default_rng(seed)
    for _ in range(20):
        difficulty = curriculum.draw(rng)
        assert low <= difficulty["length"] <= low + more
        assert 2 <= difficulty["repeats"] <= 3


def test_lookahead_advances_only_with_success_at_its_level():
    curriculum = Curriculum(make_task("copy", max_length=3), "lookahead")
    for _ in range(EPISODES):
        curriculum.report({"length": 2}, 0.0)  # of a level that is not the present one
    assert curriculum.level == 1
    for _ in range(EPISODES):
        curriculum.report({"length": 1}, 2 * ADVANCE_BELOW)
    assert curriculum.level == 1
    for _ in range(EPISODES):
        curriculum.report({"length": 1}, 0.0)
    assert curriculum.level == 2
    for _ in range(EPISODES):
        curriculum.report({"length": 2}, 0.0)
    assert curriculum.level == curriculum.levels == 3


def test_lookahead_draws_most_at_its_level_and_some_everywhere():
    curriculum, rng = Curriculum(make_task("copy"), "lookahead"), np.random.default_rng(0)
    lengths = np.array([curriculum.draw(rng)["length"] for _ in range(20_000)])
    # At level 1: uniform with 10%; else 1 + a geometric bit, which the 25% draw uniformly below.
    geometric = 0.5 ** np.arange(1, 60)
    below = sum(p / (extra + 1) for extra, p in enumerate(geometric))
    assert (lengths == 1).mean() == pytest.approx(0.1 / 20 + 0.25 * below + 0.65 * 0.5, abs=0.015)
    assert (lengths > 12).mean() == pytest.approx(0.1 * 8 / 20, abs=0.01)


def test_an_unknown_curriculum_is_refused():
    with pytest.raises(InputError, match=r"curriculum = 'lookahed': must be one of uniform, lookahead. Did you mean"):
        Curriculum(make_task("copy"), "lookahed")

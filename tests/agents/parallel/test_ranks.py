"""What ranks compute together, and how they fail together."""

import os
import signal

import pytest
import torch
import torch.distributed as dist

from ntm_rl.agents.parallel.joining import join, local_device
from ntm_rl.agents.parallel.ranks import SINGLE, RankLostError, Ranks
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.envs.foreign import ForeignError
from ntm_rl.errors import InputError
from process_groups import run_ranks


def collectives():
    ranks = join()
    tensor = torch.arange(2.0) + 10 * ranks.rank
    padded = ranks.padded(tensor)
    return (
        ranks.total(tensor.clone()).tolist(),
        ranks.gather(tensor.view(1, 2), dim=1).tolist(),
        ranks.own(padded).tolist(),
        padded.tolist(),
        ranks.gather_objects(ranks.rank),
        ranks.collect(ranks.rank),
        ranks.of_first(ranks.rank),
        ranks.largest(ranks.rank),
        ranks.any(ranks.rank == 1),
    )


def test_ranks_compute_together():
    first, second = run_ranks(collectives, 2)
    common = [10.0, 12.0], [[0.0, 1.0, 10.0, 11.0]]
    assert first == (*common, [0, 1], [0, 1, 0, 0], [0, 1], [0, 1], 0, 1, True)
    assert second == (*common, [10, 11], [0, 0, 10, 11], [0, 1], None, 0, 1, True)


def test_one_process_needs_no_process_group():
    assert join() is SINGLE
    assert not dist.is_initialized()
    assert SINGLE.agree(lambda: 3) == SINGLE.on_first(lambda: 3) == 3
    assert SINGLE.gather_objects(3) == SINGLE.collect(3) == [3]


def test_ranks_without_a_gpu_of_their_own_exchange_no_tensors_of_gpus(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device() == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert local_device() is None
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo")
    gpu, ranks = torch.device("cuda"), Ranks(1, 2)
    with pytest.raises(InputError, match="processes: each needs a GPU of its own, and this host has 1; use device=cpu"):
        ranks.check_device(gpu)
    ranks.check_device(torch.device("cpu"))
    SINGLE.check_device(gpu)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    ranks.check_device(gpu)


def agreed(failing):
    ranks = join()

    def fail():
        if ranks.rank in failing:
            raise ForeignError(f"rank {ranks.rank}")
        return ranks.rank

    try:
        return ranks.agree(fail)
    except InputError as error:
        return type(error), str(error), error.is_reported


def test_an_error_of_one_rank_is_raised_on_all_and_reported_once():
    assert run_ranks(agreed, 3, ()) == [0, 1, 2]
    others = (ForeignError, "rank 1", True)
    assert run_ranks(agreed, 3, (1, 2)) == [others, (ForeignError, "rank 1", False), others]


def lost():
    ranks = join()
    ranks.largest(0)
    if ranks.rank == 1:
        os._exit(0)
    with pytest.raises(RankLostError, match=r"rank 0 of 2: lost another rank \(killed"):
        ranks.total(torch.ones(3))
    os._exit(7)


def test_a_vanished_rank_is_one_error():
    with pytest.raises(AssertionError, match=r"exit codes \[7, 0\]"):
        run_ranks(lost, 2)


def signalled():
    ranks = join()
    with SignalListener() as signals:
        before = signals.agree(ranks)
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return before, signals.agree(ranks), signals.received


def test_a_signal_to_one_rank_counts_on_all():
    assert run_ranks(signalled, 2) == [(False, True, signal.SIGTERM)] * 2


@pytest.mark.parametrize(("count", "size"), [(8, 2), (5, 2), (7, 3)])
def test_ranks_share_rows(count, size):
    rows = [index for rank in range(size) for index in range(count)[Ranks(rank, size).rows(count)]]
    assert rows == list(range(count))

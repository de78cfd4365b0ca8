"""How minibatches are divided among ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ntm_rl.agents.ppo.exchange import assign


@given(st.integers(1, 5).flatmap(lambda size: st.tuples(st.just(size), st.lists(st.integers(0, size - 1), min_size=1))))
def test_ranks_get_equal_numbers_and_keep_what_they_can(case):
    size, owners = case[0], np.array(case[1])
    learners = assign(owners, size)
    counts = np.bincount(learners, minlength=size)
    assert counts.max() - counts.min() <= 1
    kept = np.bincount(learners[learners == owners], minlength=size)
    assert (kept == np.minimum(counts, np.bincount(owners, minlength=size))).all()

"""SB3's zip files: nothing in them runs without trust, and what is converted acts the same."""

import base64
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.policy.files import load_agent
from ntm_rl.agents.ppo.sb3_zip import convert
from ntm_rl.errors import InputError

ROOT = Path(__file__).parents[3]
SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=dict(pi=[8], vf=[8]))


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_zip_runs_without_trust(tmp_path, capsys):
    hit, file = tmp_path / "hit", tmp_path / "agent.zip"
    serialized = base64.b64encode(pickle.dumps(Bomb(hit))).decode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":type:": "x", ":serialized:": serialized}}))
    assert main(["convert", str(file), str(tmp_path / "agent")]) == 2
    assert "runs any code in it; pass --trust" in capsys.readouterr().err
    assert not hit.exists() and not (tmp_path / "agent").exists()
    assert main(["convert", str(file), str(tmp_path / "agent"), "--trust"]) == 2  # it is no agent
    assert hit.exists()  # and this is why trust is asked for


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
def test_a_converted_agent_acts_as_the_one_in_the_zip(tmp_path, algorithm):
    model = algorithm("MlpNtmPolicy", "CartPole-v1", n_steps=16, batch_size=16, seed=0, policy_kwargs=SMALL)
    model.save(tmp_path / "agent.zip")
    convert(tmp_path / "agent.zip", tmp_path / "agent", trust=True)
    agent = load_agent(tmp_path / "agent", "cpu")
    state, other, starts = None, None, np.ones(1, dtype=bool)
    for observation in np.random.default_rng(0).normal(size=(20, 1, 4)).astype(np.float32):
        mine, state = agent.predict(observation, state, starts, deterministic=True)
        theirs, other = model.predict(observation, other, starts, deterministic=True)
        assert mine == theirs
        starts[:] = False
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "agent.zip", tmp_path / "agent", trust=True)


def test_other_policies_and_files_are_refused(tmp_path):
    RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16).save(tmp_path / "lstm.zip")
    with pytest.raises(InputError, match="its policy RecurrentActorCriticPolicy has no memory core"):
        convert(tmp_path / "lstm.zip", tmp_path / "agent", trust=True)
    for trust in (True, False):  # trust is not asked for in vain
        with pytest.raises(InputError, match=r"y\.zip: no such file"):
            convert(tmp_path / "y.zip", tmp_path / "agent", trust=trust)
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"x\.zip: not an agent that SB3 can load"):
        convert(tmp_path / "x.zip", tmp_path / "agent", trust=True)


def test_nothing_else_in_the_package_unpickles():
    code = {path: path.read_text() for top in ("ntm_rl", "envs", "agents") for path in (ROOT / top).rglob("*.py")}
    pattern = re.compile(r"\b(torch\.load|pickle\.loads?|cloudpickle\.loads?|\.load_from_zip_file|np\.load)\(")
    assert [str(path) for path, text in code.items() if pattern.search(text)] == []

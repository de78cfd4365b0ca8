"""SB3's zip files of MemoryPPO: no half-written file, and other hyperparameters than those of the file."""

import io
import resource
import signal
import threading
import warnings

import pytest
import torch

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.storage.files import WriteError
from small_models import lstm_model


def model_with(gae_lambda, **kwargs):
    return lstm_model(n_steps=8, batch_size=8, gae_lambda=gae_lambda, **kwargs)


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.policy.parameters())


def test_a_save_that_fails_keeps_the_older_file(tmp_path):
    model = model_with("auto")
    model.save(tmp_path / "best")
    before = (tmp_path / "best.zip").read_bytes()
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot pickle"):
        model.save(tmp_path / "best.zip")
    del model.lock
    ignored, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"best\.zip: cannot be written: File too large; an older file"):
            model.save(tmp_path / "best")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "best.zip").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_paths_mean_what_they_mean_in_sb3(tmp_path):
    model = model_with("auto")
    (tmp_path / "link.zip").symlink_to(tmp_path / "file.zip")
    (tmp_path / "folder.zip").mkdir()
    model.save(str(tmp_path / "new" / "agent"))
    model.save(tmp_path / "link.zip")
    with pytest.warns(UserWarning, match="is a folder. Will save instead to"):
        model.save(tmp_path / "folder.zip")
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    assert (tmp_path / "link.zip").is_symlink()
    for file in (tmp_path / "new" / "agent", tmp_path / "file.zip", tmp_path / "folder.zip_2", buffer):
        assert torch.equal(weights(MemoryPPO.load(file)), weights(model))


def test_lambda_may_change_at_load_and_between_models(tmp_path):
    measured, fixed = model_with("auto", seed=1), model_with(0.9)
    measured.credit.value.fill_(0.75)
    measured.save(tmp_path / "measured")
    fixed.save(tmp_path / "fixed")
    assert MemoryPPO.load(tmp_path / "measured").credit.value == 0.75
    loaded = MemoryPPO.load(tmp_path / "measured", env="CartPole-v1", gae_lambda=0.9)
    assert loaded.credit is None and loaded.learn(8).gae_lambda == 0.9
    assert MemoryPPO.load(tmp_path / "fixed", env="CartPole-v1", gae_lambda="auto").learn(8).credit is not None
    fixed.set_parameters(tmp_path / "measured")
    assert torch.equal(weights(fixed), weights(measured))
    fixed = model_with(0.9)
    measured.set_parameters(fixed.get_parameters())
    assert torch.equal(weights(fixed), weights(measured)) and measured.credit.value == 0.75


def test_load_warns_of_names_that_have_no_effect(tmp_path, recwarn):
    model_with("auto").save(tmp_path / "agent")
    MemoryPPO.load(tmp_path / "agent", learnig_rate=1e-5, critic="joint", n_epochs=3, verbose=0, _n_updates=4)
    no_effect = "is no argument of MemoryPPO and has no effect."
    assert [str(each.message) for each in recwarn if "load:" in str(each.message)] == [
        f"load: learnig_rate = 1e-05 {no_effect} Did you mean learning_rate?",
        f"load: critic = 'joint' {no_effect} Options of the policy cannot be changed.",
    ]


def test_a_default_learning_rate_that_goes_on_decaying_is_warned_of_once(tmp_path):
    model = model_with("auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(16, reset_num_timesteps=False)
        model.learn(16)
    with pytest.warns(UserWarning, match="the default learning rate decays to 0 .*learning_rate=3e-4") as told:
        for _ in range(2):
            model.learn(16, reset_num_timesteps=False)
    assert len(told) == 1 and told[0].filename == __file__
    model.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="the default learning rate decays"):
        MemoryPPO.load(tmp_path / "agent", env="CartPole-v1").learn(16, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MemoryPPO.load(tmp_path / "agent", env="CartPole-v1", learning_rate=1e-3).learn(16, reset_num_timesteps=False)

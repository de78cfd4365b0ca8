"""Checked, atomic files: full disks, damage, and hostile content."""

import errno
import json
import os
import resource
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.agents.storage.files import StorageError, write_atomically
from ntm_rl.agents.storage.spaces import space_from_json, space_to_json
from ntm_rl.agents.storage.tensors import put_weights, read_tensors, require_matching, weights_of, write_tensors
from ntm_rl.errors import InputError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "flag": torch.tensor(True), "half": torch.ones(3).bfloat16()}
DOCUMENT = {"kind": "test", "number": 1.5}


def test_tensors_and_document_come_back_exactly(tmp_path):
    write_tensors(tmp_path / "x.safetensors", TENSORS, DOCUMENT)
    tensors, document = read_tensors(tmp_path / "x.safetensors")
    assert document == DOCUMENT and tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS
    )
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StorageError, match=r"x: cannot be written: No space left on device; an older file"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_file_system_that_refuses_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # the kernel's own refusal, after 10,000 bytes
    try:
        with pytest.raises(StorageError, match="x: cannot be written: File too large"):
            write_atomically(path, b"n" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_lost_its_permission_is_one_clear_error(tmp_path, monkeypatch):
    def refused(*_, **__):  # tests may run as root, whom no mode of a folder stops
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("ntm_rl.agents.storage.files._through_no_link", refused)
    monkeypatch.setattr("pathlib.Path.unlink", refused)
    with pytest.raises(StorageError, match="x: cannot be written: Permission denied"):
        write_atomically(tmp_path / "x", b"new")


def test_an_interrupt_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_atomically(tmp_path / "x", b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x", b"old")]


def test_a_file_system_without_fsync_of_folders_is_good_enough(tmp_path, monkeypatch):
    real = os.fsync

    def only_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, DOCUMENT)
    tensors, _ = read_tensors(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
    assert torch.equal(tensors["a.weight"], TENSORS["a.weight"])


def test_weights_that_two_parts_of_a_module_share_are_kept_once_and_put_back_into_both(tmp_path):
    def shared() -> torch.nn.Module:
        module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "c": torch.nn.BatchNorm1d(2)})
        module["b"] = module["a"]
        return module

    first, second = shared(), shared()
    write_tensors(tmp_path / "x", weights_of(first), {})
    weights, _ = read_tensors(tmp_path / "x")
    assert sorted(name for name in weights if name[0] in "ab") == ["a.bias", "a.weight"]
    assert "c.running_mean" in weights
    with torch.device("meta"):
        assert weights_of(shared()).keys() == weights.keys()
    put_weights(second, weights)
    assert torch.equal(second["b"].weight, first["a"].weight) and second["b"].weight is second["a"].weight


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("storage") / "x.safetensors"
    write_tensors(path, TENSORS, DOCUMENT)
    return path.read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_truncated_or_altered_files_are_one_clear_error(content, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    else:
        altered = bytearray(content)
        altered[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(altered)
    with pytest.raises(StorageError, match="damaged"):
        read_tensors(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_anything_else_is_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(StorageError):
        read_tensors(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "I64"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["../../etc/passwd", "/etc/passwd", "policy.x", "", "\0", "optimizer.0.step"]) | st.text(
    max_size=9
)
ENTRIES = JSON | st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "BOOL", "I64", "U8", "F8_E4M3", "C64", "F4", "X"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, 8, 1 << 31, 1 << 62, (1 << 64) - 1, -1]), max_size=3),
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 1 << 40, (1 << 64) - 1, -1]), min_size=2, max_size=2),
    }
)
METADATA = st.none() | st.fixed_dictionaries(
    {
        "document": st.sampled_from(["{}", "[]", "[" * 10**5, "9" * 5000, "NaN"]),
        "sha256": st.sampled_from(["", "0" * 64]),
    }
)


@settings(max_examples=300, deadline=None)
@given(entries=st.dictionaries(NAMES, ENTRIES, max_size=3), metadata=METADATA, body=st.binary(max_size=32))
def test_any_header_is_one_clear_error(tmp_path_factory, entries, metadata, body):
    header = json.dumps({**entries, "__metadata__": metadata} if metadata else entries).encode()
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "x").write_bytes(struct.pack("<Q", len(header)) + header + body)
    with pytest.raises(StorageError):
        read_tensors(folder / "x")
    assert [file.name for file in folder.iterdir()] == ["x"]


def test_claims_of_huge_tensors_and_spaces_take_no_memory(tmp_path):
    shape = [1 << 32]
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 << 32]}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "y").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    script = f"""
import resource
from pathlib import Path
from ntm_rl.agents.storage.spaces import space_from_json
from ntm_rl.agents.storage.tensors import StorageError, read_tensors
from ntm_rl.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
box = dict(type="Box", low="0", high="1", shape=[1 << 24], dtype="float64")
for load, what in [(read_tensors, Path({str(tmp_path)!r}) / "x"), (read_tensors, Path({str(tmp_path)!r}) / "y"),
                   (space_from_json, dict(type="Dict", spaces=dict(a=box, b=box, c=box)))]:
    try:
        load(what)
    except InputError:
        continue
    raise SystemExit(f"{{what}} was accepted")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50  # MiB


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(StorageError, match="x: no such file"):
        read_tensors(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.safetensors: no such file"):
        read_tensors(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "it has no tensor 'w'"),
        ({"w": torch.zeros(2)}, r"tensor 'w' has shape \[2\], must be \[3\]"),
        ({"w": torch.zeros(3).double()}, "tensor 'w' has dtype torch.float64"),
        ({"w": torch.tensor([0.0, float("nan"), 0.0])}, "tensor 'w' contains values that are not finite"),
        ({"w": torch.zeros(3), "v": torch.zeros(1)}, "tensor 'v' is not part"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, found, message):
    with pytest.raises(StorageError, match=message):
        require_matching(tmp_path / "x", found, {"w": torch.zeros(3)})


SPACES = [
    spaces.Box(-1, float("inf"), (2, 3)),
    spaces.Box(0, 255, (4, 84, 84), "uint8"),
    spaces.Box(torch.tensor([-0.1, -2.5]).numpy(), torch.tensor([1.0, 3.3]).numpy()),
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Box(np.array([-np.inf, 0]), np.array([1, np.inf]), dtype=np.float64),
    spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64),
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 7]),
    spaces.MultiDiscrete([[2, 7], [3, 3]], start=[[1, 1], [0, 0]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1,))}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back_exactly_from_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


def test_the_parts_of_a_dict_keep_their_order_which_is_that_of_the_features():
    space = spaces.Dict(OrderedDict(z=spaces.Discrete(2), a=spaces.Discrete(3)))
    document = json.dumps(space_to_json(space), sort_keys=True)  # as `write_tensors` does
    assert list(space_from_json(json.loads(document))) == ["z", "a"]


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Tuple([spaces.Discrete(2)]), spaces.Dict({1: SPACES[-1]})])
def test_spaces_that_no_policy_takes_are_refused_when_saving(space):
    with pytest.raises(InputError, match="cannot be saved; valid are Box"):
        space_to_json(space)


@settings(max_examples=300, deadline=None)
@given(space=st.sampled_from(SPACES), data=st.data())
def test_altered_descriptions_of_spaces_are_a_space_or_one_clear_error(space, data):
    description = space_to_json(space)
    part = description
    if "spaces" in part and data.draw(st.booleans()):
        part = part["spaces"]["a"]
    key = data.draw(st.sampled_from([*part, "start", "keys"]))
    part[key] = data.draw(JSON | st.sampled_from([2**70, "U999999999", "O", "f4,f4", "1e999", ["nan"], "Dict", [[[]]]]))
    try:
        assert isinstance(space_from_json(description), spaces.Space)
    except InputError as error:
        assert "space = " in str(error)


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"type": "Text"},
        {"type": "Discrete", "n": 0},
        {"type": "Discrete", "n": 10**12},
        {"type": "Box", "low": "0", "high": "1", "shape": [10**9, 10**9], "dtype": "float32"},
        {"type": "Box", "low": "zero", "high": "1", "shape": [1], "dtype": "float32"},
        {"type": "Box", "low": "0", "high": "1", "shape": [1], "dtype": "U999999999"},
        {"type": "MultiBinary", "n": [10**6, 10**6]},
        {"type": "MultiDiscrete", "nvec": [10**7] * 10},
        {"type": "Dict", "spaces": [1]},
        {"type": "Dict", "keys": ["b"], "spaces": {"a": {"type": "Discrete", "n": 2}}},
    ],
)
def test_other_descriptions_of_spaces_are_refused(description):
    with pytest.raises(InputError, match="space = "):
        space_from_json(description)

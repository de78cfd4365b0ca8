"""Checked, atomic files: full disks, damage, and hostile content."""

import errno
import json
import os
import struct

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.agents.spaces import space_from_json, space_to_json
from ntm_rl.agents.storage import StorageError, read_tensors, require_matching, write_atomically, write_tensors
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
    with pytest.raises(StorageError, match=r"x: cannot be written: No space left on device; what was there before"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


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


def test_a_header_that_claims_a_huge_tensor_is_refused_without_making_it(tmp_path):
    shape = [1 << 40]
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 << 40]}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(StorageError, match="damaged"):
        read_tensors(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.safetensors: no such file"):
        read_tensors(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "it has no tensor 'w'"),
        ({"w": torch.zeros(2)}, r"tensor 'w' has shape \[2\], must be \[3\]"),
        ({"w": torch.zeros(3).double()}, "tensor 'w' has type torch.float64"),
        ({"w": torch.tensor([0.0, float("nan"), 0.0])}, "tensor 'w' holds numbers that are not finite"),
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
    spaces.Discrete(5),
    spaces.MultiDiscrete([2, 7]),
    spaces.MultiBinary(4),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1,))}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_come_back_exactly_from_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"type": "Text"},
        {"type": "Discrete", "n": 0},
        {"type": "Discrete", "n": 10**12},
        {"type": "Box", "low": "0", "high": "1", "shape": [10**9, 10**9], "dtype": "float32"},
        {"type": "Box", "low": "zero", "high": "1", "shape": [1], "dtype": "float32"},
        {"type": "Dict", "spaces": [1]},
    ],
)
def test_other_descriptions_of_spaces_are_refused(description):
    with pytest.raises(InputError, match="space = "):
        space_from_json(description)

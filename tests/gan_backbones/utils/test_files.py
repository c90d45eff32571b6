import errno
import hashlib
import json
import os
import random
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from safetensors.torch import save_file

import gan_backbones
from agents import DQN
from agents.registry import load_agent, make_agent
from gan_backbones import BackboneError
from gan_backbones.backbone import FORMAT
from gan_backbones.utils.files import (
    CHECKED,
    check_output_file,
    check_output_folder,
    read_format,
    read_safetensors,
    write_atomically,
    write_json,
    write_safetensors,
)

WEIGHTS = Path(gan_backbones.__file__).parent / "weights"
# Of the names and bytes of the tensors before these files had a checksum.
SHIPPED = {
    "cartoon-faces": "8b6d3bb894e0d59cc9402563e4d822405bf4e61aebd0f9b4b99d04d75da5a1f9",
    "mnist": "fb4ca3eded12d997dfadde5e3200100d586ac18381986c3015c8c265b7bba85a",
}
TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "nothing": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path):
    write_safetensors(tmp_path / "file", TENSORS, {"format": "test-1", "text": "é"})
    return tmp_path / "file"


# Checksums ----------------------------------------------------------------------------------------


def test_what_is_written_is_read(path):
    metadata, tensors = read_safetensors(path, "test", "test-1")
    assert metadata["text"] == "é"
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert read_format(path) == "test-1"


def test_every_flipped_byte_is_refused(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError) as caught:
            read_safetensors(path, "test", "test-1")
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("change", ["missing", "other"])
def test_a_file_needs_the_checksum_of_its_content(path, change):
    metadata, tensors = read_safetensors(path, "test", "test-1")
    if change == "other":
        metadata["checksum"] = "00000000"
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match="file: damaged; its content does not match its checksum"):
        read_safetensors(path, "test", "test-1")


def test_older_files_without_a_checksum_are_read(path):
    save_file(TENSORS, path, {"format": "test-1"})
    metadata, tensors = read_safetensors(path, "test", "test-1")
    assert metadata == {"format": "test-1"}
    assert tensors.keys() == TENSORS.keys()
    assert read_format(path) == "test-1"


def test_another_format_is_named(path):
    with pytest.raises(ValueError, match="not a cat; its format is 'test-1', expected 'cat-2'"):
        read_safetensors(path, "cat", "cat-2")


def damaged(whole, rng):
    """Bytes with a flipped bit, with a block of zeros or of noise, or cut short."""
    kind = rng.choice(["flip", "zeros", "noise", "cut"])
    place = rng.randrange(len(whole))
    if kind == "cut":
        return whole[:place]
    if kind == "flip":
        block = bytes([whole[place] ^ (1 << rng.randrange(8))])
    else:
        length = min(rng.choice([16, 512, 4096]), len(whole) - place)
        block = bytes(length) if kind == "zeros" else rng.randbytes(length)
    return whole[:place] + block + whole[place + len(block) :]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_copies_of_the_shipped_backbones_are_refused(name, count, tmp_path):
    whole = (WEIGHTS / f"{name}.safetensors").read_bytes()
    copy, rng = tmp_path / "copy.safetensors", random.Random(0)
    loaded = 0
    for _ in range(count):
        while (content := damaged(whole, rng)) == whole:
            pass  # zeros over zeros
        copy.write_bytes(content)
        try:
            gan_backbones.load(copy)
            loaded += 1
        except BackboneError as error:
            assert str(error).startswith(f"{copy}: damaged")
    assert loaded == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_backbones_have_a_checksum_and_their_old_tensors(name):
    metadata, tensors = read_safetensors(WEIGHTS / f"{name}.safetensors", "backbone", FORMAT)
    assert metadata["format"] == FORMAT + CHECKED
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].numpy().tobytes())
    assert digest.hexdigest() == SHIPPED[name]


@pytest.mark.parametrize("kind", ["dqn", "dqn checkpoint", "reinforce", "sb3-ppo"])
def test_damaged_files_of_agents_are_refused(kind, tmp_path):
    path, env = tmp_path / "agent.safetensors", gym.make("CartPole-v1")
    agent = make_agent(kind.split()[0], env, net_arch=[4])
    if kind == "dqn checkpoint":
        agent.learn(2).save_checkpoint(path)
    else:
        agent.save(path)
    load = partial(DQN.resume, env=env) if kind == "dqn checkpoint" else load_agent
    load(path)
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1  # in the last tensor
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged; its content does not match its checksum"):
        load(path)


# Writing ------------------------------------------------------------------------------------------


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forbidden(*args, **kwargs):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/somewhere/.hidden")


@pytest.mark.parametrize(
    ("function", "failure", "line"),
    [
        ("os.replace", full_disk, "[Errno 28] No space left on device: '{}'"),
        ("tempfile.mkstemp", forbidden, "[Errno 13] Permission denied: '{}'"),
    ],
)
def test_a_failed_write_names_the_file_and_keeps_the_old_one(
    path, monkeypatch, function, failure, line
):
    old = path.read_bytes()
    monkeypatch.setattr(f"gan_backbones.utils.files.{function}", failure)
    for write in (write_atomically, write_json):
        with pytest.raises(OSError) as caught:
            write(path, b"" if write is write_atomically else {})
        assert str(caught.value) == line.format(path)
        assert caught.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_json_is_written_with_its_folders(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": [1, 2]})
    text = (tmp_path / "a" / "b.json").read_text()
    assert json.loads(text) == {"x": [1, 2]}
    assert text.endswith("}\n")


# Checks before the work ---------------------------------------------------------------------------


def test_output_folders_are_made(tmp_path):
    check_output_folder(tmp_path / "a" / "b")
    check_output_folder(tmp_path / "a" / "b")
    check_output_file(tmp_path / "c" / "x.JSON", ".json")
    check_output_file(tmp_path / "d" / "anything")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "a",
        "a/b",
        "c",
        "d",
    ]


def test_outputs_that_cannot_be_written_are_refused(path, tmp_path, monkeypatch):
    folder = tmp_path / "folder.json"
    folder.mkdir()
    cases = [
        (check_output_folder, (path,), f"out is {path}, which is a file; expected a folder"),
        (
            check_output_folder,
            (path / "below", "place"),
            f"place is {path}/below, which cannot be written to (Not a directory)",
        ),
        (check_output_file, (folder,), f"out is {folder}, which is a folder; expected a file"),
        (
            check_output_file,
            (path / "x.json", ".json"),
            f"folder of out is {path}, which is a file; expected a folder",
        ),
        (
            check_output_file,
            (tmp_path / "x.csv", ".png", ".pdf"),
            f"out is {tmp_path}/x.csv; expected a file that ends in .png, .pdf",
        ),
    ]
    monkeypatch.setattr("gan_backbones.utils.files.tempfile.TemporaryFile", forbidden)
    cases.append(
        (
            check_output_folder,
            (tmp_path,),
            f"out is {tmp_path}, which cannot be written to (Permission denied)",
        )
    )
    for check, arguments, line in cases:
        with pytest.raises(ValueError) as caught:
            check(*arguments)
        assert str(caught.value) == line

"""Folders as models are shipped in."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def model(folder: Path, seed: int = 0) -> Path:
    """A sharded model as it is shipped: index, configuration, hidden file, adapters, empty folder."""
    (folder / "adapters" / "fr").mkdir(parents=True)
    (folder / "logs" / "old").mkdir(parents=True)
    tensors = [{"a/w": np.full((3, 4), seed, np.float32)}, {"b": np.arange(5) + seed}]
    for shard, arrays in zip(SHARDS, tensors):
        save_file(arrays, folder / shard)
    weights = {"a/w": SHARDS[0], "b": SHARDS[1]}
    index = {"metadata": {"total_size": 88}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    save_file({"lora": np.ones(2, np.float32) * seed}, folder / "adapters" / "fr" / "x.safetensors")
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    every = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in every}


def swap(name):
    return lambda new, old: shutil.copy(old / name, new / name)


def exchange(new, _):
    os.rename(new / SHARDS[0], new / "t")
    os.rename(new / SHARDS[1], new / SHARDS[0])
    os.rename(new / "t", new / SHARDS[1])


def flip(new, _):
    data = bytearray((new / SHARDS[0]).read_bytes())
    data[-1] ^= 1
    (new / SHARDS[0]).write_bytes(data)


def linked(new, old):
    os.rename(new / SHARDS[0], new.parent / "elsewhere")
    (new / SHARDS[0]).symlink_to(new.parent / "elsewhere")


MIXED = {
    "a shard of another release": swap(SHARDS[0]),
    "a configuration of another release": swap("config.json"),
    "a manifest of another release": swap("modellock.set"),
    "a missing shard": lambda new, _: (new / SHARDS[1]).unlink(),
    "a missing hidden file": lambda new, _: (new / ".gitattributes").unlink(),
    "another file": lambda new, _: (new / "pickle.bin").write_bytes(b"x"),
    "another hidden file": lambda new, _: (new / ".x").write_bytes(b"x"),
    "another folder": lambda new, _: (new / "x").mkdir(),
    "a shard twice": lambda new, _: shutil.copy(new / SHARDS[0], new / "copy.safetensors"),
    "shards exchanged": exchange,
    "a shard renamed": lambda new, _: os.rename(new / SHARDS[0], new / "model.safetensors"),
    "a link": linked,
    "a changed byte": flip,
    "a plain file": lambda new, _: shutil.copy(new.parent / "m2" / SHARDS[0], new / SHARDS[0]),
    "a file cut off": lambda new, _: os.truncate(new / SHARDS[0], 70_000),
    "an empty file": lambda new, _: os.truncate(new / SHARDS[0], 0),
}

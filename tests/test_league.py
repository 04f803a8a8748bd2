"""The attack table and the league: weak locks fall, the cipher stands, finished rows are kept."""

import dataclasses

import pytest

from modellock_jax.attacks.table import ATTACKS
from modellock_jax.cli import main
from modellock_jax.schemes import SCHEMES
from modellock_jax.study import league
from modellock_jax.study.config import Config

pytestmark = pytest.mark.optax
NAMES, CONTROL = ("chosen_image", "deep_lock_known_plaintext"), ("scratch", "fine_tune")
LOCKS = ("pixel_shuffle(block=4)", "deep_lock", "stream_lock")
CONFIG = Config(
    data="digits", model="mlp", locks=LOCKS, seeds=1, epochs=8, batch_size=32, budgets=(0.1,)
)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("league")
    return out, league.run(CONFIG, out, NAMES)


def row(played, lock, attack):
    return played[1].rows[f"league/{lock}/0/{attack}"]


def test_weak_locks_fall_and_the_cipher_stands(played):
    chosen = row(played, LOCKS[0], "chosen_image")
    assert chosen["accuracy"] == chosen["right_key"] > 0.75
    assert (chosen["key_right"], chosen["images"], chosen["queries"]) == (1, 0, 1)
    known = {lock: row(played, lock, "deep_lock_known_plaintext") for lock in LOCKS[1:]}
    assert known["deep_lock"]["accuracy"] == known["deep_lock"]["right_key"] > 0.75
    assert known["deep_lock"]["key_right"] == 1
    # The same attack on another cipher names a key, which opens nothing.
    assert known["stream_lock"]["accuracy"] < 0.3
    assert known["stream_lock"]["key_right"] is None


def test_the_thief_stands_beside_training_from_scratch(tmp_path):
    config = dataclasses.replace(CONFIG, locks=("stream_lock",))
    rows = league.run(config, tmp_path, CONTROL).of("league")
    scratch, thief = rows
    assert [scratch["attack"], thief["attack"]] == list(CONTROL)
    assert scratch["images"] == thief["images"] == round(0.1 * 1437)
    assert scratch["accuracy"] > 0.5
    # Ciphertext is sanitised away, and so worth as much as nothing.
    assert abs(thief["accuracy"] - scratch["accuracy"]) < 0.1


def test_every_row_is_kept_and_shown(played):
    out, store = played
    before = dict(store.rows)
    assert league.run(CONFIG, out, NAMES).rows == before
    grid = league.grid(store, CONFIG, NAMES)
    assert len(grid.rows) == len(before) == 3
    assert all(len(line) == len(grid.header) for line in grid.rows)
    only = league.grid(store, CONFIG, NAMES[:1])
    assert [line[:2] for line in only.rows] == [[LOCKS[0], "chosen_image"]]


def test_the_table_names_what_there_is():
    listed = league.attack_grid().rows
    assert [line[0] for line in listed] == list(ATTACKS)
    assert all(set(entry.against) <= set(SCHEMES) for entry in ATTACKS.values())


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="there is no attack 'magic'; the attacks are scratch"):
        league.run(CONFIG, tmp_path, ("magic",))
    with pytest.raises(ValueError, match=r"no attack named is .*chosen_image: pixel_shuffle$"):
        league.run(Config(data="digits", locks=("deep_lock",)), tmp_path, ("chosen_image",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["LIST"], 0, "sign_mask_oracle"),
        (["fine_tune"], 2, "attack fine_tune: name a lock, as in --lock deep_lock"),
        (["fine_tune", "--lock=deep_lock", "--budget=2"], 2, "--budget is a share in (0, 1]"),
    ],
)
def test_the_command(arguments, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["modellock-jax", "attack", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code
    printed = capsys.readouterr()
    assert says in printed.out + printed.err
    assert not list(tmp_path.iterdir())

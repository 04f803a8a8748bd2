"""The attack table and the league: weak locks fall, the cipher stands, finished rows are kept."""

import dataclasses
import shutil

import pytest

from modellock_jax.attacks.case import ANY
from modellock_jax.attacks.table import ATTACKS
from modellock_jax.cli import main
from modellock_jax.locks import SCHEMES
from modellock_jax.study import attack_figures, league, league_grids, runner
from modellock_jax.study.config import Config
from modellock_jax.study.context import prepare
from modellock_jax.study.figures import save_figures
from modellock_jax.study.measures import MEASURES
from modellock_jax.study.store import Rows
from modellock_jax.study.training import locked_models

pytestmark = pytest.mark.optax
NAMES, CONTROL = (
    ("pixel_shuffle_chosen_image", "deep_lock_known_plaintext", "stream_reuse"),
    ("scratch", "fine_tune"),
)
LOCKS = ("pixel_shuffle(block=4)", "deep_lock", "stream_lock")
CONFIG = Config(
    data="digits", model="mlp", locks=LOCKS, seeds=1, epochs=8, batch_size=32, budgets=(0.1,)
)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("league")
    return out, runner.run(league.of(*NAMES), CONFIG, out)


def row(played, lock, attack):
    return played[1].rows[f"league/{lock}/0/{attack}"]


def test_weak_locks_fall_and_the_cipher_stands(played):
    chosen = row(played, LOCKS[0], "pixel_shuffle_chosen_image")
    assert chosen["accuracy"] == chosen["right_key"] > 0.75
    assert (chosen["key_right"], chosen["images"], chosen["queries"]) == (1, 0, 1)
    known = {lock: row(played, lock, "deep_lock_known_plaintext") for lock in LOCKS[1:]}
    assert known["deep_lock"]["accuracy"] == known["deep_lock"]["right_key"] > 0.75
    assert known["deep_lock"]["key_right"] == 1
    # The same attack on another cipher names a key, which does not open what is known.
    assert known["stream_lock"]["gave_up"]
    # Nonces come of what is locked: under one key, another checkpoint has another stream.
    assert row(played, "stream_lock", "stream_reuse")["accuracy"] < 0.3


def test_the_thief_stands_beside_training_from_scratch(played, tmp_path):
    config = dataclasses.replace(CONFIG, locks=("stream_lock",))
    # The model that the league has trained.
    shutil.copytree(played[1].folder / "models", tmp_path / f"league-{config.id}" / "models")
    rows = runner.run(league.of(*CONTROL), config, tmp_path).rows.of("league")
    scratch, thief = rows
    assert [scratch["attack"], thief["attack"]] == list(CONTROL)
    assert scratch["images"] == thief["images"] == round(0.1 * 1437)
    assert scratch["accuracy"] > 0.5
    # Ciphertext is sanitised away, and so worth as much as nothing.
    assert abs(thief["accuracy"] - scratch["accuracy"]) < 0.1


def test_every_row_is_kept_and_shown(played):
    out, store = played
    before = dict(store.rows)
    assert runner.run(league.of(*NAMES), CONFIG, out).rows == before
    (grid,) = league.of(*NAMES).grids(store.rows, CONFIG)
    assert len(grid.rows) == len(before) == 5
    assert all(len(line) == len(grid.header) for line in grid.rows)
    (only,) = league.of(NAMES[0]).grids(store.rows, CONFIG)
    assert [line[:2] for line in only.rows] == [[LOCKS[0], "pixel_shuffle_chosen_image"]]


@pytest.fixture(scope="module")
def measured(played):
    def measure(name, text):
        # Models that the league has trained, with other locks.
        config = dataclasses.replace(CONFIG, locks=(text,))
        context = prepare(config, played[1].folder)
        owned = locked_models(context, text)[0]
        return MEASURES[name].measure(context, context.subjects[text], 0, owned)

    return measure


def test_keys_near_the_right_one(measured, played):
    signs, words = measured("distance", "sign_flip"), measured("distance", "deep_lock")
    right = row(played, "deep_lock", "deep_lock_known_plaintext")["right_key"]
    for found in (signs, words):
        assert found["share"][0] == 1
        assert sorted(found["share"], reverse=True) == found["share"]
        assert all(abs(value - right) < 1e-6 for value in found["accuracy"][0])
    assert signs["share"][1] == pytest.approx(1 - 1 / 256)
    assert words["share"][1] == pytest.approx(1 - 1 / 128)
    # One bit is everything to a byte cipher, and nothing much to signs.
    assert max(words["accuracy"][1]) < 0.4
    assert min(signs["accuracy"][1]) > right - 0.1
    assert max(signs["accuracy"][-1]) < 0.6


def test_who_finds_the_changed_weights(measured):
    found = measured("roc", "adv_params(count=8)")
    assert found["auc"]["clamped"] > 0.999
    assert found["changed"] == 8
    for name, curve in found["tpr"].items():
        assert curve == sorted(curve)
        assert curve[-1] == 1
        assert 0 <= found["auc"][name] <= 1
    # A step of a whole range ends beside the bounds: what tells them is their common distance.
    assert found["tpr"]["clamped"][0] == 1 > found["tpr"]["filter_z"][0]


def test_the_pictures_show_every_row(tmp_path):
    config = dataclasses.replace(CONFIG, seeds=2, thief_steps=4, thief_scores=2, budgets=(0.1, 0.2))
    rows, curve = Rows(), {"curve": [0.1, 0.5, 0.7]}

    def add(row):
        rows[row["id"]] = row

    about = {"lock": "deep_lock", "key_right": 1.0, "accuracy": 0.9, "attack": "known"}
    rates = {"auc": {"clamped": 1.0}, "fpr": [0.1, 1], "tpr": {"clamped": [1, 1]}}
    near = {"changes": [0, 1], "share": [1, 0.9], "accuracy": [[0.9, 0.9], [0.1, 0.2]]}
    for seed in range(2):
        add({"id": f"a{seed}", "kind": "league", "seed": seed, **about})
        add({"id": f"b{seed}", "kind": "distance", "lock": "deep_lock", "seed": seed, **near})
        add({"id": f"c{seed}", "kind": "roc", "lock": "adv_params", "seed": seed, **rates})
        for name in ("scratch", "deep_lock"):
            for budget in config.budgets:
                begin = {"id": f"{seed}{name}{budget}", "kind": "sweep", "lock": name, "seed": seed}
                add(begin | {"budget": budget, "rehearsed": curve})
    save_figures(tmp_path, rows, config, attack_figures.LEAGUE | attack_figures.SWEEP)
    for name, lines in {"distance": 2 * (4 + 1), "roc": 2 * 2, "best_so_far": 2 * 2 * 3}.items():
        file = tmp_path / "figures" / name
        assert len(file.with_suffix(".csv").read_text().splitlines()) == 1 + lines
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in file.with_suffix(".svg").read_text()


def test_of_attacks_that_are_as_good_the_quickest_is_named():
    config = dataclasses.replace(CONFIG, locks=("deep_lock",))
    rows, lock = Rows(), {"kind": "league", "lock": "deep_lock", "seed": 0}
    about = {
        "no_key": 0.1,
        "right_key": 0.97,
        "images": 9,
        "queries": 0,
        "flops": 2e9,
        "needs": "x",
    }
    reached = {
        "scratch": (0.97, 0.1),
        "fine_tune": (0.6, 0.5),
        "deep_lock_ciphertext_only": (0.97, 9.0),
        "deep_lock_known_plaintext": (0.965, 3.0),
    }
    for name, (accuracy, seconds) in reached.items():
        found = {"attack": name, "accuracy": accuracy, "seconds": seconds}
        key = {"key_right": None, "gave_up": name == "scratch"}
        rows[name] = {"id": name, **lock, **about, **found, **key}
    table = league_grids.strongest(rows, config)
    assert len(table.header) == len(table.rows[0])
    line = dict(zip(table.header, table.rows[0]))
    assert (line["attack"], line["recovered [95 %]"]) == ("deep_lock_known_plaintext", "96.5")
    assert (line["seconds"], line["GFLOP"], line["scratch"]) == ("3.0", "2", "97.0")


def test_the_table_names_what_there_is():
    listed = league_grids.attack_grid().rows
    assert [line[0] for line in listed] == list(ATTACKS)
    assert all(e.against == ANY or set(e.against) <= set(SCHEMES) for e in ATTACKS.values())


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="there is no attack 'magic'; the attacks are scratch"):
        runner.run(league.of("magic"), CONFIG, tmp_path)
    with pytest.raises(
        ValueError, match=r"no attack named is .*pixel_shuffle_chosen_image: pixel_shuffle$"
    ):
        runner.run(
            league.of("pixel_shuffle_chosen_image"),
            Config(data="digits", locks=("deep_lock",)),
            tmp_path,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--list"], 0, "sign_mask_oracle"),
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

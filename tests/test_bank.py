"""The bank of drawn masks: the same for the same seed, and resumable mask by mask."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.trainer_media import BANK_SEED, VARIANTS, TinySet
from trainer.bank import NAMES, Job, Settings, create, draw_bank, draw_rows, open_bank
from trainer.masks import FAMILY_WEIGHTS, choose_families
from unmask_rt.errors import UnmaskError, UsageError

SETTINGS = Settings(BANK_SEED, FAMILY_WEIGHTS)


@pytest.fixture
def fresh(tiny_set: TinySet, tmp_path: Path) -> Path:
    """The prepared faces with an empty bank."""
    for name in ("crops", "mesh"):
        shutil.copy(tiny_set.data / f"{name}.npy", tmp_path)
    create(tmp_path, tiny_set.summary["kept"], VARIANTS, SETTINGS)
    return tmp_path


def test_every_face_has_its_masks(tiny_set: TinySet) -> None:
    bank, count = open_bank(tiny_set.data), tiny_set.summary["kept"]
    crops = np.load(tiny_set.data / "crops.npy")
    assert bank["masked"].shape == (VARIANTS, count, 256, 256, 3) and bank["alpha"].shape == (VARIANTS, count, 256, 256)
    assert (np.asarray(bank["done"]) == 1).all() and np.asarray(bank["family"]).max() < len(NAMES)
    assert len(np.unique(bank["family"])) > 2
    for variant in range(VARIANTS):
        for row in range(count):
            alpha, masked = bank["alpha"][variant, row], bank["masked"][variant, row]
            assert 0.05 < (alpha > 127).mean() < 0.6
            assert (alpha[165:185, 110:146] > 127).mean() > 0.9, "the mouth is free"
            changed = np.abs(masked.astype(int) - crops[row]).max(2)
            assert (changed[alpha > 127] > 4).mean() > 0.7 and (changed[:40] == 0).all()
    assert (bank["masked"][0] != bank["masked"][1]).any(axis=(1, 2, 3)).all(), "the variants are the same"


def test_the_same_seed_draws_the_same_bank_in_any_order(tiny_set: TinySet, fresh: Path) -> None:
    rows = np.random.default_rng(5).permutation(tiny_set.summary["kept"])[:5].tolist()
    assert draw_rows(Job(fresh, 1, tuple(rows), SETTINGS)) == 5
    wanted, found = open_bank(tiny_set.data), open_bank(fresh)
    for name in ("masked", "alpha", "family"):
        assert (np.asarray(found[name][1])[rows] == np.asarray(wanted[name][1])[rows]).all()
    assert np.asarray(found["done"]).sum() == 5 and not np.asarray(found["done"][0]).any()


def test_another_seed_draws_others(tiny_set: TinySet, fresh: Path) -> None:
    draw_rows(Job(fresh, 0, (0, 1, 2), Settings(BANK_SEED + 1, FAMILY_WEIGHTS)))
    assert (open_bank(fresh)["alpha"][0, :3] != open_bank(tiny_set.data)["alpha"][0, :3]).any(axis=(1, 2)).all()


def test_what_is_done_is_not_drawn_again(tiny_set: TinySet, fresh: Path) -> None:
    bank = open_bank(fresh, "r+")
    bank["masked"][0, 2], bank["done"][0, 2] = 77, 1
    draw_rows(Job(fresh, 0, (1, 2, 3), SETTINGS))
    assert (bank["masked"][0, 2] == 77).all()
    wanted = open_bank(tiny_set.data)
    for row in (1, 3):
        assert (bank["masked"][0, row] == wanted["masked"][0, row]).all()
    create(fresh, tiny_set.summary["kept"], VARIANTS, SETTINGS)
    assert np.asarray(open_bank(fresh)["done"]).sum() == 3, "creating again emptied the bank"


def test_a_bank_of_another_set_or_of_other_settings_is_refused(tiny_set: TinySet, fresh: Path) -> None:
    kept = tiny_set.summary["kept"]
    with pytest.raises(UsageError, match="Delete"):
        create(fresh, kept + 1, VARIANTS, SETTINGS)
    with pytest.raises(UsageError, match="Delete"):
        create(fresh, kept, VARIANTS + 1, SETTINGS)
    for other in (Settings(BANK_SEED + 1, FAMILY_WEIGHTS), Settings(BANK_SEED, {"cup": 1.0})):
        with pytest.raises(UsageError, match=r"bank\.json"):
            create(fresh, kept, VARIANTS, other)
    (fresh / "bank" / "bank.json").unlink()
    create(fresh, kept, VARIANTS, SETTINGS)  # one that was drawn before settings were written down


def test_a_bank_that_does_not_fit_on_the_disk_is_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UnmaskError, match="GB"):
        draw_bank(fresh, variants=VARIANTS, seed=BANK_SEED, workers=1)
    with pytest.raises(UsageError, match="at least one"):
        draw_bank(fresh, variants=0)


def test_only_the_families_that_were_chosen_are_drawn(tiny_set: TinySet, fresh: Path) -> None:
    shutil.rmtree(fresh / "bank")
    draw_bank(fresh, variants=2, workers=1, families=choose_families("classic,geometric", without="surgical,gaiter"))
    bank = open_bank(fresh)
    drawn = {NAMES[i] for i in np.unique(bank["family"])}
    assert np.asarray(bank["done"]).all() and len(drawn) > 2
    assert drawn <= {"kn95", "cup", "cloth", "sport", "rectangle", "oval"}

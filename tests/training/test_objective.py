"""What a run of an earlier version needs in order to go on: the same draws, names and settings."""

import hashlib

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlxflow.networks import build
from mlxflow.runtime import mx
from mlxflow.training.config import TrainConfig, from_values
from mlxflow.training.objective import key_for, make_draws

# As runs of version 0.1 have it in their config.json.
EARLIER = {
    "model": {"kind": "text-unet", "text": {"word_dim": 128}, "unet": {}}, "path": "condot", "prediction": "data",
    "floor": 0.05, "weight_cap": 5.0, "times": "logit_normal", "times_mean": -1.8, "times_std": 1.2, "contrast": 0.0,
    "drop": 0.1, "batch": 64, "name_share": 0.3, "shift": 1, "scale": 0.0, "flip": 0.0, "optimizer": "adamw",
    "learning_rate": 0.001, "weight_decay": 0.01, "warmup": 30, "schedule": "constant", "clip": 1.0, "accumulate": 1,
    "ema": 0.9999, "seed": 0, "steps": 0, "epochs": 0.0, "minutes": 0.0, "log_every": 10, "sample_every": 150,
    "validate_every": 150, "checkpoint_every": 100, "keep": 3, "prompts": ["grinning face", "robot"]}


def test_keys_of_seed_purpose_step_and_rank_are_what_they_were():
    assert key_for(0, 11, 7).tolist() == [171822868, 3334742147]
    assert key_for(0, 12, 7, 1).tolist() == [822684110, 2555545917]
    assert key_for(0, 12, 7, 0).tolist() != key_for(0, 12, 7, 1).tolist()


def test_settings_of_an_earlier_run_mean_what_they_meant():
    config = from_values(EARLIER, "config.json")
    new = {n: v for n, v in config.to_dict().items() if n not in EARLIER}
    assert new == {"sigma_min": 0.0, "kl_weight": 1e-3, "commitment": 0.25, "autoencoder": "", "recompute": False,
                   "precision": "float32", "compose": 0.0, "coupling": "independent",
                   "teacher": "", "guidance": 1.0, "rehearsal": 0.0, "frozen": "", "guide_until": 1.0, "variants": 0.0,
                   "workers": 0, "inherit": ""}


def test_the_emoji_models_parameters_have_the_names_and_shapes_they_had():
    arrays = tree_flatten(build(EARLIER["model"]).parameters())
    names = sorted(f"{name} {tuple(a.shape)}" for name, a in arrays)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "d8966d79ec37ed87ffa62b22b40943bbbc4481d115247f8ef010efa68e0d098e"


def test_conditions_are_dropped_a_sample_and_as_often_as_asked():
    draws = make_draws(TrainConfig(drop=0.3), 0, 1, 64, (2, 2, 1))
    kept = np.array([np.array(draws(mx.random.key(i), mx.random.key(i + 1000))[2]) for i in range(100)])
    shares = kept.mean(axis=1)
    assert kept.mean() == pytest.approx(0.7, abs=0.03)
    assert 0.3 < shares.min() and shares.max() < 1  # a batch dropped as one would be all or nothing
    assert make_draws(TrainConfig(drop=0.0), 0, 1, 64, (2,))(mx.random.key(0), mx.random.key(1))[2].all()


def test_two_ranks_have_the_strata_of_one_and_noise_of_their_own():
    shared = mx.random.key(5)
    whole = make_draws(TrainConfig(), 0, 1, 8, (2,))(shared, mx.random.key(1))
    parts = [make_draws(TrainConfig(), rank, 2, 4, (2,))(shared, key_for(0, 12, 3, rank)) for rank in (0, 1)]
    np.testing.assert_allclose(np.concatenate([p[0] for p in parts]), whole[0], rtol=1e-5)
    assert not mx.array_equal(parts[0][1], parts[1][1])

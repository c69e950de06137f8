"""Checkpoints: whole or absent, on any machine, the newest readable one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_input import damage

from vgm.errors import UserError
from vgm.training import checkpoints
from vgm.training.step import TrainState


def make_state(value):
    params = {"a": jnp.full((3,), value), "b": {"c": jnp.full((2, 2), 2 * value)}}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(jnp.asarray(int(value)), params, None, (params,), zero)


def save_some(directory, steps):
    with checkpoints.open_manager(directory, max_to_keep=3) as manager:
        for n in steps:
            state = make_state(float(n))
            checkpoints.save(
                manager, n, state=state, params=state.params, meta={"best": n / 3}
            )


def restore(directory, warnings):
    state = make_state(0.0)
    with checkpoints.open_manager(directory) as manager:
        return checkpoints.restore_latest(
            manager, state, state.params, warn=warnings.append
        )


def params_of(directory, warnings):
    return checkpoints.restore_params(
        directory, make_state(0.0).params, warn=warnings.append
    )


def test_what_was_saved_comes_back_exactly(tmp_path):
    save_some(tmp_path / "c", [1, 2])
    restored = restore(tmp_path / "c", [])
    expected = make_state(2.0)
    chex.assert_trees_all_equal(TrainState(*restored.state), expected)
    chex.assert_trees_all_equal(restored.params, expected.params)
    assert restored.step == 2
    assert restored.meta == {"best": 2 / 3}
    assert all(isinstance(a, np.ndarray) for a in jax.tree.leaves(restored.params))


def test_an_empty_folder_restores_nothing(tmp_path):
    assert restore(tmp_path / "c", []) is None
    with pytest.raises(FileNotFoundError):
        params_of(tmp_path / "c", [])
    with pytest.raises(FileNotFoundError):
        params_of(tmp_path / "d", [])
    assert not (tmp_path / "d").exists()


def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(tmp_path):
    save_some(tmp_path / "c", [1, 2])
    damage(tmp_path / "c" / "2" / "state")
    warnings = []
    restored = restore(tmp_path / "c", warnings)
    assert restored.step == 1
    assert len(warnings) == 1
    assert "checkpoint 2 cannot be read" in warnings[0]
    # Nothing lost, and step 2 can be written again.
    assert (tmp_path / "unreadable-checkpoints" / "2").is_dir()
    save_some(tmp_path / "c", [2])
    assert restore(tmp_path / "c", []).step == 2


def test_where_no_checkpoint_can_be_read_none_is_touched(tmp_path):
    save_some(tmp_path / "c", [1, 2])
    damage(tmp_path / "c")
    before = sorted((tmp_path / "c").rglob("*"))
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        restore(tmp_path / "c", [])
    assert sorted((tmp_path / "c").rglob("*")) == before
    assert not (tmp_path / "unreadable-checkpoints").exists()


def test_what_a_killed_run_left_half_written_goes(tmp_path):
    save_some(tmp_path / "c", [1])
    left = tmp_path / "c" / "2.orbax-checkpoint-tmp-1"
    left.mkdir()
    assert restore(tmp_path / "c", []).step == 1
    assert not left.exists()


def test_parameters_restore_as_host_arrays(tmp_path):
    save_some(tmp_path / "c", [5])
    params = params_of(tmp_path / "c", [])
    chex.assert_trees_all_equal(params, make_state(5.0).params)
    assert all(isinstance(a, np.ndarray) for a in jax.tree.leaves(params))


def test_parameters_of_an_older_checkpoint_are_said_to_be(tmp_path):
    save_some(tmp_path / "c", [1, 2])
    damage(tmp_path / "c" / "2" / "params")
    warnings = []
    params = params_of(tmp_path / "c", warnings)
    chex.assert_trees_all_equal(params, make_state(1.0).params)
    assert len(warnings) == 1
    assert "checkpoint 2 in" in warnings[0]
    assert "going back to the one before" in warnings[0]

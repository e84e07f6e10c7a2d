"""The leaves in a checkpoint: their names and shapes, and those left out."""

import jax
import jax.numpy as jnp
import pytest

from gpt4x.checkpoints import layout
from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
from gpt4x.errors import UserError
from tests.checkpoints.states import abstract, assert_same, CONFIG, DATA, make_state


@pytest.mark.parametrize("change, words", [
    (lambda state: make_state(width=8), ["params/decoder/layers/mlp/wi", "float32[2, 16, 32]", "float32[2, 8, 32]"]),
    (lambda state: state._replace(step=jnp.float32(0)), ["step is int32[]", "float32[]"]),
    (lambda state: state._replace(memory=None), ["memory/hidden is bfloat16[2, 8, 4, 16]", "missing"]),
    (lambda state: state._replace(params=state.params | {"new": state.step}), ["params/new is missing", "int32[]"]),
])
def test_other_shapes(saved, change, words):
  with pytest.raises(UserError) as error:
    Checkpoints(str(saved)).restore(abstract(change(make_state())))
  message = str(error.value)
  assert "\n" not in message and all(word in message for word in words), message
  assert Checkpoints(str(saved)).steps() == [1, 2]


def test_names_of_leaves():
  leaves = layout.leaves_by_name({"params": {"a": [jnp.zeros(1), None]}, "step": jnp.int32(0)})
  assert list(leaves) == ["params/a/0", "step"]
  assert [list(layout.of_item(leaves, item)) for item in layout.ITEMS] == [["params/a/0"], ["step"]]


def test_what_is_frozen_is_not_saved(tmp_path):
  """A teacher's parameters come from elsewhere; they may even have changed their layout since."""
  teacher = {"params": {"w": jnp.arange(6.0)}, "heads": [jnp.ones(2)]}
  state = {**make_state(1)._asdict(), "frozen": teacher}
  writer = Checkpoints(str(tmp_path), CheckpointConfig())
  writer.save(1, state, DATA, CONFIG, seed=0)
  writer.close()
  for file in ("checkpoint.json", "state/_METADATA", "params/_METADATA"):
    assert "frozen" not in (tmp_path / "checkpoints" / "1" / file).read_text()
  other = {"params": {"w": jnp.arange(8.0)}}
  wanted = {**abstract(state), "frozen": other}
  _, restored, _ = writer.restore(wanted)
  assert restored["frozen"]["params"]["w"] is other["params"]["w"]
  assert_same({**restored, "frozen": teacher}, state)
  shapes = jax.eval_shape(lambda: other)
  assert writer.restore({**wanted, "frozen": shapes})[1]["frozen"] == shapes  # The caller has to fill them in.
  bare = {name: tree for name, tree in wanted.items() if name != "frozen"}
  assert_same(writer.restore(bare)[1], {name: tree for name, tree in state.items() if name != "frozen"})

"""Every optimizer makes the same steps on a mesh."""

import numpy as np
import pytest

from tests.training.steps import run


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "muon"])
def test_every_optimizer_is_sharded(optimizer):
  mesh = (("data", 2), ("fsdp", 2), ("tensor", 2))
  one, eight = run(optimizer=optimizer)[1], run(optimizer=optimizer, mesh=mesh)[1]
  np.testing.assert_allclose([m["loss"] for m in one], [m["loss"] for m in eight], rtol=2e-3)

import pytest

from tests.checkpoints import states


@pytest.fixture(name="saved", scope="session")
def _saved(tmp_path_factory):
  """A model directory with checkpoints of steps 1 and 2; copy it before changing it."""
  model_dir = tmp_path_factory.mktemp("saved")
  states.save_steps(model_dir, 1, 2)
  return model_dir

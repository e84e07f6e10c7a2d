"""TensorBoard as a tracker: event files in the model directory."""

import dataclasses

import gin

from gpt4x import storage
from gpt4x.errors import UserError
from gpt4x.training.events import Events
from gpt4x.training.trackers.tracker import Run


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TensorBoard:
  """Writes DIR/events.out.tfevents.*"""

  def start(self, run: Run) -> Events:
    events = Events(storage.path(run.model_dir))
    try:
      events.truncate(run.step)
    except OSError as error:
      raise UserError(f"TensorBoard's events in {run.model_dir} cannot be written ({error.strerror}): free or unlock"
                      " the model directory and start again") from error
    return events

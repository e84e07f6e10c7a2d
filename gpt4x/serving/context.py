"""What every route is given."""

from collections.abc import Mapping
import dataclasses
import sys
import traceback

from gpt4x.serving.contract import Served
from gpt4x.serving.fields import Fields
from gpt4x.serving.lifecycle import Lifecycle
from gpt4x.serving.metrics import Metrics
from gpt4x.serving.problems import Problem, wrong
from gpt4x.serving.settings import Settings
from gpt4x.serving.turns import Turns


@dataclasses.dataclass(frozen=True)
class Context:
  models: Mapping[str, Served]
  settings: Settings
  lifecycle: Lifecycle
  metrics: Metrics
  media: Turns = dataclasses.field(default_factory=lambda: Turns("with media"))  # To decode what comes with them.

  def model(self, fields: Fields) -> Served:
    """The model that a request names, which must be one of the list."""
    name = fields.text("model")
    if name is None:
      raise wrong("model is missing", "model")
    return self.named(name)

  def named(self, name: str) -> Served:
    if (found := self.models.get(name)) is None:
      raise Problem(404, "there is no such model: GET /v1/models lists them", param="model", code="model_not_found")
    return found

  def ready(self) -> bool:
    return not self.lifecycle.draining and all(model.ready() for model in self.models.values())

  @staticmethod
  def log_defect(error: BaseException) -> None:
    """Where in the code an error was, without its message, which may hold a prompt."""
    frames = "".join(f" {frame.filename.rpartition('/')[2]}:{frame.lineno}"
                     for frame in traceback.extract_tb(error.__traceback__)[-6:])
    print(f"gpt4x: defect: {type(error).__name__} at{frames}", file=sys.stderr, flush=True)

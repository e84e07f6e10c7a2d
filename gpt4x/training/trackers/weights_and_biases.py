"""Weights & Biases as a tracker: pip install 'gpt4x[wandb]'."""

from collections.abc import Collection, Mapping
import dataclasses
import os
from typing import Any, ClassVar, Literal
import uuid

import gin
import numpy as np

from gpt4x import run_directory
from gpt4x.errors import one_line, UserError
from gpt4x.media.medium import Audio
from gpt4x.training.trackers.link import Link, settings, values_of
from gpt4x.training.trackers.tracker import Run


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WeightsAndBiases:
  """A W&B run for a model directory. Going back to an earlier step makes a new one in the same group.

  Attributes:
    project: its project.
    mode: 'online', or 'offline', which writes DIR/wandb for `wandb sync`; None: as $WANDB_MODE says, else online.
    entity: a user or team; None: your own.
    name: of the run; None: that of the model directory.
    group: None: a group for each model directory.
    options: further arguments of `wandb.init`, such as {'tags': ['ablation']}.
  """

  PACKAGE: ClassVar[str] = "wandb"

  project: str = "gpt4x"
  mode: Literal["online", "offline"] | None = None
  entity: str | None = None
  name: str | None = None
  group: str | None = None
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def start(self, run: Run) -> "_Tracking":
    import wandb
    link = Link(run, run_directory.WANDB)
    goes_on, identity = link.id is not None, link.id or uuid.uuid4().hex[:12]
    arguments: dict[str, Any] = {
        "project": self.project, "mode": self.mode, "entity": self.entity, "id": identity, "resume": "allow",
        "name": self.name or os.path.basename(run.model_dir.rstrip("/")),
        "group": self.group or link.first or identity, "config": settings(run.gin_text), "allow_val_change": True,
        "dir": None if "://" in run.model_dir else run.model_dir, "reinit": "create_new",
        # No hold on the terminal, and an end that comes: what is not sent by then stays in DIR/wandb for `wandb sync`.
        "settings": wandb.Settings(console="off", quiet=True, finish_timeout=600)}
    try:
      service = wandb.init(**arguments | dict(self.options))
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
      raise UserError(f"W&B refuses to start ({one_line(error)}): mend that, or set WeightsAndBiases.mode = 'offline'"
                      ) from error
    link.join(identity)
    # What the service has: steps before its own next one. Offline nobody knows: all that was ever written.
    written = {(line["step"], line["split"]) for line in (*run.kept, *run.retaken)} if goes_on else set()
    tracking = _Tracking(service, written if service.offline else set())
    for line in run.kept:
      tracking.write(line["step"], values_of(line))
    return tracking


class _Tracking:
  """Steps that are taken again are not sent again: W&B's steps only rise, and on the same machines they are equal."""

  def __init__(self, service: Any, has: Collection[tuple[int, str]]):
    self._service, self._has, self._next = service, has, service.starting_step

  def write(self, step: int, values: Mapping[str, float]) -> None:
    new = {name: value for name, value in values.items() if (step, name.split("/")[0]) not in self._has}
    if new and step >= self._next:
      self._service.log(new, step=step)  # Hands it to W&B's own process, so training does not wait.

  def show(self, step: int, name: str, picture: np.ndarray, sounds: Mapping[str, Audio]) -> None:
    """The picture alone: W&B takes no sounds but by a package that may be missing."""
    import wandb
    if (step, name.split("/")[0]) not in self._has and step >= self._next:
      self._service.log({name: wandb.Image(picture)}, step=step)

  def flush(self) -> None:
    """W&B's own process outlives this one."""

  def close(self) -> None:
    self._service.finish()

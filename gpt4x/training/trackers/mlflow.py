"""MLflow as a tracker: pip install 'gpt4x[mlflow]'."""

import collections
from collections.abc import Collection, Mapping, Sequence
from concurrent import futures
import dataclasses
import os
import time
from typing import Any, ClassVar

import gin
import numpy as np

from gpt4x import run_directory
from gpt4x.media.medium import Audio
from gpt4x.training.trackers.link import Link, settings, values_of
from gpt4x.training.trackers.tracker import Run

_MOST = 1000, 100  # Metrics and parameters that MLflow takes at a time.


@gin.configurable("MLflow")
@dataclasses.dataclass(frozen=True)
class MLflow:
  """An MLflow run for a model directory. Going back to an earlier step makes a new one, a child of the first.

  Attributes:
    experiment: the name of its experiment, which is made if there is none.
    tracking_uri: a server, or 'sqlite:////PATH/mlflow.db'; None: as $MLFLOW_TRACKING_URI says, else MLflow's default.
    name: of the run; None: that of the model directory.
  """

  PACKAGE: ClassVar[str] = "mlflow"

  experiment: str = "gpt4x"
  tracking_uri: str | None = None
  name: str | None = None

  def start(self, run: Run) -> "_Tracking":
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    client, link = MlflowClient(self.tracking_uri), Link(run, run_directory.MLFLOW)
    identity = link.id
    if identity is not None:
      try:
        client.update_run(identity, status="RUNNING")
      except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
          raise
        identity = None  # It was deleted, or this is another server.
    if identity is None:
      found = client.get_experiment_by_name(self.experiment)
      experiment = found.experiment_id if found else client.create_experiment(self.experiment)
      tags = {"gpt4x.model_dir": run.model_dir}
      if link.first and run.went_back:
        tags |= {"mlflow.parentRunId": link.first, "gpt4x.went_back_to": str(run.step)}
      name = self.name or os.path.basename(run.model_dir.rstrip("/"))
      identity = client.create_run(experiment, run_name=name, tags=tags).info.run_id
      link.join(identity)
      params = [Param(name, str(value)[:6000]) for name, value in settings(run.gin_text).items()]
      for start in range(0, len(params), _MOST[1]):
        client.log_batch(identity, params=params[start:start + _MOST[1]])
    # It has what it says: nothing of that is sent again, and what a killed run or a lost network kept from it is.
    splits = {line["split"] for line in (*run.kept, *run.retaken)}
    has = {(metric.step, split) for split in splits for metric in client.get_metric_history(identity, f"{split}/loss")}
    tracking = _Tracking(client, identity, has)
    tracking.send([(line["step"], values_of(line)) for line in run.kept if (line["step"], line["split"]) not in has])
    return tracking


class _Tracking:
  """Sends from a thread of its own, so that training does not wait for a server."""

  def __init__(self, client: Any, identity: str, has: Collection[tuple[int, str]]):
    self._client, self._identity, self._has = client, identity, has
    self._thread = futures.ThreadPoolExecutor(1, "mlflow")
    self._sent = collections.deque[futures.Future[None]]()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._raise_failures(wait=False)
    if new := {name: value for name, value in values.items() if (step, name.split("/")[0]) not in self._has}:
      self._sent.append(self._thread.submit(self.send, [(step, new)]))

  def show(self, step: int, name: str, picture: np.ndarray, sounds: Mapping[str, Audio]) -> None:
    """The picture alone, an artifact that a step taken again writes again."""
    self._sent.append(self._thread.submit(self._client.log_image, self._identity, picture, f"{name}_{step}.png"))

  def flush(self) -> None:
    """What a killed run has not sent is sent as it goes on."""

  def close(self) -> None:
    self._raise_failures(wait=True)
    self._thread.shutdown()
    self._client.set_terminated(self._identity)

  def send(self, lines: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    from mlflow.entities import Metric
    now = int(1000 * time.time())
    metrics = [Metric(name, float(value), now, step) for step, values in lines for name, value in values.items()]
    for start in range(0, len(metrics), _MOST[0]):
      self._client.log_batch(self._identity, metrics=metrics[start:start + _MOST[0]])

  def _raise_failures(self, wait: bool) -> None:
    while self._sent and (wait or self._sent[0].done()):
      try:
        self._sent.popleft().result()
      except Exception:
        self._thread.shutdown(wait=False, cancel_futures=True)  # The rest would fail as slowly.
        raise

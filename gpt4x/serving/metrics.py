"""What a server tells Prometheus."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from gpt4x.serving.contract import Served

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_GAUGES = {"running": "requests_running", "waiting": "requests_waiting", "slots": "slots"}


class Metrics:
  """Counts and times of all models; labels have names of models and paths alone."""

  def __init__(self, models: Mapping[str, Served]):
    self._registry, self._models = CollectorRegistry(), models
    self.answers = Counter("gpt4x_requests", "Answers by path and status.", ["path", "status"],
                           registry=self._registry)
    self.first = Histogram("gpt4x_time_to_first_token_seconds", "From a request to its first token.", ["model"],
                           buckets=_SECONDS, registry=self._registry)
    self.each = Histogram("gpt4x_time_per_token_seconds", "Of each token behind the first.", ["model"],
                          buckets=_SECONDS, registry=self._registry)
    self._registry.register(self)

  def count(self, path: str, status: int) -> None:
    self.answers.labels(path, str(status)).inc()

  def collect(self) -> Iterator[Metric]:
    """What the models say of themselves."""
    found = {name: model.figures() for name, model in self._models.items()}
    for key in sorted({key for figures in found.values() for key in figures} - {"compilations"}):
      kind = GaugeMetricFamily if key in _GAUGES else CounterMetricFamily
      metric = kind(f"gpt4x_{_GAUGES.get(key, key)}", f"{key.replace('_', ' ')} of a model.", labels=["model"])
      for name, figures in found.items():
        metric.add_metric([name], figures.get(key, 0))
      yield metric
    compilations = max((figures.get("compilations", 0) for figures in found.values()), default=0)
    yield CounterMetricFamily("gpt4x_compilations", "Programs compiled since the models were ready.",
                              value=compilations)

  def text(self) -> bytes:
    return generate_latest(self._registry)

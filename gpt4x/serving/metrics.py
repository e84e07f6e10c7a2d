"""Figures for Prometheus, in a registry of their own; the labels are routes, statuses and names of models alone."""

from collections.abc import Callable, Iterable, Mapping
import time
from typing import Any

import prometheus_client
from prometheus_client import core
from prometheus_client.registry import Collector

from gpt4x.serving.contract import Delta, Event, Served

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_NOW = {"running": "requests that hold a slot", "waiting": "requests in the queue", "slots": "slots there are"}
_COUNTED = {"prompt_tokens": "tokens of prompts", "generated_tokens": "tokens drawn",
            "cached_tokens": "tokens of prompts that were known", "compilations": "programs compiled"}


class Metrics:

  def __init__(self, models: Mapping[str, Served]):
    self._registry = prometheus_client.CollectorRegistry()
    one = lambda kind, name, text, labels, **more: kind(name, text, labels, registry=self._registry, **more)
    self._requests = one(prometheus_client.Counter, "gpt4x_requests", "requests", ["route", "status"])
    self._seconds = one(prometheus_client.Histogram, "gpt4x_request_seconds", "whole requests", ["route"],
                        buckets=_SECONDS)
    self._first = one(prometheus_client.Histogram, "gpt4x_time_to_first_token_seconds",
                      "from a request to its first token", ["model"], buckets=_SECONDS)
    self._each = one(prometheus_client.Histogram, "gpt4x_time_per_token_seconds",
                     "between tokens of one continuation", ["model"], buckets=(0.001, 0.0025, *_SECONDS))
    self._registry.register(_Figures(models))

  def request(self, route: str, status: int, seconds: float) -> None:
    self._requests.labels(route, str(status)).inc()
    self._seconds.labels(route).observe(seconds)

  def timing(self, model: str) -> Callable[[int, Event], None]:
    """What is to see the events of a request from now on, and measures when tokens come."""
    start, last = time.monotonic(), dict[int, float]()

    def see(index: int, event: Event) -> None:
      if isinstance(event, Delta) and event.tokens:
        now = time.monotonic()
        if index in last:
          self._each.labels(model).observe((now - last[index]) / len(event.tokens))
        else:
          self._first.labels(model).observe(now - start)
        last[index] = now
    return see

  def text(self) -> bytes:
    return prometheus_client.generate_latest(self._registry)


class _Figures(Collector):
  """What the models say of themselves, asked at each scrape."""

  def __init__(self, models: Mapping[str, Served]):
    self._models = models

  def collect(self) -> Iterable[Any]:
    figures = {name: model.figures() for name, model in self._models.items()}
    families: list[tuple[Any, str, str]] = [(core.GaugeMetricFamily, name, text) for name, text in _NOW.items()]
    families += [(core.CounterMetricFamily, name, text) for name, text in _COUNTED.items()]
    for kind, name, text in families:
      family = kind(f"gpt4x_{name}", text, labels=["model"])
      for model, values in figures.items():
        if name in values:
          family.add_metric([model], values[name])
      yield family

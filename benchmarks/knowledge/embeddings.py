"""Embeddings of WN18RR's entities, as yardsticks: DistMult, TransE and RotatE, small ones in JAX.

Mean reciprocal rank of 3,134 test triples, asked for either end, among all 41,105 names; known answers of the other
splits are left out, and ties have their mean rank. Each relation has a reciprocal one for the other direction, and
candidates in training are the entities of a sample that a batch shares: of all 41,105 each time, an epoch would take
minutes. The epoch is chosen on validation triples.

  distmult_mrr  the peer is LibKGE's .452, tuned at length
  transe_mrr    LibKGE's .228; distances are Euclidean, which makes them a matrix product
  rotate_mrr    the paper's .476 (arXiv:1902.10197); for information

    python -m benchmarks.knowledge.embeddings --data=DIR [--seeds=1] [--models=distmult,transe,rotate] [--dry_run]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
import time

import numpy as np

from benchmarks import harness, quickstart, run
from benchmarks.harness import Row

SPLITS = "train", "valid", "test"


@dataclasses.dataclass(frozen=True)
class Method:
  """How one kind of embedding is trained.

  Attributes:
    width: numbers of an entity.
    rate: of Adagrad for a product, of Adam for a distance.
    epochs: at most.
    negatives: entities that a batch shares.
    cubes: what the cubes of a triple's numbers count for (N3, arXiv:1806.07297).
    margin: what a distance is subtracted from; None: scores are products.
    peer: the published figure.
    within: how far below it the row may be; None: for information.
  """

  width: int
  rate: float
  epochs: int
  negatives: int
  cubes: float = 0.0
  margin: float | None = None
  peer: float = 0.0
  within: float | None = None


METHODS = {
    "distmult": Method(256, 0.1, 30, 2048, cubes=0.1, peer=0.452, within=0.02),
    "transe": Method(128, 0.003, 60, 1024, margin=6.0, peer=0.228, within=0.02),
    "rotate": Method(256, 0.003, 60, 1024, margin=6.0, peer=0.476),
}
BATCH, LOOK = 1024, 3  # Queries of a step; epochs between two looks at the validation triples.


def rows(data: str, seeds: int, models: Sequence[str]) -> Iterator[Row]:
  for name in models:
    method = METHODS[name]
    found = [harness.in_a_process(measured, data, name, seed) for seed in range(seeds)]
    value, error = quickstart.mean_and_error(found)
    goal = "" if method.within is None else f"value >= {method.peer - method.within:.3f}"
    yield Row(f"knowledge/{name}_mrr", value, "MRR", method.peer, value / method.peer, error=error, goal=goal)


@dataclasses.dataclass(frozen=True)
class Graph:
  """Triples as numbers: [n, 3] of head, relation, tail for each split, and all known answers of a question."""

  triples: Mapping[str, np.ndarray]
  entities: int
  relations: int
  known: Mapping[tuple[int, int], set[int]]  # (entity, relation, or relation + R asked backwards): the other ends.

  def questions(self, split: str) -> np.ndarray:
    """[2 n, 3]: entity, relation, answer; those for the tail first."""
    head, relation, tail = self.triples[split].T
    return np.concatenate([self.triples[split], np.stack([tail, relation + self.relations, head], 1)])


def read(data: str) -> Graph:
  numbers: tuple[dict[str, int], dict[str, int]] = {}, {}
  entity, relation = (lambda name, of=of: of.setdefault(name, len(of)) for of in numbers)
  triples = {}
  for split in SPLITS:
    lines = (line.split("\t") for line in pathlib.Path(data, "wn18rr", f"{split}.txt").read_text().splitlines())
    triples[split] = np.array([(entity(head), relation(kind), entity(tail)) for head, kind, tail in lines], np.int32)
  graph = Graph(triples, len(numbers[0]), len(numbers[1]), {})
  known: dict[tuple[int, int], set[int]] = {}
  for split in SPLITS:
    for one, kind, answer in graph.questions(split).tolist():
      known.setdefault((one, kind), set()).add(answer)
  return dataclasses.replace(graph, known=known)


def measured(data: str, name: str, seed: int) -> float:
  """The test MRR at the epoch that is best on validation triples."""
  import jax
  import jax.numpy as jnp
  import optax
  graph, method = read(data), METHODS[name]
  questions, rng = graph.questions("train"), np.random.default_rng(seed)
  keys = jax.random.split(jax.random.key(seed), 2)
  width_of_relation = method.width // 2 if name == "rotate" else method.width
  params = {"entities": 0.1 * jax.random.normal(keys[0], (graph.entities, method.width)),
            "relations": (1.0 if name == "distmult" else 0.1) * jax.random.normal(
                keys[1], (2 * graph.relations, width_of_relation))}
  steps = -(-len(questions) // BATCH) * method.epochs
  optimizer = optax.adagrad(method.rate, 0.0, 1e-10) if method.margin is None else optax.adam(
      optax.cosine_decay_schedule(method.rate, steps, 0.05))

  def query(params, entity, relation):
    """What the candidates are compared with, [B, width]."""
    x, r = params["entities"][entity], params["relations"][relation]
    if name == "distmult":
      return x * r
    if name == "transe":
      return x + r
    real, imaginary = jnp.split(x, 2, -1)
    return jnp.concatenate([real * jnp.cos(r) - imaginary * jnp.sin(r), real * jnp.sin(r) + imaginary * jnp.cos(r)], -1)

  def compare(x, candidates):
    """Scores [B, n] of candidates [n, width]."""
    product = x @ candidates.T
    if method.margin is None:
      return product
    squares = jnp.sum(x**2, -1)[:, None] + jnp.sum(candidates**2, -1) - 2 * product
    return method.margin - jnp.sqrt(jnp.maximum(squares, 1e-9))

  def loss(params, batch, negatives):
    entity, relation, answer = batch.T
    x = query(params, entity, relation)
    target = params["entities"][answer]
    right = (jnp.sum(x * target, -1) if method.margin is None else
             method.margin - jnp.sqrt(jnp.sum((x - target)**2, -1) + 1e-9))
    wrong = compare(x, params["entities"][negatives])
    wrong = jnp.where(negatives == answer[:, None], -1e9, wrong)
    if method.margin is None:  # The softmax over all entities, whose share the sample stands for.
      wrong += jnp.log(graph.entities / method.negatives)
      numbers = params["entities"][entity], params["relations"][relation], target
      cubes = sum(jnp.sum(jnp.abs(one)**3) for one in numbers) / len(batch)
      return jnp.mean(jnp.logaddexp(right, jax.nn.logsumexp(wrong, -1)) - right) + method.cubes * cubes
    weights = jax.lax.stop_gradient(jax.nn.softmax(wrong, -1))  # Self-adversarial, arXiv:1902.10197.
    return jnp.mean(-jax.nn.log_sigmoid(right) - jnp.sum(weights * jax.nn.log_sigmoid(-wrong), -1))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch, negatives):
    value, gradients = jax.value_and_grad(loss)(params, batch, negatives)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value

  @jax.jit
  def scores(params, entity, relation):
    return compare(query(params, entity, relation), params["entities"])

  state, started, best = optimizer.init(params), time.time(), (0.0, 0.0)
  for epoch in range(1, method.epochs + 1):
    order, losses = rng.permutation(len(questions)), []
    for start in range(0, len(order) - BATCH + 1, BATCH):
      params, state, value = step(params, state, questions[order[start:start + BATCH]],
                                  rng.integers(0, graph.entities, method.negatives))
      losses.append(value)
    if epoch % LOOK == 0 or epoch == method.epochs:
      look = mrr(graph, "valid", functools.partial(scores, params), sample=1000)
      print(f"{name} {seed}: epoch {epoch}, {time.time() - started:.0f} s, loss {np.mean(losses):.3f},"
            f" validation MRR {look:.4f}", flush=True)
      if look > best[0]:
        best = look, mrr(graph, "test", functools.partial(scores, params))
  return best[1]


def mrr(graph: Graph, split: str, scores, sample: int | None = None, rows: int = 256) -> float:
  """The filtered mean reciprocal rank of a split's questions, or of the first so many of either direction."""
  from gpt4x.evaluation import ranking
  questions = graph.questions(split)
  if sample:
    half = len(questions) // 2
    questions = np.concatenate([questions[:sample], questions[half:half + sample]])
  ranks = []
  for start in range(0, len(questions), rows):
    batch = questions[start:start + rows]
    filled = np.resize(batch, (rows, 3))
    found = np.asarray(scores(filled[:, 0], filled[:, 1]))
    ranks += [ranking.rank_of(row, answer, graph.known[entity, relation])
              for row, (entity, relation, answer) in zip(found, batch.tolist())]
  return ranking.summary(ranks)["mrr"]


def main() -> None:
  command = "python -m benchmarks.knowledge.embeddings"
  parser = argparse.ArgumentParser(prog=command)
  parser.add_argument("--data", required=True, metavar="DIR", help="the directory of the public sets")
  parser.add_argument("--seeds", type=int, default=1, help="models of each kind (default: %(default)s)")
  parser.add_argument("--models", default=",".join(METHODS), help="(default: %(default)s)")
  parser.add_argument("--dry_run", action="store_true", help="keep no rows")
  arguments = parser.parse_args()
  run.keep_seeds(rows(os.path.abspath(arguments.data), arguments.seeds, arguments.models.split(",")), arguments.seeds,
                 f"{command} --data=DIR", arguments.dry_run)


if __name__ == "__main__":
  main()

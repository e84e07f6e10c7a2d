"""How a decoder of Fashion-MNIST is judged: by what it draws, and by what it names."""

from collections.abc import Callable, Sequence
import itertools

import numpy as np

from benchmarks.media import data, fashion

GUIDANCE, TEMPERATURE = 1.0, 1.0
MOST_JUDGED = 3000  # Samples that the classifier sees.
SPAN = 60  # Ids of an image: codes, ends of rows, sizes, begin and end.
AT_ONCE = 40  # Images whose names are scored together.


def of_samples(source: str, run: str, seed: int, count: int) -> dict[str, float]:
  """What so many samples of a run are worth, as many for each class."""
  from gpt4x.commands import reading
  from gpt4x.evaluation import classification, features
  from gpt4x.evaluation.media import nearest_distances
  from gpt4x.evaluation.samples import Example, MediaSampler
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(run)
  vocabulary = experiment.data.vocabulary
  sampler = MediaSampler(experiment, "validation", guidance=GUIDANCE, temperature=TEMPERATURE, seed=seed,
                         batch_size=200)
  prompts = [tuple(vocabulary.encode(name)) for name in data.CLASSES]
  room = np.zeros(SPAN, np.int32)  # So many ids may be drawn, and one more.
  _, params = experiment.restore_params(run, Partitioner(num_devices=1))
  drawn = sampler.draw(params, [Example(prompts[i % len(prompts)], room, "image") for i in range(count)])
  whole = [(i % len(prompts), medium.pixels) for i, (medium, complete) in enumerate(drawn)
           if complete and medium is not None and medium.pixels.shape == (28, 28, 1)]
  labels, made = (np.array(some) for some in zip(*whole))
  (train, _), (test, real_labels) = (data.fashion(source, split) for split in ("train", "test"))
  train, test = train[..., None], test[..., None]
  some = slice(MOST_JUDGED)
  return {"illegal": count - len(whole),
          "cas": 100 * classification.classification_accuracy_score(
              features.hog(made[some]), labels[some], features.hog(test), real_labels),
          "nearest": float(nearest_distances(made, train).mean() / nearest_distances(test, train).mean())}


def accuracy_by_views(source: str, run: str) -> float:
  """The share of test images whose likeliest name, over all views of each, is right."""
  pixels, labels = data.fashion(source, "test")
  score, total = scorer(run), np.zeros((len(pixels), len(data.CLASSES)))
  for (down, right), mirrored in itertools.product(((0, 0), (-1, 0), (1, 0)), (False, True)):
    found = score([fashion.moved(image, down, right, mirrored) for image in pixels])
    total += found - np.logaddexp.reduce(found, 1, keepdims=True)
  return float(np.mean(np.argmax(total, 1) == labels))


def scorer(run: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
  """A function of images [H, W], of one size, that gives the log-likelihood of each class's name, [n, classes]."""
  import jax
  import jax.numpy as jnp

  from gpt4x.commands import reading
  from gpt4x.media.medium import Image
  from gpt4x.partitioning import Partitioner
  experiment = reading.saved_experiment(run)
  vocabulary, model = experiment.data.vocabulary, experiment.language_model
  _, params = experiment.restore_params(run, Partitioner(num_devices=1))
  names = [[*vocabulary.encode(name), vocabulary.eos_id] for name in data.CLASSES]
  longest = max(map(len, names))
  names = np.array([name + [0] * (longest - len(name)) for name in names], np.int32)

  @jax.jit
  def score(params, inputs):
    """Of inputs [n, I] each with each name."""
    count, length = inputs.shape[0], inputs.shape[1] + 1
    ones = jnp.ones((count, length), jnp.int32)
    seen = model.forward(params, jnp.pad(inputs, ((0, 0), (1, 0))), model.initial_memory(count, length, projected=True),
                         ones, ones)
    targets = jnp.tile(names, (count, 1))
    memory, documents = seen.memory.repeat(len(names)), (targets[:, 1:] > 0).astype(jnp.int32)
    hidden = model.forward(params, targets[:, :-1], memory, documents).hidden
    hidden = jnp.concatenate([jnp.repeat(seen.hidden[:, -1:], len(names), 0), hidden], 1)
    found = model.token_log_probs(params, hidden, targets)
    return jnp.sum(jnp.where(targets > 0, found, 0), -1).reshape(count, -1)

  def of_images(images):
    spans = vocabulary.encode_media([Image(np.ascontiguousarray(image)[..., None]) for image in images])
    inputs = np.stack([vocabulary.layout.flatten(span) for span in spans])
    pieces = [inputs[start:start + AT_ONCE] for start in range(0, len(inputs), AT_ONCE)]
    return np.concatenate([score(params, np.resize(piece, (AT_ONCE, piece.shape[1])))[:len(piece)] for piece in pieces])

  return of_images

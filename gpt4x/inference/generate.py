"""Text by the model of a run, and media by one that knows them."""

from collections.abc import Iterator, Sequence
import functools
from typing import Any
import zlib

import gin

from gpt4x.data import infilling, vocabularies
from gpt4x.errors import UserError
from gpt4x.experiment import Experiment
from gpt4x.inference import media
from gpt4x.inference.engine import Engine
from gpt4x.inference.media import Output, Prompt
from gpt4x.inference.nearest_neighbours import Neighbours
from gpt4x.inference.sampling import Sampling
from gpt4x.inference.text import Completion, Text
from gpt4x.media.medium import Medium
import gpt4x.media.vocabulary  # noqa: F401  Registers its class, which a run may have.
from gpt4x.partitioning import Partitioner

MAX_TOKENS = 256  # Of text, unless it is said.


def generate(model_dir: str, experiment: Experiment, prompt: str, *, max_tokens: int = MAX_TOKENS, seed: int = 0,
             stop: Sequence[str] = (), **options: Any) -> Iterator[str]:
  """Yields the continuation of one prompt, piece by piece; the arguments are those of `Generator` and its calls."""
  return Generator(model_dir, experiment, **options).stream(prompt, max_tokens=max_tokens, seed=seed, stop=stop)


@gin.configurable("generate", allowlist=["window"])
class Generator:
  """The model of a run, as it continues text. A text ends with its document, before a stop, or after max_tokens.

  The same prompt, seed and sample number give the same text, whatever is generated beside it. A model that knows media
  takes them in a `prompt`, and its continuation may be any `output`; `parts` gives the media in it.
  """

  def __init__(self, model_dir: str, experiment: Experiment, *, sampling: Sampling = Sampling(),
               step: int | None = None, window: int | None = None, output: Output | None = None, guidance: float = 1.0,
               suffix: str | None = None, marks: bool = False, datastore: str | None = None):
    """Prepares to generate.

    Args:
      model_dir: a run's directory; nothing else is read.
      experiment: the run's own.
      sampling: how tokens are drawn.
      step: the checkpoint; None: the newest.
      window: latest positions that each token attends to; None: a segment and the longer of the two memories.
      output: what a continuation is to be; None: text alone.
      guidance: how often the difference that a prompt makes to the logits counts (arXiv:2207.12598); 1: once.
      suffix: what stands behind the text that is to be filled in (`data/infilling.py`), or with `marks` behind a hidden
        span (`data/denoising.py`); None: nothing is known of it.
      marks: whether names of marks in a prompt, such as <extra_id_0>, are these, and a continuation may have some.
      datastore: the directory of one whose neighbours have a part in what is drawn; None: none.
    """
    self._model_dir, self._experiment, self._step = model_dir, experiment, step
    model = experiment.language_model
    if datastore:
      model = Neighbours.of(datastore, experiment, model_dir, step).model(model)
    self._vocabulary: Any = vocabularies.load(model_dir)
    self.window = experiment.decoding_window(window)
    parts = getattr(experiment.dataset, "parts", {"": experiment.dataset}).values()
    # Prompts with marks are inputs of examples; others are read as the first part reads documents.
    self._bidirectional = "prefix_lm" in [one.feature_converter for one in parts][:None if marks else 1]
    self._ids = range(vocabularies.first_text_id(self._vocabulary), model.config.vocab_size)
    self._suffix, self._marks = suffix, marks
    self._said = int(marks and suffix is not None)  # The mark of the span, which is what targets begin with.
    num_ids, self._end_id = drawn(self._vocabulary, suffix is not None, marks)
    self._ends = None if self._end_id is None else {self._end_id}
    self._output, self._guidance = output, guidance
    self._max_tokens = media.max_tokens(self._vocabulary, output) if output else MAX_TOKENS
    eos = self._vocabulary.eos_id
    self._engine = Engine(model, self.window, self._end_id, num_ids, sampling, first_id=self._ids.start,
                          grammar=media.grammar(self._vocabulary, output), guidance=guidance,
                          start_id=vocabularies.start_id(self._vocabulary),
                          never=() if eos in (None, self._end_id) else [eos])

  def prompt(self, text: str, given: Sequence[Medium] = ()) -> str | Prompt:
    """A prompt whose media stand at the marks <image>, <audio> and <video> of its text, or before it without any.

    With a suffix it is what stands before the text that is to be filled in.
    """
    if self._said:
      hidden = [self._vocabulary.span_id(0)]
      before, behind = map(self._vocabulary.encode_marked, (text, self._suffix))
      return Prompt(text, [*before, *hidden, *behind, *hidden])
    if self._suffix is not None:
      return Prompt(text, infilling.prompt(self._vocabulary, text, self._suffix))
    if self._marks:
      return Prompt(text, self._vocabulary.encode_marked(text))
    return media.encode(self._vocabulary, text, given)

  def stream(self, prompt: str | Prompt, *, max_tokens: int | None = None, seed: int = 0,
             stop: Sequence[str] = ()) -> Iterator[str]:
    """Yields the continuation of one prompt, piece by piece."""
    (row,), pieces = self._start([(prompt, 0)], max_tokens, seed, stop)
    for tokens, log_probs in pieces:
      yield row.add(tokens[0], log_probs[0])
      if row.finish_reason:
        return

  def complete(self, prompts: Sequence[str | Prompt], *, num_samples: int = 1, max_tokens: int | None = None,
               seed: int = 0, stop: Sequence[str] = (), batch_size: int = 16) -> Iterator[Completion]:
    """Yields `num_samples` continuations of each prompt in turn; `batch_size` of them are decoded together."""
    rows = [(prompt, sample) for prompt in prompts for sample in range(num_samples)]
    for prompt in dict.fromkeys(prompts):
      self.encode(prompt)  # A mistake in the last comes before the first has cost anything.
    batches = -(-len(rows) // batch_size)
    size = -(-len(rows) // max(batches, 1))  # All batches have one size, so the engine compiles once.
    for start in range(0, len(rows), max(size, 1)):
      batch = rows[start:start + size]
      texts, pieces = self._start(batch + batch[-1:] * (size - len(batch)), max_tokens, seed, stop)
      for tokens, log_probs in pieces:
        for text, *row in zip(texts, tokens, log_probs):
          text.add(*row)
        if all(text.finish_reason for text in texts):
          break
      for (prompt, sample), text in zip(batch, texts):
        assert text.finish_reason
        shown = prompt if isinstance(prompt, str) else prompt.text
        yield Completion(shown, sample, text.text, text.finish_reason, text.tokens, text.log_probs)

  def parts(self, completion: Completion) -> list[str | Medium]:
    """What a continuation holds, one after the other: text, and the media that its text has marks for."""
    return media.decode(self._vocabulary, completion.tokens, self._output)

  def _start(self, rows: Sequence[tuple[str | Prompt, int]], max_tokens: int | None, seed: int, stop: Sequence[str]):
    """The texts of (prompt, sample) rows, and the engine's pieces that will fill them."""
    if "" in stop:
      raise UserError("a stop text is empty: every text would end before it began")
    max_tokens = self._max_tokens if max_tokens is None else max_tokens
    ids = [self.encode(prompt) for prompt, _ in rows]
    # With the prompt in its number, a row does not draw what the other prompts' rows draw.
    names = [prompt if isinstance(prompt, str) else f"{prompt.text} {prompt.ids}" for prompt, _ in rows]
    numbers = [zlib.crc32(f"{sample} {name}".encode()) for name, (_, sample) in zip(names, rows)]
    # Without its prompt a continuation is what it is in training where the condition was dropped.
    nothing = [()] * len(ids) if self._guidance != 1 else None
    pieces = self._engine(self._params, ids, max_tokens, seed, self._bidirectional, numbers, null_prompts=nothing,
                          said=self._said)
    return [Text(self._vocabulary, row, max_tokens, stop, self._ends) for row in ids], pieces

  @functools.cached_property
  def _params(self) -> Any:
    """Read when they are needed, so that a wrong prompt is told of at once."""
    return self._experiment.restore_params(self._model_dir, Partitioner(data=1, num_devices=1), self._step)[1]

  def encode(self, prompt: str | Prompt) -> Sequence[int]:
    """The ids of a prompt, all of which the model knows."""
    ids = prompt.ids if isinstance(prompt, Prompt) else self._vocabulary.encode(prompt)
    for token in ids:
      if token not in self._ids:
        raise UserError(
            f"the prompt has the token {token}, and the model knows {self._ids.start} to {self._ids.stop - 1}: change"
            f" the prompt, or copy the vocabulary that the model was trained with into {self._model_dir}")
    return ids


def drawn(vocabulary: Any, fills_in: bool, marks: bool) -> tuple[int, int | None]:
  """(ids from here on are not drawn, the id that ends a text): of marks, those that are asked for."""
  if (fills_in or marks) and not isinstance(vocabulary, vocabularies.MarkedVocabulary):
    raise UserError(f"the model's vocabulary, a {type(vocabulary).__name__}, has no marks: fill in, or name marks, with"
                    " a model of tasks such as local_text_infill and local_text_spans")
  if fills_in and not marks:
    return vocabulary.mark("<end>") + 1, vocabulary.mark("<end>")
  plain = isinstance(vocabulary, vocabularies.MarkedVocabulary) and (fills_in or not marks)
  return vocabulary.text.vocab_size if plain else vocabulary.vocab_size, vocabulary.eos_id

"""The engine prefills prompts a segment at a time; then every token costs the same, however long the text grows."""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gpt4x.errors import UserError
from gpt4x.inference.sampling import Sampling, Settings, Tokens, tokens_of
from gpt4x.media import grammar as grammars
from gpt4x.media.grammar import Grammar, GrammarState
from gpt4x.models.language_model import LanguageModel, Params
from gpt4x.models.memory import Cache, Memory
from gpt4x.partitioning import Partitioner

_SHORTEST = 16  # The fewest tokens that a piece of a prompt is compiled for.
BOS = 0  # The first input of every document, as in seqio's decoder features, unless the vocabulary says another.


class Piece(NamedTuple):
  """Tokens of each row, [B, n], and the log-probability that the model gives each, before temperature and filters."""

  tokens: np.ndarray
  log_probs: np.ndarray


class Chunk(NamedTuple):
  """As a Piece; and the ids and log-probabilities of the likeliest [B, n, A] of each place, where a row asks."""

  tokens: np.ndarray
  log_probs: np.ndarray
  alternatives: tuple[np.ndarray, np.ndarray] | None


@flax.struct.dataclass
class Prefilled:
  """What prompts leave: the logits [B, V] of the first new token, and the memory of the window, projected.

  With guidance the B null prompts' rows follow, in both. A memory that can be extended is longer than the window.
  """

  logits: jax.Array
  memory: Memory
  grammar: GrammarState | None = None  # Where each row is in its stream; None: there is no grammar.


class Slots(flax.struct.PyTreeNode):
  """Rows that are decoded together, each for itself: the logits [B, V] of the next token, and the ring cache.

  With guidance both have 2 B rows: each row's null row has a memory of its own, and draws what the row draws.

  A row's n-th draw follows from its own key and n: neither its neighbours nor when it came have a part in it.
  """

  logits: jax.Array
  cache: Cache
  keys: jax.Array  # [B]
  drawn: jax.Array  # [B], how many tokens each row has drawn.
  settings: Settings
  grammar: GrammarState | None = None  # [B]
  tokens: Tokens | None = None  # What penalties and biases ask; None: there are none.
  asked: jax.Array | None = None  # [B], whether a row's alternatives are wanted; None: nobody's are.


class Engine:
  """Continues prompts with a language model.

  Every token attends to the `window` latest positions, itself included: a forward pass over the whole text with that
  window gives the same logits. Prompts of unequal length are padded on the left, where padding is never seen.
  """

  def __init__(self, model: LanguageModel, window: int, eos_id: int | None, num_ids: int | None = None,
               sampling: Sampling = Sampling(), segment_length: int = 128, chunk_length: int = 32,
               first_id: int = BOS + 1, partitioner: Partitioner | None = None, grammar: Grammar | None = None,
               guidance: float = 1.0, start_id: int = BOS, never: Sequence[int] = (), adjusts: bool = False,
               alternatives: int = 0):
    """Prepares to decode.

    Args:
      model: the language model.
      window: positions kept, W.
      eos_id: the token that ends a continuation; None: none does.
      num_ids: ids from here on are never drawn, as the vocabulary has none (None: all may be).
      sampling: how tokens are drawn; a row that is inserted may have another.
      segment_length: tokens of a prompt that are run at once, at most.
      chunk_length: tokens that are decoded between two looks at whether all rows have ended.
      first_id: ids below are never drawn; 0 where BOS is also a word of the vocabulary.
      partitioner: the mesh that the parameters lie on; None: one device.
      grammar: what may be drawn where; None: anything anywhere.
      guidance: how far a row's logits go from those of its null prompt (0) to its own (1), or beyond
        (arXiv:2207.12598).
      start_id: the input before a prompt's first token.
      never: ids that are never drawn.
      adjusts: whether rows that are inserted may have penalties and biases.
      alternatives: how many of the likeliest tokens come with each, for rows that ask.
    """
    self._start_id = start_id
    self.model, self.window, self._eos_id = model, window, -1 if eos_id is None else eos_id
    self._segment_length, self._chunk_length = segment_length, chunk_length
    ids = np.arange(model.config.vocab_size)
    self._allowed = (ids >= first_id) & (ids < (num_ids or len(ids))) & ~np.isin(ids, never)
    self._sampling, self._partitioner = sampling, partitioner
    self._adjusts, self.alternatives = adjusts or sampling.adjusts, alternatives
    self._grammar, self._guidance, self._copies = grammar, guidance, 1 if guidance == 1 else 2
    if not 0 <= guidance < np.inf:
      raise UserError(f"guidance = {guidance} must be a number of at least 0")
    if grammar is not None and grammar.layout.size > len(ids):
      raise UserError(f"the vocabulary has {grammar.layout.size:,} ids, and the model {len(ids):,}: set"
                      " TransformerConfig.vocab_size to that of the vocabulary, or more")
    self._project_positions = jax.jit(model.project_positions, donate_argnums=1, static_argnums=2)
    self._prefill = jax.jit(model.prefill, donate_argnums=3)
    self._start = jax.jit(model.start_decoding, static_argnums=2)
    self._insert = jax.jit(self._put_row, donate_argnums=1)
    self._decode = jax.jit(self._decode_chunk, donate_argnums=1, static_argnums=2)
    self._extend = jax.jit(self._extend_piece)
    self._take = jax.jit(self._taken)
    self._positions: tuple[Params, jax.Array | None] | None = None

  def __call__(self, params: Params, prompts: Sequence[Sequence[int]], max_tokens: int, seed: int = 0,
               bidirectional: bool = False, samples: Sequence[int] | None = None,
               null_prompts: Sequence[Sequence[int]] | None = None, said: int = 0) -> Iterator[Piece]:
    """Yields continuations in pieces, n tokens at a time; a row that has ended goes on with EOS.

    Args:
      params: the model's parameters.
      prompts: token ids, without BOS, of each of B rows.
      max_tokens: tokens to add at most.
      seed: of the sampling.
      bidirectional: the prompt's tokens see each other in both directions (prefix LM).
      samples: a number below 2^32 for each row, whose draws depend on its prompt, the seed and this number alone.
        None: 0 to B - 1.
      null_prompts: for guidance, each row's prompt without its condition.
      said: with `bidirectional`, so many tokens at the end of each prompt begin what is said: none before sees them.
    """
    slots = self.start(params, self.prefill(params, prompts, bidirectional, null_prompts, said), seed, samples)
    ended = np.zeros(len(prompts), bool)
    for start in range(0, max_tokens, self._chunk_length):
      chunk, slots = self.step(params, slots)
      tokens, log_probs = (x[:, :max_tokens - start] for x in (chunk.tokens, chunk.log_probs))
      # From a row's first EOS on, all is EOS.
      ends = np.cumsum(np.concatenate([ended[:, None], tokens == self._eos_id], 1), 1) > 0
      yield Piece(np.where(ends[:, 1:], self._eos_id, tokens), np.where(ends[:, :-1], 0.0, log_probs))
      ended = ends[:, -1]
      if ended.all():
        return

  def prefill(self, params: Params, prompts: Sequence[Sequence[int]], bidirectional: bool = False,
              null_prompts: Sequence[Sequence[int]] | None = None, said: int = 0) -> Prefilled:
    """Runs prompts; a UserError for one that breaks the grammar."""
    states = None
    if self._grammar is not None:
      states = grammars.stack([self._grammar.of_prompt(prompt) for prompt in prompts])
    if self._copies > 1:
      if null_prompts is None or len(null_prompts) != len(prompts):
        raise ValueError("guidance needs a null prompt for each prompt")
      prompts = [*prompts, *null_prompts]
    longest = 1 + max(map(len, prompts))
    sixteens = lambda length: -(-length // 16) * 16  # To compile for few lengths.
    limit = sixteens(longest) if bidirectional else self._segment_length  # What sees both directions is seen whole.
    pieces = -(-longest // limit)
    step = min(limit, sixteens(-(-longest // pieces)))
    total = pieces * step
    tokens = np.zeros((len(prompts), total), np.int32)
    segment_ids = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
      tokens[row, total - len(prompt) - 1:] = [self._start_id, *prompt]
      segment_ids[row, total - len(prompt) - 1:] = 1
    both_ways = segment_ids * (np.arange(total) < total - said)
    with self.mesh():
      memory = self._empty_memory(len(prompts))
      if pieces > 4:  # For fewer it may take longer to compile than it saves.
        memory = self._project_positions(params, memory, step)
      for start in range(0, total, step):
        piece = slice(start, start + step)
        logits, memory = self._prefill(params, tokens[:, piece], segment_ids[:, piece], memory,
                                       both_ways[:, piece] if bidirectional else None)
    return Prefilled(logits, memory.replace(position_keys=None), states)

  def begin(self, params: Params) -> Prefilled:
    """A row of which nothing has come but the start; `extend` reads a prompt into it."""
    with self.mesh():
      memory = self._empty_memory(1, self.window + self._segment_length)
    return self.extend(params, Prefilled(jnp.zeros((1, 0)), memory), [self._start_id])

  @property
  def piece_lengths(self) -> list[int]:
    """Those that pieces of a prompt are padded to."""
    powers = (_SHORTEST << i for i in range(32))
    return [*itertools.takewhile(lambda length: length < self._segment_length, powers), self._segment_length]

  def extend(self, params: Params, prefilled: Prefilled, tokens: Sequence[int]) -> Prefilled:
    """A row that `begin` gave, with more tokens behind it; their cost does not depend on what came before."""
    left = prefilled
    for _, _, left in self.extensions(params, prefilled, tokens):  # noqa: B007  The last counts.
      pass
    return left

  def extensions(self, params: Params, prefilled: Prefilled, tokens: Sequence[int]
                 ) -> Iterator[tuple[int, jax.Array, Prefilled]]:
    """The same piece by piece: how many tokens have been read, the piece's hidden states [1, L, D], what they leave.

    All pieces but the last have the engine's segment length, and the last is padded to a power of two.
    """
    if self._grammar is not None or self._copies > 1 or len(prefilled.logits) != 1:
      raise ValueError("one row without grammar and guidance can be extended")
    place = 0
    while place < len(tokens):
      piece = tokens[place:place + self._segment_length]
      padded = np.zeros((1, next(length for length in self.piece_lengths if length >= len(piece))), np.int32)
      padded[0, :len(piece)] = piece
      with self.mesh():
        prefilled, hidden = self._extend(params, padded, np.array([len(piece)], np.int32), prefilled.memory,
                                         self.position_keys(params))
      place += len(piece)
      yield place, hidden, prefilled

  def _extend_piece(self, params: Params, tokens: jax.Array, counts: jax.Array, memory: Memory,
                    position_keys: jax.Array | None) -> tuple[Prefilled, jax.Array]:
    hidden, memory = self.read(params, tokens, memory, position_keys, counts)
    memory = memory.without_last(tokens.shape[1] - counts, tokens.shape[1])
    last = jnp.take_along_axis(hidden, counts[:, None, None] - 1, 1)
    return Prefilled(self.model.unembed(params, last)[:, 0], memory), hidden

  def read(self, params: Params, tokens: jax.Array, memory: Memory, position_keys: jax.Array | None,
           counts: jax.Array | None = None) -> tuple[jax.Array, Memory]:
    """The hidden states [B, L, D] of tokens [B, L], all real unless there are `counts`, and the memory behind all."""
    counts = jnp.full(len(tokens), tokens.shape[1]) if counts is None else counts
    hidden, memory = self.model.extend(params, tokens, counts, memory.replace(position_keys=position_keys),
                                        self.window)
    return hidden, memory.replace(position_keys=None)

  def position_keys(self, params: Params) -> jax.Array | None:
    """The projected R of all pieces that `read` is given, made once for the parameters."""
    if self._positions is None or self._positions[0] is not params:
      memory = self._empty_memory(1, self.window + self._segment_length)
      self._positions = params, self._project_positions(params, memory, self._segment_length).position_keys
    return self._positions[1]

  def start(self, params: Params, prefilled: Prefilled, seed: int = 0,
            samples: Sequence[int] | None = None) -> Slots:
    """Slots with a row of prefilled prompts each; `seed` and `samples` as when the engine is called."""
    rows = len(prefilled.logits) // self._copies
    keys = row_keys(seed, range(rows) if samples is None else samples)
    with self.mesh():
      cache = self._start(params, prefilled.memory.last(self.window), 0)
      tokens = Tokens.of(rows, len(self._allowed)) if self._adjusts else None
    logits, grammar = jax.tree.map(jnp.copy, (prefilled.logits, prefilled.grammar))  # Slots are used up.
    return Slots(logits, cache, keys, jnp.zeros(rows, jnp.int32), Settings.of([self._sampling] * rows), grammar, tokens,
                 jnp.zeros(rows, bool) if self.alternatives else None)

  def empty(self, params: Params, rows: int) -> Slots:
    """Slots of which each has still to get its row."""
    logits = jnp.zeros((rows, len(self._allowed)))
    with self.mesh():
      memory = self._empty_memory(rows)
    return self.start(params, Prefilled(logits, memory))

  def insert(self, params: Params, slots: Slots, row: int, prefilled: Prefilled, seed: int = 0, sample: int = 0,
             sampling: Sampling | None = None, prompt: Sequence[int] = (), asked: bool = False) -> Slots:
    """Puts a prefilled prompt, alone in its batch, in the place of a row; the others go on as if nothing had happened.

    The ring's positions depend on (index - slot) mod W alone, so the prompt's are rolled to where the others are.

    Args:
      params, slots: of the engine; the slots are used up.
      row: which.
      prefilled: what the prompt left.
      seed, sample: what the row's draws follow from.
      sampling: the row's own; None: the engine's.
      prompt: its ids, which a repetition penalty asks for.
      asked: whether its alternatives are wanted.
    """
    sampling = sampling or self._sampling
    with self.mesh():
      return self._insert(params, slots, row, prefilled, row_keys(seed, [sample]), Settings.of([sampling]),
                          tokens_of(prompt, sampling, len(self._allowed)) if self._adjusts else None, asked)

  def take(self, slots: Slots, numbers: Sequence[int]) -> Slots:
    """Slots with the rows of these numbers, fewer or more; one that comes several times may be put another in."""
    if self._copies > 1:
      raise ValueError("rows with guidance stay as many as they are")
    with self.mesh():
      return self._take(slots, np.asarray(numbers, np.int32))

  @staticmethod
  def _taken(slots: Slots, numbers: jax.Array) -> Slots:
    rest = jax.tree.map(lambda rows: jnp.asarray(rows)[numbers], slots.replace(cache=None))
    return rest.replace(cache=slots.cache.take(numbers))

  def step(self, params: Params, slots: Slots, length: int | None = None) -> tuple[Chunk, Slots]:
    """Draws `length` tokens of every row, `chunk_length` unless it is said; each length is compiled."""
    with self.mesh():
      tokens, log_probs, alternatives, slots = self._decode(params, slots, length or self._chunk_length)
    return Chunk(np.asarray(tokens), np.asarray(log_probs),
                 alternatives and (np.asarray(alternatives[0]), np.asarray(alternatives[1]))), slots

  def _put_row(self, params: Params, slots: Slots, row: jax.Array, prefilled: Prefilled, key: jax.Array,
               settings: Settings, tokens: Tokens | None, asked: bool) -> Slots:
    logits, cache, memory = slots.logits, slots.cache, prefilled.memory.last(self.window)
    memories = [memory]
    if self._copies > 1:  # The row's own, and that of its null row.
      halves = memory.split(2)
      memories = [jax.tree.map(lambda leaf, i=i: leaf[i], halves) for i in range(2)]
    for i, one in enumerate(memories):
      place = row + i * len(slots.keys)
      logits = logits.at[place].set(prefilled.logits[i])
      cache = cache.insert(place, self.model.start_decoding(params, one, slots.cache.index))
    grammar = jax.tree.map(lambda rows, one: rows.at[row].set(one[0]), slots.grammar, prefilled.grammar)
    changed = slots.replace(
        logits=logits, cache=cache, keys=slots.keys.at[row].set(key[0]), drawn=slots.drawn.at[row].set(0),
        grammar=grammar, settings=slots.settings.put(row, settings))
    if slots.tokens is not None and tokens is not None:
      changed = changed.replace(tokens=slots.tokens.put(row, tokens))
    return changed if slots.asked is None else changed.replace(asked=slots.asked.at[row].set(asked))

  def _decode_chunk(self, params: Params, slots: Slots, length: int):
    """`length` tokens [B, n] in turn, their log-probabilities, their alternatives, and the slots after them."""
    def one(slots, _):
      tokens, *others = self.draw(slots)
      grammar = None if self._grammar is None else jax.vmap(self._grammar.after)(slots.grammar, tokens)
      logits, cache = self.model.decode_step(params, jnp.tile(tokens, self._copies), slots.cache)
      slots = slots.replace(logits=logits, cache=cache, drawn=slots.drawn + 1, grammar=grammar,
                            tokens=None if slots.tokens is None else slots.tokens.after(tokens))
      return slots, (tokens, *others)

    slots, found = jax.lax.scan(one, slots, length=length)
    tokens, log_probs, alternatives = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)
    return tokens, log_probs, alternatives, slots

  def draw(self, slots: Slots):
    """The next token of each row [B], its log-probability, and its alternatives [B, A] where there are any."""
    log_probs = jax.nn.log_softmax(slots.logits[:len(slots.keys)])
    logits = self._guided(slots.logits)
    if slots.tokens is not None:
      logits = slots.tokens.adjusted(logits, slots.settings)
    keys = jax.vmap(jax.random.fold_in)(slots.keys, slots.drawn)
    tokens = slots.settings.draw(jnp.where(self._allowed, logits, -jnp.inf), keys, self._legal(slots))
    alternatives = None
    if slots.asked is not None:
      count = self.alternatives
      alternatives = jax.lax.cond(
          jnp.any(slots.asked), lambda: tuple(reversed(jax.lax.top_k(log_probs, count))),
          lambda: (jnp.zeros((len(tokens), count), jnp.int32), jnp.zeros((len(tokens), count))))
    return tokens, jnp.take_along_axis(log_probs, tokens[:, None], 1)[:, 0], alternatives

  def _guided(self, logits: jax.Array) -> jax.Array:
    """The logits [B, V] that tokens are drawn by."""
    if self._copies == 1:
      return logits
    own, null = jnp.split(logits, 2)
    return null + self._guidance * (own - null)

  def _legal(self, slots: Slots) -> jax.Array | None:
    """What the grammar allows each row to draw, [B, V]."""
    if self._grammar is None or slots.grammar is None:
      return None
    legal = jax.vmap(self._grammar.allowed)(slots.grammar)
    return jnp.pad(legal, ((0, 0), (0, len(self._allowed) - legal.shape[1])))

  def _empty_memory(self, rows: int, length: int | None = None) -> Memory:
    memory = self.model.initial_memory(rows, length or self.window, projected=True)
    if self._partitioner is None:
      return memory
    split = rows % self._partitioner.num_batch_shards == 0
    place = lambda leaf, axes: jax.device_put(
        leaf, self._partitioner.sharding(*axes) if split else self._partitioner.replicated)
    return jax.tree.map(place, memory, memory.logical_axes())

  def mesh(self) -> contextlib.AbstractContextManager:
    return self._partitioner.activate() if self._partitioner else contextlib.nullcontext()


def row_keys(seed: int, samples: Sequence[int]) -> jax.Array:
  """A key for each sample number. Threefry's draws stay the same under `vmap`, whatever the default generator is."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed, impl="threefry2x32"),
                                                    np.asarray(samples, np.uint32))

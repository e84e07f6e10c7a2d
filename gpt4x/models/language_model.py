"""LanguageModel: all that a loop, an evaluation or a decoder ever sees of a model."""

from collections.abc import Callable, Collection, Mapping
import functools
from typing import Any, Protocol, runtime_checkable

import flax.core
import flax.struct
import gin
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from gpt4x.models import moe, parameters
from gpt4x.models.config import TransformerConfig
from gpt4x.models.memory import Cache, KeyValues, Memory
from gpt4x.models.parameters import Kernel
from gpt4x.models.shapes import Array, in_chunks
from gpt4x.models.sums import Sums
from gpt4x.models.transformer_xl import TransformerXL

Params = Any
Batch = Mapping[str, jax.Array]
Rng = jax.Array | None


@flax.struct.dataclass
class Output:
  """What a segment comes to."""

  hidden: jax.Array  # [B, L, D]
  memory: Memory  # L positions on.
  sums: Sums  # The model's own named sums, those of routers; empty without mixtures.
  captures: dict[str, jax.Array]  # The activations asked for, by name, [B, L, D] each.


class Form(Protocol):
  """What kernels are beside arrays: integers, for instance. See compression/."""

  @property
  def stored(self) -> bool:
    """Whether the parameters are of this form themselves; else they are arrays that are used in it."""

  def __call__(self, params: Params, declarations: Any) -> Params:
    """Parameters of this form, of arrays."""

  def used(self, params: Params, declarations: Any, training: bool) -> Params:
    """What is computed with, of parameters."""


@runtime_checkable
class Adapter(Protocol):
  """A form whose parameters are beside those of a frozen model, 'base'. See compression/low_rank.py."""

  def declared(self, config: TransformerConfig, shapes: Params, declarations: Any) -> tuple[Params, Any]:
    """The shapes and Declarations of its parameters, for a model's arrays."""

  def init(self, rng: jax.Array, shapes: Params, declarations: Any) -> Params:
    """Fresh parameters, as `declared` has them."""

  def whole(self, params: Params, base: Params) -> Params:
    """All that is computed with."""

  def whole_model(self, model: "LanguageModel") -> "LanguageModel":
    """The model that has whole parameters."""


@gin.configurable
class LanguageModel:
  """A Transformer-XL language model as pure functions of its parameters."""

  def __init__(self, config: TransformerConfig, form: Form | None = None):
    """Takes the sizes and switches, and what kernels are if they are not arrays."""
    self.config, self.form = config, form
    self.module = TransformerXL(config)

  # Parameters.

  def init(self, rng: jax.Array) -> Params:
    """Fresh parameters, a nested dict; float32, but for those of a form of their own."""
    if self._adapter:
      return self._adapter.init(rng, *self.declared)
    return self._stored(self.variables(rng)["params"])

  @functools.cached_property
  def declared(self) -> tuple[Params, Any]:
    """The shape and the Declaration of each parameter, two trees; no computation."""
    arrays, declarations = self._arrays
    if self._adapter:
      return self._adapter.declared(self.config, arrays, declarations)
    return jax.eval_shape(self._stored, arrays), declarations

  @property
  def frozen_models(self) -> Mapping[str, Any]:
    """Models that this one needs beside its parameters, by name: a SavedModel 'base' under adapters."""
    return getattr(self.form, "frozen_models", {})

  def whole(self, params: Params, frozen: Mapping[str, Params]) -> Params:
    """What the functions below take, of what is trained and what is frozen."""
    return self._adapter.whole(params, frozen["base"]) if self._adapter else params

  @functools.cached_property
  def whole_model(self) -> "LanguageModel":
    """The model that whole parameters are the parameters of."""
    return self._adapter.whole_model(self) if self._adapter else self

  @property
  def _adapter(self) -> Adapter | None:
    return self.form if isinstance(self.form, Adapter) else None

  @functools.cached_property
  def _arrays(self) -> tuple[Params, Any]:
    """As `declared`, before they take their form."""
    variables = jax.eval_shape(self.variables, jax.random.key(0))
    return flax.core.unfreeze(variables["params"]), parameters.declarations(variables["params_axes"])

  def _stored(self, params: Params) -> Params:
    return self.form(params, self._arrays[1]) if self.form and self.form.stored else params

  def _used(self, params: Params, training: bool = False) -> Params:
    return self.form.used(params, self._arrays[1], training) if self.form else params

  def variables(self, rng: jax.Array) -> Mapping[str, Any]:
    """Fresh `params` and, as flax.linen.partitioning has them, their `params_axes`."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    everything = lambda module, *args: module.logits(module(*args)[0])
    return self.module.init(rng, tokens, self.initial_memory(1, 0), method=everything)

  # Segments.

  def initial_memory(self, batch_size: int, length: int | None = None, projected: bool = False) -> Memory:
    """An empty memory of `length` (default: the training memory), of keys and values when `projected`."""
    c = self.config
    length = c.memory_length if length is None else length
    zeros = lambda *shape: jnp.zeros((c.num_layers, *shape), c.compute_dtype)
    key_values = c.num_kv_heads, batch_size, length, c.head_dim
    return Memory(KeyValues(zeros(*key_values), zeros(*key_values)) if projected else
                  zeros(batch_size, length, c.embed_dim), jnp.zeros((batch_size, length), jnp.int32),
                  places=c.code_places.start(batch_size) if c.code_places else None)

  def project_positions(self, params: Params, memory: Memory, length: int) -> Memory:
    """Projects R once, for many segments of up to `length` tokens; otherwise each segment does."""
    return self._apply(params, memory, length, method="project_positions")

  def project_memory(self, params: Params, memory: Memory) -> Memory:
    """A training memory as decoding and evaluation have it."""
    return self._apply(params, memory, method="project_memory")

  def forward(self, params: Params, tokens: Int[Array, "B L"], memory: Memory,
              segment_ids: Int[Array, "B L"] | None = None, prefix: Int[Array, "B L"] | None = None,
              window: int | None = None, dropout_rng: Rng = None, capture: Collection[str] = ()) -> Output:
    """Runs a segment through the stack; see `TransformerXL.__call__`. A key, of dropout, means training."""
    rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
    params = self._used(params, training=dropout_rng is not None)
    (hidden, memory, captures), collected = self.module.apply(
        {"params": params}, tokens, memory, segment_ids, prefix, window, deterministic=dropout_rng is None,
        capture=capture, rngs=rngs, mutable=["router"])
    real = jnp.full((), tokens.size) if segment_ids is None else jnp.sum(segment_ids > 0)
    return Output(hidden, memory, moe.sums(collected.get("router", {}), real.astype(jnp.float32)), captures)

  def unembed(self, params: Params, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
    """Float32 logits of hidden states."""
    return self._apply(params, hidden, method="logits")

  def unembedding(self, params: Params, hidden: Float[Array, "B L D"]) -> tuple[jax.Array, Kernel, jax.Array | float]:
    """What the logits of a plain softmax are the product of, the projected hidden and the kernel [V, D]; the bias."""
    return self._apply(params, hidden, method="unembedding")

  @property
  def logits_chunk(self) -> int | None:
    """Positions of each row whose logits should exist at a time; None: all, as ever with an adaptive softmax."""
    return self.config.loss_chunk if len(self.config.clusters) == 1 else None

  def logits(self, params: Params, tokens: Int[Array, "B L"], memory: Memory,
             segment_ids: Int[Array, "B L"] | None = None, prefix: Int[Array, "B L"] | None = None,
             window: int | None = None, dropout_rng: Rng = None) -> tuple[Float[Array, "B L V"], Memory]:
    """Float32 logits of the token after each of tokens, and the new memory."""
    output = self.forward(params, tokens, memory, segment_ids, prefix, window, dropout_rng)
    return self.unembed(params, output.hidden), output.memory

  def log_probs(self, params: Params, tokens: Int[Array, "B L"], memory: Memory | None = None,
                segment_ids: Int[Array, "B L"] | None = None) -> tuple[Float[Array, "B L V"], Memory]:
    """Log-probabilities of the next token; memory None: an empty one of the evaluation length."""
    if memory is None:
      memory = self.initial_memory(tokens.shape[0], self.config.eval_memory_length)
    logits, memory = self.logits(params, tokens, memory, segment_ids)
    return jax.nn.log_softmax(logits), memory

  def token_log_probs(self, params: Params, hidden: Float[Array, "B L D"],
                      targets: Int[Array, "B L"]) -> Float[Array, "B L"]:
    """The log-probability of each target; with `loss_chunk` no [B, L, V] exists, in the backward pass neither."""
    def of(hidden, targets):
      log_probs = jax.nn.log_softmax(self.unembed(params, hidden))
      return jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]

    if not self.logits_chunk:
      return of(hidden, targets)
    pieces = in_chunks(self.logits_chunk, hidden, targets)
    found = jax.lax.map(lambda piece: jax.checkpoint(of)(*piece), pieces)
    return jnp.moveaxis(found, 0, 1).reshape(len(targets), -1)[:, :targets.shape[1]]

  # Training.

  @property
  def coefficients(self) -> dict[str, float]:
    """What the model's own sums count for in an objective."""
    c = self.config.moe
    return {"router_balance_loss": c.balance_loss, "router_z_loss": c.router_z_loss} if c else {}

  @property
  def after_update(self) -> tuple[Callable[[Params, Sums], Params], ...]:
    """What moves the parameters after an update of theirs."""
    rate = self.config.moe.bias_rate if self.config.moe else 0.0
    return (functools.partial(moe.balanced, rate=rate),) if rate else ()

  # Decoding.

  def prefill(self, params: Params, tokens: Int[Array, "B L"], segment_ids: Int[Array, "B L"], memory: Memory,
              prefix: Int[Array, "B L"] | None = None) -> tuple[Float[Array, "B V"], Memory]:
    """One segment of a prompt, its memory projected and of the decoding window's length W.

    Returns the logits after its last token and the memory; every token sees the W latest, itself included.
    """
    hidden, memory, _ = self._apply(params, tokens, memory, segment_ids, prefix, window=memory.length)
    return self.unembed(params, hidden[:, -1:])[:, 0], memory

  def extend(self, params: Params, tokens: Int[Array, "B L"], counts: Int[Array, " B"], memory: Memory,
             window: int) -> tuple[Float[Array, "B L D"], Memory]:
    """The hidden states of each row's first `counts` tokens, and the memory of all, from which those behind are taken.

    The memory is projected, and at least as much longer than the window W as there are tokens: what is taken off its
    end by `Memory.without_last` leaves what the window needs. So rows go on by as many tokens as each wants, in a
    program of one shape.
    """
    real = (jnp.arange(tokens.shape[1]) < counts[:, None]).astype(jnp.int32)
    hidden, memory, _ = self._apply(params, tokens, memory, real, window=window)
    return hidden, memory

  def start_decoding(self, params: Params, memory: Memory, index: int | jax.Array = 0) -> Cache:
    """The ring cache of the W positions that a prefilled memory holds, to be continued at position `index`."""
    cache = self._apply(params, memory, index, method="ring")
    return cache.replace(kernels=parameters.for_steps(params, self._arrays[1]))

  def decode_step(self, params: Params, tokens: Int[Array, " B"], cache: Cache,
                  segment_ids: Int[Array, " B"] | None = None) -> tuple[Float[Array, "B V"], Cache]:
    """The logits of the next token and the cache moved on by one, at a cost that does not grow."""
    segment_ids = jnp.ones_like(tokens) if segment_ids is None else segment_ids
    params = parameters.put(params, cache.kernels)
    hidden, cache, _ = self._apply(params, tokens, cache, segment_ids, method="step")
    return self.unembed(params, hidden)[:, 0], cache

  def decode_ahead(self, params: Params, tokens: Int[Array, "1 L"], cache: Cache) -> tuple[Float[Array, "1 L V"], Any]:
    """The logits behind each of some tokens that one row may go on with, at the cost of little more than one step.

    Returns with them what `cache.after(new, count)` goes on with: as many of the tokens as are right.
    """
    params = parameters.put(params, cache.kernels)
    hidden, new = self._apply(params, tokens, cache, method="ahead")
    return self.unembed(params, hidden), new

  def _apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
    return self.module.apply({"params": self._used(params)}, *args, **kwargs)

"""TransformerConfig: every size and switch of the model, and the parameter and FLOP counts that follow from them."""

from collections.abc import Iterator
import dataclasses
from typing import Any, Literal

import gin

from gpt4x.errors import UserError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MoEConfig:
  """A mixture of experts (arXiv:1701.06538) in place of the MLP of every `period`-th layer; see models/moe.py."""

  num_experts: int
  experts_per_token: int = 2
  period: int = 1  # Layer i is a mixture if (i + 1) % period == 0, so the last layer may be.
  mlp_dim: int | None = None  # Of one expert; None: TransformerConfig.mlp_dim.
  num_shared_experts: int = 0  # Those every token meets, as one MLP of so many times the width (arXiv:2401.06066).

  # Tokens that an expert takes from each row in training, in units of an even share; the others pass by it. None drops
  # nothing, which evaluation and decoding never do: cut into other segments, a text has the same probability.
  capacity_factor: float | None = None

  # The router. Sigmoid scores each expert by itself (arXiv:2408.15664).
  scores: Literal["softmax", "sigmoid"] = "softmax"
  normalize_weights: bool = True  # The weights of a token's experts sum to one.
  jitter: float = 0.0  # In training the router's input is multiplied by uniform draws from 1 -+ jitter.

  # What keeps experts equally busy. Both losses are means over tokens, summed over layers.
  balance_loss: float = 0.01  # Coefficient of arXiv:2101.03961, equation 4.
  router_z_loss: float = 0.0  # Coefficient of log(Z)^2 (arXiv:2202.08906, equation 5).
  bias_rate: float = 0.0  # Above 0: each expert has a bias that moves by so much a step (arXiv:2408.15664).

  def __post_init__(self):
    def require(name, holds, what):
      if not holds:
        raise UserError(f"MoEConfig.{name} = {getattr(self, name)!r} must be {what}")

    for name in ("num_experts", "period", "mlp_dim"):
      require(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
    require("experts_per_token", 1 <= self.experts_per_token <= self.num_experts,
            f"from 1 to num_experts = {self.num_experts}")
    for name in ("num_shared_experts", "balance_loss", "router_z_loss", "bias_rate"):
      require(name, getattr(self, name) >= 0, "0 or more, not negative")
    require("capacity_factor", self.capacity_factor is None or self.capacity_factor > 0, "above 0, or None")
    require("jitter", 0 <= self.jitter < 1, "at least 0 and below 1")
    require("scores", self.scores in ("softmax", "sigmoid"), "softmax or sigmoid")
    require("normalize_weights", not (self.normalize_weights and self.experts_per_token == 1),
            "False with one expert per token: its weight would always be 1, and the router would not learn")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and switches of a Transformer-XL decoder (arXiv:1901.02860).

  Shapes throughout the project use one alphabet: B batch rows, L segment length, M memory length, T = M + L
  attended positions, D embed, H heads, G key/value heads, K head size, F mlp, V vocabulary, N layers.

  `num_heads` is the one dial of a family: the sizes left unset follow from it, as they do in gin_configs/models.
  """

  vocab_size: int
  num_heads: int
  num_layers: int | None = None  # None: 5 for 4 heads, so that depth grows with width.
  embed_dim: int | None = None  # None: 128 for a head.
  mlp_dim: int | None = None  # None: 4 D, or 3.5 D where a gate makes it three matrices.
  head_dim: int | None = None  # None: embed_dim / num_heads.
  num_kv_heads: int | None = None  # None: num_heads. Fewer is grouped-query attention (arXiv:2305.13245).

  # Recurrence. The evaluation memory may be longer than the training memory; None makes it the same.
  memory_length: int = 0
  eval_memory_length: int | None = None

  # Positions. 'relative': sinusoidal R with the biases u and v (paper, section 3.3). 'rotary': arXiv:2104.09864.
  positions: Literal["relative", "rotary"] = "relative"
  rotary_base: float = 10_000.0
  clamp_length: int | None = None  # Distances beyond it share one position ('relative' only).
  same_length: bool = False  # Every query attends to exactly the latest M positions, itself included.
  untie_biases: bool = False  # u and v of each layer's own, rather than one pair for all layers.
  # Before document 1: nothing, or (post-norm only) zero vectors that it attends to, as the published models do.
  empty_memory: Literal["masked", "zeros"] = "masked"

  # The block.
  norm: Literal["layer", "rms"] = "layer"
  norm_position: Literal["pre", "post"] = "post"
  norm_epsilon: float = 1e-5
  activation: Literal["relu", "gelu", "swiglu"] = "relu"
  mlp_bias: bool = True
  dropout_rate: float = 0.0  # On embeddings, R, attention and MLP outputs and the last hidden state.
  attention_dropout_rate: float = 0.0  # On attention probabilities.

  moe: MoEConfig | None = None  # None: every layer has an MLP.
  share_layers: int = 1  # How many layers in a row have one set of parameters (arXiv:1909.11942); num_layers: all.

  # Embedding and output. Cutoffs, e.g. (20_000, 60_000), select the adaptive softmax (arXiv:1609.04309), and with a
  # divisor above 1 the adaptive input embedding (arXiv:1809.10853), where cluster i has width vocab_embed_dim /
  # divisor**i. Tables of another width than embed_dim, and all with such a divisor, are projected from and to it.
  tie_embeddings: bool = True
  output_bias: bool = False
  vocab_embed_dim: int | None = None  # None: embed_dim.
  adaptive_cutoffs: tuple[int, ...] = ()
  adaptive_divisor: int = 1
  tie_projections: bool | tuple[bool, ...] = False  # Of all clusters, or each; published models tie all but one.

  # Execution. Parameters are float32 whatever the compute dtype; softmax and loss are float32.
  dtype: Literal["float32", "bfloat16", "auto"] = "auto"  # auto: bfloat16 on accelerators, float32 on CPU.
  scan_layers: bool = True
  remat: Literal["none", "full", "dots", "dots_no_batch"] = "none"
  # 'flash': a fused kernel that keeps no scores (models/flash.py), for TPUs from v5 on; a prefix is left to 'xla'.
  attention_kernel: Literal["xla", "flash"] = "xla"
  # Queries that attend at a time ('xla' only), to what is not ahead of them: less is computed, and only a chunk's
  # scores are kept, which the backward pass makes again. None: all L at once.
  attention_chunk: int | None = None
  # Positions of each row whose logits exist at a time in training, for large vocabularies; None: all L, as ever with an
  # adaptive softmax.
  loss_chunk: int | None = None

  def __post_init__(self):
    set_field = lambda name, value: object.__setattr__(self, name, value)
    set_field("adaptive_cutoffs", tuple(self.adaptive_cutoffs))
    if not isinstance(self.tie_projections, bool):
      set_field("tie_projections", tuple(self.tie_projections))
    self._require("num_heads", self.num_heads >= 1, "at least 1")
    for name, size in (("num_layers", self.num_heads * 5 // 4), ("embed_dim", self.num_heads * 128)):
      if getattr(self, name) is None:
        set_field(name, size)
    if self.mlp_dim is None:
      set_field("mlp_dim", self.embed_dim * 7 // 2 if self.activation == "swiglu" else self.embed_dim * 4)
    for name in ("vocab_size", "num_layers", "embed_dim", "mlp_dim", "adaptive_divisor", "share_layers"):
      self._require(name, getattr(self, name) >= 1, "at least 1")
    for name in ("head_dim", "num_kv_heads", "vocab_embed_dim", "attention_chunk", "loss_chunk"):
      self._require(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
    for name in ("memory_length", "eval_memory_length", "clamp_length"):
      self._require(name, (getattr(self, name) or 0) >= 0, "0 or more, not negative")
    for name in ("dropout_rate", "attention_dropout_rate"):
      self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
    if self.head_dim is None and self.embed_dim % self.num_heads:
      raise UserError(
          f"TransformerConfig.embed_dim = {self.embed_dim} does not divide into num_heads = {self.num_heads}:"
          " change either, or set head_dim")
    for name, size in (("head_dim", self.embed_dim // self.num_heads), ("num_kv_heads", self.num_heads),
                       ("eval_memory_length", self.memory_length), ("vocab_embed_dim", self.embed_dim)):
      if getattr(self, name) is None:
        set_field(name, size)
    for field in dataclasses.fields(self):
      choices = getattr(field.type, "__args__", ())
      value = getattr(self, field.name)
      if getattr(field.type, "__origin__", None) is Literal and value not in choices:
        raise UserError(f"TransformerConfig.{field.name} = {value!r} is unknown: choose one of {', '.join(choices)}")
    for wrong, message in self._contradictions():
      if wrong:
        raise UserError(message)

  def _contradictions(self) -> Iterator[tuple[Any, str]]:
    """Whether fields contradict each other, and what is then said."""
    moe, mine = self.moe, "TransformerConfig."
    yield (self.num_heads % self.num_kv_heads,
           f"{mine}num_heads = {self.num_heads} does not divide over num_kv_heads = {self.num_kv_heads}")
    yield (self.positions == "rotary" and self.head_dim % 2,
           f"{mine}head_dim = {self.head_dim} must be even for rotary positions")
    yield (self.positions == "relative" and self.embed_dim % 2,
           f"{mine}embed_dim = {self.embed_dim} must be even for sinusoidal positions")
    yield (self.same_length and not (self.memory_length and self.eval_memory_length),
           f"{mine}same_length needs a memory: set memory_length above 0")
    yield (self.attention_kernel == "flash" and self.attention_dropout_rate,
           f"{mine}attention_dropout_rate = {self.attention_dropout_rate} needs attention_kernel = 'xla': the fused"
           " kernel drops nothing; change either")
    yield (self.empty_memory == "zeros" and self.norm_position == "pre",
           f"{mine}empty_memory = 'zeros' needs norm_position = 'post': the norm before attention would turn zeros into"
           " something else")
    yield (any(low >= high for low, high, _ in self.clusters),
           f"{mine}adaptive_cutoffs = {self.adaptive_cutoffs} must rise and stay between 0 and vocab_size ="
           f" {self.vocab_size}")
    yield (moe and moe.period > self.num_layers,
           f"MoEConfig.period = {moe and moe.period} is above {mine}num_layers = {self.num_layers}, so that no layer is"
           f" a mixture: lower it, or leave {mine}moe out")
    yield (self.num_layers % self.share_layers or (moe and moe.period > 1 and self.share_layers > 1),
           f"{mine}share_layers = {self.share_layers} must divide num_layers = {self.num_layers}, and goes with"
           " mixtures in every layer or in none: change it, or MoEConfig.period")
    yield (self.scan_layers and self.num_layers % self.period,
           f"{mine}num_layers = {self.num_layers} does not divide into blocks of MoEConfig.period = {self.period}"
           " layers: change either, or set scan_layers = False")
    yield (any(width < 1 for _, _, width in self.clusters),
           f"{mine}adaptive_divisor = {self.adaptive_divisor} leaves the last of {len(self.clusters)} clusters no width"
           f" of vocab_embed_dim = {self.vocab_embed_dim}")
    yield (len(self.tied_projections) != len(self.clusters),
           f"{mine}tie_projections = {self.tie_projections} must be one value, or one for each of the"
           f" {len(self.clusters)} clusters that adaptive_cutoffs = {self.adaptive_cutoffs} makes")

  def _require(self, name: str, holds: bool, what: str) -> None:
    if not holds:
      raise UserError(f"TransformerConfig.{name} = {getattr(self, name)} must be {what}")

  @property
  def clusters(self) -> tuple[tuple[int, int, int], ...]:
    """The softmax's clusters as (first id, end id, width)."""
    ends = (0, *self.adaptive_cutoffs, self.vocab_size)
    return tuple((low, high, self.vocab_embed_dim // self.adaptive_divisor**i)
                 for i, (low, high) in enumerate(zip(ends, ends[1:])))

  @property
  def tables(self) -> tuple[tuple[int, int, int], ...]:
    """The embedding tables likewise: one for each cluster, or, if all have one width, one for all."""
    return self.clusters if self.adaptive_divisor > 1 else ((0, self.vocab_size, self.vocab_embed_dim),)

  @property
  def has_projections(self) -> bool:
    """Whether there are projections between the tables and embed_dim."""
    return self.adaptive_divisor > 1 or self.vocab_embed_dim != self.embed_dim

  @property
  def tied_projections(self) -> tuple[bool, ...]:
    """Whether each cluster's output projection is the input's, transposed."""
    tied = self.tie_projections
    return (tied,) * len(self.clusters) if isinstance(tied, bool) else tied

  @property
  def period(self) -> int:
    """Layers after which their kinds, or else their parameters, repeat."""
    return self.share_layers if self.share_layers > 1 else self.moe.period if self.moe else 1

  def is_mixture(self, layer: int) -> bool:
    return self.moe is not None and (layer + 1) % self.moe.period == 0

  @property
  def num_mixtures(self) -> int:
    return self.num_layers // self.moe.period if self.moe else 0

  @property
  def expert_dim(self) -> int:
    """F of one expert."""
    return self.moe.mlp_dim or self.mlp_dim

  @property
  def compute_dtype(self) -> str:
    if self.dtype != "auto":
      return self.dtype
    import jax  # Asks for the backend, which only a run that computes should start.
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"

  def num_params(self) -> int:
    """Parameters of the whole model, embeddings included."""
    return self._num_params(self.moe.num_experts if self.moe else 0)

  def num_active_params(self) -> int:
    """Those that one token meets: of the experts of a mixture only the ones it is sent to, and the shared ones."""
    return self._num_params(self.moe.experts_per_token if self.moe else 0)

  def _num_params(self, experts: int) -> int:
    d, hk, gk = self.embed_dim, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
    norm = d * (2 if self.norm == "layer" else 1)
    relative = self.positions == "relative"
    inputs = 2 if self.activation == "swiglu" else 1
    layer = 2 * d * hk + (3 if relative else 2) * d * gk + 2 * norm
    mlp = lambda f: (inputs + 1) * d * f + (inputs * f + d if self.mlp_bias else 0)
    distinct, mixtures = self.num_layers // self.share_layers, self.num_mixtures // self.share_layers
    mlps = (distinct - mixtures) * mlp(self.mlp_dim)
    if self.moe:
      mixture = experts * (inputs + 1) * d * self.expert_dim
      mixture += (d + (self.moe.bias_rate > 0)) * self.moe.num_experts  # The router.
      mixture += mlp(self.moe.num_shared_experts * self.expert_dim) if self.moe.num_shared_experts else 0
      mlps += mixtures * mixture
    biases = 2 * hk * (distinct if self.untie_biases else 1) if relative else 0
    final_norm = norm if self.norm_position == "pre" else 0
    return distinct * layer + mlps + biases + final_norm + self._vocabulary_params()

  def _vocabulary_params(self) -> int:
    tails = len(self.clusters) - 1
    params = self._table_params * (1 if self.tie_embeddings else 2) + tails * self.vocab_embed_dim
    if self.has_projections:
      tied = [width * self.embed_dim for (_, _, width), tied in zip(self.clusters, self.tied_projections) if tied]
      params += sum(self._projection_products) - sum(tied)
    return params + (self.vocab_size + tails if self.output_bias else 0)

  @property
  def _table_params(self) -> int:
    return sum((high - low) * width for low, high, width in self.tables)

  @property
  def _projection_products(self) -> list[int]:
    """The sizes of the input projections, then of the output projections."""
    return [width * self.embed_dim for _, _, width in self.tables + self.clusters] if self.has_projections else []

  def flops_per_token(self, segment_length: int, memory_length: int | None = None, training: bool = False,
                      causal: bool = True) -> float:
    """Floating-point operations per token, a multiply-add being two.

    Counted: every matrix product of the forward pass, the projection of the memory's keys and values included (each
    token bears its share, M / L). A query meets M + (L + 1) / 2 keys on average, or with `causal=False` as many as are
    computed: all M + L, or in chunks of C M + (L + C) / 2. Left out: lookups, norms, softmax, the projection of R
    (shared by the batch), recomputation. `training` adds the backward pass: two more of each product, but one for the
    memory's projections when their input takes no gradient (with pre-norm it does, for the norm's scale). In a
    mixture a token counts the router, the experts it is sent to and the shared ones.
    """
    m = self.memory_length if memory_length is None else memory_length
    d, hk, gk = self.embed_dim, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
    matrices = (3 if self.activation == "swiglu" else 2) * d
    mlps = (self.num_layers - self.num_mixtures) * matrices * self.mlp_dim
    if self.moe:
      active = (self.moe.experts_per_token + self.moe.num_shared_experts) * matrices * self.expert_dim
      mlps += self.num_mixtures * (active + d * self.moe.num_experts)
    chunk = 1 if causal else min(self.attention_chunk or segment_length, segment_length)
    keys = m + (segment_length + chunk) / 2
    if causal and self.same_length and m:
      keys = m
    scores = (3 if self.positions == "relative" else 2) * hk * keys
    segment = self.num_layers * (2 * d * hk + 2 * d * gk + scores) + mlps
    memory = self.num_layers * 2 * d * gk * m / segment_length
    # Every cluster is computed for every token.
    segment += sum(self._projection_products) + self._table_params + (len(self.clusters) - 1) * self.vocab_embed_dim
    memory_products = 3 if self.norm_position == "pre" else 2
    return 2 * (3 * segment + memory_products * memory if training else segment + memory)

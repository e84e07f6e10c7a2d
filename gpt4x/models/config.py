"""TransformerConfig: every size and switch of the model, and the parameter and FLOP counts that follow from them."""

import dataclasses
import functools
from typing import get_args, get_origin, Literal

import gin

from gpt4x import errors
from gpt4x.errors import refuse, require
from gpt4x.models.places import CodePlaces


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
    require(self, "at least 1", lambda size: size >= 1, "num_experts", "period", "mlp_dim")
    require(self, f"from 1 to num_experts = {self.num_experts}", lambda k: 1 <= k <= self.num_experts,
             "experts_per_token")
    require(self, "0 or more, not negative", lambda value: value >= 0,
             "num_shared_experts", "balance_loss", "router_z_loss", "bias_rate")
    require(self, "above 0, or None", lambda factor: factor > 0, "capacity_factor")
    require(self, "at least 0 and below 1", lambda share: 0 <= share < 1, "jitter")
    require(self, "softmax or sigmoid", lambda kind: kind in ("softmax", "sigmoid"), "scores")
    refuse(self, self.normalize_weights and self.experts_per_token == 1, "normalize_weights",
            "must be False with one expert per token: its weight would always be 1, and the router would not learn")


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

  # Heads. Biases of queries, keys and values, and an RMS norm over each head of queries and of keys (arXiv:2302.05442)
  # behind them, before any rotation.
  qkv_bias: bool = False
  qk_norm: bool = False

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
  scale_embeddings: bool = True  # What enters the stack is sqrt(D) times the rows of the table.
  output_bias: bool = False
  vocab_embed_dim: int | None = None  # None: embed_dim.
  adaptive_cutoffs: tuple[int, ...] = ()
  adaptive_divisor: int = 1
  tie_projections: bool | tuple[bool, ...] = False  # Of all clusters, or each; published models tie all but one.

  code_places: CodePlaces | None = None  # None: codes of images and videos have no embeddings of their places.

  # Execution. Parameters are float32 whatever the compute dtype; softmax and loss are float32.
  dtype: Literal["float32", "bfloat16", "auto"] = "auto"  # auto: bfloat16 on accelerators, float32 on CPU.
  # What evaluation and decoding make of keys, values and projected R: 'int8' rounds each row of K (a head's, of a
  # position) to so many steps of its own, and decoding keeps them so.
  memory_dtype: Literal["compute", "int8"] = "compute"
  scan_layers: bool = True
  remat: Literal["none", "full", "dots", "dots_no_batch"] = "none"
  # 'flash': a fused kernel that keeps no scores (models/flash.py), for TPUs from v5 on; a prefix is left to 'xla'.
  attention_kernel: Literal["xla", "flash"] = "xla"
  # Queries that attend at a time ('xla' only), to nothing ahead of them: less is computed, and only a chunk's scores
  # are kept, which the backward pass makes again. None: all L at once.
  attention_chunk: int | None = None
  # Positions of each row whose logits exist at a time in training. None: all L, as ever with an adaptive softmax.
  loss_chunk: int | None = None

  def __post_init__(self):
    def default(**sizes):
      for name, size in sizes.items():
        if getattr(self, name) is None:
          object.__setattr__(self, name, size)

    for name in ("adaptive_cutoffs", "tie_projections"):  # Which gin gives as lists; a hash needs tuples.
      value = getattr(self, name)
      object.__setattr__(self, name, value if isinstance(value, bool) else tuple(value))
    at_least_1 = functools.partial(require, self, "at least 1", lambda size: size >= 1)
    at_least_1("num_heads")
    default(num_layers=self.num_heads * 5 // 4, embed_dim=self.num_heads * 128)
    default(mlp_dim=self.embed_dim * 7 // 2 if self.activation == "swiglu" else self.embed_dim * 4)
    at_least_1("vocab_size", "num_layers", "embed_dim", "mlp_dim", "adaptive_divisor", "share_layers", "head_dim",
               "num_kv_heads", "vocab_embed_dim", "attention_chunk", "loss_chunk")
    require(self, "0 or more, not negative", lambda length: length >= 0,
             "memory_length", "eval_memory_length", "clamp_length")
    require(self, "at least 0 and below 1", lambda rate: 0 <= rate < 1, "dropout_rate", "attention_dropout_rate")
    require(self, "above 0", lambda value: value > 0, "rotary_base", "norm_epsilon")
    refuse(self, self.head_dim is None and self.embed_dim % self.num_heads, "embed_dim",
            f"does not divide into num_heads = {self.num_heads}: change either, or set head_dim")
    default(head_dim=self.embed_dim // self.num_heads, num_kv_heads=self.num_heads,
            eval_memory_length=self.memory_length, vocab_embed_dim=self.embed_dim)
    for field in dataclasses.fields(self):
      if get_origin(field.type) is Literal:
        choices = get_args(field.type)
        refuse(self, getattr(self, field.name) not in choices, field.name,
                f"is unknown: choose one of {', '.join(choices)}")
    self._refuse_contradictions()

  def _refuse_contradictions(self) -> None:
    refuse, moe, clusters = functools.partial(errors.refuse, self), self.moe, self.clusters
    refuse(self.num_heads % self.num_kv_heads, "num_heads", f"does not divide over num_kv_heads = {self.num_kv_heads}")
    refuse(self.positions == "rotary" and self.head_dim % 2, "head_dim", "must be even for rotary positions")
    refuse(self.positions == "relative" and self.embed_dim % 2, "embed_dim", "must be even for sinusoidal positions")
    refuse(self.same_length and not (self.memory_length and self.eval_memory_length), "same_length",
           "needs a memory: set memory_length above 0")
    refuse(self.attention_kernel == "flash" and self.attention_dropout_rate, "attention_dropout_rate",
           "needs attention_kernel = 'xla': the fused kernel drops nothing; change either")
    refuse(self.empty_memory == "zeros" and self.norm_position == "pre", "empty_memory",
           "needs norm_position = 'post': the norm before attention would turn zeros into something else")
    refuse(any(low >= high for low, high, _ in clusters), "adaptive_cutoffs",
           f"must rise and stay between 0 and vocab_size = {self.vocab_size}")
    if moe:
      errors.refuse(moe, moe.period > self.num_layers, "period",
              f"is above TransformerConfig.num_layers = {self.num_layers}, so that no layer is a mixture: lower it, or"
              " leave TransformerConfig.moe out")
    refuse(self.num_layers % self.share_layers or (moe and moe.period > 1 and self.share_layers > 1), "share_layers",
           f"must divide num_layers = {self.num_layers}, and goes with mixtures in every layer or in none: change it,"
           " or MoEConfig.period")
    refuse(self.scan_layers and self.num_layers % self.period, "num_layers",
           f"does not divide into blocks of MoEConfig.period = {self.period} layers: change either, or set"
           " scan_layers = False")
    refuse(any(width < 1 for _, _, width in clusters), "adaptive_divisor",
           f"leaves the last of {len(clusters)} clusters no width of vocab_embed_dim = {self.vocab_embed_dim}")
    refuse(len(self.tied_projections) != len(clusters), "tie_projections",
           f"must be one value, or one for each of the {len(clusters)} clusters that adaptive_cutoffs ="
           f" {self.adaptive_cutoffs} makes")

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
    return tied if isinstance(tied, tuple) else (tied,) * len(self.clusters)

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
    d, moe, mixtures = self.embed_dim, self.moe, self.num_mixtures
    norm = d * (2 if self.norm == "layer" else 1)
    head_width, relative = self.num_heads * self.head_dim, self.positions == "relative"
    biases = lambda f: (f * (2 if self.activation == "swiglu" else 1) + d) * self.mlp_bias
    layers = self._layer_products(experts) + (self.num_layers - mixtures) * biases(self.mlp_dim)
    layers += self.num_layers * (2 * norm + relative * d * self.num_kv_heads * self.head_dim)
    layers += self.num_layers * 2 * head_width * (relative and self.untie_biases)
    layers += self.num_layers * (self.num_heads + 2 * self.num_kv_heads) * self.head_dim * self.qkv_bias
    layers += self.num_layers * 2 * self.head_dim * self.qk_norm
    if moe:
      layers += mixtures * moe.num_experts * (moe.bias_rate > 0)
      layers += mixtures * biases(moe.num_shared_experts * self.expert_dim) * (moe.num_shared_experts > 0)
    tables, vocabulary = self._vocabulary_products()
    if self.code_places:
      vocabulary += self.code_places.size * d
    if self.has_projections:
      vocabulary -= d * sum(width for (_, _, width), tied in zip(self.clusters, self.tied_projections) if tied)
    vocabulary += (not self.tie_embeddings) * tables + self.output_bias * (self.vocab_size + len(self.clusters) - 1)
    shared = 2 * head_width * (relative and not self.untie_biases) + norm * (self.norm_position == "pre")
    return layers // self.share_layers + shared + vocabulary

  def _layer_products(self, experts: int) -> int:
    """The sizes of all layers' matrices but R's, with so many experts in a mixture besides the shared ones."""
    d, moe, matrices = self.embed_dim, self.moe, (3 if self.activation == "swiglu" else 2) * self.embed_dim
    sizes = self.num_layers * 2 * d * (self.num_heads + self.num_kv_heads) * self.head_dim
    sizes += (self.num_layers - self.num_mixtures) * matrices * self.mlp_dim
    if moe:
      experts += moe.num_shared_experts
      sizes += self.num_mixtures * (experts * matrices * self.expert_dim + d * moe.num_experts)
    return sizes

  def _vocabulary_products(self) -> tuple[int, int]:
    """The size of the tables; and with it that of the projections in and out and of the scores of the tails."""
    tables = sum((high - low) * width for low, high, width in self.tables)
    projections = sum(width for _, _, width in self.tables + self.clusters) * self.embed_dim * self.has_projections
    return tables, tables + projections + (len(self.clusters) - 1) * self.vocab_embed_dim

  def flops_per_token(self, segment_length: int, memory_length: int | None = None, training: bool = False,
                      causal: bool = True) -> float:
    """Floating-point operations per token, a multiply-add being two.

    Every matrix product of the forward pass counts, the memory's keys and values too (each token bears its share,
    M / L), and all clusters. A query meets M + (L + 1) / 2 keys on average, or with `causal=False` as many as are
    computed: M + L, or in chunks of C M + (L + C) / 2. Lookups, norms, softmax, the projection of R (shared by the
    batch) and recomputation do not count. `training` adds two more of each product, but one for the memory's when their
    input takes no gradient (with pre-norm it does, for the norm's scale). In a mixture the router, the experts that a
    token is sent to and the shared ones count.
    """
    m = self.memory_length if memory_length is None else memory_length
    chunk = 1 if causal else min(self.attention_chunk or segment_length, segment_length)
    keys = m if causal and self.same_length and m else m + (segment_length + chunk) / 2
    scores = (3 if self.positions == "relative" else 2) * self.num_heads * self.head_dim * keys
    products = self._layer_products(self.moe.experts_per_token if self.moe else 0) + self._vocabulary_products()[1]
    segment = products + self.num_layers * scores
    memory = self.num_layers * 2 * self.embed_dim * self.num_kv_heads * self.head_dim * m / segment_length
    memory_products = 3 if self.norm_position == "pre" else 2
    return 2 * (3 * segment + memory_products * memory if training else segment + memory)

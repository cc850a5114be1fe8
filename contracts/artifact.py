"""An immutable model version: what stands in its ``manifest.json``, and what each kind's graphs are called.

Files of an artifact: ``manifest.json``, ``<graph>.onnx``, ``weights.safetensors``,
``constants.safetensors`` (arrays that programs need), ``card.json``, ``preview.png`` where pictures make sense.

Graphs by kind. ``x`` is the features array of `contracts.data` (float64 table or uint8 image),
``y`` int64 ``(B,)`` labels (only where the manifest has a condition), ``u``/``eps`` noise. ``B`` is
symbolic, every graph treats rows independently and draws nothing itself.

*latent* (pca, autoencoder, vae)
    posterior   x, shown bool (B, *row)?, y? → mean (B, L), log_scale (B, L)?     log of the standard deviation
    likelihood  z (B, L), u (B, cells), y?   → mean (B, *row), draw (B, *row)     data units, floating, not floored
    score       x, shown, z, y?              → log_likelihood (B,)                log p(shown cells of x | z), nats
    density     x, u (B, cells)?             → log_prob (B,)                      where the marginal has a closed form
    The prior on z is N(0, I), or the mixture in the constants ``prior.*``; where the prior or the posterior is
    more than that (hierarchical_vae, vae with another prior), two more graphs take their place in scoring and sampling:
    infer       x, shown, eps (B, L), y?     → z (B, L), log_ratio (B,)           z ~ q(z | shown), log p(z) - log q(z)
    prior       eps (B, L), temperature (B, G), u (B, 1)?, y? → z (B, L)          G groups, from the top down; a mixture
                                                                                  takes its component from u
    Without ``posterior``, a row is encoded as the ``z`` that ``infer`` answers at eps = 0.
*latent*, codes (vqvae): N sites, each one of K codes, the top level's first; there is no ``posterior``
    codes       x, shown                     → codes (B, N), guide (B, N, K)      guide: log q(code | shown) + const
    likelihood  codes (B, N), u (B, cells)   → mean (B, *row), draw (B, *row)
    score       x, shown, codes              → log_likelihood (B,)                log p(shown cells of x | codes), nats
    prior_score codes, y?                    → log_prob (B, N)                    log p(code | those before), nats
    prior_step  code (B,), site (B,), cache (B, …), y? → logits (B, K), new_cache  of the code at ``site``; ``code``
                                                                                  stands just before it
    prior_start tokens (B, T)                → cache (B, …)                       pictures after texts (dalle): then
                                                                                  ``prior_score`` takes tokens for y
    rank_image, rank_text                    as ``embed``, ``embed_text``         of its ranker, if it has one

*autoregressive* over cells (autoregressive on tables and images); ``order`` and ``shown`` say which regime it is
    score       x, y?                        → log_prob (B, cells)                each cell given those before it in the
                                                                                  constant ``order`` (cells,), nats
                x, order (B, cells), y?      → log_prob (B, cells)                cell order[t] given order[:t]
                x, shown, y?                 → log_prob (B, cells)                each hidden cell given the shown ones
    step        x, shown?, u (B, cells), temperature (B,), y? → mean, std, draw (B, cells)   inputs as in score
                value (B,), cell (B,), next (B,), position (B,), cache (B, …), u (B, 1), temperature (B,), y?
                                             → mean, std, draw (B,), new_cache    of cell ``next``; with KV cache;
                                                                                  no cell yet: ``cell`` = cells
    embed       x, y?                        → vector (B, L)                      pooled hidden state
*autoregressive* over tokens (on texts); ⊥ is the last token of the alphabet and stands at both ends of a text
    score       tokens (B, T), targets (B, T), y?      → log_prob (B, T)          log p(targets[t] | tokens[..t]), nats
                tokens, targets, places (B, T), next_places (B, T), y? → log_prob where any order goes
    step        token (B,), position (B,), cache (B, …), y? → logits (B, V), new_cache  with ``place``, ``next_place``
                                                                                  (B,) where any order goes
    embed       tokens (B, T), weight (B, T), y?       → vector (B, L)            states averaged by weight
    The file ``tokenizer.json`` holds the alphabet where it is not UTF-8 bytes.

*bijective* (flow)
    forward     x, u (B, cells)?, y?         → z (B, L), log_prob (B,)            nats of the data's own units
                x, eps (B, discrete cells), y? → z, log_prob    where u is drawn from q(u | x): log p(x + u) - log q
    density     x, u (B, cells), y?          → log_prob (B,)                      log p(x + u), beside such a forward
    inverse     z, y?                        → x (B, *row)                        floating, not floored

*implicit* (gan)
    generate    eps (B, K), temperature (B,), u (B, cells)?, y? → draw (B, *row)  temperature times eps; u of categories

*embedding* (simclr, clip)
    embed       x                            → vector (B, L)
    embed_text  tokens (B, C)                → vector (B, L)                      pairs only: a caption's tokens, then ⊥
                                                                                  until the C places are full; both of
                                                                                  length 1

Where data have discrete cells and the graph works on densities, ``u`` in [0, 1) is added to the
discrete cells inside the graph, and ``draw``/``x`` come back on that dequantised scale
(a discrete value v stands for [v, v+1); ``DataSpec.quantise`` floors it). ``mean`` is the expected
value in the data's own units. A likelihood that is discrete by itself answers whole numbers.

Constants (safetensors, float64). A mixture of Gaussians with K components in n dimensions is
``<name>.log_weights (K,)``, ``<name>.means (K, n)``, ``<name>.cholesky (K, n, n)`` lower.
    prior.*      mixture on z (autoencoder's ex-post density)
    gaussian.*   pca: the model itself as a one-component mixture over the (dequantised) cells; makes
                 marginals and conditionals exact
    proposal.*   flow: mixture fitted on train rows over the (dequantised) cells, proposal of conditionals
    codebook     vqvae: vectors (levels, K, D); a row's vector is those of its codes
    blocks       vqvae of images (levels, 3): rows and columns of a level's sites, and pixels a side under each
    logit_scale  clip (1,): what cosines are multiplied by before the softmax over captions
    order        autoregressive over cells in one order: the cells' numbers in that order
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.data import DataSpec, Measure

FORMAT_VERSION = 1


class Verb(StrEnum):
    """What a model can be asked."""

    ENCODE = "encode"
    DECODE = "decode"
    SAMPLE = "sample"
    LOG_PROB = "log_prob"
    PREDICT = "predict"
    SIMILARITY = "similarity"


class Kind(StrEnum):
    """What a model is to the engine: which program answers its verbs."""

    LATENT = "latent"
    BIJECTIVE = "bijective"
    AUTOREGRESSIVE = "autoregressive"
    EMBEDDING = "embedding"
    IMPLICIT = "implicit"


class AnswerKind(StrEnum):
    """What a number is: exact, a lower bound in expectation, or a Monte-Carlo estimate."""

    EXACT = "exact"
    LOWER_BOUND = "lower_bound"
    ESTIMATE = "estimate"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """A named input or output of a graph; symbolic dimensions are strings (the batch is ``B``)."""

    name: str
    dtype: Literal["float32", "float64", "int64", "uint8", "bool"]
    shape: tuple[int | str, ...]
    noise: Literal["normal", "uniform"] | None = Field(
        default=None, description="Set on inputs that the engine draws: N(0, 1), or U[0, 1)."
    )


class GraphSpec(_Frozen):
    """One ONNX file of an artifact."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class VerbSpec(_Frozen):
    """How a model answers a verb, or why it does not."""

    supported: bool
    kind: AnswerKind | None = Field(default=None, description="What the numbers are (log_prob, predict, sample).")
    refusal: str | None = Field(default=None, description="Where unsupported: why, and what to use instead.")


class FileEntry(_Frozen):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")


class Tolerance(_Frozen):
    """Largest difference between torch and ONNX that publishing allows: |a-b| ≤ absolute + relative·|b|."""

    absolute: float = 1e-4
    relative: float = 1e-4


class Manifest(_Frozen):
    """``manifest.json``; the artifact's digest is the sha256 of its canonical JSON."""

    format_version: Literal[1] = 1
    family: str
    kind: Kind
    config: dict[str, Any] = Field(description="The family's config with every None resolved.")
    data: DataSpec
    latent_dimensions: int | None = Field(default=None, description="L, where the model has vectors.")
    latent_groups: tuple[int, ...] | None = Field(
        default=None, description="Sizes of the groups that a vector is made of, top first; they add up to L."
    )
    condition: tuple[str, ...] | None = Field(
        default=None, description="Categories that `given: {label}` takes, where the model is conditional."
    )
    graphs: dict[str, GraphSpec]
    constants: tuple[str, ...] = Field(default=(), description="Names of the arrays in constants.safetensors.")
    verbs: dict[Verb, VerbSpec]
    measure: Measure
    tolerance: Tolerance = Tolerance()
    parents: dict[str, str] = Field(default_factory=dict, description="Role → digest of the parent artifact.")
    libraries: dict[str, str] = Field(default_factory=dict, description="Package → version at export.")
    seed: int
    steps: int = Field(description="Training steps taken in all.")
    dataset: str = Field(description="Digest of the dataset trained on.")
    space: str = Field(description="Embedding-space id: digest of weights and pre-processing.")
    files: dict[str, FileEntry] = Field(description="Every file but the manifest.")

    def supports(self, verb: Verb) -> bool:
        return verb in self.verbs and self.verbs[verb].supported


class Card(BaseModel):
    """``card.json``: what was measured when the version was made."""

    model_config = ConfigDict(extra="forbid")

    metrics: dict[str, Any] = Field(
        description="On the held-out rows: log_prob_nats, bits_per_dim, standard_error, kind, measure, rows, samples; "
        "reconstruction_mse; what the family adds."
    )
    parity: dict[str, float] = Field(description="graph.output → largest |torch - ONNX| seen.")
    timings: dict[str, float] = Field(description="Seconds: train_seconds, export_seconds, evaluate_seconds.")
    rows: dict[str, int] = Field(description="Rows by part.")
    history: list[dict[str, Any]] = Field(default_factory=list, description="Held-out score by step.")

"""Programs: how each kind of model answers the verbs from its graphs."""

from __future__ import annotations

from contracts.artifact import Kind
from contracts.errors import Conflict
from engine.kinds.program import Program
from engine.model import Model

__all__ = ["Program", "program"]


def program(model: Model) -> Program:
    """Return the program of the model's kind. Raises Conflict for a kind that this engine does not serve."""
    from engine.kinds.bijective import BijectiveProgram
    from engine.kinds.embedding import EmbeddingProgram
    from engine.kinds.implicit import ImplicitProgram
    from engine.kinds.latent import LatentProgram

    programs: dict[Kind, type[Program]] = {
        Kind.LATENT: LatentProgram,
        Kind.BIJECTIVE: BijectiveProgram,
        Kind.IMPLICIT: ImplicitProgram,
        Kind.EMBEDDING: EmbeddingProgram,
    }
    kind = model.manifest.kind
    if model.has("prior_step"):
        from engine.kinds.codes import CodesProgram
        from engine.kinds.prompted import PromptedProgram

        return PromptedProgram(model) if model.has("prior_start") else CodesProgram(model)
    if kind is Kind.AUTOREGRESSIVE:
        from engine.kinds.autoregressive import CellProgram
        from engine.kinds.tokens import TokenProgram

        return TokenProgram(model) if model.manifest.data.modality == "text" else CellProgram(model)
    if kind is Kind.EMBEDDING and model.has("embed_text"):
        from engine.kinds.pair import PairProgram

        return PairProgram(model)
    if kind not in programs:
        raise Conflict(f"this server answers models of the kinds {', '.join(programs)}; this one is {kind}")
    return programs[kind](model)

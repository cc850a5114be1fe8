"""Pictures after texts: `given.text` of the verbs, guidance, candidates that are ranked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kinds import Program
from engine.kinds.prompted import PromptedProgram
from service.answers import Answer, check_cells
from service.calls import Call
from service.inputs import check_rows_limit
from service.schemas.inputs import Given, SampleGiven
from service.schemas.verbs import SampleRequest
from service.tensors import wrong

OWN = ("guidance", "candidates")


def is_prompted(call: Call[Any]) -> bool:
    """Whether the model draws pictures after texts."""
    return "prior_start" in call.version.manifest.graphs


def prompted(program: Program, call: Call[Any], given: Given | SampleGiven | None, rows: int) -> Program:
    """The program that is given the request's text; of other models, or without a text, the program itself.

    Raises InvalidInput for a wrong number of texts, or one that cannot be read.
    """
    text = None if given is None else given.text
    if text is None or not isinstance(program, PromptedProgram):
        return program
    return program.asking(_texts(text, rows))


def sample_prompted(call: Call[SampleRequest], seed: int) -> Answer:
    """/sample: pictures of a text, the best first where candidates are ranked."""
    asked, spec, settings = call.request, call.version.manifest.data, call.gateway.settings
    for name in ("prefix", "max_tokens"):
        if getattr(asked, name) is not None:
            raise wrong(name, "is for models of texts, and this one draws pictures; leave it out")
    if asked.given is not None and (asked.given.row is not None or asked.given.label is not None):
        raise wrong("given", f"{call.version.reference} takes texts: say given.text")
    candidates = asked.candidates
    if candidates is not None:
        check_rows_limit(candidates, settings.max_samples, "candidates")
        check_cells(candidates * spec.cells, settings.max_cells, "candidates")
    text = None if asked.given is None else asked.given.text
    arrays: dict[str, NDArray[np.generic]] = {}
    with call.program() as program:
        assert isinstance(program, PromptedProgram)
        program = program.expecting(asked.expected is not False)
        if text is None:
            for name in (*OWN, "top_k", "top_p"):
                if getattr(asked, name) is not None:
                    raise wrong(name, "goes with a text: say given.text")
            arrays["rows"] = program.sample(asked.n, seed=seed, temperature=asked.temperature)
        else:
            guidance = 1.0 if asked.guidance is None else asked.guidance
            bound = program.asking(_texts(text, asked.n), guidance=guidance, top_k=asked.top_k, top_p=asked.top_p)
            if candidates is None:
                arrays["rows"] = bound.sample(asked.n, seed=seed, temperature=asked.temperature)
            else:
                found = bound.best(asked.n, candidates=candidates, seed=seed, temperature=asked.temperature)
                assert found.scores is not None
                arrays |= {"rows": found.rows, "scores": found.scores}
    return Answer(
        facts=call.facts(seed=seed, temperature=asked.temperature, guidance=asked.guidance, candidates=candidates),
        arrays=arrays,
        main="rows",
        spec=spec,
        rows=frozenset({"rows"}),
        format=asked.format,
    )


def _texts(text: str | list[str], rows: int) -> list[str]:
    if isinstance(text, str):
        return [text]
    if len(text) != rows:
        raise wrong("given.text", f"has {len(text)} texts for {rows} rows; give one, or one per row")
    return text

"""`reconstruct`: pictures over their codes and what the model decodes from them."""

from __future__ import annotations

import sys
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from contracts.data import DataSpec, ImageShape
from service.cli.files import FileError, read_inputs, tensor, write_bytes
from service.cli.output import console, session
from service.cli.verbs import Files, Label, Model, Space, data_spec, given
from service.inputs import RowLimits, parse_rows
from service.pictures import write_grid


def reconstruct(
    context: typer.Context,
    model: Model,
    files: Files,
    output: Annotated[str, typer.Option("--output", "-o", help="The .png to write.")],
    label: Label = None,
    space: Space = None,
) -> None:
    """Pictures over what the model makes of them, as one PNG.

    Lines from above: the inputs, their codes where the model has them (a line for each level), the decoded rows.
    """
    here = session(context)
    spec = DataSpec.model_validate(data_spec(here, model))
    if spec.image is None:
        raise FileError(f"{model} reads {spec.row_name}, and only pictures can be shown; use encode and decode")
    rows = parse_rows(read_inputs(files), spec, RowLimits(max_rows=sys.maxsize, max_pixels=sys.maxsize)).x
    body = {"model": model, "given": given(label), "space": space}
    coded = "codes" in here.client.get(f"/models/{model}")["manifest"]["graphs"]
    found = here.client.post("/encode", body | {"inputs": tensor(rows), "codes": coded})
    key = "codes" if coded else "vectors"
    decoded = here.client.post("/decode", body | {key: found[key]})["rows"]
    lines = [rows.astype(np.float64)]
    if coded:
        codes = np.asarray(found["codes"], dtype=np.int64)
        lines += code_pictures(codes, found["grids"], found["codebook_size"], spec.image)
    lines.append(np.asarray(decoded, dtype=np.float64).reshape(rows.shape))
    write_bytes(output, write_grid(np.concatenate(lines), spec.image, across=len(rows)))
    facts = {"model": found["model"], "rows": len(rows), "lines": len(lines), "output": output}
    here.show(facts, lambda: console.print(f"{found['model']}: {len(rows)} pictures, {len(lines)} lines in {output}"))


def code_pictures(
    codes: NDArray[np.int64], grids: list[list[int]], total: int, shape: ImageShape
) -> list[NDArray[np.float64]]:
    """A picture of each row's codes for each level ``(B, H, W, C)``: a site is a block, its grey the code's number."""
    lines, at = [], 0
    for high, across in grids:
        part = codes[:, at : at + high * across].reshape(-1, high, across)
        at += high * across
        down, right = -(-shape.height // high), -(-shape.width // across)
        large = part.repeat(down, 1).repeat(right, 2)[:, : shape.height, : shape.width]
        grey = (large + 1) * ((shape.levels - 1) / total)
        lines.append(np.repeat(grey[..., None], shape.channels, -1))
    return lines

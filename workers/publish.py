"""A trained family as the folder of an artifact: weights, constants, manifest, card, preview.

The embedding space is named by what a vector depends on: weights, pre-processing buffers, the
family, and the shape and types of the data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save

from contracts.artifact import Card, FileEntry, GraphSpec, Manifest
from contracts.data import DataSpec
from contracts.errors import InvalidInput
from models.family import Family

WEIGHTS, CONSTANTS, MANIFEST, CARD, PREVIEW = (
    "weights.safetensors",
    "constants.safetensors",
    "manifest.json",
    "card.json",
    "preview.png",
)
LIBRARIES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "scikit-learn",
    "tokenizers",
)
PREVIEW_ROWS = 64


def assemble(
    family: Family[Any],
    folder: Path,
    *,
    graphs: Mapping[str, GraphSpec],
    seed: int,
    steps: int,
    dataset: str,
    card: Card | None = None,
    preview: NDArray[Any] | None = None,
    parents: Mapping[str, str] | None = None,
    more_files: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Complete ``folder``, which holds the exported ``graphs``, and return its manifest.

    Call it once without a card to get a folder that the engine loads (for evaluation), and again with the card
    and, for images, up to 64 samples as ``preview`` ``(n, H, W, C)`` uint8 in the data's own levels: the
    second folder is the one to publish. ``dataset``: digest trained on; ``parents``: role → digest;
    ``more_files``: what the engine's program reads besides, by name (a tokeniser).
    Raises InvalidInput if a graph's file is missing, or weights or constants are not finite, buffers not a number.
    """
    missing = [graph.file for graph in graphs.values() if not (folder / graph.file).is_file()]
    if missing:
        raise InvalidInput(f"export the graphs first; {folder.name} lacks {', '.join(missing)}")
    state = _contiguous(family.state_dict())
    constants = _contiguous(family.constants())
    parameters = {name for name, _ in family.named_parameters()}
    for name, tensor in {**state, **constants}.items():
        # Buffers may be infinite on purpose: open bounds of a column.
        may_be_infinite = name in state and name not in parameters
        bad = torch.isnan(tensor) if may_be_infinite else ~torch.isfinite(tensor)
        if bool(bad.any()):
            raise InvalidInput(f"`{name}` holds values that are not finite; such a model is not published")
    written = {WEIGHTS: save(state), **(more_files or {})}
    if constants:
        written[CONSTANTS] = save({name: tensor.to(torch.float64) for name, tensor in constants.items()})
    if card is not None:
        written[CARD] = card.model_dump_json(indent=1).encode()
    if preview is not None and len(preview):
        written[PREVIEW] = picture_grid(preview, family.spec)
    for name, content in written.items():
        (folder / name).write_bytes(content)
    names = sorted({*written, *(graph.file for graph in graphs.values())})
    categories = family.spec.label.categories if family.spec.label else None
    conditional = getattr(family.config, "condition", "none") == "label"
    manifest = Manifest(
        family=family.config.family,
        kind=family.kind,
        config=family.config.model_dump(mode="json"),
        data=family.spec,
        latent_dimensions=family.latent_dimensions,
        latent_groups=family.latent_groups,
        condition=categories if conditional else None,
        graphs=dict(graphs),
        constants=tuple(sorted(constants)),
        verbs=family.verbs(),
        measure=family.spec.measure,
        tolerance=family.tolerance,
        parents=dict(parents or {}),
        libraries=_libraries(),
        seed=seed,
        steps=steps,
        dataset=dataset,
        space=space_id(family, more_files),
        files={name: _entry(folder / name) for name in names},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return manifest


def space_id(family: Family[Any], more_files: Mapping[str, bytes] | None = None) -> str:
    """Return the id of the embedding space: 32 hexadecimal digits; equal weights on equal data, read through equal
    files, share it."""
    digest = hashlib.sha256()
    spec = family.spec
    columns = [] if spec.image else [(column.name, column.type.value, column.categories) for column in spec.features]
    image = spec.image.model_dump() if spec.image else None
    digest.update(json.dumps([family.config.family, columns, image], sort_keys=True).encode())
    for name, tensor in sorted(_contiguous(family.state_dict()).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, content in sorted((more_files or {}).items()):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()[:32]


def picture_grid(rows: NDArray[Any], spec: DataSpec) -> bytes:
    """Return a PNG of up to 64 images ``(n, H, W, C)``: near-square grid, a pixel apart, levels spread to 0…255."""
    if spec.image is None:
        raise InvalidInput("only images make a picture")
    shown = np.asarray(rows)[:PREVIEW_ROWS].astype(np.float64) * (255.0 / (spec.image.levels - 1))
    shown = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    height, width, channels = spec.image.shape
    across = math.ceil(math.sqrt(len(shown)))
    down = math.ceil(len(shown) / across)
    grid = np.full((down * (height + 1) + 1, across * (width + 1) + 1, channels), 128, dtype=np.uint8)
    for index, image in enumerate(shown):
        top, left = 1 + index // across * (height + 1), 1 + index % across * (width + 1)
        grid[top : top + height, left : left + width] = image
    picture = Image.fromarray(grid[:, :, 0] if channels == 1 else grid)
    # Small images are enlarged by whole pixels, so that a grid of digits can be looked at.
    factor = max(1, 512 // max(grid.shape[:2]))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    target = io.BytesIO()
    picture.save(target, format="PNG", optimize=True)
    return target.getvalue()


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Copies, since safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, size=path.stat().st_size)


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

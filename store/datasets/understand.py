"""From the pieces of an upload to its content: which format goes to which reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contracts.errors import InvalidInput, UnsupportedMedia
from store.datasets.content import Content
from store.datasets.overrides import ImageOverride, Overrides
from store.datasets.uploads import Format, Piece
from store.settings import StoreSettings


def understand_upload(pieces: Sequence[Piece], overrides: Overrides, scratch: Path, settings: StoreSettings) -> Content:
    """Choose the reader by format and let it look the upload over.

    Readers are imported where they are used, so that opening a store stays cheap.
    """
    content = _understand(pieces, overrides, scratch, settings)
    if content.spec.image is None and overrides.image != ImageOverride():
        raise InvalidInput("overrides.image is given, but the upload holds no images")
    return content


def _understand(pieces: Sequence[Piece], overrides: Overrides, scratch: Path, settings: StoreSettings) -> Content:
    formats = {piece.format for piece in pieces}
    if len(formats) > 1:
        pictures = formats & {Format.ZIP, Format.TAR, Format.IMAGE}
        what = (
            "put the pictures and the file of labels or captions into one archive"
            if pictures
            else "upload them one by one"
        )
        raise InvalidInput(f"the files are of different formats ({', '.join(sorted(formats))}); {what}")
    (kind,) = formats
    if len(pieces) > 1 and kind not in (Format.IDX, Format.IMAGE):
        raise InvalidInput(f"{len(pieces)} {kind} files in one upload; only IDX files and pictures come together")
    piece = pieces[0]
    if kind in (Format.NPY, Format.NPZ, Format.IDX):
        return _arrays(pieces, overrides, scratch)
    if kind in (Format.ZIP, Format.TAR, Format.IMAGE):
        from store.datasets.formats import archives

        return archives.understand_pictures(pieces, overrides, scratch, settings)
    if overrides.modality == "image" and kind is not Format.PARQUET:
        raise InvalidInput(f"modality is `image`, but a {kind} file holds no images")
    if kind is Format.TEXT:
        from store.datasets.formats import texts

        return texts.understand_lines(piece.path, overrides)
    return _table(piece, overrides, scratch, settings)


def _arrays(pieces: Sequence[Piece], overrides: Overrides, scratch: Path) -> Content:
    from store.datasets.formats import idx, numpy_files
    from store.datasets.named_arrays import understand_groups

    piece = pieces[0]
    if piece.format is Format.IDX:
        groups = idx.group_idx([(each.name, each.path) for each in pieces])
    elif piece.format is Format.NPY:
        groups = numpy_files.group_npy(piece.path, piece.name)
    else:
        from store.datasets.formats import archives

        members = archives.unpack_npz(piece, scratch / "npz")
        groups = numpy_files.group_npz(members, wanted=overrides.named())
    return understand_groups(groups, overrides)


def _table(piece: Piece, overrides: Overrides, scratch: Path, settings: StoreSettings) -> Content:
    from store.datasets import tables

    if piece.format is Format.PARQUET:
        from store.datasets.formats import parquet

        return parquet.understand_parquet(piece, overrides, settings)
    if piece.format is Format.CSV:
        from store.datasets.formats.delimited import DelimitedSource

        return tables.understand(DelimitedSource(piece.path, header=overrides.header), overrides)
    if piece.format is Format.JSONL:
        from store.datasets.formats.json_lines import JsonLinesSource

        return tables.understand(JsonLinesSource(piece.path), overrides)
    raise UnsupportedMedia(f"{piece.format} files are not read as tables")

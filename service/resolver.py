"""References to versions, remembered for at most a second, so that every gateway sees an alias move in time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from contracts.artifact import Verb
from contracts.errors import InvalidInput, SpaceMismatch, VerbUnsupported
from store.catalogue import Catalogue, ModelVersion

MOST_REMEMBERED = 1024


class Resolver:
    """Looks model references up in the catalogue."""

    def __init__(self, catalogue: Catalogue, *, seconds: float) -> None:
        self._catalogue = catalogue
        self._seconds = seconds
        self._known: OrderedDict[str, tuple[float, ModelVersion]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, reference: str) -> ModelVersion | None:
        """The version, if it was looked up within the last second; never touches the catalogue."""
        found = self._known.get(reference)
        return found[1] if found is not None and found[0] > time.monotonic() else None

    def resolve(self, reference: str) -> ModelVersion:
        """The version that ``name``, ``name@3`` or ``name@alias`` means now; NotFound says what there is."""
        found = self.known(reference)
        if found is None:
            asked = time.monotonic()  # before the look-up: a move during it must not be hidden for longer
            found = self._catalogue.resolve(reference)
            with self._lock:
                self._known[reference] = (asked + self._seconds, found)
                self._known.move_to_end(reference)
                if len(self._known) > MOST_REMEMBERED:
                    self._known.popitem(last=False)
        return found

    def forget(self) -> None:
        """Look everything up anew, after a change by this very process."""
        with self._lock:
            self._known.clear()

    def answering(self, reference: str, verb: Verb, *, space: str | None) -> ModelVersion:
        """Resolve for a verb: VerbUnsupported says what to use instead, SpaceMismatch which space there is."""
        version = self.resolve(reference)
        check_verb(version, verb)
        if space is not None and space != version.manifest.space:
            raise SpaceMismatch(
                f"{version.reference} answers in space {version.manifest.space}, and the request pins {space}; "
                "use the version that made your vectors, or encode them again"
            )
        return version


def check_verb(version: ModelVersion, verb: Verb) -> None:
    """Raise VerbUnsupported, with the refusal of the manifest, where the version does not answer ``verb``."""
    if not version.manifest.supports(verb):
        spec = version.manifest.verbs.get(verb)
        raise VerbUnsupported(
            (spec.refusal if spec else None) or f"{version.manifest.family} does not answer {verb}; see GET /families"
        )


def label_codes(version: ModelVersion, label: str | list[str] | None, rows: int) -> list[int] | None:
    """Codes of the labels that a conditional model is given, one per row; InvalidInput where they are wrong."""
    categories = version.manifest.condition
    if label is None:
        return None
    if categories is None:
        raise InvalidInput(
            f"{version.reference} is not conditional: leave `given` out, or train with condition `label`"
        )
    labels = [label] * rows if isinstance(label, str) else label
    if len(labels) != rows:
        raise InvalidInput(f"given.label has {len(labels)} labels for {rows} rows; give one, or one per row")
    codes = {name: code for code, name in enumerate(categories)}
    unknown = sorted({name for name in labels if name not in codes})
    if unknown:
        known = ", ".join(categories[:20]) + (", …" if len(categories) > 20 else "")
        raise InvalidInput(f"given.label: unknown {', '.join(map(repr, unknown[:5]))}; the model knows {known}")
    return [codes[name] for name in labels]

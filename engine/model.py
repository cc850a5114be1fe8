"""A model version in memory: its manifest, its constants, and a session per graph behind a batcher.

Sessions are made when a graph is first run, so a model that only encodes never loads its decoder. Their memory is
planned for row counts that vary: no arena and no memory pattern, which would keep the largest batch ever seen.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.artifact import GraphSpec, Manifest
from contracts.errors import ArtifactCorrupt, Internal, InvalidInput, NotReady
from engine.batcher import Arrays, Batcher
from engine.call import current_call
from engine.counters import BatchCounters
from engine.options import CPU_PROVIDER, CUDA_PROVIDER, SessionOptions, providers

if TYPE_CHECKING:
    import onnxruntime

CONSTANTS_FILE = "constants.safetensors"

# A session holds its initialisers beside the parsed file, and has a fixed part.
_BYTES_PER_FILE_BYTE = 2
_BYTES_PER_SESSION = 1 << 20

# Sequences of a large model that are drawn in one run, however large their caches are.
_STATES_PER_RUN = 8


def estimate_resident_bytes(manifest: Manifest) -> int:
    """Return about how many bytes a model takes when all of its graphs are loaded."""
    total = 0
    for graph in manifest.graphs.values():
        total += _BYTES_PER_FILE_BYTE * manifest.files[graph.file].size + _BYTES_PER_SESSION
    constants = manifest.files.get(CONSTANTS_FILE)
    return total + (constants.size if constants else 0)


class Model:
    """A verified artifact, ready to run. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        constants: dict[str, NDArray[np.float64]],
        options: SessionOptions,
        counters: dict[str, BatchCounters] | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.constants = constants
        self.options = options
        self.resident_bytes = estimate_resident_bytes(manifest)
        self.counters = {} if counters is None else counters
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._batchers: dict[tuple[object, ...], Batcher] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def load(
        cls,
        folder: Path,
        options: SessionOptions | None = None,
        *,
        counters: dict[str, BatchCounters] | None = None,
    ) -> Model:
        """Read the manifest and the constants of ``folder``, whose files were verified when it was fetched.

        ``counters``: by graph, to go on counting where an earlier load of the same version stopped.
        Raises ArtifactCorrupt if a file is missing or unreadable.
        """
        from pydantic import ValidationError

        try:
            manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactCorrupt(f"manifest.json cannot be read: {error}") from error
        for name, graph in manifest.graphs.items():
            if graph.file not in manifest.files or not (folder / graph.file).is_file():
                raise ArtifactCorrupt(f"{graph.file}, the file of the graph `{name}`, is missing")
        return cls(folder, manifest, _load_constants(folder, manifest), options or SessionOptions(), counters)

    def has(self, graph: str) -> bool:
        return graph in self.manifest.graphs

    def rows_per_run(self, graph: str) -> int:
        """Return how many rows one run of ``graph`` takes at most (at least 1)."""
        spec = self._spec(graph)
        return max(1, _element_budget(spec, self.options.element_budget) // max(1, _row_elements(spec, {})))

    def run(
        self,
        graph: str,
        feeds: Mapping[str, NDArray[np.generic]],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Run ``graph`` on ``feeds`` (each with the leading dimension B) and return the named ``outputs``, or all.

        Feeds are cast to the dtypes of the graph; what is over the element budget runs in several parts, each
        in a batch with whoever else waits. Raises InvalidInput, TooLarge, Overloaded or DeadlineExceeded.
        """
        spec = self._spec(graph)
        arrays, rows = _prepare(graph, spec, feeds)
        wanted = [tensor.name for tensor in spec.outputs] if outputs is None else list(outputs)
        batcher = self._batcher(graph, spec, arrays)
        if rows == 0:
            raise InvalidInput("at least one row is needed, got none")
        step = max(1, batcher.rows_per_run)
        parts: list[Arrays] = []
        for start in range(0, rows, step):
            current_call().check()
            parts.append(batcher.submit({name: array[start : start + step] for name, array in arrays.items()}))
        if len(parts) == 1:
            return {name: parts[0][name] for name in wanted}
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def close(self) -> None:
        """Let go of the sessions; runs that are under way end first, later ones raise NotReady."""
        with self._lock:
            self._closed = True
            self._sessions.clear()
            self._batchers.clear()

    def _spec(self, graph: str) -> GraphSpec:
        try:
            return self.manifest.graphs[graph]
        except KeyError:
            raise Internal(f"the model has no graph `{graph}`, only {', '.join(self.manifest.graphs)}") from None

    def _batcher(self, graph: str, spec: GraphSpec, arrays: Arrays) -> Batcher:
        key = (graph, *(array.shape[1:] for array in arrays.values()))
        batcher = self._batchers.get(key)
        if batcher is not None:
            return batcher
        with self._lock:
            if self._closed:
                raise NotReady("the model was just unloaded; try again")
            batcher = self._batchers.get(key)
            if batcher is None:
                session = self._session(graph, spec)
                names = [tensor.name for tensor in spec.outputs]

                def run(feeds: Arrays) -> Arrays:
                    return dict(zip(names, session.run(names, feeds), strict=True))

                batcher = self._batchers[key] = Batcher(
                    run,
                    row_elements=_row_elements(spec, arrays),
                    element_budget=_element_budget(spec, self.options.element_budget),
                    queue_rows=self.options.queue_rows,
                    counters=self.counters.setdefault(graph, BatchCounters()),
                )
        return batcher

    def _session(self, graph: str, spec: GraphSpec) -> onnxruntime.InferenceSession:
        if graph not in self._sessions:
            self._sessions[graph] = open_session(self.folder / spec.file, self.options)
        return self._sessions[graph]


def open_session(path: Path, options: SessionOptions) -> onnxruntime.InferenceSession:
    """Return a session of one ONNX file. Raises ArtifactCorrupt, naming the file, if the runtime refuses it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.log_severity_level = 3
    # Idle threads that spin take the cores away from the other sessions of this process.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen = options.providers or providers()
    # TF32 keeps ten bits of mantissa, too few for the parity that publishing promised.
    by_name = {CUDA_PROVIDER: {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}, CPU_PROVIDER: {}}
    try:
        return onnxruntime.InferenceSession(
            path, settings, providers=[(name, by_name.get(name, {})) for name in chosen]
        )
    except Exception as error:  # the runtime's exceptions share no base class
        raise ArtifactCorrupt(f"{path.name} cannot be loaded: {error}") from error


def _load_constants(folder: Path, manifest: Manifest) -> dict[str, NDArray[np.float64]]:
    if not manifest.constants:
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / CONSTANTS_FILE)
        return {name: np.asarray(arrays[name], dtype=np.float64) for name in manifest.constants}
    except (OSError, SafetensorError) as error:
        raise ArtifactCorrupt(f"{CONSTANTS_FILE} cannot be read: {error}") from error
    except KeyError as error:
        raise ArtifactCorrupt(f"{CONSTANTS_FILE} holds no array {error}") from error


def _prepare(graph: str, spec: GraphSpec, feeds: Mapping[str, NDArray[np.generic]]) -> tuple[Arrays, int]:
    """Check names, shapes and row counts; cast to the graph's dtypes."""
    arrays: Arrays = {}
    for tensor in spec.inputs:
        if tensor.name not in feeds:
            raise Internal(f"the graph `{graph}` needs the input `{tensor.name}`")
        array = np.ascontiguousarray(feeds[tensor.name], dtype=tensor.dtype)
        fixed = tensor.shape[1:]
        if array.ndim != len(tensor.shape) or any(
            isinstance(want, int) and want != have for want, have in zip(fixed, array.shape[1:], strict=True)
        ):
            shape = ", ".join(map(str, tensor.shape))
            raise InvalidInput(f"`{tensor.name}` must have the shape ({shape}), got {array.shape}")
        arrays[tensor.name] = array
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise InvalidInput(f"the inputs of `{graph}` must have equal numbers of rows, got {sorted(counts)}")
    return arrays, counts.pop()


def _element_budget(spec: GraphSpec, budget: int) -> int:
    """The budget of one run, raised for graphs that hand a state to their next run: it is not what a caller sent, and
    sequences that are drawn together must fit into a batch together."""
    outputs = {tensor.name for tensor in spec.outputs}
    state = [tensor for tensor in spec.inputs if f"new_{tensor.name}" in outputs]
    row = sum(math.prod(size if isinstance(size, int) else 1 for size in tensor.shape[1:]) for tensor in state)
    return budget + 2 * row * _STATES_PER_RUN


def _row_elements(spec: GraphSpec, arrays: Arrays) -> int:
    """Scalars of one row, inputs and outputs together; a symbolic size counts as 1 unless an array shows it."""
    total = 0
    for tensor in spec.inputs:
        shape = arrays[tensor.name].shape[1:] if tensor.name in arrays else tensor.shape[1:]
        total += math.prod(size if isinstance(size, int) else 1 for size in shape)
    for tensor in spec.outputs:
        total += math.prod(size if isinstance(size, int) else 1 for size in tensor.shape[1:])
    return total

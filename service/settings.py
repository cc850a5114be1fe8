"""Settings of the gateway process: every limit that a client can run into, and how long things may take.

Read once in `service.main` from ``LATENTSERVE_*`` variables and passed down; docs/settings.md lists them all.
"""

from __future__ import annotations

from pydantic import Field

from store.settings import StoreSettings

MEBIBYTE = 1 << 20


class GatewaySettings(StoreSettings):
    """The store's settings and those of the HTTP face."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; only this machine unless told otherwise.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: str = Field(default="info", description="Least level that is logged: debug, info, warning, error.")

    max_body_bytes: int = Field(
        default=64 * MEBIBYTE, ge=1024, description="Largest body of a request that is not an upload, in bytes."
    )
    max_rows: int = Field(default=100_000, ge=1, description="Most rows in one request.")
    max_samples: int = Field(default=10_000, ge=1, description="Most rows that one /sample draws.")
    max_tokens: int = Field(default=16_384, ge=1, description="Most tokens that are drawn for one text.")
    max_draws: int = Field(default=1_000, ge=1, description="Most draws per row that one /predict makes.")
    max_monte_carlo_samples: int = Field(
        default=10_000, ge=1, description="Most Monte-Carlo samples per row of /log_prob and /predict."
    )
    max_cells: int = Field(
        default=50_000_000, ge=1, description="Most numbers in one answer (rows x draws x cells of a row)."
    )
    max_picture_cells: int = Field(
        default=16 * MEBIBYTE, ge=1, description="Most pixels of a PNG grid in an answer, all channels counted."
    )

    memory_budget_bytes: int = Field(
        default=2048 * MEBIBYTE, ge=MEBIBYTE, description="Memory for loaded models; the least recently used leaves."
    )
    cache_bytes: int = Field(
        default=64 * MEBIBYTE, ge=0, description="Memory of the in-process tier of the answer cache."
    )
    deadline_seconds: float = Field(default=30.0, gt=0, description="A request not answered in this time gets a 504.")
    worker_threads: int = Field(
        default=0, ge=0, le=256, description="Threads that run model programs; 0: by the CPUs of the cgroup."
    )
    max_waiting: int = Field(
        default=256, ge=0, description="Requests that may wait for a thread; more get a 429 with Retry-After."
    )
    resolve_seconds: float = Field(
        default=1.0, ge=0, le=1, description="How long a model reference keeps its resolved version."
    )
    reap_seconds: float = Field(
        default=5.0, gt=0, description="Pause between looks for unclaimed jobs and expired leases."
    )
    event_poll_seconds: float = Field(default=0.5, gt=0, description="Pause between looks for new events of a job.")
    event_heartbeat_seconds: float = Field(
        default=15.0, gt=0, description="An event stream that has nothing to say sends a comment this often."
    )
    worker_alive_seconds: float = Field(
        default=15.0, gt=0, description="A worker counts as live for so long after its last heartbeat."
    )
    probe_seconds: float = Field(default=1.0, gt=0, description="Longest wait for one part in /readyz.")

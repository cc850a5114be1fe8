"""Keeping a lease: a thread renews it every second at most and learns of cancelling on the way."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Protocol

from store.catalogue import Claim, Renewal

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0  # cancelling is promised within five seconds, so the flag is read each second


class Leases(Protocol):
    """The method of the catalogue that this needs."""

    def renew_lease(self, claim: Claim) -> Renewal: ...


class LeaseKeeper:
    """Renews a claim inside a ``with`` block.

    ``lost`` is set when the attempt is no longer ours, or when the catalogue could not be asked for the whole
    length of the lease; ``cancel`` when the job is to be cancelled; ``news`` with either.
    """

    def __init__(self, leases: Leases, claim: Claim, lease_seconds: float) -> None:
        self._leases, self._claim, self._lease_seconds = leases, claim, lease_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.job.id[:8]}", daemon=True)
        self.lost, self.cancel = threading.Event(), threading.Event()

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(min(EVERY_SECONDS, self._lease_seconds / 3)):
            asked = time.monotonic()
            try:
                renewal = self._leases.renew_lease(self._claim)
            except Exception:  # a busy or absent database is no reason to stop before the lease is over
                log.warning("the lease of job %s could not be renewed", self._claim.job.id, exc_info=True)
                if time.monotonic() - renewed > self._lease_seconds:
                    self.lost.set()
                    return
                continue
            if not renewal.held:
                self.lost.set()
                return
            renewed = asked
            if renewal.cancel_requested:
                self.cancel.set()

"""``python -m workers.child``: the process of one attempt. It works, reports on a pipe, and ends with its parent.

Only what the job's kind needs is imported: a batch job starts without torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from contracts.errors import FieldProblem, InvalidInput, LatentserveError
from contracts.jobs import JobKind
from store import Store
from store.catalogue import Claim
from workers.messages import Sender
from workers.process import end_with_parent
from workers.settings import WorkerSettings

Work = Callable[[Store, WorkerSettings, Claim, Sender], dict[str, Any] | None]

# what fails again however often it is tried, although it is no fault of the request
FINAL_CODES = {"parity-failed", "export-failed"}


def main(argv: list[str] | None = None) -> int:
    """Do the attempt; exit code 0 when it is done, 3 after a reported failure."""
    parser = argparse.ArgumentParser(prog="python -m workers.child")
    parser.add_argument("--job", required=True)
    parser.add_argument("--attempt", required=True, type=int)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--report", required=True, type=int)
    parser.add_argument("--parent", required=True, type=int)
    arguments = parser.parse_args(argv)
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    # further processes of a data-parallel job are children of the first one and have no pipe to report on
    end_with_parent(arguments.parent if first else os.getppid())
    sender = Sender(arguments.report if first else None)
    try:
        settings = WorkerSettings()
        with Store.open(settings) as store:
            job = store.catalogue.get_job(arguments.job)
            claim = Claim(job, arguments.worker, arguments.attempt)
            done = _work(job.kind)(store, settings, claim, sender)
            if done is not None:
                sender.done(done)
    except ValidationError as error:
        traceback.print_exc()
        places = [FieldProblem(location=".".join(map(str, e["loc"])), message=e["msg"]) for e in error.errors()]
        where = f"{places[0].location}: {places[0].message}"
        sender.failed(InvalidInput(f"the job's request cannot be read: {where}", errors=places), final=True)
        return 3
    except LatentserveError as error:
        traceback.print_exc()
        sender.failed(error, final=error.status < 500 or error.code in FINAL_CODES)
        return 3
    return 0


def _work(kind: JobKind) -> Work:
    if kind is JobKind.TRAIN:
        from workers.train import train_job

        return train_job
    if kind is JobKind.INGEST:
        from workers.ingest import ingest_job

        return ingest_job
    from workers.batch import batch_job

    return batch_job


if __name__ == "__main__":
    sys.exit(main())

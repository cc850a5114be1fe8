"""A job's folder in the scratch: checkpoints by attempt, the child's log, the artifact before it is published."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from contracts.errors import NotFound
from store import Store


def job_folder(store: Store, job_id: str) -> Path:
    return store.settings.scratch / "jobs" / job_id


def mirror_key(job_id: str) -> str:
    """Where a job's checkpoints are copied to if the blobs are remote."""
    return f"jobs/{job_id}"


def clear_job(store: Store, job_id: str) -> None:
    """Remove what a job that has ended left behind."""
    _remove(job_folder(store, job_id))
    if not store.blobs.is_local:
        store.blobs.delete(mirror_key(job_id))


def sweep(store: Store) -> list[str]:
    """Clear the folders of jobs that have ended or are unknown (their worker died before it could); answers them."""
    jobs = store.settings.scratch / "jobs"
    swept = []
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else []:
        try:
            ended = store.catalogue.get_job(folder.name).status.ended
        except NotFound:
            ended = True
        if ended:
            clear_job(store, folder.name)
            swept.append(folder.name)
    return swept


def _remove(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(stat.S_IRWXU)  # earlier attempts were sealed
    shutil.rmtree(folder, ignore_errors=True)

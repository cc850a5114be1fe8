"""The tree of errors; each carries its HTTP status, its stable problem type and a message that says what to do.

    LatentserveError
    ├── BadRequest 400            malformed: not JSON, not a tensor
    ├── NotFound 404              no such model, version, alias, dataset, job
    ├── NotAcceptable 406         the answer has no such form
    ├── Conflict 409              the right words in the wrong state
    │   ├── VerbUnsupported       this family gives that verb up
    │   ├── SpaceMismatch         another embedding space is pinned
    │   └── NameTaken             the name is in use
    ├── TooLarge 413              body, rows or pixels over a limit
    ├── UnsupportedMedia 415      a format that is not read here
    ├── InvalidInput 422          well-formed but wrong; ``errors`` gives each place
    ├── Overloaded 429            try again after ``retry_after_seconds``
    ├── ArtifactCorrupt 500       a file of a version is missing or differs from its digest
    ├── Internal 500              a defect of ours
    ├── NotReady 503              a part that the request needs is away
    ├── DeadlineExceeded 504      not answered in time
    └── StoreFull 507             no room on the disk; nothing was kept

Problems follow RFC 9457 (Nottingham, Wilde, Dalal 2023, "Problem Details for HTTP APIs").
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ArtifactCorrupt",
    "BadRequest",
    "Conflict",
    "DeadlineExceeded",
    "FieldProblem",
    "Internal",
    "InvalidInput",
    "LatentserveError",
    "NameTaken",
    "NotAcceptable",
    "NotFound",
    "NotReady",
    "Overloaded",
    "Problem",
    "SpaceMismatch",
    "StoreFull",
    "TooLarge",
    "UnsupportedMedia",
    "VerbUnsupported",
]


class FieldProblem(BaseModel):
    """One wrong place in a request."""

    model_config = ConfigDict(frozen=True)

    location: str = Field(description="Where: a path into the request, say `inputs[3].age` or `config.width`.")
    message: str = Field(description="What is wrong there and what would be right.")


class Problem(BaseModel):
    """An RFC 9457 problem document (`application/problem+json`)."""

    type: str = Field(description="Stable URN of the kind of problem, `urn:latentserve:problem:<code>`.")
    title: str = Field(description="The kind of problem in a few words; the same for every occurrence.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time and what to do.")
    errors: list[FieldProblem] = Field(default_factory=list, description="Each wrong place, if places are known.")
    request_id: str | None = Field(default=None, description="The id of the request, also in `X-Request-ID`.")


class LatentserveError(Exception):
    """Root of the tree. ``str(error)`` is the detail shown to the user."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        detail: str,
        *,
        errors: list[FieldProblem] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after_seconds = retry_after_seconds

    def problem(self, request_id: str | None = None) -> Problem:
        """Return the problem document of this error."""
        return Problem(
            type=f"urn:latentserve:problem:{self.code}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
            request_id=request_id,
        )


class BadRequest(LatentserveError):
    code, title, status = "bad-request", "Malformed request", 400


class NotFound(LatentserveError):
    code, title, status = "not-found", "Not found", 404


class NotAcceptable(LatentserveError):
    code, title, status = "not-acceptable", "The answer has no such form", 406


class Conflict(LatentserveError):
    code, title, status = "conflict", "Conflict with the present state", 409


class VerbUnsupported(Conflict):
    code, title = "verb-unsupported", "The model's family does not answer this verb"


class SpaceMismatch(Conflict):
    code, title = "space-mismatch", "The model's vectors live in another embedding space"


class NameTaken(Conflict):
    code, title = "name-taken", "The name is in use"


class TooLarge(LatentserveError):
    code, title, status = "too-large", "Over a size limit", 413


class UnsupportedMedia(LatentserveError):
    code, title, status = "unsupported-media", "Format not read here", 415


class InvalidInput(LatentserveError):
    code, title, status = "invalid-input", "Invalid input", 422


class Overloaded(LatentserveError):
    code, title, status = "overloaded", "Too much is waiting", 429


class ArtifactCorrupt(LatentserveError):
    code, title, status = "artifact-corrupt", "A file of this version is missing or damaged", 500


class Internal(LatentserveError):
    pass


class NotReady(LatentserveError):
    code, title, status = "not-ready", "Not ready", 503


class DeadlineExceeded(LatentserveError):
    code, title, status = "deadline-exceeded", "Not answered in time", 504


class StoreFull(LatentserveError):
    code, title, status = "store-full", "No room in the store", 507

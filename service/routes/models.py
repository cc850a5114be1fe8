"""/models: versions, aliases, cards, pictures, export and import. References are `name`, `name@3` or `name@alias`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from contracts.artifact import Card, Manifest
from contracts.errors import InvalidInput, NotFound
from service.bodies import read_model
from service.documentation import BINARY, file_response, json_body
from service.gateway import Gateway, of
from service.inputs import PNG
from service.responses import page, write
from service.routes.datasets import After, Limit
from service.schemas.models import (
    AliasesResponse,
    AliasRequest,
    AliasResponse,
    ModelPage,
    ModelResponse,
    VersionPage,
    VersionResponse,
)
from service.uploads import receive
from store.catalogue import ModelVersion

router = APIRouter(tags=["models"])

TAR = "application/x-tar"
PREVIEW = "preview.png"
CHUNK_BYTES = 1 << 18


@router.get("/models", operation_id="listModels", summary="List models", response_model=ModelPage)
def list_models(request: Request, limit: Limit = 50, after: After = None) -> Response:
    """List models by name."""
    found = of(request.app).store.catalogue.list_models(limit=limit + 1, after=after)
    return page([ModelResponse.of(each) for each in found], limit, lambda each: each.name)


@router.post(
    "/models/import",
    operation_id="importModel",
    summary="Import a model",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": {TAR: {"schema": BINARY}}}},
    responses={201: {"model": VersionResponse, "description": "Imported as a new version."}},
)
async def import_model(
    request: Request,
    name: Annotated[str | None, Query(description="Model that gets the version; None: named after its family.")] = None,
) -> Response:
    """Read an archive that `download` wrote; files that differ from their digests are refused."""
    gateway = of(request.app)
    async with receive(request, gateway.settings, limit=gateway.settings.max_artifact_bytes) as upload:
        if len(upload.files) != 1:
            raise InvalidInput("send one archive as the body, or as the only file of a form")
        target = name or upload.fields.get("name")
        version = await anyio.to_thread.run_sync(_import, gateway, upload.files[0].path, target)
    gateway.resolver.forget()
    return write(VersionResponse.of(version), 201, {"Location": f"/models/{version.reference}"})


def _import(gateway: Gateway, archive: Path, name: str | None) -> ModelVersion:
    with archive.open("rb") as file:
        digest, manifest, card, size = gateway.store.artifacts.import_(file)[-1]
    return gateway.store.catalogue.import_version(
        name=name or manifest.family, digest=digest, manifest=manifest, card=card, size=size
    )


@router.get("/models/{reference}", operation_id="getModel", summary="Show a version", response_model=VersionResponse)
def get_model(request: Request, reference: str) -> Response:
    """Show the version that a reference means now: manifest, card, aliases."""
    return write(VersionResponse.of(_resolve(request, reference)))


@router.get("/models/{name}/versions", operation_id="listVersions", summary="List versions", response_model=VersionPage)
def list_versions(request: Request, name: str, limit: Limit = 50, after: After = None) -> Response:
    """List the versions of a model, newest first."""
    found = of(request.app).store.catalogue.list_versions(name)
    if after is not None:
        if not (after.isascii() and after.isdigit()):
            raise InvalidInput(f"after is {after[:50]!r}, and pages of versions go on after a version number")
        found = [each for each in found if each.version < int(after)]
    return page([VersionResponse.of(each) for each in found[: limit + 1]], limit, lambda each: str(each.version))


@router.get(
    "/models/{name}/versions/{version}",
    operation_id="getVersion",
    summary="Show a version by its number",
    response_model=VersionResponse,
)
def get_version(request: Request, name: str, version: int) -> Response:
    """Show one version."""
    return write(VersionResponse.of(_resolve(request, f"{name}@{version}")))


@router.delete(
    "/models/{name}/versions/{version}", operation_id="deleteVersion", summary="Delete a version", status_code=204
)
def delete_version(request: Request, name: str, version: int) -> Response:
    """Delete a version; refused while an alias other than `latest` or a child uses it."""
    gateway = of(request.app)
    digest = _resolve(request, f"{name}@{version}").digest
    gateway.store.delete_version(name, version)
    gateway.resolver.forget()
    if not gateway.store.catalogue.uses_artifact(digest):
        gateway.pool.evict(digest)
    return Response(status_code=204)


@router.get(
    "/models/{name}/aliases", operation_id="listAliases", summary="List aliases", response_model=AliasesResponse
)
def list_aliases(request: Request, name: str) -> Response:
    """List the aliases of a model."""
    versions = of(request.app).store.catalogue.list_versions(name)
    return write(AliasesResponse(items={alias: each.version for each in versions for alias in each.aliases}))


@router.put(
    "/models/{name}/aliases/{alias}",
    operation_id="setAlias",
    summary="Point an alias at a version",
    openapi_extra=json_body(AliasRequest),
    response_model=AliasResponse,
)
async def set_alias(request: Request, name: str, alias: str) -> Response:
    """Let an alias name a version; every gateway follows within a second. `latest` may be pointed back."""
    gateway = of(request.app)
    asked = await read_model(request, AliasRequest, limit=1 << 16)
    await anyio.to_thread.run_sync(gateway.store.catalogue.set_alias, name, alias, asked.version)
    gateway.resolver.forget()
    return write(AliasResponse(name=name, alias=alias, version=asked.version))


@router.delete("/models/{name}/aliases/{alias}", operation_id="deleteAlias", summary="Delete an alias", status_code=204)
def delete_alias(request: Request, name: str, alias: str) -> Response:
    """Delete an alias; `latest` stays."""
    gateway = of(request.app)
    gateway.store.catalogue.delete_alias(name, alias)
    gateway.resolver.forget()
    return Response(status_code=204)


@router.get("/models/{reference}/card", operation_id="getCard", summary="Show the card", response_model=Card)
def get_card(request: Request, reference: str) -> Response:
    """Show what was measured when the version was made."""
    return write(_resolve(request, reference).card)


@router.get(
    "/models/{reference}/manifest", operation_id="getManifest", summary="Show the manifest", response_model=Manifest
)
def get_manifest(request: Request, reference: str) -> Response:
    """Show what the version is: family, config, data, graphs, verbs, digests."""
    return write(_resolve(request, reference).manifest)


@router.get(
    "/models/{reference}/preview.png",
    operation_id="getPreview",
    summary="A picture of samples",
    responses=file_response(PNG, "A PNG grid."),
)
def get_preview(request: Request, reference: str) -> Response:
    """Show samples, where the data are pictures."""
    version = _resolve(request, reference)
    if PREVIEW not in version.manifest.files:
        raise NotFound(f"{version.reference} has no preview: its data are no pictures")
    folder = of(request.app).store.artifacts.fetch(version.digest)
    return Response((folder / PREVIEW).read_bytes(), media_type=PNG)


@router.get(
    "/models/{reference}/download",
    operation_id="downloadModel",
    summary="Export a version",
    responses=file_response(TAR, "One archive of the version and its parents."),
)
def download_model(request: Request, reference: str) -> Response:
    """Stream one tar of the version and its parents, for `import`."""
    gateway = of(request.app)
    version = _resolve(request, reference)
    gateway.store.artifacts.fetch(version.digest)  # a damaged version is refused before the first byte
    name = f"{version.name}-{version.version}.tar"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_archive(gateway, version.digest), media_type=TAR, headers=headers)


def _resolve(request: Request, reference: str) -> ModelVersion:
    return of(request.app).store.catalogue.resolve(reference)


def _archive(gateway: Gateway, digest: str) -> Iterator[bytes]:
    """The archive's bytes: the store writes into one end of a pipe while the response reads the other."""
    import os

    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def export(target: IO[bytes]) -> None:
        try:
            with target:
                gateway.store.artifacts.export(digest, target)  # type: ignore[arg-type]
        except BrokenPipeError:  # the client left
            pass
        except BaseException as error:
            failure.append(error)

    writer = threading.Thread(target=export, args=(os.fdopen(writing, "wb"),), daemon=True)
    writer.start()
    try:
        with suppress(BrokenPipeError), os.fdopen(reading, "rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    finally:
        writer.join()
    if failure:  # the status is out already: only breaking off tells the client that this is not whole
        raise failure[0]

"""The OpenAPI document, and `python -m service.openapi [--check]`, which writes openapi/openapi.json or compares it.

FastAPI's own document is completed: models that only raw bodies use, a `default` answer that is a
problem document in place of FastAPI's validation schema.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.documentation import PROBLEM, documented

VERSION = importlib.metadata.version("latentserve")
FILE = Path(__file__).resolve().parent.parent / "openapi" / "openapi.json"
REPLACED = ("HTTPValidationError", "ValidationError")


def document(app: FastAPI) -> dict[str, Any]:
    """The document of ``app``; made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _complete(
            get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description="Compute p(x), sample x ~ p, predict hidden cells from shown ones, encode. Every error is "
                "a problem document (RFC 9457).",
                routes=app.routes,
                separate_input_output_schemas=False,
            )
        )
    return app.openapi_schema


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in REPLACED:
        components.pop(name, None)
    _, raw = models_json_schema(
        [(model, "validation") for model in documented.values()], ref_template="#/components/schemas/{model}"
    )
    for name, model in raw["$defs"].items():
        components.setdefault(name, model)
    schema["components"]["schemas"] = dict(sorted(components.items()))
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            responses.pop("422", None)
            responses.pop("2XX", None)
            responses["default"] = PROBLEM
    return schema


def text() -> bytes:
    """The file's content."""
    from service.app import create_app
    from service.settings import GatewaySettings

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document(create_app(GatewaySettings.model_construct())), option=options)


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` answer 1 where it is not what the code says."""
    fresh = text()
    if "--check" in arguments:
        if not FILE.exists() or FILE.read_bytes() != fresh:
            print(f"{FILE.name} is not what the code says; run `make openapi`", file=sys.stderr)
            return 1
        return 0
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

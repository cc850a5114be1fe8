"""The nouns that every part agrees on: data, families, artifacts, jobs and errors (pydantic and numpy only)."""

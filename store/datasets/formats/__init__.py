"""A module per file format; each answers a `Content` or a `TableSource` without loading the whole."""

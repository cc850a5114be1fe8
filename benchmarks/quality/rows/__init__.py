"""Kinds of rows: a module each, with ``measure(recipe, run, found)``, which tells ``found`` every figure."""

"""The quality table: each row trains families as jobs do, beside their peers, on one split in one run and equal time.

    make bench-quality              every row        (python -m benchmarks.quality)
    make bench-quality ROW=name     one of them      (python -m benchmarks.quality name)

A row is a recipe (``recipes/<name>.json``: data, configs, budgets, peers, bars) and the module of ``rows/`` that
measures it. A finished row is kept under ``results/`` and replaces its block in ``benchmarks/RESULTS.md``.
"""

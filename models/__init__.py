"""The mathematics: one family = one file; shared building blocks stand in ``models.layers``.

``FAMILIES`` maps a family's name to its class; everything generic (trainer, exporter, contract tests) goes
through it.
"""

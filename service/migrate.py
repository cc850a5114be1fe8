"""Bring the catalogue's schema up to date: `python -m service.migrate`, once, before anything else starts."""

from __future__ import annotations

import sys

from store import Store, StoreSettings


def main() -> int:
    """Migrate what the LATENTSERVE_* settings name; safe to run again."""
    Store.open(StoreSettings(), migrate=True).close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""CoRP on Ray: fold a population of rewarded weight perturbations into one deployable model.

The floors of this package, lowest first, and the mathematics behind each room are in
docs/method.md; a room imports only from lower floors (checked by `make check`).
"""

__version__ = "0.1.0"

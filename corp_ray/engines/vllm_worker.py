"""What runs inside vLLM's workers: the center, and directions through vLLM's own weight loader.

vLLM mixes `CorpWorker` into each tensor-parallel rank. A rank makes every tensor in full, under its
canonical name, and hands it to `reload_weights`; how tensors are fused, sliced and packed stays
vLLM's business. See docs/method.md, "Engines".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from corp_ray import checkpoint
from corp_ray.direction import Direction
from corp_ray.engines.self_check import unit
from corp_ray.pristine import GROUP, Change, Pristine, choose_place
from corp_ray.records import Terms


@dataclass
class _Held:
    """What a rank keeps between calls: the center, and what is on top of it now."""

    center: Pristine
    names: tuple[str, ...]  # of perturbed tensors
    change: Change = field(default_factory=Change)
    moved: frozenset[str] = frozenset()  # names that `change` is on


def refresh_tied(model: nn.Module) -> None:
    """Process the weights of modules that share a parameter with one before them again.

    A reload processes a shared parameter for the module whose name was loaded. On a CPU, processing
    makes a packed copy; a tied output head would go on with the packed copy of the old weights.
    """
    seen: set[int] = set()
    for module in model.modules():
        weight, method = getattr(module, "weight", None), getattr(module, "quant_method", None)
        if weight is None or method is None:
            continue
        if id(weight) in seen:
            method.process_weights_after_loading(module)
        seen.add(id(weight))


class CorpWorker:
    """Methods for `LLM.collective_rpc`; every rank of an engine runs them alike.

    `device`, `model_runner` and `reload_weights` are the vLLM worker's.
    """

    device: torch.device
    model_runner: Any
    reload_weights: Any
    corp: _Held

    def corp_load(
        self,
        folder: str,
        dtype: str,
        place: str,
        threads: int,
        names: tuple[str, ...],
        elements: int,
        ranks: int,
    ) -> str:
        """Make a folder's tensors the center and load them; their digest."""
        chosen = choose_place(place, elements, dtype, self.device, ranks)
        self.__dict__.pop("corp", None)  # never two centers in memory
        center = Pristine(Path(folder), dtype, self.device, chosen, threads)
        self.corp = _Held(center, names)
        return self._corp_reload(center.names, Change(), frozenset(), digest=True)

    def corp_apply(self, terms: Terms, only: tuple[str, ...] | None, step: float | None) -> None:
        """Load center + direction, or center + step of the held direction."""
        change = Change(Direction(terms), step)
        moved = frozenset(self.corp.names if only is None else only) & set(self.corp.names)
        if step is None and not terms:
            moved = frozenset()
        # A fused module needs all its parts, and a block has no module in common with another.
        units = {unit(name) for name in moved | self.corp.moved}
        names = [name for name in self.corp.center.names if unit(name) in units]
        self._corp_reload(names, change, moved)

    def corp_hold(self, terms: Terms) -> None:
        self.corp.center.hold(Direction(terms), self.corp.names)

    def corp_release(self) -> None:
        self.corp.center.release()

    def corp_digest(self) -> str:
        """Load what is loaded once more; digest of the tensors on their way."""
        return self._corp_reload(
            self.corp.center.names, self.corp.change, self.corp.moved, digest=True
        )

    def corp_head(self, hidden_BH: list[list[float]]) -> list[list[float]] | None:
        """What the output head makes of hidden states; None on ranks that do not gather it."""
        model = self.model_runner.get_model()
        dtype = self.model_runner.model_config.dtype
        with torch.inference_mode():
            hidden = torch.tensor(hidden_BH, dtype=dtype, device=self.device)
            logits = model.compute_logits(hidden)
        return None if logits is None else logits.float().cpu().tolist()

    def _corp_reload(
        self,
        names: Collection[str],
        change: Change,
        moved: frozenset[str],
        digest: bool = False,
    ) -> str:
        total = checkpoint.Digest()
        tensors = self._corp_tensors(names, change, moved, total if digest else None)
        with torch.inference_mode(False), torch.no_grad():
            self.reload_weights(weights_iterator=tensors)
            refresh_tied(self.model_runner.get_model())
        self.corp.change, self.corp.moved = change, moved
        return total.hexdigest() if digest else ""

    def _corp_tensors(
        self,
        names: Collection[str],
        change: Change,
        moved: frozenset[str],
        digest: checkpoint.Digest | None,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Canonical name and full tensor. The loader keeps some until a module is complete, so
        each is a tensor of its own."""
        center = self.corp.center
        for group in center.groups(names, GROUP):
            base = {name: tensor for name, tensor in group.items() if name in moved}
            out = {name: torch.empty_like(tensor) for name, tensor in base.items()}
            center.write(out, base, change)
            full = {name: out.get(name, tensor) for name, tensor in group.items()}
            if digest is not None:
                digest.add(full, threads=center.threads)
            yield from full.items()

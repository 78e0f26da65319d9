"""Models of a fixed list, loaded when they are first asked for and shared by everybody."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict

import torch

from visipruner.inputs import check_choice
from visipruner.models import MODELS, VLM, load_vlm

BACKENDS = ("sdpa", "eager")
PRECISIONS = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
_MOST_LOADED = 3


class Models:
    """What can be chosen on this server. Nobody can name a folder or a hub model from outside.

    Args:
        extra: a local checkpoint's folder that is offered besides the models of MODELS.
    """

    def __init__(self, extra: str | None = None):
        self.paths = {name: name for name in MODELS}
        self.titles = {name: spec.title for name, spec in MODELS.items()}
        self.default = "tiny"
        self._loaded: OrderedDict[tuple, VLM] = OrderedDict()
        self._lock = threading.Lock()
        if extra:
            # Loaded now: a wrong folder must end the start, not somebody's first question.
            vlm = load_vlm(extra)
            self.default = vlm.spec.name if vlm.spec.name not in self.paths else "local"
            self.paths[self.default] = vlm.spec.path
            self.titles[self.default] = f"{vlm.spec.title} (local)"
            self._loaded[self.default, BACKENDS[0], "auto"] = vlm

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(title, name) of every model, as a menu wants them."""
        return [(title, name) for name, title in self.titles.items()]

    def is_loaded(self, name: str) -> bool:
        return (name, BACKENDS[0], "auto") in self._loaded

    def get(self, name: str, backend: str = "sdpa", precision: str = "auto") -> VLM:
        """The loaded model; loads it if it is not there yet.

        Raises:
            ValueError: one sentence, for an unknown word or a checkpoint that is missing.
        """
        check_choice("model", name, self.paths)
        check_choice("backend", backend, BACKENDS)
        check_choice("precision", precision, PRECISIONS)
        key = (name, backend, precision)
        with self._lock:
            if key not in self._loaded:
                self._make_room()
                self._loaded[key] = load_vlm(
                    self.paths[name], attention=backend, dtype=PRECISIONS[precision]
                )
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def _make_room(self):
        while len(self._loaded) >= _MOST_LOADED:
            self._loaded.popitem(last=False)
            gc.collect()

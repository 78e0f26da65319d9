"""The server's fixed list of models, loaded on first use and shared by all visitors."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from visipruner.errors import Refused, quoted
from visipruner.files import shown
from visipruner.inputs import check_choice
from visipruner.methods import PruningMethod
from visipruner.models import clip, hub, loading, memory
from visipruner.models.catalogue import MODELS, VLM, ModelSpec, check_served, load_vlm
from visipruner.models.loading import PRECISIONS
from visipruner.models.presets import model_named_in
from visipruner.models.specs import menu
from visipruner.running.ticking import ticking
from visipruner.tower import needs_clip
from visipruner.ui import text, zerogpu

BACKENDS = ("sdpa", "eager")
_MOST_SMALL = 3  # small models that may stay in memory; at most one large model stays


class Models:
    """The models of this server. A visitor cannot name a folder or a hub model.

    Args:
        extra: a local checkpoint's folder, offered besides the models of the menu.
        device: where models go; None: the GPUs if the machine has any.
        presets: a file with VisiPruner's levels for the model that it names.

    Raises:
        Refused: one sentence about a wrong folder, device or file, or an unknown name in
            VISIPRUNER_MODELS.
    """

    def __init__(
        self, extra: str | None = None, device: str | None = None, presets: str | None = None
    ):
        loading.usable_device(device)  # a wrong device must fail at the start, not later
        self.device = device
        # A Space with ZeroGPU can only offer what is on its disk when it starts.
        offered = [n for n, spec in menu().items() if spec.find() or not zerogpu.active()]
        self.paths = {name: name for name in offered}
        self.titles = {name: _title(MODELS[name]) for name in self.paths}
        if not self.paths:
            raise Refused(text.NOTHING_OFFERED)
        self.default = next(iter(self.paths))
        self._presets = self._of_model(presets, extra) if presets else {}
        self._loaded: OrderedDict[tuple, VLM] = OrderedDict()
        self._lock = threading.Lock()
        zerogpu.prepare()
        self.compare, self.measure, self.asked, self.look = zerogpu.runs(self)
        if extra:
            # Loaded now: a wrong folder must fail at the start, not at a visitor's first question.
            folder = Path(extra).absolute()
            vlm = load_vlm(folder, device=device, presets=self._presets.get(folder.name))
            # Never a name of the full menu: that name means the hub's model, or the bundled one.
            self.default = vlm.spec.name if vlm.spec.name not in MODELS else "local"
            self.paths[self.default] = folder
            self.titles[self.default] = f"{vlm.spec.title} (local)"
            self._loaded[self.default, BACKENDS[0], "auto"] = vlm
        if zerogpu.active():
            # The forked processes get only models that are on the GPU before the first visitor.
            for name in self.paths:
                self._add((name, BACKENDS[0], "auto"))

    def _of_model(self, presets: str, extra: str | None) -> dict[str, Path]:
        """The model's name, a local checkpoint's being that of its folder -> the file."""
        path = Path(presets)
        name = model_named_in(path) or (Path(extra).absolute().name if extra else None)
        offered = [*self.paths, *([Path(extra).absolute().name] if extra else [])]
        if name not in offered:
            raise Refused(
                f"{shown(path)} is for the model {quoted(name)}, and this page offers "
                f"{', '.join(offered)}."
                if name
                else f"{shown(path)} does not say which model it is for."
            )
        return {name: path}

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(title, name) of every model, as a menu wants them."""
        return [(title, name) for name, title in self.titles.items()]

    def peek(self, name: str) -> VLM | None:
        """The model if it is in memory; never waits while another model loads."""
        loaded = list(self._loaded.items())
        return next((vlm for key, vlm in reversed(loaded) if key[0] == name), None)

    def is_ready(self, name: str, backend: str, precision: str) -> bool:
        """Is this model in memory in this form?"""
        return (name, backend, precision) in self._loaded

    def is_missing(self, name, kinds: Sequence[type[PruningMethod]] = ()) -> bool:
        """Would `fetch` download?"""
        spec = MODELS.get(self.paths.get(name)) if isinstance(name, str) else None
        return bool(spec) and (not spec.find() or (needs_clip(kinds) and not clip.find()))

    def fetch(
        self, name: str, precision: str = "auto", kinds: Sequence[type[PruningMethod]] = ()
    ) -> Iterator[str]:
        """Download a hub model, and CLIP for methods that need it; closing the generator cancels.

        What is on disk already is not fetched.

        Args:
            kinds: the methods that will run.

        Yields:
            sentences about the progress; none if nothing needs downloading.

        Raises:
            Refused: one sentence about what is missing.
        """
        check_choice("model", name, self.paths)
        spec = MODELS.get(self.paths[name])
        check_served(spec or ModelSpec(name, self.titles[name]), kinds)
        if spec and not spec.find():
            loading.place(spec.title, spec.size, self.device, precision)
            yield from _sentences(spec.title, hub.download(spec.repo, spec.size))
            self.titles[name] = _title(spec)
        if needs_clip(kinds) and not clip.find():
            if zerogpu.active():
                raise Refused(text.NO_CLIP.format(clip=clip.TITLE))
            yield from _sentences(clip.TITLE, clip.download())

    def get(self, name: str, backend: str = "sdpa", precision: str = "auto") -> VLM:
        """The model, loaded if necessary. Never downloads.

        Raises:
            Refused: one sentence about an unknown word or a missing checkpoint.
        """
        check_choice("model", name, self.paths)
        check_choice("backend", backend, BACKENDS)
        check_choice("precision", precision, PRECISIONS)
        key = (name, backend, precision)
        with self._lock:
            if key not in self._loaded:
                if zerogpu.active():
                    raise Refused(text.FIXED_AT_START)
                self._add(key)
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def load(self, name: str, backend: str, precision: str) -> Iterator[float]:
        """Load the model as `get` does; yields the seconds so far, at once and every second.

        Nothing is yielded if it is in memory already.
        """
        if not self.is_ready(name, backend, precision):
            yield 0.0
            yield from ticking(lambda: self.get(name, backend, precision))

    def _add(self, key: tuple[str, str, str]):
        name, backend, precision = key
        spec = MODELS.get(self.paths[name])
        if spec and not spec.find():
            raise Refused(text.NOT_HERE.format(title=spec.title, size=spec.download_size))
        if not zerogpu.active():
            self._make_room()
        self._loaded[key] = load_vlm(
            self.paths[name],
            device=self.device,
            attention=backend,
            precision=precision,
            presets=self._presets.get(Path(self.paths[name]).name),
        )
        if spec:  # it may have been downloaded since the menu was made
            self.titles[name] = _title(spec)

    def _make_room(self):
        """Free every large model, and the least recently used small one."""
        small = [key for key, vlm in self._loaded.items() if vlm.size < memory.LARGE]
        keep = small[-_MOST_SMALL + 1 :]
        for key in [key for key in self._loaded if key not in keep]:
            del self._loaded[key]
        memory.release()


def _sentences(title: str, downloaded: Iterator[hub.Progress]) -> Iterator[str]:
    start = time.monotonic()
    with closing(downloaded):
        for progress in downloaded:
            sentence = text.DOWNLOADING.format(
                title=title,
                done=memory.gigabytes(progress.done),
                total=memory.gigabytes(progress.total),
            )
            yield sentence + text.SECONDS.format(seconds=time.monotonic() - start)


def _title(spec: ModelSpec) -> str:
    return spec.title if spec.find() else text.TO_DOWNLOAD.format(spec.title, spec.download_size)

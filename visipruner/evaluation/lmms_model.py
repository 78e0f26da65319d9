"""The model class that lmms-eval runs: stock tasks ask it, the project's runner answers.

Imported only when lmms-eval is installed (lmms-requirements.txt). lmms-eval builds its models from
strings, so a `Session` is handed over by `serving`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from visipruner.errors import Refused
from visipruner.evaluation.lmms_session import Session

NAME = "visipruner"
_served: list[Session] = []


@contextmanager
def serving(session: Session) -> Iterator[None]:
    """Models that lmms-eval builds inside ask this session."""
    _served.append(session)
    try:
        yield
    finally:
        _served.pop()


def register():
    """Make the class known to lmms-eval, in this process only."""
    manifest = ModelManifest(NAME, simple_class_path=f"{__name__}.{VisiPrunerModel.__name__}")
    MODEL_REGISTRY_V2.register_manifest(manifest, overwrite=True)


@dataclass
class Traced(TokenCounts):
    """Token counts that bring a row of `Session.answer` into every line of the saved samples.

    lmms-eval gathers them over all processes by itself.
    """

    row: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        return super().to_dict() | self.row


class VisiPrunerModel(lmms):
    """One column of the table: a method or a stack."""

    is_simple = True

    def __init__(self, column: int = 0, batch_size=1, max_batch_size=None, device=None, **others):
        """Args:
            column: number of the method among the session's.
            device: lmms-eval hands it over; the session's model is placed already.

        Raises:
            Refused: any other argument, or batches.
        """
        super().__init__()
        if others:
            raise Refused(f"The model takes no {next(iter(others))} in --model_args.")
        if str(batch_size) not in ("1", "auto"):
            raise Refused("Pruning serves one prompt at a time: leave --batch_size at 1.")
        self.column = int(column)
        self.session = _served[-1]
        self.accelerator = Accelerator(cpu=self.session.device.type == "cpu")
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes

    @property
    def device(self):
        return self.accelerator.device

    def generate_until(self, requests) -> list[GenerationResult]:
        name, quiet = self.session.names[self.column], self._rank != 0
        return [self._answer(request) for request in tqdm(requests, desc=name, disable=quiet)]

    def _answer(self, request) -> GenerationResult:
        context, settings, doc_to_visual, number, task, split = request.args
        try:
            pictures = doc_to_visual(self.task_dict[task][split][number])
            row = self.session.answer(self.column, pictures, context, settings)
        except Refused as error:
            raise Refused(f"{task}, question {number}: {error}") from None
        counts = Traced(output_tokens=row["tokens"], row=row)
        return GenerationResult(row["text"], counts)

    def loglikelihood(self, requests):
        raise Refused("This task compares the likelihoods of given answers, which is not served.")

    def generate_until_multi_round(self, requests):
        raise Refused("This task asks in several rounds, which is not served.")

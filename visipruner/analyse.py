"""The paper's analyses of one question about one picture, as numbers and figures in files.

    python -m visipruner analyse influence attention scene:49 "what colour is the star?"
    python -m visipruner analyse attention PICTURE "QUESTION" --set head=3 token=-2 --out DIR

Writes NAME.json, a figure as SVG, and a map of patches as PNG. "all" is every analysis.

    python -m visipruner analyse masking --set heldout --write

Masks every range of layers while the bundled model answers held-out questions: how many are right?
Stop and go on at will. --write records it beside the weights, for all who look at the masking.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from visipruner.ask import is_scene, model_of, scene_picture, stay_quiet_and_offline
from visipruner.errors import Refused, quoted, short
from visipruner.files import check_place, print_whole, shown, write_whole
from visipruner.inputs import check_choice, check_number, clean_question, open_picture
from visipruner.running.telling import Telling, before_download

ALL = "all"
HELDOUT = "heldout"


class _Set(argparse.Action):
    """The options of --set. Held-out questions need no picture and question."""

    asked: Sequence[argparse.Action] = ()

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *values])
        for one in self.asked:
            one.required = one.required and HELDOUT not in values


def add_options(parser: argparse.ArgumentParser):
    """The options of the command."""
    from visipruner.analyses import ANALYSES
    from visipruner.models.catalogue import MODELS, PICTURE_MODES
    from visipruner.models.loading import PRECISIONS

    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(ANALYSES)}, or all")
    picture = parser.add_argument(
        "picture", help="a picture file (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF), or scene:NUMBER"
    )
    question = parser.add_argument("question", help="a question about it")
    parser.add_argument("--out", metavar="DIR", default=".", help="where the files go")
    given = parser.add_argument(
        "--set",
        nargs="+",
        action=_Set,
        default=[],
        metavar="OPTION=VALUE",
        help="an option of the analyses that have it, or of one: NAME.OPTION=VALUE; or heldout, "
        "instead of picture and question",
    )
    given.asked = (picture, question)
    parser.add_argument(
        "--answer",
        action="store_true",
        help="put the model's answer behind the prompt: the last token is then the answer's",
    )
    parser.add_argument("--model", default="tiny", help=f"one of: {', '.join(MODELS)}")
    parser.add_argument(
        "--model-path",
        metavar="DIR",
        help="a local checkpoint instead, of a family in models/NOTES.md",
    )
    parser.add_argument("--picture-mode", default="pad", help=f"one of: {', '.join(PICTURE_MODES)}")
    parser.add_argument("--device", help="cpu or cuda; the default is a GPU if there is one")
    parser.add_argument("--precision", default="auto", help=f"one of: {', '.join(PRECISIONS)}")
    heldout = parser.add_argument_group("of --set heldout")
    heldout.add_argument("--questions", type=int, help="per skill; else 45")
    heldout.add_argument("--write", action="store_true", help="record it beside the weights")
    heldout.add_argument("--store", type=Path, help="where answers are kept; else by the weights")


def run(args):
    """Analyse, write the files, and print what the figures say."""
    if find_spec("visipruner.ui") is None:
        raise Refused("This command runs from a clone of the repository; pip installs the engine.")
    if HELDOUT in args.set:
        return _heldout(args)
    if args.write or args.store or args.questions is not None:
        raise Refused(f"--questions, --write and --store are for --set {HELDOUT}.")
    from visipruner.analyses.answered import with_answer
    from visipruner.analyses.base import Step
    from visipruner.analyses.together import together
    from visipruner.models.catalogue import PICTURE_MODES, load_vlm
    from visipruner.ui import scenes

    stay_quiet_and_offline()
    # Check all that is possible before a model is fetched or loaded.
    analyses = chosen(args.names, args.set)
    folder = _folder(args.out, analyses)
    picture = scene_picture(args.picture) if is_scene(args) else open_picture(args.picture)
    clean_question(args.question)
    check_choice("picture mode", args.picture_mode, PICTURE_MODES)
    before_download(model_of(args), args.device)
    with Telling("loading the model") as telling:
        vlm = load_vlm(
            model_of(args),
            device=args.device,
            precision=args.precision,
            on_progress=telling.download,
        )
        telling.say("encoding the picture")
        asked = picture, args.question, args.picture_mode
        drawn = vlm.spec.drawn
        prompt = scenes.prepare(vlm, *asked, is_scene(args)) if drawn else vlm.prepare(*asked)
        if ALL in args.names:
            analyses = _fitting(vlm, prompt, analyses)
        features = vlm.encode(prompt)
        if args.answer:
            telling.say("answering")
            prompt = with_answer(vlm, prompt, features)
    facts = {"model": vlm.spec.title, "question": prompt.question, "answer_too": args.answer}
    for event in together(vlm, prompt, features, analyses):
        if isinstance(event, Step):
            _tell_step(event)
            continue
        analysis, result = event
        print_whole("\n".join(write(folder, analysis, result, prompt.sheets, facts)))


def _heldout(args):
    """Ask the held-out questions under every mask, and print what the accuracies say."""
    from visipruner.analyses.base import Step
    from visipruner.analyses.recorded import FILE, recorded_figure
    from visipruner.evaluation import masked
    from visipruner.models.catalogue import load_vlm

    _check_heldout(args, masked.MASKING)
    if args.store:
        check_place(args.store)
    count = masked.USUAL if args.questions is None else args.questions
    check_number("--questions", count, 1, masked.MOST, integer=True)
    stay_quiet_and_offline()
    vlm = load_vlm(model_of(args), device=args.device, precision=args.precision)
    folder = Path(vlm.spec.path)
    if args.write:
        check_place(folder / FILE)
    for event in masked.accuracy(vlm, count, args.store or masked.store_of(folder)):
        if isinstance(event, Step):
            _tell_step(event)
    if args.write:  # first, because printing may fail, and the work must not be lost
        masked.write(vlm, folder, event)
    figure = recorded_figure(event)
    print_whole(f"{figure.title}\n{figure.words}")


def _check_heldout(args, name: str):
    """Raise `Refused` where held-out questions do not fit the rest of a command line."""
    from visipruner.models.catalogue import MODELS, drawn

    if args.names != [name] or args.picture is not None or args.set != [HELDOUT]:
        raise Refused(
            f"Held-out questions are asked by “{name} --set {HELDOUT}”, without a picture, a "
            "question, other analyses or other options of --set."
        )
    if not args.model_path and not drawn(args.model):
        known = ", ".join(name for name in MODELS if drawn(name))
        raise Refused(
            f"The held-out questions are about the drawn world: --model must be one of {known}, or "
            "--model-path a folder."
        )


def chosen(names: Sequence[str], pairs: Sequence[str]) -> list:
    """The analyses of a command line, with their options.

    Raises:
        Refused: an unknown name or option, or a value out of range.
    """
    from visipruner.analyses import ANALYSES
    from visipruner.settings import settings_of

    for name in names:
        check_choice("every analysis", name, (*ANALYSES, ALL))
    names = list(ANALYSES) if ALL in names else list(dict.fromkeys(names))
    given = {name: {} for name in names}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Refused(f"--set wants OPTION=VALUE, not {quoted(pair)}.")
        owner, _, option = key.rpartition(".")
        having = [n for n in names if owner in ("", n) and option in settings_of(ANALYSES[n])]
        if not having:
            raise Refused(
                f"None of the analyses {short(', '.join(names))} has an option {quoted(key)}; they "
                f"have {_options(names)}."
            )
        for name in having:
            given[name][option] = settings_of(ANALYSES[name])[option].parse(value)
    return [ANALYSES[name](**given[name]) for name in names]


def _fitting(vlm, prompt, analyses: Sequence) -> list:
    """Those of all analyses that fit the model and the prompt; why not, is printed."""
    found = []
    for analysis in analyses:
        try:
            analysis.check(vlm, prompt)
            found.append(analysis)
        except Refused as error:
            sys.stderr.write(f"left out: {analysis.title}: {error}\n")
    return found


def _options(names: Sequence[str]) -> str:
    from visipruner.analyses import ANALYSES
    from visipruner.settings import settings_of

    known = [f"{name}.{option}" for name in names for option in settings_of(ANALYSES[name])]
    return ", ".join(known) or "no options"


def _folder(name: str, analyses) -> Path:
    """The folder for the files, made if it is not there.

    Raises:
        Refused: it cannot be made, or a file cannot be written in it.
    """
    folder = Path(name)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(f"The folder {shown(folder)} cannot be made: {error.strerror}.") from None
    for analysis in analyses:
        check_place(folder / f"{analysis.name}.json")
    return folder


def _tell_step(step):
    if sys.stderr.isatty():
        end = "\n" if step.done == step.total else ""
        sys.stderr.write(f"\rstep {step.done} of {step.total}{end}")
        sys.stderr.flush()


def write(folder: Path, analysis, result, sheets, facts: dict) -> list[str]:
    """Write the files of one result.

    Returns:
        Lines for a terminal: the title, what the figures say, and the names of the files.
    """
    from dataclasses import asdict

    from visipruner.analyses.base import PatchMap

    options = asdict(analysis)
    data = {"analysis": analysis.name, "options": options, **facts, "result": result.to_json()}
    files = [folder / f"{analysis.name}.json"]
    write_whole(files[0], json.dumps(data) + "\n")
    figures = analysis.figures(result)
    for number, figure in enumerate(figures):
        kind = "" if len(figures) == 1 else f"-{number:02}"
        stem = folder / f"{analysis.name}{kind}"
        is_map = isinstance(figure, PatchMap)
        files += _write_map(stem, figure, sheets) if is_map else _write_figure(stem, figure)
    named = [path.name for path in files]
    if len(named) > 4:
        named = [*named[:2], "…", named[-1]]
    said = dict.fromkeys(figure.words for figure in figures[:2])
    return [f"{analysis.title}: {' '.join(said)}", f"  {', '.join(named)}"]


def _write_figure(stem: Path, figure) -> list[Path]:
    from visipruner.render.figure_svg import figure_svg

    path = stem.with_name(f"{stem.name}.svg")
    write_whole(path, figure_svg(figure))
    return [path]


def _write_map(stem: Path, shown_map, sheets) -> list[Path]:
    """One picture of all layers; if the map has words, also a large one for each layer with any."""
    from visipruner.render.patch_map import draw_patch_map

    pictures = {f"{stem.name}.png": None}
    for layer, words in enumerate(shown_map.told):
        if any(words):
            pictures[f"{stem.name}-layer-{layer:02}.png"] = [layer]
    for name, layers in pictures.items():
        stream = io.BytesIO()
        draw_patch_map(shown_map, sheets, layers).save(stream, "PNG")
        write_whole(stem.with_name(name), stream.getvalue())
    return [stem.with_name(name) for name in pictures]

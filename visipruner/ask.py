"""Answer one question about one picture, with the full model and pruned ones, without a browser.

    python -m visipruner ask PICTURE "QUESTION" --model tiny --method visipruner --level balanced
    python -m visipruner ask PICTURE "QUESTION" --methods none fastv:gentle visionzip+visipruner@64

Prints all answers, their counters and the verdicts; --json writes everything to a file.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from visipruner.errors import Refused, quoted, short
from visipruner.files import check_place, print_whole, same_file, write_whole
from visipruner.inputs import check_choice, check_number, clean_question, open_picture
from visipruner.models.console import stay_quiet_and_offline
from visipruner.running.telling import Telling, before_download


def add_options(ask: argparse.ArgumentParser):
    """The options of the command."""
    from visipruner.models.catalogue import MODELS

    ask.add_argument(
        "picture",
        help="a picture file (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF), or scene:NUMBER of the page",
    )
    ask.add_argument("question", help="a question about it")
    ask.add_argument("--model", default="tiny", help=f"one of: {', '.join(MODELS)}")
    ask.add_argument(
        "--model-path",
        metavar="DIR",
        help="a local checkpoint instead, of a family in models/NOTES.md",
    )
    ask.add_argument("--presets", metavar="FILE", help="VisiPruner's levels, from `calibrate`")
    _add_side_options(ask)
    _add_run_options(ask)


def _add_side_options(ask: argparse.ArgumentParser):
    """Which methods answer, and how hard they prune."""
    from visipruner.choice import MOST_CONTESTANTS
    from visipruner.levels import PRESETS
    from visipruner.methods import METHODS
    from visipruner.methods.visipruner import SEMANTICS

    sides = ask.add_mutually_exclusive_group()
    sides.add_argument(
        "--method",
        default="visipruner",
        help=f"one of: {', '.join(METHODS)}; a stack is ONE+OTHER; with a budget METHOD@TOKENS or "
        "METHOD@25%%, mean visual tokens per layer",
    )
    sides.add_argument(
        "--methods",
        nargs="+",
        default=None,
        metavar="METHOD",
        help="instead: the baseline and what is compared with it, up to "
        f"{MOST_CONTESTANTS}; each as in --method, or METHOD:LEVEL",
    )
    ask.add_argument(
        "--level",
        default="balanced",
        help=f"{', '.join(PRESETS)}, or a number from 0 to 1, for methods that bring no level or "
        "budget",
    )
    ask.add_argument(
        "--semantics", default="paper", help=f"VisiPruner as in: {', '.join(SEMANTICS)}"
    )
    ask.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replace one setting of --method, e.g. layer_threshold=0.99; in a stack, "
        "and with --methods, METHOD.FIELD=VALUE",
    )


def _add_run_options(ask: argparse.ArgumentParser):
    """How the answers are made, and on which device."""
    from visipruner.models.catalogue import PICTURE_MODES
    from visipruner.models.loading import PRECISIONS

    ask.add_argument("--picture-mode", default="pad", help=f"one of: {', '.join(PICTURE_MODES)}")
    ask.add_argument("--max-new-tokens", type=int, default=96, help="longest answer, in tokens")
    ask.add_argument("--temperature", type=float, default=0.0, help="0 is greedy decoding")
    ask.add_argument("--seed", type=int, default=0, help="for sampling")
    ask.add_argument("--device", help="cpu or cuda; the default is a GPU if there is one")
    ask.add_argument("--precision", default="auto", help=f"one of: {', '.join(PRECISIONS)}")
    ask.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"), help="backend")
    ask.add_argument(
        "--rounds", type=int, default=1, help="more than 1: all times are medians of N silent runs"
    )
    ask.add_argument("--json", metavar="FILE", help="write everything here; - is standard output")


def run(args):
    """Ask, print all answers and write them down."""
    if find_spec("visipruner.ui") is None:
        raise Refused("This command runs from a clone of the repository; pip installs the engine.")
    from visipruner.models import clip
    from visipruner.models.catalogue import load_vlm
    from visipruner.recorded.runs import as_text, with_picture
    from visipruner.tower import needs_clip

    stay_quiet_and_offline()
    # Check all that is possible before a model is fetched or loaded.
    options, picture, overrides = _checked(args)
    before_download(model_of(args), args.device)
    with Telling("loading the model") as telling:
        vlm = load_vlm(
            model_of(args),
            device=args.device,
            precision=args.precision,
            attention=args.attention,
            on_progress=telling.download,
            presets=Path(args.presets) if args.presets else None,
        )
        if needs_clip(_kinds(args)):
            clip.fetch(telling.download)
        telling.say("encoding the picture")
        comparison = _compared(args, vlm, picture, options, overrides, telling)
    result = with_picture(comparison.to_json(), comparison.prompt)
    if args.rounds > 1:
        result["medians"] = [answer["times"] for answer in result["answers"]]
    if args.json == "-":
        print_whole(json.dumps(result, indent=1))
        return
    if args.json:  # first, because printing may fail, and the work must not be lost
        write_whole(Path(args.json), as_text(result))
    print_whole(describe(comparison))


def _checked(args) -> tuple:
    """The run's options, the picture and the settings of --set.

    Raises:
        Refused: one sentence about the first thing that is wrong.
    """
    from visipruner.choice import parse, parse_sides
    from visipruner.levels import level_number
    from visipruner.methods.visipruner import SEMANTICS
    from visipruner.models.catalogue import PICTURE_MODES, check_served, spec_of
    from visipruner.running.results import Options

    check_number("--rounds", args.rounds, 1, 100, integer=True)
    clocks = {"clock_rounds": 0} if args.rounds > 1 else {}  # else the runner repeats on its own
    options = Options(args.max_new_tokens, args.temperature, args.seed, **clocks)
    overrides = dict(_field(pair) for pair in args.set)
    if args.json and args.json != "-":
        check_place(Path(args.json))
        if same_file(Path(args.json), Path(args.picture)):
            raise Refused("--json names the picture itself; name another file.")
    picture = scene_picture(args.picture) if is_scene(args) else open_picture(args.picture)
    clean_question(args.question)
    parse(args.method)
    if args.methods:
        _, *wishes = parse_sides(args.methods)
        known = {name for wish in wishes for name in wish.names}
        if not all("." in key and key.partition(".")[0] in known for key in overrides):
            raise Refused(
                "--set replaces a setting of --method; with --methods it is METHOD.FIELD=VALUE."
            )
    check_choice("semantics", args.semantics, SEMANTICS)
    check_choice("picture mode", args.picture_mode, PICTURE_MODES)
    level_number(args.level)
    check_served(spec_of(model_of(args)), _kinds(args))
    return options, picture, overrides


def model_of(args) -> str | Path:
    """The model as `load_vlm` takes it."""
    return Path(args.model_path) if args.model_path else args.model


def _kinds(args) -> list:
    """The class of every method that will run."""
    from visipruner.choice import kinds_of

    return kinds_of(args.methods or [args.method])


def _compared(args, vlm, picture, options, overrides, telling: Telling):
    """The `results.Comparison`, with medians if --rounds asks for them."""
    from visipruner.choice import sides_at
    from visipruner.models.presets import uncalibrated
    from visipruner.running.runner import compare, measure
    from visipruner.ui import scenes

    asked = picture, args.question, args.picture_mode
    drawn = vlm.spec.drawn
    prompt = scenes.prepare(vlm, *asked, is_scene(args)) if drawn else vlm.prepare(*asked)
    words = tuple(args.methods or ("none", args.method))
    visual = prompt.layout.num_visual
    sides = sides_at(vlm, words, args.level, args.semantics, visual, **overrides)
    if said := uncalibrated(vlm, sides):
        prompt = replace(prompt, notes=(*prompt.notes, said))
    for event in compare(vlm, prompt, sides, options):
        telling.event(event)
    comparison = replace(event.comparison, words=words)
    if args.rounds > 1:
        telling.say(f"{args.rounds} silent rounds")
        comparison = comparison.clocked(measure(vlm, prompt, sides, options, args.rounds))
    return comparison


def is_scene(args) -> bool:
    return args.picture.startswith("scene:")


def scene_picture(name: str):
    """The picture of "scene:49"."""

    number = name.removeprefix("scene:")
    from visipruner.world import sources

    # int() fails on thousands of digits; kept as a word, the number is refused in a sentence.
    is_number = number.isdecimal() and len(number) < 1000
    return sources.picture(int(number) if is_number else number)


def describe(comparison) -> str:
    """All answers with their counters, and a verdict per contestant, for a terminal."""
    from visipruner.render.words import describe_speed, verdict

    pairs = comparison.pairs
    lines = [*(f"note: {note}" for note in comparison.prompt.notes)]
    names = [pairs[0].called[0], *(pair.name for pair in pairs)]
    for name, answer in zip(names, comparison.answers, strict=True):
        lines += _side(name, answer)
    for pair in pairs:
        of = f" of {pair.name}" if len(pairs) > 1 else ""
        lines.append(f"verdict{of}: {verdict(pair)}; first token: {describe_speed(pair)}.")
    return "\n".join(lines)


def _side(name: str, answer) -> list[str]:
    """One answer, its visual tokens, and its counters, grouped by how they are known."""
    from visipruner.render import counters
    from visipruner.render.words import describe_clocks, kept

    trace = answer.trace
    measured, cut = counters.line(answer, counters.MEASURED), counters.cut_of(answer)
    return [
        f"{name}: {answer.text}",
        *([f"  {trace.why}"] if trace.why else []),
        f"  tokens     {kept(trace)}; mean {trace.mean_tokens:.1f} per layer",
        f"  executed   {counters.line(answer, counters.EXECUTED)}",
        *([] if cut is None else [f"  cut        {cut:.1%} of all tokens in all layers, prefill"]),
        f"  formula    {counters.line(answer, counters.FORMULA)}",
        f"  measured   {measured} ({describe_clocks(answer.times)})",
    ]


def _field(pair: str) -> tuple[str, object]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise Refused(f"--set wants FIELD=VALUE, not {quoted(pair)}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
    except RecursionError:
        raise Refused(f"--set: the lists of {short(name)} are nested too deeply.") from None

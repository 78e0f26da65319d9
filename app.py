"""Start the page: python app.py [--host 0.0.0.0] [--port 7860] [--model-path DIR] [--device cpu]

`python app.py --help` names every option.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path

# Set before gradio and transformers are imported: this process sends no statistics and downloads
# nothing. A separate process downloads a hub model on request (visipruner/models/hub.py).
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

LAST_PORT = 65535
STOPS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str] | None = None, cleaning: contextlib.ExitStack | None = None) -> int:
    """Serve until interrupted. Returns 1 after printing one sentence if serving is not possible.

    Args:
        cleaning: collects the clean-up steps; the caller may close it at any time.
    """
    parser = argparse.ArgumentParser(
        description="Visual-token pruning, shown side by side.",
        epilog="GRADIO_SERVER_NAME, GRADIO_SERVER_PORT and GRADIO_ROOT_PATH are honoured where "
        "options are left out.",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 serves a classroom")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument(
        "--model-path",
        metavar="DIR",
        help="also offer this local checkpoint",
    )
    parser.add_argument(
        "--device", help="cpu, cuda or cuda:1; the default is the GPUs if there are any"
    )
    parser.add_argument(
        "--root-path",
        metavar="PATH",
        help="the path under which a proxy shows the page: /demo for https://example.org/demo/",
    )
    parser.add_argument("--lesson", metavar="FILE", help="a lesson of your own, as JSON")
    parser.add_argument("--presets", metavar="FILE", help="VisiPruner's levels, from `calibrate`")
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="pictures and questions of your own, as in `evaluate --jsonl`: the page searches them "
        "for one where pruning changes the answer",
    )
    args = parser.parse_args(arguments)
    from visipruner.errors import Refused  # late: --help does not wait for torch
    from visipruner.models.hub import without_proxies
    from visipruner.versions import untested

    try:
        check_numbers(args.port)
        with cleaning or contextlib.ExitStack() as cleaning:
            # Gradio reads its own variables and the proxy variables when it is imported.
            cleaning.enter_context(without_proxies())
            from visipruner.lesson.reading import BUNDLED, read
            from visipruner.ui.layout import build, launch
            from visipruner.ui.own import open_own
            from visipruner.ui.store import Models
            from visipruner.ui.uploads import private_folder

            plan = read(args.lesson or BUNDLED)
            own = open_own(Path(args.questions)) if args.questions else None
            models = Models(args.model_path, args.device, args.presets)
            cleaning.enter_context(private_folder())
            if line := untested():
                sys.stderr.write(f"note: {line}\n")
            page = build(models, plan, own)
            launch(page, args.host, args.port, models=models, root_path=args.root_path)
    except (Refused, OSError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        sys.stderr.write(f"error: {said[0]}\n")
        return 1
    return 0


def check_numbers(port: int | None):
    """Refuse numbers that gradio and the system would answer only with a traceback.

    Raises:
        Refused: one sentence that names the option or the variable.
    """
    from visipruner.inputs import check_number

    if port is not None:
        check_number("--port", port, 1, LAST_PORT)
    for name in ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS"):
        if name in os.environ:
            value = os.environ[name].strip()
            number = int(value) if value.isdecimal() and len(value) < 9 else value
            check_number(name, number, 1, LAST_PORT)


def serve():
    """Run `main` as a process. SIGTERM and SIGINT end it with status 0 at any moment.

    The process skips Python's usual exit: that waits for gradio's threads, and a thread inside
    torch would abort the process.
    """
    cleaning = contextlib.ExitStack()

    def stop(*_):
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        try:
            cleaning.close()
        finally:
            leave(0)

    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background jobs ignore it
            signal.signal(number, stop)
    try:
        status = main(None, cleaning)
    except SystemExit as error:  # from argparse
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)


def leave(status: int):
    """Flush the output and end this process now."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()

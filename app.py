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

# Before gradio and transformers are imported: this process reports and fetches nothing, ever. A
# model of the hub is downloaded by a process of its own when asked for (visipruner/models/hub.py).
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

LAST_PORT = 65535
STOPS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str] | None = None, cleaning: contextlib.ExitStack | None = None) -> int:
    """Serve until interrupted. Returns 1 after one sentence if that is not possible.

    Args:
        cleaning: gets what must be undone in the end; closing it does so at any time.
    """
    parser = argparse.ArgumentParser(
        description="Visual-token pruning, shown side by side.",
        epilog="GRADIO_SERVER_NAME, GRADIO_SERVER_PORT and GRADIO_ROOT_PATH are honoured where "
        "options are left out.",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 serves a classroom")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument(
        "--model-path", metavar="DIR", help="also offer this local LLaVA-1.5-style checkpoint"
    )
    parser.add_argument(
        "--device", help="cpu, cuda or cuda:1; the default is the GPUs if there are any"
    )
    parser.add_argument(
        "--root-path",
        metavar="PATH",
        help="the path under which a proxy shows the page: /demo for https://example.org/demo/",
    )
    args = parser.parse_args(arguments)
    from visipruner.errors import Refused  # after the options: --help does not wait for torch
    from visipruner.models.hub import without_proxies
    from visipruner.versions import untested

    try:
        check_numbers(args.port)
        with cleaning or contextlib.ExitStack() as cleaning:
            # Gradio reads these and those variables when it is imported.
            cleaning.enter_context(without_proxies())
            from visipruner.ui.layout import build, launch
            from visipruner.ui.store import Models
            from visipruner.ui.uploads import private_folder

            models = Models(args.model_path, args.device)
            cleaning.enter_context(private_folder())
            if line := untested():
                sys.stderr.write(f"note: {line}\n")
            launch(build(models), args.host, args.port, models=models, root_path=args.root_path)
    except (Refused, OSError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        sys.stderr.write(f"error: {said[0]}\n")
        return 1
    return 0


def check_numbers(port: int | None):
    """Refuse what gradio and the system would only answer with a traceback.

    Raises:
        Refused: one sentence, naming the option or the variable.
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
    """`main` as a process, which SIGTERM and SIGINT end with status 0, whatever it is doing.

    It never ends in Python's usual way: that would wait for the threads of gradio, and a thread in
    the middle of torch would abort it.
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
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(number, stop)
    try:
        status = main(None, cleaning)
    except SystemExit as error:  # of argparse
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)


def leave(status: int):
    """End this process now; what it has said arrives."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()

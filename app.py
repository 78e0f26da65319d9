"""Start the page: python app.py [--host 0.0.0.0] [--port 7860] [--model-path DIR] [--device cpu]"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile

# Before gradio and transformers are imported: this process reports and fetches nothing, ever. A
# model of the hub is downloaded by a process of its own when somebody asks (visipruner/hub.py).
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

LAST_PORT = 65535


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted. Returns 1 after one sentence if that is not possible."""
    parser = argparse.ArgumentParser(
        description="Visual-token pruning, shown side by side.",
        epilog="GRADIO_SERVER_NAME and GRADIO_SERVER_PORT are honoured where options are left out.",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 serves a classroom")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument(
        "--model-path", metavar="DIR", help="also offer this local LLaVA-1.5-style checkpoint"
    )
    parser.add_argument(
        "--device", help="cpu, cuda or cuda:1; the default is the GPUs if there are any"
    )
    args = parser.parse_args(arguments)
    from visipruner.errors import Refused  # after the options: --help does not wait for torch
    from visipruner.versions import untested

    try:
        check_numbers(args.port)
        # After the check: gradio reads these variables when it is imported.
        from visipruner.ui.layout import build, launch
        from visipruner.ui.store import Models

        models = Models(args.model_path, args.device)
        with private_folder():
            if line := untested():
                sys.stderr.write(f"note: {line}\n")
            launch(build(models), args.host, args.port, models=models)
    except (Refused, OSError) as error:
        sys.stderr.write(f"error: {str(error).splitlines()[0]}\n")
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


@contextlib.contextmanager
def private_folder():
    """Uploads lie where no other demo's cleaning reaches them, and are gone when this one ends.

    Raises:
        Refused: one sentence, for a GRADIO_TEMP_DIR where no folder can be made.
    """

    from visipruner.errors import Refused

    usual = os.environ.get("GRADIO_TEMP_DIR")
    try:
        if usual:
            os.makedirs(usual, exist_ok=True)
        private = tempfile.TemporaryDirectory(
            prefix="visipruner-", dir=usual, ignore_cleanup_errors=True
        )
    except OSError as error:
        where = f"GRADIO_TEMP_DIR, {usual!r}," if usual else "the folder of temporary files"
        raise Refused(f"No folder can be made in {where}: {error.strerror}.") from None
    with private as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
            if usual:
                os.environ["GRADIO_TEMP_DIR"] = usual


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # a container's stop cleans up as well
    sys.exit(main())

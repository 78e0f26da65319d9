"""What every command does before it loads a model."""

from __future__ import annotations

import sys


def stay_quiet_and_offline():
    """Only the download process may go online (hub.py)."""
    from huggingface_hub import constants
    from transformers.utils import logging

    # The package is already imported, too late for environment variables.
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def tell_progress(progress):
    """Print the download's progress. Ctrl-C ends it; the next try continues from there."""
    done, total = progress.done / 1e9, progress.total / 1e9
    sys.stderr.write(f"downloading: {done:.1f} of {total:.1f} GB\n")

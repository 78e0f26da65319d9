"""Where a run stands, in one word: the server says it, the page holds it, page.js shows it."""

WAITING = "waiting"  # it was asked for; what stands on the page is of the run before
SHOWN = "shown"  # its own cards stand on the page and wait for more
DONE = "done"
REFUSED = "refused"  # before it was shown; the status line says why
FAILED = "failed"  # the same, after it was shown
STOPPED = "stopped"
UNFINISHED = "unfinished"  # it ended, and nothing has said why

BUSY = (WAITING, SHOWN)  # something will follow

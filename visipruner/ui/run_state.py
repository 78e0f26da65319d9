"""The state of a run, as one word: the server sets it, the page holds it, page.js shows it."""

WAITING = "waiting"  # requested; the page still shows the run before
SHOWN = "shown"  # the page shows this run's cards, which wait for more
DONE = "done"
REFUSED = "refused"  # before it was shown; the status line says why
FAILED = "failed"  # after it was shown; the status line says why
STOPPED = "stopped"
UNFINISHED = "unfinished"  # it ended without an explanation

BUSY = (WAITING, SHOWN)  # the run goes on

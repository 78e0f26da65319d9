"""The words of “Open a saved run”."""

TITLE = "Open a saved run"
INFO = (
    "A run saved with “Data (JSON)”, here or on another machine, or with `ask --json`, opens as it "
    "was: answers, counters, patches, charts and report. Its model is not needed, and nothing is "
    "computed. The results of an evaluation (`results.json`) open as tables."
)
CHOOSE = "Choose a file (JSON)"
OPENED = "“{name}” is open above: recorded{when}, not run here."
STATUS = "A saved run is open: {verdict}."
NO_MEASURE = (
    "“Measure again” is off: this run was recorded on another occasion, and its model does not "
    "take part here. Press Run for clocks of this machine."
)
TOO_MANY = (
    "This file compares {count} methods, and the page shows {most} beside the full model: open it "
    "with “python -m visipruner show FILE --html OUT”."
)
NOT_ASKED = "# This run was opened from a file: no form of this page asked it."
READ_AGAIN = """from pathlib import Path

from visipruner.recorded.kinds import opened

run = opened(Path("visipruner.json"))  # the saved file
print(run.label)
for answer in run.comparison.answers:
    print(answer.text, answer.counts.executed.prefill, answer.trace.why)
"""
SHOW_AGAIN = "python -m visipruner show visipruner.json --html report.html --png overlays.png"
EVALUATION = "“{name}” holds the results of an evaluation, not run here. {label}"

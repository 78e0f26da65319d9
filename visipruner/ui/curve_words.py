"""The words of the view "Cost and accuracy"."""

HEADING = "Cost and accuracy"
NO_CURVE = "There is no recorded curve to show here. {why}"
SKILL, ALL_SKILLS = "Questions", "all skills"
GROUP = "Show"
GROUPS = (
    ("a few", "few"),
    ("inside the language model", "inside"),
    ("before it, renumbered", "before"),
    ("before it, places kept", "placed"),
    ("stacks", "stacks"),
    ("the aligned model", "model"),
    ("all", "all"),
)
FOLLOW = "Follow one, with 95% intervals"
HOLLOW = (
    "Hollow marks, “score untrained”: these methods score patches by the vision tower's class "
    "token, which was never trained in the layer that they read. Here their points say nothing "
    "about the method."
)
BY_QUESTION = (
    "“By the question”: this project's own rules for VisiPruner. What a patch changes is measured "
    "on all words after the picture, and not on the prompt's last token alone."
)
POINTS = "All points as a table, each with a button that runs it"
POINTS_HEAD = (
    "Method",
    "Tokens per layer",
    "FLOPs cut (executed)",
    "Right, with 95% interval",
    "Against unpruned, in points",
    "Right where pool is wrong",
    "",
)
TRY, TRY_LONG = "Try it", "Try it: {label}"
TRIED = (
    "This point's settings are in the form now, under Advanced. They come before the level; Reset "
    "empties them."
)
NO_BUNDLED = (
    "This point is of the model “{name}”, and this server does not offer it: see VISIPRUNER_MODELS."
)
NO_SUCH_SETTING = "The curve was recorded with other choices of “{name}” than this version has."

RECOMPUTE = "Recompute here"
RECOMPUTE_INFO = (
    "Asks the points' model held-out questions now, on this server, unpruned and with one to four "
    "points. They are the first of each skill, with which the recorded points began too. The stars "
    "in the plot are what was measured here, of all skills. Other visitors' runs come in between."
)
PICKS, PICKS_HINT = (
    "Points to measure, at most {most}",
    "Choose points here, or try one in the plot",
)
COUNT, COUNT_INFO = "Number of questions", "the same number of each of {skills} skills"
TWO_MODELS = "These points are of two models; choose points of one."
NO_PICKS = "Choose one to {most} points to measure first."
STOP = "Stop measuring"
BEGINS = "Measuring here, now"
MEASURED = "Measured here, now, {questions} questions"
MEASURING = "Measured here, now: {done} of {total} answers"
ENDED = "Not finished. What stands here was measured; the button begins again."
MEASURED_HEAD = (
    "Method",
    "Questions",
    "Right, with 95% interval",
    "Against unpruned, in points",
    "FLOPs cut (executed)",
    "Recorded",
)
NOTHING_MEASURED = "–"
ALIKE = "the same in every question"
SAVE_CSV, SAVE_JSON, SAVE_PNG, SAVE_HTML = (
    "Points (CSV)", "Curve (JSON)", "Picture (PNG)", "Picture and table (HTML)",
)  # fmt: skip

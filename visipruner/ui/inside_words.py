"""The words of the view "Look inside"."""

NAMES = "What to look at"
NAMES_INFO = (
    "Maps and word lists come from one run of the unpruned model; masks and changes run it again."
)
SETTINGS = "Settings of what is chosen"
SETTING_INFO = "{name}, usually {usual}"
ANSWER = "With the answer behind the prompt"
ANSWER_INFO = "The unpruned model answers first; the last token is then the last one of its answer."
RUN = "Look inside"
NOTHING = "Choose at least one thing to look at first."
STEP = "{title}: step {done} of {total}"
LOOKING, ENCODING = "Looking inside", "Reading the picture"
DONE = "Done. Move the layer slider; point at a patch to read its numbers."
ASKED = "“{question}” · {model}"
LEAD = (
    "The paper's finding is not a method but a picture of what layers do with vision: shallow ones "
    "hardly use it, a few in the middle fuse it with the question, deep ones ignore it. Look for "
    "yourself, on this picture and this question."
)
INTRO = (
    ("Maps", "Influence and attention of every patch, layer by layer, on one slider."),
    ("Words", "What each layer would say, and what it reads in each patch."),
    ("Masks", "Hide the picture in some layers, and see which ones the answer needs."),
)
BEGIN = "Press Look inside: an example is ready."
SAVE_JSON, SAVE_HTML = "Numbers (JSON)", "Report (HTML)"

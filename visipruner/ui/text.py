"""The page's words. The words of its drawn parts stand beside them, in visipruner/render."""

from visipruner.render import counters
from visipruner.render.counters import EXECUTED, FORMULA, MEASURED

TITLE = "What does the answer really look at?"
LEAD = (
    "A vision-language model cuts a picture into hundreds of patches and reads every one of them. "
    "Ask a question: it is answered twice, once with all patches and once with the few that matter."
)
MODEL_READY = "{title} · {grid} patches · {layers} layers · {device}"
MODEL_WAITING = "{title} · loads when you press Run"
TO_DOWNLOAD = "{} ({} to download)"
DOWNLOADING = "Downloading {title}: {done} of {total}. Stop pauses; what has arrived is kept."
FETCHING = "Downloading the model"
LOADING = "Loading the model…"
SECONDS = " · {seconds:.0f} s"
NOT_HERE = "{title} is not on this machine yet: choose it on the page and press Run ({size})."
NO_CLIP = "{clip}, which this method needs, was not on this Space's disk when it started."
FIXED_AT_START = "Here every model runs in its usual precision with sdpa attention; choose those."

PICTURE = "Picture"
QUESTION = "Question"
QUESTION_HINT = "Ask about the picture, then press Enter or Run"
ONE_WORD = "Answer in one word"
ONE_WORD_INFO = (
    "Added to the question. VisiPruner keeps what moves the answer's first word, and in a "
    "sentence that is often “The”."
)
ONLY_A_PLEA = "This only says how to answer: type a question before it."
RUN = "Run"
STOP = "Stop"
RESET = "Reset"
EXAMPLES = "Examples"
EXAMPLE = "Example {number}: {question} It shows {shows}."
SCENE = "New scene"
SCENE_SEED = "Scene number"
NO_NUMBER = "none"
ANOTHER_QUESTION = "Next question"
METHOD = "Method"
OTHERS = "Compare with more methods"
CHOSEN_TWICE = "{method} is chosen twice: choose each method once."
MODEL = "Model"
LEVEL = "How hard to prune"
LEVEL_INFO = "0 keeps everything, 1 is the hardest"
PRESET = "Level"

ADVANCED = "Advanced"
COMPOSE = "Compose a scene"
SEMANTICS = "Rules of VisiPruner"
SEMANTICS_INFO = (
    "paper: influence on the prompt's last token. official: as the published code does it, which "
    "differs in the early layers and in when vision leaves. question, this project's own: on all "
    "words after the picture, which loses less in counts and where a sentence is asked for"
)
PICTURE_MODE = "Fit the picture to the model's square"
PICTURE_MODES = {"pad": "pad (nothing is lost)", "crop": "crop the middle"}
MAX_NEW_TOKENS = "Longest answer (tokens)"
TEMPERATURE = "Temperature"
TEMPERATURE_INFO = "0 always takes the likeliest word"
SEED = "Seed for drawing words"
BACKEND = "Attention backend"
PRECISION = "Precision"
FIELDS_HEAD = "Every setting of this method; what is left empty follows the level."
FIELD_INFO = "in code: {name}"
FROM_LEVEL = "from level"
PROMPT = "The prompt as the model gets it"
PROMPT_HINT = "Press Run to see it"

FULL = "All patches"
PRUNED = "Pruned"
AGAIN = "Once more, unpruned"  # the name of a second side that prunes nothing
NO_ANSWER_YET = "…"
EMPTY_ANSWER = "(the model ended without a word)"

ABOUT = "rule, paper, code, settings"
ABOUT_RULE, ABOUT_PAPER, ABOUT_SOURCE = "Rule", "Paper", "Code"
ABOUT_NEEDS = "Needs"
WITH_CLIP = "{title} (with {clip}, {size})"
NEEDS_CLIP = "{clip}, {size}, which is downloaded when you first press Run; and one of: {models}"

HOW = (
    ("Look", "The picture becomes a grid of patches. Each patch is one visual token."),
    ("Prune", "Layer by layer, the method tests which patches still move the answer."),
    ("Compare", "Both answers, what they cost, and the patches that were enough."),
)
HOW_END = "Press Run: an example is ready."
HOW_EMPTY = "Choose an example, press New scene or bring a picture of your own."

WAITING = "Waiting for the model…"
READING = "Looking at the picture…"
LAYERS = (
    "{side}: reading picture and question, {layer} of {layers} layers done, {visual} patches left"
)
WRITING = "{side}: writing"
CLOCKING = "Taking the times again, with nothing else going on"
PROBING = "Measuring every layer of the full model for the picture below: {layer} of {layers}"
DONE = "Done. {verdict}"
STOPPED = "Stopped."
UNFINISHED = "Not finished. Press Run to try again."
NO_DEVICE = "There is no camera, or the browser found none. Upload a picture or choose an example."
NOT_ALLOWED = (
    "The browser does not allow this page the camera or the clipboard. Allow it there, or upload a "
    "picture."
)
OLDER = "The form has changed since this run. Press Run for an answer to what it says now."
OLDER_PICTURE = "There is another picture now. Press Run for an answer about it."
STOPPED_CARD, UNFINISHED_CARD = "(stopped before the answer was whole)", "(not finished)"
NO_VERDICT_YET = "No verdict: this run was not finished"
ASKED = "“{question}” · {method}{level} · {model}"
ASKED_PRESET, ASKED_NEAR = ", {preset} (level {level:g})", ", level {level:g} (here as {preset})"
ASKED_LEVEL, ASKED_OWN = ", level {level:g}", ", own settings"
ASKED_RULES = {
    "official": ", as the published code does it",
    "question": ", tested on all words after the picture",
}

SAME_OF_MANY = "{same} of {count} answer as with all patches"
SAME_OF_MANY_GUESS = "All guess: {same} of {count} say the same as with all patches"
PAIRS_EXECUTED, PAIRS_MEASURED = "computing and visual tokens", "first word"
SPEEDS_OPEN = (
    "First words: too few runs, or too uneven ones, to call {names} faster or slower. “Measure "
    "again” gives medians."
)
DIFF_MARKS = "struck: only with all patches; underlined: only when pruned"
RIGHT = "right"
WRONG = "wrong"
FACTS = "{right} of {total} facts right"
TRUE_ANSWER, DIFF = "True answer", "What differs"
FEWER_FLOPS, MORE_FLOPS, AS_MANY_FLOPS = "less computing", "more computing", "as much computing"
CUT_OF_ALL = "{cut} less than all tokens in all layers"
FEWER_FLOPS_WHY = "to read the prompt: {full} → {pruned}"
FASTER = "faster first word"
SLOWER = "slower first word"
NO_DIFFERENCE = "no measurable difference"
FIRST_TOKEN_WHY = "{full} → {pruned} with the picture's encoding, median of {rounds} runs"
UNEVEN = "First word too uneven to compare: {why}."
MEDIAN_OF, SUM, ONE_RUN, FEW_TOKENS = "median of {rounds}", "sum", "one run", "too few"
TOO_FEW_RUNS = (
    "First word after {full} → {pruned}, too few runs to call one side faster: “Measure again” "
    "gives medians."
)
BEFORE = "of the picture before"
TOKENS = "visual tokens"
TOKENS_WHY = "after layer {layer}{then}"
TOKENS_BEFORE = "before the first layer{then}"
TOKENS_THEN = ", none after layer {layer}"
TOKENS_ENTER = "none before layer {layer}"
TOKENS_NONE = "nothing was dropped"

MARKS = {
    FORMULA: "the paper's formula: multiply-adds of the visual tokens only",
    EXECUTED: "counted from what really ran",
    MEASURED: "a clock or a memory counter",
}
COUNTERS = {
    "layer": "Layers",
    "tokens": "Visual tokens in it",
    **counters.WORDS,
}
COUNTERS_HEAD = "All counters"
MACHINE = (
    "Measured on {device}, threads: {threads}, {dtype}, {attention} attention, torch {torch}, "
    "transformers {transformers}. {clocks} The full model's untimed probe is not counted."
)
CLOCKS_ONCE = "Every clock is of the one run that was shown."
CLOCKS_MEDIAN = (
    "Vision tower, prefill and first word are medians of {rounds} silent runs; the further words "
    "are of the one run that was shown, and the whole answer is the sum of both."
)
CLOCKS_WHOLE = "Every clock is a median of {rounds} silent whole answers."
MEASURE = "Measure again × 5"
MEASURING = "Measuring every side five times, in turn…"
MEDIANS = "Medians of {done} of {rounds} silent runs in turn"

NO_RESULT = "There is no finished result here yet: press Run first."
NO_LONGER_KEPT = (
    "This result is no longer kept: the server keeps only the newest ones, for an hour. Press Run "
    "again."
)
FORM_GONE = "This run waited too long, or the server was started again. Press Run again."
PORT_TAKEN = (
    "Port {port} cannot be opened on {host}: another program has it, or this machine has no such "
    "address. See --port and --host."
)
DISK_FULL = "The server's disk is full, so nothing could be kept there. Please try again later."
QUEUE_FULL = "{waiting} calls wait here already, the most that may. Please try again in a minute."
BROKEN = "Something went wrong on the server, and it has been noted there. Please try again."
BAD_REQUEST = "This request cannot be read: {what}"
TOO_FEW = "some of its values are missing."
NOT_UPLOADED = "the picture must be uploaded first."
NO_FILE = "No file was given; choose one first."
WRONG_KIND = "a value is of the wrong kind."
A_VALUE = "A value"
TYPED_TOO_LONG = "“{name}” has {length:,} characters; at most {most} can be read."
NO_NUMBER_GIVEN = "{name} must be a number."
NO_LIST = "{name} must be a list."
NO_WORDS = "{name} must be words."
HALF_A_CHARACTER = "A value holds half a character: type it again."
TOO_LARGE = "A number is too large to be read here."
NO_EXAMPLE = "There is no such example: choose one of those that are shown."
PICTURE_GONE = (
    "Your picture is no longer on the server, which keeps only the newest ones, for an hour. "
    "Choose it again."
)
NO_PICTURE_IN_LINK = "This link carries no picture: choose one, or press New scene."
NO_ADDRESS = "Addresses are not fetched; upload the picture itself."

BAD_LINK = "The link's {name} cannot be used here, so the usual one was taken."
LINK_NAMES = {"seed": "scene number", "semantics": "rules of VisiPruner"}  # others stay
LINK_INFO = (
    "A picture of your own, or a scene that you composed, stays with you: the link carries the "
    "number of a scene, question, model, method, level and rules."
)
OPTIONS_KIND = "options must be an object of names and values."
OPTIONS_UNKNOWN = "options holds an unknown name; known are {known}."
FIELDS_KIND = "options.fields must be an object of names and values."
FIELDS_OF_MANY = "options.fields are of one method: give a level or a budget behind each name."
PROBE_KIND = "options.probe must be true or false."
PICTURE_KIND = "The picture must be an uploaded file: upload it first, then name the upload."
UNKNOWN_WORDS = "The bundled model never learnt the word “{words}”; it may guess."
UNKNOWN_MANY = "The bundled model never learnt the words “{words}”; it may guess."
RESPELT = "The bundled model learnt British spelling, so it reads {words}."
ONE_WORD_PICTURE = "A description does not fit into one word, so the bundled model may guess."
OUTSIDE = (
    "This picture is outside the bundled model's world of drawn shapes and digits, so its answer "
    "is a guess. Photographs need a larger model: see Model, or start the page with --model-path."
)

STAYS = "Of the {kept} patches that stay, {on} {show} a thing; of all {all}, {every} do."
STAYS_ONE = "The one patch that stays shows {what}; of all {all}, {every} show a thing."
STAYS_WHAT = ("ground", "a thing")
STAYS_SENTENCE = (
    "Influence was measured where the answer's first word is made, here “{word}”. With “Answer in "
    "one word” that word is the answer itself."
)
STAYS_LATE = (
    "This small model reads the things in the layers before, so what still matters may be ground."
)

TEACHING = "For a lesson"
FIND = "Find a picture where pruning changes the answer"
FIND_INFO = (
    "Walks through scenes with the current method and level until an answer differs from the one "
    "with all patches."
)
NOTHING_OFFERED = "None of the models in VISIPRUNER_MODELS is on this server's disk."
NOTHING_TO_FIND = "Without pruning both answers are the same: choose a method first."
LESSON_PRINT = "The whole lesson to print (HTML)"
LESSON_STEP = "Step {step} of {steps}"
LESSON_PRINTED = "The lesson is saved: sheets for the class, what was found, pages for the teacher."
LESSON_ENDED = "Not finished. Press the button to start anew."
FIND_OWN = "Find one in {name}"
FIND_OWN_INFO = "“{find}” does the same with the {count} questions that this server was given."
FOUND_SCENE, FOUND_LINE = "Scene {number}", "Line {number}"
SEARCHING = "{place}, {tried} of at most {most}"
LAST_SAME = "The one before: all said “{answer}”."
FOUND = "{place} changes the answer; {tried} tried. It is in the form now."
NOT_FOUND = "All sides agreed on all {tried} scenes. Prune harder, or press again to go on."
NOT_FOUND_OWN = "All sides agreed on all {tried} questions. Prune harder, or press again to go on."
OWN_GONE = "No question of the server's file can be asked now: its pictures are gone or damaged."
SWEEP = "Try all levels on this picture"
SWEEP_HEAD = ("Level", "Answer", "", "Fewer FLOPs (executed)", "Visual tokens")
SWEEP_NOTE = "Harder saves more computing: by an earlier cut, by fewer tokens, or by both."
SWEEP_DONE = "{done} of {all} runs are done."
SWEEP_SAME, SWEEP_DIFFERENT = "same", "different"
MEDIAN_RATIO = "first ÷ second"

CHARTS = "Charts, layer by layer"
SAVE_PNG, SAVE_JSON, SAVE_HTML = "Overlays (PNG)", "Data (JSON)", "Report (HTML)"
REPEAT = "Repeat or share this"
LINK = "Link that fills the form"
COPY_LINK = "Copy link"
PYTHON, COMMAND = "Python", "Command line"
CLIENT = "Ask this page from another program (gradio_client)"
REPEAT_INFO = (
    "What the last run did; before the first one, the form as this was opened. A picture of your "
    "own, or a scene that you composed, is read from picture.png."
)
PROJECTOR = "Projector"
DARK = "Dark"

VERDICT_WAITS = "The answers are on their way…"
NO_SCENE = "The next question needs a scene: press New scene first."

UNTRAINED = (
    "Score untrained: {names}. There the vision tower's class token judges the patches, and this "
    "model's training never reached it. So what is kept here says nothing about the method."
)
ARENA_METHODS = "Methods, up to four"
ARENA_BUDGET, THE_BUDGET = "Budget", "The budget"
ARENA_SHARE = "tokens per layer: {share} of {all}"
ARENA_ADAPTS = (
    "A budget is the mean number of visual tokens per layer, counted over the whole run. "
    "VisiPruner adapts to the question, so its calibrated setting nearest to the budget is used; "
    "others can miss a wish by a few tokens. So each result says what was really used."
)
ARENA_RUN, ARENA_ALL = "Run arena", "All methods on this picture"
ARENA_NOTHING = "Choose one to four methods first."
ARENA_NO_BUDGET = "Type a budget: the mean number of visual tokens per layer."
ARENA_ASKED = "wished: {tokens} of {all} visual tokens per layer · {model}"
ARENA_UNMEASURED = (
    "No budgets were measured for VisiPruner on this model, so it runs at its balanced level."
)
ARENA_INTRO = (
    ("Same question", "Every method answers it about the same picture, beside the full model."),
    ("One budget", "All get the same wish. What each really used is counted and printed."),
    ("What they kept", "A picture per method, or one that shows where the methods agree."),
)
ARENA_LEAD = (
    "Papers rarely compare methods on one footing. Here they stand side by side: same model, same "
    "picture, one budget, and the patches that each of them kept."
)
ARENA_BEGIN = "Press Run arena: an example is ready."
SAVE_CSV = "Table (CSV)"

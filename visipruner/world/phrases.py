"""Every sentence of the small model's language, as templates, and the words in them."""

from __future__ import annotations

import re

from visipruner.world.scenes import COLOURS, DIGIT, PLACES, SHAPES, SIZES

# The bundled model learnt this older sentence; field `system` of its presets.json names it.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
WORD = r"[a-z]+(?:-[a-z]+)?|[0-9]+|[^\sa-z0-9]"
THING_WORDS = ("shape", "object", "thing")
HOLDERS = ("in the picture", "in the image", "here")
SHORT = ("answer in one word.", "answer with one word.", "one word only.", "use a single word.")
LLAVA_SHORT = "Answer the question using a single word or phrase."  # from LLaVA-1.5's training
ASSISTANT = " ASSISTANT:"  # stands between a question and its answer
NUMBERS = tuple(str(n) for n in range(19))
# It read "color" in one phrase only, and never the other two. Its world has no word "grey".
SPELLINGS = {"color": "colour", "colors": "colours", "center": "centre"}

ASK = {
    "colour": (
        "what colour is the {name}?",
        "what color is the {name}?",
        "what is the colour of the {name}?",
        "which colour does the {name} have?",
    ),
    "shape": (
        "what shape is the {name}?",
        "what is the shape of the {name}?",
        "which shape does the {name} have?",
    ),
    "size": (
        "what size is the {name}?",
        "how large is the {name}?",
        "how big is the {name}?",
        "what is the size of the {name}?",
    ),
    "place": (
        "where is the {name}?",
        "where in the picture is the {name}?",
        "where do you see the {name}?",
    ),
    "count": (
        "how many {name} are there?",
        "how many {name} are there {holder}?",
        "how many {name} do you see?",
        "count the {name}.",
    ),
    "exists": (
        "is there {name}?",
        "is there {name} {holder}?",
        "do you see {name}?",
        "does the picture show {name}?",
    ),
    "relation": (
        "is the {first} {side} the {second}?",
        "does the {first} lie {side} the {second}?",
    ),
    "which_side": ("is the {first} {one} or {other} the {second}?",),
    "same": (
        "do the {first} and the {second} have the same {what}?",
        "are the {first} and the {second} the same {what} or different?",
        "is the {what} of the {first} and the {second} the same or different?",
    ),
    "larger": (
        "which is {word}, the {first} or the {second}?",
        "which one is {word}, the {first} or the {second}?",
        "what is {word}, the {first} or the {second}?",
    ),
    "digit": (
        "what digit is this?",
        "which digit is in the picture?",
        "what is the digit?",
        "what digit do you see?",
        "what number is written here?",
    ),
    "sum": (
        "what is the sum of the two digits?",
        "what is the sum of the digits?",
        "what do the two digits add up to?",
    ),
    "most": (
        "what is the larger digit?",
        "which digit is larger?",
        "which of the two digits is larger?",
    ),
    "describe": (
        "describe the picture.",
        "describe the image.",
        "what is in the picture?",
        "what do you see?",
    ),
}
ANSWER = {
    "absent": "There is no {name}.",
    "colour": "The {name} is {value}.",
    "shape": "The {name} is a {value}.",
    "size": "The {name} is {value}.",
    "place": "The {name} is at the {value}.",
    "zero": "There are no {name}.",
    "one": "There is 1 {name}.",
    "many": "There are {n} {name}.",
    "there": "Yes, there is {name}.",
    "not_there": "No, there is no {name}.",
    "right": "Yes, the {first} is {side} the {second}.",
    "wrong": "No, the {first} is not {side} the {second}.",
    "which_side": "The {first} is {side} the {second}.",
    "same": "They have the same {what}.",
    "different": "They have different {what}.",
    "larger": "The {name} is {word}.",
    "digit": "The digit is {value}.",
    "sum": "The sum is {value}.",
    "most": "The larger digit is {value}.",
    "described": "A {name} is at the {value}.",
}
SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
SHORT_ANSWERS = ("yes", "no", "none", "same", "different", "larger", "smaller", *SIDES)


def as_learnt(question: str) -> str:
    """The question in the British spelling that the model learnt."""
    return _OTHER_SPELLING.sub(lambda found: SPELLINGS[found[0].lower()], question)


def respelt(question: str) -> dict[str, str]:
    """The words that `as_learnt` changes, in lower case, with their replacements."""
    found = dict.fromkeys(word.lower() for word in _OTHER_SPELLING.findall(question))
    return {word: SPELLINGS[word] for word in found}


_OTHER_SPELLING = re.compile(rf"(?<![\w-])({'|'.join(SPELLINGS)})(?![\w-])", re.IGNORECASE)


def plural(word: str) -> str:
    return word + ("es" if word.endswith("s") else "s")


def with_article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def words(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation, as the tokenizer splits them."""
    return re.findall(WORD, text.lower())


def vocabulary(system: str) -> list[str]:
    """Every word of the language, sorted; the model writes capitals but cannot read them."""
    nouns = (*SHAPES, *THING_WORDS, DIGIT, "colour", "size")
    known = {"a", "an", "user", "assistant", *words(system), *NUMBERS, *SHORT_ANSWERS, *SIZES}
    known.update(COLOURS, nouns, map(plural, nouns), *PLACES)
    for template in (*SHORT, *HOLDERS, *SIDES.values(), *ANSWER.values(), *sum(ASK.values(), ())):
        known.update(words(_bare(template)))
    for template in ANSWER.values():
        known.update(re.findall(r"[A-Z][a-z]*", template))
    return sorted(known)


def _bare(template: str) -> str:
    return re.sub(r"\{\w+\}", " ", template)


def known_words() -> list[str]:
    """Every word that a question may use."""
    return [word for word in vocabulary(SYSTEM) if word == word.lower()]


def unknown_words(text: str) -> list[str]:
    """The words of a question that the model has never read, in order, each once."""
    known = set(known_words())
    return [word for word in dict.fromkeys(words(text)) if word not in known]

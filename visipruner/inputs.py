"""Makes a user's input safe: the picture, the question, choices and numbers.

Every refusal is a `ValueError` whose text is one plain sentence, ready to be shown.
"""

import io
import math
import re
import unicodedata
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from visipruner.errors import Refused

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 25_000_000
# Pictures are padded to a square later. With this longest side, the square stays within MAX_PIXELS
# even if the picture is narrow.
MAX_SIDE = math.isqrt(MAX_PIXELS)
MAX_QUESTION = 1_000

# Text that steers a prompt: special tokens, and what templates write as plain text.
MARKERS = ("<image>", "</s>", "<s>", "<unk>", "<pad>", "[INST]", "[/INST]", "###")
ROLES = ("USER:", "ASSISTANT:")

_MOST_NOTES = 6  # at most this many marks of a question are named one by one
_HEAD_BYTES = 4096
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_VIDEOS = (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ")
_DAMAGED = "This picture is damaged or incomplete; save it again as JPEG or PNG."
_UNREADABLE = "This picture cannot be read here; save it again as JPEG or PNG."
_NO_MEMORY = "There is not enough memory to open this picture; make it smaller or try again later."
_NO_PICTURE = "No picture was given; choose a picture first."
# Pillow's words about an intact file in a format that it cannot read.
_NOT_KNOWN = re.compile(r"unknown (pixel mode|data organi|planar)|unsupported|not supported", re.I)
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF tags: offsets and lengths of the parts


def open_picture(source) -> Image.Image:
    """Returns the picture as an upright RGB image that depends on no file and carries no metadata.

    `source` is a path, the bytes of a file, an open PIL image, or a uint8 array of shape
    (height, width[, 3 or 4]). A longest side above `MAX_SIDE` is shrunk to it.
    Colours follow the picture's own profile, converted to sRGB.

    Raises:
        Refused: one sentence for a lay person.
    """
    if source is None or (isinstance(source, str) and not source.strip()):
        raise Refused(_NO_PICTURE)
    if isinstance(source, Image.Image):
        return _decode(source)
    if isinstance(source, np.ndarray):
        _check_array(source)
        try:
            image = Image.fromarray(source)
        except MemoryError:
            raise Refused(_NO_MEMORY) from None
        return _decode(image)
    if isinstance(source, (bytes, bytearray)):
        stream = io.BytesIO(source)
    elif isinstance(source, (str, Path)):
        stream = _open_file(Path(source))
    elif isinstance(source, (list, tuple)):
        raise Refused(f"One question takes one picture here, not {len(source)}; choose one.")
    else:
        raise Refused(f"A picture must be a file, not {_shown(source)}.")
    with stream, _open_stream(stream) as image:
        return _decode(image)


def check_picture(path: Path):
    """Check a picture file by its header alone, which costs little; its pixels may be damaged.

    Raises:
        Refused: as `open_picture`.
    """
    with _open_file(path) as stream, _open_stream(stream) as image:
        _check_size(*image.size)


def _open_file(path: Path) -> BinaryIO:
    name = _shown(path.name or str(path))  # "." has no name
    try:
        if path.is_dir():
            raise Refused(f"{name} is a folder; choose a picture file in it.")
        if not path.is_file():  # also keeps out devices and pipes, which may never end
            raise Refused(f"There is no picture file {name}; check its name and folder.")
        return path.open("rb")
    except OSError:  # no permission to read it, or the name is too long
        raise Refused("This file cannot be opened; check its name and rights.") from None


def _open_stream(stream: BinaryIO) -> Image.Image:
    """Reads the header only: no pixel is decoded before the size is known."""
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    try:
        return Image.open(stream, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow checks its own limit, far above ours, before it reports the size.
        raise Refused(_too_many(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels")) from None
    except Exception as error:  # hostile headers raise anything, from SyntaxError to OverflowError
        raise Refused(_NO_MEMORY if _no_memory(error) else _why_unreadable(head, stream)) from None


def _why_unreadable(head: bytes, stream: BinaryIO) -> str:
    if not head:
        return "This picture file is empty; choose another file."
    if head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "HEIC pictures cannot be read here; save it as JPEG or PNG."
    if _is_video(head):
        return "Videos cannot be read here; choose one picture, such as a frame saved as PNG."
    if b"<svg" in head.lower():
        return "SVG drawings cannot be read here; save it as PNG."
    if head.startswith(b"%PDF"):
        return "PDF files cannot be read here; save the page as PNG."
    if head.startswith(_MAGIC) or head[4:12] == b"ftypavif":
        return _UNREADABLE if _NOT_KNOWN.search(_openers_words(head, stream)) else _DAMAGED
    return (
        "This file is not a picture that can be read here; "
        f"choose a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
    )


def _is_video(head: bytes) -> bool:
    """MP4, QuickTime, WebM or Matroska, AVI?"""
    mp4 = head[4:8] == b"ftyp" and head[8:12] in _VIDEOS
    return mp4 or head.startswith(b"\x1aE\xdf\xa3") or (head[:4], head[8:12]) == (b"RIFF", b"AVI ")


def _openers_words(head: bytes, stream: BinaryIO) -> str:
    """The error of the format's own opener, which `Image.open` hides."""
    for kind in FORMATS:
        opener, accepts = Image.OPEN[kind]
        if accepts(head[:16]) is True:
            stream.seek(0)
            try:
                opener(stream)
            except Exception as error:
                return str(error)
    return ""


def _no_memory(error: Exception) -> bool:
    """Did memory run out? Pillow's decoders raise an OSError for it."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _too_many(size: str) -> str:
    return f"This picture has {size}; at most {MAX_PIXELS:,} are allowed, so make it smaller first."


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise Refused(f"This picture is {width} x {height} pixels and so holds nothing to see.")
    if width * height > MAX_PIXELS:
        raise Refused(_too_many(f"{width * height:,} pixels ({width} x {height})"))


def _check_array(array: np.ndarray) -> None:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in ((), (3,), (4,)):
        raise Refused(
            "A picture array must be uint8 of shape (height, width), (height, width, 3) or "
            f"(height, width, 4), not {str(array.dtype)[:30]} of shape {str(array.shape)[:40]}."
        )
    _check_size(array.shape[1], array.shape[0])


def _decode(image: Image.Image) -> Image.Image:
    _check_size(*image.size)
    profile, whole = image.info.get("icc_profile"), _is_whole_tiff(image)
    try:
        image.load()
        image = _to_rgb(_upright(image), profile)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    except Exception as error:  # decoders raise nearly anything on a damaged file
        why = _UNREADABLE if whole else _DAMAGED
        raise Refused(_NO_MEMORY if _no_memory(error) else why) from None
    # EXIF may tell where and when a photograph was taken: it must not reach downloads.
    image.info = {}
    return image


def _is_whole_tiff(image: Image.Image) -> bool:
    """Is this a TIFF file that holds every part that it names?

    If such a file cannot be decoded, it is still complete: Pillow reads few kinds of TIFF.
    """
    try:
        tags, end = image.tag_v2, image.fp.seek(0, io.SEEK_END)
        starts, sizes = next((tags[a], tags[b]) for a, b in (_STRIPS, _TILES) if a in tags)
        return all(start + size <= end for start, size in zip(starts, sizes, strict=True))
    except Exception:  # another format, or invalid directories
        return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block does not spoil the picture
        return image


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A new RGB image; transparent pixels turn white, as on a page."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    full = image.convert("RGBA")
    # A grey profile fits only grey values.
    colours = _to_srgb(full.convert("L" if image.mode in ("LA", "La") else "RGB"), profile)
    colours.putalpha(full.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", full.size, "white"), colours).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A new RGB image with the profile's colours; plain RGB if the profile is unusable."""
    if profile:
        fitting = image.mode if image.mode in ("L", "RGB", "CMYK", "LAB") else "RGB"
        try:
            return ImageCms.profileToProfile(
                image.convert(fitting),
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except Exception as error:  # the profile is damaged or has another colour space
            if _no_memory(error):
                raise
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scales grey values of more than 8 bits, which Pillow alone would clip to white."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)  # (height, width)
    # 16 bits have a fixed white; 32-bit and float files have none, so use their brightest value.
    low, high = (0, 65535) if image.mode.startswith("I;16") else (grey.min(), grey.max())
    scaled = (grey - low) * (255 / max(high - low, 1e-9))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def clean_question(text, special_tokens: Iterable[str] = ()) -> tuple[str, list[str]]:
    """Returns the question on one line, and notes about the pieces that `literal` breaks.

    Emoji and right-to-left text stay unchanged.

    Raises:
        Refused: one sentence.
    """
    if text is None:
        raise Refused("No question was given; type one first.")
    if not isinstance(text, str):
        raise Refused(f"A question must be text, not {_shown(text)}.")
    # Controls, lone surrogates (which no tokenizer can encode) and line ends become blanks.
    unwanted = {"Cc", "Cs", "Zl", "Zp"}
    plain = "".join(" " if unicodedata.category(c) in unwanted else c for c in text)
    plain = " ".join(plain.split())
    # Zero-width characters (Cf) join emoji but are invisible on their own.
    if all(unicodedata.category(c) in ("Cf", "Zs") for c in plain):
        raise Refused("The question is empty; type at least one word.")
    if len(plain) > MAX_QUESTION:
        raise Refused(
            f"The question has {len(plain):,} characters; 1 to {MAX_QUESTION:,} are allowed."
        )
    pieces = dict.fromkeys((*MARKERS, *ROLES, *_breakable(special_tokens)))
    found = [piece for piece in pieces if piece in plain]
    notes = [f"{_shown(piece)} in your question is read as plain text." for piece in found]
    if len(notes) > _MOST_NOTES:
        more = len(notes) - _MOST_NOTES
        notes[_MOST_NOTES:] = [f"{more} other marks in your question are read as plain text too."]
    return plain, notes


def _breakable(tokens: Iterable[str]) -> list[str]:
    """The tokens that a blank can break, without blanks around them."""
    return [token for token in dict.fromkeys(map(str.strip, tokens)) if len(token) > 1]


def literal(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Returns `text` with its special tokens broken by a blank, so that no tokenizer matches them.

    A token gets the blank after its first character ("< image>"), a role word before its colon
    ("USER :"). `MARKERS` and `ROLES` are always broken; tokens of one character are left alone.
    A person reads the same. No tokenizer can turn the result into a special token. Role words are
    ordinary text to every tokenizer, so breaking them is only a hint to the model.
    """
    tokens = _breakable((*MARKERS, *special_tokens))
    # Breaking one token can form another, so repeat until none is left.
    while found := [token for token in tokens if token in text]:
        for token in found:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return re.sub(rf"\b({'|'.join(role[:-1] for role in ROLES)}):", r"\1 :", text)


MOST_NAMED = 110  # characters of choices in a refusal; more would not be a sentence


def check_choice(name: str, value, allowed: Iterable):
    """Returns `value` if it is one of `allowed`; else ValueError."""
    allowed = list(allowed)
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        names = [str(choice) for choice in allowed]
        while len(choices := ", ".join(names)) > MOST_NAMED:
            names.pop()
        if more := len(allowed) - len(names):
            choices += f" and {more} more"
        raise Refused(f"{name} must be one of {choices}, not {_shown(value)}.")
    return value


def check_number(name: str, value, low: float, high: float, integer: bool = False):
    """Returns `value` as float, or int with `integer`, if low <= value <= high; else ValueError."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # NaN fails every comparison; infinity must be excluded too.
    in_range = is_number and low <= value <= high and abs(value) != math.inf
    if not in_range or (integer and value != int(value)):
        kind = "a whole number" if integer else "a number"
        raise Refused(f"{name} must be {kind} from {low} to {high}, not {_shown(value)}.")
    return int(value) if integer else float(value)


def set_whole(owner, name: str, low: float, high: float):
    """Checks a whole number of a frozen dataclass, and keeps 100.0 as 100; ValueError as above."""
    value = check_number(name, getattr(owner, name), low, high, integer=True)
    object.__setattr__(owner, name, value)


def _shown(value) -> str:
    """A short form of an input, for a sentence."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        value = "".join(c if c.isprintable() else " " for c in value[:41])
        return f"“{value[:39]}…”" if len(value) > 40 else f"“{value}”"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a huge number"
    if isinstance(value, Real):
        return str(value)[:40]
    return f"a value of type {type(value).__name__}"

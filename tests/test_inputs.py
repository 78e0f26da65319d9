"""Bad pictures, questions and numbers: one plain sentence refuses each; good ones are kept."""

import io
import math
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from visipruner import inputs
from visipruner.errors import Refused
from visipruner.inputs import (
    MARKERS,
    MAX_PIXELS,
    check_choice,
    check_number,
    clean_question,
    literal,
    open_picture,
)

# Pillow warns about damaged files and about huge ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

DAMAGED = "This picture is damaged or incomplete; save it again as JPEG or PNG."
UNREADABLE = "This picture cannot be read here; save it again as JPEG or PNG."
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def sentence(error: pytest.ExceptionInfo) -> str:
    """The refusal's text, after a check that a lay person can read it."""
    text = str(error.value)
    assert type(error.value) is Refused
    assert text.endswith(".")
    assert len(text) < 300
    assert ". " not in text
    assert "\n" not in text
    for jargon in ("Error", "Traceback", "Exception", "PIL", "<class", "0x", "errno"):
        assert jargon not in text
    # The library's own error must not follow as the cause.
    assert error.value.__cause__ is None
    return text


def refusal(source) -> str:
    with pytest.raises(ValueError) as error:
        open_picture(source)
    return sentence(error)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """Noise, so that a shortened file always loses data."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def png(width: int, height: int, depth: int, color: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file made by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    extra = b"".join(chunk(data[:4], data[4:]) for data in more)
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


# ---- pictures that are accepted -------------------------------------------------------------


@pytest.mark.parametrize("kind", inputs.FORMATS)
def test_every_listed_format_opens_from_path_text_and_bytes(tmp_path, kind):
    data = encoded(picture(), kind)
    path = tmp_path / "picture.any"
    path.write_bytes(data)
    results = [open_picture(source) for source in (path, str(path), data, bytearray(data))]
    path.unlink()  # the pictures must no longer need the file
    for result in results:
        assert type(result) is Image.Image
        assert (result.mode, result.size) == ("RGB", (40, 30))
        assert np.array_equal(result, results[0])
    if kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(results[0], picture())


def test_no_metadata_travels_on():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    result = open_picture(encoded(picture(), "JPEG", exif=exif, comment="at home"))
    assert result.info == {}
    assert not result.getexif()


def test_exif_rotation():
    marked = Image.new("RGB", (40, 20), "white")
    marked.paste(RED, (0, 0, 10, 10))  # top left as stored
    for orientation, corner in {1: (0, 0), 3: (39, 19), 6: (19, 0), 8: (0, 39)}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        result = open_picture(encoded(marked, "PNG", exif=exif))
        assert result.size == ((20, 40) if orientation in (6, 8) else (40, 20))
        assert pixel(result, *corner) == RED


def test_broken_exif_does_not_cost_the_picture():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\1" * 30)
    assert open_picture(data).size == (40, 30)


def test_cmyk_jpeg():
    result = open_picture(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert all(abs(a - b) < 8 for a, b in zip(pixel(result), RED, strict=True))


def test_palette_with_transparency_turns_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    result = open_picture(encoded(image, "PNG", transparency=0))
    assert (pixel(result, 0), pixel(result, 1)) == (WHITE, BLUE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_hidden_colour_under_alpha_turns_white(kind):
    image = Image.new("RGBA", (32, 16), (*BLUE, 0))
    image.paste((*BLUE, 255), (16, 0, 32, 16))
    result = open_picture(encoded(image, kind))
    assert min(pixel(result, 2, 8)) > 250
    assert pixel(result, 30, 8)[2] > 240 > 20 > pixel(result, 30, 8)[0]


def test_half_transparent_blends_with_white():
    assert pixel(open_picture(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))) == (127, 127, 127)
    assert pixel(open_picture(Image.new("LA", (2, 2), (0, 0)))) == WHITE


def test_animated_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(open_picture(data)) == RED
    turned = Image.open(io.BytesIO(data))
    turned.seek(1)
    assert pixel(open_picture(turned)) == BLUE  # an open picture's orientation is already chosen


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], dtype=np.uint16)
    for data in (encoded(Image.fromarray(values), kind) for kind in ("PNG", "TIFF")):
        assert [pixel(open_picture(data), x)[0] for x in range(4)] == [0, 100, 200, 255]
    dark = Image.fromarray(np.full((2, 2), 257 * 3, dtype=np.uint16))
    assert pixel(open_picture(encoded(dark, "PNG"))) == (3, 3, 3)  # not stretched to white


def test_16_bit_colour_is_scaled():
    rows = b"\0" + struct.pack(">6H", 65535, 257 * 100, 0, 0, 257 * 200, 65535)
    result = open_picture(png(2, 1, 16, 2, rows))
    assert [pixel(result, x) for x in (0, 1)] == [(255, 100, 0), (0, 200, 255)]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_grey_spans_its_own_range(dtype):
    values = np.array([[-1000, 0, 1000]], dtype=dtype)
    result = open_picture(encoded(Image.fromarray(values), "TIFF"))
    assert [pixel(result, x)[0] for x in range(3)] == [0, 128, 255]


def test_float_picture_with_nan_and_infinity():
    values = np.array([[math.nan, math.inf, -math.inf, 1.0, 0.0]], dtype=np.float32)
    assert pixel(open_picture(encoded(Image.fromarray(values), "TIFF")), 3) == WHITE


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_colour_layouts(mode):
    assert open_picture(picture(mode=mode)).mode == "RGB"


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3), (30, 40, 4)])
def test_arrays(shape):
    array = np.full(shape, 255, dtype=np.uint8)
    result = open_picture(array)
    array[:] = 0  # the picture is a copy
    assert result.size == (40, 30)
    assert pixel(result) == WHITE
    assert open_picture(array[::-1, ::2]).size == (20, 30)  # not contiguous


def test_an_open_picture_is_copied():
    original = picture()
    result = open_picture(original)
    result.putpixel((0, 0), RED)
    assert np.array_equal(original, picture())


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_extreme_shapes_survive_padding_and_resizing(size):
    result = open_picture(encoded(picture(*size), "PNG"))
    assert result.size == size
    square = ImageOps.pad(result, (max(size), max(size)))
    assert square.resize((336, 336)).size == (336, 336)


def test_longest_side_is_bounded_so_that_the_padded_square_is():
    result = open_picture(encoded(Image.new("L", (60_000, 2), 7), "PNG"))
    assert result.size == (inputs.MAX_SIDE, 1)
    assert pixel(result) == (7, 7, 7)
    assert max(result.size) ** 2 <= MAX_PIXELS


def swapped_profile() -> bytes:
    """sRGB, but with green and blue swapped in the file."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"gXYZ", b"tmp!").replace(b"bXYZ", b"gXYZ").replace(b"tmp!", b"bXYZ")


def grey_profile() -> bytes:
    """Linear grey: half of the light is a larger number in sRGB."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(8)  # no entries: a straight line
    head = struct.pack(">I4xI12s", 128 + 28 + 20 + 12, 0x02400000, b"mntrGRAYXYZ ")
    head += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + white[8:] + bytes(48)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 12)
    return head + tags + white + curve


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colours_are_those_of_the_profile(kind):
    image = Image.new("RGB", (16, 16), (40, 190, 60))
    result = open_picture(encoded(image, kind, icc_profile=swapped_profile()))
    assert all(abs(a - b) < 12 for a, b in zip(pixel(result), (40, 60, 190), strict=True))
    assert result.info == {}


def test_a_profile_leaves_transparency_as_it_is():
    image = Image.new("RGBA", (2, 1), (0, 255, 0, 0))
    image.putpixel((1, 0), (0, 255, 0, 255))
    result = open_picture(encoded(image, "PNG", icc_profile=swapped_profile()))
    assert (pixel(result, 0), pixel(result, 1)) == (WHITE, BLUE)
    palette = image.convert("RGB").convert("P")
    result = open_picture(encoded(palette, "PNG", icc_profile=swapped_profile()))
    assert pixel(result) == BLUE


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_has_profiles_too(mode):
    image = Image.new("LA", (2, 2), (128, 255)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.full((2, 2), 128 * 257, dtype=np.uint16))
    result = open_picture(encoded(image, "PNG", icc_profile=grey_profile()))
    assert pixel(result) == (188, 188, 188)


def test_a_profile_of_srgb_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(open_picture(encoded(picture(), "PNG", icc_profile=profile)), picture())


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:200], grey_profile()])
def test_an_unusable_profile_does_not_cost_the_picture(profile):
    result = open_picture(encoded(picture(), "PNG", icc_profile=profile))
    assert np.array_equal(result, picture())


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_colours_of_print_in_tiff(mode, compression):
    red = Image.new("RGB", (16, 16), (220, 30, 40))
    if mode == "LAB":
        srgb = ImageCms.createProfile("sRGB")
        lab = ImageCms.createProfile("LAB")
        stored = ImageCms.profileToProfile(red, srgb, lab, outputMode="LAB")
    else:
        stored = red.convert(mode)
    # A profile of another colour space than the file's is ignored.
    for more in ({}, {"icc_profile": swapped_profile()}):
        data = encoded(stored, "TIFF", compression=compression, **more)
        result = pixel(open_picture(data))
        assert all(abs(a - b) < 4 for a, b in zip(result, (220, 30, 40), strict=True))


# ---- pictures that are refused --------------------------------------------------------------


def test_nothing_given():
    for source in (None, "", "  "):
        assert refusal(source) == "No picture was given; choose a picture first."


def test_wrong_types():
    for source in ({"path": "x"}, 3, 2.5, object(), open_picture, True):
        assert refusal(source).startswith("A picture must be a file, not ")


def test_several_pictures_are_refused_by_number():
    for source in ([], [picture(8, 8)] * 2, ("a.png", "b.png")):
        assert refusal(source).startswith(f"One question takes one picture here, not {len(source)}")


def test_missing_file_and_folder(tmp_path):
    expected = "There is no picture file “gone.png”; check its name and folder."
    assert refusal(tmp_path / "gone.png") == expected
    assert refusal(tmp_path).endswith("is a folder; choose a picture file in it.")
    for name in ("nul\0byte.png", "/dev/zero", "two\nlines", "https://a.example/b"):
        assert refusal(name).startswith("There is no picture file “")
    assert refusal("x" * 5000 + ".png") == "This file cannot be opened; check its name and rights."


def test_empty_file(tmp_path):
    (tmp_path / "empty.png").touch()
    for source in (tmp_path / "empty.png", b""):
        assert refusal(source) == "This picture file is empty; choose another file."


@pytest.mark.parametrize("kind", inputs.FORMATS)
def test_truncated_file(kind):
    data = encoded(picture(200, 200), kind)
    assert refusal(data[: len(data) // 2]) == DAMAGED
    assert refusal(data[:12]) == DAMAGED


def test_a_whole_file_that_pillow_cannot_read_is_not_called_damaged():
    tiff = encoded(picture(mode="YCbCr"), "TIFF")
    assert refusal(tiff) == UNREADABLE
    assert refusal(tiff[:-400]) == DAMAGED
    twelve_bits = encoded(Image.new("L", (8, 8)), "TIFF").replace(
        struct.pack("<HHIHH", 258, 3, 1, 8, 0), struct.pack("<HHIHH", 258, 3, 1, 13, 0)
    )
    assert refusal(twelve_bits) == UNREADABLE
    bmp = bytearray(encoded(picture(), "BMP"))
    bmp[30:34] = struct.pack("<I", 5)  # a PNG inside, meant for printers
    assert refusal(bytes(bmp)) == UNREADABLE


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("out of memory error when reading image file")]
)
def test_a_lack_of_memory_is_said(error, monkeypatch):
    data = encoded(picture(), "PNG")

    def fail(*_, **__):
        raise error

    for name in ("Image.open", "ImageFile.ImageFile.load", "Image.Image.thumbnail"):
        with monkeypatch.context() as patch:
            patch.setattr(f"PIL.{name}", fail)
            assert refusal(data).startswith("There is not enough memory to open this picture; ")
    if isinstance(error, MemoryError):
        monkeypatch.setattr("PIL.Image.fromarray", fail)
        assert refusal(np.zeros((4, 4), np.uint8)).startswith("There is not enough memory")


def test_text_named_as_picture(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("dear diary")
    assert refusal(path) == (
        "This file is not a picture that can be read here; "
        "choose a JPEG, PNG, WEBP, GIF, BMP, TIFF or AVIF file."
    )


@pytest.mark.parametrize("kind", ["ICO", "PPM", "PCX", "TGA", "EPS", "JPEG2000"])
def test_formats_off_the_list_are_not_even_tried(kind):
    assert refusal(encoded(picture(64, 64), kind)).startswith("This file is not a picture that can")


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b'<?xml version="1.0"?>\n<SVG xmlns="x"></SVG>', "SVG drawings cannot be read here"),
        (b"%PDF-1.7\n", "PDF files cannot be read here"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC pictures cannot be read here; save it as"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC pictures cannot be read here; save it as"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isom", "Videos cannot be read here"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "Videos cannot be read here"),
        (b"RIFF\0\0\0\0AVI LIST", "Videos cannot be read here"),
    ],
    ids=["svg", "pdf", "heic", "heif", "mp4", "webm", "avi"],
)
def test_well_known_kinds_are_named(data, start):
    assert refusal(data).startswith(start)


def test_100_megapixels_in_a_few_kilobytes_are_refused_before_decoding(monkeypatch):
    side = 10_000
    data = png(side, side, 1, 0, bytes(side * (side // 8 + 1)))
    assert len(data) < 15_000

    def decoding(*_):
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoding)
    assert refusal(data) == (
        "This picture has 100,000,000 pixels (10000 x 10000); "
        "at most 25,000,000 are allowed, so make it smaller first."
    )


def test_sizes_around_the_limit():
    rows = bytes(5000 * (5000 // 8 + 1))
    assert open_picture(png(5000, 5000, 1, 0, rows)).size == (5000, 5000)
    assert "25,005,000 pixels (5001 x 5000)" in refusal(png(5001, 5000, 1, 0, b""))
    assert "25,000,001 pixels" in refusal(png(25_000_001, 1, 1, 0, b""))
    # Pillow's own limit comes first here, with its own exception.
    assert "more than 89,478,485 pixels; at most 25,0" in refusal(png(60_000, 60_000, 1, 0, b""))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_pillow_warning_turned_into_an_error_is_still_a_sentence():
    assert "at most 25,000,000" in refusal(png(10_000, 10_000, 1, 0, b""))


def test_large_pictures_that_are_already_open():
    assert "25,005,000 pixels" in refusal(Image.new("1", (5001, 5000)))
    assert "25,005,000 pixels" in refusal(np.broadcast_to(np.uint8(0), (5000, 5001, 3)))


def test_pictures_of_no_size():
    assert refusal(Image.new("RGB", (0, 5))).startswith("This picture is 0 x 5 pixels")
    assert refusal(np.zeros((5, 0, 3), np.uint8)).startswith("This picture is 0 x 5 pixels")
    assert refusal(png(0, 5, 8, 2, b"")) in (DAMAGED, refusal(Image.new("RGB", (0, 5))))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 3), np.float32),
        np.zeros((3, 4), bool),
        np.zeros((3, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 3, 4, 3), np.uint8),
        np.array("x"),
        np.zeros((1,) * 60, [("a long name of a field " * 20, np.uint8)]),
    ],
)
def test_arrays_that_are_no_picture(array):
    assert refusal(array).startswith("A picture array must be uint8 of shape")


def test_closed_picture():
    image = Image.open(io.BytesIO(encoded(picture(), "PNG")))
    image.close()
    assert refusal(image) == DAMAGED


@pytest.mark.parametrize("kind", inputs.FORMATS)
def test_any_damaged_byte_gives_a_picture_or_a_sentence(kind):
    data = encoded(picture(24, 24), kind)
    random = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data)
        for place in random.integers(0, len(data) if random.random() < 0.5 else 64, 3):
            broken[place] = random.integers(256)
        try:
            outcome = open_picture(bytes(broken)).mode
        except ValueError as error:
            outcome = str(error)
        assert outcome.startswith(("RGB", "This picture ", "This file is not a picture"))


# ---- questions ------------------------------------------------------------------------------


def question_refusal(text) -> str:
    with pytest.raises(ValueError) as error:
        clean_question(text)
    return sentence(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  What is\tthis?\r\n\r\nSay it. ", "What is this? Say it."),
        ("a\0b\x1b[31mc\x7fd\x85e\u2028f\u2029g", "a b [31mc d e f g"),
        ("lone \ud83d surrogate", "lone surrogate"),
        ("👩‍👩‍👧 and 🏳️‍🌈 kept", "👩‍👩‍👧 and 🏳️‍🌈 kept"),
        ("ما هذا؟\u200f", "ما هذا؟\u200f"),
        ("מה זה? \u2067abc\u2069", "מה זה? \u2067abc\u2069"),
        ("这是什么？", "这是什么？"),
        ("{x} %s $y \\n <b>&amp;", "{x} %s $y \\n <b>&amp;"),
    ],
)
def test_questions_are_kept_but_for_controls(text, expected):
    assert clean_question(text) == (expected, [])
    expected.encode()  # every tokenizer can encode it


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t\r", "\0\x01", "\u200b\u200b", "\u3000\xa0", "\ufeff"]
)
def test_empty_questions(text):
    assert question_refusal(text) == "The question is empty; type at least one word."


def test_questions_that_are_no_text():
    assert question_refusal(None) == "No question was given; type one first."
    for text in (3, 2.5, True, ["what"], {"text": "what"}, b"what"):
        assert question_refusal(text).startswith("A question must be text, not ")


def test_question_length():
    assert len(clean_question("x" * 1000 + "\n\n")[0]) == 1000
    expected = "The question has 1,001 characters; 1 to 1,000 are allowed."
    assert question_refusal("x" * 1001) == expected


def test_markers_are_kept_and_noted():
    text = "Is <image> USER: one </s> or two?"
    plain, notes = clean_question(text)
    assert plain == text
    assert notes == [
        "“<image>” in your question is read as plain text.",
        "“</s>” in your question is read as plain text.",
        "“USER:” in your question is read as plain text.",
    ]


def test_marks_of_the_tokenizer_are_noted():
    marks = [f"<|turn {number}|>" for number in range(9)]
    notes = clean_question("a <|turn 3|> and b?", marks)[1]
    assert notes == ["“<|turn 3|>” in your question is read as plain text."]
    notes = clean_question("".join(marks), [*marks, marks[0], " ", "a"])[1]
    assert len(notes) == 7
    assert notes[-1] == "3 other marks in your question are read as plain text too."
    notes = clean_question("x" * 500, ["x" * 300])[1]
    assert len(notes) == 1 and len(notes[0]) < 100


def tokenizers() -> dict[str, Tokenizer]:
    """The two kinds in use: whole words, and pieces with a mark for the space (SentencePiece)."""
    words = Tokenizer(models.WordLevel({"?": 0, "image": 1, "<": 2, ">": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = Tokenizer(models.BPE({"?": 0, "▁": 1, "<": 2, "s": 3, ">": 4}, [], unk_token="?"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    for tokenizer in (words, pieces):
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in MARKERS])
        tokenizer.add_special_tokens(["<|im_end|>", "[INST]"])
    return {"words": words, "pieces": pieces}


HOSTILE = [
    *MARKERS,
    "<image><image></s>",
    "x<s>y",
    "<<s>s>",
    "<<image>image>",
    "< <s> >",
    "</s<s>>",
    "<|im_end|>[INST][INST]",
    "<|im_<s>end|>",
]


@pytest.mark.parametrize("name", ["words", "pieces"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_tokenizer_finds_a_special_token_in_literal_text(name, text):
    tokenizer = tokenizers()[name]
    special = {*MARKERS, "<|im_end|>", "[INST]"}
    ids = {tokenizer.token_to_id(token) for token in special}
    assert ids & set(tokenizer.encode(text).ids)  # otherwise this test shows nothing
    safe = literal(text, special)
    assert not ids & set(tokenizer.encode(safe).ids)
    assert not any(token in safe for token in special)
    assert safe.replace(" ", "") == text.replace(" ", "")  # the same to a reader
    assert literal(safe, special) == safe


def test_literal_roles_and_plain_text():
    assert literal("no USER: ASSISTANT: yes") == "no USER : ASSISTANT : yes"
    assert literal("the user: 5 < 6 > 4, SUPERUSER:") == "the user: 5 < 6 > 4, SUPERUSER:"
    assert literal("a  b ▁ <image>", ["  ", "▁", " ", ""]) == "a  b ▁ < image>"


# ---- choices and numbers --------------------------------------------------------------------


def test_choice():
    assert check_choice("The method", "none", {"none": 1, "fastv": 2}) == "none"
    assert check_choice("The layer", 2, range(3)) == 2
    for value in ("None", None, 0, [], {}, math.nan, np.zeros(3), "x" * 100, "a\nb"):
        with pytest.raises(ValueError) as error:
            check_choice("The method", value, ["none", "fastv"])
        assert sentence(error).startswith("The method must be one of none, fastv, not ")
    with pytest.raises(ValueError, match="must be one of 0, 1, not True"):
        check_choice("The layer", True, [0, 1])


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int64(1), Fraction(1, 2)])
def test_number(value):
    result = check_number("The share", value, 0, 1)
    assert type(result) is float
    assert result == value


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float64(3)])
def test_whole_number(value):
    result = check_number("The layer", value, 0, 31, integer=True)
    assert type(result) is int
    assert result == 3


WRONG = [math.nan, math.inf, -math.inf, True, False, None, "1", b"1", [], {}, 1j, -1, 33, 10**400]


@pytest.mark.parametrize("value", [*WRONG, np.float32("nan"), np.bool_(True), np.array([1, 2])])
@pytest.mark.parametrize("integer", [False, True])
def test_numbers_that_are_refused(value, integer):
    with pytest.raises(ValueError) as error:
        check_number("The layer", value, 1, 32, integer=integer)
    kind = "a whole number" if integer else "a number"
    assert sentence(error).startswith(f"The layer must be {kind} from 1 to 32, not ")


def test_long_values_are_cut():
    for value in (Fraction(1, 3**400), "y" * 900, -(10**400)):
        with pytest.raises(ValueError) as error:
            check_number("The layer", value, 2, 3)
        assert len(sentence(error)) < 110


def test_the_value_is_shown():
    with pytest.raises(ValueError, match=r"^The layer must be a whole .* to 32, not 2\.5\.$"):
        check_number("The layer", 2.5, 1, 32, integer=True)

"""Stricter parts of gradio: which values come in, and what an error may say."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import re
import traceback

import gradio as gr
from gradio.data_classes import FileData, ImageData
from gradio_client.utils import is_file_obj, is_http_url_like, traverse

from visipruner.errors import Refused
from visipruner.ui import kinds, text
from visipruner.ui.uploads import is_full

log = logging.getLogger("visipruner")

MOST_LETTERS = 200  # of a sentence to a visitor

# Settings of events. Only one endpoint is public. One run at a time uses the model.
PRIVATE = {"api_visibility": "private"}
MODEL_TURN = {**PRIVATE, "concurrency_limit": 1, "concurrency_id": "model"}
SMALL = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}
# A full queue must not refuse these events: opening a page, and what follows a run. Outside the
# queue a failure becomes an HTTP error and a gr.Warning is lost, so these events must not fail.
UNQUEUED = {**PRIVATE, "show_progress": "hidden", "queue": False}


def sorry(sentence: str) -> gr.Error:
    """An error that a visitor reads and that is not logged."""
    return gr.Error(as_written(sentence), duration=12, print_exception=False)


def as_written(sentence: str) -> str:
    """A sentence whose tags and entities gradio's pop-up shows as they were typed.

    Gradio draws the pop-up as HTML, and gives a program the same words. So an invisible letter
    (U+2060) breaks the tag: an escaped one would be wrong in the program.
    """
    return re.sub("[<&](?=[^ \u2060])", "\\g<0>\u2060", sentence)


def plainly(function):
    """Every failure of an event ends in one sentence; only an unexpected error is logged."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def streamed(*args, **kwargs):
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise _translated(error) from None

        return streamed

    @functools.wraps(function)
    def called(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _translated(error) from None

    return called


def _translated(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, Refused):
        return sorry((str(error).splitlines() or [text.BROKEN])[0])
    log.error("%s", without_words(error))
    return sorry(text.BROKEN)


def without_words(error: BaseException) -> str:
    """A traceback without messages, because a message may quote a visitor's words."""
    chain = []
    while error and error not in chain:
        chain.insert(0, error)
        error = error.__cause__ or error.__context__
    return "\n".join(
        f"unforeseen {type(one).__name__}, most recent call last\n"
        + "".join(traceback.format_tb(one.__traceback__)).rstrip()
        for one in chain
    )


# Gradio writes a .pyi file beside every module that subclasses its components. Instance methods
# are replaced instead.


def picture_input(**settings) -> gr.Image:
    """An upload that keeps its original file; `inputs.open_picture` decides what it is."""

    def preprocess(payload: ImageData | None) -> str | None:
        if not payload or not payload.path:
            return None
        with contextlib.suppress(OSError):
            os.utime(payload.path)  # gradio deletes files by the time of their last use
        return payload.path

    component = gr.Image(type="filepath", **settings)
    component.preprocess = preprocess
    return component


def file_input(**settings) -> gr.UploadButton:
    """A button that uploads one file and gives its path; gradio's own leaves an empty copy."""

    def preprocess(payload: FileData | None) -> str | None:
        if not payload or not payload.path:
            raise Refused(text.NO_FILE)
        with contextlib.suppress(OSError):
            os.utime(payload.path)
        return payload.path

    component = gr.UploadButton(type="filepath", **settings)
    component.preprocess = preprocess
    return component


def browser_value() -> gr.HTML:
    """A hidden value that the browser holds and sends with each event: never trusted.

    Not gr.State: the server keeps that for only a few sessions, and drops the others silently.
    """
    return gr.HTML(None, visible="hidden", html_template="<i></i>")  # gr.JSON accepts objects only


def guarded(page: gr.Blocks) -> gr.Blocks:
    """The page, which now answers malformed requests with a sentence and never fetches an address.

    It also reports a full disk, because gradio writes the pictures it shows to disk.
    """
    page.preprocess_data = _reading(page.preprocess_data)
    page.postprocess_data = _writing(page.postprocess_data)
    process = page.process_api

    async def process_api(*args, event_data=None, **kwargs):
        # Gradio searches event data for files too, and logs a traceback when it finds one.
        if event_data is not None:
            traverse(event_data._data, _refuse_file, is_file_obj)
        return await process(*args, event_data=event_data, **kwargs)

    page.process_api = process_api
    return page


def _reading(preprocess):
    async def preprocess_data(block_fn, inputs, state, explicit_call=False):
        try:
            _refuse_addresses(inputs)
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                kinds.check(_of_session(block, state), value)
            return await preprocess(block_fn, inputs, state, explicit_call)
        except Refused as error:
            raise sorry(str(error)) from None
        except gr.Error as error:
            raise sorry(_short(error)) from None
        except Exception as error:
            raise sorry(text.BAD_REQUEST.format(what=_what(error))) from None

    return preprocess_data


def _writing(postprocess):
    async def postprocess_data(*given, **named):
        try:
            return await postprocess(*given, **named)
        except Exception as error:
            if is_full(error) or is_full(error.__cause__):  # gradio wraps it in its own error
                raise sorry(text.DISK_FULL) from None
            raise _translated(error) from None

    return postprocess_data


def says_when_full(page: gr.Blocks) -> gr.Blocks:
    """The page, whose full queue refuses a call in plain words."""
    push = page._queue.push

    async def push_plainly(*given, **named):
        taken, said, state = await push(*given, **named)
        if state == "queue_full":
            said = text.QUEUE_FULL.format(waiting=page._queue.max_size)
        return taken, said, state

    page._queue.push = push_plainly
    return page


def _of_session(block, state):
    """The component as this session sees it. Gradio makes a new one for every update, and the new
    one lacks what `picture_input` set."""
    if state is None or block.stateful or block._id not in state:
        return block
    seen = state[block._id]
    if "preprocess" in vars(block):
        seen.preprocess = block.preprocess
    return seen


def _short(error: gr.Error) -> str:
    """The text of an error, if it is a sentence."""
    lines = str(error.message or "").splitlines()
    if lines and len(lines[0]) <= MOST_LETTERS:
        return lines[0]
    return text.BAD_REQUEST.format(what=text.WRONG_KIND)


def _what(error: Exception) -> str:
    if "receive enough input values" in str(error):
        return text.TOO_FEW
    if "path" in str(error).lower() or "upload" in str(error).lower():
        return text.NOT_UPLOADED
    return text.WRONG_KIND


def _refuse_file(_):
    raise sorry(text.BAD_REQUEST.format(what=text.NOT_UPLOADED))


def _refuse_addresses(inputs):
    """Refuse an http address in place of an uploaded file: gradio would fetch it."""

    def refuse(path):
        raise sorry(text.NO_ADDRESS)

    traverse(
        inputs,
        refuse,
        lambda value: (
            isinstance(value, dict)
            and isinstance(value.get("path"), str)
            and is_http_url_like(value["path"])
        ),
    )

"""What the server keeps of its visitors is bounded, and the page says what has expired."""

from __future__ import annotations

import ctypes
import os
import threading

import page_server
import pytest
from visitors import QUESTION, Visitor, picture_of, visit

from visipruner import inputs
from visipruner.errors import Refused
from visipruner.ui import controls, keeping, text
from visipruner.ui.keeping import Kept, tidy_files


@pytest.fixture(scope="module")
def page(mini_path):
    return page_server.page(mini_path)


def refusal(kept: Kept, key) -> str:
    with pytest.raises(Refused) as caught:
        kept.find(key)
    return str(caught.value)


def test_the_oldest_results_go_first_and_say_so():
    kept = Kept(most=3)
    keys = [kept.put(number) for number in range(3)]
    assert kept.find(keys[0]) == 0  # just used, so the second one is now the oldest
    keys.append(kept.put(3))
    assert [kept.find(keys[number]) for number in (0, 2, 3)] == [0, 2, 3]
    assert refusal(kept, keys[1]) == text.NO_LONGER_KEPT
    assert refusal(kept, None) == text.NO_RESULT
    assert refusal(kept, ["magic"]) == text.NO_LONGER_KEPT
    kept.drop(keys[3])
    assert refusal(kept, keys[3]) == text.NO_LONGER_KEPT


def test_no_result_is_kept_longer_than_its_time():
    kept = Kept(longest=0)
    assert refusal(kept, kept.put("a result")) == text.NO_LONGER_KEPT


def test_the_newest_pictures_stay(tmp_path):
    names = [str(tmp_path / f"{number}.png") for number in range(5)]
    for number, name in enumerate(names):
        with open(name, "wb") as file:
            file.write(bytes(1000))
        os.utime(name, (number, number))
    written, uploaded = set(names[:3]), {*names[2:], str(tmp_path / "gone.png")}
    tidy_files([written, uploaded], most=2500)
    assert [os.path.exists(name) for name in names] == [False] * 3 + [True] * 2
    assert written == set()
    assert set(names[3:]) <= uploaded
    assert names[2] not in uploaded


def test_a_page_keeps_as_many_visitors_as_it_may(page, monkeypatch):
    held = page.app.state_holder
    assert held.capacity == keeping.MOST_SESSIONS
    assert "keeping" in [thread.name for thread in threading.enumerate()]  # tidies old files too
    monkeypatch.setattr(held, "capacity", 3)
    monkeypatch.setattr(page.kept, "_most", 3)
    config = page.get_config_file()
    visitors = [visit(page.local_url, config, number) for number in range(5)]
    assert len(held.session_data) <= 3
    assert len(page.kept._results) == 3
    save = visitors[0].event("on_save", 1)
    assert visitors[4].send(save, [visitors[4].key])["success"]
    assert visitors[0].send(save, [visitors[0].key])["output"]["error"] == text.NO_LONGER_KEPT
    # The same visitor runs again: the server keeps at most one result of each.
    older, own = visitors[4].key, {"Question": QUESTION, "Longest answer (tokens)": 1}
    assert visitors[4].run(own, scene=3)["success"]
    assert refusal(page.kept, older) == text.NO_LONGER_KEPT
    # The page sent its scene's number, so the server need not remember it.
    assert page.kept.find(visitors[4].key).job.scene == 3
    assert not {visitor.asked for visitor in visitors} & set(page.forms._results)  # removed


def test_a_run_reads_its_form_and_its_picture_once(page, monkeypatch):
    seen = []

    def noting(owner, name):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: seen.append(name) or real(*given))

    visitor = Visitor(page.local_url)
    picture = visitor.upload(picture_of(77))
    own = {"Picture": picture, "Question": "what?", "Longest answer (tokens)": 1}
    noting(controls, "form_of")
    noting(inputs, "_decode")
    assert visitor.run(own)["success"]
    assert sorted(seen) == ["_decode", "form_of"]
    # The form was used: its key runs nothing more, nor does an unknown key.
    for key in (visitor.asked, "magic"):
        answer = visitor.send(visitor.event("on_run"), [visitor.key, key])
        assert answer["output"]["error"] == text.FORM_GONE
    assert page.kept.find(visitor.key).job.form.question == "what?"  # nor removes a result


def test_a_form_whose_visitor_left_goes_when_newer_ones_come(monkeypatch):
    monkeypatch.setattr(keeping, "MOST_WAITING", 2)
    forms = keeping.forms()
    keys = [forms.put(number) for number in range(5)]
    assert refusal(forms, keys[0]) == text.FORM_GONE
    assert forms.take(keys[1]) == 1 and refusal(forms, keys[1]) == text.FORM_GONE


def test_a_picture_is_ours_to_check_after_an_update_as_well(page):
    """Gradio makes a new component for every update, even an update that skips it."""
    visitor = Visitor(page.local_url)
    assert visitor.send(visitor.event("on_seed"), [-1, "", None])["success"]  # leaves the picture
    broken = visitor.upload(b"no picture at all")
    answer = visitor.send(visitor.event("on_upload"), [broken])
    assert answer["success"]
    assert answer["output"]["data"][0] is None


def heaps(path) -> int:
    """The number of heaps that glibc has made in this process."""
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(library.fopen(str(path).encode(), b"w"))
    library.malloc_info(0, stream)
    library.fclose(stream)
    return path.read_text().count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc only")
def test_threads_that_answer_make_no_heaps_of_their_own(page, tmp_path):
    before = heaps(tmp_path / "before.xml")
    meet = threading.Barrier(16)
    threads = [threading.Thread(target=lambda: [meet.wait(), bytearray(5000)]) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heaps(tmp_path / "after.xml") == before

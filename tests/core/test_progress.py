import io
import os
import sys
import threading

import pytest

from kbit.core.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))


def test_a_terminal_gets_one_line_redrawn_in_place(clock):
    stream = Terminal()
    with Progress(4, "tensors", "quantize", stream=stream, clock=clock) as progress:
        for name in ("embedding", "up"):
            clock.now += 2
            progress.advance(note=name)
        clock.now += 4
        progress.advance(2)
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert [line.rstrip() for line in shown.rstrip("\n").split("\r")[1:]] == [
        "quantize    0%  0/4 tensors",
        "quantize   25%  1/4 tensors  0.5/s  0:06 left  embedding",
        "quantize   50%  2/4 tensors  0.5/s  0:04 left  up",
        "quantize  100%  4/4 tensors  0.5/s  in 0:08",
        "quantize  100%  4/4 tensors  0.5/s  in 0:08",
    ]


def test_a_shorter_line_covers_the_longer_one_before(clock):
    stream = Terminal()
    with Progress(None, "rows", "x", stream=stream, clock=clock) as progress:
        for note in ("a long note", ""):
            clock.now += 1
            progress.advance(note=note)
    before, after = stream.getvalue().split("\r")[2:4]
    assert len(after) >= len(before)


def test_a_terminal_is_redrawn_ten_times_a_second_at_most(clock):
    stream = Terminal()
    with Progress(1000, "rows", "x", stream=stream, clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.01
            progress.advance()
    assert 95 <= stream.getvalue().count("\r") <= 102


def test_a_line_is_cut_to_the_width_of_the_terminal(clock):
    stream = Terminal()
    with Progress(2, "rows", "x", stream=stream, clock=clock) as progress:
        clock.now += 1
        progress.advance(note="n" * 500)
    assert max(map(len, stream.getvalue().rstrip("\n").split("\r"))) == 79


def test_a_log_gets_a_plain_line_every_five_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    with Progress(60, "rows", "eval", stream=stream, clock=clock) as progress:
        for _ in range(12):
            clock.now += 1
            progress.advance(5)
    assert stream.getvalue().splitlines() == [
        "eval   42%  25/60 rows  5/s  0:07 left",
        "eval   83%  50/60 rows  5/s  0:02 left",
        "eval  100%  60/60 rows  5/s  in 0:12",
    ]
    assert "\r" not in stream.getvalue()


def test_bytes_are_shown_in_units_of_1000(clock):
    progress = Progress(3_200_000_000, "B", "read", stream=io.StringIO(), clock=clock)
    clock.now += 2
    progress.advance(1_500_000)
    assert progress.line() == "read    0%  1.5 MB of 3.2 GB  750 kB/s  1:11:05 left"
    assert Progress(None, "B", "read", stream=io.StringIO(), clock=clock).line() == "read  0 B"
    progress.advance(998_500_000 - 400_000)
    assert "1 GB of 3.2 GB" in progress.line()  # 999.6 MB is not written as 1e+03


def test_without_a_total_there_is_no_share_and_no_time_left(clock):
    progress = Progress(None, "lines", "scan", stream=io.StringIO(), clock=clock)
    clock.now += 10
    progress.advance(25_000)
    assert progress.line() == "scan  25000 lines  2500/s"


@pytest.mark.parametrize("total", [0, 3])
def test_nothing_to_do_and_no_time_gone_divide_by_nothing(clock, total):
    assert Progress(total, "rows", "x", stream=io.StringIO(), clock=clock).line() == (
        "x  0/0 rows  in 0:00" if total == 0 else "x    0%  0/3 rows"
    )


def test_a_clock_that_goes_back_does_no_harm(clock):
    stream = io.StringIO()
    with Progress(3, "rows", "x", stream=stream, clock=clock) as progress:
        clock.now -= 1000
        progress.advance()
    assert stream.getvalue() == "x   33%  1/3 rows\n"


def test_disabled_is_silent(clock):
    stream = Terminal()
    with Progress(3, "rows", "x", stream=stream, enabled=False, clock=clock) as progress:
        clock.now += 10
        progress.advance()
    assert (stream.getvalue(), progress.done) == ("", 1)


def test_the_line_goes_to_stderr_never_to_stdout(capsys, clock):
    with Progress(1, "rows", "x", clock=clock) as progress:
        progress.advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "x  100%  1/1 rows  in 0:00\n")


def test_no_stderr_is_silence(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(1, "rows", "x") as progress:
        progress.advance()
    assert progress.done == 1


def test_a_stream_that_fails_does_not_stop_the_work(clock):
    class Broken(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            raise BrokenPipeError

    closed, ascii_only = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    closed.close()
    broken = Broken()
    for stream in (broken, closed, ascii_only):
        with Progress(3, "rows", "ä", stream=stream, clock=clock) as progress:
            for _ in range(3):
                clock.now += 10
                progress.advance()
        assert progress.done == 3
    assert broken.writes == 1


def test_an_error_in_the_work_passes_and_is_said(clock):
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), Progress(3, "rows", "x", stream=stream, clock=clock):
        raise ZeroDivisionError
    assert stream.getvalue() == "x    0%  0/3 rows  stopped\n"


def test_control_characters_of_a_name_do_not_reach_the_terminal(clock):
    stream = Terminal()
    with Progress(3, "rows", "x", stream=stream, clock=clock) as progress:
        clock.now += 1
        progress.advance(note="layer\x1b[2J\r\n0")
    assert "layer?[2J??0" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_threads_may_advance_together():
    with Progress(40_000, "rows", "x", stream=io.StringIO()) as progress:
        threads = [threading.Thread(target=lambda: [progress.advance() for _ in range(10_000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert progress.done == 40_000


def test_what_an_earlier_run_did_is_no_part_of_the_rate(clock):
    progress = Progress(100, "steps", "train", stream=Terminal(), clock=clock)
    progress.begin_at(50)
    clock.now += 10
    progress.advance(10)
    assert progress.line() == "train   60%  60/100 steps  1/s  0:40 left"

import signal
import threading

import pytest

from dnabert2_jax.training.signals import Stopped, StopRequests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequests() as requests:
        assert not requests.after(1)
        signal.raise_signal(number)
        assert requests.after(2)
        signal.raise_signal(signal.SIGTERM)  # once more changes nothing
        assert requests.after(3)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests in the background
    with StopRequests() as requests:
        signal.raise_signal(signal.SIGINT)
        assert requests.after(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone():
    answers = []

    def run():
        with StopRequests() as requests:
            answers.append(requests.after(1))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stopped_run_ends_its_process_with_0():
    with pytest.raises(SystemExit) as stopped:
        raise Stopped(17)
    assert (stopped.value.code, stopped.value.step) == (0, 17)

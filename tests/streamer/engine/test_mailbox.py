import asyncio
import threading

from streamer.engine import mailbox
from streamer.engine.mailbox import Mailbox


def test_items_of_several_threads_arrive_on_the_loop_each_threads_in_order():
    async def gather():
        loop_thread = threading.get_ident()
        taken = []

        def take(item):
            assert threading.get_ident() == loop_thread
            taken.append(item)

        box = Mailbox(asyncio.get_running_loop(), take)

        def put(name):
            for number in range(3000):
                box.put((name, number))

        await asyncio.gather(*(asyncio.to_thread(put, name) for name in "ab"))
        box.close()
        return taken, box.lost

    taken, lost = asyncio.run(gather())
    for name in "ab":
        assert [number for who, number in taken if who == name] == list(range(3000))
    assert lost == 0


def test_when_the_loop_takes_nothing_for_too_long_the_oldest_goes_and_is_counted(monkeypatch):
    monkeypatch.setattr(mailbox, "LIMIT", 3)
    monkeypatch.setattr(mailbox, "PATIENCE_SECONDS", 0.01)

    async def overfill():
        taken = []
        box = Mailbox(asyncio.get_running_loop(), taken.append)
        thread = threading.Thread(target=lambda: [box.put(number) for number in range(5)])
        thread.start()
        thread.join()
        assert len(box) == 3
        box.deliver_all()
        return taken, box.lost

    assert asyncio.run(overfill()) == ([2, 3, 4], 2)


def test_a_closed_mailbox_delivers_what_waits_and_takes_no_more():
    async def close():
        taken = []
        box = Mailbox(asyncio.get_running_loop(), taken.append)
        await asyncio.to_thread(box.put, 1)
        box.close()
        await asyncio.to_thread(box.put, 2)
        return taken

    assert asyncio.run(close()) == [1]


def test_an_item_that_cannot_be_delivered_is_reported_and_takes_no_other_with_it():
    async def deliver():
        taken, reported = [], []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
        box = Mailbox(loop, lambda number: taken.append(10 / number))
        for number in (5, 0, 2):
            await asyncio.to_thread(box.put, number)
        box.close()
        return taken, reported

    assert asyncio.run(deliver()) == ([2, 5], ["could not deliver 0"])

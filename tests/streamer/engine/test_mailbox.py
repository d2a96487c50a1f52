import asyncio
import threading

from streamer.engine import mailbox
from streamer.engine.mailbox import Mailbox


def test_items_arrive_on_the_loop_in_the_order_of_their_thread():
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


def test_a_blocked_loop_loses_the_oldest_items_which_are_counted(monkeypatch):
    monkeypatch.setattr(mailbox, "CAPACITY", 3)
    monkeypatch.setattr(mailbox, "PUT_SECONDS", 0.01)

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


def test_a_closed_mailbox_has_delivered_its_items_and_takes_no_more():
    async def close():
        taken = []
        box = Mailbox(asyncio.get_running_loop(), taken.append)
        await asyncio.to_thread(box.put, 1)
        box.close()
        await asyncio.to_thread(box.put, 2)
        return taken

    assert asyncio.run(close()) == [1]


def test_a_failed_delivery_is_reported_and_loses_no_other_item():
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

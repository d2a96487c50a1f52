"""The encoding of a radio's titles, guessed from all of them together."""

from __future__ import annotations

import pytest

from streamer.sources.titles import TitleDecoder

CHINESE = ["王菲 - 红豆", "周杰伦 - 青花瓷", "邓丽君 - 月亮代表我的心", "Beyond - 海阔天空"]
TAIWANESE = ["王菲 - 紅豆", "周杰倫 - 青花瓷", "鄧麗君 - 月亮代表我的心", "張學友 - 吻別"]
JAPANESE = [
    "宇多田ヒカル - First Love",
    "スピッツ - ロビンソン",
    "中島みゆき - 糸",
    "坂本九 - 上を向いて",
]
KOREAN = ["아이유 - 밤편지", "방탄소년단 - 봄날", "김광석 - 서른 즈음에", "BTS - 피 땀 눈물"]


def last_read(titles: list[str], charset: str) -> str | None:
    """Return how the last title is read after those before it."""
    decoder = TitleDecoder()
    return [decoder.decode(title.encode(charset)) for title in titles][-1]


@pytest.mark.parametrize(
    ("titles", "charset"),
    [
        (CHINESE, "gbk"),
        (TAIWANESE, "big5"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "euc_kr"),
    ],
)
def test_titles_in_several_bytes_per_letter_are_guessed_together(
    titles: list[str], charset: str
) -> None:
    assert last_read(titles, charset) == titles[-1]


@pytest.mark.parametrize(
    ("titles", "charset"),
    [
        (["Кино - Группа крови", "ДДТ - Это всё", "АРИЯ - Штиль"], "cp1251"),
        (["Кино - Группа крови", "ДДТ - Это всё", "АРИЯ - Штиль"], "koi8-r"),
        (["Die Ärzte - Männer", "Motörhead™ ® © ½", "Björk - Jóga", "Röyksopp - Só"], "cp1252"),
        (["Žuža", "Kult - Polska młodzież", "Dvořák - Z Nového světa"], "iso8859-2"),
    ],
)
def test_titles_in_one_byte_per_letter_are_not_taken_for_others(
    titles: list[str], charset: str
) -> None:
    assert last_read(titles, charset) == titles[-1]


@pytest.mark.parametrize(
    ("declared", "charset", "title"),
    [("gb2312", "gbk", "張學友"), ("shift_jis", "cp932", "①髙橋"), ("big5", "big5hkscs", "唔該")],
)
def test_a_declared_encoding_is_read_as_browsers_do(
    declared: str, charset: str, title: str
) -> None:
    assert TitleDecoder().decode(title.encode(charset), declared) == title

"""Which clips there are: folders, lists, parts of files, shares of hosts."""

import pytest
from films import write_film

from scav_jax.features.checks import FeatureError
from scav_jax.features.listing import Item, cut, list_media, share
from scav_jax.features.media import Span


def test_a_folder_is_searched_with_its_subfolders(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.mp4", "sub/a.MKV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).touch()
    items = [Item("b", tmp_path / "b.mp4"), Item("a", tmp_path / "sub" / "a.MKV")]
    assert list_media(tmp_path) == items
    assert list_media(tmp_path, 4.0) == [Item(item.id, item.path, Span(0.0, 4.0)) for item in items]


def test_a_list_names_files_ids_and_parts(tmp_path):
    (tmp_path / "list.csv").write_text("file,id,start_s,length_s\nx/a.mp4,one,2.5,3\nx/a.mp4,two,,\n-b.mp4,,1,\n")
    path = tmp_path / "x" / "a.mp4"
    assert list_media(tmp_path / "list.csv") == [
        Item("one", path, Span(2.5, 3.0)),
        Item("two", path, Span()),
        Item("-b", tmp_path / "-b.mp4", Span(1.0)),
    ]
    assert [item.span for item in list_media(tmp_path / "list.csv", 2.0)] == [
        Span(2.5, 2.0),
        Span(0.0, 2.0),
        Span(1.0, 2.0),
    ]


def test_bad_lists_are_refused_line_by_line(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file,id,start_s\na.mp4,../up,0\nb.mp4,b,-1\nc.mp4,c,soon\nd.mp4,d\n")
    with pytest.raises(FeatureError) as refused:
        list_media(path)
    problems = str(refused.value).splitlines()
    assert len(problems) == 4
    for line, part in enumerate(("without slashes", "expected seconds", "expected seconds", "expected 3 cells"), 2):
        assert f"line {line}: " in problems[line - 2]
        assert part in problems[line - 2]
    for content, message in (("id\nx\n", "file needed"), ("file\n", "at least one clip")):
        path.write_text(content)
        with pytest.raises(FeatureError, match=message):
            list_media(path)
    path.write_text("file\nx/a.mp4\ny/a.mp4\n")
    with pytest.raises(ValueError, match="one clip an id"):
        list_media(path)
    with pytest.raises(ValueError, match=r"expected a folder, or a list in a \.csv"):
        list_media(tmp_path / "none")
    with pytest.raises(ValueError, match="found none"):
        list_media(tmp_path)


def test_files_are_cut_into_whole_parts(tmp_path):
    for name, length_s in (("long", 5.0), ("exact", 4.0), ("short", 1.5)):
        write_film(tmp_path / f"{name}.mp4", length_s=length_s)
    (tmp_path / "torn.mp4").write_text("no film")
    parts, bad = cut(list_media(tmp_path), 2.0)
    assert [(part.id, part.span) for part in parts] == [
        ("exact_000000", Span(0.0, 2.0)),
        ("exact_000002", Span(2.0, 2.0)),
        ("long_000000", Span(0.0, 2.0)),
        ("long_000002", Span(2.0, 2.0)),
        ("short_000000", Span(0.0, 2.0)),
    ]
    assert set(bad) == {"torn"}
    assert bad["torn"].startswith("cannot be decoded")


def test_hosts_share_all_clips(tmp_path):
    items = [Item(str(number), tmp_path) for number in range(11)]
    shares = [share(items, host, 4) for host in range(4)]
    assert sorted(item.id for part in shares for item in part) == sorted(item.id for item in items)
    assert {len(part) for part in shares} == {2, 3}
    with pytest.raises(ValueError, match=r"slice: expected I/N with 0 <= I < N, got 4/4"):
        share(items, 4, 4)

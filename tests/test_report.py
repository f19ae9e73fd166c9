"""The report: rows, pooling, the terminal table, the page and the clip pictures, on made-up runs."""

import html.parser
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from scav_jax import report
from scav_jax.features import media
from scav_jax.film import clip_picture, columns, film_strip, movement, spectrogram
from scav_jax.plots import Curve, curves_svg
from scav_jax.results import load_run, method_label

EVIL = '"><img src=x onerror=alert(1)>'
SUBSETS = {
    "all": {"gallery_size": 600, "group_size": None, "chance_R@1": 100 / 600},
    "order": {"gallery_size": 60, "group_size": 6, "chance_R@1": 100 / 60},
}


def result(mode, subset, recall, *, distance="euclidean", direction="v2a", k=None):
    numbers = {"R@1": recall, "R@5": 60.0, "R@10": 70.0, "MedR": 3.0, "MRR": 0.5}
    keys = {"mode": mode, "distance": distance, "direction": direction, "subset": subset, "k": k}
    return keys | numbers | {"R@1_low": recall - 2, "R@1_high": recall + 3}


def write_run(path, *, method="scav", trained_with="euclidean", seed=0, recall=40.0, **parts):
    """A run folder; parts: protocol (merged into the default one), config, history, retrieved."""
    (path / "eval").mkdir(parents=True)
    protocol = {"dataset": "made up", "split": "test", "gallery_size": 600, "ids_sha256": "ab" * 32, "subsets": SUBSETS}
    protocol |= {"method": method, "trained_with": trained_with, "seed": seed, "tie_rule": "against us"}
    results = [
        result(mode, subset, share * recall, distance=distance)
        for subset, part in (("all", 0.5), ("order", 1.0))
        for mode, distance, share in (("aggregate", "cosine", 0.5 * part), ("sequence", "euclidean", part))
    ]
    metrics = {"protocol": protocol | parts.get("protocol", {}), "results": results}
    (path / "eval" / "metrics.json").write_text(json.dumps(metrics))
    if "config" in parts:
        (path / "config.json").write_text(json.dumps(parts["config"]))
    if "history" in parts:
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in parts["history"]))
    if "retrieved" in parts:
        (path / "eval" / "retrieved.json").write_text(json.dumps(parts["retrieved"]))
    return path


HISTORY = [{"step": step, "loss": 3.0 - step / 10} for step in range(10)] + [{"step": 9, "eval_v2a_R@1": 12.0}]


def two_runs(folder, **parts):
    cav = write_run(folder / "a", method="cav", trained_with="cosine", recall=20.0, **parts)
    return [cav, write_run(folder / "b", recall=40.0, **parts)]


@pytest.fixture
def clip(tmp_path):
    """Two seconds, dark and silent but for a white bar on the right and a tone from 1.0 s to 1.2 s."""
    frames = np.zeros((50, 48, 64, 3), np.uint8)
    frames[25:30, :, 48:] = 255
    seconds = np.arange(32_000) / 16_000
    sound = np.where((seconds >= 1.0) & (seconds < 1.2), 0.5 * np.sin(2 * np.pi * 880 * seconds), 0.0)
    path = tmp_path / "media" / "clip-1.mp4"
    path.parent.mkdir()
    media.write_clip(path, frames, sound.astype(np.float32), frame_rate_hz=25, sound_rate_hz=16_000)
    return path


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, what they load, its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.loads, self.handlers, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def page_of(runs, folder, **options):
    report.write_report(runs, folder / "report.html", **options)
    return Page((folder / "report.html").read_text())


def test_summary_rows_carry_what_a_number_needs(tmp_path):
    rows = report.summary_rows(two_runs(tmp_path))
    assert len(rows) == 8
    assert rows[3] == result("sequence", "order", 20.0) | {
        "method": "cav", "trained_with": "cosine", "seed": 0, "run": "a", "ids_sha256": "ab" * 32,
        "gallery_size": 60, "group_size": 6, "chance_R@1": 100 / 60,
    }  # fmt: skip


def test_pool_seeds_takes_means_and_the_given_interval(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, recall=recall) for seed, recall in ((3, 30.0), (5, 50.0))]
    key = ("scav", "euclidean", "sequence", "euclidean", "v2a", "order", None)
    pooled = {
        (row["mode"], row["subset"]): row
        for row in report.pool_seeds(report.summary_rows(runs), {key: (33.0, 44.0)})
    }  # fmt: skip
    assert len(pooled) == 4
    given = pooled["sequence", "order"]
    assert (given["R@1"], given["R@1_low"], given["R@1_high"], given["seed"]) == (40.0, 33.0, 44.0, [3, 5])
    assert pooled["aggregate", "order"]["R@1"] == 20.0
    assert pooled["aggregate", "order"]["R@1_low"] is None  # intervals of single runs do not average


def test_pool_seeds_keeps_a_single_seed_and_refuses_one_seed_twice(tmp_path):
    runs = two_runs(tmp_path)
    rows = report.summary_rows(runs)
    assert report.pool_seeds(rows, {})[0]["R@1_low"] == rows[0]["R@1_low"]
    again = write_run(tmp_path / "again")
    with pytest.raises(ValueError, match=r"seed: expected one run a seed .*SCAV Euclidean.*\[0, 0\] in runs b, again"):
        report.pool_seeds(report.summary_rows([*runs, again]), {})


def test_terminal_table_exactly(tmp_path):
    assert report.terminal_table(report.summary_rows(two_runs(tmp_path))) == "\n".join(
        [
            "v2a, visual to audio: R@1 in percent [95 % interval]",
            "                                      all               order",
            "                                      gallery 600       gallery 60",
            "                                      no groups         groups of 6",
            "                                      chance 0.17       chance 1.67",
            "--------------  --------------------  ----------------  ----------------",
            "CAV             aggregate             5.0 [3.0-8.0]     10.0 [8.0-13.0]",
            "CAV             sequence (Euclidean)  10.0 [8.0-13.0]   20.0 [18.0-23.0]",
            "SCAV Euclidean  aggregate             10.0 [8.0-13.0]   20.0 [18.0-23.0]",
            "SCAV Euclidean  sequence              20.0 [18.0-23.0]  40.0 [38.0-43.0]",
        ]
    )


def test_terminal_table_tells_runs_of_one_method_apart(tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1)]
    table = report.terminal_table(report.summary_rows(runs))
    assert "SCAV Euclidean (seed0)" in table
    assert "SCAV Euclidean (seed1)" in table
    pooled = report.terminal_table(report.pool_seeds(report.summary_rows(runs), {}))
    assert "SCAV Euclidean, 2 seeds" in pooled


def test_page_answers_first_and_loads_nothing(tmp_path, clip):
    query = {"id": "clip-1", "subset": "order", "direction": "v2a", "mode": "sequence", "distance": "euclidean"}
    retrieved = {"media": str(clip.parent), "queries": [query | {"rank": 2, "retrieved": ["clip-2", "clip-1"]}]}
    config = {"batch_size": 32, "model": {"width": 64}}
    runs = two_runs(tmp_path, history=HISTORY, retrieved=retrieved, config=config)
    page = page_of(runs, tmp_path, title="A title", note="A note", summary=tmp_path / "summary.json")
    text = " ".join(page.text.split())
    answer = "SCAV Euclidean with sequence retrieval finds the right clip first for 40.0 % of the queries, CAV with"
    assert answer + " aggregate retrieval for 10.0 %: 4.0×." in text
    assert text.index(answer) < text.index("Every method on every subset") < text.index("Protocol")
    assert "A note" in text
    assert "loss / ln N" in text
    assert "right clip at rank 2" in text
    pictures = [load for load in page.loads if load.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == 4  # the query, its strip, and the clip as found by each of two runs; clip-2 has no media
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.elements)
    assert not re.search(r"url\((?!#)|@import", (tmp_path / "report.html").read_text())
    assert json.loads((tmp_path / "summary.json").read_text()) == {"rows": report.summary_rows(runs)}


def test_user_text_is_escaped_everywhere(tmp_path):
    query = {"id": EVIL, "subset": EVIL, "direction": EVIL, "mode": EVIL, "distance": EVIL}
    run = write_run(
        tmp_path / "x<img src=y onerror=alert(2)>$\\bad$",
        trained_with=EVIL,
        protocol={"dataset": EVIL},
        history=[*HISTORY, {"step": 9, f"eval_{EVIL}_R@1": 3.0}],
        config={EVIL: EVIL},
        retrieved={"media": None, "queries": [query | {"rank": 1, "retrieved": [EVIL]}]},
    )
    page = page_of(
        [run, write_run(tmp_path / "twin", trained_with=EVIL, protocol={"dataset": EVIL})],
        tmp_path,
        title=EVIL,
        note=EVIL,
    )
    assert "img" not in page.elements
    assert page.handlers == []
    assert page.text.count(EVIL) > 10


def test_missing_parts_are_left_out_with_a_note(tmp_path):
    text = page_of([write_run(tmp_path / "bare")], tmp_path).text
    for note in ("No run has rows in metrics.jsonl", "No run has eval/retrieved.json", "No run has config.json"):
        assert note in text


def test_absent_media_are_named(tmp_path):
    retrieved = {"media": str(tmp_path / "gone"), "queries": []}
    query = {"id": "q", "subset": "all", "direction": "v2a", "mode": "aggregate", "distance": "cosine", "rank": 1}
    retrieved["queries"].append(query | {"retrieved": ["q"]})
    assert (
        f"found under {tmp_path / 'gone'}" in page_of([write_run(tmp_path / "r", retrieved=retrieved)], tmp_path).text
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"gallery_size": 599},
        {"ids_sha256": "cd" * 32},
        {"tie_rule": "for us"},
        {"extractors": {"visual": {"name": "clip"}}},
    ],
)
def test_runs_whose_protocols_differ_are_not_compared(tmp_path, changed):
    runs = [write_run(tmp_path / "a", method="cav", trained_with="cosine"), write_run(tmp_path / "b", protocol=changed)]
    (field,) = changed
    with pytest.raises(
        ValueError, match=rf"protocol\.{field}: expected runs that were evaluated alike, got .*do not comp"
    ):
        page_of(runs, tmp_path)


def test_settings_are_compared(tmp_path):
    runs = [
        write_run(tmp_path / "a", method="cav", trained_with="cosine", config={"model": {"width": 64}, "steps": 7}),
        write_run(tmp_path / "b", config={"model": {"width": 96}, "steps": 7}),
    ]
    page = page_of(runs, tmp_path)
    changes = page.text[page.text.index("Settings") : page.text.index("All 2 settings")]
    assert "model.width" in changes
    assert "steps" not in changes


def test_several_unpooled_runs_of_a_method_have_no_single_answer(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert "No two-by-two answer" in page_of(runs, tmp_path).text
    assert "No two-by-two answer" not in page_of(runs, tmp_path, pooled={}).text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("eval/metrics.json", None, "metrics.json: expected the metrics that eval.py writes"),
        ("eval/metrics.json", "{", "metrics.json: expected JSON"),
        ("eval/metrics.json", "[]", "metrics.json: expected a JSON object, got list"),
        ("eval/metrics.json", '{"results": []}', "metrics.json: expected the field 'protocol'"),
        ("config.json", "nope", "config.json: expected JSON"),
        ("metrics.jsonl", '{"step": 1}\nbroken\n', "metrics.jsonl, line 2: expected a JSON object"),
    ],
)
def test_bad_files_are_named(tmp_path, capsys, file, content, message):
    run = write_run(tmp_path / "run")
    (run / file).unlink(missing_ok=True)
    if content is not None:
        (run / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_run(run)
    assert report.main([str(run), "--out", str(tmp_path / "out.html")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run / file}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


def test_a_result_without_its_fields_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    del metrics["results"][1]["MRR"]
    (run / "eval" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"results\[1\] lacks \['MRR'\]"):
        load_run(run)


def test_a_query_without_its_fields_is_named(tmp_path):
    run = write_run(tmp_path / "run", retrieved={"media": None, "queries": [{"id": "a"}]})
    with pytest.raises(ValueError, match=r"retrieved.json: queries\[0\] lacks \['direction', 'distance', 'mode'"):
        load_run(run)


def test_a_last_line_cut_short_is_passed_over(tmp_path):
    run = write_run(tmp_path / "run", history=HISTORY)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "lo')
    assert load_run(run).history == HISTORY


def test_method_labels():
    assert method_label({"method": "cav", "trained_with": "cosine"}) == "CAV"
    assert method_label({"method": "scav", "trained_with": "dtw"}) == "SCAV DTW"


def test_curves_take_their_ink_from_the_page():
    svg = curves_svg([Curve("a & b", ("cav", "cosine"), [0, 1], [2.0, 1.0])], title="Loss <1>", y_label="loss")
    assert svg.startswith('<svg role="img" aria-label="Loss &lt;1&gt;"')
    assert "currentColor" in svg
    assert "a &amp; b" in svg
    assert svg.count("<svg") == svg.count("</svg>") == 1


def test_columns_map_time_linearly_and_clip():
    times_s = np.array([-1.0, 0.0, 0.5, 2.0, 4.0, 9.0])
    np.testing.assert_array_equal(columns(times_s, 4.0, 200), [0, 0, 25, 100, 200, 200])


def test_strip_shows_the_liveliest_frame_of_each_stretch():
    frames = np.zeros((40, 10, 20, 3), np.uint8)
    frames[13] = 100  # the change to it, at 1.35 s, is the one movement of the second of four stretches of a second
    frames[14:] = 100
    strip = film_strip(frames, (np.arange(40) + 0.5) / 10, duration_s=4.0, width=160, height=20)
    assert strip.shape == (20, 160, 3)
    middles = strip[8, [20, 60, 100, 140]]
    np.testing.assert_array_equal(middles[:, 0], [0, 100, 100, 100])
    notches = np.flatnonzero((strip[-1] == 255).all(axis=-1))
    assert {53, 54} <= set(notches)  # 1.35 s of 4 s on 160 columns


def test_strip_movement_and_sound_share_one_time_axis(clip):
    """The bar appears and the tone starts at 1.0 s of 2 s: column 200 of 400 in both pictures."""
    place = {"duration_s": 2.0, "width": 400, "height": 32}
    moved = movement(media.read_frames(clip, 15.0), 15.0, **place)
    sounding = spectrogram(media.read_sound(clip, 16_000), **place)
    assert moved.shape == sounding.shape == (32, 400)
    assert (
        abs(int(np.flatnonzero(moved.max(axis=0) > 0.5)[0]) - 200) <= 14
    )  # one frame of fifteen a second is 13 columns
    assert abs(int(np.flatnonzero(sounding.max(axis=0) > 0.9)[0]) - 200) <= 8  # one 64 ms window is 13 columns
    assert moved[:16].max() > 0.5 > moved[16:].max()  # the right side of the frame is the upper half


def test_still_and_silent_clips_are_blank():
    frames = np.full((8, 6, 8, 3), 90, np.uint8)
    assert movement(frames, 4.0, duration_s=2.0, width=50, height=10).max() == 0
    assert spectrogram(np.zeros(32_000, np.float32), duration_s=2.0, width=50, height=10).max() == 0


def test_clip_pictures_and_their_command(clip, tmp_path):
    assert Image.open(io.BytesIO(clip_picture(clip, width=300, image_format="JPEG"))).size[0] == 300
    assert report.main(["clip", str(clip), str(clip), "--out", str(tmp_path / "clips.png")]) == 0
    with Image.open(tmp_path / "clips.png") as image:
        assert image.size[0] == 960
    clip.write_bytes(b"")
    assert report.main(["clip", str(clip), "--out", str(tmp_path / "none.png")]) == 1


def test_import_is_light():
    code = (
        "import sys, scav_jax.report; print({'matplotlib', 'librosa', 'av', 'jax', 'PIL', 'jinja2'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\w+", found.replace("set()", ""))) <= {"jax"}  # jaxtyping may bring jax in

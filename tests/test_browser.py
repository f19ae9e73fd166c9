"""The report in a real browser: nothing complains, pictures are drawn, films play, a phone need not scroll sideways.

Debian's chromium; without it the tests are skipped, and .ci/run installs it.
"""

import json
import shutil
import subprocess

import numpy as np
import pytest
from films import write_film
from test_report import EVIL, HISTORY, write_run

from scav_jax import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium")

# Writes what the page looks like from inside into its title.
ASK = """<script>
const plays = async video => {
  video.muted = true;
  await video.play();
  video.pause();
  return video.readyState >= 2 && video.duration;
};
addEventListener("load", async () => {
  const images = [...document.images];
  document.querySelectorAll("details").forEach(details => details.open = true);
  document.title = JSON.stringify({
    images: images.length,
    drawn: images.filter(image => image.naturalWidth > 0 && image.getBoundingClientRect().width > 40).length,
    films: await Promise.all([...document.querySelectorAll("video")].map(plays)),
    plots: [...document.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().height > 40).length,
    scripts: document.scripts.length - 1,
    handlers: document.querySelectorAll("[onerror]").length,
    wider: document.documentElement.scrollWidth - innerWidth,
  });
});
</script>"""


def result_rows(mode, k, ms, recall):
    interval = {"R@1": recall, "R@1_low": recall - 2, "R@1_high": recall + 2}
    counts = {"certified": 50.0, "computed_median": 40.0, "computed_max": 90}
    return [
        {
            "mode": mode,
            "distance": "euclidean",
            "direction": direction,
            "k": k,
            "ms_per_query": ms,
            **interval,
            **counts,
        }
        for direction in ("v2a", "a2v")
    ]


def probe_row(mode, distance, direction):
    lost = {"R@1": 10.0, "lost": 20.0, "lost_low": 12.0, "lost_high": 28.0}
    place = {"mode": mode, "distance": distance, "direction": direction, "subset": "order", "k": None}
    return {"probe": "permute", "strength": 1.0, **place, **lost}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with every section there is, of an id that tries to be a picture."""
    folder = tmp_path_factory.mktemp("page")
    ids = ["one", "two", "three"]
    (folder / "media").mkdir()
    for number, clip in enumerate(ids, start=1):
        write_film(folder / "media" / f"{clip}.mp4", pitch_hz=400.0 * number)
    alignment = (99 * np.eye(20, 32)).astype(int).tolist()
    asked = {"subset": "all", "direction": "v2a", "mode": "sequence", "distance": "euclidean", "rank": 2}
    queries = [
        asked | {"id": ids[0], "retrieved": [ids[1], ids[0], EVIL], "alignments": [alignment, alignment]},
        asked | {"id": EVIL, "retrieved": [ids[2]], "alignments": []},
    ]
    retrieved = {"media": str(folder / "media"), "queries": queries}
    answer = {"mode": "aggregate", "distance": "cosine", "rank": 2, "retrieved": [ids[2]]}
    of_cav = {"media": retrieved["media"], "queries": [asked | {"id": ids[0]} | answer]}
    evil = folder / EVIL.replace("/", "")
    runs = [
        write_run(evil, method="cav", trained_with="cosine", retrieved=of_cav, history=HISTORY),
        write_run(folder / "scav", retrieved=retrieved, history=HISTORY, config={"batch_size": 8}),
    ]
    modes = [("aggregate", None, 0.1, 20.0), ("hybrid", 5, 0.3, 25.0), ("hybrid", 50, 2.0, 38.0)]
    modes += [("exact", None, 1.0, 40.0), ("sequence", None, 9.0, 40.0)]
    for run in runs:
        path = run / "eval" / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["frontier"] = [row for mode in modes for row in result_rows(*mode)]
        metrics["probes"] = [
            probe_row(*mode, direction)
            for mode in (("aggregate", "cosine"), ("sequence", "euclidean"))
            for direction in ("v2a", "a2v")
        ]
        path.write_text(json.dumps(metrics))
        own = ("aggregate", "cosine") if metrics["protocol"]["method"] == "cav" else ("sequence", "euclidean")
        ranks = {
            json.dumps(dict(mode=own[0], distance=own[1], direction=direction, subset="all", k=None)): np.arange(1, 4)
            for direction in ("v2a", "a2v")
        }
        names = np.array([*ids[:2], EVIL])
        np.savez(run / "eval" / "ranks.npz", ids=names, groups=names, subsets=np.full(3, ""), **ranks)
    report.write_report(runs, folder / "report.html")
    return folder / "report.html"


def opened(page, folder, width):
    """(what the page says of itself, what the console said, the screenshot's path) at a window's width."""
    asking, picture = folder / "asking.html", folder / f"{width}.png"
    # Every picture is asked for before the page counts as loaded, whatever is in view.
    asking.write_text(page.read_text().replace('loading="lazy"', 'loading="eager"').replace("</body>", f"{ASK}</body>"))
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={folder}",
    ]
    options += [f"--window-size={width},3000", "--virtual-time-budget=20000", "--hide-scrollbars"]
    found = subprocess.run(
        [BROWSER, *options, "--dump-dom", asking.as_uri()], capture_output=True, text=True, timeout=120
    )
    subprocess.run([BROWSER, *options, f"--screenshot={picture}", page.as_uri()], capture_output=True, timeout=120)
    title = found.stdout.partition("<title>")[2].partition("</title>")[0]
    console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(title), console, picture


@pytest.mark.parametrize("width", [pytest.param(1200, marks=pytest.mark.heavy), 500])
def test_the_page_is_drawn_whole_and_says_nothing(page, tmp_path, width):
    facts, console, picture = opened(page, tmp_path, width)
    assert console == []
    # The query twice, two other clips, two alignments, the wrong clip of the second query, three strips.
    assert facts["images"] == facts["drawn"] == 10
    assert facts["films"] == [2, 2, 2]  # seconds of those that played
    assert facts["plots"] == 4  # loss, recall, two directions of accuracy against time
    assert (facts["scripts"], facts["handlers"]) == (0, 0)
    assert facts["wider"] <= 0
    from PIL import Image

    colours = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 1000


def test_an_id_that_tries_to_be_a_picture_stays_text(page):
    text = page.read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text

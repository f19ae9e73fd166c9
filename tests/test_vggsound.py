"""VGGSound from a made-up list: which files are taken, what is refused, what is counted, what the store says."""

import pytest
from films import Levels, write_film

from data.vggsound import NAME, read
from scav_jax.features.checks import FeatureError
from scav_jax.features.extract import Task, extract
from scav_jax.features.extractors import LogMel
from scav_jax.features.listing import list_media
from scav_jax.features.official import find_media, main
from scav_jax.features.store import open_store

TRAIN = [f"train{number:02d}abcd" for number in range(12)]
ROWS = [
    '-dash_id-01,30,"people marching, shouting",test',
    '_under_sc02,0,"dog barking",test',
    'millisecon3,5,"cat meowing",train',
    'wholevideo4,1,"rain",train',
    'wholevideo4,3,"rain",train',
    'seconds_005,7,"wind",test',
    'missing_006,12,"fire",train',
    'broken_0007,2,"bell",test',
    '-dash_id-01,30,"people marching, shouting",test',
    *(f'{video},0,"rain",train' for video in TRAIN),
]
BAD_ROWS = [
    '../../evil1,3,"rain",train',
    'contradict8,4,"rain",train',
    'contradict8,4,"snow",train',
    'nostart_009,soon,"rain",train',
    'nosplit_010,4,"rain",dev',
    "short_row_1,4",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    films = {
        "-dash_id-01_000030": {},
        "_under_sc02_000000": {},
        "sub/millisecon3_5000_15000": {"length_s": 1.5},
        "wholevideo4": {"length_s": 12.0},
        "seconds_005_7_17": {},
        "stranger_99_000001": {},
        **{f"sub/{video}_000000": {"base": 40 + index} for index, video in enumerate(TRAIN)},
    }
    for index, (name, told) in enumerate(films.items()):
        write_film(folder / f"{name}.mp4", pitch_hz=300.0 + 30 * index, onset=0, **told)
    (folder / "broken_0007_000002.mp4").write_text("no film")
    return folder


def write_csv(folder, rows):
    path = folder / "vggsound.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_files_under_every_usual_name_are_found(tmp_path, videos):
    found = find_media(read([write_csv(tmp_path, ROWS)]), videos)
    where = {clip_id: (str(path.relative_to(videos)), start_s) for clip_id, (path, start_s) in found.items()}
    assert where == {
        "-dash_id-01_000030": ("-dash_id-01_000030.mp4", 0.0),
        "_under_sc02_000000": ("_under_sc02_000000.mp4", 0.0),
        "millisecon3_000005": ("sub/millisecon3_5000_15000.mp4", 0.0),
        "wholevideo4_000001": ("wholevideo4.mp4", 1.0),
        "wholevideo4_000003": ("wholevideo4.mp4", 3.0),
        "seconds_005_000007": ("seconds_005_7_17.mp4", 0.0),
        "broken_0007_000002": ("broken_0007_000002.mp4", 0.0),
        **{f"{video}_000000": (f"sub/{video}_000000.mp4", 0.0) for video in TRAIN},
    }


def test_rows_that_cannot_be_are_refused_by_line(tmp_path, videos, capsys):
    path = write_csv(tmp_path, ROWS + BAD_ROWS)
    out = tmp_path / "list.csv"
    arguments = ["list", "--csv", str(path), "--media", str(videos), "--out", str(out)]
    assert main(NAME, read, "csv", arguments) == 1
    problems = capsys.readouterr().err.splitlines()
    expected = {
        22: "a video id of letters, digits, _ and -, got '../../evil1'",
        24: "one label and split for contradict8 at 4 s",
        25: "a start in whole seconds, got 'soon'",
        26: "a split of train, test, got 'dev'",
        27: "video id, start, label, split, got 2 cells",
    }
    assert len(problems) == len(expected)
    for problem, (line, part) in zip(problems, expected.items(), strict=True):
        assert problem.startswith(f"error: {path}: line {line}: expected {part}")
    assert not out.exists()
    assert main(NAME, read, "csv", [*arguments, "--skip-bad-rows"]) == 0
    said = capsys.readouterr().out
    assert "vggsound: 21 clips published, 19 found, 2 without a file (1 rows twice, 5 refused)" in said
    assert len(list_media(out)) == 19


def test_files_that_are_no_list_are_refused(tmp_path):
    for content, message in (("", "got none"), ('a,"b', "expected a .csv")):
        (tmp_path / "v.csv").write_text(content)
        with pytest.raises(FeatureError, match=message):
            read([tmp_path / "v.csv"])


def test_from_videos_to_a_store(tmp_path, videos, capsys):
    path, listed = write_csv(tmp_path, ROWS), tmp_path / "list.csv"
    assert main(NAME, read, "csv", ["list", "--csv", str(path), "--media", str(videos), "--out", str(listed)]) == 0
    features = tmp_path / "features"
    for host in range(2):
        task = Task(length_s=1.0, host=host, hosts=2)
        report = extract(listed, features, [Levels(), LogMel()], task=task, num_workers=0, progress=False)
        assert set(report.bad) <= {"broken_0007_000002"}
    pack = ["pack", "--csv", str(path), "--features", str(features), "--media", str(videos)]
    assert main(NAME, read, "csv", [*pack, "--out", str(tmp_path / "none"), "--dry-run"]) == 0
    assert not (tmp_path / "none").exists()
    assert main(NAME, read, "csv", [*pack, "--out", str(tmp_path / "store")]) == 0
    said = capsys.readouterr().out
    assert "18 of 20 published clips (90.0 %), 1 could not be read" in said
    store = open_store(tmp_path / "store")
    facts = {split: store.facts(split) for split in store.ledger["splits"]}
    assert set(facts["test"].ids) == {"-dash_id-01_000030", "_under_sc02_000000", "seconds_005_000007"}
    assert dict(zip(facts["test"].ids, facts["test"].labels, strict=True))["-dash_id-01_000030"] == (
        "people marching, shouting"
    )
    assert facts["train"].groups[list(facts["train"].ids).index("wholevideo4_000003")] == "wholevideo4"
    covered = store.ledger["coverage"]
    assert (covered["published"], covered["present"], covered["skipped"]) == (20, 18, 1)
    assert covered["by_split"]["test"] == {"published": 4, "present": 3}
    assert (covered["repeated_rows"], covered["refused_rows"]) == (1, 0)
    assert store.ledger["health"]["clips"] == 18
    assert store.ledger["health"]["short"]["count"] == 0  # of 1 s

    (features / "stranger_99_000001.npz").write_bytes((features / "seconds_005_000007.npz").read_bytes())
    assert main(NAME, read, "csv", [*pack, "--out", str(tmp_path / "other")]) == 1
    assert "stranger_99_000001.npz: expected a clip of vggsound" in capsys.readouterr().err
    assert main(NAME, read, "csv", [*pack, "--out", str(tmp_path / "store")]) == 1
    assert "expected a new folder" in capsys.readouterr().err


def test_two_percent_of_the_training_videos_are_for_validation():
    from data.vggsound import split_clips
    from scav_jax.features.clips import Clip

    clips = [Clip(f"{number}_{part}", "train", "", str(number)) for number in range(3000) for part in range(2)]
    clips += [Clip(f"t{number}", "test", "", f"t{number}") for number in range(500)]
    splits = [(clip.group, clip.split) for clip in split_clips(clips)]
    assert 80 < sum(split == "val" for _, split in splits) < 170
    assert sum(split == "test" for _, split in splits) == 500
    assert len({group for group, _ in splits}) == len(set(splits))  # a video is in one split

"""Where models come from: user's path, cache, publisher, wheel, in this order, each checked by hash."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from unmask_rt import fetch, models
from unmask_rt.console import Console
from unmask_rt.errors import ModelError
from unmask_rt.fetch import FetchedModel

GOOD = bytes(range(256)) * 400
MODEL = FetchedModel(
    name="toy",
    file="toy.bin",
    purpose="testing",
    size_bytes=len(GOOD),
    sha256=hashlib.sha256(GOOD).hexdigest(),
    licence="MIT",
    variable="UNMASK_RT_TOY_MODEL",
    url="http://127.0.0.1:9/toy.bin",  # the discard port: refused at once
    requirement="toy-wheel==1.0",
    member="toy_wheel/toy.bin",
)


class Publisher:
    """A local web server that answers every request with ``body``, claiming ``length`` bytes."""

    def __init__(self) -> None:
        self.body = GOOD
        self.length: int | None = None
        self.requests = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(outer.length or len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.model = replace(MODEL, url=f"http://127.0.0.1:{self.server.server_port}/toy.bin")
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    running = Publisher()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder that does not exist yet, no package index, and no models of the user's own."""
    for variable in (MODEL.variable, models.FACE.variable, models.FINDER.variable, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNMASK_RT_CACHE", str(folder))
    return folder


def make_wheel(folder: Path, content: bytes, member: str = MODEL.member) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "toy_wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr("toy_wheel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-wheel\nVersion: 1.0\n")
        wheel.writestr("toy_wheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("toy_wheel-1.0.dist-info/RECORD", "")


def test_a_path_given_by_the_user_comes_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.bin"
    mine.write_bytes(GOOD)
    assert models.load(MODEL, mine) == GOOD
    monkeypatch.setenv(MODEL.variable, str(mine))
    assert models.load(MODEL) == GOOD
    assert not cache.exists()


def test_a_given_path_with_other_bytes_is_refused_and_not_replaced(tmp_path: Path, publisher: Publisher) -> None:
    mine = tmp_path / "mine.bin"
    mine.write_bytes(GOOD[:-1] + b"!")
    with pytest.raises(ModelError, match="SHA-256") as caught:
        models.load(publisher.model, mine)
    assert caught.value.exit_code == 3 and caught.value.hint
    assert publisher.requests == 0


def test_a_given_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        models.load(MODEL, tmp_path / "none.bin")


def test_the_publisher_is_asked_once_and_said_so(
    publisher: Publisher, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models.load(publisher.model) == GOOD
    said = capsys.readouterr()
    assert "using the network" in said.err and publisher.model.url in said.err and not said.out
    assert models.load(publisher.model) == GOOD
    assert publisher.requests == 1
    assert not capsys.readouterr().err
    assert [p.name for p in cache.iterdir()] == ["toy.bin"]


def test_a_damaged_cache_is_noticed_at_load_and_fetched_again(publisher: Publisher, cache: Path) -> None:
    cache.mkdir()
    (cache / "toy.bin").write_bytes(GOOD[1:])
    assert models.load(publisher.model) == GOOD
    assert (cache / "toy.bin").read_bytes() == GOOD


@pytest.mark.parametrize("body", [GOOD[:-1] + b"!", GOOD + b"more", GOOD[:100]], ids=["other", "longer", "shorter"])
def test_wrong_bytes_from_the_publisher_are_never_kept(publisher: Publisher, cache: Path, body: bytes) -> None:
    publisher.body = body
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        models.load(publisher.model)
    assert publisher.model.url in str(caught.value) and MODEL.requirement in str(caught.value)
    assert "unmask-rt models fetch" in caught.value.hint and MODEL.variable in caught.value.hint
    assert list(cache.iterdir()) == []


def test_a_connection_that_breaks_leaves_nothing_half(publisher: Publisher, cache: Path) -> None:
    publisher.body, publisher.length = GOOD[:5000], len(GOOD)
    with pytest.raises(ModelError, match="cut off after 5000"):
        models.load(publisher.model)
    assert list(cache.iterdir()) == []


def test_ctrl_c_during_a_download_leaves_nothing_half(
    publisher: Publisher, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(model: FetchedModel, part: Path) -> None:
        part.write_bytes(GOOD[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_from_publisher", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.load(publisher.model)
    assert list(cache.iterdir()) == []


def test_the_wheel_is_the_last_resort(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "index", GOOD)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert models.load(MODEL) == GOOD
    assert [p.name for p in cache.iterdir()] == ["toy.bin"]


@pytest.mark.parametrize(
    ("content", "member"), [(GOOD[::-1], MODEL.member), (GOOD, "elsewhere.bin")], ids=["other bytes", "no such file"]
)
def test_a_wheel_without_the_right_file_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, member: str
) -> None:
    make_wheel(tmp_path / "index", content, member)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(ModelError, match="could not be fetched"):
        models.load(MODEL)
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="pip failed") as caught:
        models.load(MODEL)
    assert caught.value.exit_code == 3
    assert MODEL.sha256 in caught.value.hint and str(models.cache_dir() / MODEL.file) in caught.value.hint


def test_a_pip_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("pip", 1.0)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ModelError, match="pip did not finish"):
        models.load(MODEL)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="cannot be written") as caught:
        models.load(MODEL)
    assert "UNMASK_RT_CACHE" in caught.value.hint


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("UNMASK_RT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_dir() == tmp_path / "xdg" / "unmask-rt"


def test_face_models_come_over_https_from_pinned_places() -> None:
    for model in models.FETCHED:
        assert model.url.startswith("https://") and "==" in model.requirement and len(model.sha256) == 64


def test_an_unmask_model_of_the_users_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(GOOD)
    assert models.load_unmask_model(mine) == (GOOD, MODEL.sha256)
    mine.write_bytes(b"")
    with pytest.raises(ModelError, match="empty"):
        models.load_unmask_model(mine)
    with pytest.raises(ModelError, match="cannot be read"):
        models.load_unmask_model(tmp_path / "none.onnx")


def test_bundled_models_are_checked_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_asset", lambda name: tmp_path / name)
    with pytest.raises(ModelError, match="no unmask model"):
        models.load_unmask_model()
    record = f'{{"toy-256": {{"file": "toy.onnx", "sha256": "{MODEL.sha256}", "licence": "research"}}}}'
    (tmp_path / "models.json").write_text(record)
    (tmp_path / "toy.onnx").write_bytes(GOOD)
    assert models.load_unmask_model() == models.load_unmask_model("toy-256") == (GOOD, MODEL.sha256)
    (tmp_path / "toy.onnx").write_bytes(GOOD[::-1])
    with pytest.raises(ModelError, match="damaged"):
        models.load_unmask_model()
    assert models.describe_models()[0].state == "damaged"


def test_the_list_names_state_and_licence(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = {model.name: model.state for model in models.describe_models()}
    assert states["centerface"] == "not fetched"
    cache.mkdir()
    (cache / models.FINDER.file).write_bytes(b"something else")
    states = {model.name: model.state for model in models.describe_models()}
    assert states["centerface"] == "damaged"
    models.list_models(Console())
    shown = capsys.readouterr().out
    assert "Apache-2.0" in shown and "damaged" in shown and models.WEIGHTS_NOTE in shown
    assert "\x1b" not in shown

"""The editor's requests: what they answer, what they refuse, and that nothing is left or mixed."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from hyperinverter.alignment import detect
from hyperinverter.commands import main
from hyperinverter.commands.serve import server
from hyperinverter.commands.serve import studio as studio_module
from hyperinverter.commands.serve.app import Service
from hyperinverter.commands.serve.gallery import Gallery
from hyperinverter.commands.serve.moves import Moves
from hyperinverter.commands.serve.session import MOST_OPENED, Sessions
from hyperinverter.commands.serve.studio import Opened, Studio
from hyperinverter.commands.serve.web import MOST_BYTES
from hyperinverter.contracts import Inversion, UserError
from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.editing.styles import StyleSpace
from hyperinverter.evaluation.work import Piece, Work
from hyperinverter.pictures import to_picture

HERE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(["digiface", "w_opt:2"])


@pytest.fixture
def service(studio: Studio) -> Service:
    return Service(studio, hosts=["127.0.0.1", "localhost"])


@pytest.fixture
def page(service: Service) -> Iterator[TestClient]:
    with TestClient(service.app, base_url=HERE) as client:
        yield client


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def face(place: int = 0) -> Image.Image:
    return Image.fromarray(sample_faces(accepted_indices()[place : place + 1])[0])


def large_photo() -> bytes:
    """A face in a larger picture, as a camera would take it."""
    photo = Image.new("RGB", (400, 300), (90, 120, 90))
    photo.paste(face(4).resize((200, 200), Image.Resampling.BICUBIC), (100, 50))
    return png(photo)


def opened(page: TestClient, index: int = 1, model: int = 0) -> str:
    key = page.post("/api/open", json={"example": index}).json()["open"]
    assert page.post("/api/invert", json={"open": key, "model": model}).status_code == 200
    return key


def picture(answer: object) -> np.ndarray:
    assert answer.status_code == 200, answer.text  # type: ignore[attr-defined]
    assert answer.headers["content-type"] == "image/png"  # type: ignore[attr-defined]
    return np.asarray(Image.open(io.BytesIO(answer.content)))  # type: ignore[attr-defined]


def test_a_photo_becomes_pictures_and_sliders_change_the_edit(page: TestClient) -> None:
    key = opened(page)
    numbers = page.post("/api/invert", json={"open": key}).json()["numbers"]
    assert 0 < numbers["l2"] < numbers["first_l2"]
    shown = {
        kind: picture(page.get(f"/api/picture/{key}/0/{kind}")) for kind in ("photo", "w_image", "inversion")
    }
    assert np.array_equal(shown["photo"], np.asarray(face(1)))
    still = picture(page.post("/api/edit", json={"open": key, "moves": {"powers": {"smile": 0}}}))
    assert np.abs(still.astype(int) - shown["inversion"].astype(int)).max() <= 1
    moved = picture(page.post("/api/edit", json={"open": key, "moves": {"powers": {"smile": 1.5}}}))
    assert np.abs(moved.astype(int) - still.astype(int)).mean() > 1
    none = picture(page.post("/api/edit", json={"open": key, "moves": {"strength": {"all": 0}}}))
    assert np.abs(none.astype(int) - shown["w_image"].astype(int)).max() <= 1


def test_faces_of_an_upload_are_found_cut_and_pasted_back(page: TestClient) -> None:
    found = page.post("/api/photo?name=me.png", content=large_photo()).json()
    assert (found["width"], found["height"]) == (400, 300)
    assert len(found["faces"]) == 1
    left, top, right, bottom = found["faces"][0]
    assert 100 <= left < right <= 300
    assert 50 <= top < bottom <= 250
    assert picture(page.get(f"/api/preview/{found['photo']}")).shape == (300, 400, 3)
    key = page.post("/api/open", json={"photo": found["photo"], "face": 0}).json()["open"]
    page.post("/api/invert", json={"open": key})
    taken = page.post("/api/take", json={"open": key, "kind": "paste", "moves": {"powers": {"smile": 1}}})
    assert "me.pasted.png" in taken.headers["content-disposition"]
    back = np.asarray(Image.open(io.BytesIO(taken.content)))
    before = np.asarray(Image.open(io.BytesIO(large_photo())))
    assert back.shape == before.shape
    assert np.array_equal(back[:, :60], before[:, :60])
    assert not np.array_equal(back, before)


def test_without_a_face_the_centre_can_be_used(page: TestClient) -> None:
    found = page.post("/api/photo", content=png(Image.new("RGB", (200, 120), "green"))).json()
    assert found["faces"] == []
    assert found["centre"] == [40.0, 0.0, 160.0, 120.0]
    key = page.post("/api/open", json={"photo": found["photo"], "face": None}).json()["open"]
    assert page.post("/api/invert", json={"open": key}).status_code == 200
    asked = page.post("/api/open", json={"photo": found["photo"], "face": 3})
    assert asked.status_code == 400


def test_results_can_be_taken_away_and_an_inversion_comes_back(page: TestClient, tmp_path: Path) -> None:
    key = opened(page)
    moves = {"powers": {"yaw": 1.0}, "strength": {"fine": 0.5}}
    for kind, name in (("png", "edit.png"), ("strip", "sweep.png"), ("gif", "sweep.gif")):
        taken = page.post("/api/take", json={"open": key, "kind": kind, "moves": moves})
        assert f"example2.{name}" in taken.headers["content-disposition"]
        Image.open(io.BytesIO(taken.content)).verify()
    file = page.post("/api/take", json={"open": key, "kind": "inversion"}).content
    back = page.post("/api/load?name=a.inversion.safetensors", content=file).json()
    assert (back.get("name"), back.get("model")) == ("a", 0), back
    again = back["open"]
    asked = {"moves": moves, "model": 0}
    one, two = (picture(page.post("/api/edit", json={"open": each, **asked})) for each in (key, again))
    assert np.array_equal(one, two)
    command = page.post("/api/command", json={"open": key, "moves": moves}).json()["command"]
    assert command.startswith("hyperinverter edit example2.inversion.safetensors --model digiface -d yaw=1")
    (tmp_path / "example2.inversion.safetensors").write_bytes(file)
    typed = command.split()[2:]
    typed[0] = str(tmp_path / typed[0])
    assert main(["edit", *typed, "--out", str(tmp_path)]) == 0
    made = np.asarray(Image.open(tmp_path / "example2.edit.png"))
    assert np.abs(made.astype(int) - one.astype(int)).max() <= 1  # weights are added once or drawn with


def test_two_models_share_the_sliders_and_a_search_can_be_watched(page: TestClient) -> None:
    about = page.get("/api/about").json()
    assert [model["slow"] for model in about["models"]] == [False, True]
    key = opened(page, model=1)
    assert page.post("/api/invert", json={"open": key, "model": 0}).status_code == 200
    asked = {"open": key, "moves": {"powers": {"smile": 1}}}
    one, two = (picture(page.post("/api/edit", json={**asked, "model": model})) for model in (0, 1))
    assert not np.array_equal(one, two)
    assert page.get("/api/progress").json() == {"step": 0, "steps": 0, "waiting": 0}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "is not read as a photo"),
        (png(face())[:500], "the file cannot be read as an image"),
        (png(Image.new("1", (10_000, 9_000))), "make it smaller than 40 million pixels"),
        (png(Image.new("1", (11_000, 10_000))), "has more than 100 megapixels"),
        (b"x" * (MOST_BYTES + 1), "the file is larger than 25 MB"),
    ],
    ids=["empty", "text", "broken", "90 megapixels", "110 megapixels", "large"],
)
def test_what_is_no_photo_is_answered_in_a_sentence_and_leaves_nothing(
    page: TestClient, service: Service, content: bytes, sentence: str
) -> None:
    answer = page.post("/api/photo?name=../../etc/passwd.png", content=content)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    (session,) = service.sessions._kept.values()
    assert not [path for path in session.folder.rglob("*") if path.is_file()]
    assert str(session.folder) not in answer.text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/edit", {"open": "nothing"}),
        ("/api/edit", {"open": 3}),
        ("/api/edit", [1, 2]),
        ("/api/invert", {"open": "../../etc/passwd"}),
        ("/api/open", {"example": 99}),
        ("/api/open", {"photo": "x", "face": 0}),
    ],
)
def test_what_the_page_would_not_send_is_refused(page: TestClient, path: str, said: object) -> None:
    answer = page.post(path, json=said)
    assert answer.status_code == 400
    assert answer.json()["error"]
    for moves in (
        {"powers": {"nose": 1}},
        {"powers": {"smile": 1e9}},
        {"powers": {"smile": "1"}},
        {"powers": {"smile": 10**400}},
        {"strength": [1]},
        7,
    ):
        key = opened(page)
        assert page.post("/api/edit", json={"open": key, "moves": moves}).status_code == 400


def test_files_of_others_cannot_be_asked_for(page: TestClient) -> None:
    for path in (
        "/../pyproject.toml",
        "/app.py",
        "/page/app.py",
        "/api/gallery/0/0",
        "/%2e%2e/app.py",
        "/api/picture/x/0/photo",
    ):
        assert page.get(path).status_code in (400, 404)


def test_an_upload_is_decoded_and_searched_once(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    for module, name in ((studio_module, "load_rgb"), (detect, "_search")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, real=real, name=name, **named: done.append(name) or real(*args, **named),
        )
    found = page.post("/api/photo?name=me.png", content=large_photo()).json()
    page.post("/api/open", json={"photo": found["photo"], "face": 0}).raise_for_status()
    assert done == ["load_rgb", "_search"]
    other = page.post("/api/photo?name=you.png", content=large_photo()).json()
    assert other["faces"] == found["faces"]
    page.post("/api/open", json={"photo": found["photo"], "face": None}).raise_for_status()
    assert done == ["load_rgb", "_search"] * 2 + ["load_rgb"]  # the first upload is not in memory any more


def test_other_sites_and_other_names_are_refused(service: Service, studio: Studio) -> None:
    with TestClient(service.app, base_url=HERE) as client:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        answer = client.get("/", headers={"origin": HERE})
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        cookie = client.get("/api/about").headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
    with TestClient(Service(studio, password="open sesame").app, base_url="http://box:7860") as client:
        assert client.get("/").status_code == 401
        for word, status in (("wrong", 401), ("open sesame", 200)):
            said = base64.b64encode(f"me:{word}".encode()).decode()
            assert client.get("/", headers={"authorization": f"Basic {said}"}).status_code == status


def test_sessions_do_not_see_each_other_and_leave_nothing(service: Service) -> None:
    with TestClient(service.app, base_url=HERE) as one, TestClient(service.app, base_url=HERE) as two:
        key = opened(one)
        assert two.get(f"/api/picture/{key}/0/photo").status_code == 400
        two.post("/api/photo", content=large_photo())
        folders = [session.folder for session in service.sessions._kept.values()]
        assert len(folders) == 2
        assert all(folder.is_dir() for folder in folders)
    assert not any(folder.exists() for folder in folders)


def test_memory_is_bounded() -> None:
    sessions = Sessions(most=2)
    folders = []
    for _ in range(5):
        _, session = sessions.of(None)
        folders.append(session.folder)
        for _ in range(MOST_OPENED + 3):
            session.add_opened(Opened("a", None, None, None))
        assert len(session.opened) == MOST_OPENED
    assert [folder.exists() for folder in folders] == [False, False, False, True, True]
    assert sessions.of("guessed")[0] != "guessed"
    sessions.close()
    assert not any(folder.exists() for folder in folders)


def test_inversions_of_all_sessions_are_bounded_in_bytes() -> None:
    sessions, image = Sessions(), torch.zeros(1, 3, 64, 64)
    for _ in range(4):
        session = sessions.of(None)[1]
        opened = Opened("a", None, None, None)
        opened.inversions[0] = Inversion(torch.zeros(1, 128), {}, image, image)
        session.add_opened(opened)
    sessions.bound(2 * opened.bytes())
    assert [len(session.opened) for session in sessions._kept.values()] == [0, 0, 1, 1]
    sessions.bound(1)
    assert [len(session.opened) for session in sessions._kept.values()] == [0, 0, 0, 1]
    sessions.close()


def test_moves_become_strengths_and_options(studio: Studio) -> None:
    moves = Moves.of(
        {"powers": {"smile": 1.5, "yaw": 0}, "strength": {"all": 0.5, "fine": 0.2}}, studio.directions
    )
    assert moves.powers == {"smile": 1.5}
    assert moves.residuals() == {"fine": 0.2, "weights": 0.5, "features": 0.5}
    assert moves.typed() == ["-d", "smile=1.5", "--strength", "fine=0.2,weights=0.5,features=0.5"]
    assert Moves.of({}, studio.directions).residuals() == 1.0


def test_sliders_move_styles_as_well(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    model, edits = studio.models[0], {"smile": 1.0, "s5_2": -4.0}
    channel = StyleSpace(model.generator).named("s5_2")
    assert channel is not None
    monkeypatch.setitem(studio.directions, "s5_2", channel)  # type: ignore[arg-type]
    monkeypatch.setitem(studio.directions, "spc0", replace(channel, name="spc0"))  # type: ignore[arg-type]
    groups = {each["name"]: each["group"] for each in studio.about()["directions"]}
    assert (groups["s5_2"], groups["spc0"], groups["smile"]) == ("directions", "components", "expression")
    monkeypatch.setattr(studio, "sources", ["mine.csv", "pca"])
    opened = studio.example(0)
    studio.invert(opened, 0)
    moves = Moves.of({"powers": edits}, studio.directions)
    (drawn,) = studio.draw(opened, 0, moves)
    wanted = model.edit(
        opened.inversions[0], [(studio.directions[name], power) for name, power in edits.items()]
    )
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(to_picture(wanted[0]))).max() <= 1
    assert np.asarray(drawn).tolist() != np.asarray(studio.draw(opened, 0, Moves({"smile": 1.0}))[0]).tolist()
    assert studio.command(opened, 0, moves).endswith("-d s5_2=-4 --directions mine.csv --directions pca")


def test_evaluations_are_shown_by_number(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "table.csv").write_text("model,n,l2,l2_low,l2_high\n<b>a</b>,16,0.011,0.01,0.012\n")
    face().save(tmp_path / "e" / "plane.png")
    with TestClient(Service(studio, gallery=Gallery(tmp_path)).app, base_url=HERE) as client:
        (entry,) = client.get("/api/gallery").json()
        assert entry["rows"] == [["model", "n", "l2"], ["<b>a</b>", "16", "0.011"]]
        (shown,) = entry["pictures"]
        assert picture(client.get(shown["url"])).shape == (64, 64, 3)
        assert client.get("/api/gallery/7/0").status_code == 400
    for name, odd in (("f", b"a\xff,b"), ("g", b"a," + b"x" * 200_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.csv").write_bytes(odd)
    entries = Gallery(tmp_path).listed()  # a folder that holds no table does not take the others with it
    assert [len(entry["rows"]) for entry in entries] == [2, 0, 0]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no table\.csv"):
        Gallery(tmp_path / "none")


def evaluated(folder: Path) -> np.ndarray:
    """What ``hyperinverter evaluate`` leaves of three photos; returns them."""
    pixels = np.stack([np.asarray(face(place)) for place in range(3)])
    for label, drawn in (("photo", pixels), ("digiface", pixels[:, ::-1])):
        Work.at(folder / "work" / label).keep(Piece(["a", "b", "c"], {}, {}, drawn))
    (folder / "photos.csv").write_text("photo,file,sha256\na,a.png,1\nb,b.png,2\nc,c.png,3\n../c,c.png,3\n")
    (folder / "table.csv").write_text("model,n,l2\ndigiface,3,0.02\n")
    values = "".join(
        f"{name},digiface,{l2},{psnr}\n" for name, l2, psnr in (("a", 1, 9), ("b", 3, 7), ("c", 2, 8))
    )
    (folder / "per_photo.csv").write_text("photo,model,l2,psnr\n" + values)
    record = {"protocol": {}, "photo_work": "photo", "models": {"digiface": {"work": "digiface"}}}
    (folder / "protocol.json").write_text(json.dumps(record))
    return pixels


def test_photos_of_an_evaluation_are_ranked_and_open_in_the_editor(studio: Studio, tmp_path: Path) -> None:
    pixels = evaluated(tmp_path)
    with TestClient(Service(studio, gallery=Gallery(tmp_path)).app, base_url=HERE) as client:
        (entry,) = client.get("/api/gallery").json()
        assert (entry["photos"], entry["models"], entry["numbers"]) == (3, ["digiface"], ["l2", "psnr"])
        for number in (0, 1):  # of l2 the larger is worse, of psnr the smaller
            photos = client.get(f"/api/gallery/0/photos?model=0&number={number}").json()
            assert [photo["name"] for photo in photos] == ["b", "c", "a"]
        assert np.array_equal(picture(client.get("/api/gallery/0/photos/1")), pixels[1])
        assert np.array_equal(picture(client.get("/api/gallery/0/photos/1?model=0")), pixels[1][::-1])
        key = client.post("/api/open", json={"gallery": 0, "place": 1}).json()["open"]
        assert client.post("/api/invert", json={"open": key}).status_code == 200
        assert np.array_equal(picture(client.get(f"/api/picture/{key}/0/photo")), pixels[1])
        for gallery, place in ((0, 3), (0, -1), (1, 0), ("../e", 0), (0, "../../c"), (None, 0), (True, 0)):
            answer = client.post("/api/open", json={"gallery": gallery, "place": place})
            assert answer.status_code == 400, (gallery, place)
        assert client.get("/api/gallery/0/photos?model=4").status_code == 400
    shutil.rmtree(tmp_path / "work")  # a folder of tables alone, as it is published
    assert Gallery(tmp_path).listed()[0]["photos"] == 0


def test_photos_of_a_run_open_in_the_editor(studio: Studio, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / "run" / "test_photos" / name
        folder.mkdir(parents=True)
        face(2).save(folder / "photo.png")
        face(3).save(folder / "image.png")
    with TestClient(Service(studio, gallery=Gallery(tmp_path)).app, base_url=HERE) as client:
        (entry,) = client.get("/api/gallery").json()
        assert (entry["name"], entry["models"]) == (f"{tmp_path.name}/run", ["this run"])
        assert [photo["name"] for photo in client.get("/api/gallery/0/photos").json()] == ["one", "two"]
        assert np.array_equal(picture(client.get("/api/gallery/0/photos/0?model=0")), np.asarray(face(3)))
        key = client.post("/api/open", json={"gallery": 0, "place": 1}).json()["open"]
        assert np.array_equal(picture(client.get(f"/api/picture/{key}/0/photo")), np.asarray(face(2)))
    with TestClient(Service(studio).app, base_url=HERE) as client:
        assert client.post("/api/open", json={"gallery": 0, "place": 0}).status_code == 400


class Slow:
    """In place of a search: takes steps until it is let go."""

    def __init__(self, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
        self.going, self.begun = threading.Event(), threading.Event()
        self.way, self.found = studio.models[1], studio.models[0].invert
        monkeypatch.setattr(self.way, "invert", self)

    def __call__(self, image: object) -> object:
        self.begun.set()
        for step in range(2000):
            if self.going.wait(0.01):
                break
            self.way.on_step(step, 2000)  # type: ignore[misc,operator]
        return self.found(image)  # type: ignore[arg-type]


def test_a_long_search_keeps_nobody_waiting_and_can_be_stopped(
    service: Service, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(studio, monkeypatch)
    with ThreadPoolExecutor(2) as pool, TestClient(service.app, base_url=HERE) as one:
        two = TestClient(service.app, base_url=HERE)
        two.portal = one.portal
        first, second = (
            client.post("/api/open", json={"example": 1}).json()["open"] for client in (one, two)
        )
        searching = pool.submit(one.post, "/api/invert", json={"open": first, "model": 1})
        assert slow.begun.wait(10)
        queued = pool.submit(two.post, "/api/invert", json={"open": second, "model": 1})
        for client, key in (
            (one, first),
            (two, second),
        ):  # all else is answered meanwhile, for the same person as well
            assert client.post("/api/invert", json={"open": key, "model": 0}).status_code == 200
            picture(client.post("/api/edit", json={"open": key, "moves": {"powers": {"smile": 1}}}))
        assert one.get(f"/api/progress?open={first}&model=1").json()["steps"] == 2000
        assert two.get(f"/api/progress?open={second}&model=1").json() == {"step": 0, "steps": 0, "waiting": 1}
        two.post("/api/cancel", json={"open": first, "model": 1})  # of another: nothing happens
        two.post("/api/cancel", json={"open": second, "model": 1})
        assert (queued.result().status_code, queued.result().json()) == (409, {"error": "stopped"})
        assert not searching.done()
        one.post("/api/cancel", json={"open": first, "model": 1})
        assert searching.result().status_code == 409
        slow.going.set()
        assert one.post("/api/invert", json={"open": first, "model": 1}).status_code == 200


def test_what_a_page_leaves_is_forgotten(page: TestClient, service: Service) -> None:
    found = page.post("/api/photo?name=me.png", content=large_photo()).json()["photo"]
    key = page.post("/api/open", json={"photo": found, "face": 0}).json()["open"]
    (session,) = service.sessions._kept.values()
    page.post("/api/leave", json={"photos": [found]})
    assert len(list(session.folder.iterdir())) == 1  # the photo that the opened face is put back into
    page.post("/api/leave", json={"open": [key, "another"]})
    assert not list(session.folder.iterdir())
    assert page.post("/api/invert", json={"open": key}).status_code == 400
    assert page.post("/api/leave", json={"open": "all"}).status_code == 400


def test_the_command_refuses_what_is_not_safe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 1
    assert "add --password WORD" in capsys.readouterr().err
    assert main(["serve", *["--model", "digiface"] * 4]) == 1
    assert "compares up to 3 models" in capsys.readouterr().err


def test_the_address_answers_from_when_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(line: str) -> None:
        if found := re.search(r"http://127.0.0.1:(\d+)/", line):
            with socket.create_connection(("127.0.0.1", int(found[1])), timeout=5):
                opened.append(line)

    opened: list[str] = []
    monkeypatch.setattr(server, "Studio", lambda *_: None)
    monkeypatch.setattr(server, "say", said)
    monkeypatch.setattr(server._Server, "run", lambda self, sockets: sockets[0].close())
    server.run(["digiface"], host="127.0.0.1", port=0, password=None, runs=None, framing=None, directions=[])
    assert opened

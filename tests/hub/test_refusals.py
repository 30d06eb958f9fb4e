"""What cannot be pushed or loaded is refused with a reason, and nothing else is fetched or run."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import pickle
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audioset
from audioset import hub as hugging
from audioset.errors import (
    FetchError,
    MissingExtraError,
    OptionError,
    OutputError,
    RecordError,
    WeightsError,
    WeightsFormatError,
)
from audioset.hub.repository import Repository, reason, talking

from ._server import TOKEN, Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")


def config(data: bytes, **other: Any) -> bytes:
    about = {"layout": 1, "kind": "model", "file": "model.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps({"audioset": {**about, **other}}).encode()


@pytest.mark.parametrize(
    "name",
    [
        "hf://",
        "hf://owner",
        "hf://a/b/c",
        "hf://o/n@",
        "hf://../x",
        "hf://o/a--b",
        "hf://o/x.git",
        "hf://o/n@a b",
        "hf://o/n@/etc/x",
    ],
)
def test_names_that_are_none_are_refused_before_anything_is_asked(name: str, hub: Hub) -> None:
    with pytest.raises(OptionError, match=r"no name of a repository; expected owner/name"):
        audioset.load(name)
    assert hub.requests == []


def test_a_revision_is_given_once(hub: Hub) -> None:
    with pytest.raises(OptionError, match=r"owner/pets@v1: names a revision, and v2 is given too"):
        hugging.pull("owner/pets@v1", "v2")


@pytest.mark.parametrize("revision", ["../../x", "/etc/x", "a b", "", "v1/../../../x"])
def test_a_revision_stays_in_the_folder_of_revisions(revision: str, hub: Hub) -> None:
    with pytest.raises(OptionError, match=r"revision '.*': expected the name of a branch or tag, or a commit"):
        hugging.pull("owner/pets", revision)
    assert hub.requests == []


def test_repositories_that_are_not_there_or_not_ours_to_see(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("models/owner/secret", private=True)
    hub.repo("models/owner/gated", gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    for name in ("owner/none", "owner/secret"):
        with pytest.raises(FetchError, match=rf"hf://{name}: no such model repository for us at http://127.* HF_TOKEN"):
            audioset.load(f"hf://{name}")
    with pytest.raises(FetchError, match=r"hf://owner/gated: gated; expected access .* Ask for it at .*/owner/gated"):
        audioset.load("hf://owner/gated")
    with pytest.raises(FetchError, match=r"hf://datasets/owner/none: no such data set repository"):
        hugging.pull("datasets/owner/none")


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    hub.repo("models/owner/pets")
    with pytest.raises(FetchError, match=r"hf://owner/pets@v9: no such revision; expected a branch, a tag or a commit"):
        audioset.load("hf://owner/pets@v9")


def test_repositories_of_other_libraries_are_listed(hub: Hub) -> None:
    repo = hub.repo("models/owner/other")
    repo.commit({"README.md": b"# Other", "pytorch_model.bin": b"\x80\x04K\x01."})
    with pytest.raises(
        WeightsError, match=r"no audioset model inside \(no config.json\); there are README.md, pytorch_model.bin\. Exp"
    ):
        audioset.load("hf://owner/other")
    repo.commit({"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(WeightsError, match=r"\(a config.json of something else\); there are README.md, pytorch_mo"):
        audioset.load("hf://owner/other")
    assert not [request for request in hub.requests if "pytorch_model.bin" in request]
    hub.repo("datasets/owner/other")
    with pytest.raises(RecordError, match=r"no audioset embeddings inside \(no config.json\); there are nothing"):
        hugging.pull("datasets/owner/other")


@pytest.mark.parametrize(
    "other",
    [
        {"file": "../../model.safetensors"},
        {"file": "model.pkl"},
        {"kind": "pickle"},
        {"layout": 2},
        {"sha256": "00"},
        {"kind": "embeddings", "file": "embeddings.parquet"},
    ],
)
def test_a_config_that_says_something_else_is_not_followed(other: dict[str, Any], hub: Hub) -> None:
    hub.repo("models/owner/pets").commit({"config.json": config(b"", **other), "model.pkl": b""})
    with pytest.raises(WeightsError, match=r"its config.json says .*; expected a file of a known kind"):
        audioset.load("hf://owner/pets")
    assert all(request.endswith("/config.json") for request in hub.requests)


def test_a_file_that_is_not_the_one_that_its_config_says(hub: Hub, pets: Path) -> None:
    repo = hub.repo("models/owner/pets")
    repo.commit({"config.json": config(b"something else"), "model.safetensors": pets.read_bytes()})
    with pytest.raises(FetchError, match=r"model.safetensors has the sha256 \w{64}; its config.json says \w{64}"):
        audioset.load("hf://owner/pets")


class Evil:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


def test_a_pickle_under_the_right_name_and_hash_is_not_read(hub: Hub) -> None:
    evil = pickle.dumps(Evil())
    hub.repo("models/owner/evil").commit({"config.json": config(evil), "model.safetensors": evil})
    with pytest.raises(WeightsFormatError, match="expected a whole safetensors file"):
        audioset.load("hf://owner/evil")


def test_damaged_safetensors_with_the_right_hash_are_refused(hub: Hub, pets: Path) -> None:
    cut = pets.read_bytes()[:-4]
    hub.repo("models/owner/cut").commit({"config.json": config(cut), "model.safetensors": cut})
    with pytest.raises(WeightsFormatError, match=r"expected a whole safetensors file"):
        audioset.load("hf://owner/cut")


def test_a_file_that_its_config_promises_and_that_is_not_there(hub: Hub) -> None:
    hub.repo("models/owner/half").commit({"config.json": config(b"")})
    with pytest.raises(FetchError, match=r"hf://owner/half@\w{40}: lacks a file that it should have"):
        audioset.load("hf://owner/half")


def test_what_a_kind_is_for_is_said(hub: Hub, tmp_path: Path) -> None:
    from audioset import weights

    weights.save(weights.load("mini"), tmp_path / "better.safetensors")
    hugging.push(tmp_path / "better.safetensors", "owner/better")
    with pytest.raises(WeightsError, match=r'weights alone; expected a model. .* `audioset.load\(MODEL, "hf://owner/b'):
        hugging.from_pretrained("owner/better")
    with pytest.raises(WeightsError, match=r"hf://owner/better@\w+: weights that do not say of which network they are"):
        audioset.load("hf://owner/better")


def test_embeddings_and_heads_are_no_models(hub: Hub, rows: Path, tmp_path: Path) -> None:
    from audioset.weights import safetensors_file

    hugging.push(rows, "owner/rows")
    for call in (audioset.load, lambda name: audioset.load("mini", name)):
        with pytest.raises(
            WeightsError, match=r"hf://datasets/owner/rows@\w{40}: embeddings; expected a model\. Read them"
        ):
            call("hf://datasets/owner/rows")
    head = {"audioset_head": "{}"}
    safetensors_file.write(tmp_path / "head.safetensors", {"x": np.zeros(1, np.float32)}, head)
    with pytest.raises(WeightsError, match=r"head.safetensors: a head on embeddings; expected a model"):
        audioset.load(tmp_path / "head.safetensors")


def test_without_a_connection_and_a_copy_it_says_so(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's attempts
    hub.close()
    with pytest.raises(
        FetchError, match=r"not in the cache, and http://127\S+ cannot be reached \(.*refused\); expected"
    ):
        audioset.load("hf://owner/pets")
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    with pytest.raises(
        FetchError, match=r"not in the cache, and the network is forbidden.* `audioset hub pull owner/pe"
    ):
        audioset.load("hf://owner/pets")


def test_a_push_that_cannot_be(hub: Hub, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(FetchError, match=r"hf://owner/pets: http://127\S+ answers 401 \(.*\)\. Check HF_TOKEN"):
        hugging.push(pets, "owner/pets")
    hub.failing = 501
    with pytest.raises(FetchError, match=r"answers 501 \(.*\)\. Try again later"):
        hugging.push(pets, "owner/pets")
    hub.close()
    with pytest.raises(FetchError, match=r"did not do as it should \(.*refused\); expected a Hub"):
        hugging.push(pets, "owner/pets")
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    with pytest.raises(FetchError, match=r"cannot be pushed to while the network is forbidden"):
        hugging.push(pets, "owner/pets")


def test_a_push_that_fails_half_way_can_be_run_again(hub: Hub, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("huggingface_hub").HfApi
    commit = api.create_commit

    def create_commit(self: Any, **how: Any) -> Any:
        hub.failing = 501
        return commit(self, **how)

    monkeypatch.setattr(api, "create_commit", create_commit)
    with pytest.raises(FetchError, match=r"hf://owner/pets@v2: http://127\S+ did not do as it should"):
        hugging.push(pets, "owner/pets", revision="v2")
    hub.failing = None
    assert hub.repos["models/owner/pets"].files == {}
    with pytest.raises(WeightsError, match=r"no audioset model inside \(no config.json\)"):
        audioset.load("hf://owner/pets@v2")
    monkeypatch.setattr(api, "create_commit", commit)
    hugging.push(pets, "owner/pets", revision="v2")
    assert audioset.load("hf://owner/pets@v2").name == "pets"


def test_a_file_that_changed_behind_its_card_is_not_pushed(hub: Hub, pets: Path) -> None:
    upload = hugging.prepare(pets, "owner/pets")
    pets.write_bytes(pets.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match=r"pets.safetensors: has changed since its card was made"):
        hugging.send(upload)
    pets.unlink()
    with pytest.raises(WeightsError, match=r"pets.safetensors: No such file"):
        hugging.send(upload)
    assert hub.requests == []


def test_what_a_network_does_is_not_blamed_on_the_disk() -> None:
    hub = "https://hub.example.org"
    for broken in (TimeoutError(110, "Connection timed out"), socket.gaierror(-2, "Name or service not known")):
        with (
            pytest.raises(FetchError, match=rf"{hub} did not do as it should \(.*{broken.strerror}\)"),
            talking(Repository("o", "model"), hub),
        ):
            raise broken
    with pytest.raises(OutputError, match="the disk is full"), talking(Repository("o", "model"), hub):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_token_is_never_shown_and_may_end_as_lines_of_files_do(hub: Hub, pets: Path) -> None:
    calls = (lambda token: hugging.push(pets, "o/n", token=token), lambda token: hugging.pull("o/n", token=token))
    for token in ("hf_a\nsecret", "hf_sécret", "hf_\0secret", " "):
        for call in calls:
            with pytest.raises(OptionError, match="token: empty, or with characters that no token has") as raised:
                call(token)
            assert "cret" not in str(raised.value)
    assert hub.requests == []
    for call in calls:
        call(f"{TOKEN}\n")


def test_what_opens_a_storage_is_not_shown() -> None:
    error = ValueError("403 Forbidden for url 'https://s3.example.org/a/b?X-Amz-Signature=abc&Expires=9' (Request 3)")
    assert reason(error) == "403 Forbidden for url 'https://s3.example.org/a/b' (Request 3)"


def test_nothing_private_goes_to_a_public_repository(hub: Hub, pets: Path) -> None:
    hub.repo("models/owner/pets")
    with pytest.raises(OptionError, match=r"hf://owner/pets: there already and public; expected a private repository"):
        hugging.push(pets, "owner/pets", private=True)
    assert hub.repos["models/owner/pets"].files == {}
    hugging.push(pets, "owner/mine", private=True)
    assert hub.repos["models/owner/mine"].private
    hugging.push(pets, "owner/mine", private=True)  # again


def test_an_endpoint_is_https_or_this_machine(pets: Path) -> None:
    for call in (lambda: hugging.pull("o/n", endpoint="http://hub.example.org"), lambda: push_to(pets)):
        with pytest.raises(OptionError, match=r"endpoint http://hub.example.org: not https; expected https"):
            call()


def push_to(pets: Path) -> Any:
    return hugging.push(pets, "o/n", endpoint="http://hub.example.org")


def test_a_missing_library_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "huggingface_hub" else find(name))
    for call in (lambda: audioset.load("hf://owner/pets"), lambda: hugging.push(pets, "owner/pets")):
        with pytest.raises(
            MissingExtraError, match=r"hf://owner/pets: huggingface_hub is not installed; .*`pip install"
        ):
            call()
    assert hugging.card(pets)
    assert hugging.prepare(pets, "owner/pets").sizes


def test_files_that_are_none_of_ours_are_not_pushed(tmp_path: Path, pets: Path) -> None:
    from audioset.weights import safetensors_file

    (tmp_path / "model.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(
        WeightsError, match=r"model.pth: neither safetensors nor Parquet; expected a model that `audioset"
    ):
        hugging.prepare(tmp_path / "model.pth", "owner/pets")
    with pytest.raises(WeightsError, match=r"none.safetensors: No such file"):
        hugging.prepare(tmp_path / "none.safetensors", "owner/pets")
    tensors, metadata = safetensors_file.read(pets)
    safetensors_file.write(tmp_path / "bare.safetensors", tensors, {})
    with pytest.raises(WeightsError, match=r"bare.safetensors: states no hash of its content"):
        hugging.prepare(tmp_path / "bare.safetensors", "owner/pets")
    tensors["head/biases"] = tensors["head/biases"] + 1
    safetensors_file.write(tmp_path / "changed.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match=r"changed.safetensors: content hash \w{64}; expected \w{64}"):
        hugging.prepare(tmp_path / "changed.safetensors", "owner/pets")
    about = {"classes": [["a", "a"]], "embedder": {"model": "vggish"}, "notes": {}}  # and no kind
    safetensors_file.write(tmp_path / "head.safetensors", {}, {"audioset_head": json.dumps(about)})
    with pytest.raises(WeightsError, match=r"head.safetensors: a head that cannot be used \('kind'\)"):
        hugging.prepare(tmp_path / "head.safetensors", "owner/head")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RecordError, match=r"rows.parquet: cannot be read as Parquet"):
        hugging.prepare(tmp_path / "rows.parquet", "owner/rows")

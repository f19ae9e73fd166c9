"""Files of weights: read without PyTorch, refused where they are damaged or ask for more than tensors."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file

from scav_jax.models import weights as module
from scav_jax.models.weights import WeightsError, read_weights


class Touches:
    """A pickle of it makes a folder when loaded by pickle."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def write_archive(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())


def test_tensors_of_all_kinds_are_read_as_pytorch_has_them(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "slice": base[1, 1:, ::2],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "integers": torch.arange(5),
        "parameter": torch.nn.Parameter(base),
    }
    torch.save(OrderedDict(tensors), tmp_path / "w.pt")
    arrays = read_weights(tmp_path / "w.pt").arrays
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(arrays[name].astype(np.float64), tensor.detach().double().numpy())
        assert not arrays[name].flags.writeable
    assert arrays["bfloat16"].dtype == ml_dtypes.bfloat16


def test_a_pickle_that_would_touch_a_file_does_not(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"cfg": {"x": Touches(canary)}, "model": {}}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt: expected tensors only, got a pickle that asks for posix\.mkdir"):
        read_weights(tmp_path / "evil.pt")
    assert not canary.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # it is a real one
    assert canary.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v3\n(tR.",
        b"ctorch\nload\n(S'x'\ntR.",
        pickle.dumps(np.ones(3)),
    ],
)
def test_names_beyond_tensors_are_refused(pickled, tmp_path):
    write_archive(tmp_path / "w.pt", pickled)
    with pytest.raises(WeightsError, match=r"expected tensors only, got a pickle that asks for .*: refused"):
        read_weights(tmp_path / "w.pt")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """as_strided would read memory that is not the file's."""

    class Storage:
        def __init__(self, key):
            self.key = key

    class Saver(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, value.key, "cpu", 4) if isinstance(value, Storage) else None

    class Tensor:
        def __init__(self, shape, strides, offset=0):
            self.arguments = Storage("0"), offset, shape, strides, False, OrderedDict()

        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, self.arguments

    for shape, strides, offset in (((5,), (1,), 0), ((2, 2), (4, 1), 0), ((2,), (-1,), 3), ((2,), (1,), 3)):
        with (tmp_path / "data.pkl").open("wb") as file:
            Saver(file, protocol=2).dump({"x": Tensor(shape, strides, offset)})
        write_archive(tmp_path / "w.pt", (tmp_path / "data.pkl").read_bytes())
        with pytest.raises(WeightsError, match=r"w\.pt: expected .*(storage of at least|strides)"):
            read_weights(tmp_path / "w.pt")


def test_damaged_and_foreign_files_are_named(tmp_path):
    torch.save({"x": torch.ones(1000)}, tmp_path / "whole.pt")
    save_file({"x": np.ones(1000)}, tmp_path / "whole.safetensors")
    (tmp_path / "whole.msgpack").write_bytes(msgpack_serialize({"x": np.ones(1000)}))
    for name in ("whole.pt", "whole.safetensors", "whole.msgpack"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / "cut.bin").write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError, match=r"cut\.bin: expected \.safetensors, \.msgpack or PyTorch weights: "):
            read_weights(tmp_path / "cut.bin")
    for content, message in (
        (b"", "expected .safetensors"),
        (b"<html>404</html>", "expected .safetensors"),
        (msgpack_serialize([1, 2]), "not a dict"),
        (pickle.dumps({"x": 1}, protocol=2), "before 1.6"),
    ):
        (tmp_path / "foreign.bin").write_bytes(content)
        with pytest.raises(WeightsError, match=rf"foreign\.bin: .*{message}"):
            read_weights(tmp_path / "foreign.bin")
    with pytest.raises(WeightsError, match=r"none\.pt: expected a file of weights, found none"):
        read_weights(tmp_path / "none.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=r"list\.pt: expected named arrays, got list"):
        read_weights(tmp_path / "list.pt")


def test_a_known_file_is_not_taken_for_another_model(tmp_path, monkeypatch):
    save_file({"x": np.ones(3)}, tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.known_as is None
    weights.check_model("clip-vit-b16")
    monkeypatch.setitem(module.KNOWN, weights.sha256, "clip-vit-b32")
    assert weights.known_as == "clip-vit-b32"
    weights.check_model("clip-vit-b32")
    with pytest.raises(
        WeightsError, match=r"w\.safetensors: expected weights of clip-vit-b16, got those of clip-vit-b"
    ):
        weights.check_model("clip-vit-b16")


def test_reading_weights_imports_no_torch(tmp_path):
    torch.save({"x": torch.ones(3)}, tmp_path / "w.pt")
    code = (
        "import sys; from scav_jax.models import beats, clip; from scav_jax.models.weights import read_weights; "
        f"print(read_weights({str(tmp_path / 'w.pt')!r}).arrays['x'].sum(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3.0 False\n"

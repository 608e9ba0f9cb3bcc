"""Two real processes under torchrun do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# Batch normalisation is frozen: on CPUs each process normalises its own share of the batch.
SCRIPT = """
import sys
from pathlib import Path
from dataclasses import replace
import torch
import config, data_parallel, dataset, training
from labels import semitone_to_hz

torch.set_num_threads(1)
training.has_bfloat16 = lambda device: False  # its rounding would hide a wrong mean of gradients
config.feature_config = config.FeatureConfig(sample_rate=8000, hop_samples=128, n_bins=190)
config.model_config = config.ModelConfig(harmonics=(1, 2), stem_channels=4, channels=8,
                                         n_blocks=1, recurrent_units=8, dropout=0.0)

class Windows(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        torch.manual_seed(i)
        f0_hz = torch.full((16,), float(semitone_to_hz(i % 24)))
        f0_hz[8:] = 0
        valid = torch.ones(16, dtype=torch.bool)
        return torch.randn(1, 190, 16), f0_hz, valid, (f0_hz > 0).long()

device = data_parallel.start(torch.device("cpu"))
settings = replace(config.train_config, batch_windows=8, n_loader_workers=0, weight_decay=0.0)
run = training.build_run(settings, 6, device, data_parallel.same(f"name {data_parallel.rank()}"))
run.model.eval()
seen = []
for batch in training.make_loader(Windows(), run, train=True):
    seen.append(batch[1][:, 0])
    losses = training.update(run, batch)
shown = {"name": run.name, "seen": torch.cat(seen), "model": run.model.state_dict(),
         "average": run.average.state_dict()}
torch.save(shown, Path(sys.argv[1]) / f"{data_parallel.n_processes()}_{data_parallel.rank()}.pt")
data_parallel.stop()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for command in ([sys.executable], [*torchrun, "--nproc-per-node", "2"]):
        done = subprocess.run(
            [*command, folder / "script.py", folder],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{name}.pt") for name in ("1_0", "2_0", "2_1")]


def test_each_batch_is_shared_out(results):
    one, first, second = (r["seen"].numpy() for r in results)
    assert len(one) == 24 and len(first) == len(second) == 12
    for k in range(3):  # batches of 8 windows, told apart by their pitch
        shared = np.r_[first[4 * k : 4 * k + 4], second[4 * k : 4 * k + 4]]
        assert sorted(shared) == sorted(one[8 * k : 8 * k + 8])


@pytest.mark.parametrize("part", ["model", "average"])
def test_weights_are_those_of_one_process(results, part):
    one, first, second = (r[part] for r in results)
    for name, weights in one.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], weights, rtol=1e-3, atol=1e-4)


def test_one_name_for_all(results):
    assert [r["name"] for r in results] == ["name 0"] * 3

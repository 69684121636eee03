"""The hospital's journey: the commands of docs/hospital.md, one after the other, on DICOM files that pydicom makes."""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("train.py", "evaluate.py", "conf", "data_prep", "src", "pyproject.toml")
NUM_PATIENTS, SIDE = 12, 64
PATIENT = "Mustermann^Erika"
SHORTER = {
    "train.py": ["stage.steps=2", "stage.accumulate=1", "data.batch.size=2", "data.num_workers=0",
                 "callbacks.answers=null", "callbacks.progress=false"],
    "evaluate.py": ["resamples=10", "gallery=2"],
}  # fmt: skip

pytestmark = pytest.mark.slow


def write_patient(folder: Path, number: int, spot: bool, random_of: random.Random) -> None:
    """A CT of 12 bits: air around a body, with a bright spot or without one; every other file is compressed."""
    values = np.full((SIDE, SIDE), -1000, np.int16)
    values[8:-8, 8:-8] = 40
    if spot:
        row, column = (random_of.randrange(16, 40) for _ in range(2))
        values[row : row + 8, column : column + 8] = 400
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.PatientName, made.PatientID, made.Modality = PATIENT, f"{4711 + number}", "CT"
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.WindowCenter, made.WindowWidth = 40, 1000
    made.PixelData = (values + 1024).astype(np.uint16).tobytes()
    made["PixelData"].VR = "OW"
    if number % 2:
        made.compress("1.2.840.10008.1.2.5")
    folder.mkdir(parents=True)
    made.save_as(folder / "ct.dcm", enforce_file_format=True)


def write_hospital(folder: Path) -> None:
    random_of = random.Random(0)
    with (folder / "questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "question", "answer", "patient", "age"])
        for number in range(NUM_PATIENTS):
            name, spot = str(4711 + number), number % 3 == 0
            write_patient(folder / "dicoms" / name, number, spot, random_of)
            table.writerow([f"{name}/ct.dcm", "Is there a bright spot?", ("no", "yes")[spot], name, 40 + number])
            table.writerow([f"{name}/ct.dcm", "Which modality is it?", "CT", name, 40 + number])


def steps() -> list[list[str]]:
    """The commands of the page under the heading of the steps, in words."""
    page = (ROOT / "docs/hospital.md").read_text()
    block = page.partition("## The steps")[2].partition("```bash\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.splitlines() if not line.startswith("#")]


def test_from_dicom_files_and_a_table_to_a_scored_and_exported_model(tmp_path):
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "hospital").mkdir()
    write_hospital(tmp_path / "hospital")
    commands = steps()
    assert [words[1] if words[1] != "-m" else words[3] for words in commands] == [
        "pack",
        "lint",
        "inspect",
        "train.py",
        "evaluate.py",
        "export",
        "ask",
    ]
    told = {}
    for number, words in enumerate(commands, start=1):
        print(f"\nstep {number}: {shlex.join(words)}", flush=True)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        short = SHORTER.get(words[1], [])
        done = subprocess.run(
            [sys.executable, *words[1:], *short],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout
        told[words[1] if words[1] != "-m" else words[3]] = done.stdout

    out = tmp_path / "data/hospital"
    parts = json.loads((out / "splits.json").read_text())["parts"]
    assert {name: part["groups"] for name, part in parts.items()} == {"train": 10, "validation": 1, "test": 1}
    assert {name: part["samples"] for name, part in parts.items()} == {"train": 10, "validation": 1, "test": 1}
    whole = b"".join(path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file())
    assert PATIENT.split("^")[0].encode() not in whole
    assert not [number for number in range(NUM_PATIENTS) if f'"{4711 + number}"'.encode() in whole]
    assert ".dcm" not in whole.decode("latin-1")
    assert told["lint"].count("0 wrong") == 3
    assert "validation loss" in told["train.py"]
    results = json.loads(next((tmp_path / "runs/hospital").rglob("results.json")).read_text())
    assert results["benchmarks"]["my_set"]["num_questions"] == 2
    assert (tmp_path / "hospital-model/config.json").is_file()

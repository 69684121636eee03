"""DICOM files that tests make: whatever pixels and header they ask for."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = "Mustermann^Erika"


def dataset(values: np.ndarray, **header: Any) -> Dataset:
    """A file with these pixels: frames x rows x columns, rows x columns, or rows x columns x 3 of 8 bits."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.PatientName, made.PatientID = PATIENT, "4711"
    colour = values.ndim == 3 and values.shape[-1] == 3
    made.SamplesPerPixel = 3 if colour else 1
    if colour:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    made.Rows, made.Columns = values.shape[:2] if colour else values.shape[-2:]
    if values.ndim == 3 and not colour:
        made.NumberOfFrames = len(values)
    made.BitsAllocated = made.BitsStored = 8 * values.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in header.items():
        setattr(made, name, value)
    made.HighBit = made.BitsStored - 1
    whole = values.tobytes()
    made.PixelData = whole + b"\0" * (len(whole) % 2)
    made["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    return made


def file_of(made: Dataset) -> bytes:
    """Its bytes, as a scanner writes them."""
    out = BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()

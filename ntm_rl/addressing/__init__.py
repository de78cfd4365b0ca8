"""The equations of addressing as functions on tensors, one file per paper."""

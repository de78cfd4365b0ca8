"""Agents and networks as single-step networks for ONNX Runtime and `torch.export`."""

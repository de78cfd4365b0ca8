"""Runs on the Hugging Face Hub: upload and download."""
